//! Writers that publish small releases, and a witness that knows every swing and checks what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use roaring::RoaringBitmap;
use verdigris_core::digest::{ContentSum, Digest};
use verdigris_core::edit::{Edited, PublishEdit};
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::index_type::IndexType;
use verdigris_core::manifest::{
    FileEntry, Genesis, LineageId, Manifest, Metric, PublishReason, SegmentEntry, SegmentFiles, SegmentId, Stats,
};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, KeptRelease, ManifestReference, Pointer, Published, UnnamedManifest};
use verdigris_core::position::StreamIdentity;
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::commit::{Patience, swing_with};
use verdigris_store::memory::MemoryStore;
use verdigris_store::publish::{Publication, Releases, publish_with};
use verdigris_store::{CommitError, Store, collection, keys};

pub(crate) const NOW: Timestamp = Timestamp(10 * GRACE_NS);

pub(crate) fn name() -> CollectionName {
    "products".parse().expect("valid")
}

/// Makes the collection on a store without faults.
pub(crate) async fn create(store: &dyn Store) -> Pointer {
    let nonce = "create".to_owned();
    let (name, settings) = (name(), Settings::default());
    let created = collection::create_with(store, &name, &settings, nonce, Timestamp(0), Patience::AT_ONCE).await;
    created.expect("created")
}

/// What a writer published, before it is known whether it landed.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) edited: Edited,
    pub(crate) nonce: String,
    /// Paths that the publish writes.
    pub(crate) paths: Vec<String>,
    files: Vec<(String, Bytes)>,
}

/// A release with one segment more; one row of each older segment is dead in it, and the oldest leaves from the third
/// on, as after a merge.
pub(crate) fn draft(head: &Manifest, writer: &str, nonce: &str) -> Draft {
    let generation = head.generation + 1;
    let id = SegmentId::from(format!("seg-{nonce}"));
    let file = |path: String| {
        let bytes = Bytes::from(format!("{path} of {nonce}"));
        let entry = FileEntry {
            path: path.clone(),
            bytes: bytes.len() as u64,
            digest: Digest::of(&bytes),
        };
        (entry, (path, bytes))
    };
    let (vectors, rows) = (file(keys::vectors_path(&id)), file(keys::rows_path(&id)));
    let segment = SegmentEntry {
        id,
        index_type: IndexType::Flat,
        rows: 3,
        ghosts: 0,
        live: 3,
        live_ghosts: 0,
        newest_generation: generation,
        state_bytes: 0,
        files: SegmentFiles {
            vectors: vectors.0,
            rows: rows.0,
        },
        dead: None,
        unknown: serde_json::Map::new(),
    };
    let oldest = head.segments.iter().map(|segment| segment.id.clone()).min();
    let remove: Vec<SegmentId> = oldest.filter(|_| head.segments.len() >= 2).into_iter().collect();
    let stay = head.segments.iter().filter(|segment| !remove.contains(&segment.id));
    let dead: BTreeMap<SegmentId, RoaringBitmap> = stay
        .map(|segment| (segment.id.clone(), [0].into_iter().collect()))
        .collect();
    let edited = head
        .apply(PublishEdit {
            generation,
            created_at: Timestamp(generation as i64),
            writer: writer.to_owned(),
            nonce: nonce.to_owned(),
            add: vec![segment],
            remove,
            dead,
            content: ContentSum::default(),
            documents: 1,
            checkpoint: head.checkpoint.clone(),
            watermark: None,
            settings: head.settings.clone(),
            stats: Stats::default(),
            reason: PublishReason::Publish,
        })
        .expect("consistent");
    let files = vec![vectors.1, rows.1];
    let mut paths: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
    paths.extend(edited.dead.iter().map(|(path, _)| path.clone()));
    paths.push(edited.manifest.path(nonce));
    Draft {
        edited,
        nonce: nonce.to_owned(),
        paths,
        files,
    }
}

