//! The folder that files of a remote store are fetched into: what is half done, what is in use, and room for what comes.
//!
//! A file goes when somebody needs its room and nobody holds it. Deliberately absent: digests; the reader of a file
//! checks them, whoever wrote it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use verdigris_core::manifest::FileEntry;

/// Where files lie while they come in. One that was interrupted is gone on with.
const INCOMING: &str = ".incoming";
/// Space of the disk that a cache leaves to others.
const RESERVE_BYTES: u64 = 64 << 20;
/// How often a file is given its name, when the removal of another takes the folder away.
const PLACE_TRIES: u32 = 8;

/// A cache folder. It belongs to this process alone.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// Bytes that it may hold; none: as many as the disk has room for.
    limit: Option<u64>,
    /// Of whole files.
    bytes: AtomicU64,
    /// Files that made room for others.
    removed: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many hold a file.
    held: HashMap<PathBuf, usize>,
    /// Files that are coming in, and their bytes once they are whole.
    coming: HashMap<PathBuf, u64>,
}

/// A file of the cache that lies there for anybody to remove.
struct Loose {
    path: PathBuf,
    bytes: u64,
    modified: std::time::SystemTime,
    is_incoming: bool,
}

impl Cache {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join(INCOMING))?;
        let cache = Self {
            folder: folder.to_owned(),
            limit: None,
            bytes: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            state: Mutex::default(),
        };
        let found = cache.loose(&cache.lock())?;
        let whole = found.iter().filter(|file| !file.is_incoming);
        cache.bytes.store(whole.map(|file| file.bytes).sum(), Ordering::Relaxed);
        Ok(cache)
    }

    /// Bytes of whole files, and how many files made room for others.
    pub(crate) fn facts(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.removed.load(Ordering::Relaxed))
    }

    /// Removes a file that is damaged, if it is there.
    pub(crate) fn discard(&self, path: &Path) -> io::Result<()> {
        let bytes = length(path);
        match fs::remove_file(path) {
            Ok(()) => self.bytes.fetch_sub(bytes, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    pub(crate) fn set_limit(&mut self, bytes: u64) {
        self.limit = Some(bytes);
    }

    /// Where the file of a key lies.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key)
    }

    /// Keeps these files as long as the result lives, whether they are there already or not.
    pub(crate) fn hold(self: &Arc<Self>, paths: Vec<PathBuf>) -> Held {
        let mut state = self.lock();
        for path in &paths {
            *state.held.entry(path.clone()).or_default() += 1;
        }
        drop(state);
        Held {
            cache: self.clone(),
            paths,
        }
    }

    /// Makes room for these bytes in all, files that come in already left aside.
    pub(crate) fn make_room(&self, bytes: u64) -> io::Result<()> {
        self.make_room_in(&self.lock(), bytes)
    }

    /// Begins to fetch a file: room is made and kept for it.
    pub(crate) fn begin(self: &Arc<Self>, key: &str, entry: &FileEntry) -> io::Result<Incoming> {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(key.as_bytes())
            .update(b"\0")
            .update(entry.digest.to_string().as_bytes());
        let path = self.folder.join(INCOMING).join(&hasher.finalize().to_hex()[..32]);
        let mut state = self.lock();
        // What there is of it needs no room any more, and must not be taken for loose.
        state.coming.insert(path.clone(), entry.bytes);
        let made = self.make_room_in(&state, 0);
        if let Err(error) = made {
            state.coming.remove(&path);
            return Err(error);
        }
        drop(state);
        let cache = self.clone();
        Ok(Incoming {
            cache,
            path,
            is_placed: false,
        })
    }

    /// `bytes` more than what is coming in must fit.
    fn make_room_in(&self, state: &State, bytes: u64) -> io::Result<()> {
        let mut loose = self.loose(state)?;
        // Files grow while they come in: looked at once, a byte is either there or still to come.
        let (mut there, mut promised) = (0, 0);
        for (path, whole) in &state.coming {
            let length = length(path);
            there += length;
            promised += whole.saturating_sub(length);
        }
        let needed = promised + bytes;
        let mut free = self.free(state, there, &loose)?;
        // What was interrupted first, then what was fetched longest ago.
        loose.sort_by_key(|file| (!file.is_incoming, file.modified));
        for file in loose {
            if free >= needed {
                break;
            }
            remove(&file.path)?;
            self.removed.fetch_add(1, Ordering::Relaxed);
            if !file.is_incoming {
                self.bytes.fetch_sub(file.bytes, Ordering::Relaxed);
            }
            free += file.bytes;
        }
        if free >= needed {
            return Ok(());
        }
        let limit = self
            .limit
            .map(|limit| format!(", which may hold {limit}"))
            .unwrap_or_default();
        let folder = self.folder.display();
        let text = format!("{needed} bytes are needed and {free} are free in the cache {folder}{limit}");
        Err(io::Error::new(ErrorKind::StorageFull, text))
    }

    /// Bytes that may be written now, where files that come in have `coming` bytes by now.
    fn free(&self, state: &State, coming: u64, loose: &[Loose]) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        let free = (disk.f_bavail * disk.f_frsize).saturating_sub(RESERVE_BYTES);
        let Some(limit) = self.limit else { return Ok(free) };
        let held: u64 = state.held.keys().map(|path| length(path)).sum();
        let used = held + coming + loose.iter().map(|file| file.bytes).sum::<u64>();
        Ok(free.min(limit.saturating_sub(used)))
    }

    /// Files that nobody holds and that are not coming in.
    fn loose(&self, state: &State) -> io::Result<Vec<Loose>> {
        let incoming = self.folder.join(INCOMING);
        let (mut folders, mut found) = (vec![self.folder.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            // A damaged file may be taken away while this looks.
            let Some(entries) = if_there(fs::read_dir(&folder))? else {
                continue;
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                let Some(meta) = if_there(entry.metadata())? else {
                    continue;
                };
                if meta.is_dir() {
                    folders.push(path);
                } else if !state.held.contains_key(&path) && !state.coming.contains_key(&path) {
                    found.push(Loose {
                        bytes: meta.len(),
                        modified: meta.modified()?,
                        is_incoming: path.starts_with(&incoming),
                        path,
                    });
                }
            }
        }
        Ok(found)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Removes a file, and its folder if it was the last one there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.ends_with(INCOMING)) {
        // The system keeps one that is not empty.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Files that stay where they are as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    cache: Arc<Cache>,
    paths: Vec<PathBuf>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        for path in &self.paths {
            let count = state.held.get_mut(path);
            let is_last = count.is_some_and(|count| {
                *count -= 1;
                *count == 0
            });
            if is_last {
                state.held.remove(path);
            }
        }
    }
}

/// A file that is coming in. What there is of it when this ends is gone on with next time.
#[derive(Debug)]
pub(crate) struct Incoming {
    cache: Arc<Cache>,
    path: PathBuf,
    is_placed: bool,
}

impl Incoming {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the whole file its name. To whoever makes room it has one name at a time, and is counted once.
    pub(crate) fn place(mut self, path: &Path) -> io::Result<()> {
        let cache = self.cache.clone();
        let mut state = cache.lock();
        let mut tries = 0;
        let bytes = length(&self.path);
        loop {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            match fs::rename(&self.path, path) {
                // The folder was just removed with the last file in it.
                Err(error) if error.kind() == ErrorKind::NotFound && tries < PLACE_TRIES => tries += 1,
                Err(error) => return Err(error),
                Ok(()) => {
                    state.coming.remove(&self.path);
                    self.is_placed = true;
                    cache.bytes.fetch_add(bytes, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_placed {
            self.cache.lock().coming.remove(&self.path);
        }
    }
}
