//! The store of the model, and the judge of all that is done to it: each swing as it lands, each removal as it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::purpose::Purpose;
use super::{Verdict, hold};
use crate::digest::{ContentSum, Digest};
use crate::embedder::EmbedderIdentity;
use crate::garbage::{GRACE_NS, keys_of, keys_of_builds};
use crate::manifest::{Genesis, Manifest, PublishReason, SegmentEntry, SettingsReference};
use crate::merge::tests::segment;
use crate::pointer::{KeptRelease, LineagePointer, ManifestReference, Pointer, Published};
use crate::position::StreamIdentity;
use crate::timestamp::Timestamp;

/// What lies under a key.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// A segment, by the events that its rows come from.
    Segment(BTreeSet<u64>),
    Manifest(Box<Manifest>, Digest),
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) body: Arc<Body>,
    pub(super) modified: Timestamp,
}

/// A write of the pointer.
#[derive(Clone)]
pub(super) struct Landing {
    pub(super) by: String,
    pub(super) nonce: String,
    pub(super) purpose: Arc<Purpose>,
    pub(super) body: Arc<[u8]>,
    pub(super) tag: u64,
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) pointer: Arc<Pointer>,
    /// Of what the pointer says, without what is only counted up.
    pub(super) sketch: Digest,
    pub(super) tag: u64,
    pub(super) now: Timestamp,
    pub(super) objects: Arc<BTreeMap<String, Object>>,
    /// Nonces of all swings that were made, and of those that were told as lost.
    pub(super) made: BTreeSet<String>,
    pub(super) lost: BTreeSet<String>,
    /// Manifests that were named, and until when.
    pub(super) until: BTreeMap<String, Timestamp>,
}

pub(super) fn settings() -> SettingsReference {
    SettingsReference {
        version: 1,
        digest: Digest::of(b"settings"),
    }
}

/// What documents a release has, by its checkpoint.
pub(super) fn content(checkpoint: u64) -> ContentSum {
    let mut content = ContentSum::default();
    (1..=checkpoint).for_each(|event| content.add(&Digest::of(&event.to_be_bytes())));
    content
}

/// A segment of rows of these events, named by a nonce.
pub(super) fn segment_of(nonce: &str, events: &BTreeSet<u64>) -> SegmentEntry {
    let rows = events.len() as u32;
    let mut entry = segment(nonce, rows, rows);
    let path = format!("segments/{nonce}/files");
    (entry.files.vectors.path, entry.files.rows.path) = (path.clone(), path);
    entry
}

pub(super) fn reference(path: &str, manifest: &Manifest) -> ManifestReference {
    ManifestReference {
        path: path.to_owned(),
        digest: Digest::of(&manifest.encode()),
    }
}

pub(super) fn kept(path: &str, manifest: &Manifest) -> KeptRelease {
    KeptRelease {
        generation: manifest.generation,
        lineage: manifest.lineage.clone(),
        manifest: reference(path, manifest),
        created_at: manifest.created_at,
        checkpoint: manifest.checkpoint.sequence,
        pinned: false,
        facts: None,
    }
}

/// Every manifest that answers, may answer, is kept, or is read by a build.
pub(super) fn named(pointer: &Pointer) -> impl Iterator<Item = &ManifestReference> {
    let lineages = [&pointer.active, &pointer.other].into_iter().flatten();
    let kept = pointer.kept.iter().map(|kept| &kept.manifest);
    let sources = pointer.builds.iter().map(|build| &build.source);
    lineages.map(|lineage| &lineage.manifest).chain(kept).chain(sources)
}

fn manifest_of(lineage: &Option<LineagePointer>) -> Option<&str> {
    lineage.as_ref().map(|lineage| lineage.manifest.path.as_str())
}

impl Disk {
    /// Two releases of a lineage, by a writer that said goodbye.
    pub(super) fn with_two_releases() -> Self {
        let collection: crate::names::CollectionName = "products".parse().expect("valid");
        let first = Pointer::first(collection.clone(), settings(), "first".to_owned(), Timestamp(0));
        let claimed = first.claim("seed", "claim".to_owned(), Timestamp(0)).expect("free");
        let mut manifest = Manifest::genesis(Genesis {
            collection,
            lineage: "l".to_owned().into(),
            metric: crate::manifest::Metric::Cosine,
            embedder: EmbedderIdentity::none(4),
            settings: settings(),
            stream: StreamIdentity(1),
        });
        let mut disk = Self {
            sketch: Digest::of(b""),
            pointer: Arc::new(claimed),
            tag: 1,
            now: Timestamp(1),
            objects: Arc::default(),
            made: BTreeSet::new(),
            lost: BTreeSet::new(),
            until: BTreeMap::new(),
        };
        for event in 1..=2 {
            let (nonce, events) = (format!("seed{event}"), BTreeSet::from([event]));
            let entry = segment_of(&nonce, &events);
            disk.create(entry.files.rows.path.clone(), Body::Segment(events));
            manifest.grow(entry, event, event, disk.now);
            let path = manifest.path(&nonce);
            let published = Published {
                release: kept(&path, &manifest),
                settings: settings(),
                grace_ns: GRACE_NS,
                other: None,
            };
            let digest = published.release.manifest.digest;
            disk.create(path, Body::Manifest(Box::new(manifest.clone()), digest));
            let next = disk.pointer.publish(1, &published, nonce, disk.now);
            disk.pointer = Arc::new(next.expect("its turn"));
        }
        let ended = disk
            .pointer
            .goodbye(1, "goodbye".to_owned(), disk.now)
            .expect("its turn");
        disk.pointer = Arc::new(ended);
        let paths = named(&disk.pointer).map(|named| (named.path.clone(), Timestamp(i64::MAX)));
        disk.until = paths.collect();
        disk.sketch = sketch(&disk.pointer);
        disk.whole().expect("whole");
        disk
    }

