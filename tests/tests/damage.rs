//! Damage of every kind of stored file, met by the real executable: found before use, named, and never a crash or a
//! wrong answer (I-16).
//!
//! Positions are sampled here, since each costs a start of the process; every single byte is flipped in the tests of
//! the store. The log is SQLite's own matter and is left out.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::fs;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use verdigris_tests::process::Folder;

/// Documents of a segment with a graph.
const GRAPH_DOCUMENTS: usize = 2_100;
/// Evenly spread positions of a file, beside its first and last bytes.
const SPREAD: usize = 6;

/// A folder with a segment that has a graph, an exact one, dead rows, and settings; stopped.
fn stopped_folder() -> Folder {
    let folder = Folder::new();
    let mut server = folder.up();
    folder.create_collection();
    let mut lines = String::new();
    for n in 0..GRAPH_DOCUMENTS {
        writeln!(lines, "{{\"id\":\"t-{n}\",\"title\":\"thing {n}\",\"n\":{n}}}")
            .expect("writing to a text cannot fail");
    }
    let catalog = folder.file("catalog.jsonl", lines);
    let _told = folder.run(&["ingest", &catalog, "--wait"]).with_code(0);
    let change = folder.file("change.jsonl", "{\"id\":\"t-7\",\"title\":\"thing seven\",\"n\":7}\n");
    let _told = folder.run(&["ingest", &change, "--wait"]).with_code(0);
    assert_eq!(server.stop().code(), Some(0));
    folder
}

/// What is done to the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Flip { at: usize, bit: u8 },
    CutLast,
    Extend,
    Empty,
}

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Flip { at, bit } => bytes[at] ^= 1 << bit,
            Self::CutLast => bytes.truncate(bytes.len() - 1),
            Self::Extend => bytes.push(0),
            Self::Empty => bytes.clear(),
        }
    }
}

/// One damage of each class: header, evenly spread, end, one at random, and the length.
fn damages(length: usize, seed: u64) -> BTreeSet<Damage> {
    let random = (seed % length as u64) as usize;
    let places = [0, 3, 8, 33, 44, 63, length / 2, length - 1, random];
    let spread = (1..SPREAD).map(|n| n * length / SPREAD);
    let flips = places.into_iter().chain(spread).filter(|at| *at < length);
    let mut all: BTreeSet<_> = flips
        .enumerate()
        .map(|(n, at)| Damage::Flip { at, bit: (n % 8) as u8 })
        .collect();
    all.extend([Damage::CutLast, Damage::Extend, Damage::Empty]);
    all
}

/// Damages one file in every way, and asks the executable each time.
fn check_each_damage(folder: &Folder, path: &Path, seed: u64) -> usize {
    let length = fs::metadata(path).expect("a file of the store").len() as usize;
    let mut damages = damages(length, seed);
    if path.extension().is_some_and(|extension| extension == "roaring") {
        // Manifests name ranges of it, each with its digest: what follows the last is read by nobody.
        damages.remove(&Damage::Extend);
    }
    for damage in &damages {
        // Each start claims its turn in the pointer, so what is put back is what was there just now.
        let whole = fs::read(path).expect("a file of the store");
        let mut bytes = whole.clone();
        damage.apply(&mut bytes);
        replace(path, &bytes);
        let answer = folder.run(&["search", "thing", "--top-k", "1000"]);
        let shown = format!("seed {seed}, {}, {damage:?}: {}", path.display(), answer.text);
        assert_eq!(answer.code, 1, "a refusal, no signal and no answer: {shown}");
        assert!(["DATA_DAMAGED", "UNKNOWN_FORMAT"].contains(&answer.reason()), "{shown}");
        let message = answer.json["error"]["message"].as_str().expect("an error has words");
        assert!(
            names(path).iter().any(|name| message.contains(name)),
            "it is named: {shown}"
        );
        replace(path, &whole);
    }
    damages.len()
}

/// How a message may name a file: by its own name; files of a segment with the segment.
fn names(path: &Path) -> Vec<String> {
    let text = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = text(path).expect("files have names");
    match (name.as_str(), path.parent().and_then(text)) {
        ("vectors.faiss" | "rows.tar", Some(segment)) => vec![format!("segments/{segment}/{name}")],
        _ => vec![name],
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    // A new file: objects of the store are not writable.
    fs::remove_file(path).expect("a file of the store");
    fs::write(path, bytes).expect("a file of the store");
}

/// Damages the files that `chosen` takes; afterwards the folder answers as before.
fn check_files(chosen: fn(&str) -> bool) -> usize {
    let seed = RandomState::new().hash_one("damage");
    let folder = stopped_folder();
    let question = ["search", "thing", "--mode", "words", "--top-k", "1000"];
    let before = folder.run(&question).with_code(0);
    let active = folder.run(&["releases", "show"]).with_code(0);
    let manifest = active["manifest"].to_string();
    let files = folder.files("store/products");
    let files: Vec<PathBuf> = files
        .into_iter()
        .filter(|path| chosen(&path.to_string_lossy()))
        .filter(|path| is_in_use(path, &manifest, active["generation"].as_u64()))
        .collect();
    assert!(files.len() >= 4, "all kinds are there: {files:?}");
    let tried: usize = files.iter().map(|path| check_each_damage(&folder, path, seed)).sum();
    let after = folder.run(&question).with_code(0);
    assert_eq!(before["hits"], after["hits"], "what was put back answers as before");
    tried
}

/// Whether the newest release needs the file: an older one's manifest is read only when it is asked for.
fn is_in_use(path: &Path, manifest: &str, generation: Option<u64>) -> bool {
    let name = path.file_name().expect("files have names").to_string_lossy();
    let folder = path
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    match folder.as_ref() {
        "releases" => name.starts_with(&format!("{:010}-", generation.unwrap_or_default())),
        "dead" => manifest.contains(name.as_ref()),
        "settings" | "products" => true,
        segment => manifest.contains(segment),
    }
}

#[test]
fn damaged_files_of_segments_are_found_before_they_are_opened() {
    let tried = check_files(|path| path.contains("/segments/"));
    println!("{tried} damages");
}

#[test]
fn damaged_pointers_manifests_settings_and_dead_rows_are_found_before_they_are_used() {
    let tried = check_files(|path| !path.contains("/segments/"));
    println!("{tried} damages");
}
