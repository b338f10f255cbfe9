//! Who acts in the model: indexers, which write releases and swing, and the owner of rollouts, which only swings.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::collector::Collecting;
use super::purpose::{BuiltPart, Purpose, Releases, Swing};
use super::store::{Body, Disk, content, kept, segment_of};
use super::{Budget, Wish};
use crate::commit::Outcome;
use crate::digest::Digest;
use crate::manifest::{LineageId, Manifest, PublishReason};
use crate::pointer::{Build, EditRefused, Flip, Hold, HoldKind, LineageRole, Pointer};

/// What is to be published: objects, then the swing that names them.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) nonce: String,
    pub(super) purpose: Purpose,
    /// What is written at once, the first first.
    pub(super) groups: Vec<Vec<(String, Body)>>,
}

#[derive(Clone)]
pub(super) enum Work {
    Idle,
    Writing(Arc<Draft>),
    Swinging(Swing),
    /// It lost its turn, and never claims again by itself.
    Over,
}

/// A process that indexes.
#[derive(Clone)]
pub(super) struct Indexer {
    name: &'static str,
    /// Which process of this name it is.
    life: u32,
    drawn: u32,
    pub(super) epoch: Option<u64>,
    pub(super) work: Work,
    pub(super) collecting: Option<Collecting>,
}

impl Indexer {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            life: 1,
            drawn: 0,
            epoch: None,
            work: Work::Idle,
            collecting: None,
        }
    }

    pub(super) fn id(&self) -> String {
        format!("{}{}", self.name, self.life)
    }

    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            life: self.life + 1,
            ..Self::new(self.name)
        };
    }

    pub(super) fn is_busy(&self) -> bool {
        self.collecting.is_some() || !matches!(self.work, Work::Idle | Work::Over)
    }

    /// Beginnings of the keys that it may yet name.
    pub(super) fn writing(&self) -> Vec<String> {
        let (nonce, purpose) = match &self.work {
            Work::Writing(draft) => (&draft.nonce, &draft.purpose),
            Work::Swinging(swing) => (&swing.nonce, &*swing.purpose),
            Work::Idle | Work::Over => return Vec::new(),
        };
        let mut writing = vec![format!("segments/{nonce}")];
        if let Purpose::Publish { published, .. } | Purpose::RollBack { published, .. } = purpose {
            let releases = [Some(&published.release), published.other.as_ref()];
            writing.extend(
                releases
                    .into_iter()
                    .flatten()
                    .map(|release| release.manifest.path.clone()),
            );
        }
        writing
    }

    pub(super) fn wishes(&self, pointer: &Pointer, budget: &Budget) -> Vec<Wish> {
        if self.epoch.is_none() {
            return [Wish::Claim].into_iter().filter(|_| budget.claims > 0).collect();
        }
        let build = pointer.builds.first();
        let is_beside = pointer.other.is_some() || build.is_some();
        let may_follow = pointer.other.is_some() || build.is_some_and(|build| build.rows_done == build.rows);
        let is_held = pointer.publish_hold().is_some();
        let wishes = [
            (Wish::Publish, budget.publishes > 0 && !is_held),
            (Wish::Follow, budget.follows > 0 && !is_held && may_follow),
            (Wish::Build, budget.builds > 0 && !is_beside),
            (Wish::Part, build.is_some_and(|build| build.rows_done < build.rows)),
            (Wish::RollBack, budget.rollbacks > 0 && pointer.kept.len() > 1),
            (Wish::Resume, is_held),
            (Wish::Forget, budget.forgotten > 0 && pointer.kept.len() > 1),
        ];
        wishes
            .into_iter()
            .filter(|(_, may)| *may)
            .map(|(wish, _)| wish)
            .collect()
    }

    /// Where a collection may look, objects are written one group after the other; nobody else sees what is not named.
    pub(super) fn begin(&mut self, wish: Wish, disk: &Disk, is_seen: bool) {
        self.drawn += 1;
        let nonce = format!("{}-{}", self.id(), self.drawn);
        let by = By {
            id: self.id(),
            epoch: self.epoch.unwrap_or(0),
            nonce: nonce.clone(),
        };
        let (purpose, mut groups) = by.draft(wish, disk);
        if !is_seen && !groups.is_empty() {
            groups = vec![groups.concat()];
        }
        self.work = if groups.is_empty() {
            Work::Swinging(Swing::new(purpose, &nonce))
        } else {
            Work::Writing(Arc::new(Draft { nonce, purpose, groups }))
        };
    }

    pub(super) fn go_on(&mut self, outcome: &Outcome) {
        self.work = match outcome {
            Outcome::Lost(EditRefused::LostTurn { .. }) => Work::Over,
            _ => Work::Idle,
        };
        if let Outcome::Committed(pointer) = outcome
            && self.epoch.is_none()
        {
            self.epoch = pointer.writer.as_ref().map(|writer| writer.epoch);
        }
    }
}