    pub(super) fn create(&mut self, key: String, body: Body) {
        let object = Object {
            body: Arc::new(body),
            modified: self.now,
        };
        let before = Arc::make_mut(&mut self.objects).insert(key, object);
        assert!(before.is_none(), "keys hold nonces");
    }

    pub(super) fn manifest(&self, path: &str) -> Option<(&Manifest, &Digest)> {
        match &*self.objects.get(path)?.body {
            Body::Manifest(manifest, digest) => Some((manifest, digest)),
            Body::Segment(_) => None,
        }
    }

    /// The store's part of a swing, and what must hold of each. True where it was made.
    pub(super) fn compare_and_swap(&mut self, landing: &Landing) -> Verdict<bool> {
        if landing.tag != self.tag {
            return Ok(false);
        }
        let after = Pointer::decode(&landing.body).map_err(|error| format!("{error}"))?;
        let (before, by) = (self.pointer.clone(), &landing.by);
        hold(after.sequence == before.sequence + 1, || {
            "the sequence rises by one".to_owned()
        })?;
        hold(after.nonce == landing.nonce, || {
            "I-5: a swing with another nonce".to_owned()
        })?;
        hold(self.made.insert(landing.nonce.clone()), || {
            format!("I-5: {} is made twice", landing.nonce)
        })?;
        hold(!self.lost.contains(&landing.nonce), || {
            format!("I-5: {} is made after it was told as lost", landing.nonce)
        })?;
        allowed(by, &landing.purpose, &before, &after)?;
        self.grown(&landing.purpose, &before, &after)?;
        let named: BTreeSet<&str> = named(&after).map(|named| named.path.as_str()).collect();
        for (path, until) in &mut self.until {
            if until.0 == i64::MAX && !named.contains(path.as_str()) {
                *until = after.updated_at;
            }
        }
        let named = named.into_iter().map(|path| (path.to_owned(), Timestamp(i64::MAX)));
        self.until.extend(named);
        (self.sketch, self.pointer, self.tag) = (sketch(&after), Arc::new(after), self.tag + 1);
        self.whole()?;
        Ok(true)
    }

    /// I-3: generations, and what each release holds.
    fn grown(&self, purpose: &Purpose, before: &Pointer, after: &Pointer) -> Verdict<()> {
        let is_publish = matches!(purpose, Purpose::Publish { .. } | Purpose::RollBack { .. });
        hold(after.generation == before.generation + u64::from(is_publish), || {
            format!("I-3: generation {} after {}", after.generation, before.generation)
        })?;
        let (was, is) = (self.active(before)?, self.active(after)?);
        let (from, to) = (was.checkpoint.sequence, is.checkpoint.sequence);
        match purpose {
            Purpose::Publish { .. } => {
                let follows = is.parent == Some(was.generation) && is.lineage == was.lineage;
                hold(follows && (to == from || to == from + 1), || {
                    format!("I-3: a release up to {to} is published after one up to {from}")
                })?;
            }
            Purpose::RollBack { .. } => {
                let hold_after = after.publish_hold();
                hold(hold_after.is_some_and(|hold| !hold.actor.is_empty()), || {
                    "I-3: back without a record of who and why".to_owned()
                })?;
            }
            // Two that change places hold the same.
            _ => hold(to == from, || format!("I-3: from {from} to {to} without a publish"))?,
        }
        for lineage in [&after.active, &after.other].into_iter().flatten() {
            let path = &lineage.manifest.path;
            let (manifest, _) = self.manifest(path).ok_or_else(|| format!("I-2: {path} is not there"))?;
            self.holds_its_events(manifest)?;
        }
        Ok(())
    }

    fn active(&self, pointer: &Pointer) -> Verdict<&Manifest> {
        let path = manifest_of(&pointer.active).ok_or("I-8: nothing answers")?;
        let found = self.manifest(path).ok_or_else(|| format!("I-2: {path} is not there"));
        Ok(found?.0)
    }