/// The release that the pointer names, or what comes before the first.
pub(crate) async fn head(store: &dyn Store, pointer: &Pointer) -> Manifest {
    match &pointer.active {
        Some(active) => collection::manifest(store, &name(), &active.manifest)
            .await
            .expect("it is named"),
        None => Manifest::genesis(Genesis {
            collection: name(),
            lineage: LineageId::from("lineage".to_owned()),
            metric: Metric::Cosine,
            embedder: EmbedderIdentity::none(3),
            settings: pointer.settings.clone(),
            stream: StreamIdentity(7),
        }),
    }
}

/// The edit of a publish. Where `un_named_since` says so, all older releases are un-named at that time, so that a test
/// needs no fifty.
pub(crate) fn publish_edit(
    pointer: &Pointer,
    release: &KeptRelease,
    epoch: u64,
    nonce: &str,
    un_named_since: Option<Timestamp>,
) -> Result<Pointer, EditRefused> {
    let published = Published {
        release: release.clone(),
        settings: pointer.settings.clone(),
        grace_ns: GRACE_NS,
        other: None,
    };
    let mut next = pointer.publish(epoch, &published, nonce.to_owned(), NOW)?;
    if let Some(since) = un_named_since {
        let older: Vec<KeptRelease> = next.kept.drain(..next.kept.len() - 1).collect();
        let unnamed = older.into_iter().map(|release| UnnamedManifest {
            manifest: release.manifest,
            since,
        });
        next.unnamed.extend(unnamed);
    }
    Ok(next)
}

/// Claims the turn of a writer; its epoch is in the pointer that comes back.
pub(crate) async fn claim(store: &dyn Store, id: &str, nonce: &str) -> Result<Pointer, CommitError> {
    let own = nonce.to_owned();
    let edit = |p: &Pointer| p.claim(id, own.clone(), NOW);
    swing_with(store, &name(), nonce.to_owned(), edit, Patience::AT_ONCE).await
}

/// Publishes a draft through the product's own code.
pub(crate) async fn publish(
    store: &dyn Store,
    draft: &Draft,
    epoch: u64,
    scratch: &Path,
    un_named_since: Option<Timestamp>,
) -> Result<Pointer, CommitError> {
    publish_patiently(store, draft, epoch, scratch, un_named_since, Patience::AT_ONCE).await
}

/// [`publish`] with another patience.
pub(crate) async fn publish_patiently(
    store: &dyn Store,
    draft: &Draft,
    epoch: u64,
    scratch: &Path,
    un_named_since: Option<Timestamp>,
    patience: Patience,
) -> Result<Pointer, CommitError> {
    let mut files = Vec::new();
    for (n, (path, bytes)) in draft.files.iter().enumerate() {
        let file = scratch.join(format!("{}-{n}", draft.nonce));
        std::fs::write(&file, bytes).expect("written");
        files.push((path.clone(), file));
    }
    let publication = Publication {
        edited: &draft.edited,
        other: None,
        files,
        nonce: draft.nonce.clone(),
    };
    let edit =
        |p: &Pointer, releases: &Releases| publish_edit(p, &releases.release, epoch, &draft.nonce, un_named_since);
    publish_with(store, &name(), publication, edit, patience).await
}

// === The witness ===

/// What a swing is for, by its nonce.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Claim,
    Publish { id: String, epoch: u64 },
    Settings,
}

#[derive(Debug, Default)]
struct Seen {
    purposes: BTreeMap<String, Purpose>,
    last: Option<Pointer>,
    landed: BTreeSet<String>,
    never: BTreeSet<String>,
    outcomes: BTreeMap<&'static str, u64>,
    errors: Vec<String>,
}

