//! The marker file, by which a folder is known as a store of this format, and everything else as not.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::LOCK;
use super::scratch::TEMPORARY;
use crate::error::StoreError;

/// What the marker file says.
const FORMAT: &str = "verdigris store 1";
const MARKER: &str = ".verdigris-store";

/// Checks the folder's format, or makes it a store when there is nothing in it; the mode that files have there.
pub(super) fn open(root: &Path) -> Result<u32, StoreError> {
    let shown = root.display().to_string();
    let failed = |source| StoreError::of(&shown, source);
    let marker = root.join(MARKER);
    match fs::read_to_string(&marker) {
        Ok(found) if found.trim() == FORMAT => {}
        Ok(found) => {
            let (found, known) = (found.trim().to_owned(), FORMAT.to_owned());
            return Err(StoreError::Format {
                path: shown,
                found,
                known,
            });
        }
        // A path through a file gives this error as well.
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(StoreError::Foreign { path: shown }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(root).map_err(failed)?;
            if !is_only_ours(root).map_err(failed)? {
                return Err(StoreError::Foreign { path: shown });
            }
            write_marker(root).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(fs::metadata(&marker).map_err(failed)?.permissions().mode() & 0o777)
}

/// Whether a crash between making the folder and writing the marker explains what is there.
fn is_only_ours(root: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if name != TEMPORARY && name != LOCK && !name.to_string_lossy().starts_with(MARKER) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whole or not at all: a marker that a power cut left empty would make the folder a foreign one.
fn write_marker(root: &Path) -> io::Result<()> {
    let temporary = root.join(format!("{MARKER}.{:016x}", rand::random::<u64>()));
    let mut file = File::create_new(&temporary)?;
    file.write_all(format!("{FORMAT}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, root.join(MARKER))?;
    File::open(root)?.sync_all()
}
