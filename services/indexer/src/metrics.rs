//! Figures of the indexer.

use std::time::Duration;

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;

use crate::progress::OutcomeCounts;

/// Bounds of publish durations in seconds.
const PUBLISH_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Figures of all collections; the label is bounded by the number of collections.
#[derive(Clone)]
pub struct IndexerMetrics {
    events: IntCounterVec,
    published_bytes: IntCounterVec,
    publish_seconds: HistogramVec,
    checkpoint: IntGaugeVec,
    segments: IntGaugeVec,
    standstill: IntGaugeVec,
    staged: IntGaugeVec,
    collected: IntCounterVec,
    follows: IntCounterVec,
    behind: Behind,
}

/// How far publishing is behind the log, and what it spends on embedding.
#[derive(Clone)]
struct Behind {
    lag_events: IntGaugeVec,
    lag_seconds: GaugeVec,
    embedded: IntCounterVec,
    embed_seconds: HistogramVec,
}

impl Behind {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let collection = &["collection"];
        let lag_events = Opts::new(
            "verdigris_indexer_lag_events",
            "Events of the log that are in no release yet",
        );
        let lag_seconds = Opts::new(
            "verdigris_indexer_lag_seconds",
            "Age of the oldest event that is in no release yet",
        );
        let embedded = Opts::new(
            "verdigris_indexer_embedded_texts_total",
            "Texts of documents that were embedded, from the cache or by the model",
        );
        let embed_seconds = HistogramOpts::new(
            "verdigris_indexer_embed_seconds",
            "Duration of embedding the texts of one release",
        );
        let metrics = Self {
            lag_events: IntGaugeVec::new(lag_events, collection)?,
            lag_seconds: GaugeVec::new(lag_seconds, collection)?,
            embedded: IntCounterVec::new(embedded, collection)?,
            embed_seconds: HistogramVec::new(embed_seconds.buckets(PUBLISH_BUCKETS.to_vec()), collection)?,
        };
        registry.register(Box::new(metrics.lag_events.clone()))?;
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        registry.register(Box::new(metrics.embedded.clone()))?;
        registry.register(Box::new(metrics.embed_seconds.clone()))?;
        Ok(metrics)
    }
}

impl IndexerMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["collection"]);
        let collection = &["collection"];
        let metrics = Self {
            events: counter(
                "verdigris_indexer_events_total",
                "Events in releases, by outcome",
                &["collection", "outcome"],
            )?,
            published_bytes: counter(
                "verdigris_indexer_published_bytes_total",
                "Bytes of segments published",
                collection,
            )?,
            publish_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "verdigris_indexer_publish_seconds",
                    "Duration of publishes, from written segment to opened release",
                )
                .buckets(PUBLISH_BUCKETS.to_vec()),
                collection,
            )?,
            checkpoint: gauge(
                "verdigris_indexer_checkpoint",
                "Sequence of the last event in the newest release",
            )?,
            segments: gauge("verdigris_indexer_segments", "Segments of the newest release")?,
            standstill: gauge("verdigris_indexer_standstill", "1 while publishing stands still")?,
            staged: gauge(
                "verdigris_indexer_staged",
                "1 while a release that breached a guard waits for a person",
            )?,
            collected: counter(
                "verdigris_indexer_garbage_objects_total",
                "Objects removed by garbage collection",
                collection,
            )?,
            follows: counter(
                "verdigris_indexer_follows_total",
                "Publishes that brought the other lineage level",
                collection,
            )?,
            behind: Behind::register(registry)?,
        };
        registry.register(Box::new(metrics.events.clone()))?;
        registry.register(Box::new(metrics.published_bytes.clone()))?;
        registry.register(Box::new(metrics.publish_seconds.clone()))?;
        registry.register(Box::new(metrics.checkpoint.clone()))?;
        registry.register(Box::new(metrics.segments.clone()))?;
        registry.register(Box::new(metrics.standstill.clone()))?;
        registry.register(Box::new(metrics.staged.clone()))?;
        registry.register(Box::new(metrics.collected.clone()))?;
        registry.register(Box::new(metrics.follows.clone()))?;
        Ok(metrics)
    }

    /// Makes every figure visible before anything happened, for the reference page.
    pub fn touch(&self) {
        let label = &["products"];
        self.events.with_label_values(&["products", "applied"]);
        self.published_bytes.with_label_values(label);
        self.publish_seconds.with_label_values(label);
        self.checkpoint.with_label_values(label);
        self.segments.with_label_values(label);
        self.standstill.with_label_values(label);
        self.staged.with_label_values(label);
        self.collected.with_label_values(label);
        self.follows.with_label_values(label);
        self.behind.lag_events.with_label_values(label);
        self.behind.lag_seconds.with_label_values(label);
        self.behind.embedded.with_label_values(label);
        self.behind.embed_seconds.with_label_values(label);
    }

    pub(crate) fn events(&self, name: &CollectionName, counts: &OutcomeCounts) {
        let add = |outcome: &str, n: u64| self.events.with_label_values(&[name.as_str(), outcome]).inc_by(n);
        add("applied", counts.applied);
        add("unchanged", counts.unchanged);
        add("stale", counts.stale);
        add("set_aside", counts.set_aside);
    }

    pub(crate) fn published(&self, name: &CollectionName, manifest: &Manifest, duration: Duration, bytes: u64) {
        let label = &[name.as_str()];
        self.published_bytes.with_label_values(label).inc_by(bytes);
        self.publish_seconds
            .with_label_values(label)
            .observe(duration.as_secs_f64());
        self.checkpoint
            .with_label_values(label)
            .set(manifest.checkpoint.sequence as i64);
        self.segments
            .with_label_values(label)
            .set(manifest.segments.len() as i64);
    }

    pub(crate) fn standstill(&self, name: &CollectionName, stands_still: bool) {
        self.standstill
            .with_label_values(&[name.as_str()])
            .set(i64::from(stands_still));
    }

    pub(crate) fn staged(&self, name: &CollectionName, is_staged: bool) {
        self.staged
            .with_label_values(&[name.as_str()])
            .set(i64::from(is_staged));
    }

    pub(crate) fn lag(&self, name: &CollectionName, events: u64, seconds: f64) {
        let label = &[name.as_str()];
        self.behind.lag_events.with_label_values(label).set(events as i64);
        self.behind.lag_seconds.with_label_values(label).set(seconds);
    }

    pub(crate) fn embedded(&self, name: &CollectionName, texts: u64, duration: Duration) {
        if texts > 0 {
            let label = &[name.as_str()];
            self.behind.embedded.with_label_values(label).inc_by(texts);
            self.behind
                .embed_seconds
                .with_label_values(label)
                .observe(duration.as_secs_f64());
        }
    }

    pub(crate) fn followed(&self, name: &CollectionName) {
        self.follows.with_label_values(&[name.as_str()]).inc();
    }

    pub(crate) fn collected(&self, name: &CollectionName, objects: u64) {
        self.collected.with_label_values(&[name.as_str()]).inc_by(objects);
    }
}
