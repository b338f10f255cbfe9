//! The pointer: the one object of a collection that ever changes, and the pure edits of it.
//!
//! Sequence and nonce make every content different from every other, so that a store's tag, often the MD5 of the
//! content, never repeats.

mod building;
mod claims;
mod erasing;
mod holding;
#[cfg(test)]
mod model;
mod rollout;
mod settings;
mod staging;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::building::{Build, Part};
pub use self::claims::WriterClaim;
pub use self::erasing::{BuildSource, Erased};
pub use self::rollout::{Approval, Flip, SERVED_KEPT, Served};
pub use self::staging::{RejectedEvents, StagedRelease};
use crate::digest::Digest;
use crate::guards::Facts;
use crate::manifest::{FORMAT_VERSION, LineageId, SettingsReference};
use crate::names::CollectionName;
use crate::timestamp::Timestamp;

/// How many nonces are remembered: a writer that was not told its outcome finds its own among them, unless more than
/// this many swings went by meanwhile.
pub const NONCES_KEPT: usize = 64;

/// A manifest as the pointer names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestReference {
    /// Key relative to the collection.
    pub path: String,
    /// BLAKE3 of the manifest.
    pub digest: Digest,
}

/// A lineage that is served, or may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineagePointer {
    /// Its name.
    pub lineage: LineageId,
    /// Its newest release.
    pub generation: u64,
    /// That release's manifest.
    pub manifest: ManifestReference,
    /// What it is for.
    pub role: LineageRole,
    /// Since when it has this role.
    pub since: Timestamp,
}

/// What a lineage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineageRole {
    /// It answers.
    Active,
    /// It is to be promoted.
    Candidate,
    /// It was active and can be again.
    WayBack,
}

/// A release that stays readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRelease {
    /// Its generation.
    pub generation: u64,
    /// Its lineage.
    pub lineage: LineageId,
    /// Its manifest.
    pub manifest: ManifestReference,
    /// When it was written.
    pub created_at: Timestamp,
    /// Its checkpoint's sequence: bus retention never passes the oldest.
    pub checkpoint: u64,
    /// Whether a person asked to keep it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pinned: bool,
    /// What guards compare later publishes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The owner of rollouts: `up/{instance}` or `controller/{namespace}/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerClaim {
    /// Name of the owner.
    pub id: String,
    /// Rises with every claim.
    pub epoch: u64,
}

/// What is held, by whom, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What stands still.
    pub kind: HoldKind,
    /// Who asked.
    pub actor: String,
    /// Why, in that person's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// Nothing is promoted.
    Promotion,
    /// Nothing is published, and nothing promoted.
    Publish,
}

/// An object that the pointer no longer names, and since when: it goes after the grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnnamedManifest {
    /// Its manifest, through which its files are found.
    pub manifest: ManifestReference,
    /// Since when.
    pub since: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(crate) fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The pointer of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The collection.
    pub collection: CollectionName,
    /// Rises by one with every swing, from 1.
    pub sequence: u64,
    /// Generation of the newest publish; 0 before the first.
    pub generation: u64,
    /// Drawn anew for every swing.
    pub nonce: String,
    /// The last [`NONCES_KEPT`], this one last.
    pub nonces: Vec<String>,
    /// Who may publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<WriterClaim>,
    /// Who may move traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerClaim>,
    /// The settings to be put into force by the next publish.
    pub settings: SettingsReference,
    /// The lineage that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<LineagePointer>,
    /// The candidate, or the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<LineagePointer>,
    /// The other lineage's settings; they change places with `settings` when it is flipped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_settings: Option<SettingsReference>,
    /// The other lineage's newest release as it is kept from the moment it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_release: Option<KeptRelease>,
    /// Lineages that are being built: one at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<Build>,
    /// The other lineage, while the owner wants it level for a flip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leveling: Option<LineageId>,
    /// A person's word for the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What answered since when, the newest last; the first lineage is not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub served: Vec<Served>,
    /// Releases that stay readable, the newest last; the named ones are among them.
    #[serde(default)]
    pub kept: Vec<KeptRelease>,
    /// Releases that were let go and whose files wait for the grace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed: Vec<UnnamedManifest>,
    /// Set while a person holds publishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Set while promotion is held, by a person or by a return to the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion_hold: Option<Hold>,
    /// Documents that were erased, and whether their bytes are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased: Option<Erased>,
    /// A release that breached a guard: written, named, not served, until a person decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedRelease>,
    /// Sequence up to which a person has accepted what guards would stop.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guards_passed_to: u64,
    /// Events that a person rejected and that may be read, or read again after going back: they are set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<RejectedEvents>,
    /// Set when the collection was deleted; its objects go after the grace, the name is free after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// When it was swung.
    pub updated_at: Timestamp,
    /// Fields of later software, kept.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Why a pointer was refused.