type Groups = Vec<Vec<(String, Body)>>;

/// Who drafts something, and under which nonce.
struct By {
    id: String,
    epoch: u64,
    nonce: String,
}

impl By {
    fn draft(&self, wish: Wish, disk: &Disk) -> (Purpose, Groups) {
        let (pointer, epoch) = (&disk.pointer, self.epoch);
        let none = Vec::new();
        match wish {
            Wish::Claim => (Purpose::Claim { id: self.id.clone() }, none),
            Wish::Resume => (Purpose::Resume { epoch }, none),
            Wish::Forget => {
                let path = pointer.kept[0].manifest.path.clone();
                (Purpose::Forget { epoch, path }, none)
            }
            Wish::Build => (self.build(disk), none),
            Wish::Part => self.part(disk),
            Wish::Publish => self.publish(disk, false),
            Wish::Follow => self.publish(disk, true),
            Wish::RollBack => self.roll_back(disk),
            Wish::Flip | Wish::Drop => unreachable!("an owner's wish"),
        }
    }

    fn build(&self, disk: &Disk) -> Purpose {
        let active = disk.pointer.active.as_ref().expect("there is one from the beginning");
        let (source, _) = disk.manifest(&active.manifest.path).expect("named");
        let build = Build {
            lineage: LineageId::from(format!("of-{}", self.nonce)),
            settings: super::store::settings(),
            source: active.manifest.clone(),
            source_generation: active.generation,
            parts: Vec::new(),
            rows_done: 0,
            rows: source.checkpoint.sequence,
            content: content(0),
            documents: 0,
            actor: "ada".to_owned(),
            reason: "a new index".to_owned(),
            since: disk.now,
        };
        Purpose::Build {
            epoch: self.epoch,
            build: Box::new(build),
        }
    }

    /// All that is left of a build, as one part.
    fn part(&self, disk: &Disk) -> (Purpose, Groups) {
        let build = &disk.pointer.builds[0];
        let rows: BTreeSet<u64> = (build.rows_done + 1..=build.rows).collect();
        let segment = segment_of(&self.nonce, &rows);
        let group = vec![(segment.files.rows.path.clone(), Body::Segment(rows))];
        let part = BuiltPart {
            segment,
            rows_done: build.rows,
            content: content(build.rows),
        };
        let purpose = Purpose::Part {
            epoch: self.epoch,
            lineage: build.lineage.clone(),
            part: Box::new(part),
        };
        (purpose, vec![group])
    }

    /// A release with one more event; where it `follows`, the other lineage's too, which takes over what it lacks.
    fn publish(&self, disk: &Disk, follows: bool) -> (Purpose, Groups) {
        let pointer = &disk.pointer;
        let active = pointer.active.as_ref().expect("there is one from the beginning");
        let mut manifest = disk.manifest(&active.manifest.path).expect("named").0.clone();
        let checkpoint = manifest.checkpoint.sequence + 1;
        let (generation, events) = (pointer.generation + 1, BTreeSet::from([checkpoint]));
        let entry = segment_of(&format!("{}-of-active", self.nonce), &events);
        let mut files = vec![(entry.files.rows.path.clone(), Body::Segment(events))];
        manifest.grow(entry, generation, checkpoint, disk.now);
        let mut manifests = Vec::new();
        let release = self.release(&manifest, &mut manifests);
        let other = follows.then(|| {
            let mut other = other(disk, &manifest);
            let lacks: BTreeSet<u64> = (other.checkpoint.sequence + 1..=checkpoint).collect();
            let entry = segment_of(&format!("{}-of-other", self.nonce), &lacks);
            files.push((entry.files.rows.path.clone(), Body::Segment(lacks)));
            other.grow(entry, generation, checkpoint, disk.now);
            self.release(&other, &mut manifests)
        });
        let published = Box::new(Releases { release, other });
        let epoch = self.epoch;
        (Purpose::Publish { epoch, published }, vec![files, manifests])
    }

    fn roll_back(&self, disk: &Disk) -> (Purpose, Groups) {
        let pointer = &disk.pointer;
        let mut manifest = disk.manifest(&pointer.kept[0].manifest.path).expect("named").0.clone();
        manifest.parent = Some(pointer.generation);
        (manifest.generation, manifest.created_at) = (pointer.generation + 1, disk.now);
        manifest.reason = PublishReason::Rollback {
            actor: "ada".to_owned(),
            words: "a bad feed".to_owned(),
        };
        let hold = Hold {
            kind: HoldKind::Publish,
            actor: "ada".to_owned(),
            reason: "a bad feed".to_owned(),
            since: disk.now,
        };
        let mut manifests = Vec::new();
        let release = self.release(&manifest, &mut manifests);
        let published = Box::new(Releases { release, other: None });
        let epoch = self.epoch;
        (Purpose::RollBack { epoch, published, hold }, vec![manifests])
    }

