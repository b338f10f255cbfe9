//! What becomes of a window of events: ordered, judged, embedded, written and published, or rehearsed first.

use std::sync::Arc;
use std::time::Duration;

use verdigris_bus::BusEvent;
use verdigris_core::manifest::{Checkpoint, PublishReason};
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::Embedder;
use verdigris_engine::segment::write::SegmentShape;
use verdigris_runtime::traces::{ReleaseName, Trace};
use verdigris_store::commit;

use crate::error::{IndexerError, chain};
use crate::guard::{self, Look};
use crate::order::{OrderContext, Ordered};
use crate::progress::{OutcomeCounts, Published};
use crate::turn::{Change, Turn, blocking};
use crate::window::Caution;
use crate::{dead_letters, embed, fresh_name, order, write_segment};

/// For how long the store may take to note that an event is not to blame.
const ACQUIT_PATIENCE: Duration = Duration::from_secs(1);

impl Turn<'_> {
    pub(crate) async fn publish_window(&mut self, mut window: Vec<BusEvent>) -> Result<(), IndexerError> {
        let Some(first) = window.first().map(|first| first.sequence) else {
            return Ok(());
        };
        match self.caution {
            Caution::Singly(_) if window.len() == 1 => {
                self.name_event(first).await?;
                self.named = Some(first);
            }
            Caution::Singly(_) => {
                let rehearsed = self.rehearse(&window).await?;
                window.truncate(rehearsed);
            }
            _ => {}
        }
        let Some(last) = window.last().cloned() else {
            return Ok(());
        };
        let (began, traces) = (self.now().0, self.handle.traced.of(&window));
        let checkpoint = Checkpoint {
            sequence: last.sequence,
            digest: Some(last.digest()),
            ..self.head.manifest().checkpoint.clone()
        };
        let count = window.len() as u64;
        let ordered = self.order(window.clone()).await?;
        let look = self.look(window, &ordered).await?;
        dead_letters::write(&*self.deps.store, self.name, &ordered.set_aside).await?;
        let counts = OutcomeCounts::of(&ordered.outcomes);
        let outcomes = ordered.outcomes.clone();
        let mut change = self.written(ordered, checkpoint, counts).await?;
        change.look = Some(Look {
            vectors: change.vectors,
            ..look
        });
        let is_served = self.publish(change).await?;
        self.named = None;
        self.has_published = true;
        if self.awaits_promotion() {
            self.handle.progress.note(first, &outcomes);
            self.deps.metrics.events(self.name, &counts);
        }
        if !is_served {
            return Ok(());
        }
        let published = Published {
            sequence: last.sequence,
            generation: self.head.manifest().generation,
        };
        self.trace(began, &traces);
        self.handle.progress.publish(published, first, &outcomes);
        self.deps.metrics.events(self.name, &counts);
        self.caution = self.caution.after(count);
        Ok(())
    }

    /// Does what is done before a window is published with its first event, with its first two, and so on: a candidate for
    /// each event would wait for a promotion each. How many were: one that is set aside because it ends the process ends
    /// the window, so that it is past before another one is found.
    async fn rehearse(&mut self, window: &[BusEvent]) -> Result<usize, IndexerError> {
        let culprit = window.iter().position(|event| Some(event.sequence) == self.crashed_at);
        let count = culprit.map_or(window.len(), |culprit| culprit + 1);
        for (n, event) in window[..count].iter().enumerate() {
            self.name_event(event.sequence).await?;
            self.named = Some(event.sequence);
            let ordered = self.order(window[..=n].to_vec()).await?;
            let counts = OutcomeCounts::of(&ordered.outcomes);
            let checkpoint = self.head.manifest().checkpoint.clone();
            self.written(ordered, checkpoint, counts).await?;
        }
        self.named = None;
        Ok(count)
    }

    /// Links the release that was just published with the events in it.
    fn trace(&self, began_ns: i64, events: &[Trace]) {
        let manifest = self.head.manifest();
        let release = ReleaseName {
            collection: self.name.as_str(),
            lineage: manifest.lineage.as_str(),
            generation: manifest.generation,
        };
        release.published((began_ns, self.now().0), events);
    }

    /// After an unclean end, names the event that is touched next in the pointer, so that one that ends the process is
    /// known by name.
    pub(crate) async fn name_event(&self, sequence: u64) -> Result<(), IndexerError> {
        let position = self.head.manifest().checkpoint.stream.position(sequence);
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |p| {
            p.try_event(epoch, position, nonce.clone(), now)
        })
        .await?;
        Ok(())
    }

    /// Takes the name back after an error that is no event's fault, so that an end of the process before the next try is
    /// not held against the event. What cannot be written just now is left as it is.
    pub(crate) async fn acquit_event(&mut self) {
        if self.named.take().is_none() {
            return;
        }
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        let acquitting = commit::swing(&*self.deps.store, self.name, nonce.clone(), |p| {
            p.acquit_event(epoch, nonce.clone(), now)
        });
        match tokio::time::timeout(ACQUIT_PATIENCE, acquitting).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(collection = %self.name, "an event stays named: {}", chain(&error)),
            Err(_) => tracing::debug!(collection = %self.name, "an event stays named: the store does not answer"),
        }
    }

    pub(crate) async fn order(&self, window: Vec<BusEvent>) -> Result<Ordered, IndexerError> {
        let (head, name, settings) = (self.head.clone(), self.name.clone(), self.settings.clone());
        let (crashed_at, rejected, erased) = (self.crashed_at, self.rejected.clone(), self.erasing.ids.clone());
        let now = Timestamp(self.deps.clock.now_ns());
        blocking(move || {
            let stream = head.manifest().checkpoint.stream;
            let context = OrderContext {
                collection: &name,
                settings: &settings,
                stream,
                now,
                crashed_at,
                rejected: rejected.as_deref(),
                erased: &erased,
            };
            order::order(&head, &window, &context)
        })
        .await?
        .map_err(Into::into)
    }

    /// Embeds and writes what changed.
    pub(crate) async fn written(
        &mut self,
        ordered: Ordered,
        checkpoint: Checkpoint,
        counts: OutcomeCounts,
    ) -> Result<Change, IndexerError> {
        let needs_model = ordered
            .changes
            .iter()
            .any(|change| matches!(change.vector, order::VectorSource::Text(_)));
        let embedder = if needs_model {
            Some(self.embedder().await?)
        } else {
            None
        };
        let began = std::time::Instant::now();
        let (vectors, embedded) = embed::vectors(
            ordered.changes.iter().map(|change| &change.vector),
            embedder.as_ref(),
            Some(&self.handle.progress),
        )
        .await?;
        self.deps
            .metrics
            .embedded(self.name, embedded.embedded, began.elapsed());
        let mut stats = self.head.manifest().stats;
        stats.applied += counts.applied;
        stats.unchanged += counts.unchanged;
        stats.stale += counts.stale;
        stats.set_aside += counts.set_aside;
        stats.embedded += embedded.embedded;
        stats.vectors_kept += embedded.kept;
        stats.deleted += ordered.deletes.len() as u64;
        let alike = guard::alike(&ordered.changes, &vectors);
        let folder = self.scratch("segment-")?;
        let (head, settings, path) = (self.head.clone(), self.settings.clone(), folder.path().to_owned());
        let (threads, generation) = (self.deps.threads, self.generation + 1);
        let watermark = self.head.manifest().watermark.max(ordered.watermark);
        let written = blocking(move || {
            let dimension = head.manifest().dimension;
            let shape = SegmentShape {
                index_type: settings.ann.index_type,
                dimension,
                text: &settings.text,
                threads,
            };
            write_segment::write(&head, &ordered.changes, &vectors, generation, &path, shape)
        })
        .await??;
        Ok(Change {
            add: written.segment.map(|segment| (segment, folder)),
            add_id: fresh_name(&self.deps.clock).into(),
            remove: Vec::new(),
            dead: written.dead,
            content: written.content,
            documents: written.documents,
            checkpoint,
            watermark,
            stats,
            reason: PublishReason::Publish,
            vectors: alike,
            look: None,
            as_candidate: self.publishes_candidates(),
        })
    }

    pub(crate) async fn embedder(&mut self) -> Result<Arc<dyn Embedder>, IndexerError> {
        if let Some(embedder) = &self.embedder {
            return Ok(embedder.clone());
        }
        let (embedders, settings) = (self.deps.embedders.clone(), self.settings.embedder.clone());
        let loaded = blocking(move || embedders.documents(&settings)).await??;
        let embedder =
            loaded.unwrap_or_else(|| unreachable!("texts are embedded only where settings name an embedder"));
        self.embedder = Some(embedder.clone());
        Ok(embedder)
    }
}