#[derive(Debug, thiserror::Error)]
pub enum PointerError {
    /// The text is no pointer.
    #[error("pointer is not readable")]
    Json(#[source] serde_json::Error),
    /// Written by other software.
    #[error("pointer has format_version {0}; this software reads {FORMAT_VERSION}; use the version that wrote it")]
    FormatVersion(u64),
    /// Something changed it outside the protocol.
    #[error("pointer has digest {found}, but says {expected}: it was damaged or edited by hand")]
    Digest {
        /// As the pointer says.
        expected: String,
        /// Of what it holds.
        found: Digest,
    },
    /// It contradicts itself.
    #[error("pointer is not consistent: {0}")]
    Inconsistent(&'static str),
}

impl Pointer {
    /// The pointer of a new collection: sequence 1, generation 0, no lineage.
    pub fn first(collection: CollectionName, settings: SettingsReference, nonce: String, now: Timestamp) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            collection,
            sequence: 1,
            generation: 0,
            nonces: vec![nonce.clone()],
            nonce,
            writer: None,
            owner: None,
            settings,
            active: None,
            other: None,
            other_settings: None,
            other_release: None,
            builds: Vec::new(),
            leveling: None,
            approval: None,
            served: Vec::new(),
            kept: Vec::new(),
            unnamed: Vec::new(),
            hold: None,
            promotion_hold: None,
            erased: None,
            staged: None,
            guards_passed_to: 0,
            rejected: None,
            deleted_at: None,
            updated_at: now,
            unknown: Map::new(),
        }
    }

    /// The same content as the next swing: sequence, nonce and time move on.
    pub fn next(&self, nonce: String, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.sequence += 1;
        next.nonces.push(nonce.clone());
        let over = next.nonces.len().saturating_sub(NONCES_KEPT);
        next.nonces.drain(..over);
        next.nonce = nonce;
        // A clock that went back must not make an un-named object look older than it is.
        next.updated_at = now.max(self.updated_at);
        next
    }

    /// Whether a swing with this nonce is in the history (I-5).
    pub fn remembers(&self, nonce: &str) -> bool {
        self.nonces.iter().any(|known| known == nonce)
    }

    /// The pointer as it is stored, the digest of the rest of itself included.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(self).expect("a pointer has only text keys");
        let digest = Digest::of(&canonical_bytes(&value));
        if let Value::Object(map) = &mut value {
            map.insert("digest".to_owned(), Value::String(digest.to_string()));
        }
        serde_json::to_vec_pretty(&value).expect("a JSON value is always printable")
    }

    /// Reads and checks a pointer.
    pub fn decode(bytes: &[u8]) -> Result<Self, PointerError> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(PointerError::Json)?;
        let version = value.get("format_version").and_then(Value::as_u64).unwrap_or(0);
        if version != u64::from(FORMAT_VERSION) {
            return Err(PointerError::FormatVersion(version));
        }
        let expected = match value.as_object_mut().and_then(|map| map.remove("digest")) {
            Some(Value::String(digest)) => digest,
            _ => String::new(),
        };
        let found = Digest::of(&canonical_bytes(&value));
        if expected != found.to_string() {
            return Err(PointerError::Digest { expected, found });
        }
        let pointer: Self = serde_json::from_value(value).map_err(PointerError::Json)?;
        pointer.check()?;
        Ok(pointer)
    }

    /// Whether what it says fits together.
    pub fn check(&self) -> Result<(), PointerError> {
        let named = [&self.active, &self.other];
        let problem = if self.nonces.last() != Some(&self.nonce) {
            Some("its nonce is not the last of its history")
        } else if self.generation == 0 && named.iter().any(|lineage| lineage.is_some()) {
            Some("it names a lineage before the first publish")
        } else if self.generation > 0 && self.active.is_none() {
            Some("it names no active lineage after the first publish")
        } else if named
            .iter()
            .flat_map(|lineage| lineage.iter())
            .any(|lineage| lineage.generation > self.generation)
        {
            Some("a lineage is ahead of the pointer's generation")
        } else if self.kept.windows(2).any(|pair| pair[0].generation > pair[1].generation) {
            Some("kept releases are out of order")
        } else {
            None
        };
        problem.map_or(Ok(()), |problem| Err(PointerError::Inconsistent(problem)))
    }
}

