//! `rows.tar`: the files of a one-segment Tantivy index, one behind the other, read in place.
//!
//! Deliberately absent: unpacking. The archive is mapped, and each file is a slice of the mapping.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::directory::error::{DeleteError, OpenReadError, OpenWriteError};
use tantivy::directory::{Directory, FileHandle, OwnedBytes, WatchCallback, WatchHandle, WritePtr};

use crate::mapped::MappedBytes;

/// Files of a Tantivy directory that mean nothing after it is written: its own list of files, and locks.
const LEFT_OUT: [&str; 3] = [".managed.json", ".tantivy-writer.lock", ".tantivy-meta.lock"];
/// Read and write for the owner, read for all.
const MODE: u32 = 0o644;

/// Packs the files `first` and then every file of `dir`, by name, into an uncompressed tar without times or owners, so that equal
/// rows give equal bytes. `rename` changes names and, in files that end in `.json`, the text.
pub(crate) fn pack(
    dir: &Path,
    out: impl Write,
    first: &[(&str, &[u8])],
    rename: impl Fn(&str) -> String,
) -> io::Result<()> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !LEFT_OUT.contains(&name.as_str()) {
            files.insert(rename(&name), entry.path());
        }
    }
    let mut archive = tar::Builder::new(out);
    for (name, bytes) in first {
        append(&mut archive, name, bytes.len() as u64, *bytes)?;
    }
    for (name, path) in files {
        if name.ends_with(".json") {
            let text = rename(&fs::read_to_string(path)?);
            append(&mut archive, &name, text.len() as u64, text.as_bytes())?;
        } else {
            let file = fs::File::open(path)?;
            append(&mut archive, &name, file.metadata()?.len(), file)?;
        }
    }
    archive.into_inner()?.flush()
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: u64, from: impl io::Read) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(MODE);
    header.set_mtime(0);
    header.set_cksum();
    archive.append_data(&mut header, name, from)
}

/// A read-only Tantivy directory over a mapped archive.
#[derive(Clone)]
pub(crate) struct ArchiveDirectory {
    bytes: OwnedBytes,
    files: Arc<BTreeMap<PathBuf, Range<usize>>>,
}

impl ArchiveDirectory {
    /// Reads the archive's headers.
    pub(crate) fn open(bytes: MappedBytes) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        // With seeking, only the headers are read, not the files between them.
        for entry in tar::Archive::new(io::Cursor::new(&bytes[..])).entries_with_seek()? {
            let entry = entry?;
            let start = usize::try_from(entry.raw_file_position()).map_err(io::Error::other)?;
            let length = usize::try_from(entry.size()).map_err(io::Error::other)?;
            let end = start.checked_add(length).filter(|end| *end <= bytes.len());
            let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
            files.insert(entry.path()?.into_owned(), start..end);
        }
        Ok(Self {
            bytes: OwnedBytes::new(bytes),
            files: Arc::new(files),
        })
    }

    /// One file's bytes, when it is there.
    pub(crate) fn file(&self, name: &Path) -> Option<OwnedBytes> {
        self.files.get(name).map(|range| self.bytes.slice(range.clone()))
    }

    fn read(&self, path: &Path) -> Result<OwnedBytes, OpenReadError> {
        self.file(path)
            .ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_owned()))
    }
}

impl fmt::Debug for ArchiveDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveDirectory")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn read_only() -> io::Error {
    io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "rows are never changed after they are written",
    )
}

impl Directory for ArchiveDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(self.read(path)?))
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.files.contains_key(path))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        Ok(self.read(path)?.to_vec())
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError {
            io_error: Arc::new(read_only()),
            filepath: path.to_owned(),
        })
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::wrap_io_error(read_only(), path.to_owned()))
    }

    fn atomic_write(&self, _path: &Path, _data: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, _callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
