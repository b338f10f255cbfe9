//! The one opener of releases in a process: files are verified once and mapped once, for indexer and search alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use roaring::RoaringBitmap;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::Manifest;
use verdigris_engine::mapped::MappedBytes;
use verdigris_engine::release::Release;
use verdigris_engine::release::open::{OpenError, OpenRelease, Opening};
use verdigris_engine::segment::{SegmentCache, SegmentPaths, SegmentSource};
use verdigris_store::fetch::{Lease, VerifiedFile, VerifiedFiles, leased_release_files};
use verdigris_store::{ReadError, Store, StoreError, collection as objects};

/// Opens releases of one store.
pub(crate) struct Opener {
    store: Arc<dyn Store>,
    files: Arc<VerifiedFiles>,
    segments: Arc<SegmentCache>,
    /// By the digest of their manifest. Of two roles that ask at the same time the second waits, and gets the first one's.
    open: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<Opened>>>>,
}

/// What has been opened of one manifest, if it was, and what keeps its files in the cache.
type Opened = Option<(Weak<Release>, Lease)>;

impl Opener {
    /// Over files of the store itself, or of a cache.
    pub(crate) fn new(store: Arc<dyn Store>, files: impl Into<Arc<VerifiedFiles>>) -> Self {
        Self {
            store,
            files: files.into(),
            segments: Arc::default(),
            open: Mutex::default(),
        }
    }

    async fn open_release(
        &self,
        manifest: Arc<Manifest>,
        previous: Option<&Arc<Release>>,
    ) -> Result<Arc<Release>, OpenError> {
        let place = self.place(Digest::of(&manifest.encode()));
        let mut opened = place.lock().await;
        if let Some(release) = opened.as_ref().and_then(|(release, _)| release.upgrade()) {
            return Ok(release);
        }
        let (files, lease) = leased_release_files(&self.files, &*self.store, &manifest, MappedBytes::map)
            .await
            .map_err(classified)?;
        let dead = self.dead_rows(&manifest, previous).await?;
        let parts = files.into_iter().map(opened_as_checked).zip(dead).collect();
        let segments = self.segments.clone();
        let release = tokio::task::spawn_blocking(move || Release::open(manifest, parts, &segments)).await;
        let release = release.map_err(|error| OpenError::Unavailable(Box::new(error)))?;
        let release = Arc::new(release.map_err(|error| OpenError::Damaged(Box::new(error)))?);
        *opened = Some((Arc::downgrade(&release), lease));
        self.files.forget_missing();
        Ok(release)
    }

    /// Where the release of a manifest is, or comes. What nobody has open any more, and nobody opens, makes room in the
    /// cache.
    fn place(&self, manifest: Digest) -> Arc<tokio::sync::Mutex<Opened>> {
        let mut open = self.open.lock().expect("no code panics while it holds this lock");
        open.retain(|_, place| {
            let is_held = Arc::strong_count(place) > 1;
            let is_open = |opened: &Opened| opened.as_ref().is_some_and(|(release, _)| release.strong_count() > 0);
            is_held || place.try_lock().is_ok_and(|opened| is_open(&opened))
        });
        open.entry(manifest).or_default().clone()
    }

    /// Dead rows by segment; those that the previous release has already are not read again.
    async fn dead_rows(
        &self,
        manifest: &Manifest,
        previous: Option<&Arc<Release>>,
    ) -> Result<Vec<Arc<RoaringBitmap>>, OpenError> {
        // What one reader hides is alive for the indexer, which opens the same release.
        let previous = previous.filter(|release| !release.is_hiding());
        let mut unread = manifest.clone();
        let known: Vec<Option<Arc<RoaringBitmap>>> = manifest
            .segments
            .iter()
            .map(|entry| {
                let previous = previous?;
                let same = previous
                    .manifest()
                    .segments
                    .iter()
                    .position(|old| old.id == entry.id && old.dead == entry.dead)?;
                Some(previous.segments()[same].dead.clone())
            })
            .collect();
        unread
            .segments
            .iter_mut()
            .zip(&known)
            .filter(|(_, known)| known.is_some())
            .for_each(|(entry, _)| entry.dead = None);
        let read = objects::dead_rows(&*self.store, &unread).await.map_err(classified)?;
        Ok(known
            .into_iter()
            .zip(read)
            .map(|(known, read)| known.unwrap_or_else(|| Arc::new(read)))
            .collect())
    }
}

impl OpenRelease for Opener {
    fn open<'a>(&'a self, manifest: Arc<Manifest>, previous: Option<&'a Arc<Release>>) -> Opening<'a> {
        Box::pin(self.open_release(manifest, previous))
    }
}

/// What was mapped to be hashed is what is opened.
fn opened_as_checked([vectors, rows]: [VerifiedFile<MappedBytes>; 2]) -> SegmentSource {
    SegmentSource {
        paths: SegmentPaths {
            vectors: vectors.path,
            rows: rows.path,
        },
        vectors: vectors.bytes,
        rows: rows.bytes,
    }
}

/// A missing object of a manifest is damage, an error of the system may pass.
fn classified(error: ReadError) -> OpenError {
    match error {
        ReadError::Store(StoreError::NotFound { .. }) => OpenError::Damaged(Box::new(error)),
        ReadError::Store(_) | ReadError::NotLocal { .. } => OpenError::Unavailable(Box::new(error)),
        _ => OpenError::Damaged(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use verdigris_core::embedder::EmbedderIdentity;
    use verdigris_core::manifest::{Genesis, Metric, SettingsReference};
    use verdigris_core::position::StreamIdentity;
    use verdigris_store::directory::DirectoryStore;

    use super::*;

    fn manifest() -> Arc<Manifest> {
        Arc::new(Manifest::genesis(Genesis {
            collection: "products".parse().expect("a name"),
            lineage: "l".to_owned().into(),
            metric: Metric::Cosine,
            embedder: EmbedderIdentity::none(4),
            settings: SettingsReference {
                version: 1,
                digest: Digest::of(b""),
            },
            stream: StreamIdentity(0),
        }))
    }

    // At a start the indexer and the search look at the pointer at the same moment.
    #[tokio::test]
    async fn two_roles_that_ask_at_the_same_time_get_one_release() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = DirectoryStore::open(&folder.path().join("store")).expect("a store");
        let files = VerifiedFiles::with_cache(&folder.path().join("cache")).expect("a cache");
        let opener = Opener::new(Arc::new(store), files);
        let (one, other) = tokio::join!(opener.open(manifest(), None), opener.open(manifest(), None));
        let (one, other) = (one.expect("opened"), other.expect("opened"));
        assert!(Arc::ptr_eq(&one, &other), "it was opened twice");
        let gone = Arc::downgrade(&one);
        drop((one, other));
        assert!(gone.upgrade().is_none(), "the opener itself holds it open");
        assert!(opener.open(manifest(), None).await.is_ok(), "it is opened anew");
    }
}
