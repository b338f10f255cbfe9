//! A follow: one publish that carries both lineages, after which they hold the same documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use tempfile::TempDir;
use verdigris_core::digest::ContentSum;
use verdigris_core::edit::{Edited, PublishEdit};
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::{Manifest, PublishReason, SegmentEntry, SegmentId};
use verdigris_core::pointer::Published as PublishedRelease;
use verdigris_core::timestamp::Timestamp;
use verdigris_engine::segment::merge::Merged;
use verdigris_engine::segment::write::{SegmentShape, SegmentWriter, WrittenSegment};
use verdigris_store::{commit, publish};

use crate::beside::embedder_of;
use crate::erasing::Killed;
use crate::error::IndexerError;
use crate::merge::MergeJob;
use crate::order::VectorSource;
use crate::progress::Published;
use crate::take_over::{Between, TakenRow, take_over};
use crate::turn::{Turn, blocking};
use crate::{embed, fresh_name, write_segment};

/// What a publish changes of the other lineage.
struct OtherEdit {
    add: Option<(SegmentId, WrittenSegment, TempDir)>,
    remove: Vec<SegmentId>,
    dead: BTreeMap<SegmentId, RoaringBitmap>,
    content: ContentSum,
    documents: u64,
    reason: PublishReason,
    /// Bytes of segments that a rebuild brings.
    rebuilt: u64,
    /// Rows of the active lineage that die with it.
    our_dead: BTreeMap<SegmentId, RoaringBitmap>,
    /// Bytes of states that leave with erased documents.
    erased_bytes: u64,
}

