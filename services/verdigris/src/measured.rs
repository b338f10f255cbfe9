//! A store whose requests are counted and timed: what a process reads, writes and waits for.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use verdigris_store::{Body, Get, ObjectMeta, Part, Precondition, Store, StoreError, Tag};

/// Bounds of requests' durations in seconds: from a file in memory to a slow upload.
const BUCKETS: [f64; 9] = [0.000_1, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Figures of a store; labels are those of its trait.
#[derive(Clone)]
pub(crate) struct StoreMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    fetched: IntCounter,
}

/// A store that is measured.
pub(crate) struct MeasuredStore {
    inner: Arc<dyn Store>,
    metrics: StoreMetrics,
}

// === impl StoreMetrics ===

impl StoreMetrics {
    /// Registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labels = &["operation", "outcome"];
        let seconds = HistogramOpts::new("verdigris_store_request_seconds", "Duration of requests to the store");
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "verdigris_store_requests_total",
                    "Requests to the store by what came of them",
                ),
                labels,
            )?,
            seconds: HistogramVec::new(seconds.buckets(BUCKETS.to_vec()), &["operation"])?,
            fetched: IntCounter::new(
                "verdigris_store_fetched_bytes_total",
                "Bytes that were read from the store; files of a folder that are mapped are not among them",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.fetched.clone()))?;
        Ok(metrics)
    }

    /// Makes every figure visible before anything happened, for the reference page.
    #[cfg(test)]
    pub(crate) fn touch(&self) {
        self.requests.with_label_values(&["get", "ok"]);
        self.seconds.with_label_values(&["get"]);
    }

    /// Bytes that were read.
    pub(crate) fn fetched(&self) -> IntCounter {
        self.fetched.clone()
    }

    fn note<T>(&self, operation: &str, began: Instant, result: &Result<T, StoreError>) {
        let outcome = match result {
            Ok(_) => "ok",
            // What a caller asked to be told is no failure of the store.
            Err(StoreError::PreconditionFailed { .. } | StoreError::NotFound { .. }) => "refused",
            Err(_) => "failed",
        };
        self.requests.with_label_values(&[operation, outcome]).inc();
        self.seconds
            .with_label_values(&[operation])
            .observe(began.elapsed().as_secs_f64());
    }
}

// === impl MeasuredStore ===

impl MeasuredStore {
    pub(crate) fn new(inner: Arc<dyn Store>, metrics: StoreMetrics) -> Self {
        Self { inner, metrics }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for MeasuredStore {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let began = Instant::now();
        let got = self.inner.get(key, if_none_match).await;
        self.metrics.note("get", began, &got);
        if let Ok(Get::Found { bytes, .. }) = &got {
            self.metrics.fetched.inc_by(bytes.len() as u64);
        }
        got
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let began = Instant::now();
        let got = self.inner.get_range(key, range).await;
        self.metrics.note("get_range", began, &got);
        if let Ok(bytes) = &got {
            self.metrics.fetched.inc_by(bytes.len() as u64);
        }
        got
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        let began = Instant::now();
        let got = self.inner.get_part(key, range, of).await;
        self.metrics.note("get_range", began, &got);
        if let Ok(part) = &got {
            self.metrics.fetched.inc_by(part.bytes.len() as u64);
        }
        got
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        let began = Instant::now();
        let put = self.inner.put(key, body, precondition).await;
        self.metrics.note("put", began, &put);
        put
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let began = Instant::now();
        let listed = self.inner.list(prefix, start_after, limit).await;
        self.metrics.note("list", began, &listed);
        listed
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let began = Instant::now();
        let deleted = self.inner.delete(key).await;
        self.metrics.note("delete", began, &deleted);
        deleted
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