/// Why an edit does not apply to a pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditRefused {
    /// Another indexer took over (I-4).
    #[error("epoch {ours} has ended: indexer {holder} took over with epoch {theirs}")]
    LostTurn {
        /// Our epoch.
        ours: u64,
        /// The pointer's.
        theirs: u64,
        /// Who holds it.
        holder: String,
    },
    /// The collection was deleted.
    #[error("collection {0} was deleted")]
    Deleted(CollectionName),
    /// Somebody published meanwhile, which the epoch should have prevented.
    #[error("generation {found} is published already, but this publish follows {expected}")]
    Generation {
        /// What the publish follows.
        expected: u64,
        /// What the pointer has.
        found: u64,
    },
    /// Publishing is held by a person.
    #[error("publishing is held by {actor}: {reason}")]
    Held {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// Nothing is held that could be resumed.
    #[error("publishing is not held")]
    NotHeld,
    /// No release waits for a decision.
    #[error("no release is staged")]
    NotStaged,
    /// A release waits for a decision, so nothing else is published.
    #[error("release {0} is staged and waits for a decision")]
    Staged(u64),
    /// The release is not kept, or not any more.
    #[error("release {0} is not kept")]
    NotKept(u64),
    /// Another lineage answers meanwhile; what was to be published was made for the one before.
    #[error("lineage {0} answers now")]
    LineageMoved(LineageId),
    /// The lineage is not named, or not any more.
    #[error("lineage {0} is not the other lineage")]
    NotNamed(LineageId),
    /// Only a candidate is promoted.
    #[error("lineage {0} is not a candidate")]
    NotCandidate(LineageId),
    /// Only the way back is returned to.
    #[error("lineage {0} is not the way back")]
    NotWayBack(LineageId),
    /// The other lineage lacks the newest publishes.
    #[error("lineage {lineage} has generation {generation}, but {newest} answers")]
    NotLevel {
        /// The lineage.
        lineage: LineageId,
        /// Its generation.
        generation: u64,
        /// The active one's.
        newest: u64,
    },
    /// There is another lineage already.
    #[error("lineage {0} is the candidate or the way back already; one at a time")]
    OtherTaken(LineageId),
    /// A rebuild needs a release.
    #[error("there is no release yet that could be built from")]
    NothingToBuildFrom,
    /// Something that is named may hold bytes of erased documents.
    #[error("something that is named may hold bytes of erased documents")]
    NotClean,
    /// What new settings were chosen by has changed.
    #[error("other settings, or another lineage with settings of its own, came meanwhile")]
    SettingsMoved,
    /// Promotion is not held.
    #[error("promotion is not held")]
    PromotionNotHeld,
    /// Somebody else moves traffic here.
    #[error("rollouts of this collection are owned by {0}")]
    OwnedBy(String),
    /// Another owner took over.
    #[error("epoch {ours} has ended: owner {holder} took over with epoch {theirs}")]
    LostOwnership {
        /// Our epoch.
        ours: u64,
        /// The pointer's.
        theirs: u64,
        /// Who holds it.
        holder: String,
    },
}

/// What a publish tells the pointer.
#[derive(Debug, Clone)]
pub struct Published {
    /// The release.
    pub release: KeptRelease,
    /// The settings that it put into force.
    pub settings: SettingsReference,
    /// How long un-named manifests are remembered, in nanoseconds.
    pub grace_ns: i64,
    /// The other lineage's release of the same generation and content, where this publish carries it.
    pub other: Option<KeptRelease>,
}

impl Pointer {
    /// A release takes the place of the one before it in its lineage.
    pub fn publish(
        &self,
        epoch: u64,
        published: &Published,
        nonce: String,
        now: Timestamp,
    ) -> Result<Self, EditRefused> {
        let release = &published.release;
        self.check_publishes(epoch, release.generation)?;
        if let Some(active) = self.active.as_ref().filter(|active| active.lineage != release.lineage) {
            return Err(EditRefused::LineageMoved(active.lineage.clone()));
        }
        let mut next = self.next(nonce, now);
        next.generation = release.generation;
        next.active = Some(LineagePointer {
            lineage: release.lineage.clone(),
            generation: release.generation,
            manifest: release.manifest.clone(),
            role: LineageRole::Active,
            since: self.active.as_ref().map_or(now, |active| active.since),
        });
        if let Some(other) = &published.other {
            next.carry(other, now);
        }
        if next.settings.version <= published.settings.version {
            next.settings = published.settings.clone();
        }
        next.kept.push(release.clone());
        next.forget(published.grace_ns, now);
        // As long as somebody may go back to before them, they may be read again.
        let may_return = |rejected: &RejectedEvents| next.kept.iter().any(|kept| kept.checkpoint < rejected.to);
        next.rejected = next.rejected.take().filter(may_return);
        Ok(next)
    }

