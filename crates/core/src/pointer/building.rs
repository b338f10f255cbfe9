//! Edits around a rebuild: a lineage that is written from the rows of a release, part by part, until it is named as the
//! candidate by the publish that brings it level.

use serde::{Deserialize, Serialize};

use super::{EditRefused, LineagePointer, LineageRole, ManifestReference, Pointer, Published};
use crate::digest::ContentSum;
use crate::manifest::{LineageId, SegmentEntry, SettingsReference};
use crate::pointer::KeptRelease;
use crate::timestamp::Timestamp;

/// A lineage that is being built. Nothing else remembers how far it has come: whoever is the writer goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its name.
    pub lineage: LineageId,
    /// What its rows are written by.
    pub settings: SettingsReference,
    /// The release whose rows are read; its files stay as long as the build.
    pub source: ManifestReference,
    /// That release's generation.
    pub source_generation: u64,
    /// Segments that are written, in the order of the source's live rows.
    pub parts: Vec<SegmentEntry>,
    /// Live rows of the source, ghosts included, that lie in these parts.
    pub rows_done: u64,
    /// All of them.
    pub rows: u64,
    /// Sum of the digests of the documents in these parts: equal to the source's in the end.
    pub content: ContentSum,
    /// Documents in these parts that exist.
    pub documents: u64,
    /// Who asked, or which threshold.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// A part that is written whole, and what the build comes to with it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its segment.
    pub segment: SegmentEntry,
    /// Live rows of the source that lie in parts now.
    pub rows_done: u64,
    /// Sum of the digests of their documents.
    pub content: ContentSum,
    /// Those of them that exist.
    pub documents: u64,
}

impl Pointer {
    /// Begins a rebuild. One at a time, and none beside a candidate or a way back: the slot for another lineage is one.
    pub fn begin_build(&self, epoch: u64, build: Build, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let taken = self.other.as_ref().map(|other| other.lineage.clone());
        let taken = taken.or_else(|| self.builds.first().map(|build| build.lineage.clone()));
        if let Some(lineage) = taken {
            return Err(EditRefused::OtherTaken(lineage));
        }
        if self.active.is_none() {
            return Err(EditRefused::NothingToBuildFrom);
        }
        let mut next = self.next(nonce, now);
        next.builds.push(build);
        Ok(next)
    }

    /// Notes a part that is written whole.
    pub fn add_part(
        &self,
        epoch: u64,
        lineage: &LineageId,
        part: Part,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let build = next.builds.iter_mut().find(|build| build.lineage == *lineage);
        let build = build.ok_or_else(|| EditRefused::NotNamed(lineage.clone()))?;
        build.parts.push(part.segment);
        build.rows_done = part.rows_done;
        build.content = part.content;
        build.documents = part.documents;
        Ok(next)
    }

    /// Gives a build up that cannot go on.
    pub fn drop_build(
        &self,
        epoch: u64,
        lineage: &LineageId,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        let before = next.builds.len();
        next.builds.retain(|build| build.lineage != *lineage);
        if next.builds.len() == before {
            return Err(EditRefused::NotNamed(lineage.clone()));
        }
        Ok(next)
    }

    /// The other lineage's part of a publish. One that is no longer named is left out: its owner gave it up.
    pub(super) fn carry(&mut self, release: &KeptRelease, now: Timestamp) {
        let build = self.builds.iter().position(|build| build.lineage == release.lineage);
        match &mut self.other {
            Some(other) if other.lineage == release.lineage => {
                other.generation = release.generation;
                let before = std::mem::replace(&mut other.manifest, release.manifest.clone());
                self.other_release = Some(release.clone());
                self.unname(before, now);
            }
            None => {
                let Some(build) = build else { return };
                let build = self.builds.remove(build);
                self.other_settings = Some(build.settings);
                self.other_release = Some(release.clone());
                self.other = Some(LineagePointer {
                    lineage: release.lineage.clone(),
                    generation: release.generation,
                    manifest: release.manifest.clone(),
                    role: LineageRole::Candidate,
                    since: now,
                });
            }
            Some(_) => {}
        }
    }

    /// A release is published as a candidate alone: the active lineage stays as it is until the candidate is promoted
    /// or given up. A way back makes room.
    pub fn publish_candidate(
        &self,
        epoch: u64,
        published: &Published,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_publishes(epoch, published.release.generation)?;
        let candidate = self.other.as_ref().filter(|other| other.role == LineageRole::Candidate);
        let taken = candidate.map(|other| other.lineage.clone());
        let taken = taken.or_else(|| self.builds.first().map(|build| build.lineage.clone()));
        if let Some(lineage) = taken {
            return Err(EditRefused::OtherTaken(lineage));
        }
        if self.active.is_none() {
            return Err(EditRefused::NothingToBuildFrom);
        }
        let (mut next, release) = (self.next(nonce, now), &published.release);
        next.unname_other(now);
        next.generation = release.generation;
        next.other_settings = Some(published.settings.clone());
        next.other_release = Some(release.clone());
        next.other = Some(LineagePointer {
            lineage: release.lineage.clone(),
            generation: release.generation,
            manifest: release.manifest.clone(),
            role: LineageRole::Candidate,
            since: now,
        });
        next.forget(published.grace_ns, now);
        Ok(next)
    }

    /// The indexer gives up another lineage that it cannot follow.
    pub fn drop_broken(
        &self,
        epoch: u64,
        lineage: &LineageId,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        if self.other.as_ref().is_none_or(|other| other.lineage != *lineage) {
            return Err(EditRefused::NotNamed(lineage.clone()));
        }
        let mut next = self.next(nonce, now);
        next.unname_other(now);
        Ok(next)
    }
}
