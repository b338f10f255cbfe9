//! A collection's settings: which fields mean what, which model, which index type, weights and windows.
//!
//! Settings are create-only objects by version. Weights, windows and limits act in place; what is baked into stored
//! rows (embedder, fields, index type, kind of revision) would need a rebuild.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::gates::GateSettings;
use crate::guards::GuardSettings;
use crate::index_type::IndexType;
use crate::manifest::Metric;
use crate::queries::QuerySettings;
use crate::rebuild::RebuildSettings;
use crate::revision::RevisionKind;
use crate::rollout::RolloutSettings;

/// The largest settings object, in bytes.
pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// The largest dimension of a vector: FAISS and S3 Vectors' neighbours stop well below it.
pub const DIMENSION_MAX: u32 = 8_192;
/// The most fields in any one list.
const FIELDS_MAX: usize = 256;
/// The highest ef_search: above it an exact scan is as quick.
pub const EF_SEARCH_MAX: u32 = 10_000;

/// Settings of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What a revision is.
    pub revision: RevisionKind,
    /// The embedding model.
    pub embedder: EmbedderSettings,
    /// How vectors are compared.
    pub metric: Metric,
    /// Which fields are embedded, searched, or only returned.
    pub text: TextSettings,
    /// The structure over the vectors.
    pub ann: AnnSettings,
    /// How the parts of a hybrid score add up.
    pub weights: Weights,
    /// How events are gathered into releases.
    pub window: WindowSettings,
    /// How long the bus keeps what is in a release.
    pub bus: BusSettings,
    /// Limits of what a publish may take away.
    pub guards: GuardSettings,
    /// Which queries are kept for measuring.
    pub queries: QuerySettings,
    /// Limits of what a lineage must show before it answers.
    pub gates: GateSettings,
    /// How lineages come to answer.
    pub rollout: RolloutSettings,
    /// How and when all rows are written anew.
    pub rebuild: RebuildSettings,
}

/// Which model embeds documents and queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbedderSettings {
    /// `minilm` (in process), `hash` (deterministic, for tests) or `none` (vectors come in the field `_vector`).
    pub provider: Provider,
    /// Coordinates per vector; needed for `none`, 384 for `minilm`.
    pub dimension: u32,
}

/// Who computes vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// all-MiniLM-L6-v2 in process.
    Minilm,
    /// Deterministic hashing of words; no meaning.
    Hash,
    /// Nobody: vectors come with the documents.
    None,
}

impl Default for EmbedderSettings {
    fn default() -> Self {
        Self {
            provider: Provider::Minilm,
            dimension: 384,
        }
    }
}

/// Which fields are embedded, searched by words, give codes, or are only returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSettings {
    /// The embedded text: the non-empty parts, in this order, joined by `. `.
    pub embed: Vec<EmbedPart>,
    /// Fields of the one catch-all that words are searched in.
    pub words: Vec<String>,
    /// Fields whose part numbers are found however they are typed.
    pub codes: Vec<String>,
    /// Fields that are neither filtered nor searched.
    pub returned_only: Vec<String>,
}

/// One part of the embedded text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedPart {
    /// The first of these fields that is not empty is taken.
    pub fields: Vec<String>,
    /// Characters after which it is cut; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub characters: Option<u32>,
}

impl Default for TextSettings {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let part = |fields: &[&str], characters| EmbedPart {
            fields: names(fields),
            characters,
        };
        Self {
            embed: vec![
                part(&["title", "name"], None),
                part(&["brand", "manufacturer"], None),
                part(&["category", "categories"], None),
                part(&["bullets", "description"], Some(400)),
            ],
            words: names(&[
                "title",
                "name",
                "brand",
                "manufacturer",
                "model",
                "sku",
                "mpn",
                "part_number",
                "category",
                "categories",
                "color",
                "colour",
                "material",
                "size",
                "tags",
                "bullets",
                "description",
                "attributes",
            ]),
            codes: names(&["title", "name", "model", "sku", "mpn", "part_number"]),
            returned_only: Vec::new(),
        }
    }
}

/// The structure over the vectors, and how hard it is searched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnnSettings {
    /// FAISS factory string from the allow-list; small segments are exact all the same.
    pub index_type: IndexType,
    /// Candidates a graph search keeps; a request may ask for another number.
    pub ef_search: u32,
    /// Lists an inverted file visits; a request may ask for another number.
    pub nprobe: u32,
}

impl Default for AnnSettings {
    fn default() -> Self {
        Self {
            index_type: IndexType::default(),
            ef_search: 128,
            nprobe: 32,
        }
    }
}

/// How the parts of a hybrid score add up: one raw sum, nothing normalised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Of BM25 over words.
    pub words: f32,
    /// Of BM25 over codes.
    pub codes: f32,
    /// Of the share of the query's words, by rarity, that a document has.
    pub coverage: f32,
    /// Of the inner product of the vectors.
    pub vector: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            words: 1.0,
            codes: 1.0,
            coverage: 10.0,
            vector: 16.0,
        }
    }
}

