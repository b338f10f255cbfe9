//! Whether what the store and the bus show is allowed: each swing by itself, each release against the model.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use verdigris_core::dead_letter;
use verdigris_core::digest::Digest;
use verdigris_core::manifest::{LineageId, Manifest, PublishReason};
use verdigris_core::pointer::{KeptRelease, LineagePointer, ManifestReference, Pointer};
use verdigris_store::keys;

use super::disk::{Deed, Disk, Swing};
use super::leftovers::Leftovers;
use super::log::Log;
use super::model::Model;
use super::reading::Reading;
use super::{Verdict, beside, duties, erasing, hold, name};

/// The reason of an event that ended whoever read it.
const CRASHED: &str = "CRASHED_INDEXER";
/// The reason of an event that a person rejected.
const REJECTED: &str = "REJECTED";
/// The reason of an event for a document that was erased.
const ERASED: &str = "ERASED";
/// Words of a rollback, before the generation.
pub(crate) const BACK_TO: &str = "back to ";

/// What is known of a release that was published.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) checkpoint: u64,
    /// Events up to the checkpoint that are not in it.
    pub(crate) left_out: Arc<BTreeSet<u64>>,
    /// Erased documents that are not in it any more.
    pub(crate) absent: Arc<BTreeSet<String>>,
}

/// A move of traffic that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) lineage: LineageId,
    pub(crate) is_return: bool,
    pub(crate) stale: bool,
}

/// Figures of a story.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(pub(crate) BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// Judges what happened since it last looked.
pub(crate) struct Judge {
    disk: Arc<Disk>,
    log: Arc<Log>,
    pub(crate) reading: Reading,
    pub(crate) leftovers: Leftovers,
    /// By path of the manifest.
    known: BTreeMap<String, Known>,
    /// Generations that were published, with the checkpoint of each.
    published: BTreeMap<u64, u64>,
    /// Reasons of dead letters by sequence.
    letters: BTreeMap<u64, BTreeSet<String>>,
    /// Every event that a person ever rejected.
    rejected: BTreeSet<u64>,
    nonces: BTreeSet<String>,
    /// Who ever had the turn of an indexer.
    writers: BTreeSet<String>,
    read: RefCell<Vec<(Digest, Arc<Pointer>)>>,
    /// Every document that was ever erased, and those that were when the staged release was made.
    erased: erasing::Since,
    erased_when_staged: BTreeSet<String>,
    /// Moves of traffic that were asked for.
    pub(crate) wanted: Vec<Wanted>,
    /// Processes that there were: each may have taken the turn from one that did not say goodbye.
    pub(crate) processes: u64,
    pub(crate) counts: Counts,
}

impl Judge {
    pub(crate) fn new(disk: &Arc<Disk>, log: &Arc<Log>) -> Self {
        Self {
            disk: disk.clone(),
            log: log.clone(),
            reading: Reading::new(disk),
            leftovers: Leftovers::default(),
            known: BTreeMap::new(),
            published: BTreeMap::new(),
            letters: BTreeMap::new(),
            rejected: BTreeSet::new(),
            nonces: BTreeSet::new(),
            writers: BTreeSet::new(),
            read: RefCell::default(),
            erased: erasing::Since::default(),
            erased_when_staged: BTreeSet::new(),
            wanted: Vec::new(),
            processes: 0,
            counts: Counts::default(),
        }
    }

    /// The pointer as it is.
    pub(crate) fn pointer(&self) -> Verdict<Pointer> {
        let object = self.disk.look(&keys::pointer(&name())).ok_or("there is no pointer")?;
        Ok((*self.read(object.digest, &object.bytes)?).clone())
    }

    /// A pointer; the newest two are remembered.
    fn read(&self, digest: Digest, bytes: &[u8]) -> Verdict<Arc<Pointer>> {
        let mut read = self.read.borrow_mut();
        if let Some((_, pointer)) = read.iter().find(|(known, _)| *known == digest) {
            return Ok(pointer.clone());
        }
        let pointer = Pointer::decode(bytes).map_err(|error| format!("the pointer cannot be read: {error}"))?;
        let pointer = Arc::new(pointer);
        read.truncate(1);
        read.insert(0, (digest, pointer.clone()));
        Ok(pointer)
    }

