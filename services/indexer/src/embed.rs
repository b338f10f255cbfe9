//! The fifth step of an event: vectors for the texts that changed, in slices, so that progress shows and a stop is quick.

use std::sync::Arc;

use verdigris_embed::{EmbedError, Embedder, TextKind};

use crate::order::VectorSource;
use crate::progress::Progress;

/// Texts per call: small enough that progress moves every second or so, large enough to keep all cores busy.
const TEXTS_PER_CALL: usize = 256;

/// What embedding came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Embedded {
    /// Documents whose text was embedded, from the cache or by the model.
    pub(crate) embedded: u64,
    /// Changed documents that kept their vector.
    pub(crate) kept: u64,
}

/// The vector of each row to be written, in order; none for ghosts. Cancel safe: what was embedded is in the cache.
pub(crate) async fn vectors<'a>(
    sources: impl ExactSizeIterator<Item = &'a VectorSource>,
    embedder: Option<&Arc<dyn Embedder>>,
    progress: Option<&Progress>,
) -> Result<(Vec<Option<Vec<f32>>>, Embedded), EmbedError> {
    let mut counts = Embedded::default();
    let mut vectors: Vec<Option<Vec<f32>>> = Vec::with_capacity(sources.len());
    let mut texts: Vec<(usize, String)> = Vec::new();
    for (n, source) in sources.enumerate() {
        vectors.push(match source {
            VectorSource::Ghost => None,
            VectorSource::Given(vector) => Some(vector.clone()),
            VectorSource::Kept(vector) => {
                counts.kept += 1;
                Some(vector.clone())
            }
            VectorSource::Text(text) => {
                texts.push((n, text.clone()));
                None
            }
        });
    }
    counts.embedded = texts.len() as u64;
    let total = texts.len() as u64;
    let mut done = 0;
    // Texts of like length side by side, so that a slice has no long straggler.
    texts.sort_by_key(|(_, text)| text.len());
    for slice in texts.chunks(TEXTS_PER_CALL) {
        if let Some(progress) = progress {
            progress.embedding(done, total);
        }
        let embedder = embedder.expect("settings that bring texts have an embedder");
        let batch: Vec<String> = slice.iter().map(|(_, text)| text.clone()).collect();
        let embedded = embedder.embed(&batch, TextKind::Document).await?;
        for ((n, _), vector) in slice.iter().zip(embedded) {
            vectors[*n] = Some(vector);
        }
        done += slice.len() as u64;
    }
    if let Some(progress) = progress {
        progress.embedding(0, 0);
    }
    Ok((vectors, counts))
}