impl Weights {
    fn mistakes(&self) -> Vec<SettingsMistake> {
        let weights = [
            ("weights.words", self.words),
            ("weights.codes", self.codes),
            ("weights.coverage", self.coverage),
            ("weights.vector", self.vector),
        ];
        let allowed = |value: f32| value.is_finite() && (0.0..=1e6).contains(&value);
        let wrong = weights.into_iter().filter(|(_, value)| !allowed(*value));
        let mistake = |(key, value): (&'static str, f32)| SettingsMistake::Range {
            key,
            value: value.to_string(),
            range: "0 to 1000000".to_owned(),
        };
        wrong.map(mistake).collect()
    }
}

/// How events are gathered into releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowSettings {
    /// Events after which a release is published.
    pub events: u32,
    /// Milliseconds after which one is published, however few events came.
    pub milliseconds: u32,
    /// More unread events than this, or generation 0, widen the window.
    pub backlog_events: u32,
    /// Events of the widened window.
    pub build_events: u32,
    /// Seconds of the widened window.
    pub build_seconds: u32,
    /// Seconds of windows that are published as a candidate each, which answers when it has passed the gates; 0 for
    /// windows that the active lineage takes at once.
    pub candidate_seconds: u32,
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self {
            events: 1_000,
            milliseconds: 200,
            backlog_events: 5_000,
            build_events: 100_000,
            build_seconds: 300,
            candidate_seconds: 0,
        }
    }
}

/// How long the bus keeps events that a release holds already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BusSettings {
    /// Days.
    pub days: u32,
    /// Mebibytes; the older of both limits wins. Neither passes the oldest kept checkpoint.
    pub mebibytes: u32,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            days: 7,
            mebibytes: 4_096,
        }
    }
}

/// One mistake in a settings file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SettingsMistake {
    /// Not JSON.
    #[error("settings are no JSON object: {0}")]
    Json(String),
    /// Too many bytes.
    #[error("settings have {0} bytes; at most {SETTINGS_BYTES_MAX} are allowed")]
    Size(usize),
    /// A key that does not exist.
    #[error("unknown key {key}{}", suggestion.as_ref().map(|known| format!("; did you mean {known}?")).unwrap_or_default())]
    UnknownKey {
        /// The key, with its path.
        key: String,
        /// The nearest known one.
        suggestion: Option<String>,
    },
    /// A value of the wrong type.
    #[error("{0}")]
    Type(String),
    /// A value out of range.
    #[error("{key} is {value}; it must be {range}")]
    Range {
        /// The key, with its path.
        key: &'static str,
        /// As it came.
        value: String,
        /// What is allowed.
        range: String,
    },
}

impl Settings {
    /// Reads settings and reports every mistake at once. Absent keys have their defaults.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<SettingsMistake>> {
        if bytes.len() > SETTINGS_BYTES_MAX {
            return Err(vec![SettingsMistake::Size(bytes.len())]);
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| vec![SettingsMistake::Json(e.to_string())])?;
        let template = serde_json::to_value(Self::default()).expect("settings are JSON");
        let mut mistakes = Vec::new();
        unknown_keys("", &value, &template, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let settings: Self = serde_json::from_value(value).map_err(|e| vec![SettingsMistake::Type(e.to_string())])?;
        let mistakes = settings.mistakes();
        if mistakes.is_empty() {
            Ok(settings)
        } else {
            Err(mistakes)
        }
    }