    /// What a release lacks of the events up to its checkpoint.
    pub(crate) fn known(&self, reference: &ManifestReference) -> Option<&Known> {
        self.known.get(&reference.path)
    }

    pub(crate) fn know(&mut self, reference: &ManifestReference, known: Known) {
        self.known.insert(reference.path.clone(), known);
    }

    pub(crate) fn note_published(&mut self, generation: u64, checkpoint: u64) {
        self.published.insert(generation, checkpoint);
    }

    /// Whether a swing with this nonce was ever made (I-5).
    pub(crate) fn was_swung(&self, nonce: &str) -> bool {
        self.nonces.contains(nonce)
    }

    /// Judges all that the store did since. Where it did nothing, all is as it was.
    pub(crate) fn look(&mut self, model: &Model) -> Verdict<()> {
        let deeds = self.disk.take_deeds();
        let is_still = deeds.is_empty();
        for deed in deeds {
            match deed {
                Deed::Swung(swing) => self.swung(&swing, model)?,
                Deed::Came(key) => self.came(&key, model)?,
                Deed::Went(key, at) => self.leftovers.went(&key, at, &self.reading)?,
            }
        }
        let pointer = self.pointer()?;
        let oldest = pointer.kept.iter().map(|kept| kept.checkpoint).min().unwrap_or(0);
        hold(self.log.first_kept() <= oldest.max(1), || {
            format!(
                "I-15: the log begins with {}, a kept release ends with {oldest}",
                self.log.first_kept()
            )
        })?;
        if is_still {
            return Ok(());
        }
        for lineage in [&pointer.active, &pointer.other].into_iter().flatten() {
            self.reading.whole(&lineage.manifest)?;
        }
        let staged = pointer.staged.iter().map(|staged| &staged.release);
        for kept in pointer.kept.iter().chain(staged) {
            self.reading.whole(&kept.manifest)?;
        }
        self.leftovers.builds_are_there(&pointer, &self.disk)
    }

    /// I-5: what a process says to have published, was published.
    pub(crate) fn progress(&self, said: verdigris_indexer::progress::Published, by: &str) -> Verdict<()> {
        let published = self.published.get(&said.generation);
        let is_so = said.generation == 0 || published.is_some_and(|checkpoint| *checkpoint >= said.sequence);
        hold(is_so, || {
            format!("I-5: {by} says {said:?}, published was {published:?}")
        })
    }

    fn came(&mut self, key: &str, model: &Model) -> Verdict<()> {
        if !key.contains("/dead-letters/") {
            return Ok(());
        }
        let object = self.disk.look_back(key).ok_or("a letter that never was")?;
        let letters = dead_letter::decode(key, &object.bytes).map_err(|error| format!("I-12: {error}"))?;
        for letter in letters {
            let sequence = letter.position.sequence;
            let event = self.log.event(sequence);
            let told = model.event(sequence);
            let is_kept = letter.payload_bytes() == event.payload;
            let is_whole = if letter.reason == ERASED {
                letter.payload_bytes().is_empty()
            } else {
                is_kept
            };
            hold(is_whole, || {
                format!("I-12: the letter of event {sequence} is not that event, or I-14: it is")
            })?;
            let is_right = match letter.reason.as_str() {
                CRASHED => model.may_panic(sequence) || self.processes >= 3,
                REJECTED => true,
                ERASED => self.erased.contains(&told.id),
                reason => told.bad == Some(reason),
            };
            hold(is_right, || {
                format!("I-12: event {sequence} was set aside as {}: {told:?}", letter.reason)
            })?;
            self.letters.entry(sequence).or_default().insert(letter.reason);
        }
        Ok(())
    }

