//! Guards of a publish: looking ahead, staging what breaches, and carrying out what a person decides about it.
//!
//! A feed that deletes most of a catalog comes in many windows. So a window with a delete is judged together with what
//! waits behind it, and the first one is stopped before its first delete is served.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use verdigris_bus::{BusEvent, ReadLimits};
use verdigris_core::digest::Digest;
use verdigris_core::edit::Edited;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::guards::{self, Breach, Judged};
use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, ManifestReference, Pointer, RejectedEvents, StagedRelease};
use verdigris_proto::reason::Reason;
use verdigris_store::{Store, StoreError, collection as objects, commit, keys, publish};

use crate::error::IndexerError;
use crate::order::{Change, Counted, Ordered, VectorSource};
use crate::progress::Published;
use crate::status::Standstill;
use crate::turn::Turn;

/// Waiting events that are looked at beside a window: a feed of this size is seen whole.
const LOOK_AHEAD_EVENTS: u64 = 100_000;
/// And their bytes, since they are held in memory for the moment.
const LOOK_AHEAD_BYTES: u64 = 256 << 20;

/// What guards know of a window beside its manifest.
pub(crate) struct Look {
    /// The deletes that count, waiting ones included.
    pub(crate) deletes: Vec<Counted>,
    /// Where the window begins and how far the log was looked at.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Events behind the window that were looked at.
    pub(crate) waiting: u64,
    /// New vectors, and the most of them that are equal although their texts differ.
    pub(crate) vectors: (u64, u64),
}

/// Why a release is staged.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) generation: u64,
    pub(crate) breaches: Vec<Breach>,
    pub(crate) judged_from: u64,
    pub(crate) judged_to: u64,
    pub(crate) waiting: u64,
    pub(crate) counted: Vec<Counted>,
}

/// Events that a person rejected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rejected {
    pub(crate) actor: String,
    pub(crate) reason: String,
    sequences: BTreeSet<u64>,
}

impl Rejected {
    /// Whether the event is one of them.
    pub(crate) fn holds(&self, sequence: u64) -> bool {
        self.sequences.contains(&sequence)
    }
}

/// What a person decides about a staged release.
pub(crate) struct Decision {
    /// The generation that was shown to that person.
    pub(crate) generation: u64,
    pub(crate) actor: String,
    pub(crate) kind: DecisionKind,
    /// Told when it is done, with the events that were rejected.
    pub(crate) done: oneshot::Sender<Result<u64, IndexerError>>,
}

/// The kinds of decision.
pub(crate) enum DecisionKind {
    /// It is served, and what was judged with it passes.
    Accept,
    /// It is judged anew, by the settings of now.
    Retry,
    /// Some of its events are set aside, and the rest is applied.
    Reject { reason: String, choice: Choice },
}

/// Which events are rejected.
pub(crate) enum Choice {
    /// All that the verdict counted.
    Counted,
    /// Those of these documents.
    Ids(Vec<String>),
    /// These, by sequence.
    Sequences(Vec<u64>),
}

/// How people are told that a release waits for them.
pub(crate) fn standstill(staged: &StagedRelease) -> Standstill {
    let (generation, since) = (staged.release.generation, staged.since);
    Standstill {
        reason: Reason::PublishingStaged,
        message: format!(
            "release {generation} breached a guard and is staged since {since}; look at it by `verdigris staged show`, \
             then accept, retry or reject it"
        ),
    }
}

/// New vectors, and the most of them that are equal although their texts differ.
pub(crate) fn alike(changes: &[Change], vectors: &[Option<Vec<f32>>]) -> (u64, u64) {
    let mut texts_of: HashMap<Digest, HashSet<&str>> = HashMap::new();
    let mut count = 0;
    for (change, vector) in changes.iter().zip(vectors) {
        if let (VectorSource::Text(text), Some(vector)) = (&change.vector, vector) {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            texts_of.entry(Digest::of(&bytes)).or_default().insert(text);
            count += 1;
        }
    }
    let most = texts_of.values().map(|texts| texts.len() as u64).max().unwrap_or(0);
    (count, if most > 1 { most } else { 0 })
}

/// The events that a person rejected and that are still to be read.
pub(crate) async fn rejected(
    store: &dyn Store,
    name: &CollectionName,
    pointer: &Pointer,
) -> Result<Option<Rejected>, IndexerError> {
    match &pointer.rejected {
        None => Ok(None),
        Some(rejected) => read(store, name, &rejected.list).await.map(Some),
    }
}

/// An object of ours that a pointer names, checked by its digest.
pub(crate) async fn read<T: for<'a> Deserialize<'a>>(
    store: &dyn Store,
    name: &CollectionName,
    reference: &ManifestReference,
) -> Result<T, IndexerError> {
    let bytes = objects::whole(store, &keys::object(name, &reference.path)).await?;
    let damaged = || IndexerError::Verdict(reference.path.clone());
    if Digest::of(&bytes) != reference.digest {
        return Err(damaged());
    }
    serde_json::from_slice(&bytes).map_err(|_| damaged())
}

