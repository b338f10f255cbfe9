//! An embedder with a memory: looks up what was embedded before and embeds the rest in batches, each stored as soon as
//! it is made.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::task::spawn_blocking;
use verdigris_core::embedder::EmbedderIdentity;

use crate::{CacheKey, CacheKeys, EmbedError, Embedder, EmbeddingCache, TextKind, check_vectors};

/// Tokens per batch, as guessed from bytes: half a second of work on two cores, which is what a kill may cost.
const BATCH_TOKENS: usize = 8_192;
/// Bytes per token, and the most tokens that a text counts for, in that guess.
const BYTES_PER_TOKEN: usize = 4;
const TEXT_TOKENS_MAX: usize = 256;
/// Texts per batch, so that many empty texts do not become one batch.
const BATCH_TEXTS_MAX: usize = 1_024;

/// What a [`CachedEmbedder`] has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmbedStats {
    /// Texts whose vector came from the cache, or from the same text in the same call.
    pub hits: u64,
    /// Texts that were embedded.
    pub misses: u64,
    /// Tokens of those, 0 where the embedder does not count.
    pub tokens: u64,
    /// Reads and writes of the cache that went wrong; the work went on without.
    pub cache_failures: u64,
}

/// An [`Embedder`] over another one and a cache.
pub struct CachedEmbedder {
    inner: Arc<dyn Embedder>,
    cache: Arc<EmbeddingCache>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CachedEmbedder {
    /// Puts `cache` before `inner`. Several embedders may share a cache.
    pub fn new(inner: Arc<dyn Embedder>, cache: Arc<EmbeddingCache>) -> Self {
        Self {
            inner,
            cache,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The counts at this moment.
    pub fn stats(&self) -> EmbedStats {
        EmbedStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            tokens: self.inner.tokens(),
            cache_failures: self.cache.failures(),
        }
    }

    async fn look_up(&self, keys: Vec<CacheKey>) -> Result<Vec<Option<Vec<f32>>>, EmbedError> {
        let cache = Arc::clone(&self.cache);
        let dimension = self.identity().dimension as usize;
        let found = spawn_blocking(move || cache.get_many(&keys))
            .await
            .map_err(|_| EmbedError::GivenUp)?;
        Ok(found
            .into_iter()
            .map(|vector| vector.filter(|vector| vector.len() == dimension))
            .collect())
    }

    async fn store(&self, vectors: Vec<(CacheKey, Vec<f32>)>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let cache = Arc::clone(&self.cache);
        let work = move || {
            cache.put_many(vectors.iter().map(|(key, vector)| (*key, vector.as_slice())));
            vectors.into_iter().map(|(_, vector)| vector).collect()
        };
        spawn_blocking(work).await.map_err(|_| EmbedError::GivenUp)
    }
}

#[async_trait]
impl Embedder for CachedEmbedder {
    fn identity(&self) -> &EmbedderIdentity {
        self.inner.identity()
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        let keys = CacheKeys::new(self.identity(), kind);
        let mut place_of: HashMap<CacheKey, usize> = HashMap::with_capacity(texts.len());
        let mut distinct: Vec<(CacheKey, &String)> = Vec::with_capacity(texts.len());
        let mut places = Vec::with_capacity(texts.len());
        for text in texts {
            let key = keys.key(text);
            places.push(*place_of.entry(key).or_insert_with(|| {
                distinct.push((key, text));
                distinct.len() - 1
            }));
        }
        let mut found = self.look_up(distinct.iter().map(|(key, _)| *key).collect()).await?;
        let missing: Vec<usize> = (0..found.len()).filter(|n| found[*n].is_none()).collect();
        self.hits
            .fetch_add((texts.len() - missing.len()) as u64, Ordering::Relaxed);
        let lengths: Vec<usize> = missing.iter().map(|n| distinct[*n].1.len()).collect();
        for batch in batches(&lengths) {
            let batch = &missing[batch];
            let texts: Vec<String> = batch.iter().map(|n| distinct[*n].1.clone()).collect();
            let vectors = self.inner.embed(&texts, kind).await?;
            check_vectors(self.identity(), texts.len(), &vectors)?;
            self.misses.fetch_add(texts.len() as u64, Ordering::Relaxed);
            let vectors = self
                .store(batch.iter().map(|n| distinct[*n].0).zip(vectors).collect())
                .await?;
            batch
                .iter()
                .zip(vectors)
                .for_each(|(n, vector)| found[*n] = Some(vector));
        }
        Ok(places
            .into_iter()
            .map(|n| found[n].clone().expect("what was missing has been embedded"))
            .collect())
    }

    fn tokens(&self) -> u64 {
        self.inner.tokens()
    }

    fn tokens_of(&self, text: &str) -> u64 {
        self.inner.tokens_of(text)
    }
}

/// Ranges of texts, given their bytes, that stay within the budget (or are one text).
fn batches(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut tokens = 0;
    for (n, bytes) in lengths.iter().enumerate() {
        let more = (bytes / BYTES_PER_TOKEN + 2).min(TEXT_TOKENS_MAX);
        if n > start && (tokens + more > BATCH_TOKENS || n - start == BATCH_TEXTS_MAX) {
            batches.push(start..n);
            start = n;
            tokens = 0;
        }
        tokens += more;
    }
    if start < lengths.len() {
        batches.push(start..lengths.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tempfile::TempDir;

    use super::*;
    use crate::{CACHE_VECTORS_MAX, HashEmbedder};

    /// Counts what reaches it, and can be told to give up or to return nonsense.
    struct Counting {
        inner: HashEmbedder,
        seen: Mutex<Vec<String>>,
        batches_left: AtomicU64,
        answer: Answer,
    }

    type Answer = fn(Vec<Vec<f32>>) -> Vec<Vec<f32>>;

    impl Counting {
        fn new(batches_left: u64) -> Self {
            let inner = HashEmbedder::new(16).unwrap();
            let answer = |vectors| vectors;
            Self {
                inner,
                seen: Mutex::default(),
                batches_left: AtomicU64::new(batches_left),
                answer,
            }
        }

        fn seen(&self) -> usize {
            self.seen.lock().unwrap().len()
        }
    }

    #[async_trait]
    impl Embedder for Counting {
        fn identity(&self) -> &EmbedderIdentity {
            self.inner.identity()
        }

        async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
            if self.batches_left.fetch_sub(1, Ordering::SeqCst) == 0 {
                return Err(EmbedError::GivenUp);
            }
            self.seen.lock().unwrap().extend_from_slice(texts);
            Ok((self.answer)(self.inner.embed(texts, kind).await?))
        }
    }

    fn cached(dir: &TempDir, inner: &Arc<Counting>) -> CachedEmbedder {
        let cache = EmbeddingCache::open(&dir.path().join("embeddings.sqlite"), CACHE_VECTORS_MAX).unwrap();
        CachedEmbedder::new(Arc::<Counting>::clone(inner), Arc::new(cache))
    }

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("text {n}")).collect()
    }

    #[tokio::test]
    async fn a_text_is_embedded_once_and_order_and_repeats_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let inner = Arc::new(Counting::new(u64::MAX));
        let embedder = cached(&dir, &inner);
        let mut many = texts(30);
        many.extend(texts(10));
        many.push(String::new());
        let expect: Vec<Vec<f32>> = many.iter().map(|text| inner.inner.vector(text)).collect();
        for _ in 0..2 {
            assert_eq!(embedder.embed(&many, TextKind::Document).await.unwrap(), expect);
        }
        assert_eq!(inner.seen(), 31);
        let stats = EmbedStats {
            hits: 10 + 41,
            misses: 31,
            tokens: 0,
            cache_failures: 0,
        };
        assert_eq!(embedder.stats(), stats);
        // Another process, later.
        drop(embedder);
        assert_eq!(
            cached(&dir, &inner).embed(&many, TextKind::Document).await.unwrap(),
            expect
        );
        assert_eq!(inner.seen(), 31);
    }

