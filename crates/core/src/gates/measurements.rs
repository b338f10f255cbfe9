//! What the search role measures of a lineage before it may be promoted, as facts and without any opinion.
//!
//! Each part is a value, not applicable, or missing, and the last two are never the same thing (I-19): a gate without
//! a subject lets pass, a gate whose subject is there and was not measured does not.

use serde::{Deserialize, Serialize};

use crate::digest::{ContentSum, Digest};
use crate::embedder::EmbedderIdentity;
use crate::index_type::IndexType;
use crate::manifest::{Checkpoint, LineageId, SettingsReference};
use crate::timestamp::Timestamp;

/// Something that was to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured<T> {
    /// It was.
    Value(T),
    /// There is nothing to measure, and why: no golden query was ever given, nothing was ever deleted.
    NotApplicable(String),
    /// It is due and was not measured, and why.
    Missing(String),
}

impl<T> Default for Measured<T> {
    fn default() -> Self {
        Self::Missing("it was not measured".to_owned())
    }
}

impl<T> Measured<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::NotApplicable(_) | Self::Missing(_) => None,
        }
    }
}

/// What one lineage is, as its manifest says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineageFacts {
    /// Its name.
    pub lineage: LineageId,
    /// The release that was measured.
    pub generation: u64,
    /// BLAKE3 of that release's manifest.
    pub manifest: Digest,
    /// Documents that exist.
    pub documents: u64,
    /// Live chunks.
    pub chunks: u64,
    /// Bytes of stored states before compression, dead rows left out by their share: `Manifest::facts().live_bytes`.
    pub live_bytes: u64,
    /// Documents that do not exist but are remembered, live ghost rows.
    pub ghosts: u64,
    /// Sum over all documents, ghosts included.
    pub content: ContentSum,
    /// Up to where the bus was read.
    pub checkpoint: Checkpoint,
    /// Coordinates per vector.
    pub dimension: u32,
    /// The model whose vectors these are said to be.
    pub embedder: EmbedderIdentity,
    /// The settings in force.
    pub settings: SettingsReference,
    /// Structures of its segments, each once.
    pub index_types: Vec<IndexType>,
}

/// Files read again and hashed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FilesVerified {
    /// Files whose digest was computed over all their bytes, those of dead rows included.
    pub verified: u64,
    /// Files that the manifest names.
    pub named: u64,
    /// Paths of files that are missing, too short, or have another digest.
    pub damaged: Vec<String>,
}

/// What the rows of the release add up to, counted anew from the rows themselves and not from the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowsCounted {
    /// Documents that exist, each id once.
    pub documents: u64,
    /// Documents and ghosts that have live rows in more than one place.
    pub duplicates: u64,
    /// Sum over all documents and ghosts, computed from their stored states.
    pub content: ContentSum,
}

/// Release of the active lineage that has the same generation as the one measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SameGeneration {
    /// The generation of both.
    pub generation: u64,
    /// Content of the active's manifest of that generation.
    pub content: ContentSum,
    /// Documents of it.
    pub documents: u64,
    /// Up to where it has read the bus.
    pub checkpoint: Checkpoint,
}

/// The embedder that runs, as it was loaded, and what the opened files are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// Identity of the embedder that queries of this lineage go through; `EmbedderIdentity::none` where vectors are given.
    pub embedder: EmbedderIdentity,
    /// Coordinates per vector in each opened FAISS file, each number once.
    pub file_dimensions: Vec<u32>,
}

/// Sampled rows whose vector was computed again from the stored text, or, where vectors are given, compared with the
/// one in the stored document.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct VectorsChecked {
    /// Rows looked at.
    pub sampled: u64,
    /// Rows whose vector has a cosine of at least [`super::SAME_VECTOR_COSINE`] to what it should be.
    pub right: u64,
    /// Some documents whose vector is wrong, ten at most.
    pub wrong: Vec<String>,
}

/// Sampled documents of the active that the candidate should have with text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TextsChecked {
    /// Documents of the active looked up in the candidate.
    pub sampled: u64,
    /// Those that the candidate does not have.
    pub absent: u64,
    /// Those whose embedded text is empty in the candidate.
    pub empty: u64,
    /// Those whose embedded text is empty in the active.
    pub empty_active: u64,
}

