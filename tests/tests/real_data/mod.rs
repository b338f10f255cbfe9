//! Real catalogs and histories, which lie beside the repository where they are there at all.
//!
//! Deliberately absent: copies of them in the repository, and what their fields mean; each test knows its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of a data set, or nothing and a word about it where it is not there.
pub(crate) fn folder(name: &str, test: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(name);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: {test}: no ../shared/data/{name}");
    None
}

/// What `gzip` unpacks from a file.
pub(crate) fn gunzipped(path: &Path) -> String {
    unpacked("gzip", path).expect("gzip is part of every system")
}

/// What `program -dc` unpacks from a file; nothing where there is no such program.
pub(crate) fn unpacked(program: &str, path: &Path) -> Option<String> {
    let output = Command::new(program).arg("-dc").arg(path).output().ok()?;
    assert!(output.status.success(), "{program} -dc {}: {output:?}", path.display());
    Some(String::from_utf8(output.stdout).expect("the data is text"))
}
