//! The one opener of releases in a process: files are verified once and mapped once, for indexer and search alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use roaring::RoaringBitmap;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::Manifest;
use verdigris_engine::release::Release;
use verdigris_engine::release::open::{OpenError, OpenRelease, Opening};
use verdigris_engine::segment::{SegmentCache, SegmentPaths};
use verdigris_store::fetch::{Lease, VerifiedFiles, leased_release_files};
use verdigris_store::{ReadError, Store, StoreError, collection as objects};

/// Opens releases of one store.
pub(crate) struct Opener {
    store: Arc<dyn Store>,
    files: Arc<VerifiedFiles>,
    segments: Arc<SegmentCache>,
    /// Open releases by the digest of their manifest: the second role to ask gets the first one's. What is in the cache
    /// of them stays there as long.
    open: Mutex<HashMap<Digest, (Weak<Release>, Lease)>>,
}

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
        let digest = Digest::of(&manifest.encode());
        {
            let mut open = self.lock();
            if let Some(release) = open.get(&digest).and_then(|(release, _)| release.upgrade()) {
                return Ok(release);
            }
            // What nobody has open any more makes room in the cache for this one.
            open.retain(|_, (release, _)| release.strong_count() > 0);
        }
        let (files, lease) = leased_release_files(&self.files, &*self.store, &manifest)
            .await
            .map_err(classified)?;
        let dead = self.dead_rows(&manifest, previous).await?;
        let parts = files
            .into_iter()
            .zip(dead)
            .map(|((vectors, rows), dead)| (SegmentPaths { vectors, rows }, dead));
        let (parts, segments) = (parts.collect(), self.segments.clone());
        let opened = tokio::task::spawn_blocking(move || Release::open(manifest, parts, &segments)).await;
        let opened = opened.map_err(|error| OpenError::Unavailable(Box::new(error)))?;
        let release = Arc::new(opened.map_err(|error| OpenError::Damaged(Box::new(error)))?);
        self.lock().insert(digest, (Arc::downgrade(&release), lease));
        self.files.forget_missing();
        Ok(release)
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, (Weak<Release>, Lease)>> {
        self.open.lock().expect("no code panics while it holds this lock")
    }
}

impl OpenRelease for Opener {
    fn open<'a>(&'a self, manifest: Arc<Manifest>, previous: Option<&'a Arc<Release>>) -> Opening<'a> {
        Box::pin(self.open_release(manifest, previous))
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