    /// Each event up to the checkpoint once, whichever lineage it is.
    fn holds_its_events(&self, manifest: &Manifest) -> Verdict<()> {
        let mut events = Vec::<u64>::new();
        for entry in &manifest.segments {
            let path = &entry.files.rows.path;
            match self.objects.get(path).map(|object| &*object.body) {
                Some(Body::Segment(rows)) => events.extend(rows),
                _ => return Err(format!("I-2: {path} is not there")),
            }
        }
        events.sort_unstable();
        let expected: Vec<u64> = (1..=manifest.checkpoint.sequence).collect();
        hold(events == expected, || {
            format!(
                "I-1: {} of {} holds events {events:?}",
                manifest.generation, manifest.lineage
            )
        })?;
        hold(manifest.content == content(manifest.checkpoint.sequence), || {
            format!(
                "I-18: {} of {} has another content",
                manifest.generation, manifest.lineage
            )
        })
    }

    /// I-2: whatever is named is there, whole.
    pub(super) fn whole(&self) -> Verdict<()> {
        for reference in named(&self.pointer) {
            let path = &reference.path;
            let (manifest, digest) = self.manifest(path).ok_or_else(|| format!("I-2: {path} is not there"))?;
            hold(*digest == reference.digest, || {
                format!("I-2: {path} has another digest")
            })?;
            let missing = keys_of(manifest).find(|key| !self.objects.contains_key(*key));
            hold(missing.is_none(), || format!("I-2: {missing:?} of {path} is not there"))?;
        }
        let missing = keys_of_builds(&self.pointer).find(|key| !self.objects.contains_key(*key));
        hold(missing.is_none(), || {
            format!("I-2: {missing:?} of a build is not there")
        })
    }

    /// I-10: what goes was not named within the grace.
    pub(super) fn remove(&mut self, key: &str) -> Verdict<()> {
        let needs = |path: &str| path == key || self.manifest(path).is_some_and(|(m, _)| keys_of(m).any(|k| k == key));
        let mut lately = self.until.iter().filter(|(path, until)| {
            let is_within = until.0 == i64::MAX || self.now.since(**until) < GRACE_NS;
            is_within && needs(path)
        });
        if let Some((path, _)) = lately.next() {
            return Err(format!("I-10: {key} is removed, which {path} needs"));
        }
        Arc::make_mut(&mut self.objects).remove(key);
        self.whole()
    }
}

impl Manifest {
    /// The next release with one more segment.
    pub(super) fn grow(&mut self, entry: SegmentEntry, generation: u64, checkpoint: u64, now: Timestamp) {
        self.parent = Some(self.generation).filter(|parent| *parent > 0);
        (self.generation, self.created_at) = (generation, now);
        self.reason = PublishReason::Publish;
        self.checkpoint.sequence = checkpoint;
        self.content = content(checkpoint);
        self.segments.push(entry);
    }
}

/// I-4: who swings has the turn of his kind, and leaves alone what is the other kind's.
fn allowed(by: &str, purpose: &Purpose, before: &Pointer, after: &Pointer) -> Verdict<()> {
    let writer = before.writer.as_ref().map(|writer| (writer.id.as_str(), writer.epoch));
    let owner = before.owner.as_ref().map(|owner| (owner.id.as_str(), owner.epoch));
    if let Some(epoch) = purpose.turn() {
        hold(writer == Some((by, epoch)), || {
            format!("I-4: {by} swings in the turn of {writer:?}")
        })?;
    }
    if let Some(epoch) = purpose.ownership() {
        hold(owner == Some((by, epoch)), || {
            format!("I-4: {by} moves traffic of {owner:?}")
        })?;
    }
    let epochs = |pointer: &Pointer| {
        (
            pointer.writer.as_ref().map_or(0, |writer| writer.epoch),
            pointer.owner.as_ref().map_or(0, |owner| owner.epoch),
        )
    };
    let ((w0, o0), (w1, o1)) = (epochs(before), epochs(after));
    let expected = match purpose {
        Purpose::Claim { .. } => (w0 + 1, o0),
        Purpose::Own { .. } => (w0, o0 + 1),
        _ => (w0, o0),
    };
    hold((w1, o1) == expected, || {
        format!("I-4: epochs {:?} after {:?}", (w1, o1), (w0, o0))
    })?;
    if purpose.is_of_owner() {
        return hold(
            before.writer == after.writer && before.generation == after.generation,
            || "I-4: an owner does an indexer's work".to_owned(),
        );
    }
    let same = before.owner == after.owner && before.served == after.served;
    hold(same && before.promotion_hold == after.promotion_hold, || {
        "I-4: an indexer does an owner's work".to_owned()
    })
}

/// What a pointer says, without the names of its swings and their number.
fn sketch(pointer: &Pointer) -> Digest {
    let mut bare = pointer.clone();
    (bare.sequence, bare.nonce, bare.updated_at) = (0, String::new(), Timestamp(0));
    bare.nonces.clear();
    Digest::of(format!("{bare:?}").as_bytes())
}
