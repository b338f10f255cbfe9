//! The manifest of a release: which segments, which dead rows, which embedder, up to which position. Immutable.
//!
//! Deliberately absent: where the files lie on a machine, and anything that changes after the release was written.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dead::DeadRange;
use crate::digest::{ContentSum, Digest};
use crate::embedder::EmbedderIdentity;
use crate::index_type::IndexType;
use crate::names::CollectionName;
use crate::position::StreamIdentity;
use crate::timestamp::Timestamp;

/// The only format version that this software writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// A segment's name: a ULID in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(String);

/// A lineage's name: a ULID in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LineageId(String);

macro_rules! ulid_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<ulid::Ulid> for $name {
            fn from(ulid: ulid::Ulid) -> Self {
                Self(ulid.to_string().to_ascii_lowercase())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

ulid_name!(SegmentId);
ulid_name!(LineageId);

/// A file of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Key relative to the collection, such as `segments/01…/vectors.faiss`.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the whole file.
    pub digest: Digest,
}

/// The two files of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFiles {
    /// The FAISS file: row ids 0 to `rows`.
    pub vectors: FileEntry,
    /// The Tantivy files in a tar: document n is row n, ghost rows after the last vector.
    pub rows: FileEntry,
}

/// One segment as a release sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Name; the folder under `segments/` that its files were first written to.
    pub id: SegmentId,
    /// FAISS type of `vectors.faiss`.
    pub index_type: IndexType,
    /// Rows with a vector, dead ones included.
    pub rows: u32,
    /// Rows without a vector, after the others, dead ones included.
    pub ghosts: u32,
    /// Rows with a vector that are not dead.
    pub live: u32,
    /// Ghost rows that are not dead.
    pub live_ghosts: u32,
    /// The newest generation that wrote one of its rows.
    pub newest_generation: u64,
    /// Bytes of the stored states of all its rows, before compression; 0 where it was not counted.
    #[serde(default)]
    pub state_bytes: u64,
    /// Its files.
    pub files: SegmentFiles,
    /// Its dead rows, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<DeadRange>,
    /// Fields of later software, kept.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl SegmentEntry {
    /// Bytes of both files.
    pub fn bytes(&self) -> u64 {
        self.files.vectors.bytes + self.files.rows.bytes
    }

    /// Whether anything in it is still to be seen.
    pub fn is_empty(&self) -> bool {
        self.live == 0 && self.live_ghosts == 0
    }
}

/// How vectors are compared. Under cosine, vectors are normalised when they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Inner product of normalised vectors.
    #[default]
    Cosine,
    /// Inner product of vectors as they came.
    InnerProduct,
}

/// Which settings object is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsReference {
    /// Version, from 1.
    pub version: u64,
    /// BLAKE3 of the settings object.
    pub digest: Digest,
}

/// Up to where the bus has been read into a release. The only position there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The stream that was read.
    pub stream: StreamIdentity,
    /// Sequence of the last event in the release; 0 before the first.
    pub sequence: u64,
    /// Digest of the event at that sequence; absent at sequence 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Counts over the life of a collection, carried from release to release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Events that changed a document.
    pub applied: u64,
    /// Events that were there already.
    pub unchanged: u64,
    /// Events older than what they met.
    pub stale: u64,
    /// Events in the dead letters.
    pub set_aside: u64,
    /// Documents that ceased to exist, however often each did.
    #[serde(default)]
    pub deleted: u64,
    /// Bytes of stored states that left with erased documents: no feed is to blame for these.
    #[serde(default)]
    pub erased_bytes: u64,
    /// Documents whose text was embedded.
    pub embedded: u64,
    /// Changed documents that kept their vector because their embedded text is the same.
    pub vectors_kept: u64,
    /// Bytes of segments first published.
    pub bytes_published: u64,
    /// Bytes of segments written by merges of small segments.
    pub bytes_merged: u64,
    /// Bytes of segments written by merges that took in the base.
    pub bytes_rebuilt: u64,
}

/// Why a release was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PublishReason {
    /// Events were applied.
    Publish,
    /// Segments were merged; documents are the same.
    Merge,
    /// Written anew from stored rows.
    Rebuild,
    /// The other lineage was brought level.
    Follow,
    /// New settings came into force.
    Settings,
    /// Documents were erased; the list of them says who asked and why.
    Erase,
    /// The collection's log was replaced, and a full feed repaired it.
    Resync {
        /// Who asked.
        actor: String,
    },
    /// An older release's content was published again.
    Rollback {
        /// Who asked.
        actor: String,
        /// Why, in that person's words.
        words: String,
    },
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The collection it belongs to.
    pub collection: CollectionName,
    /// Number of the publish that wrote it.
    pub generation: u64,
    /// Generation it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// The family that a running reader follows in place.
    pub lineage: LineageId,
    /// When it was written.
    pub created_at: Timestamp,
    /// Which indexer wrote it.
    pub writer: String,
    /// Coordinates per vector.
    pub dimension: u32,
    /// How vectors are compared.
    pub metric: Metric,
    /// Live chunks.
    pub count: u64,
    /// Documents that exist.
    pub documents: u64,
    /// Sum of the digests of all documents, ghosts included.
    pub content: ContentSum,
    /// The model whose vectors these are.
    pub embedder: EmbedderIdentity,
    /// The settings in force.
    pub settings: SettingsReference,
    /// Segments, the largest first.
    pub segments: Vec<SegmentEntry>,
    /// Up to where the bus was read.
    pub checkpoint: Checkpoint,
    /// Newest event time in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Timestamp>,
    /// Counts over the life of the collection.
    #[serde(default)]
    pub stats: Stats,
    /// Why it was published.
    pub reason: PublishReason,
    /// Fields of later software, kept.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is no manifest.
    #[error("manifest is not readable")]
    Json(#[source] serde_json::Error),
    /// Written by other software.
    #[error("manifest has format_version {0}; this software reads {FORMAT_VERSION}; use the version that wrote it")]
    FormatVersion(u64),
    /// It contradicts itself.
    #[error("manifest of generation {generation} is not consistent: {problem}")]
    Inconsistent {
        /// The manifest's generation.
        generation: u64,
        /// What does not fit.
        problem: Inconsistency,
    },
}

