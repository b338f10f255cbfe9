//! A file's bytes, mapped into memory and shared by whoever reads them.
//!
//! Deliberately absent: checks of the content. Whoever opens a file verifies its digest first.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use stable_deref_trait::StableDeref;

/// A mapped file; clones share the mapping, the last one to go unmaps it.
#[derive(Debug, Clone)]
pub struct MappedBytes(Arc<Mmap>);

impl MappedBytes {
    /// Opens and maps a published file. Published files are never changed in place: the store writes another file and
    /// renames.
    ///
    /// # Errors
    /// What the operating system says about opening or mapping it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::map(&File::open(path)?)
    }

    /// Maps a published file that is open already.
    ///
    /// # Errors
    /// What the operating system says about mapping it.
    pub fn map(file: &File) -> io::Result<Self> {
        // SAFETY: a mapping is undefined only if the file is changed or cut while it is read. Files of a release are
        // created once, under a name that is never written again, and removed by unlinking, which keeps mapped pages.
        #[expect(
            unsafe_code,
            reason = "mapping a file is unsafe by nature; the invariant is stated above"
        )]
        let map = unsafe { Mmap::map(file)? };
        Ok(Self(Arc::new(map)))
    }
}

impl From<Arc<Mmap>> for MappedBytes {
    fn from(map: Arc<Mmap>) -> Self {
        Self(map)
    }
}

impl Deref for MappedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

// SAFETY: the bytes lie in the mapping, not in this handle: moving or cloning the handle does not move them, and they
// stay mapped while any clone lives.
#[expect(
    unsafe_code,
    reason = "the promise that Tantivy needs to read without copying; shown above"
)]
unsafe impl StableDeref for MappedBytes {}
