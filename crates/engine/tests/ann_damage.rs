//! Damaged files. A digest stands before every opening; this is about what happens when that guard is absent: a
//! truncated or foreign file is refused, and one whose references were changed is refused or searched without harm.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use support::{Built, TYPES, build, little_effort, made_vectors, rows_of};
use verdigris_engine::ann::{Ann, AnnExpectation};
use verdigris_engine::error::EngineError;
use verdigris_engine::mapped::MappedBytes;

const D: usize = 16;

fn open(folder: &Path, bytes: &[u8], expected: &AnnExpectation) -> Result<Ann, EngineError> {
    // A new file each time: a mapped file must never be written to.
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Ann::open(MappedBytes::open(file.path()).unwrap(), expected)
}

fn each_type(rows: usize, check: impl Fn(&Built, &[u8], &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let vectors = made_vectors(rows, D, 21);
    for index_type in TYPES {
        let built = build(index_type, D as u32, &vectors);
        let bytes = std::fs::read(&built.path).unwrap();
        check(&built, &bytes, folder.path());
    }
}

#[test]
fn a_truncated_or_lengthened_file_is_refused() {
    each_type(2_100, |built, bytes, folder| {
        let name = built.expected.index_type;
        let steps = (0..64).map(|i| bytes.len() * i / 64);
        for length in steps.chain(1..64).chain(bytes.len() - 64..bytes.len()) {
            if length == 0 {
                continue; // an empty file cannot be mapped at all
            }
            let error = open(folder, &bytes[..length], &built.expected).expect_err("truncated");
            assert!(
                matches!(error, EngineError::VectorFile { .. }),
                "{name} cut to {length}: {error}"
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(
            matches!(
                open(folder, &longer, &built.expected),
                Err(EngineError::VectorFile { .. })
            ),
            "{name} longer"
        );
    });
}

/// Where the links of a graph end: behind them come five numbers of it, and the vectors with their header.
fn links_end(bytes: &[u8], rows: usize, dimension: usize) -> usize {
    bytes.len() - (4 * rows * dimension + 45) - 20
}

fn refused_for(cause: &str, folder: &Path, damaged: &[u8], built: &Built, what: &str) {
    let error = open(folder, damaged, &built.expected).expect_err(what);
    let found = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        found.as_ref().is_some_and(|found| found.contains(cause)),
        "{what}: {error}: {found:?}"
    );
}

// The links of a large graph are checked by several threads, each a part of them.
#[test]
fn a_link_that_leads_to_no_row_is_found_in_each_part_of_a_large_graph() {
    const ROWS: usize = 34_000;
    const D: usize = 2;
    let built = build("HNSW32", D as u32, &made_vectors(ROWS, D, 23));
    let bytes = std::fs::read(&built.path).unwrap();
    let links_end = links_end(&bytes, ROWS, D);
    let folder = tempfile::tempdir().unwrap();
    for back in [1, 2, 500_000, 1_000_000, 1_500_000, 2_000_000, 64 * ROWS] {
        let at = links_end - 4 * back;
        for nowhere in [ROWS as i32, i32::MAX, -2] {
            let mut damaged = bytes.clone();
            damaged[at..at + 4].copy_from_slice(&nowhere.to_le_bytes());
            let what = format!("{nowhere} in link {back} from behind");
            refused_for("a link leads to no row", folder.path(), &damaged, &built, &what);
        }
    }
}

#[test]
fn a_link_that_leads_to_a_lower_level_is_found_in_each_part_of_a_large_graph() {
    const ROWS: usize = 34_000;
    const D: usize = 2;
    let built = build("HNSW32", D as u32, &made_vectors(ROWS, D, 24));
    let bytes = std::fs::read(&built.path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let links_end = links_end(&bytes, ROWS, D);
    // The links have their count before them, and that comes after where each row's begin.
    let links = (64 * ROWS..)
        .find(|links| number(links_end - 4 * links - 8) == *links)
        .unwrap();
    let links_begin = links_end - 4 * links;
    let offset = |row: usize| number(links_begin - 8 - 8 * (ROWS + 1 - row));
    let is_above = |row: usize| offset(row + 1) - offset(row) > 64;
    let below = (0..ROWS).find(|row| !is_above(*row)).unwrap() as i32;
    let folder = tempfile::tempdir().unwrap();
    let first_of_part = |part: usize| (part * ROWS / 8..ROWS).find(|row| is_above(*row)).unwrap();
    let rows = (0..8)
        .map(first_of_part)
        .chain((0..ROWS).rev().find(|row| is_above(*row)));
    for row in rows {
        let at = links_begin + 4 * (offset(row) + 64);
        let mut damaged = bytes.clone();
        damaged[at..at + 4].copy_from_slice(&below.to_le_bytes());
        let cause = "a link leads to a lower level";
        refused_for(cause, folder.path(), &damaged, &built, &format!("row {row}"));
    }
}

// The letters say what the rows of a graph are, and what follows must be that.
#[test]
fn a_graph_whose_letters_are_those_of_the_other_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = made_vectors(2_100, D, 25);
    for (index_type, letters, others, cause) in [
        ("HNSW32", b"IHNf", b"IHNs", "the graph has no codes"),
        ("HNSW32,SQ8,RFlat", b"IHNs", b"IHNf", "the exact vectors are not Flat"),
    ] {
        let built = build(index_type, D as u32, &vectors);
        let mut damaged = std::fs::read(&built.path).unwrap();
        let at = damaged.windows(4).position(|window| window == letters).unwrap();
        damaged[at..at + 4].copy_from_slice(others);
        refused_for(cause, folder.path(), &damaged, &built, index_type);
    }
}

#[test]
fn garbage_and_other_structures_of_faiss_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let expected = AnnExpectation {
        index_type: "Flat".parse().unwrap(),
        dimension: 16,
        rows: 10,
    };
    let mut rng = SmallRng::seed_from_u64(22);
    for length in [1, 3, 4, 5, 8, 37, 45, 100, 4_096] {
        let noise: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        assert!(
            matches!(
                open(folder.path(), &noise, &expected),
                Err(EngineError::VectorFile { .. })
            ),
            "{length} bytes"
        );
    }
    // Letters that FAISS knows and the allow-list does not: binary, LSH, pre-transform, id map, on-disk lists, graphs of
    // other codes.
    for letters in [
        "IBxF", "IxHe", "IxPT", "IxMp", "IxM2", "IwPQ", "INSf", "Ixrq", "null", "ilod", "IHNp", "IHN2", "IHNc", "IHNf",
        "IHNs", "IxRF",
    ] {
        let bytes: Vec<u8> = letters.bytes().chain([0; 4_096]).collect();
        assert!(
            matches!(
                open(folder.path(), &bytes, &expected),
                Err(EngineError::VectorFile { .. })
            ),
            "{letters}"
        );
    }
}

// Sizes that a file cannot hold must not reserve memory: each 8 bytes that are a count are set to something huge.
#[test]
fn a_count_that_the_file_cannot_hold_is_refused() {
    each_type(2_100, |built, bytes, folder| {
        let rows = u64::from(built.expected.rows).to_le_bytes();
        let counts: Vec<usize> = bytes
            .windows(8)
            .enumerate()
            .filter(|(_, w)| *w == rows)
            .map(|(at, _)| at)
            .collect();
        assert!(!counts.is_empty());
        for at in counts {
            for huge in [1 << 33, 1 << 39, u64::MAX / 4, u64::MAX] {
                let mut damaged = bytes.to_vec();
                damaged[at..at + 8].copy_from_slice(&huge.to_le_bytes());
                let name = built.expected.index_type;
                let Err(EngineError::VectorFile { source }) = open(folder, &damaged, &built.expected) else {
                    panic!("{name} count at {at} set to {huge} was taken");
                };
                // Nothing may be reserved first: that this machine has too little memory is no check.
                let told = source.to_string().contains("a count exceeds the file");
                assert!(told || huge == u64::MAX, "{name} count at {at} set to {huge}: {source}");
            }
        }
    });
}

// Sampled bytes of the description and of the links, to each of several values. What opens must search without harm.
#[test]
fn changed_bytes_are_refused_or_searched_without_harm() {
    let queries = made_vectors(3, D, 24);
    each_type(2_100, |built, bytes, folder| {
        let mut rng = SmallRng::seed_from_u64(23);
        let near_start = 0..bytes.len().min(300);
        let anywhere: Vec<usize> = (0..300).map(|_| rng.random_range(0..bytes.len())).collect();
        let (mut refused, mut opened) = (0, 0);
        for at in near_start.chain(anywhere) {
            let mut damaged = bytes.to_vec();
            damaged[at] = match at % 3 {
                0 => 0xff,
                1 => damaged[at] ^ 0x80,
                _ => damaged[at].wrapping_add(1),
            };
            match open(folder, &damaged, &built.expected) {
                Err(_) => refused += 1,
                Ok(ann) => {
                    opened += 1;
                    for query in rows_of(&queries, D) {
                        assert_eq!(ann.search(query, &little_effort(10), None).unwrap().len(), 10);
                    }
                }
            }
        }
        assert!(
            refused > 20 && opened > 100,
            "{}: {refused} refused, {opened} opened",
            built.expected.index_type
        );
    });
}
