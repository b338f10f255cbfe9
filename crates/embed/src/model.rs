//! The model's files: where they are, whether they are the right ones, and how they come.
//!
//! Weights, tokenizer and configuration are pinned by sha256, so a cache folder either holds the model or it does not.
//! Which folder that is decides the caller.

mod fetch;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::EmbedError;

pub use fetch::{FETCH_SECONDS_MAX, FetchStep, fetch, install};

/// The model, as its makers call it.
pub const MODEL: &str = "all-MiniLM-L6-v2";
/// Its folder within the cache folder.
const FOLDER: &str = "all-minilm-l6-v2";
/// Remembers size and time of files whose sha256 was right, so that a start need not read 90 MB twice.
const MARKER: &str = "verified";
/// The model's name in its own configuration.
const CONFIG_NAME: &str = "nreimers/MiniLM-L6-H384-uncased";

/// A file whose content is known.
#[derive(Debug)]
struct Pinned {
    name: &'static str,
    bytes: u64,
    sha256: &'static str,
}

/// Configuration first: it tells another model from a damaged one.
const FILES: [Pinned; 3] = [
    Pinned {
        name: "config.json",
        bytes: 612,
        sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    },
    Pinned {
        name: "tokenizer.json",
        bytes: 466_247,
        sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    Pinned {
        name: "model.safetensors",
        bytes: 90_868_376,
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
];

/// A model whose files were found to be the right ones. Only [`locate`], [`fetch`] and [`install`] make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    weights: PathBuf,
    tokenizer: PathBuf,
    dir: PathBuf,
}

impl ModelFiles {
    fn in_folder(dir: PathBuf) -> Self {
        Self {
            weights: dir.join(FILES[2].name),
            tokenizer: dir.join(FILES[1].name),
            dir,
        }
    }

    /// The folder that holds them.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The weights, in safetensors format.
    pub(crate) fn weights(&self) -> &Path {
        &self.weights
    }

    /// The tokenizer's description.
    pub(crate) fn tokenizer(&self) -> &Path {
        &self.tokenizer
    }
}

/// The sha256 of weights and tokenizer.
pub(crate) fn digests() -> [&'static str; 2] {
    [FILES[2].sha256, FILES[1].sha256]
}

/// Finds the model in `cache_dir` and verifies it: by sha256 the first time, later by size and time of the files.
///
/// Errors say what is wrong (missing, damaged, another model) and which command puts it right. Blocks.
pub fn locate(cache_dir: &Path) -> Result<ModelFiles, EmbedError> {
    let dir = cache_dir.join(FOLDER);
    if !FILES.iter().all(|file| dir.join(file.name).is_file()) {
        return Err(EmbedError::ModelMissing { dir });
    }
    let seen = fingerprint(&dir)?;
    let marker = dir.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|known| known == seen) {
        return Ok(ModelFiles::in_folder(dir));
    }
    verify(&dir)?;
    // A folder that cannot be written costs the sha256 at each start, nothing else.
    if let Err(error) = fs::write(&marker, seen) {
        tracing::debug!(path = %marker.display(), %error, "cannot note that the model is verified");
    }
    Ok(ModelFiles::in_folder(dir))
}

/// Compares every file with its pinned sha256.
fn verify(dir: &Path) -> Result<(), EmbedError> {
    for file in &FILES {
        let path = dir.join(file.name);
        let found = sha256(&path)?;
        if found == file.sha256 {
            continue;
        }
        if file.name == "config.json"
            && let Some(found) = other_model(&path)
        {
            return Err(EmbedError::ModelWrong { path, found });
        }
        return Err(EmbedError::ModelDamaged {
            path,
            expected: file.sha256,
            found,
        });
    }
    Ok(())
}

/// The name in a configuration that is whole and of another model.
fn other_model(path: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let name = config.get("_name_or_path")?.as_str()?;
    (name != CONFIG_NAME).then(|| name.to_owned())
}

/// Size and modification time of every file, and what they are expected to be.
fn fingerprint(dir: &Path) -> Result<String, EmbedError> {
    let mut text = String::new();
    for file in &FILES {
        let path = dir.join(file.name);
        let read = || {
            let metadata = fs::metadata(&path)?;
            let modified = metadata
                .modified()?
                .duration_since(UNIX_EPOCH)
                .map_err(io::Error::other)?;
            Ok((metadata.len(), modified.as_nanos()))
        };
        let (bytes, modified) = read().map_err(in_file("read", &path))?;
        text += &format!("{} {bytes} {modified} {}\n", file.name, file.sha256);
    }
    Ok(text)
}

fn sha256(path: &Path) -> Result<String, EmbedError> {
    let read = || {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                count => hasher.update(&buffer[..count]),
            }
        }
    };
    read().map_err(in_file("read", path))
}

/// Writes a file that is on disk when this returns.
fn write_synced(path: &Path, mut content: impl Read) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    io::copy(&mut content, &mut file)?;
    file.flush()?;
    file.sync_all()
}

fn in_file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbedError {
    move |source| EmbedError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
