//! Damaged objects are found before anybody opens them (I-16), on this machine and behind a remote store.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::{FileEntry, Manifest};
use verdigris_core::pointer::Pointer;
use verdigris_store::directory::DirectoryStore;
use verdigris_store::faults::{Call, Fault, FaultyStore, Operation};
use verdigris_store::fetch::{VerifiedFiles, leased_release_files, release_files, verify_release};
use verdigris_store::memory::MemoryStore;
use verdigris_store::{Body, Part, Precondition, ReadError, Store, StoreError, Tag, collection, digest_of_file, keys};

use crate::world::{claim, create, draft, head, name, publish};

/// A collection with two releases.
async fn two_releases(store: &dyn Store) -> (Pointer, Manifest) {
    let scratch = tempfile::tempdir().expect("temporary folder");
    create(store).await;
    let pointer = claim(store, "a", "claim").await.expect("claimed");
    let first = draft(&head(store, &pointer).await, "a", "first");
    publish(store, &first, 1, scratch.path(), None)
        .await
        .expect("published");
    let second = draft(&first.edited.manifest, "a", "second");
    let pointer = publish(store, &second, 1, scratch.path(), None)
        .await
        .expect("published");
    (pointer, second.edited.manifest)
}

async fn local_store() -> (tempfile::TempDir, DirectoryStore, Pointer, Manifest) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = DirectoryStore::open(&folder.path().join("store")).expect("opened");
    let (pointer, manifest) = two_releases(&store).await;
    (folder, store, pointer, manifest)
}

/// Reads everything that the pointer names, as a reader does before it opens a release.
async fn open(store: &dyn Store) -> Result<(), ReadError> {
    let pointer = collection::pointer(store, &name()).await?.pointer;
    let active = pointer.active.expect("published");
    let manifest = collection::manifest(store, &name(), &active.manifest).await?;
    collection::settings(store, &name(), &manifest.settings).await?;
    leased_release_files(&Arc::new(VerifiedFiles::default()), store, &manifest, in_memory).await?;
    collection::dead_rows(store, &manifest).await?;
    Ok(())
}

/// Goal: no damage passes. Method: in each object that the pointer names, itself included, each byte is changed once,
/// and each end is cut off; in large objects a sample of them.
#[tokio::test]
async fn every_changed_byte_of_every_object_is_found_and_named() {
    let (_folder, store, pointer, manifest) = local_store().await;
    open(&store).await.expect("whole");
    let mut objects = vec![keys::pointer(&name())];
    objects.push(keys::object(&name(), &pointer.active.expect("named").manifest.path));
    objects.extend(verdigris_core::garbage::keys_of(&manifest).map(|path| keys::object(&name(), path)));
    objects.push(keys::settings(&name(), 1, &manifest.settings.digest));
    let mut damages = 0;
    for key in &objects {
        let path = store.local_path(key).expect("local");
        let whole = fs::read(&path).expect("read");
        let step = whole.len() / 200 + 1;
        let flipped = (0..whole.len()).step_by(step).map(|n| {
            let mut bytes = whole.clone();
            bytes[n] ^= 0x20;
            (format!("byte {n}"), bytes)
        });
        let cut = (0..whole.len())
            .step_by(step)
            .map(|n| (format!("cut at {n}"), whole[..n].to_vec()));
        let longer = std::iter::once(("longer".to_owned(), [&whole[..], b" "].concat()));
        for (what, bytes) in flipped.chain(cut).chain(longer) {
            fs::write(&path, &bytes).expect("written");
            let opened = open(&store).await;
            // In the pointer, the case of a word of JSON and the space around it carry no meaning.
            let same_meaning = key.ends_with("/latest")
                && serde_json::from_slice::<serde_json::Value>(&bytes).ok() == serde_json::from_slice(&whole).ok();
            // Behind the ranges that the manifest names, a dead rows object has nothing to damage.
            let behind = key.ends_with(".roaring") && what == "longer";
            match opened {
                Ok(()) => assert!(same_meaning || behind, "{key}, {what}: not found"),
                Err(error) => {
                    let text = error.to_string();
                    let segment = text.contains("seg-");
                    assert!(text.contains(key.as_str()) || segment, "{key}, {what}: {text}");
                }
            }
            damages += 1;
        }
        fs::remove_file(&path).expect("removed");
        let error = open(&store).await.expect_err("missing").to_string();
        assert!(error.contains("does not exist"), "{key}: {error}");
        fs::write(&path, &whole).expect("written");
    }
    open(&store).await.expect("whole again");
    println!("{damages} damages of {} objects", objects.len());
}

