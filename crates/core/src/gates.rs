//! Gates: what a lineage must show before it may answer, judged from what the search role measured.
//!
//! Guards judge each publish by counts; gates judge a lineage once, by reading it and asking it. The limits are wide
//! enough for churn, another structure and other settings, and narrow enough for what breaks in practice.
//! Deliberately absent: measuring, and what follows from a verdict.

mod judge;
mod measurements;

use serde::{Deserialize, Serialize};

pub use self::judge::judge;
pub use self::measurements::{
    DeletesChecked, FilesVerified, GoldenResult, KnownItems, LatencyMeasured, LineageFacts, LoadedModel, Measured,
    Measurements, MemoryMeasured, RecallMeasured, RowsCounted, SameGeneration, SampledQueries, TextsChecked,
    VectorsChecked,
};
use crate::digest::Digest;
use crate::manifest::LineageId;
use crate::settings::SettingsMistake;
use crate::timestamp::Timestamp;

/// Two vectors of the same text by the same model are at least this alike, whatever the order of additions was.
pub const SAME_VECTOR_COSINE: f64 = 0.99;

/// Limits of the gates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// Gates that a person switched off: they are shown as not applicable.
    pub off: Vec<Gate>,
    /// Documents, vectors and queries that are sampled for one gate.
    pub samples: u32,
    /// Share of the active's documents that the candidate may lack.
    pub documents_shrink_max: f64,
    /// Share of the active's bytes of stored documents that it may lack.
    pub bytes_shrink_max: f64,
    /// Share of sampled vectors that must be the ones of their text.
    pub vectors_right_min: f64,
    /// How much larger the share of documents without text may be than the active's.
    pub texts_empty_rise_max: f64,
    /// How much smaller the share of known items found may be than the active's.
    pub known_items_drop_max: f64,
    /// Recall@10 against an exact search.
    pub recall_min: f64,
    /// How much lower it may be than the active's.
    pub recall_drop_max: f64,
    /// How much lower the mean NDCG@10 of golden queries may be than the active's.
    pub golden_drop_max: f64,
    /// Overlap@10 with the active's answers where model and settings are the same.
    pub overlap_min: f64,
    /// Overlap@10 where the model or the settings differ.
    pub overlap_changed_min: f64,
    /// Mean change of rank within the first ten, where model and settings are the same.
    pub rank_change_max: f64,
    /// How much larger the share of queries without a hit may be than the active's.
    pub zero_hits_rise_max: f64,
    /// How many times slower than the active it may be, at half and at 99 of 100 answers.
    pub latency_ratio_max: f64,
    /// Milliseconds below which no latency is too slow.
    pub latency_floor_ms: u32,
    /// How many times its own size the limit of memory must be.
    pub memory_ratio_min: f64,
    /// Seconds within which it must have become ready.
    pub ready_seconds_max: u32,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            off: Vec::new(),
            samples: 200,
            documents_shrink_max: 0.2,
            bytes_shrink_max: 0.3,
            vectors_right_min: 0.99,
            texts_empty_rise_max: 0.02,
            known_items_drop_max: 0.05,
            recall_min: 0.95,
            recall_drop_max: 0.02,
            golden_drop_max: 0.05,
            overlap_min: 0.5,
            overlap_changed_min: 0.1,
            rank_change_max: 2.5,
            zero_hits_rise_max: 0.02,
            latency_ratio_max: 2.0,
            latency_floor_ms: 20,
            memory_ratio_min: 1.2,
            ready_seconds_max: 300,
        }
    }
}

