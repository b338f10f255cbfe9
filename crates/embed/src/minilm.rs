//! all-MiniLM-L6-v2 in process: 384 coordinates, the mean over all tokens, length 1, at most 256 tokens.
//!
//! A forward pass of our own, because no padding, one chunk of texts per thread and packed weights make it about three
//! times as quick as general tensor libraries on the short texts of a catalog (`docs/embedding.md`). f32 throughout:
//! lower precision is quicker still, and another vector space.

mod attention;
mod forward;
mod kernel;
mod rows;
mod tokens;
mod weights;

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use pulp::Arch;
use verdigris_core::digest::Digest;
use verdigris_core::embedder::EmbedderIdentity;

use self::forward::{Network, Scratch};
use self::tokens::Tokens;
use crate::model::{self, MODEL, ModelFiles};
use crate::pool::Lane;
use crate::{EmbedError, Embedder, TextKind};

/// Tokens that the model reads of a text, its two frame tokens included. It was trained with this limit.
pub const TOKENS_MAX: usize = 256;

const WIDTH: usize = 384;
const HEADS: usize = 12;
const HEAD: usize = WIDTH / HEADS;
const WIDE: usize = 1536;
const LAYERS: usize = 6;
const VOCABULARY: usize = 30_522;
const POSITIONS: usize = 512;

/// Tokens that one thread takes at a time, as guessed from bytes: enough to use each weight often, few enough that
/// buffers stay in the cache and two threads share a small batch.
const JOB_TOKENS: usize = 256;
/// Tokens that go through the layers together, at most (unless one text has more). Guesses from bytes can be low.
const CHUNK_TOKENS_MAX: usize = 384;
/// Bytes per token of a product's text, to guess how much work a text is before it is tokenized.
const BYTES_PER_TOKEN: usize = 4;
/// Everything besides the files that decides what vector a text gets.
const RECIPE: &str = "f32; mean over all tokens; unit length; erf gelu; norm epsilon 1e-12; at most 256 tokens";

struct Model {
    network: Network,
    tokens: Tokens,
    count: AtomicU64,
}

impl Model {
    fn embed(&self, texts: &[String], scratch: &mut Scratch) -> Result<Vec<Vec<f32>>, EmbedError> {
        let ids = texts
            .iter()
            .map(|text| self.tokens.ids(text))
            .collect::<Result<Vec<_>, _>>()?;
        let mut vectors = Vec::with_capacity(texts.len());
        let mut chunk: Vec<&[u32]> = Vec::new();
        let mut tokens = 0;
        for ids in &ids {
            if tokens + ids.len() > CHUNK_TOKENS_MAX && !chunk.is_empty() {
                vectors.extend(self.network.forward(&chunk, scratch));
                chunk.clear();
                tokens = 0;
            }
            chunk.push(ids);
            tokens += ids.len();
            self.count.fetch_add(ids.len() as u64, Ordering::Relaxed);
        }
        vectors.extend(self.network.forward(&chunk, scratch));
        Ok(vectors)
    }
}

/// The model, loaded, with its threads: as many for queries as for documents, so that a query never waits behind a
/// batch of documents. Idle threads cost nothing. Dropping it waits for at most one chunk per thread (tens of
/// milliseconds).
pub struct MiniLm {
    identity: EmbedderIdentity,
    model: Arc<Model>,
    queries: Lane<Scratch>,
    documents: Lane<Scratch>,
}

impl fmt::Debug for MiniLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MiniLm")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl MiniLm {
    /// Loads the model (about a tenth of a second, 90 MB of memory) to work on `threads` threads per lane, at least one.
    /// Blocks.
    pub fn load(files: &ModelFiles, threads: usize) -> Result<Self, EmbedError> {
        Self::load_for(files, threads, Arch::new())
    }

    /// The identity of the model's vectors, known without loading it, because its files are pinned.
    pub fn known_identity() -> EmbedderIdentity {
        let [weights, tokenizer] = model::digests();
        EmbedderIdentity {
            provider: "minilm".to_owned(),
            model: MODEL.to_owned(),
            revision: Digest::of(format!("{weights}\n{tokenizer}\n{RECIPE}").as_bytes()).to_string(),
            dimension: WIDTH as u32,
            max_tokens: TOKENS_MAX as u32,
            normalised: true,
            chunker: "document".to_owned(),
        }
    }

    fn load_for(files: &ModelFiles, threads: usize, arch: Arch) -> Result<Self, EmbedError> {
        let path = files.weights();
        let bytes = fs::read(path).map_err(|source| EmbedError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let network = weights::read(&bytes, path, arch)?;
        let tokens = Tokens::read(files.tokenizer())?;
        Ok(Self {
            identity: Self::known_identity(),
            model: Arc::new(Model {
                network,
                tokens,
                count: AtomicU64::new(0),
            }),
            queries: Lane::start("embed-query", threads, Scratch::new)?,
            documents: Lane::start("embed-document", threads, Scratch::new)?,
        })
    }
}

#[async_trait]
impl Embedder for MiniLm {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        let lane = match kind {
            TextKind::Query => &self.queries,
            TextKind::Document => &self.documents,
        };
        let mut answers = Vec::new();
        for job in jobs(texts) {
            let model = Arc::clone(&self.model);
            let job = job.to_vec();
            answers.push(lane.submit(move |scratch| model.embed(&job, scratch)).await?);
        }
        let mut vectors = Vec::with_capacity(texts.len());
        for answer in answers {
            vectors.extend(answer.await.map_err(|_| EmbedError::GivenUp)??);
        }
        Ok(vectors)
    }

    fn tokens(&self) -> u64 {
        self.model.count.load(Ordering::Relaxed)
    }

    fn tokens_of(&self, text: &str) -> u64 {
        self.model.tokens.ids(text).map_or(0, |ids| ids.len() as u64)
    }
}

/// Neighbouring texts of about [`JOB_TOKENS`] together.
fn jobs(texts: &[String]) -> impl Iterator<Item = &[String]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let enough = |text: &String| {
            tokens += (text.len() / BYTES_PER_TOKEN + 2).min(TOKENS_MAX);
            tokens >= JOB_TOKENS
        };
        let end = rest.iter().position(enough).map_or(rest.len(), |last| last + 1);
        let (job, after) = rest.split_at(end);
        rest = after;
        (!job.is_empty()).then_some(job)
    })
}

#[cfg(test)]
mod tests;
