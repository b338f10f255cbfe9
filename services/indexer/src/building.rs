//! A rebuild on its way: part by part from the rows of its source, until it is named as the candidate.
//!
//! An error of it holds up nothing else: it is tried again.

use std::sync::Arc;

use tokio::time::Instant;
use verdigris_core::manifest::{Genesis, LineageId, Manifest, PublishReason};
use verdigris_core::pointer::{Build, EditRefused, Part};
use verdigris_engine::release::Release;
use verdigris_store::{CommitError, collection as objects, commit};

use crate::beside::{BUILD_RETRY, FOLLOW_EVERY, Other, embedder_of};
use crate::error::{IndexerError, chain};
use crate::fresh_name;
use crate::merge::Merges;
use crate::rebuild::{PartContext, PartJob};
use crate::take_over::Between;
use crate::turn::Turn;

impl Turn<'_> {
    /// Begins the next part of a build, or names the candidate when all are there.
    pub(crate) async fn begin_part(&mut self) {
        // What it would read or embed may be what is being erased.
        let is_free = self.beside.part.is_none() && !self.erasing.is_pending();
        let is_due = is_free && Instant::now() >= self.beside.next_part;
        let Some(build) = self.beside.build.clone().filter(|_| is_due) else {
            return;
        };
        let begun = if build.rows_done < build.rows {
            self.begin_part_of(&build).await
        } else {
            self.name_candidate(&build).await
        };
        if let Err(error) = begun {
            self.build_failed(&error);
        }
    }

    /// An error of a build holds up nothing else.
    pub(crate) fn build_failed(&mut self, error: &IndexerError) {
        self.beside.next_part = Instant::now() + BUILD_RETRY;
        tracing::warn!(collection = %self.name, "the rebuild could not go on: {}", chain(error));
    }

    async fn begin_part_of(&mut self, build: &Build) -> Result<(), IndexerError> {
        let (handle, deps) = (self.handle, self.deps);
        let source = self.source_of(build).await?;
        let between = self.between(&source, build).await?;
        let embedder = if between.from.same_vectors(&between.to) {
            None
        } else {
            embedder_of(deps, &between.to).await?
        };
        let id: verdigris_core::manifest::SegmentId = fresh_name(&self.deps.clock).into();
        let being_written = handle.begin_writing(format!("segments/{id}/"));
        handle.building.begin(build.rows_done, build.rows);
        let context = PartContext {
            store: deps.store.clone(),
            name: self.name.clone(),
            source,
            dimension: deps.embedders.identity(&between.to.embedder)?.dimension,
            between,
            embedder,
            id,
            folder: self.scratch("rebuild-")?,
            progress: handle.building.clone(),
        };
        tracing::info!(
            collection = %self.name, lineage = %build.lineage, rows_done = build.rows_done, rows = build.rows,
            "a part of a rebuild begins"
        );
        self.beside.part = Some((PartJob::begin(build, context), being_written));
        Ok(())
    }

    async fn source_of(&self, build: &Build) -> Result<Arc<Release>, IndexerError> {
        let manifest = objects::manifest(&*self.deps.store, self.name, &build.source).await?;
        Ok(self.deps.opener.open(Arc::new(manifest), Some(&self.head)).await?)
    }

    async fn between(&self, source: &Release, build: &Build) -> Result<Between, IndexerError> {
        let store = &*self.deps.store;
        Ok(Between {
            from: objects::settings(store, self.name, &source.manifest().settings).await?,
            to: objects::settings(store, self.name, &build.settings).await?,
        })
    }

    /// Names a part that is written.
    pub(crate) async fn commit_part(&mut self, lineage: &LineageId, part: Part) -> Result<(), IndexerError> {
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        let swung = commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.add_part(epoch, lineage, part.clone(), nonce.clone(), self.now())
        })
        .await;
        self.beside.part = None;
        match swung {
            Ok(pointer) => self.beside.build = pointer.builds.into_iter().next(),
            // Its owner gave it up; the next look sees what is built instead.
            Err(CommitError::Refused(EditRefused::NotNamed(_))) => {
                self.beside.build = self.beside.build.take().filter(|build| build.lineage != *lineage);
            }
            Err(error) => return Err(error.into()),
        }
        self.begin_part().await;
        Ok(())
    }

    /// The whole of a build becomes the candidate: at its source's generation first, and level by a follow.
    async fn name_candidate(&mut self, build: &Build) -> Result<(), IndexerError> {
        let source = self.source_of(build).await?;
        let between = self.between(&source, build).await?;
        let from = source.manifest();
        if (build.content, build.documents) != (from.content, from.documents) {
            self.give_up_build(build).await?;
            return Err(IndexerError::NotEqual(build.lineage.clone()));
        }
        let mut manifest = Manifest::genesis(Genesis {
            collection: self.name.clone(),
            lineage: build.lineage.clone(),
            metric: between.to.metric,
            embedder: self.deps.embedders.identity(&between.to.embedder)?,
            settings: build.settings.clone(),
            stream: from.checkpoint.stream,
        });
        manifest.generation = from.generation;
        manifest.content = build.content;
        manifest.documents = build.documents;
        manifest.checkpoint = from.checkpoint.clone();
        manifest.segments = build.parts.clone();
        manifest
            .segments
            .sort_by(|a, b| b.live.cmp(&a.live).then_with(|| a.id.cmp(&b.id)));
        manifest.count = manifest.segments.iter().map(|segment| u64::from(segment.live)).sum();
        let bytes = manifest.bytes();
        let release = self.deps.opener.open(Arc::new(manifest), None).await?;
        self.beside.other = Some(Other {
            release,
            settings: between.to,
            reference: build.settings.clone(),
            merges: Merges::default(),
        });
        let named = self.follow(PublishReason::Rebuild, bytes).await;
        if named.is_err() {
            // It is not named yet, and is opened anew.
            self.beside.other = None;
        }
        if let Err(IndexerError::NotEqual(_)) = named {
            self.give_up_build(build).await?;
        }
        named?;
        self.beside.build = None;
        self.beside.next_follow = Instant::now() + FOLLOW_EVERY;
        if self.beside.other.is_some() {
            tracing::info!(collection = %self.name, lineage = %build.lineage, bytes, "a rebuild is level: it is the candidate");
        }
        Ok(())
    }

    async fn give_up_build(&mut self, build: &Build) -> Result<(), IndexerError> {
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.drop_build(epoch, &build.lineage, nonce.clone(), self.now())
        })
        .await?;
        self.beside.build = None;
        Ok(())
    }
}