    /// The settings as they are stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("settings are JSON")
    }

    /// Digest of the stored form.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The keys in which `next` differs so that stored rows would have to be written anew.
    pub fn needs_rebuild(&self, next: &Self) -> Vec<&'static str> {
        let differs = [
            ("revision", self.revision != next.revision),
            ("embedder", self.embedder != next.embedder),
            ("metric", self.metric != next.metric),
            ("text.embed", self.text.embed != next.text.embed),
            ("text.words", self.text.words != next.text.words),
            ("text.codes", self.text.codes != next.text.codes),
            ("text.returned_only", self.text.returned_only != next.text.returned_only),
            ("ann.index_type", self.ann.index_type != next.ann.index_type),
        ];
        differs
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| key)
            .collect()
    }

    fn mistakes(&self) -> Vec<SettingsMistake> {
        let mut mistakes = Vec::new();
        let mut number = |key: &'static str, value: u32, low: u32, high: u32| {
            if !(low..=high).contains(&value) {
                mistakes.push(SettingsMistake::Range {
                    key,
                    value: value.to_string(),
                    range: format!("{low} to {high}"),
                });
            }
        };
        number("embedder.dimension", self.embedder.dimension, 1, DIMENSION_MAX);
        if self.embedder.provider == Provider::Minilm {
            number("embedder.dimension", self.embedder.dimension, 384, 384);
        }
        number("ann.ef_search", self.ann.ef_search, 1, EF_SEARCH_MAX);
        number("ann.nprobe", self.ann.nprobe, 1, crate::index_type::LISTS_MAX);
        number("window.events", self.window.events, 1, 100_000);
        number("window.milliseconds", self.window.milliseconds, 1, 3_600_000);
        number("window.backlog_events", self.window.backlog_events, 1, 10_000_000);
        number(
            "window.build_events",
            self.window.build_events,
            self.window.events.min(1_000_000),
            1_000_000,
        );
        number("window.candidate_seconds", self.window.candidate_seconds, 0, 604_800);
        number("window.build_seconds", self.window.build_seconds, 1, 86_400);
        number("guards.documents_min", self.guards.documents_min, 1, 1_000_000_000);
        number("rebuild.part_rows", self.rebuild.part_rows, 1, 100_000_000);
        number("rebuild.rows_per_second", self.rebuild.rows_per_second, 0, 100_000_000);
        number("bus.days", self.bus.days, 1, 36_500);
        number("bus.mebibytes", self.bus.mebibytes, 1, 16_777_216);
        number("queries.kept", self.queries.kept, 1, crate::queries::KEPT_MAX);
        let lists = [
            ("text.words", self.text.words.len()),
            ("text.codes", self.text.codes.len()),
            ("text.returned_only", self.text.returned_only.len()),
            ("text.embed", self.text.embed.len()),
        ];
        for (key, entries) in lists {
            number(key, entries as u32, 0, FIELDS_MAX as u32);
        }
        mistakes.extend(self.weights.mistakes());
        mistakes.extend(self.rebuild.mistakes());
        let shares = self.guards.mistakes().into_iter();
        mistakes.extend(shares.map(|(key, value)| SettingsMistake::Range {
            key,
            value: value.to_string(),
            range: "0 to 1".to_owned(),
        }));
        mistakes.extend(self.gates.mistakes());
        mistakes.extend(self.rollout.mistakes());
        mistakes.extend(self.embed_mistakes());
        mistakes
    }

    fn embed_mistakes(&self) -> Vec<SettingsMistake> {
        let mistake = |value: &str, range: &str| SettingsMistake::Range {
            key: "text.embed",
            value: value.to_owned(),
            range: range.to_owned(),
        };
        let mut mistakes = Vec::new();
        if self.text.embed.is_empty() && self.embedder.provider != Provider::None {
            mistakes.push(mistake("empty", "at least one part"));
        }
        if self.text.embed.iter().any(|part| part.fields.is_empty()) {
            mistakes.push(mistake("a part without fields", "parts with at least one field"));
        }
        mistakes
    }
}

/// Keys of `value` that `template` does not have; lists are not looked into.
fn unknown_keys(path: &str, value: &Value, template: &Value, mistakes: &mut Vec<SettingsMistake>) {
    let (Value::Object(given), Value::Object(known)) = (value, template) else {
        return;
    };
    for (key, value) in given {
        match known.get(key) {
            Some(template) => unknown_keys(&format!("{path}{key}."), value, template, mistakes),
            None => {
                let nearest = known.keys().min_by_key(|known| distance(key, known));
                let suggestion = nearest
                    .filter(|known| distance(key, known) <= 3)
                    .map(|known| format!("{path}{known}"));
                mistakes.push(SettingsMistake::UnknownKey {
                    key: format!("{path}{key}"),
                    suggestion,
                });
            }
        }
    }
}

/// Levenshtein distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let error = Settings::parse(text.as_bytes()).expect_err("refused");
        error.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_object_means_the_defaults_and_they_are_read_back() {
        let settings = Settings::parse(b"{}").expect("valid");
        assert_eq!(settings, Settings::default());
        assert_eq!(Settings::parse(&settings.encode()), Ok(settings));
    }

    #[test]
    fn all_unknown_keys_are_named_at_once_with_suggestions() {
        assert_eq!(
            mistakes(r#"{"weigths": {}, "ann": {"ef": 1, "ef_serch": 2}}"#),
            [
                "unknown key ann.ef",
                "unknown key ann.ef_serch; did you mean ann.ef_search?",
                "unknown key weigths; did you mean weights?"
            ]
        );
    }

    #[test]
    fn all_values_out_of_range_are_named_at_once() {
        assert_eq!(
            mistakes(r#"{"embedder": {"provider": "none", "dimension": 0}, "weights": {"vector": -1}}"#),
            [
                "embedder.dimension is 0; it must be 1 to 8192",
                "weights.vector is -1; it must be 0 to 1000000"
            ]
        );
        assert!(mistakes(r#"{"ann": {"index_type": "HNSW64"}}"#)[0].contains("HNSW64"));
        assert!(mistakes("[1]")[0].contains("invalid type"));
    }

    #[test]
    fn weights_act_in_place_and_fields_need_a_rebuild() {
        let settings = Settings::default();
        let mut next = settings.clone();
        next.weights.vector = 1.0;
        next.window.events = 5;
        assert!(settings.needs_rebuild(&next).is_empty());
        next.text.words.push("ean".to_owned());
        next.ann.index_type = IndexType::Flat;
        assert_eq!(settings.needs_rebuild(&next), ["text.words", "ann.index_type"]);
    }
}
