//! Going back to an older release's content, standing still while a person holds publishing, and going on.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;
use verdigris_bus::facts;
use verdigris_core::checkpoint::check_checkpoint;
use verdigris_core::edit::Edited;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::{Manifest, PublishReason};
use verdigris_core::pointer::{Hold, HoldKind, Published as PublishedRelease};
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::reason::Reason;
use verdigris_store::{collection as objects, commit, publish};

use crate::error::IndexerError;
use crate::progress::Published;
use crate::status::Standstill;
use crate::turn::Turn;

/// A wish to go back.
pub(crate) struct RollBack {
    /// The kept release whose content is published again.
    pub(crate) generation: u64,
    /// Who asks.
    pub(crate) actor: String,
    /// Why, in that person's words.
    pub(crate) words: String,
    /// Whether to go back although the events since cannot be read again.
    pub(crate) without_replay: bool,
    /// Told when it is done.
    pub(crate) done: oneshot::Sender<Result<(), IndexerError>>,
}

/// A wish to go on.
pub(crate) struct Resume {
    /// Who asks.
    pub(crate) actor: String,
    /// Events since that are set aside, by sequence.
    pub(crate) set_aside: BTreeSet<u64>,
    /// Why they are.
    pub(crate) words: String,
    /// Told when it is done.
    pub(crate) done: oneshot::Sender<Result<(), IndexerError>>,
}

/// How people are told that publishing is held.
pub(crate) fn standstill(hold: &Hold) -> Standstill {
    let Hold {
        actor, reason, since, ..
    } = hold;
    Standstill {
        reason: Reason::PublishingHeld,
        message: format!(
            "publishing is held by {actor} since {since}: {reason}; `verdigris releases resume` goes on with the events since"
        ),
    }
}

impl Turn<'_> {
    /// Publishes an older kept release's content, with its checkpoint, and holds publishing.
    pub(crate) async fn roll_back(&mut self, wish: &RollBack) -> Result<(), IndexerError> {
        let old = self.kept(wish.generation).await?;
        let replayable = self.is_replayable(&old).await?;
        if !replayable && !wish.without_replay {
            return Err(IndexerError::NotReplayable(wish.generation));
        }
        self.merges.stop().await;
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        let newest = self.head.manifest().clone();
        let mut manifest = old;
        manifest.parent = Some(newest.generation);
        manifest.generation = self.generation + 1;
        manifest.created_at = now;
        manifest.writer = self.instance.to_owned();
        manifest.reason = PublishReason::Rollback {
            actor: wish.actor.clone(),
            words: wish.words.clone(),
        };
        if !replayable {
            manifest.checkpoint = newest.checkpoint.clone();
        }
        let hold = Hold {
            kind: HoldKind::Publish,
            actor: wish.actor.clone(),
            reason: wish.words.clone(),
            since: now,
        };
        let _being_written = self.handle.begin_writing(manifest.path(&nonce));
        let edited = Edited { manifest, dead: None };
        let settings = edited.manifest.settings.clone();
        let publication = publish::Publication {
            edited: &edited,
            other: None,
            files: Vec::new(),
            nonce: nonce.clone(),
        };
        publish::publish(&*self.deps.store, self.name, publication, |pointer, releases| {
            let published = PublishedRelease {
                release: releases.release.clone(),
                settings: settings.clone(),
                grace_ns: GRACE_NS,
                other: None,
            };
            pointer.roll_back(epoch, &published, hold.clone(), nonce.clone(), self.now())
        })
        .await?;
        let before = self.head.clone();
        self.head = self.deps.opener.open(Arc::new(edited.manifest), Some(&before)).await?;
        self.generation = self.head.manifest().generation;
        // It holds what is being gone back from.
        self.beside.stop().await;
        self.beside.other = None;
        self.beside.build = None;
        self.hold(hold);
        self.handle.progress.begin(Published {
            sequence: self.head.manifest().checkpoint.sequence,
            generation: self.head.manifest().generation,
        });
        tracing::warn!(
            collection = %self.name, actor = wish.actor, reason = wish.words, back_to = wish.generation,
            generation = self.head.manifest().generation, "went back to an older release; publishing is held"
        );
        Ok(())
    }

    /// Lifts the hold. Some of the events since may be set aside when they are read again.
    pub(crate) async fn resume(&mut self, wish: &Resume) -> Result<(), IndexerError> {
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        let read = self.head.manifest().checkpoint.sequence;
        if let Some(stranger) = wish.set_aside.iter().find(|sequence| **sequence <= read) {
            return Err(IndexerError::NotCounted(format!("event {stranger}")));
        }
        let rejected = if wish.set_aside.is_empty() {
            None
        } else {
            Some(
                self.reject(wish.set_aside.clone(), &wish.actor, &wish.words, &nonce)
                    .await?,
            )
        };
        let events = rejected.as_ref().map(|(events, _)| events.clone());
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.resume(epoch, events.clone(), nonce.clone(), now)
        })
        .await?;
        self.rejected = rejected
            .map(|(_, rejected)| Arc::new(rejected))
            .or(self.rejected.take());
        self.held = None;
        self.go_on();
        let set_aside = wish.set_aside.len();
        tracing::info!(collection = %self.name, actor = wish.actor, set_aside, "publishing was resumed");
        Ok(())
    }

    /// Stands still until resumed.
    pub(crate) fn hold(&mut self, hold: Hold) {
        self.handle.status.stop(standstill(&hold));
        self.held = Some(hold);
        self.staged = None;
    }

    async fn kept(&self, generation: u64) -> Result<Manifest, IndexerError> {
        let pointer = objects::pointer(&*self.deps.store, self.name).await?.pointer;
        let kept = pointer.kept.iter().find(|kept| kept.generation == generation);
        let kept = kept.ok_or(IndexerError::NotKept(generation))?;
        Ok(objects::manifest(&*self.deps.store, self.name, &kept.manifest).await?)
    }

    /// Whether the log still holds every event after the release.
    async fn is_replayable(&self, manifest: &Manifest) -> Result<bool, IndexerError> {
        let checkpoint = &manifest.checkpoint;
        let facts = facts(&*self.deps.bus, self.name, checkpoint.sequence).await?;
        Ok(check_checkpoint(checkpoint, &facts).is_ok())
    }
}
