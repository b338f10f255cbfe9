//! The generated code in the repository is what `proto/` says. `UPDATE_PROTO=1` writes it anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

fn sources(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn generate() -> BTreeMap<String, Vec<u8>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let descriptors = protox::compile(sources(&proto), [&proto]).expect("proto/ compiles");
    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".")
        .compile_fds(descriptors.clone())
        .expect("code is generated");
    let mut files: BTreeMap<String, Vec<u8>> = fs::read_dir(out.path())
        .expect("readable")
        .map(|entry| entry.expect("readable"))
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                fs::read(entry.path()).expect("readable"),
            )
        })
        .collect();
    files.insert("descriptors.bin".to_owned(), descriptors.encode_to_vec());
    files
}

#[test]
fn generated_code_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let generated = generate();
    if std::env::var_os("UPDATE_PROTO").is_some() {
        for (name, content) in &generated {
            fs::write(folder.join(name), content).expect("writable");
        }
        return;
    }
    for (name, content) in &generated {
        let current = fs::read(folder.join(name)).unwrap_or_default();
        assert!(
            current == *content,
            "src/generated/{name} is not current: run `make proto`"
        );
    }
}