impl Turn<'_> {
    /// Brings the other lineage to the documents of the active one, by a publish of both.
    pub(crate) async fn follow(&mut self, reason: PublishReason, rebuilt: u64) -> Result<(), IndexerError> {
        let Some(other) = &self.beside.other else {
            return Ok(());
        };
        let (head, follower) = (self.head.clone(), other.release.clone());
        let (ours, theirs) = (head.manifest(), follower.manifest());
        let is_named = reason == PublishReason::Follow;
        if is_named && theirs.generation >= ours.generation {
            return Ok(());
        }
        // After a return to a lineage that lacked publishes, its events are read again first.
        if ours.checkpoint.sequence < theirs.checkpoint.sequence {
            return Ok(());
        }
        let between = Between {
            from: self.settings.clone(),
            to: other.settings.clone(),
        };
        let settings = other.settings.clone();
        let erased = self.erasing.pending();
        let taken = blocking(move || take_over(&head, &follower, &between, &erased)).await??;
        let sources: Vec<&VectorSource> = taken.rows.iter().map(|row| &row.vector).collect();
        let embedder = if Self::needs_model(sources.iter().copied()) {
            embedder_of(self.deps, &settings).await?
        } else {
            None
        };
        let (vectors, _) = embed::vectors(sources.into_iter(), embedder.as_ref(), None).await?;
        let add = if taken.rows.is_empty() {
            None
        } else {
            let (folder, dimension) = (self.scratch("follow-")?, theirs_dimension(self));
            let path = folder.path().to_owned();
            let rows = taken.rows;
            let written = blocking(move || {
                let shape = SegmentShape {
                    index_type: settings.ann.index_type,
                    dimension,
                    text: &settings.text,
                    threads: 1,
                };
                write_rows(&rows, &vectors, SegmentWriter::new(&path, shape)?)
            });
            Some((fresh_name(&self.deps.clock).into(), written.await??, folder))
        };
        self.publish_both(OtherEdit {
            add,
            remove: Vec::new(),
            dead: taken.dead,
            content: taken.content,
            documents: taken.documents,
            reason,
            rebuilt,
            our_dead: BTreeMap::new(),
            erased_bytes: 0,
        })
        .await
    }

    /// Publishes the death of the same documents in both lineages.
    pub(crate) async fn publish_deaths(&mut self, ours: Killed, theirs: Killed) -> Result<(), IndexerError> {
        self.publish_both(OtherEdit {
            add: None,
            remove: Vec::new(),
            dead: theirs.dead,
            content: theirs.content,
            documents: theirs.documents,
            reason: PublishReason::Erase,
            rebuilt: 0,
            our_dead: ours.dead,
            erased_bytes: ours.bytes.max(theirs.bytes),
        })
        .await
    }

    /// Commits a merge of the other lineage. Rows that died meanwhile are dead in the result.
    pub(crate) async fn commit_other_merge(&mut self, (job, merged): (MergeJob, Merged)) -> Result<(), IndexerError> {
        self.follow(PublishReason::Follow, 0).await?;
        let Some(other) = &self.beside.other else {
            return Ok(());
        };
        let manifest = other.release.manifest();
        if manifest.content != self.head.manifest().content {
            return Ok(());
        }
        let edit = OtherEdit {
            dead: crate::merge::dead_rows(&other.release, &job.plan, &job.id, &merged),
            content: manifest.content,
            documents: manifest.documents,
            reason: PublishReason::Merge,
            remove: job.plan.segments,
            add: Some((job.id, merged.written, job.folder)),
            rebuilt: 0,
            our_dead: BTreeMap::new(),
            erased_bytes: 0,
        };
        self.publish_both(edit).await
    }

    async fn publish_both(&mut self, edit: OtherEdit) -> Result<(), IndexerError> {
        let Some(other) = &self.beside.other else {
            return Ok(());
        };
        let (theirs, reference) = (other.release.manifest().clone(), other.reference.clone());
        let ours = self.head.manifest().clone();
        let is_erase = edit.reason == PublishReason::Erase;
        if !is_erase && (edit.content, edit.documents) != (ours.content, ours.documents) {
            return Err(IndexerError::NotEqual(theirs.lineage.clone()));
        }
        let (mut files, mut add, mut _kept) = (Vec::new(), Vec::new(), None);
        if let Some((id, written, folder)) = edit.add {
            // As long as the publish takes.
            _kept = Some((self.handle.begin_writing(format!("segments/{id}/")), folder));
            let (entry, sent) = named(id, written).await?;
            add.push(entry);
            files.extend(sent);
        }
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        let mut stats = ours.stats;
        stats.bytes_rebuilt += edit.rebuilt;
        stats.erased_bytes += edit.erased_bytes;
        let mut common = PublishEdit {
            stats,
            content: edit.content,
            documents: edit.documents,
            ..self.same_again(&nonce)
        };
        if is_erase {
            common.reason = PublishReason::Erase;
        }
        let of_other = PublishEdit {
            add,
            remove: edit.remove,
            dead: edit.dead,
            settings: reference,
            reason: edit.reason,
            ..common.clone()
        };
        common.dead = edit.our_dead;
        let (active, other) = (ours.apply(common)?, theirs.apply(of_other)?);
        let paths = [&active, &other].into_iter().flat_map(|edited| {
            let dead = edited.dead.as_ref().map(|(path, _)| path.clone());
            dead.into_iter().chain([edited.manifest.path(&nonce)])
        });
        let _being_written: Vec<_> = paths.map(|path| self.handle.begin_writing(path)).collect();
        let publication = publish::Publication {
            edited: &active,
            other: Some(&other),
            files,
            nonce: nonce.clone(),
        };
        let settings = active.manifest.settings.clone();
        let pointer = publish::publish(&*self.deps.store, self.name, publication, |pointer, releases| {
            let published = PublishedRelease {
                release: releases.release.clone(),
                settings: settings.clone(),
                grace_ns: GRACE_NS,
                other: releases.other.clone(),
            };
            pointer.publish(epoch, &published, nonce.clone(), self.now())
        })
        .await?;
        let is_named = pointer.other.is_some_and(|named| named.lineage == theirs.lineage);
        self.both_published(active, other, is_named).await
    }

    /// The next publish with the content of the head.
    fn same_again(&self, nonce: &str) -> PublishEdit {
        let manifest = self.head.manifest();
        PublishEdit {
            generation: self.generation + 1,
            created_at: Timestamp(self.deps.clock.now_ns()),
            writer: self.instance.to_owned(),
            nonce: nonce.to_owned(),
            add: Vec::new(),
            remove: Vec::new(),
            dead: BTreeMap::new(),
            content: manifest.content,
            documents: manifest.documents,
            checkpoint: manifest.checkpoint.clone(),
            watermark: manifest.watermark,
            settings: manifest.settings.clone(),
            stats: manifest.stats,
            reason: PublishReason::Follow,
        }
    }

    async fn both_published(&mut self, active: Edited, other: Edited, is_named: bool) -> Result<(), IndexerError> {
        let generation = active.manifest.generation;
        let head = self.reopened(active.manifest, &self.head).await?;
        match &self.beside.other {
            Some(follower) if is_named => {
                let release = self.reopened(other.manifest, &follower.release).await?;
                if let Some(follower) = &mut self.beside.other {
                    follower.release = release;
                }
            }
            // Its owner gave it up meanwhile.
            _ => {
                self.beside.stop().await;
                self.beside.other = None;
            }
        }
        // All together: where one cannot be opened, what would be made from the old ones is refused.
        (self.head, self.generation) = (head, generation);
        self.deps.metrics.followed(self.name);
        self.handle.progress.begin(Published {
            sequence: self.head.manifest().checkpoint.sequence,
            generation,
        });
        Ok(())
    }

    async fn reopened(
        &self,
        manifest: Manifest,
        previous: &Arc<verdigris_engine::release::Release>,
    ) -> Result<Arc<verdigris_engine::release::Release>, IndexerError> {
        Ok(self.deps.opener.open(Arc::new(manifest), Some(previous)).await?)
    }
}

fn theirs_dimension(turn: &Turn<'_>) -> u32 {
    let other = turn.beside.other.as_ref();
    other.map_or(0, |other| other.release.manifest().dimension)
}

/// The entry of a written segment, and its files by their paths.
async fn named(
    id: SegmentId,
    written: WrittenSegment,
) -> Result<(SegmentEntry, [(String, std::path::PathBuf); 2]), IndexerError> {
    let paths = written.paths.clone();
    let entry = blocking(move || write_segment::entry(id, &written)).await?;
    let entry = entry.map_err(IndexerError::Scratch)?;
    let files = [
        (entry.files.vectors.path.clone(), paths.vectors),
        (entry.files.rows.path.clone(), paths.rows),
    ];
    Ok((entry, files))
}

/// Rows with vectors first, ghost rows after them.
fn write_rows(
    rows: &[TakenRow],
    vectors: &[Option<Vec<f32>>],
    mut writer: SegmentWriter<'_>,
) -> Result<WrittenSegment, verdigris_engine::error::EngineError> {
    for (taken, vector) in rows.iter().zip(vectors) {
        if let Some(vector) = vector {
            writer.add(&taken.row, vector)?;
        }
    }
    for (taken, _) in rows.iter().zip(vectors).filter(|(_, vector)| vector.is_none()) {
        writer.add_ghost(&taken.row)?;
    }
    writer.finish()
}