    fn swung(&mut self, swing: &Swing, model: &Model) -> Verdict<()> {
        let read = |bytes: &[u8]| self.read(Digest::of(bytes), bytes);
        let (before, after) = (swing.before.as_deref().map(read).transpose()?, read(&swing.after)?);
        after.check().map_err(|error| format!("{error}"))?;
        hold(self.nonces.insert(after.nonce.clone()), || {
            format!("I-5: nonce {} twice", after.nonce)
        })?;
        let Some(before) = before else {
            self.leftovers.named(&after, swing.asked_at, &self.reading)?;
            return Ok(());
        };
        let shown = || format!("swing {} by {}", after.sequence, swing.by);
        hold(after.sequence == before.sequence + 1, || {
            format!("I-5: {}: sequence", shown())
        })?;
        hold(after.remembers(&after.nonce) && after.remembers(&before.nonce), || {
            format!("I-5: {}", shown())
        })?;
        hold(before.active.is_none() || after.active.is_some(), || {
            format!("I-8: {}", shown())
        })?;
        let rises = after.generation - before.generation.min(after.generation);
        let is_publish = rises == 1;
        hold(after.generation == before.generation || is_publish, || {
            format!(
                "I-3: {}: generation {} after {}",
                shown(),
                after.generation,
                before.generation
            )
        })?;
        duties::allowed(&swing.by, &before, &after).map_err(|why| format!("{}: {why}", shown()))?;
        self.claimed(&before, &after)?;
        if let Some(list) = &after.rejected {
            self.rejected.extend(duties::rejected(&self.disk, list)?);
        }
        let dropped = self
            .erased(&before, &after, swing.at)
            .map_err(|why| format!("{}: {why}", shown()))?;
        if is_publish && beside::is_candidate_alone(&before, &after) {
            self.candidate_alone(&before, &after, model)?;
        } else if is_publish {
            self.published(swing, &before, &after, model)?;
        } else if lineage(&after.active) != lineage(&before.active) {
            self.flipped(&before, &after)
                .map_err(|why| format!("{}: {why}", shown()))?;
        } else {
            let same = manifest(&after.active) == manifest(&before.active);
            hold(same, || {
                format!("I-3: {}: another release of the same generation", shown())
            })?;
        }
        duties::retained(&before, &after, swing.at, &dropped).map_err(|why| format!("{}: {why}", shown()))?;
        self.leftovers.named(&after, swing.asked_at, &self.reading)
    }

    /// I-4: one that lost its turn never claims again by itself.
    fn claimed(&mut self, before: &Pointer, after: &Pointer) -> Verdict<()> {
        let (was, is) = (before.writer.as_ref(), after.writer.as_ref());
        let Some(claimed) = is.filter(|is| was.is_none_or(|was| was.epoch != is.epoch)) else {
            return Ok(());
        };
        let is_anew = self.writers.insert(claimed.id.clone()) || was.is_some_and(|was| was.id == claimed.id);
        hold(is_anew, || {
            format!("I-4: {} lost its turn to {was:?} and claims again", claimed.id)
        })
    }

    /// I-14; the kept releases that an erase may let go.
    fn erased(&mut self, before: &Pointer, after: &Pointer, at: i64) -> Verdict<BTreeSet<u64>> {
        let (was, is) = (
            erasing::listed(&self.disk, before)?,
            erasing::listed(&self.disk, after)?,
        );
        erasing::for_ever(&self.disk, &mut self.reading, &was, &is, after)?;
        self.erased.note(&is, at);
        self.erased.letters_are_gone(&self.disk, &was, &is)?;
        if before.staged.is_none() && after.staged.is_some() {
            self.erased_when_staged = erasing::ids(&was);
        }
        if is.len() > was.len() {
            self.counts.count("erases");
        } else if after.erased != before.erased {
            self.counts.count("erases that ended");
        }
        erasing::dropped(&mut self.reading, before, after, &is)
    }