#[tokio::test]
async fn a_damaged_file_is_named_with_what_was_expected_and_what_was_found() {
    let (_folder, store, _, manifest) = local_store().await;
    let entry = &manifest.segments[0].files.vectors;
    let key = keys::object(&name(), &entry.path);
    let path = store.local_path(&key).expect("local");
    let mut bytes = fs::read(&path).expect("read");
    bytes[0] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let error = open(&store).await.expect_err("damaged").to_string();
    let found = digest_of_file(&path).expect("read");
    assert_eq!(
        error,
        format!(
            "{key} is damaged: its digest is {found}, the manifest says {}",
            entry.digest
        )
    );
    bytes.pop();
    fs::write(&path, &bytes).expect("written");
    let error = open(&store).await.expect_err("damaged").to_string();
    let expected = entry.bytes;
    assert_eq!(
        error,
        format!(
            "{key} is damaged: it has {} bytes, the manifest says {expected}",
            expected - 1
        )
    );
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_checked_is_checked_again() {
    let (_folder, store, _, manifest) = local_store().await;
    let files = VerifiedFiles::default();
    let entry = &manifest.segments[0].files.rows;
    let path = files.local(&store, &name(), entry).await.expect("whole");
    let modified = fs::metadata(&path).expect("there").modified().expect("a time");
    let mut bytes = fs::read(&path).expect("read");
    bytes[3] ^= 1;
    fs::write(&path, &bytes).expect("written");
    fs::File::options()
        .write(true)
        .open(&path)
        .expect("open")
        .set_modified(modified)
        .expect("set back");
    let again = files.local(&store, &name(), entry).await;
    assert!(matches!(again, Err(ReadError::Digest { .. })), "{again:?}");
    files.forget_missing();
}

/// A mapping, as far as tests need one.
pub(crate) fn in_memory(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn not_what_is_there(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = in_memory(file)?;
    bytes[3] ^= 1;
    Ok(bytes)
}

#[tokio::test]
async fn what_was_hashed_is_handed_on_and_nothing_else_is() {
    let (_folder, store, _, manifest) = local_store().await;
    let files = Arc::new(VerifiedFiles::default());
    let other = leased_release_files(&files, &store, &manifest, not_what_is_there).await;
    assert!(
        matches!(other, Err(ReadError::Digest { .. })),
        "the file was hashed, and other bytes handed on"
    );
    let (first, _lease) = leased_release_files(&files, &store, &manifest, in_memory)
        .await
        .expect("whole");
    for (file, entry) in first.iter().flatten().zip(
        manifest
            .segments
            .iter()
            .flat_map(|segment| [&segment.files.vectors, &segment.files.rows]),
    ) {
        let bytes = file.bytes.as_ref().expect("it was hashed just now");
        assert_eq!(Digest::of(bytes), entry.digest);
    }
    let (again, _lease) = leased_release_files(&files, &store, &manifest, in_memory)
        .await
        .expect("whole");
    for (file, before) in again.iter().flatten().zip(first.iter().flatten()) {
        assert_eq!((&file.path, &file.bytes), (&before.path, &None), "it was read again");
    }
}

#[tokio::test]
async fn objects_of_another_format_or_collection_are_refused_by_that_word() {
    let (_folder, store, pointer, _) = local_store().await;
    let key = keys::pointer(&name());
    let path = store.local_path(&key).expect("local");
    let whole = fs::read_to_string(&path).expect("read");
    fs::write(
        &path,
        whole.replacen("\"format_version\": 1", "\"format_version\": 2", 1),
    )
    .expect("written");
    let error = open(&store).await.expect_err("refused");
    let source = std::error::Error::source(&error).expect("a source").to_string();
    assert!(source.contains("format_version 2"), "{source}");
    fs::write(&path, &whole).expect("written");

    let other = "other".parse().expect("valid");
    let pointer_bytes = Bytes::from(whole.clone());
    store
        .put("other/latest", Body::Bytes(pointer_bytes), Precondition::Absent)
        .await
        .expect("copied");
    let error = collection::pointer(&store, &other)
        .await
        .expect_err("refused")
        .to_string();
    assert_eq!(
        error,
        "other/latest belongs to collection products: objects cannot be copied from one collection to another"
    );
    let reference = pointer.active.expect("named").manifest;
    let manifest = fs::read(
        store
            .local_path(&keys::object(&name(), &reference.path))
            .expect("local"),
    )
    .expect("read");
    let copied = keys::object(&other, &reference.path);
    store
        .put(&copied, Body::Bytes(manifest.into()), Precondition::Absent)
        .await
        .expect("copied");
    let misplaced = collection::manifest(&store, &other, &reference).await;
    assert!(matches!(misplaced, Err(ReadError::Misplaced { .. })), "{misplaced:?}");
}

#[tokio::test]
async fn the_newest_whole_manifest_is_found_past_damaged_ones() {
    let (_folder, store, pointer, manifest) = local_store().await;
    let newest = || async {
        let found = collection::newest_whole_manifest(&store, &name())
            .await
            .expect("listed");
        found.map(|(_, manifest)| manifest.generation)
    };
    assert_eq!(newest().await, Some(2));
    let vectors = |manifest: &Manifest, n: usize| {
        store
            .local_path(&keys::object(&name(), &manifest.segments[n].files.vectors.path))
            .expect("local")
    };
    // The second release has a segment of its own; the first one's is in both.
    let own = manifest
        .segments
        .iter()
        .position(|segment| segment.newest_generation == 2)
        .expect("its own");
    fs::write(vectors(&manifest, own), "damaged").expect("written");
    assert_eq!(newest().await, Some(1));
    fs::write(vectors(&manifest, 1 - own), "damaged").expect("written");
    assert_eq!(newest().await, None);
    fs::write(store.local_path(&keys::pointer(&name())).expect("local"), "{").expect("written");
    let error = open(&store).await.expect_err("damaged").to_string();
    assert!(
        error.contains("`verdigris doctor` names the newest whole manifest"),
        "{error}"
    );
    drop(pointer);
}

// === Remote ===

/// Counts range reads of files in front of a store in memory.
struct Counting {
    inner: Arc<MemoryStore>,
    reads: AtomicU64,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Counting {
    async fn get(
        &self,
        key: &str,
        if_none_match: Option<&verdigris_store::Tag>,
    ) -> Result<verdigris_store::Get, verdigris_store::StoreError> {
        self.inner.get(key, if_none_match).await
    }

    async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, verdigris_store::StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.inner.get_range(key, range).await
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.inner.get_part(key, range, of).await
    }

    async fn put(
        &self,
        key: &str,
        body: Body,
        precondition: Precondition,
    ) -> Result<verdigris_store::Tag, verdigris_store::StoreError> {
        self.inner.put(key, body, precondition).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<verdigris_store::ObjectMeta>, verdigris_store::StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), verdigris_store::StoreError> {
        self.inner.delete(key).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[tokio::test]
async fn files_of_a_remote_store_are_downloaded_once_and_healed_from_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Counting {
        inner: Arc::new(MemoryStore::default()),
        reads: AtomicU64::new(0),
    };
    let (_, manifest) = two_releases(&store).await;
    let reads = || store.reads.swap(0, Ordering::SeqCst);
    reads();
    let cache = || Arc::new(VerifiedFiles::with_cache(folder.path()).expect("a folder"));
    let files = cache();
    let (first, second) = tokio::join!(
        release_files(&files, &store, &manifest),
        release_files(&files, &store, &manifest)
    );
    let (paths, same) = (first.expect("whole"), second.expect("whole"));
    assert_eq!(paths, same);
    assert_eq!(
        reads(),
        4,
        "two files of two segments, each downloaded once for both who asked"
    );
    release_files(&files, &store, &manifest).await.expect("whole");
    let files = cache();
    release_files(&files, &store, &manifest).await.expect("whole");
    assert_eq!(reads(), 0, "the next process finds them in the cache");

    // Damaged, cut short and missing in the cache: the store's own are whole.
    fs::write(&paths[0].0, "damaged").expect("written");
    let mut bytes = fs::read(&paths[0].1).expect("read");
    bytes[0] ^= 1;
    fs::write(&paths[0].1, bytes).expect("written");
    fs::remove_file(&paths[1].0).expect("removed");
    release_files(&files, &store, &manifest).await.expect("whole");
    assert_eq!(reads(), 3);
    for (path, entry) in [
        (&paths[0].0, &manifest.segments[0].files.vectors),
        (&paths[0].1, &manifest.segments[0].files.rows),
    ] {
        assert_eq!(digest_of_file(path).expect("read"), entry.digest);
    }

    // Damaged in the store: found, and nothing of it stays in the cache.
    let entry = &manifest.segments[1].files.rows;
    let key = keys::object(&name(), &entry.path);
    let whole = store.inner.look(&key).expect("there");
    let longer = Bytes::from([&whole[..], b"x"].concat());
    let shorter = whole.slice(..whole.len() - 1);
    let mut other = whole.to_vec();
    other[5] ^= 1;
    for damaged in [longer, shorter, other.into()] {
        store
            .inner
            .put(&key, Body::Bytes(damaged), Precondition::Any)
            .await
            .expect("written");
        fs::remove_file(&paths[1].1).ok();
        let error = cache()
            .local(&store, &name(), entry)
            .await
            .expect_err("damaged")
            .to_string();
        assert!(error.starts_with(&format!("{key} is damaged")), "{error}");
        assert!(!paths[1].1.exists(), "nobody opens it by mistake");
        assert_eq!(
            fs::read_dir(folder.path().join(".incoming")).expect("listed").count(),
            0
        );
        let verification = verify_release(&store, &manifest).await;
        assert_eq!(verification.problems.len(), 1, "{:?}", verification.problems);
    }
}

#[tokio::test]
async fn a_large_file_comes_in_ranges_through_a_store_with_faults() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    let bytes: Vec<u8> = (0..20_000_003u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let entry = FileEntry {
        path: "segments/a/vectors.faiss".to_owned(),
        bytes: bytes.len() as u64,
        digest: verdigris_core::digest::Digest::of(&bytes),
    };
    let key = keys::object(&name(), &entry.path);
    inner
        .put(&key, Body::Bytes(bytes.into()), Precondition::Absent)
        .await
        .expect("written");
    let every_other = |call: &Call<'_>| {
        (call.operation == Operation::GetRange && call.n.is_multiple_of(2)).then_some(Fault::ErrorBefore)
    };
    let store = FaultyStore::new(inner, Box::new(every_other));
    let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
    let path = files.local(&store, &name(), &entry).await.expect("whole");
    assert_eq!(digest_of_file(&path).expect("read"), entry.digest);
    assert_eq!(store.calls(), 6, "three ranges, each tried twice");
}

#[tokio::test]
async fn a_manifest_cannot_name_a_file_outside_its_store() {
    let (folder, store, _, manifest) = local_store().await;
    fs::write(folder.path().join("secret"), "x").expect("written");
    for path in ["../../secret", "/etc/passwd", ".lock"] {
        let entry = FileEntry {
            path: path.to_owned(),
            ..manifest.segments[0].files.rows.clone()
        };
        let error = VerifiedFiles::default()
            .local(&store, &name(), &entry)
            .await
            .expect_err("refused")
            .to_string();
        assert!(error.contains("is no object key"), "{path}: {error}");
    }
}
