//! The rules of the house that a program can check: edges between crates, files, words, links, invariants.
//!
//! Deliberately absent: what clippy and rustfmt check already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which packages of ours a package may import. Imports go downwards only.
const EDGES: [(&str, &[&str]); 13] = [
    ("verdigris-core", &[]),
    ("verdigris-runtime", &[]),
    ("verdigris-proto", &[]),
    ("verdigris-engine", &["core"]),
    ("verdigris-embed", &["core"]),
    ("verdigris-store", &["core"]),
    ("verdigris-bus", &["core"]),
    (
        "verdigris-indexer",
        &["core", "runtime", "proto", "engine", "embed", "store", "bus"],
    ),
    // The own tests of these two start the executable.
    ("verdigris-controller", &["core", "runtime", "proto", "store", "tests"]),
    (
        "verdigris-search",
        &["core", "runtime", "proto", "engine", "embed", "store", "tests"],
    ),
    (
        "verdigris",
        &[
            "core",
            "runtime",
            "proto",
            "engine",
            "embed",
            "store",
            "bus",
            "indexer",
            "search",
            "controller",
        ],
    ),
    (
        "verdigris-tests",
        &[
            "core",
            "runtime",
            "proto",
            "engine",
            "embed",
            "store",
            "bus",
            "indexer",
            "search",
            "controller",
        ],
    ),
    ("verdigris-bench", &["core", "proto", "engine", "embed", "store", "bus"]),
];

/// Code lines that a file may have.
const FILE_CODE_LINES_MAX: usize = 500;

/// Invariants that lack their part, their test or their metric. This list may only shrink.
const INVARIANTS_NOT_YET_BUILT: [&str; 0] = [];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
        {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if entry.is_dir() && !name.starts_with('.') && name != "target" && name != "verdigris-data" {
                folders.push(entry);
            } else if entry.extension().is_some_and(|found| found == extension) {
                found.push(entry);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn check(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn packages_import_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    let mut problems = Vec::new();
    for path in files("toml").iter().filter(|path| path.ends_with("Cargo.toml")) {
        let manifest: toml::Table = read(path).parse().expect("TOML");
        let Some(package) = manifest.get("package") else {
            continue;
        };
        let name = package["name"].as_str().expect("a name");
        let Some(allowed) = allowed.get(name) else {
            problems.push(format!("{}: package {name} has no line in EDGES", shown(path)));
            continue;
        };
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for dependency in dependencies.keys().filter_map(|key| key.strip_prefix("verdigris-")) {
                if !allowed.contains(&dependency) {
                    problems.push(format!("{}: {name} may not import verdigris-{dependency}", shown(path)));
                }
            }
        }
    }
    check(problems);
}

#[test]
fn every_source_file_says_what_it_is_for_and_is_not_too_long() {
    let mut problems = Vec::new();
    for path in files("rs").iter().filter(|path| !shown(path).contains("generated")) {
        let text = read(path);
        if !text.starts_with("//!") {
            problems.push(format!("{}: does not open with //!", shown(path)));
        }
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = product.lines().filter(is_code).count();
        if lines > FILE_CODE_LINES_MAX {
            problems.push(format!(
                "{}: {lines} code lines, at most {FILE_CODE_LINES_MAX}",
                shown(path)
            ));
        }
    }
    check(problems);
}

#[test]
fn every_source_file_is_reached_from_a_crate_root() {
    let mut problems = Vec::new();
    for path in files("rs")
        .into_iter()
        .filter(|path| !shown(path).contains("generated/"))
    {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let folder = path.parent().expect("a folder");
        let is_root = ["src", "tests", "examples", "benches"]
            .iter()
            .any(|root| folder.ends_with(root))
            && (["lib", "main", "build"].contains(&name.as_str()) || !folder.ends_with("src"));
        if is_root || name == "build" {
            continue;
        }
        let (module, parent) = if name == "mod" {
            (
                folder.file_name().expect("a name").to_string_lossy().into_owned(),
                folder.parent().expect("a folder"),
            )
        } else {
            (name, folder)
        };
        let declared = |file: PathBuf| {
            fs::read_to_string(file).is_ok_and(|text| {
                let wanted = format!("mod {module};");
                text.lines().any(|line| line.trim().ends_with(&wanted)) || text.contains(&format!("\"{module}.rs\""))
            })
        };
        let beside = parent.with_extension("rs");
        let roots = ["mod.rs", "lib.rs", "main.rs"].map(|root| parent.join(root));
        let siblings = fs::read_dir(parent)
            .expect("readable")
            .map(|entry| entry.expect("readable").path());
        // A folder that several roots share is named by path.
        let by_path = format!(
            "\"{}\"",
            shown(&path)
                .rsplit('/')
                .take(2)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("/")
        );
        let above = parent
            .parent()
            .and_then(|above| fs::read_dir(above).ok())
            .into_iter()
            .flatten();
        let is_shared = above
            .filter_map(|entry| fs::read_to_string(entry.expect("readable").path()).ok())
            .any(|text| text.contains(&by_path));
        if !is_shared && !declared(beside) && !roots.into_iter().chain(siblings).any(declared) {
            problems.push(format!("{}: no crate root declares it", shown(&path)));
        }
    }
    check(problems);
}

#[test]
fn nothing_is_left_unfinished_without_saying_what_it_waits_for() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut problems = Vec::new();
    for extension in ["rs", "md", "proto", "sh", "cpp", "py", "toml"] {
        for path in files(extension) {
            for (n, line) in read(&path).lines().enumerate() {
                let waits = line.contains("waits for");
                if marks.iter().any(|mark| contains_word(line, mark)) && !waits {
                    problems.push(format!(
                        "{}:{}: unfinished, and does not say what it waits for",
                        shown(&path),
                        n + 1
                    ));
                }
            }
        }
    }
    check(problems);
}