    /// Marks the collection as deleted.
    pub fn delete(&self, nonce: String, now: Timestamp) -> Result<Self, EditRefused> {
        self.check_deleted()?;
        let mut next = self.next(nonce, now);
        next.deleted_at = Some(now);
        Ok(next)
    }

    /// Lets releases go that need not be kept, and forgets un-named ones after the grace.
    fn forget(&mut self, grace_ns: i64, now: Timestamp) {
        let named: Vec<u64> = [&self.active, &self.other]
            .into_iter()
            .flatten()
            .map(|lineage| lineage.generation)
            .collect();
        let (stay, go) = crate::retention::split(&self.kept, now, |release| named.contains(&release.generation));
        self.kept = stay;
        self.unnamed.retain(|unnamed| now.since(unnamed.since) < grace_ns);
        self.unnamed.extend(go.into_iter().map(|release| UnnamedManifest {
            manifest: release.manifest,
            since: now,
        }));
    }

    /// Whether this writer may publish this generation now.
    fn check_publishes(&self, epoch: u64, generation: u64) -> Result<(), EditRefused> {
        self.check_turn(epoch)?;
        self.check_deleted()?;
        if let Some(hold) = self.publish_hold() {
            return Err(EditRefused::Held {
                actor: hold.actor.clone(),
                reason: hold.reason.clone(),
            });
        }
        if let Some(staged) = &self.staged {
            return Err(EditRefused::Staged(staged.release.generation));
        }
        if self.generation + 1 != generation {
            return Err(EditRefused::Generation {
                expected: generation.saturating_sub(1),
                found: self.generation,
            });
        }
        Ok(())
    }

    fn check_deleted(&self) -> Result<(), EditRefused> {
        if self.deleted_at.is_some() {
            Err(EditRefused::Deleted(self.collection.clone()))
        } else {
            Ok(())
        }
    }
}

/// Compact JSON with sorted keys: `serde_json::Value` keeps its maps sorted, so this is the same on every machine.
fn canonical_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value is always printable")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn pointer() -> Pointer {
        let settings = SettingsReference {
            version: 1,
            digest: Digest::of(b"settings"),
        };
        Pointer::first(
            "products".parse().expect("valid"),
            settings,
            "n1".to_owned(),
            Timestamp(1),
        )
    }

    #[test]
    fn a_pointer_is_read_back_and_keeps_fields_of_later_software() {
        let mut later = pointer().next("n2".to_owned(), Timestamp(2));
        later.unknown.insert("of_later_software".to_owned(), Value::from(7));
        let read = Pointer::decode(&later.encode()).expect("whole");
        assert_eq!(read, later);
        assert_eq!(read.sequence, 2);
        assert!(read.remembers("n1") && read.remembers("n2") && !read.remembers("n3"));
    }

    #[test]
    fn any_changed_byte_is_found() {
        let bytes = pointer().encode();
        for n in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[n] ^= 1;
            let same_meaning = serde_json::from_slice::<Value>(&damaged).ok() == serde_json::from_slice(&bytes).ok();
            assert!(same_meaning || Pointer::decode(&damaged).is_err(), "byte {n}");
        }
    }

    #[test]
    fn another_format_version_is_refused_by_name() {
        let text = String::from_utf8(pointer().encode()).expect("JSON");
        let newer = text.replace("\"format_version\": 1", "\"format_version\": 2");
        assert!(matches!(
            Pointer::decode(newer.as_bytes()),
            Err(PointerError::FormatVersion(2))
        ));
    }

    #[test]
    fn only_the_last_nonces_are_remembered() {
        let last = (2..=100).fold(pointer(), |p, n| p.next(format!("n{n}"), Timestamp(n)));
        assert_eq!(last.nonces.len(), NONCES_KEPT);
        assert!(last.remembers("n37") && !last.remembers("n36"));
    }
}
