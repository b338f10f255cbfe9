//! Query vectors in memory. People search for the same words again and again, and a look-up costs a thousandth of an
//! embedding.

use std::sync::Arc;

use moka::sync::Cache;

use crate::{CacheKey, CacheKeys, EmbedError, Embedder, TextKind, check_vectors};

/// Queries remembered by default: 16 MB at 384 coordinates.
pub const QUERY_CACHE_ENTRIES: u64 = 10_000;

/// Embeds queries and remembers the vectors that are asked for most and last. Cheap to clone; clones share.
#[derive(Clone)]
pub struct QueryCache {
    inner: Arc<dyn Embedder>,
    keys: CacheKeys,
    vectors: Cache<CacheKey, Arc<[f32]>>,
}

impl QueryCache {
    /// Puts a memory of at most `entries` vectors before `inner`. Not for an embedder whose identity changes.
    pub fn new(inner: Arc<dyn Embedder>, entries: u64) -> Self {
        let keys = CacheKeys::new(inner.identity(), TextKind::Query);
        Self {
            inner,
            keys,
            vectors: Cache::new(entries),
        }
    }

    /// The embedder behind it.
    pub fn embedder(&self) -> &Arc<dyn Embedder> {
        &self.inner
    }

    /// The vector of one query. Two that ask the same thing at the same moment may both embed it.
    pub async fn embed(&self, text: &str) -> Result<Arc<[f32]>, EmbedError> {
        Ok(self.embed_counted(text).await?.0)
    }

    /// The same, with the tokens that were embedded for it: none where the vector was remembered.
    pub async fn embed_counted(&self, text: &str) -> Result<(Arc<[f32]>, u64), EmbedError> {
        let key = self.keys.key(text);
        if let Some(vector) = self.vectors.get(&key) {
            return Ok((vector, 0));
        }
        let mut vectors = self.inner.embed(&[text.to_owned()], TextKind::Query).await?;
        check_vectors(self.inner.identity(), 1, &vectors)?;
        let vector: Arc<[f32]> = vectors.remove(0).into();
        self.vectors.insert(key, Arc::clone(&vector));
        Ok((vector, self.inner.tokens_of(text)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use verdigris_core::embedder::EmbedderIdentity;

    use super::*;
    use crate::HashEmbedder;

    struct Counting(HashEmbedder, AtomicUsize);

    #[async_trait]
    impl Embedder for Counting {
        fn identity(&self) -> &EmbedderIdentity {
            self.0.identity()
        }

        async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
            assert_eq!(kind, TextKind::Query);
            self.1.fetch_add(texts.len(), Ordering::SeqCst);
            self.0.embed(texts, kind).await
        }
    }

    #[tokio::test]
    async fn a_query_is_embedded_once_and_memory_is_bounded() {
        let inner = Arc::new(Counting(HashEmbedder::new(8).unwrap(), AtomicUsize::new(0)));
        let queries = QueryCache::new(Arc::<Counting>::clone(&inner), 10);
        for _ in 0..3 {
            assert_eq!(queries.embed("copper").await.unwrap()[..], inner.0.vector("copper"));
        }
        assert_eq!(inner.1.load(Ordering::SeqCst), 1);
        for n in 0..100 {
            queries.embed(&n.to_string()).await.unwrap();
        }
        queries.vectors.run_pending_tasks();
        assert!(queries.vectors.entry_count() <= 10);
    }
}
