//! The data folder of one machine: who works on it, and where things lie in it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A locked data folder; the lock goes with the process, however it ends.
pub(crate) struct Folder {
    root: PathBuf,
    lock: File,
}

/// Who works on a folder, as the lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Process id.
    pub(crate) pid: u32,
    /// Where its gRPC listens, once it does.
    pub(crate) grpc: Option<SocketAddr>,
    /// Where its administration listens, where that is a port of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<SocketAddr>,
}

/// What taking a folder came to.
pub(crate) enum Taken {
    /// It is ours now.
    Ours(Folder),
    /// A running process has it.
    Held(Option<Holder>),
}

/// A folder that another process works on.
#[derive(Debug, thiserror::Error)]
#[error("data folder {} is in use by {who}: stop it, or choose another folder with --data", folder.display())]
pub(crate) struct InUse {
    folder: PathBuf,
    who: String,
}

impl Folder {
    /// Takes a folder, made when it is not there.
    pub(crate) fn take(root: &Path) -> anyhow::Result<Taken> {
        let shown = || format!("data folder {}", root.display());
        fs::create_dir_all(root).with_context(|| format!("{} cannot be made or written", shown()))?;
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path);
        let mut lock = lock.with_context(|| format!("{} cannot be written", shown()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                lock.read_to_string(&mut text).ok();
                return Ok(Taken::Held(serde_json::from_str(&text).ok()));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error).with_context(shown),
        }
        let mut folder = Self {
            root: root.to_owned(),
            lock,
        };
        folder
            .announce(None, None)
            .with_context(|| format!("{} cannot be written", shown()))?;
        for part in ["store", "cache", "rejected", "scratch"] {
            fs::create_dir_all(root.join(part)).with_context(|| format!("{} cannot be written", shown()))?;
        }
        // What an earlier process left under work is of no use: releases name only what lies in the store.
        for entry in fs::read_dir(folder.scratch()).with_context(shown)? {
            let path = entry.with_context(shown)?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            }
            .with_context(shown)?;
        }
        Ok(Taken::Ours(folder))
    }

    /// Who works on a folder now, without touching it; nobody where there is no folder.
    pub(crate) fn holder(root: &Path) -> Option<Holder> {
        let mut lock = File::open(root.join("lock")).ok()?;
        let is_held = matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        let mut text = String::new();
        lock.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok().filter(|_| is_held)
    }

    /// Says in the lock file where gRPC listens, so that commands find it.
    pub(crate) fn announce(&mut self, grpc: Option<SocketAddr>, admin: Option<SocketAddr>) -> io::Result<()> {
        let holder = Holder {
            pid: std::process::id(),
            grpc,
            admin,
        };
        self.lock.set_len(0)?;
        self.lock.seek(io::SeekFrom::Start(0))?;
        self.lock.write_all(&serde_json::to_vec(&holder)?)?;
        self.lock.flush()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn bus(&self) -> PathBuf {
        self.root.join("bus.sqlite")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }
}

/// Refuses a folder that another process has.
pub(crate) fn take_or_refuse(root: &Path) -> anyhow::Result<Folder> {
    match Folder::take(root)? {
        Taken::Ours(folder) => Ok(folder),
        Taken::Held(holder) => {
            let who = holder.map_or("another process".to_owned(), |holder| match holder.grpc {
                Some(grpc) => format!("process {} (gRPC on {grpc})", holder.pid),
                None => format!("process {}", holder.pid),
            });
            let folder = root.to_owned();
            Err(InUse { folder, who }.into())
        }
    }
}
