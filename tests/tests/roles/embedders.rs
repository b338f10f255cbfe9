//! Embedders that misbehave on demand, in front of the one that hashes words.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_embed::{EmbedError, Embedder, HashEmbedder, TextKind};

/// A document with this word in its embedded text makes the embedder panic.
pub(crate) const POISON: &str = "strychnine";
/// A query with this word waits until it is told to go on.
pub(crate) const SLOW: &str = "slowly";

/// An embedder that panics at a word, is away for a while, or keeps a query waiting.
pub(crate) struct Unreliable {
    inner: HashEmbedder,
    pub(crate) away: AtomicBool,
    pub(crate) refused: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) waiting: watch::Sender<u64>,
    pub(crate) open: watch::Sender<bool>,
}

impl Unreliable {
    pub(crate) fn new(dimension: u32) -> Self {
        Self {
            inner: HashEmbedder::new(dimension).expect("a dimension"),
            away: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            waiting: watch::Sender::new(0),
            open: watch::Sender::new(false),
        }
    }
}

#[async_trait]
impl Embedder for Unreliable {
    fn identity(&self) -> &EmbedderIdentity {
        self.inner.identity()
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        if self.away.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(EmbedError::ModelMissing {
                dir: PathBuf::from("models"),
            });
        }
        if kind == TextKind::Document && texts.iter().any(|text| text.contains(POISON)) {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            panic!("planted: this text ends whoever embeds it");
        }
        if kind == TextKind::Query && texts.iter().any(|text| text.contains(SLOW)) {
            self.waiting.send_modify(|waiting| *waiting += 1);
            // The sender lives as long as this embedder.
            let _ = self.open.subscribe().wait_for(|open| *open).await;
        }
        self.inner.embed(texts, kind).await
    }
}
