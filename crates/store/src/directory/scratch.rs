//! Temporary files of a process: in a folder of its own, which it holds a lock on as long as it lives.
//!
//! The lock, and not a process id, tells the living from the dead: ids are used again, and are the same in every
//! container.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Where all temporary files lie.
pub(super) const TEMPORARY: &str = ".tmp";

/// The temporary files of one handle.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    counter: AtomicU64,
    /// Its lock goes with it.
    _lock: File,
}

/// Whether there is nothing to sweep.
pub(super) fn is_empty(root: &Path) -> bool {
    fs::read_dir(root.join(TEMPORARY)).map_or(true, |mut entries| entries.next().is_none())
}

/// Removes what processes that are gone have left. The store's lock is held, so that no folder is just being made.
pub(super) fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root.join(TEMPORARY))? {
        let path = entry?.path();
        let folder = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Scratch {
    /// A folder of its own; the store's lock is held.
    pub(super) fn make(root: &Path) -> io::Result<Self> {
        let folder = root.join(TEMPORARY).join(format!("{:016x}", rand::random::<u64>()));
        fs::create_dir_all(&folder)?;
        let lock = File::open(&folder)?;
        lock.lock()?;
        Ok(Self {
            folder,
            counter: AtomicU64::new(0),
            _lock: lock,
        })
    }

    fn next(&self) -> PathBuf {
        self.folder
            .join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A durable file of these bytes.
    pub(super) fn write(&self, bytes: &[u8], mode: u32) -> io::Result<Staged> {
        let staged = Staged(self.next());
        let mut file = File::create_new(&staged.0)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(staged)
    }

    /// The file at `source` under a second name, made durable; copied where it lies on another disk. It stays where it
    /// is until its owner removes it.
    pub(super) fn take(&self, source: &Path, mode: u32) -> io::Result<Staged> {
        let source = source.canonicalize()?;
        let staged = Staged(self.next());
        if fs::hard_link(&source, &staged.0).is_err() {
            fs::copy(&source, &staged.0)?;
        }
        let file = File::options().write(true).open(&staged.0)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        // Garbage collection goes by this time, and the file may have been written long ago.
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let omitted = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        };
        rustix::fs::futimens(
            &file,
            &rustix::fs::Timestamps {
                last_access: omitted,
                last_modification: now,
            },
        )?;
        file.sync_all()?;
        Ok(staged)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is swept by whoever opens the store next.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A whole, durable file that waits for its name; removed unless it gets one.
#[derive(Debug)]
pub(super) struct Staged(PathBuf);

impl Staged {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it a name, in the place of what has it.
    pub(super) fn place(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)
    }

    /// Gives it a name that nothing has.
    pub(super) fn place_new(self, path: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.0, CWD, path, RenameFlags::NOREPLACE) {
            // Some file systems cannot; the store's lock, which is held, keeps all others away.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !path.exists() => fs::rename(&self.0, path),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left under this name.
        let _ = fs::remove_file(&self.0);
    }
}
