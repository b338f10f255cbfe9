//! Bitmaps of filters that were asked before, by segment. Segments never change, so entries never expire; they leave when
//! the cache is full.

use std::sync::Arc;

use moka::sync::Cache;
use roaring::RoaringBitmap;
use verdigris_core::manifest::SegmentId;

use crate::error::EngineError;
use crate::filter::Filter;
use crate::rows::Rows;

/// What an entry costs beside its bitmap and its key: the cache's own book-keeping.
const ENTRY_BYTES: usize = 256;

/// Bitmaps by segment and filter, bounded by bytes.
pub struct FilterCache(Cache<Key, Arc<RoaringBitmap>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    segment: SegmentId,
    filter: String,
}

impl FilterCache {
    /// A cache of at most this many bytes.
    pub fn new(bytes_max: u64) -> Self {
        let weigh = |key: &Key, rows: &Arc<RoaringBitmap>| {
            let bytes = key.filter.len() + rows.serialized_size() + ENTRY_BYTES;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(bytes_max).weigher(weigh).build())
    }

    /// The rows of a segment that a filter lets through, from the cache or by evaluating it once, however many ask at the
    /// same time.
    ///
    /// # Errors
    /// Those of [`Rows::filter`].
    pub fn rows(&self, segment: &SegmentId, rows: &Rows, filter: &Filter) -> Result<Arc<RoaringBitmap>, EngineError> {
        let key = Key {
            segment: segment.clone(),
            filter: filter.canonical().to_owned(),
        };
        if let Some(found) = self.0.get(&key) {
            return Ok(found);
        }
        let mut failure = None;
        let found = self.0.optionally_get_with(key, || match rows.filter(filter) {
            Ok(found) => Some(Arc::new(found)),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        match (found, failure) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => Err(error),
            // Another caller's evaluation failed while this one waited; ask for this one's own error.
            (None, None) => rows.filter(filter).map(Arc::new),
        }
    }

    /// How many bitmaps are kept.
    pub fn entries(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.entry_count()
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.weighted_size()
    }
}