    fn published(&mut self, swing: &Swing, before: &Pointer, after: &Pointer, model: &Model) -> Verdict<()> {
        let active = after.active.as_ref().ok_or("I-8: a publish of nothing")?;
        self.reading.whole(&active.manifest)?;
        let manifest = self.reading.manifest(&active.manifest)?;
        let shown = format!(
            "release {} by {} ({:?})",
            manifest.generation, swing.by, manifest.reason
        );
        self.disk.tell(|| shown.clone());
        let fits = manifest.generation == after.generation && active.generation == after.generation;
        hold(fits, || format!("I-3: {shown} as generation {}", after.generation))?;
        let parent = before.active.as_ref().map(|active| active.generation);
        // Who goes back may not have seen yet which lineage answers.
        let went_back = matches!(manifest.reason, PublishReason::Rollback { .. });
        hold(went_back || manifest.parent == parent, || {
            format!("I-3: {shown} follows {:?}", manifest.parent)
        })?;
        let last = after.kept.last().map(|kept| &kept.manifest);
        hold(last == Some(&active.manifest), || format!("I-3: {shown} is not kept"))?;
        let known = if let PublishReason::Rollback { words, .. } = &manifest.reason {
            self.counts.count("rollbacks");
            self.went_back(before, after, &manifest, words)
        } else {
            self.went_on(before, after, &manifest, model)
        };
        let known = known.map_err(|why| format!("{why}: {shown}"))?;
        self.counts.count(match manifest.reason {
            PublishReason::Publish => "publishes",
            PublishReason::Merge => "merges",
            PublishReason::Follow => "follows",
            PublishReason::Rebuild => "rebuilds",
            PublishReason::Settings => "settings",
            _ => "others",
        });
        let known = self.settled(&manifest, known, model)?;
        self.note_published(after.generation, known.checkpoint);
        self.know(&active.manifest, known.clone());
        if let Some(other) = after
            .other
            .as_ref()
            .filter(|other| other.generation == after.generation)
        {
            self.carried(&manifest, other, known, model)?;
        }
        Ok(())
    }

    fn went_back(&self, before: &Pointer, after: &Pointer, manifest: &Manifest, words: &str) -> Verdict<Vec<Known>> {
        let to: u64 = words
            .strip_prefix(BACK_TO)
            .and_then(|to| to.parse().ok())
            .ok_or("I-3: without words")?;
        let origin: &KeptRelease = before
            .kept
            .iter()
            .find(|kept| kept.generation == to)
            .ok_or("I-3: back to what is not kept")?;
        let old = self.reading.manifest(&origin.manifest)?;
        let same = old.segments == manifest.segments && old.content == manifest.content;
        hold(same && old.checkpoint == manifest.checkpoint, || {
            "I-3: a return to something else".to_owned()
        })?;
        let hold_after = after.publish_hold();
        hold(
            hold_after.is_some_and(|hold| hold.reason == words && !hold.actor.is_empty()),
            || "I-3: publishing goes on after a rollback".to_owned(),
        )?;
        hold(
            after.other.is_none() && after.builds.is_empty() && after.staged.is_none(),
            || "I-3: the other lineage outlives a rollback".to_owned(),
        )?;
        hold(
            before.active.as_ref().is_some_and(|a| a.lineage == manifest.lineage) || after.settings == old.settings,
            || "I-17: rows of another lineage, settings of this".to_owned(),
        )?;
        let known = self
            .known
            .get(&origin.manifest.path)
            .ok_or("I-3: back to a release that never was")?;
        Ok(vec![known.clone()])
    }

    /// What the release may lack. More than one where an event that was read alone at a crash may have been set aside.
    pub(crate) fn went_on(
        &self,
        before: &Pointer,
        after: &Pointer,
        manifest: &Manifest,
        model: &Model,
    ) -> Verdict<Vec<Known>> {
        hold(before.publish_hold().is_none(), || {
            "I-3: published while held".to_owned()
        })?;
        if let Some(staged) = &before.staged {
            let accepted = after.active.as_ref().map(|active| &active.manifest) == Some(&staged.release.manifest);
            hold(accepted && after.guards_passed_to >= staged.judged_to, || {
                "published past a staged one".to_owned()
            })?;
        }
        let parent = self.parent(before, after, manifest)?;
        let (from, to) = (parent.checkpoint, manifest.checkpoint.sequence);
        hold(to >= from, || {
            format!("I-3: the checkpoint goes back from {from} to {to}")
        })?;
        hold(to <= self.log.last(), || "I-1: a checkpoint beyond the log".to_owned())?;
        let now_rejected = match &before.rejected {
            Some(list) => duties::rejected(&self.disk, list)?,
            None => BTreeSet::new(),
        };
        let listed = erasing::ids(&erasing::listed(&self.disk, before)?);
        let mut absent = (*parent.absent).clone();
        if manifest.reason == PublishReason::Erase {
            absent.extend(listed.iter().cloned());
        }
        let absent = Arc::new(absent);
        let erased = if before.staged.is_some() {
            &self.erased_when_staged
        } else {
            &listed
        };
        let (left_out, mut doubtful) = self.set_aside(&parent, to, &now_rejected, erased, model)?;
        let known = |left_out| Known {
            checkpoint: to,
            left_out: Arc::new(left_out),
            absent: absent.clone(),
        };
        doubtful.truncate(4);
        let choices = (0..1u32 << doubtful.len()).map(|choice| {
            let chosen = doubtful.iter().enumerate().filter(|(n, _)| choice & (1 << n) != 0);
            known(
                left_out
                    .iter()
                    .copied()
                    .chain(chosen.map(|(_, sequence)| *sequence))
                    .collect(),
            )
        });
        Ok(choices.collect())
    }