/// What does not fit in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// Live rows of the segments do not add up.
    #[error("count is {count}, but the segments have {live} live rows")]
    Count {
        /// As the manifest says.
        count: u64,
        /// As its segments say.
        live: u64,
    },
    /// A segment with more live rows than rows.
    #[error("segment {0} has more live rows than rows")]
    Live(SegmentId),
    /// A segment without live rows.
    #[error("segment {0} has no live rows and should have left")]
    Empty(SegmentId),
    /// A segment twice.
    #[error("segment {0} is listed twice")]
    Twice(SegmentId),
    /// A row from the future.
    #[error("segment {0} holds rows of a later generation")]
    Generation(SegmentId),
    /// More documents than chunks.
    #[error("{documents} documents, but only {count} chunks")]
    Documents {
        /// As the manifest says.
        documents: u64,
        /// As the manifest says.
        count: u64,
    },
}

/// What is known of a collection before its first publish.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// The collection.
    pub collection: CollectionName,
    /// The lineage that begins.
    pub lineage: LineageId,
    /// How vectors are compared.
    pub metric: Metric,
    /// The model.
    pub embedder: EmbedderIdentity,
    /// The settings.
    pub settings: SettingsReference,
    /// The stream that will be read from its beginning.
    pub stream: StreamIdentity,
}

impl Manifest {
    /// What the first publish is an edit of: generation 0, which is never written.
    pub fn genesis(genesis: Genesis) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            collection: genesis.collection,
            generation: 0,
            parent: None,
            lineage: genesis.lineage,
            created_at: Timestamp::default(),
            writer: String::new(),
            dimension: genesis.embedder.dimension,
            metric: genesis.metric,
            count: 0,
            documents: 0,
            content: ContentSum::default(),
            embedder: genesis.embedder,
            settings: genesis.settings,
            segments: Vec::new(),
            checkpoint: Checkpoint {
                stream: genesis.stream,
                sequence: 0,
                digest: None,
            },
            watermark: None,
            stats: Stats::default(),
            reason: PublishReason::Publish,
            unknown: Map::new(),
        }
    }

    /// The manifest as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has only text keys")
    }

    /// Reads and checks a manifest; its digest was checked by the caller.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_format_version(bytes)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Key of this manifest, relative to the collection.
    pub fn path(&self, nonce: &str) -> String {
        format!("releases/{:010}-{}-{nonce}.json", self.generation, self.lineage)
    }

    /// Bytes of all its segment files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(SegmentEntry::bytes).sum()
    }

    /// The segment of that name.
    pub fn segment(&self, id: &SegmentId) -> Option<&SegmentEntry> {
        self.segments.iter().find(|segment| segment.id == *id)
    }

    /// Whether its numbers fit each other.
    pub fn check(&self) -> Result<(), ManifestError> {
        match self.inconsistency() {
            None => Ok(()),
            Some(problem) => Err(ManifestError::Inconsistent {
                generation: self.generation,
                problem,
            }),
        }
    }

    fn inconsistency(&self) -> Option<Inconsistency> {
        for (n, segment) in self.segments.iter().enumerate() {
            let id = || segment.id.clone();
            if segment.live > segment.rows || segment.live_ghosts > segment.ghosts {
                return Some(Inconsistency::Live(id()));
            }
            if segment.is_empty() {
                return Some(Inconsistency::Empty(id()));
            }
            if segment.newest_generation > self.generation {
                return Some(Inconsistency::Generation(id()));
            }
            if self.segments[..n].iter().any(|earlier| earlier.id == segment.id) {
                return Some(Inconsistency::Twice(id()));
            }
        }
        let live = self.segments.iter().map(|segment| u64::from(segment.live)).sum();
        if live != self.count {
            return Some(Inconsistency::Count {
                count: self.count,
                live,
            });
        }
        (self.documents > self.count).then_some(Inconsistency::Documents {
            documents: self.documents,
            count: self.count,
        })
    }
}

fn check_format_version(bytes: &[u8]) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u64,
    }
    let version: Version = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    if version.format_version == u64::from(FORMAT_VERSION) {
        return Ok(());
    }
    Err(ManifestError::FormatVersion(version.format_version))
}
