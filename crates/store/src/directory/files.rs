//! Files of the directory store: reading with a tag, writing durably, listing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use verdigris_core::digest::Digest;
use verdigris_core::timestamp::Timestamp;

use crate::object::{Body, ObjectMeta, Tag};

/// The parts of a tag that are read without reading the content. Every write makes a new file, so that inode and change
/// time differ between two writes of the same content (no A-B-A).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TagParts(String);

impl TagParts {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self(format!(
            "{:x}-{:x}-{:x}",
            meta.ino(),
            meta.mtime_nsec() + meta.mtime() * 1_000_000_000,
            meta.len()
        )))
    }

    pub(super) fn is_of(&self, tag: &Tag) -> bool {
        tag.0.rsplit_once('-').is_some_and(|(parts, _)| parts == self.0)
    }

    fn with(&self, content: &[u8]) -> Tag {
        Tag(format!("{}-{}", self.0, &Digest::of(content).to_string()[..16]))
    }
}

/// Content and tag.
pub(super) fn read(mut file: &File) -> io::Result<(Vec<u8>, Tag)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let tag = TagParts::of(file)?.with(&bytes);
    Ok((bytes, tag))
}

/// Writes a body to `path` durably, by moving where it is a file on the same disk. Its time becomes now, because
/// garbage collection goes by it.
pub(super) fn write(path: &Path, body: Body, root: &Path) -> io::Result<Tag> {
    match body {
        Body::Bytes(bytes) => {
            let mut file = File::create_new(path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(TagParts::of(&file)?.with(&bytes))
        }
        Body::File(source) => {
            let same_disk = fs::metadata(&source)?.dev() == fs::metadata(root)?.dev();
            if same_disk {
                fs::rename(&source, path)?;
            } else {
                fs::copy(&source, path)?;
                fs::remove_file(&source)?;
            }
            let file = File::options().write(true).open(path)?;
            rustix::fs::futimens(
                &file,
                &rustix::fs::Timestamps {
                    last_access: rustix::fs::Timespec {
                        tv_sec: 0,
                        tv_nsec: rustix::fs::UTIME_OMIT,
                    },
                    last_modification: rustix::fs::Timespec {
                        tv_sec: 0,
                        tv_nsec: rustix::fs::UTIME_NOW,
                    },
                },
            )?;
            file.sync_all()?;
            // Large files are never swapped by tag; hashing them would cost a second pass.
            Ok(TagParts::of(&file)?.with(b""))
        }
    }
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
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    parent.map_or(Ok(()), sync_folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// All objects whose key begins with `prefix`, by key.
pub(super) fn list(root: &Path, prefix: &str) -> io::Result<Vec<ObjectMeta>> {
    let deepest = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    walk(&root.join(deepest), deepest, prefix, &mut found)?;
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

fn walk(folder: &Path, key: &str, prefix: &str, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let key = if key.is_empty() { name } else { format!("{key}/{name}") };
        // An object may be deleted while the folder is walked.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let below = format!("{key}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&entry.path(), &key, prefix, found)?;
            }
        } else if key.starts_with(prefix) {
            let modified = meta
                .modified()?
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as i64);
            found.push(ObjectMeta {
                key,
                bytes: meta.len(),
                modified: Timestamp(modified),
            });
        }
    }
    Ok(())
}