/// Documents searched by the beginning of their own text: a known item should be among the first ten hits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KnownItems {
    /// Documents looked for in both lineages.
    pub sampled: u64,
    /// Found in the candidate.
    pub found: u64,
    /// Found in the active.
    pub found_active: u64,
}

/// Sampled ghosts of deleted documents, looked for by id and by search in the candidate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DeletesChecked {
    /// Deleted documents looked for.
    pub sampled: u64,
    /// Those that were found.
    pub leaked: Vec<String>,
}

/// Graph search against an exact scan of the same release, on sampled vectors.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RecallMeasured {
    /// Vectors searched for.
    pub sampled: u64,
    /// Mean share of the ten exact hits that the candidate's structure finds.
    pub recall: f64,
    /// The same of the active, if it has a structure that is not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<f64>,
}

/// One golden query.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GoldenResult {
    /// Its text.
    pub query: String,
    /// Ids that must be among the hits and are not, of documents that exist.
    pub missing: Vec<String>,
    /// NDCG@10 of the candidate, where judgements were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ndcg: Option<f64>,
    /// The same of the active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ndcg_active: Option<f64>,
    /// What it must reach, where that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
}

/// Sampled real queries, asked of both lineages.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SampledQueries {
    /// How many.
    pub sampled: u64,
    /// Mean share of the first ten hits that both have; of two empty answers it is 1.
    pub overlap: f64,
    /// Mean distance in rank of hits that both have, among the first ten.
    pub rank_change: f64,
    /// Queries without a hit in the candidate.
    pub zero_hits: u64,
    /// Queries without a hit in the active.
    pub zero_hits_active: u64,
    /// Queries with the least overlap, ten at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub least: Vec<String>,
}

/// Time of the same queries in both lineages, asked in turn; each number is the median over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencyMeasured {
    /// Queries a round.
    pub sampled: u64,
    /// Milliseconds that half of the candidate's answers stay below.
    pub p50_ms: f64,
    /// Milliseconds that 99 of 100 stay below.
    pub p99_ms: f64,
    /// The same of the active.
    pub active_p50_ms: f64,
    /// The same of the active.
    pub active_p99_ms: f64,
}

/// What the release needs, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryMeasured {
    /// Bytes of its files, which are mapped, and of what is built beside them.
    pub bytes: u64,
    /// Bytes that this process may use.
    pub limit_bytes: u64,
}

/// All that was measured of a lineage, beside the active one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    /// The lineage that was measured.
    pub candidate: LineageFacts,
    /// The one that answers now; not applicable where nothing answers yet.
    pub active: Measured<LineageFacts>,
    /// When it was done.
    pub measured_at: Timestamp,
    /// Always due.
    #[serde(default)]
    pub files: Measured<FilesVerified>,
    /// Always due.
    #[serde(default)]
    pub rows: Measured<RowsCounted>,
    /// Due where there is an active.
    #[serde(default)]
    pub same_generation: Measured<SameGeneration>,
    /// Always due.
    #[serde(default)]
    pub model: Measured<LoadedModel>,
    /// Due where there are chunks.
    #[serde(default)]
    pub vectors: Measured<VectorsChecked>,
    /// Due where the active has documents and texts are embedded or searched.
    #[serde(default)]
    pub texts: Measured<TextsChecked>,
    /// Due where the active has documents with text.
    #[serde(default)]
    pub known_items: Measured<KnownItems>,
    /// Due where the active or the candidate has ghosts of deleted documents.
    #[serde(default)]
    pub deletes: Measured<DeletesChecked>,
    /// Due where the candidate has a structure that is not exact.
    #[serde(default)]
    pub recall: Measured<RecallMeasured>,
    /// Due where golden queries were given.
    #[serde(default)]
    pub golden: Measured<Vec<GoldenResult>>,
    /// Due where queries were logged and there is an active.
    #[serde(default)]
    pub queries: Measured<SampledQueries>,
    /// Due where there is an active with documents: of logged queries, or else of texts of documents.
    #[serde(default)]
    pub latency: Measured<LatencyMeasured>,
    /// Due where the process has a limit of memory.
    #[serde(default)]
    pub memory: Measured<MemoryMeasured>,
    /// Milliseconds from naming the release to its first answer, warmed. Always due.
    #[serde(default)]
    pub ready_ms: Measured<u64>,
}