pub(crate) async fn write<T: Serialize>(
    store: &dyn Store,
    name: &CollectionName,
    path: String,
    value: &T,
) -> Result<ManifestReference, StoreError> {
    let bytes = serde_json::to_vec(value).expect("it has only text keys");
    let digest = Digest::of(&bytes);
    objects::create_once(store, &keys::object(name, &path), bytes.into()).await?;
    Ok(ManifestReference { path, digest })
}

impl Turn<'_> {
    /// What stands still for a person.
    pub(crate) fn standing(&self) -> Option<Standstill> {
        let held = self.held.as_ref().map(crate::holding::standstill);
        held.or_else(|| self.staged.as_ref().map(standstill))
    }

    /// Looks at what waits behind a window, where the window alone gives a reason to.
    pub(crate) async fn look(&self, window: Vec<BusEvent>, ordered: &Ordered) -> Result<Look, IndexerError> {
        let (first, last) = match (window.first(), window.last()) {
            (Some(first), Some(last)) => (first.sequence, last.sequence),
            _ => (0, 0),
        };
        let mut look = Look {
            deletes: ordered.deletes.clone(),
            from: first,
            to: last,
            waiting: 0,
            vectors: (0, 0),
        };
        let guards = &self.settings.guards;
        let is_judged = guards.enabled && self.head.manifest().documents >= u64::from(guards.documents_min);
        if ordered.deletes.is_empty() || !is_judged || last <= self.guards_passed_to {
            return Ok(look);
        }
        let mut events = window;
        let count = events.len() as u64;
        let mut bytes = 0;
        while (events.len() as u64) < count + LOOK_AHEAD_EVENTS && bytes < LOOK_AHEAD_BYTES {
            let limits = ReadLimits {
                events: LOOK_AHEAD_EVENTS + count - events.len() as u64,
                bytes: LOOK_AHEAD_BYTES - bytes,
            };
            let after = events.last().map_or(last, |event| event.sequence);
            let read = self.deps.bus.read(self.name, after, limits).await?;
            if read.is_empty() {
                break;
            }
            bytes += read.iter().map(|event| event.payload.len() as u64).sum::<u64>();
            events.extend(read);
        }
        look.waiting = events.len() as u64 - count;
        if look.waiting > 0 {
            look.to = events.last().map_or(last, |event| event.sequence);
            look.deletes = self.order(events).await?.deletes;
        }
        Ok(look)
    }

    /// The guards that a publish breaches.
    pub(crate) async fn breaches(&self, manifest: &Manifest, look: &Look) -> Result<Vec<Breach>, IndexerError> {
        let (before, mut facts) = (self.head.manifest().facts(), manifest.facts());
        facts.deleted = before.deleted + look.deletes.len() as u64;
        let is_smaller = facts.deleted > before.deleted || facts.live_bytes < before.live_bytes;
        let passed = manifest.checkpoint.sequence <= self.guards_passed_to;
        if passed || !(is_smaller || look.vectors.1 > 0) {
            return Ok(Vec::new());
        }
        let pointer = objects::pointer(&*self.deps.store, self.name).await?.pointer;
        let judged = Judged {
            facts,
            vectors: look.vectors.0,
            alike_vectors: look.vectors.1,
        };
        let (guards, passed_to) = (&self.settings.guards, pointer.guards_passed_to);
        Ok(guards::judge(
            guards,
            &pointer.kept,
            passed_to,
            &judged,
            manifest.created_at,
        ))
    }

    /// Writes and names a release that breaches, and lets publishing wait.
    pub(crate) async fn stage(
        &mut self,
        edited: Edited,
        files: Vec<(String, std::path::PathBuf)>,
        nonce: String,
        look: Look,
        breaches: Vec<Breach>,
    ) -> Result<(), IndexerError> {
        let (manifest, epoch) = (&edited.manifest, self.epoch);
        let (generation, now) = (manifest.generation, manifest.created_at);
        let told: Vec<String> = breaches.iter().map(ToString::to_string).collect();
        let verdict = Verdict {
            generation,
            breaches,
            judged_from: look.from,
            judged_to: look.to,
            waiting: look.waiting,
            counted: look.deletes,
        };
        let path = format!("verdicts/{generation:010}-{nonce}.json");
        let verdict = write(&*self.deps.store, self.name, path, &verdict).await?;
        let publication = publish::Publication {
            edited: &edited,
            other: None,
            files,
            nonce: nonce.clone(),
        };
        let settings = manifest.settings.clone();
        let pointer = publish::publish(&*self.deps.store, self.name, publication, |pointer, releases| {
            let staged = StagedRelease {
                release: releases.release.clone(),
                settings: settings.clone(),
                verdict: verdict.clone(),
                judged_to: look.to,
                since: now,
            };
            pointer.stage(epoch, staged, nonce.clone(), now)
        })
        .await?;
        self.staged = pointer.staged;
        tracing::error!(
            collection = %self.name, generation, "a release breached a guard and is staged: {}", told.join("; ")
        );
        Ok(())
    }

    /// Carries out what a person decided. The number of rejected events.
    pub(crate) async fn decide(&mut self, decision: &Decision) -> Result<u64, IndexerError> {
        let staged = self.staged.clone();
        let staged = staged.filter(|staged| staged.release.generation == decision.generation);
        let staged = staged
            .ok_or(EditRefused::NotStaged)
            .map_err(verdigris_store::CommitError::Refused)?;
        let (nonce, epoch) = (commit::nonce(), self.epoch);
        let rejected = match &decision.kind {
            DecisionKind::Accept => {
                self.accept(&staged, nonce).await?;
                0
            }
            DecisionKind::Retry => {
                self.swing_away(None, epoch, nonce).await?;
                0
            }
            DecisionKind::Reject { reason, choice } => {
                let sequences = self.chosen(&staged, choice).await?;
                let count = sequences.len() as u64;
                let (events, rejected) = self.reject(sequences, &decision.actor, reason, &nonce).await?;
                self.swing_away(Some(events), epoch, nonce).await?;
                self.rejected = Some(Arc::new(rejected));
                count
            }
        };
        self.staged = None;
        self.go_on();
        let what = match &decision.kind {
            DecisionKind::Accept => "accepted",
            DecisionKind::Retry => "to be judged anew",
            DecisionKind::Reject { .. } => "rejected in part",
        };
        tracing::warn!(
            collection = %self.name, generation = decision.generation, actor = decision.actor, rejected,
            "a staged release was {what}"
        );
        Ok(rejected)
    }

    /// Lists events that a person rejected, with those rejected before.
    pub(crate) async fn reject(
        &self,
        sequences: BTreeSet<u64>,
        actor: &str,
        reason: &str,
        nonce: &str,
    ) -> Result<(RejectedEvents, Rejected), IndexerError> {
        let earlier = self
            .rejected
            .iter()
            .flat_map(|rejected| rejected.sequences.iter().copied());
        let rejected = Rejected {
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            sequences: earlier.chain(sequences).collect(),
        };
        let to = rejected.sequences.last().copied().unwrap_or(0);
        let path = format!("verdicts/{:010}-{nonce}-rejected.json", self.head.manifest().generation);
        let list = write(&*self.deps.store, self.name, path, &rejected).await?;
        Ok((RejectedEvents { list, to }, rejected))
    }

    async fn accept(&mut self, staged: &StagedRelease, nonce: String) -> Result<(), IndexerError> {
        let epoch = self.epoch;
        // What cannot be opened is not accepted.
        let manifest = objects::manifest(&*self.deps.store, self.name, &staged.release.manifest).await?;
        let before = self.head.clone();
        let head = self.deps.opener.open(Arc::new(manifest), Some(&before)).await?;
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.accept_staged(epoch, GRACE_NS, nonce.clone(), self.now())
        })
        .await?;
        self.head = head;
        self.generation = self.head.manifest().generation;
        self.guards_passed_to = self.guards_passed_to.max(staged.judged_to);
        self.handle.progress.begin(Published {
            sequence: self.head.manifest().checkpoint.sequence,
            generation: self.head.manifest().generation,
        });
        Ok(())
    }

    async fn swing_away(
        &self,
        rejected: Option<RejectedEvents>,
        epoch: u64,
        nonce: String,
    ) -> Result<(), IndexerError> {
        commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            pointer.drop_staged(epoch, rejected.clone(), nonce.clone(), self.now())
        })
        .await?;
        Ok(())
    }

    /// The chosen events of a staged release, by sequence.
    async fn chosen(&self, staged: &StagedRelease, choice: &Choice) -> Result<BTreeSet<u64>, IndexerError> {
        let verdict: Verdict = read(&*self.deps.store, self.name, &staged.verdict).await?;
        let chosen: BTreeSet<u64> = match choice {
            Choice::Counted => verdict.counted.iter().map(|counted| counted.sequence).collect(),
            Choice::Ids(ids) => {
                let known: HashSet<&str> = verdict.counted.iter().map(|counted| counted.id.as_str()).collect();
                if let Some(stranger) = ids.iter().find(|id| !known.contains(id.as_str())) {
                    return Err(IndexerError::NotCounted(format!("document {stranger:?}")));
                }
                let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
                let counted = verdict
                    .counted
                    .iter()
                    .filter(|counted| ids.contains(counted.id.as_str()));
                counted.map(|counted| counted.sequence).collect()
            }
            Choice::Sequences(sequences) => {
                let range = verdict.judged_from..=verdict.judged_to;
                if let Some(stranger) = sequences.iter().find(|sequence| !range.contains(sequence)) {
                    return Err(IndexerError::NotCounted(format!("event {stranger}")));
                }
                sequences.iter().copied().collect()
            }
        };
        if chosen.is_empty() {
            return Err(IndexerError::NotCounted("no event".to_owned()));
        }
        Ok(chosen)
    }
}