#[test]
fn only_the_engine_uses_unsafe() {
    let mut problems = Vec::new();
    for path in files("rs") {
        let (place, text) = (shown(&path), read(&path));
        let is_root = place.ends_with("src/lib.rs") || place.ends_with("src/main.rs");
        if is_root && !place.starts_with("crates/engine") && !text.contains("#![forbid(unsafe_code)]") {
            problems.push(format!("{place}: does not forbid unsafe code"));
        }
    }
    check(problems);
}

#[test]
fn words_that_the_glossary_bans_are_not_used() {
    let glossary = read(&root().join("docs/glossary.md"));
    let banned: Vec<(String, String)> = glossary
        .lines()
        .skip_while(|line| !line.starts_with("<!-- banned"))
        .skip(1)
        .take_while(|line| !line.starts_with("-->"))
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(a, b)| (a.trim().to_lowercase(), b.trim().to_owned()))
        })
        .collect();
    assert!(!banned.is_empty(), "docs/glossary.md has no list of banned words");
    let mut problems = Vec::new();
    for path in files("rs").into_iter().chain(files("md")).chain(files("proto")) {
        if path.ends_with("glossary.md") || path.ends_with("tidy.rs") {
            continue;
        }
        for (n, line) in read(&path).to_lowercase().lines().enumerate() {
            for (word, instead) in banned.iter().filter(|(word, _)| contains_word(line, word)) {
                problems.push(format!("{}:{}: \"{word}\": say {instead}", shown(&path), n + 1));
            }
        }
    }
    check(problems);
}

fn contains_word(line: &str, word: &str) -> bool {
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    line.match_indices(word)
        .any(|(at, _)| boundary(line[..at].chars().next_back()) && boundary(line[at + word.len()..].chars().next()))
}

#[test]
fn every_invariant_has_a_check_a_test_and_a_metric_or_waits_in_the_list() {
    let table = read(&root().join("docs/invariants.md"));
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| I-")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let id = cells[0].to_owned();
        let waits = INVARIANTS_NOT_YET_BUILT.contains(&id.as_str());
        let empty = cells.iter().skip(2).any(|cell| *cell == "-" || cell.is_empty());
        if empty && !waits {
            problems.push(format!("docs/invariants.md: {id} lacks its check, test or metric"));
        }
        for test in cells
            .get(3)
            .into_iter()
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        {
            let name = test.rsplit("::").next().unwrap_or(test);
            if !waits
                && !files("rs")
                    .iter()
                    .any(|path| read(path).contains(&format!("fn {name}(")))
            {
                problems.push(format!(
                    "docs/invariants.md: {id} names the test {name}, which does not exist"
                ));
            }
        }
        seen.insert(id);
    }
    for n in 1..=20 {
        if !seen.contains(&format!("I-{n}")) {
            problems.push(format!("docs/invariants.md: I-{n} has no line"));
        }
    }
    check(problems);
}

#[test]
fn links_and_make_targets_in_documents_exist() {
    let makefile = read(&root().join("Makefile"));
    let mut problems = Vec::new();
    for path in files("md") {
        let text = read(&path);
        let folder = path.parent().expect("a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://") || target.contains(' ');
            if !outside && !folder.join(target).exists() {
                problems.push(format!("{}: link to {link}, which does not exist", shown(&path)));
            }
        }
        for command in text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|code| code.strip_prefix("make "))
        {
            let target = command.split_whitespace().next().unwrap_or_default();
            if target.starts_with(|c: char| c.is_ascii_lowercase()) && !makefile.contains(&format!("\n{target}:")) {
                problems.push(format!("{}: make {target} does not exist", shown(&path)));
            }
        }
    }
    check(problems);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let folders = ["work", "farm", "root"].map(|folder| format!("/{folder}/"));
    let mut problems = Vec::new();
    for extension in ["rs", "md", "toml", "proto", "sh", "py", "cpp", "yaml", "json", "jsonl"] {
        for path in files(extension) {
            for (n, line) in read(&path).lines().enumerate() {
                for folder in &folders {
                    let absolute = line
                        .match_indices(folder.as_str())
                        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}$)*".contains(c)));
                    if absolute {
                        problems.push(format!("{}:{}: a path of one machine", shown(&path), n + 1));
                    }
                }
            }
        }
    }
    check(problems);
}