    fn release(&self, manifest: &Manifest, manifests: &mut Vec<(String, Body)>) -> crate::pointer::KeptRelease {
        let path = manifest.path(&self.nonce);
        let release = kept(&path, manifest);
        let body = Body::Manifest(Box::new(manifest.clone()), release.manifest.digest);
        manifests.push((path, body));
        release
    }
}

/// The other lineage as it is: named, or what its build has written.
fn other(disk: &Disk, like: &Manifest) -> Manifest {
    if let Some(other) = &disk.pointer.other {
        return disk.manifest(&other.manifest.path).expect("named").0.clone();
    }
    let build = &disk.pointer.builds[0];
    let mut manifest = like.clone();
    manifest.lineage = build.lineage.clone();
    manifest.segments = build.parts.clone();
    manifest.checkpoint.sequence = build.rows;
    manifest
}

/// The owner of rollouts.
#[derive(Clone)]
pub(super) struct Owner {
    life: u32,
    drawn: u32,
    epoch: Option<u64>,
    pub(super) swing: Option<Swing>,
}

impl Default for Owner {
    fn default() -> Self {
        Self {
            life: 1,
            drawn: 0,
            epoch: None,
            swing: None,
        }
    }
}

impl Owner {
    pub(super) fn id(&self) -> String {
        format!("up/{}", self.life)
    }

    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            life: self.life + 1,
            ..Self::default()
        };
    }

    pub(super) fn wishes(&self, pointer: &Pointer, budget: &Budget) -> Vec<Wish> {
        if self.epoch.is_none() {
            return vec![Wish::Claim];
        }
        let beside = pointer.other.is_some() || !pointer.builds.is_empty();
        let wishes = [
            (Wish::Flip, budget.flips > 0 && pointer.other.is_some()),
            (Wish::Drop, budget.drops > 0 && beside),
        ];
        wishes
            .into_iter()
            .filter(|(_, may)| *may)
            .map(|(wish, _)| wish)
            .collect()
    }

    pub(super) fn begin(&mut self, wish: Wish, disk: &Disk) {
        self.drawn += 1;
        let (pointer, epoch) = (&disk.pointer, self.epoch.unwrap_or(0));
        let flip = |lineage: &LineageId| Flip {
            lineage: lineage.clone(),
            actor: "ada".to_owned(),
            reason: "it passed".to_owned(),
            stale: false,
        };
        let purpose = match (wish, &pointer.other) {
            (Wish::Flip, Some(other)) if other.role == LineageRole::WayBack => {
                let flip = flip(&other.lineage);
                Purpose::Return { epoch, flip }
            }
            (Wish::Flip, Some(other)) => {
                let flip = flip(&other.lineage);
                Purpose::Flip { epoch, flip }
            }
            (Wish::Drop, _) => {
                let (lineage, _) = pointer.beside().expect("there is one");
                let lineage = lineage.clone();
                Purpose::Drop { epoch, lineage }
            }
            _ => Purpose::Own { id: self.id() },
        };
        self.swing = Some(Swing::new(purpose, &format!("{}-{}", self.id(), self.drawn)));
    }

    pub(super) fn go_on(&mut self, outcome: &Outcome) {
        self.swing = None;
        if let Outcome::Committed(pointer) = outcome
            && self.epoch.is_none()
        {
            self.epoch = pointer.owner.as_ref().map(|owner| owner.epoch);
        }
    }
}

// === digests ===

impl Swing {
    /// What is to come of it: whatever it follows, if that is not what the pointer is any more, is of no account.
    fn state(&self, disk: &Disk) -> String {
        let sent = self.sent.map(|(body, tag)| (tag == disk.tag).then_some(body));
        let is_write = matches!(self.commit.step(), crate::commit::Step::Write { .. });
        let is_made = disk.made.contains(&self.nonce);
        format!(
            "{} {sent:?} {is_write} {is_made} {}",
            self.digest,
            self.commit.is_unsettled()
        )
    }
}

impl Indexer {
    pub(super) fn state(&self, disk: &Disk) -> String {
        let work = match &self.work {
            Work::Idle => "idle".to_owned(),
            Work::Over => return "over".to_owned() + &format!("{:?}", self.collecting),
            Work::Writing(draft) => {
                let purpose = Digest::of(format!("{:?}", draft.purpose).as_bytes());
                format!("{} {} {purpose}", draft.nonce, draft.groups.len())
            }
            Work::Swinging(swing) => swing.state(disk),
        };
        format!(
            "{} {} {:?} {work} {:?}",
            self.life, self.drawn, self.epoch, self.collecting
        )
    }
}

impl Owner {
    pub(super) fn state(&self, disk: &Disk) -> String {
        let swing = self.swing.as_ref().map(|swing| swing.state(disk));
        format!("{} {} {:?} {swing:?}", self.life, self.drawn, self.epoch)
    }
}
