//! Where tests keep what is dear to make and may be lost at any time: vectors of real texts, a stock FAISS.
//!
//! Deliberately absent: anything that a test's outcome depends on. With an empty folder a test is slower, or is skipped.

use std::fs;
use std::path::{Path, PathBuf};

/// The place of `name`, in the cache folder or else in the target folder; its folder is there.
pub(crate) fn path(name: &str) -> PathBuf {
    let cache = std::env::var_os("VERDIGRIS_CACHE").map(PathBuf::from);
    let root = cache.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("a running test has a path");
        let target = test.ancestors().nth(3).expect("tests lie in TARGET/PROFILE/deps");
        target.to_owned()
    });
    let folder = root.join("tests");
    fs::create_dir_all(&folder).expect("the cache folder takes a folder");
    folder.join(name)
}

/// A name beside `path` that no other run uses, to be renamed to it once it is whole.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.unfinished", std::process::id()));
    PathBuf::from(name)
}
