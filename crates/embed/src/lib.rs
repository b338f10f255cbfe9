//! Text to vector: one trait, a model in process, a stand-in made of hashes, and caches around them.
//!
//! Deliberately absent: any network client (the model is fetched by `pip`, once, by hand or by script), any reading of
//! the environment, and remote providers, which will be further implementations of [`Embedder`]. A collection whose
//! vectors come with its documents has no embedder at all, see `EmbedderIdentity::none`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cache;
mod cached;
mod error;
mod hash;
mod minilm;
pub mod model;
mod pool;
mod providers;
mod query_cache;

use async_trait::async_trait;
use verdigris_core::embedder::EmbedderIdentity;

pub use cache::{CACHE_VECTORS_MAX, CacheKey, CacheKeys, EmbeddingCache};
pub use cached::{CachedEmbedder, EmbedStats};
pub use error::EmbedError;
pub use hash::HashEmbedder;
pub use minilm::{MiniLm, TOKENS_MAX};
pub use providers::Embedders;
pub use query_cache::{QUERY_CACHE_ENTRIES, QueryCache};

/// What a text is to a search. Some models embed the two sides differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextKind {
    /// What somebody looks for. Goes ahead of documents.
    Query,
    /// What may be found.
    Document,
}

/// Makes vectors of texts.
///
/// ```
/// use verdigris_embed::{Embedder, HashEmbedder, TextKind};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let embedder = HashEmbedder::new(64)?;
/// let vectors = embedder.embed(&["copper pipe 15 mm".to_owned()], TextKind::Document).await?;
/// assert_eq!(vectors[0].len(), 64);
/// # Ok::<(), verdigris_embed::EmbedError>(()) }).unwrap();
/// ```
#[async_trait]
pub trait Embedder: Send + Sync {
    /// Which vectors these are. Only vectors of equal identities may be compared (I-17).
    fn identity(&self) -> &EmbedderIdentity;

    /// One vector of `identity().dimension` finite floats per text, in the order of the texts.
    ///
    /// A text gets the same vector whatever stands beside it in the call. Every text has one, the empty one too; what
    /// is longer than the model reads is cut. May be dropped at any time: work that has not begun is not done.
    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError>;

    /// Tokens embedded since the start, 0 where nobody counts.
    fn tokens(&self) -> u64 {
        0
    }

    /// Tokens that the model reads of a text, 0 where nobody counts.
    fn tokens_of(&self, _text: &str) -> u64 {
        0
    }
}

/// Holds an embedder to its contract before its vectors are stored anywhere.
pub(crate) fn check_vectors(identity: &EmbedderIdentity, texts: usize, vectors: &[Vec<f32>]) -> Result<(), EmbedError> {
    if vectors.len() != texts {
        return Err(EmbedError::Count {
            expected: texts,
            found: vectors.len(),
        });
    }
    for vector in vectors {
        if vector.len() != identity.dimension as usize {
            return Err(EmbedError::Dimension {
                expected: identity.dimension,
                found: vector.len(),
            });
        }
        if !vector.iter().all(|x| x.is_finite()) {
            return Err(EmbedError::NotFinite);
        }
    }
    Ok(())
}