    #[tokio::test]
    async fn what_was_embedded_before_an_end_is_not_embedded_again() {
        let dir = tempfile::tempdir().unwrap();
        let many = texts(BATCH_TEXTS_MAX * 3);
        let broken = Arc::new(Counting::new(2));
        assert!(cached(&dir, &broken).embed(&many, TextKind::Document).await.is_err());
        assert_eq!(broken.seen(), BATCH_TEXTS_MAX * 2);
        let whole = Arc::new(Counting::new(u64::MAX));
        cached(&dir, &whole).embed(&many, TextKind::Document).await.unwrap();
        assert_eq!(whole.seen(), BATCH_TEXTS_MAX);
    }

    #[tokio::test]
    async fn vectors_that_break_the_contract_are_refused_and_never_stored() {
        let nonsense: [(Answer, &str); 4] = [
            (
                |mut vectors| {
                    vectors.pop();
                    vectors
                },
                "embedder returned 2 vectors for 3 texts",
            ),
            (
                |mut vectors| {
                    vectors[1].pop();
                    vectors
                },
                "embedder returned a vector of 15 coordinates instead of 16",
            ),
            (
                |mut vectors| {
                    vectors[2][3] = f32::NAN;
                    vectors
                },
                "embedder returned a vector that is not finite",
            ),
            (
                |mut vectors| {
                    vectors[0][0] = f32::INFINITY;
                    vectors
                },
                "embedder returned a vector that is not finite",
            ),
        ];
        for (answer, expect) in nonsense {
            let dir = tempfile::tempdir().unwrap();
            let inner = Arc::new(Counting {
                answer,
                ..Counting::new(u64::MAX)
            });
            let embedder = cached(&dir, &inner);
            let error = embedder.embed(&texts(3), TextKind::Document).await.unwrap_err();
            assert_eq!(error.to_string(), expect);
            assert!(embedder.cache.is_empty());
        }
    }

    #[test]
    fn batches_hold_every_text_once_within_the_budget() {
        for lengths in [
            vec![],
            vec![0; 5000],
            vec![1 << 20; 100],
            (0..3000).map(|n| n * 13 % 2000).collect(),
        ] {
            let batches = batches(&lengths);
            let back: Vec<usize> = batches.iter().cloned().flatten().collect();
            assert_eq!(back, (0..lengths.len()).collect::<Vec<_>>());
            for batch in batches {
                let tokens: usize = lengths[batch.clone()]
                    .iter()
                    .map(|bytes| (bytes / 4 + 2).min(256))
                    .sum();
                assert!(tokens <= BATCH_TOKENS && batch.len() <= BATCH_TEXTS_MAX);
            }
        }
    }
}
