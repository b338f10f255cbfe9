//! The line of the log for one search: what it took and what answered it, for whoever adds up and compares.
//!
//! Deliberately absent: what was asked, which is nobody's business; its length alone is told.

use std::time::Duration;

use verdigris_core::names::CollectionName;
use verdigris_proto::search::SearchResponse;

/// A search that was answered.
pub(crate) struct Line<'a> {
    /// Hits that were asked for.
    pub(crate) k: u32,
    /// How long it took, without what it waited for a position.
    pub(crate) latency: Duration,
    /// Tokens that were embedded for it.
    pub(crate) tokens: u64,
    /// Bytes that this process read from the store meanwhile, for whatever reason: a search needs none of them once its
    /// collection is open.
    pub(crate) downloaded: u64,
    /// The text and the filter.
    pub(crate) asked: (&'a str, &'a str),
}

impl Line<'_> {
    pub(crate) fn log(&self, name: &CollectionName, response: &SearchResponse) {
        let release = response.release.clone().unwrap_or_default();
        let (text, filter) = self.asked;
        tracing::info!(
            collection = %name, k = self.k, hits = response.hits.len(), latency_ms = self.latency.as_secs_f64() * 1e3,
            downloaded_bytes = self.downloaded, generation = release.generation, lineage = release.lineage,
            tokens = self.tokens, text_bytes = text.len(), has_filter = !filter.is_empty(),
            stale_ms = release.stale_milliseconds, "search"
        );
    }
}
