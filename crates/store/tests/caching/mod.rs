//! The cache of a remote store: what makes room for what, what is refused, and what an interrupted download leaves.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::{FileEntry, Manifest};
use verdigris_store::faults::{Call, Fault, FaultyStore, Operation};
use verdigris_store::fetch::{VerifiedFiles, leased_release_files, release_files};
use verdigris_store::memory::MemoryStore;
use verdigris_store::{Body, Precondition, ReadError, Store, StoreError, digest_of_file, keys};

use crate::fetching::in_memory;
use crate::scheduled::at_once;
use crate::world::{claim, create, draft, head, name, publish};

/// Three releases: of a segment, of it and a second, and of the second and a third.
async fn three_releases(store: &dyn Store) -> Vec<Manifest> {
    let scratch = tempfile::tempdir().expect("temporary folder");
    create(store).await;
    let pointer = claim(store, "a", "claim").await.expect("claimed");
    let mut releases = vec![head(store, &pointer).await];
    for nonce in ["one", "two", "six"] {
        let draft = draft(releases.last().expect("one"), "a", nonce);
        publish(store, &draft, 1, scratch.path(), None)
            .await
            .expect("published");
        releases.push(draft.edited.manifest);
    }
    releases.split_off(1)
}

fn entries(manifest: &Manifest) -> Vec<&FileEntry> {
    let segments = manifest.segments.iter();
    segments
        .flat_map(|segment| [&segment.files.vectors, &segment.files.rows])
        .collect()
}

fn bytes(manifest: &Manifest) -> u64 {
    entries(manifest).iter().map(|entry| entry.bytes).sum()
}

fn is_cached(cache: &Path, entry: &FileEntry) -> bool {
    cache.join(keys::object(&name(), &entry.path)).exists()
}

#[tokio::test]
async fn a_cache_makes_room_with_what_no_release_holds_and_with_nothing_else() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = MemoryStore::default();
    let releases = three_releases(&store).await;
    let (second, third) = (&releases[1], &releases[2]);
    let limit = bytes(second);
    let files = Arc::new(VerifiedFiles::with_limited_cache(folder.path(), limit).expect("a folder"));
    let (_, lease) = leased_release_files(&files, &store, second, in_memory)
        .await
        .expect("it fits");
    let counting = FaultyStore::new(Arc::new(store), Box::new(|_| None));
    let refused = leased_release_files(&files, &counting, third, in_memory)
        .await
        .expect_err("the second is held");
    assert!(
        matches!(refused, ReadError::Store(StoreError::OutOfSpace { .. })),
        "{refused:?}"
    );
    let source = std::error::Error::source(&refused).expect("the numbers").to_string();
    assert!(
        source.contains("are needed and 0 are free") && source.contains(&limit.to_string()),
        "{source}"
    );
    assert_eq!(counting.calls(), 0, "nothing was fetched");
    assert!(entries(second).iter().all(|entry| is_cached(folder.path(), entry)));

    // Given back twice over, held once: it stays.
    let (_, again) = leased_release_files(&files, &counting, second, in_memory)
        .await
        .expect("it is there");
    drop(lease);
    assert!(leased_release_files(&files, &counting, third, in_memory).await.is_err());
    drop(again);
    let (paths, lease) = leased_release_files(&files, &counting, third, in_memory)
        .await
        .expect("room is made");
    assert_eq!(paths.len(), 2);
    assert!(entries(third).iter().all(|entry| is_cached(folder.path(), entry)));
    let gone = entries(second)
        .into_iter()
        .filter(|entry| !entries(third).contains(entry));
    assert_eq!(gone.filter(|entry| !is_cached(folder.path(), entry)).count(), 2);
    assert_eq!(counting.calls(), 2, "what both have was not fetched again");
    drop(lease);

    // The next process knows nothing of leases, and removes what it does not ask for.
    let files = Arc::new(VerifiedFiles::with_limited_cache(folder.path(), limit).expect("a folder"));
    release_files(&files, &counting, second).await.expect("room is made");
    let kept = leased_release_files(&files, &counting, third, in_memory).await;
    assert!(kept.is_err(), "files without a lease stay as long as the process does");
}

// A file that just got its name was counted twice, as one that lies there and as one that is still to come.
#[tokio::test]
async fn files_that_come_in_at_the_same_time_are_counted_once() {
    let store = MemoryStore::default();
    let release = three_releases(&store).await.remove(1);
    for round in 0..300 {
        let folder = tempfile::tempdir().expect("temporary folder");
        let files = VerifiedFiles::with_limited_cache(folder.path(), bytes(&release)).expect("a folder");
        let fetched = release_files(&Arc::new(files), &store, &release).await;
        assert!(fetched.is_ok(), "round {round}: {fetched:?}");
    }
}

