//! Which model made a vector. Documents and queries meet only when their embedders are the same (I-17).

use serde::{Deserialize, Serialize};

/// Everything that decides what vector a text gets. Two embedders with equal identities give the same vectors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmbedderIdentity {
    /// Who computes: `minilm`, `hash`, `none`.
    pub provider: String,
    /// The model's name, such as `all-MiniLM-L6-v2`.
    pub model: String,
    /// Digest of weights, tokenizer, precision and pooling, in hexadecimal; empty where there is nothing to digest.
    pub revision: String,
    /// Coordinates per vector.
    pub dimension: u32,
    /// Tokens after which a text is cut; 0 for no limit.
    pub max_tokens: u32,
    /// Whether vectors have length 1.
    pub normalised: bool,
    /// How a document becomes texts: `document` for one text of the embedded fields.
    pub chunker: String,
}

impl EmbedderIdentity {
    /// The identity of a collection whose vectors come with the documents.
    pub fn none(dimension: u32) -> Self {
        Self {
            provider: "none".to_owned(),
            model: "given".to_owned(),
            revision: String::new(),
            dimension,
            max_tokens: 0,
            normalised: false,
            chunker: "document".to_owned(),
        }
    }

    /// Whether vectors come with the documents.
    pub fn is_none(&self) -> bool {
        self.provider == "none"
    }
}