impl GateSettings {
    /// Limits that are no limits.
    pub(crate) fn mistakes(&self) -> Vec<SettingsMistake> {
        let limits = [
            ("gates.documents_shrink_max", self.documents_shrink_max, 0.0, 1.0),
            ("gates.bytes_shrink_max", self.bytes_shrink_max, 0.0, 1.0),
            ("gates.vectors_right_min", self.vectors_right_min, 0.0, 1.0),
            ("gates.texts_empty_rise_max", self.texts_empty_rise_max, 0.0, 1.0),
            ("gates.known_items_drop_max", self.known_items_drop_max, 0.0, 1.0),
            ("gates.recall_min", self.recall_min, 0.0, 1.0),
            ("gates.recall_drop_max", self.recall_drop_max, 0.0, 1.0),
            ("gates.golden_drop_max", self.golden_drop_max, 0.0, 1.0),
            ("gates.overlap_min", self.overlap_min, 0.0, 1.0),
            ("gates.overlap_changed_min", self.overlap_changed_min, 0.0, 1.0),
            ("gates.rank_change_max", self.rank_change_max, 0.0, 10.0),
            ("gates.zero_hits_rise_max", self.zero_hits_rise_max, 0.0, 1.0),
            ("gates.latency_ratio_max", self.latency_ratio_max, 1.0, 1_000.0),
            ("gates.memory_ratio_min", self.memory_ratio_min, 0.0, 100.0),
            ("gates.samples", f64::from(self.samples), 10.0, 10_000.0),
            (
                "gates.latency_floor_ms",
                f64::from(self.latency_floor_ms),
                0.0,
                60_000.0,
            ),
            (
                "gates.ready_seconds_max",
                f64::from(self.ready_seconds_max),
                1.0,
                86_400.0,
            ),
        ];
        let wrong = limits
            .into_iter()
            .filter(|(_, value, low, high)| !(value.is_finite() && (*low..=*high).contains(value)));
        wrong
            .map(|(key, value, low, high)| SettingsMistake::Range {
                key,
                value: value.to_string(),
                range: format!("{low} to {high}"),
            })
            .collect()
    }
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Each file has the digest that the manifest names.
    Files,
    /// The rows add up to what the manifest says, each document once.
    Rows,
    /// Same content and checkpoint as the active at the same generation.
    Content,
    /// One dimension in manifest, embedder and files.
    Dimension,
    /// Queries are embedded by the model of the documents (I-17).
    Embedder,
    /// Vectors are those of their texts.
    Vectors,
    /// Number of documents beside the active's.
    Documents,
    /// Bytes of stored documents beside the active's.
    Bytes,
    /// Documents have their texts.
    Texts,
    /// Deleted documents are gone (I-14).
    Deletes,
    /// Documents are found by their own texts.
    KnownItems,
    /// Recall@10 of the structure against an exact search.
    Recall,
    /// Golden queries.
    Golden,
    /// Overlap with the active's answers to real queries.
    Overlap,
    /// Queries without a hit.
    ZeroHits,
    /// Time of an answer.
    Latency,
    /// Memory.
    Memory,
    /// Time to become ready.
    Ready,
}

impl GateOutcome {
    /// The name in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotApplicable => "not_applicable",
            Self::NoData => "no_data",
        }
    }
}

impl Gate {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 18] = [
        Self::Files,
        Self::Rows,
        Self::Content,
        Self::Dimension,
        Self::Embedder,
        Self::Vectors,
        Self::Documents,
        Self::Bytes,
        Self::Texts,
        Self::Deletes,
        Self::KnownItems,
        Self::Recall,
        Self::Golden,
        Self::Overlap,
        Self::ZeroHits,
        Self::Latency,
        Self::Memory,
        Self::Ready,
    ];

    /// The name in settings, metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Rows => "rows",
            Self::Content => "content",
            Self::Dimension => "dimension",
            Self::Embedder => "embedder",
            Self::Vectors => "vectors",
            Self::Documents => "documents",
            Self::Bytes => "bytes",
            Self::Texts => "texts",
            Self::Deletes => "deletes",
            Self::KnownItems => "known_items",
            Self::Recall => "recall",
            Self::Golden => "golden",
            Self::Overlap => "overlap",
            Self::ZeroHits => "zero_hits",
            Self::Latency => "latency",
            Self::Memory => "memory",
            Self::Ready => "ready",
        }
    }
}

/// What came of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// Within its limit.
    Passed,
    /// Beyond it.
    Failed,
    /// It has no subject.
    NotApplicable,
    /// It has a subject, and nothing was measured: as bad as failed (I-19).
    NoData,
}

/// What one gate found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateVerdict {
    /// Which.
    pub gate: Gate,
    /// What came of it.
    pub outcome: GateOutcome,
    /// The number that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// What it was judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The same in words.
    pub text: String,
}

/// What all gates found of one lineage at one generation. It is kept in the store under that generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The lineage that was judged.
    pub lineage: LineageId,
    /// Its generation.
    pub generation: u64,
    /// BLAKE3 of the manifest that was judged.
    pub manifest: Digest,
    /// When it was measured.
    pub measured_at: Timestamp,
    /// One entry a gate.
    pub gates: Vec<GateVerdict>,
}

impl Verdict {
    /// Where verdicts lie, relative to the collection.
    pub const FOLDER: &str = "verdicts/";

    /// Its path relative to the collection: by the judged generation.
    pub fn path(&self, nonce: &str) -> String {
        format!(
            "{}{:010}-{}-gates-{nonce}.json",
            Self::FOLDER,
            self.generation,
            self.lineage
        )
    }

    /// Whether a key names a verdict of a lineage.
    pub fn is_of(key: &str, lineage: &LineageId) -> bool {
        key.ends_with(".json") && key.contains(&format!("-{lineage}-gates-"))
    }

    /// Whether nothing speaks against promoting it by itself (I-19). A verdict that lacks a gate does.
    pub fn is_promotable(&self) -> bool {
        let judged = |gate: &Gate| self.gates.iter().any(|verdict| verdict.gate == *gate);
        Gate::ALL.iter().all(judged) && self.against().next().is_none()
    }

    /// Gates that failed or had no data.
    pub fn against(&self) -> impl Iterator<Item = &GateVerdict> {
        let speaks_against = |verdict: &&GateVerdict| match verdict.outcome {
            GateOutcome::Failed | GateOutcome::NoData => true,
            GateOutcome::Passed | GateOutcome::NotApplicable => false,
        };
        self.gates.iter().filter(speaks_against)
    }
}

#[cfg(test)]
pub(crate) mod tests;
