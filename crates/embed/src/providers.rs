//! The embedders that settings can ask for, loaded once for all roles of a process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::settings::{EmbedderSettings, Provider};

use crate::error::EmbedError;
use crate::{CacheKey, CacheKeys, CachedEmbedder, Embedder, EmbeddingCache, HashEmbedder, MiniLm, TextKind, model};

/// Loads embedders on first use.
pub struct Embedders {
    models: PathBuf,
    threads: usize,
    cache: Option<Arc<EmbeddingCache>>,
    minilm: Mutex<Option<Arc<dyn Embedder>>>,
    stand_in: Option<Arc<dyn Embedder>>,
}

impl Embedders {
    /// Models lie in the folder `models`; bulk work takes `threads`; vectors of documents are kept in `cache`.
    pub fn new(models: PathBuf, threads: usize, cache: Option<Arc<EmbeddingCache>>) -> Self {
        Self {
            models,
            threads,
            cache,
            minilm: Mutex::new(None),
            stand_in: None,
        }
    }

    /// Uses `embedder` wherever settings ask for hashes: for tests of what happens around an embedder that fails.
    #[must_use]
    pub fn with_hashes_by(mut self, embedder: Arc<dyn Embedder>) -> Self {
        self.stand_in = Some(embedder);
        self
    }

    /// The identity that settings ask for; no model is loaded for it.
    pub fn identity(&self, settings: &EmbedderSettings) -> Result<EmbedderIdentity, EmbedError> {
        match settings.provider {
            Provider::Minilm => Ok(MiniLm::known_identity()),
            Provider::Hash => match &self.stand_in {
                Some(embedder) => Ok(embedder.identity().clone()),
                None => Ok(HashEmbedder::new(settings.dimension)?.identity().clone()),
            },
            Provider::None => Ok(EmbedderIdentity::none(settings.dimension)),
        }
    }

    /// The embedder of queries; none where vectors come with the documents. Blocking: it may load a model.
    pub fn queries(&self, settings: &EmbedderSettings) -> Result<Option<Arc<dyn Embedder>>, EmbedError> {
        match settings.provider {
            Provider::Minilm => self.minilm().map(Some),
            Provider::Hash => match &self.stand_in {
                Some(embedder) => Ok(Some(embedder.clone())),
                None => Ok(Some(Arc::new(HashEmbedder::new(settings.dimension)?))),
            },
            Provider::None => Ok(None),
        }
    }

    /// The embedder of documents, with the cache on disk in front of a model. Blocking: it may load a model.
    pub fn documents(&self, settings: &EmbedderSettings) -> Result<Option<Arc<dyn Embedder>>, EmbedError> {
        let embedder = self.queries(settings)?;
        let cached = |embedder: Arc<dyn Embedder>| match (&self.cache, settings.provider) {
            (Some(cache), Provider::Minilm) => {
                Arc::new(CachedEmbedder::new(embedder, cache.clone())) as Arc<dyn Embedder>
            }
            _ => embedder,
        };
        Ok(embedder.map(cached))
    }

    /// Removes the vectors of these documents' texts from the cache on disk; no model is loaded for it. Blocking.
    pub fn forget(&self, settings: &EmbedderSettings, texts: &[String]) -> Result<(), EmbedError> {
        let (Some(cache), Provider::Minilm) = (&self.cache, settings.provider) else {
            return Ok(());
        };
        let keys = CacheKeys::new(&self.identity(settings)?, TextKind::Document);
        let keys: Vec<CacheKey> = texts.iter().map(|text| keys.key(text)).collect();
        cache.forget(&keys)
    }

    /// Tokens that models have read since the start, of queries and of documents.
    pub fn tokens(&self) -> u64 {
        let loaded = self
            .minilm
            .lock()
            .expect("loading does not panic while it holds this lock");
        loaded.as_ref().map_or(0, |embedder| embedder.tokens())
    }

    fn minilm(&self) -> Result<Arc<dyn Embedder>, EmbedError> {
        let mut loaded = self
            .minilm
            .lock()
            .expect("loading does not panic while it holds this lock");
        if let Some(embedder) = &*loaded {
            return Ok(embedder.clone());
        }
        let embedder: Arc<dyn Embedder> = Arc::new(MiniLm::load(&model::locate(&self.models)?, self.threads)?);
        *loaded = Some(embedder.clone());
        Ok(embedder)
    }
}
