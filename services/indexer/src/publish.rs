//! The seventh step of an event: files, manifest, swing; and the same for a merge.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use verdigris_core::edit::PublishEdit;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::{LineageId, PublishReason, SegmentEntry};
use verdigris_core::pointer::Published as PublishedRelease;
use verdigris_core::timestamp::Timestamp;
use verdigris_engine::memory;
use verdigris_engine::segment::merge::Merged;
use verdigris_store::{commit, publish};

use crate::error::IndexerError;
use crate::merge::{MergeContext, MergeJob};
use crate::progress::Published;
use crate::turn::{Change, Turn, blocking};
use crate::{fresh_name, write_segment};

/// From so many rows on, what a segment took in memory is worth giving back at once.
const LARGE_ROWS: u32 = 10_000;

impl Turn<'_> {
    /// Begins what the head needs: one merge of the base and one beside it at most.
    pub(crate) fn begin_merges(&mut self) -> Result<(), IndexerError> {
        while let Some(plan) = self.next_merge() {
            if !self.merges.has_room(&plan) {
                return Ok(());
            }
            let context = MergeContext {
                scratch: self.deps.scratch.clone(),
                id: fresh_name(&self.deps.clock).into(),
                index_type: self.settings.ann.index_type,
                text: self.settings.text.clone(),
                // A merge leaves a processor to the answers.
                threads: 1,
            };
            let job = crate::merge::begin(&self.head, plan, context).map_err(IndexerError::Scratch)?;
            self.merges.add(job);
        }
        Ok(())
    }

    pub(crate) async fn commit_merge(&mut self, (job, merged): (MergeJob, Merged)) -> Result<(), IndexerError> {
        let manifest = self.head.manifest().clone();
        let dead = crate::merge::dead_rows(&self.head, &job.plan, &job.id, &merged);
        let takes_base = job.plan.takes_base;
        let mut change = self.unchanged(manifest.checkpoint.clone(), PublishReason::Merge);
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let written = bytes(&merged.written.paths.vectors) + bytes(&merged.written.paths.rows);
        if takes_base {
            change.stats.bytes_rebuilt += written
        } else {
            change.stats.bytes_merged += written
        };
        change.add_id = job.id;
        change.remove = job.plan.segments;
        change.dead = dead;
        change.add = Some((merged.written, job.folder));
        self.publish(change).await?;
        let generation = self.head.manifest().generation;
        tracing::info!(
            collection = %self.name, generation, bytes = written, took_base = takes_base,
            seconds = job.began.elapsed().as_secs(), "segments were merged"
        );
        self.handle.progress.begin(Published {
            sequence: manifest.checkpoint.sequence,
            generation,
        });
        Ok(())
    }

    pub(crate) async fn stop_merges(&mut self) {
        self.merges.stop().await;
        self.beside.stop().await;
    }

    /// Publishes a change; false where it breached a guard and is staged instead.
    pub(crate) async fn publish(&mut self, mut change: Change) -> Result<bool, IndexerError> {
        let began = std::time::Instant::now();
        let id = change.add_id.clone();
        let _being_written = self.handle.begin_writing(format!("segments/{id}/"));
        let Some((written, folder)) = change.add.take() else {
            let is_served = self.publish_edit(change, Vec::new(), Vec::new()).await?;
            self.deps
                .metrics
                .published(self.name, self.head.manifest(), began.elapsed(), 0);
            return Ok(is_served);
        };
        let paths = written.paths.clone();
        let entry = blocking(move || write_segment::entry(id, &written))
            .await?
            .map_err(IndexerError::Scratch)?;
        let (bytes, rows) = (entry.bytes(), entry.rows);
        let files = vec![
            (entry.files.vectors.path.clone(), paths.vectors),
            (entry.files.rows.path.clone(), paths.rows),
        ];
        if change.reason == PublishReason::Publish {
            change.stats.bytes_published += bytes;
        }
        let is_served = self.publish_edit(change, vec![entry], files).await?;
        drop(folder);
        if rows >= LARGE_ROWS {
            blocking(memory::give_back).await?;
        }
        self.deps
            .metrics
            .published(self.name, self.head.manifest(), began.elapsed(), bytes);
        Ok(is_served)
    }

    async fn publish_edit(
        &mut self,
        change: Change,
        add: Vec<SegmentEntry>,
        files: Vec<(String, PathBuf)>,
    ) -> Result<bool, IndexerError> {
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        let edit = PublishEdit {
            generation: self.generation + 1,
            created_at: now,
            writer: self.instance.to_owned(),
            nonce: nonce.clone(),
            add,
            remove: change.remove,
            dead: change.dead,
            content: change.content,
            documents: change.documents,
            checkpoint: change.checkpoint,
            watermark: change.watermark,
            settings: self.wanted_settings.clone(),
            stats: change.stats,
            reason: change.reason,
        };
        let mut edited = self.head.manifest().apply(edit)?;
        // However long the publish takes, nothing of it is garbage before it has ended.
        let dead = edited.dead.as_ref().map(|(path, _)| path.clone());
        let paths = dead.into_iter().chain([edited.manifest.path(&nonce)]);
        let _being_written: Vec<_> = paths.map(|path| self.handle.begin_writing(path)).collect();
        if let Some(look) = change.look {
            let breaches = self.breaches(&edited.manifest, &look).await?;
            if !breaches.is_empty() {
                self.stage(edited, files, nonce, look, breaches).await?;
                return Ok(false);
            }
        }
        if change.as_candidate {
            // A family of its own: readers of the active one do not follow it.
            edited.manifest.lineage = LineageId::from(fresh_name(&self.deps.clock));
        }
        let _candidate_written = self.handle.begin_writing(edited.manifest.path(&nonce));
        let settings = self.wanted_settings.clone();
        let publication = publish::Publication {
            edited: &edited,
            other: None,
            files,
            nonce: nonce.clone(),
        };
        publish::publish(&*self.deps.store, self.name, publication, |pointer, releases| {
            let published = PublishedRelease {
                release: releases.release.clone(),
                settings: settings.clone(),
                grace_ns: GRACE_NS,
                other: None,
            };
            let now = self.now();
            if change.as_candidate {
                pointer.publish_candidate(epoch, &published, nonce.clone(), now)
            } else {
                pointer.publish(epoch, &published, nonce.clone(), now)
            }
        })
        .await?;
        let generation = edited.manifest.generation;
        let release = self.deps.opener.open(Arc::new(edited.manifest), Some(&self.head));
        // With the head and not before: where it cannot be opened, what would be made from the old head is refused.
        let release = release.await?;
        self.generation = generation;
        if change.as_candidate {
            self.candidate_published(release).await;
            return Ok(false);
        }
        self.head = release;
        Ok(true)
    }

    /// The moment of an edit that lets something go: the grace begins with it, not when the work for it began.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.deps.clock.now_ns())
    }

    pub(crate) async fn goodbye(&mut self) -> Result<(), IndexerError> {
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |p| {
            p.goodbye(epoch, nonce.clone(), now)
        })
        .await?;
        Ok(())
    }

    pub(crate) fn scratch(&self, prefix: &str) -> Result<TempDir, IndexerError> {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&self.deps.scratch)
            .map_err(IndexerError::Scratch)
    }
}
