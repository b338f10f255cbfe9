//! Stored objects that are damaged, or of software that this one does not know. What each byte of them does is in the
//! test of damage.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use verdigris_tests::process::Folder;

use super::check;

/// A stopped folder with a release.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.create_collection();
    let file = folder.file("one.jsonl", "{\"id\":\"a\",\"title\":\"x\"}\n");
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    folder
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file of the store");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    replace(path, &bytes);
}

fn replace(path: &Path, bytes: &[u8]) {
    // A new file: objects of the store are not writable.
    fs::remove_file(path).expect("a file of the store");
    fs::write(path, bytes).expect("a file of the store");
}

#[test]
fn a_damaged_object_is_named_to_readers_and_to_writers() {
    for below in ["releases", "settings", "latest"] {
        let folder = folder();
        let path = folder.data().join("store/products").join(below);
        let path = if path.is_dir() {
            folder.files(&format!("store/products/{below}")).remove(0)
        } else {
            path
        };
        flip(&path);
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("objects have plain names");
        check(&folder.run(&["search", "x"]), 1, "DATA_DAMAGED", name);
        check(&folder.run(&["get", "a"]), 1, "DATA_DAMAGED", name);
        let file = folder.file("two.jsonl", "{\"id\":\"b\",\"title\":\"y\"}\n");
        let answer = folder.run(&["ingest", &file, "--wait"]);
        let reason = if answer.code == 4 {
            &answer.json["reason"]
        } else {
            &answer.json["error"]["reason"]
        };
        assert_eq!(*reason, "DATA_DAMAGED", "{below}: {}", answer.text);
        let doctor = folder.run(&["doctor"]);
        assert_eq!(doctor.code, 1, "{}", doctor.text);
        assert!(doctor.text.contains("damaged"), "{below}: {}", doctor.text);
    }
}

#[test]
fn other_format_versions_are_refused_by_name() {
    let folder = folder();
    let marker = folder.data().join("store/.verdigris-store");
    let own = fs::read(&marker).expect("the store is marked");
    replace(&marker, b"verdigris store 9\n");
    check(
        &folder.run(&["search", "x"]),
        1,
        "UNKNOWN_FORMAT",
        "\"verdigris store 9\"",
    );
    replace(&marker, &own);
    let latest = folder.data().join("store/products/latest");
    let pointer = fs::read_to_string(&latest).expect("the pointer is text");
    replace(
        &latest,
        pointer
            .replace("\"format_version\": 1", "\"format_version\": 99")
            .as_bytes(),
    );
    check(
        &folder.run(&["search", "x"]),
        1,
        "UNKNOWN_FORMAT",
        "format_version 99; this software reads 1",
    );
    replace(&latest, pointer.as_bytes());
    assert_eq!(folder.run(&["search", "x"]).code, 0);
    let bus = folder.data().join("bus.sqlite");
    let file = Connection::open(&bus).expect("the bus is a file of SQLite");
    file.pragma_update(None, "user_version", 99)
        .expect("the bus takes a version");
    drop(file);
    check(&folder.run(&["search", "x"]), 1, "UNKNOWN_FORMAT", "format version 99");
    fs::write(&bus, "no database, but text enough to look like a file of something").expect("a file of the test");
    check(&folder.run(&["search", "x"]), 1, "DATA_DAMAGED", "bus.sqlite");
}

#[test]
fn a_folder_of_something_else_is_not_taken() {
    let folder = Folder::new();
    let store = folder.data().join("store");
    fs::create_dir_all(&store).expect("the temporary folder takes a folder");
    fs::write(store.join("holiday.jpg"), "x").expect("the temporary folder takes a file");
    let refused = folder.run(&["search", "x"]);
    check(
        &refused,
        1,
        "STORE_UNAVAILABLE",
        "holds no Verdigris store; choose another folder",
    );
}
