//! What is judged of the lineage beside the active one: moves of traffic to it, what a publish carries of it, and windows
//! that are published as a candidate alone.

use verdigris_core::manifest::Manifest;
use verdigris_core::pointer::{LineagePointer, LineageRole, Pointer};

use super::judge::{Judge, Known, lineage, manifest};
use super::model::Model;
use super::{Verdict, hold};

/// Whether a publish leaves what answers as it is, and names a candidate that is ahead of it.
pub(crate) fn is_candidate_alone(before: &Pointer, after: &Pointer) -> bool {
    let is_newest = |other: &LineagePointer| other.generation == after.generation;
    before.active.is_some() && before.active == after.active && after.other.as_ref().is_some_and(is_newest)
}

impl Judge {
    pub(crate) fn flipped(&mut self, before: &Pointer, after: &Pointer) -> Verdict<()> {
        let (Some(left), Some(comes)) = (&before.active, &before.other) else {
            return Err("I-19: a flip without another lineage".to_owned());
        };
        let now = after.active.as_ref().expect("checked before");
        hold(now.lineage == comes.lineage && now.manifest == comes.manifest, || {
            "I-19: a flip to a stranger".to_owned()
        })?;
        let is_return = comes.role == LineageRole::WayBack;
        let wanted = self.wanted.iter();
        let wanted = wanted.filter(|wanted| wanted.lineage == comes.lineage && wanted.is_return == is_return);
        // It may have been asked for more than once, and in either way.
        let is_stale = wanted.map(|wanted| wanted.stale).max();
        let is_stale = is_stale.ok_or("I-19: a flip that nobody asked for")?;
        let checkpoint = |lineage: &LineagePointer| self.known(&lineage.manifest).map(|known| known.checkpoint);
        // A candidate that is ahead was published alone, and nothing else was since.
        let is_level = comes.generation >= left.generation && checkpoint(comes) >= checkpoint(left);
        hold(is_stale || is_level, || {
            format!("I-9: a flip to generation {} of {}", comes.generation, left.generation)
        })?;
        if comes.generation > left.generation {
            self.counts.count("promotions ahead");
        }
        let is_held = before.promotion_hold.is_some() || before.publish_hold().is_some();
        hold(is_return || !is_held, || "I-9: promoted while held".to_owned())?;
        hold(!is_return || after.promotion_hold.is_some(), || {
            "I-9: a return that does not stick".to_owned()
        })?;
        hold(manifest(&after.other) == Some(&left.manifest), || {
            "I-9: the way back is gone".to_owned()
        })?;
        let theirs = before.other_settings.as_ref().unwrap_or(&before.settings);
        hold(after.settings == *theirs, || {
            "I-17: settings did not change places".to_owned()
        })?;
        hold(after.other_settings.as_ref() == Some(&before.settings), || {
            "I-17: settings of the way back are not its own".to_owned()
        })?;
        hold(after.staged.is_none(), || {
            "I-3: a staged release outlives its lineage".to_owned()
        })?;
        self.counts.count(if is_return { "returns" } else { "promotions" });
        Ok(())
    }

    /// I-18: the other lineage of the same generation holds the same.
    pub(crate) fn carried(
        &mut self,
        active: &Manifest,
        other: &LineagePointer,
        known: Known,
        model: &Model,
    ) -> Verdict<()> {
        self.reading.whole(&other.manifest)?;
        let manifest = self.reading.manifest(&other.manifest)?;
        let shown = || format!("I-18: generation {} of {}", manifest.generation, other.lineage);
        hold(manifest.content == active.content, || {
            format!("{}: other content", shown())
        })?;
        hold(manifest.documents == active.documents, || {
            format!("{}: other documents", shown())
        })?;
        hold(manifest.checkpoint == active.checkpoint, || {
            format!("{}: another checkpoint", shown())
        })?;
        let documents = model.documents(known.checkpoint, &known.left_out, &known.absent);
        self.reading
            .check(&manifest, &documents)
            .map_err(|why| format!("I-18: {why}"))?;
        if manifest.reason == verdigris_core::manifest::PublishReason::Merge {
            self.counts.count("merges of the other");
        }
        self.counts.count("carried");
        self.know(&other.manifest, known);
        Ok(())
    }

    /// A window that is published as a candidate alone: a lineage of its own, made from what answers.
    pub(crate) fn candidate_alone(&mut self, before: &Pointer, after: &Pointer, model: &Model) -> Verdict<()> {
        let other = after.other.as_ref().ok_or("I-3: a candidate alone that is not there")?;
        self.reading.whole(&other.manifest)?;
        let manifest = self.reading.manifest(&other.manifest)?;
        let shown = format!("candidate {} of {}", manifest.generation, other.lineage);
        let taken = before
            .other
            .as_ref()
            .is_some_and(|other| other.role == LineageRole::Candidate);
        hold(!taken && before.builds.is_empty(), || {
            format!("I-18: {shown} takes the place of another")
        })?;
        hold(
            other.role == LineageRole::Candidate && Some(&other.lineage) != lineage(&before.active),
            || format!("I-3: {shown} is none"),
        )?;
        let parent = before.active.as_ref().map(|active| active.generation);
        hold(
            manifest.generation == after.generation && manifest.parent == parent,
            || format!("I-3: {shown} follows {:?}", manifest.parent),
        )?;
        let known = self.went_on(before, after, &manifest, model);
        let known = known.map_err(|why| format!("{why}: {shown}"))?;
        let known = self.settled(&manifest, known, model)?;
        self.counts.count("candidates alone");
        self.note_published(after.generation, known.checkpoint);
        self.know(&other.manifest, known);
        Ok(())
    }
}