    /// What was known of the release that this one was made from.
    fn parent(&self, before: &Pointer, after: &Pointer, manifest: &Manifest) -> Verdict<Known> {
        Ok(match &before.active {
            None => Known {
                checkpoint: 0,
                left_out: Arc::default(),
                absent: Arc::default(),
            },
            Some(active) => {
                let is_same = active.lineage == manifest.lineage || beside::is_candidate_alone(before, after);
                hold(is_same, || "I-3: another lineage without a flip".to_owned())?;
                self.known
                    .get(&active.manifest.path)
                    .cloned()
                    .ok_or("I-3: the parent never was")?
            }
        })
    }

    /// The events up to a checkpoint that a release lacks, with those of its parent, and those that it may lack: each
    /// has its letter.
    fn set_aside(
        &self,
        parent: &Known,
        to: u64,
        now_rejected: &BTreeSet<u64>,
        erased: &BTreeSet<String>,
        model: &Model,
    ) -> Verdict<(BTreeSet<u64>, Vec<u64>)> {
        let (mut left_out, mut doubtful) = ((*parent.left_out).clone(), Vec::new());
        for sequence in parent.checkpoint + 1..=to {
            let reasons = self.letters.get(&sequence);
            let has = |reason: &str| reasons.is_some_and(|reasons| reasons.contains(reason));
            let has_crashed = has(CRASHED);
            let event = model.event(sequence);
            if erased.contains(&event.id) && (event.bad.is_none() || has(ERASED)) {
                hold(has(ERASED), || {
                    format!("I-14: event {sequence} for an erased document has no letter")
                })?;
                left_out.insert(sequence);
            } else if now_rejected.contains(&sequence) {
                hold(has(REJECTED) || has_crashed, || {
                    format!("I-12: event {sequence} was rejected and has no letter")
                })?;
                left_out.insert(sequence);
            } else if let Some(bad) = event.bad {
                hold(has(bad) || has_crashed, || {
                    format!("I-12: event {sequence} ({bad}) has no letter")
                })?;
                left_out.insert(sequence);
            } else if has_crashed {
                doubtful.push(sequence);
            }
        }
        Ok((left_out, doubtful))
    }

    /// The one of these that the release is.
    pub(crate) fn settled(&mut self, manifest: &Manifest, known: Vec<Known>, model: &Model) -> Verdict<Known> {
        let mut first = None;
        for known in known {
            match self.reading.check(
                manifest,
                &model.documents(known.checkpoint, &known.left_out, &known.absent),
            ) {
                Ok(()) => return Ok(known),
                Err(why) => first = first.or(Some(why)),
            }
        }
        Err(first.unwrap_or_default())
    }
}

pub(crate) fn lineage(lineage: &Option<LineagePointer>) -> Option<&LineageId> {
    lineage.as_ref().map(|lineage| &lineage.lineage)
}

pub(crate) fn manifest(lineage: &Option<LineagePointer>) -> Option<&ManifestReference> {
    lineage.as_ref().map(|lineage| &lineage.manifest)
}