#[tokio::test]
async fn a_release_that_is_larger_than_the_disk_is_refused_before_it_is_fetched() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Arc::new(MemoryStore::default());
    let mut release = three_releases(&*store).await.remove(0);
    release.segments[0].files.vectors.bytes = 1 << 60;
    let counting = FaultyStore::new(store, Box::new(|_| None));
    let files = Arc::new(VerifiedFiles::with_cache(folder.path()).expect("a folder"));
    let refused = leased_release_files(&files, &counting, &release, in_memory).await;
    assert!(matches!(refused, Err(ReadError::Store(StoreError::OutOfSpace { .. }))));
    assert_eq!(counting.calls(), 0);
}

// === Interrupted downloads ===

const LARGE: u32 = 30_000_001;

fn content() -> Vec<u8> {
    (0..LARGE)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

async fn stored(store: &dyn Store, content: &[u8]) -> (FileEntry, String) {
    let entry = FileEntry {
        path: "segments/a/vectors.faiss".to_owned(),
        bytes: content.len() as u64,
        digest: Digest::of(content),
    };
    let key = keys::object(&name(), &entry.path);
    let body = Body::Bytes(content.to_vec().into());
    store.put(&key, body, Precondition::Any).await.expect("written");
    (entry, key)
}

/// A store that gives the first ranges and then no more.
fn ending(inner: Arc<MemoryStore>) -> FaultyStore {
    let script = |call: &Call<'_>| (call.operation == Operation::GetRange && call.n >= 2).then_some(Fault::ErrorBefore);
    FaultyStore::new(inner, Box::new(script))
}

fn only_incoming(cache: &Path) -> std::path::PathBuf {
    let mut incoming = fs::read_dir(cache.join(".incoming")).expect("listed");
    let file = incoming.next().expect("one").expect("listed").path();
    assert!(incoming.next().is_none());
    file
}

#[tokio::test]
async fn a_download_that_was_interrupted_is_gone_on_with_by_the_next_process() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    let (entry, _) = stored(&*inner, &content()).await;
    let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
    let cut = files.local(&ending(inner.clone()), &name(), &entry).await;
    assert!(
        matches!(cut, Err(ReadError::Store(StoreError::NoAnswer { .. }))),
        "{cut:?}"
    );
    assert!(!is_cached(folder.path(), &entry));
    assert_eq!(
        fs::metadata(only_incoming(folder.path())).expect("there").len(),
        2 * (8 << 20)
    );

    let counting = FaultyStore::new(inner, Box::new(|_| None));
    let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
    let path = files.local(&counting, &name(), &entry).await.expect("whole");
    assert_eq!(digest_of_file(&path).expect("read"), entry.digest);
    assert_eq!(counting.calls(), 2, "two of four ranges");
    assert_eq!(
        fs::read_dir(folder.path().join(".incoming")).expect("listed").count(),
        0
    );
}

#[tokio::test]
async fn a_beginning_that_was_damaged_is_found_and_fetched_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    let (entry, key) = stored(&*inner, &content()).await;
    let interrupted = || async {
        let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
        let cut = files.local(&ending(inner.clone()), &name(), &entry).await;
        cut.expect_err("interrupted");
        only_incoming(folder.path())
    };
    for damage in [b"damaged".to_vec(), vec![0; 40_000_000]] {
        let mut beginning = fs::read(interrupted().await).expect("read");
        beginning.splice(..damage.len().min(beginning.len()), damage);
        fs::write(only_incoming(folder.path()), beginning).expect("written");
        let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
        let path = files.local(&*inner, &name(), &entry).await.expect("whole");
        assert_eq!(digest_of_file(&path).expect("read"), entry.digest);
        fs::remove_file(path).expect("removed");
    }
    // Damaged in the store as well: nothing of it stays.
    let beginning = interrupted().await;
    let mut damaged = content();
    damaged[20_000_000] ^= 1;
    inner
        .put(&key, Body::Bytes(damaged.into()), Precondition::Any)
        .await
        .expect("written");
    let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
    let error = files.local(&*inner, &name(), &entry).await;
    assert!(matches!(error, Err(ReadError::Digest { .. })), "{error:?}");
    assert!(!beginning.exists() && !is_cached(folder.path(), &entry));
}

#[tokio::test]
async fn ranges_of_two_objects_are_never_put_together() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let inner = Arc::new(MemoryStore::default());
    let (entry, key) = stored(&*inner, &content()).await;
    let replacing = inner.clone();
    let script = move |call: &Call<'_>| {
        // The same content: not even that is taken for the same object.
        let same = Body::Bytes(Bytes::from(content()));
        (call.n == 1).then(|| at_once(replacing.put(&key, same, Precondition::Any)).expect("written"));
        None
    };
    let store = FaultyStore::new(inner, Box::new(script));
    let files = VerifiedFiles::with_cache(folder.path()).expect("a folder");
    let mixed = files.local(&store, &name(), &entry).await;
    let is_named = |error: &ReadError| matches!(error, ReadError::Store(StoreError::PreconditionFailed { .. }));
    assert!(mixed.as_ref().is_err_and(is_named), "{mixed:?}");
}
