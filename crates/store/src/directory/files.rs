//! Files of the directory store: tags, reading, folders, listing.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, futimens};
use verdigris_core::digest::Digest;
use verdigris_core::timestamp::Timestamp;

use crate::object::{ObjectMeta, Tag};

/// Up to this length a tag holds a digest of the content too, which finds changes that went past the store. Larger
/// objects are never swapped, and hashing them would cost a second pass.
const HASHED_BYTES_MAX: u64 = 1 << 20;
/// Below this, digits of a file's time are drawn at random: the system's own steps are wider.
const RANDOM_NS: i64 = 1_000_000;

/// The parts of a tag that are read without reading the content. Every write makes a new file whose time is later than
/// that of the file before it ([`stamp`]), so that two writes of the same content differ (no A-B-A).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TagParts(String);

impl TagParts {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::of_metadata(&file.metadata()?))
    }

    fn of_metadata(meta: &Metadata) -> Self {
        Self(format!("{:x}-{:x}-{:x}", meta.ino(), modified(meta).0, meta.len()))
    }

    pub(super) fn is_of(&self, tag: &Tag) -> bool {
        tag.0.rsplit_once('-').is_some_and(|(parts, _)| parts == self.0)
    }

    fn with(&self, content: &[u8]) -> Tag {
        let is_hashed = content.len() as u64 <= HASHED_BYTES_MAX;
        let digest = if is_hashed {
            Digest::of(content).to_string()
        } else {
            String::new()
        };
        Tag(format!("{}-{}", self.0, digest.get(..16).unwrap_or_default()))
    }
}

/// When a file was last written.
pub(super) fn modified(meta: &Metadata) -> Timestamp {
    Timestamp(
        meta.mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(meta.mtime_nsec()),
    )
}

/// Content and tag.
pub(super) fn read(mut file: &File) -> io::Result<(Vec<u8>, Tag)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let tag = TagParts::of(file)?.with(&bytes);
    Ok((bytes, tag))
}

/// The tag alone.
pub(super) fn tag(mut file: &File) -> io::Result<Tag> {
    let meta = file.metadata()?;
    let mut bytes = Vec::new();
    if meta.len() <= HASHED_BYTES_MAX {
        file.read_to_end(&mut bytes)?;
        return Ok(TagParts::of_metadata(&meta).with(&bytes));
    }
    Ok(Tag(format!("{}-", TagParts::of_metadata(&meta).0)))
}

/// Gives a file that is to take the place of `before` a time later than that one's, whatever the clock says, and with
/// digits that no other file has; its tag. An inode number alone comes back at once, and the system's time only moves
/// every few milliseconds.
pub(super) fn stamp(path: &Path, before: Option<&File>) -> io::Result<Tag> {
    let file = File::options().read(true).write(true).open(path)?;
    let own = modified(&file.metadata()?).0;
    let random = own - own.rem_euclid(RANDOM_NS) + rand::random_range(0..RANDOM_NS);
    let time = match before {
        None => random,
        Some(before) => random.max(modified(&before.metadata()?).0.saturating_add(1)),
    };
    let omitted = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let time = Timespec {
        tv_sec: time.div_euclid(1_000_000_000),
        tv_nsec: time.rem_euclid(1_000_000_000),
    };
    futimens(
        &file,
        &Timestamps {
            last_access: omitted,
            last_modification: time,
        },
    )?;
    tag(&file)
}

/// Makes folders below `root` durably.
pub(super) fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|_| folder != root);
    if let Some(parent) = parent {
        make_folders(root, parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    parent.map_or(Ok(()), sync_folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// At most `limit` objects whose key begins with `prefix`, by key, after `after`.
pub(super) fn list(root: &Path, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<ObjectMeta>> {
    let deepest = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    let mut listing = Listing {
        prefix,
        after,
        limit,
        found: Vec::new(),
    };
    // No key begins with another folder's name, so that nothing outside the root is looked at.
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
    if limit > 0
        && deepest
            .strip_suffix('/')
            .is_none_or(|folders| folders.split('/').all(is_part))
    {
        listing.walk(&root.join(deepest), deepest)?;
    }
    Ok(listing.found)
}

struct Listing<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: Vec<ObjectMeta>,
}

impl Listing<'_> {
    /// Walks in the order of keys, so that a page costs its own length and not the store's.
    fn walk(&mut self, folder: &Path, base: &str) -> io::Result<()> {
        for key in entries(folder, base)? {
            if self.found.len() == self.limit {
                return Ok(());
            }
            let is_past = |after: &str| *key > *after || (key.ends_with('/') && after.starts_with(&key));
            if !self.after.is_none_or(is_past) {
                continue;
            }
            let path = folder.join(&key[base.len()..]);
            if key.ends_with('/') {
                if key.starts_with(self.prefix) || self.prefix.starts_with(&key) {
                    self.walk(&path, &key)?;
                }
            } else if key.starts_with(self.prefix) {
                match fs::symlink_metadata(&path) {
                    Ok(meta) => self.found.push(ObjectMeta {
                        key,
                        bytes: meta.len(),
                        modified: modified(&meta),
                    }),
                    // It was removed while the folder was walked.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Keys of the files of a folder and, ending in `/`, of its folders, in the order of keys.
fn entries(folder: &Path, base: &str) -> io::Result<Vec<String>> {
    let read = match fs::read_dir(folder) {
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(Vec::new()),
        read => read?,
    };
    let mut keys = Vec::new();
    for entry in read {
        let entry = entry?;
        // A name that is no text is of no object.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let kind = entry.file_type()?;
        if name.starts_with('.') || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        keys.push(format!("{base}{name}{}", if kind.is_dir() { "/" } else { "" }));
    }
    keys.sort();
    Ok(keys)
}