/// Knows every swing, and checks I-2 to I-5 and I-10 after each call of the store.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    store: Arc<MemoryStore>,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    pub(crate) fn new(store: Arc<MemoryStore>) -> Self {
        Self {
            store,
            seen: Arc::default(),
        }
    }

    pub(crate) fn expect(&self, nonce: &str, purpose: Purpose) {
        self.seen
            .lock()
            .expect("one thread")
            .purposes
            .insert(nonce.to_owned(), purpose);
    }

    /// Takes what a writer was told of a swing (I-5).
    pub(crate) fn told(&self, nonce: &str, result: &Result<Pointer, CommitError>) {
        self.look();
        let mut seen = self.seen.lock().expect("one thread");
        let landed = seen.landed.contains(nonce);
        let outcome = match result {
            Ok(_) => {
                assert!(landed, "I-5: {nonce} is told committed, but is not in the history");
                "committed"
            }
            Err(CommitError::Unknown(_)) => "unknown",
            Err(error) => {
                assert!(
                    !landed,
                    "I-5: {nonce} is told not made ({error}), but is in the history"
                );
                seen.never.insert(nonce.to_owned());
                seen.errors.push(format!("{nonce}: {error}"));
                "not made"
            }
        };
        *seen.outcomes.entry(outcome).or_default() += 1;
    }

    /// What writers were told of swings that were not made.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.seen.lock().expect("one thread").errors.clone()
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        self.seen.lock().expect("one thread").outcomes.clone()
    }

    pub(crate) fn pointer(&self) -> Pointer {
        let bytes = self.store.look(&keys::pointer(&name())).expect("there is a pointer");
        Pointer::decode(&bytes).expect("whole")
    }

    /// Looks at the store: at the swing that was made, if one was, and at everything that is named.
    pub(crate) fn look(&self) {
        let pointer = self.pointer();
        let mut seen = self.seen.lock().expect("one thread");
        let before = seen.last.replace(pointer.clone());
        if let Some(before) = before.filter(|before| before.nonce != pointer.nonce) {
            check_swing(&mut seen, &before, &pointer);
        }
        drop(seen);
        self.check_named(&pointer);
    }

    /// I-2 and I-10: what the pointer names, or named within the grace, is there with the right digests.
    fn check_named(&self, pointer: &Pointer) {
        for reference in named(pointer) {
            let object = |path: &str| {
                let found = self.store.look(&keys::object(&name(), path));
                found.unwrap_or_else(|| panic!("I-2, I-10: {path} of {} is not there", reference.path))
            };
            let bytes = object(&reference.path);
            assert_eq!(Digest::of(&bytes), reference.digest, "I-2: {}", reference.path);
            let manifest = Manifest::decode(&bytes).expect("whole");
            for segment in &manifest.segments {
                for entry in [&segment.files.vectors, &segment.files.rows] {
                    assert_eq!(Digest::of(&object(&entry.path)), entry.digest, "I-2: {}", entry.path);
                }
                if let Some(dead) = &segment.dead {
                    verdigris_core::dead::decode(&object(&dead.path), dead).expect("I-2: dead rows");
                }
            }
        }
    }
}

/// What the pointer names, or named within the grace: said here once more, so that the product's own idea of it is
/// tested too.
pub(crate) fn named(pointer: &Pointer) -> Vec<ManifestReference> {
    let lineages = pointer
        .active
        .iter()
        .chain(&pointer.other)
        .map(|lineage| &lineage.manifest);
    let kept = pointer.kept.iter().map(|release| &release.manifest);
    let lately = pointer
        .unnamed
        .iter()
        .filter(|unnamed| NOW.0 - unnamed.since.0 < GRACE_NS);
    lineages
        .chain(kept)
        .chain(lately.map(|unnamed| &unnamed.manifest))
        .cloned()
        .collect()
}

fn check_swing(seen: &mut Seen, before: &Pointer, pointer: &Pointer) {
    let nonce = &pointer.nonce;
    let purpose = seen
        .purposes
        .get(nonce)
        .unwrap_or_else(|| panic!("nobody swings as {nonce}"))
        .clone();
    assert_eq!(pointer.sequence, before.sequence + 1, "the sequence rises by one");
    let publishes = u64::from(matches!(purpose, Purpose::Publish { .. }));
    assert_eq!(
        pointer.generation,
        before.generation + publishes,
        "I-3: one generation per publish"
    );
    if let Purpose::Publish { id, epoch } = purpose {
        let turn = before.writer.as_ref().map(|writer| (writer.id.clone(), writer.epoch));
        assert_eq!(
            turn,
            Some((id, epoch)),
            "I-4: {nonce} swung after its writer had lost its turn"
        );
    }
    assert!(seen.landed.insert(nonce.clone()), "{nonce} landed twice");
    assert!(
        !seen.never.contains(nonce),
        "I-5: {nonce} landed after its writer was told that it was not made"
    );
}
