//! Figures of the search role.

use std::time::Duration;

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use verdigris_core::manifest::{LineageId, Manifest};
use verdigris_core::names::CollectionName;

use crate::tenants::Closed;

/// Bounds of search durations in seconds.
const SEARCH_BUCKETS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
];

/// Bounds of durations of measuring in seconds.
const MEASURE_BUCKETS: [f64; 8] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0];

/// Figures of all collections; labels are bounded by the number of collections that are open.
#[derive(Clone)]
pub struct SearchMetrics {
    generation: IntGaugeVec,
    documents: IntGaugeVec,
    bytes: IntGaugeVec,
    dead_rows: IntGaugeVec,
    published_at: IntGaugeVec,
    swap_seconds: HistogramVec,
    refresh_failures: IntCounterVec,
    flips: IntCounterVec,
    other_failures: IntCounterVec,
    queries_left_out: IntCounterVec,
    measure_seconds: HistogramVec,
    search_seconds: HistogramVec,
    embed_seconds: HistogramVec,
    stale_seconds: GaugeVec,
    lineage: IntGaugeVec,
    open: IntGauge,
    closed: IntCounterVec,
}

impl SearchMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["collection"]);
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["collection"]);
        let seconds = |name: &str, help: &str| {
            HistogramVec::new(
                HistogramOpts::new(name, help).buckets(SEARCH_BUCKETS.to_vec()),
                &["collection"],
            )
        };
        let (stale_seconds, lineage) = freshness(registry)?;
        let (open, closed) = opening(registry)?;
        let metrics = Self {
            generation: gauge("verdigris_release_generation", "Generation that answers")?,
            documents: gauge("verdigris_release_documents", "Documents of the release that answers")?,
            bytes: gauge(
                "verdigris_release_bytes",
                "Bytes of the files of the release that answers",
            )?,
            dead_rows: gauge("verdigris_release_dead_rows", "Dead rows of the release that answers")?,
            published_at: gauge(
                "verdigris_release_published_timestamp_seconds",
                "When the release that answers was published",
            )?,
            swap_seconds: seconds(
                "verdigris_search_swap_seconds",
                "Duration of a refresh, from the moved pointer to the swap",
            )?,
            refresh_failures: counter(
                "verdigris_search_refresh_failures_total",
                "Looks at the pointer or opened releases that failed",
            )?,
            flips: counter(
                "verdigris_search_flips_total",
                "Times that another lineage took over answering",
            )?,
            other_failures: counter(
                "verdigris_search_other_failures_total",
                "Releases of the other lineage that could not be opened",
            )?,
            queries_left_out: counter(
                "verdigris_search_queries_left_out_total",
                "Asked queries that were not offered to the sample because it was busy",
            )?,
            measure_seconds: HistogramVec::new(
                HistogramOpts::new("verdigris_measure_seconds", "Duration of measuring a lineage")
                    .buckets(MEASURE_BUCKETS.to_vec()),
                &["collection"],
            )?,
            search_seconds: seconds("verdigris_search_seconds", "Duration of searching, without embedding")?,
            embed_seconds: seconds("verdigris_search_embed_seconds", "Duration of embedding a query")?,
            stale_seconds,
            lineage,
            open,
            closed,
        };
        registry.register(Box::new(metrics.generation.clone()))?;
        registry.register(Box::new(metrics.documents.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.dead_rows.clone()))?;
        registry.register(Box::new(metrics.published_at.clone()))?;
        registry.register(Box::new(metrics.swap_seconds.clone()))?;
        registry.register(Box::new(metrics.refresh_failures.clone()))?;
        registry.register(Box::new(metrics.flips.clone()))?;
        registry.register(Box::new(metrics.other_failures.clone()))?;
        registry.register(Box::new(metrics.queries_left_out.clone()))?;
        registry.register(Box::new(metrics.measure_seconds.clone()))?;
        registry.register(Box::new(metrics.search_seconds.clone()))?;
        registry.register(Box::new(metrics.embed_seconds.clone()))?;
        Ok(metrics)
    }

    /// Makes every figure visible before anything happened, for the reference page.
    pub fn touch(&self) {
        let label = &["products"];
        for gauge in [
            &self.generation,
            &self.documents,
            &self.bytes,
            &self.dead_rows,
            &self.published_at,
        ] {
            gauge.with_label_values(label);
        }
        self.stale_seconds.with_label_values(label);
        self.lineage
            .with_label_values(&["products", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]);
        for seconds in [
            &self.swap_seconds,
            &self.search_seconds,
            &self.embed_seconds,
            &self.measure_seconds,
        ] {
            seconds.with_label_values(label);
        }
        for counter in [
            &self.refresh_failures,
            &self.flips,
            &self.other_failures,
            &self.queries_left_out,
        ] {
            counter.with_label_values(label);
        }
        self.closed.with_label_values(&[Closed::Idle.name()]);
    }

    pub(crate) fn swapped(&self, name: &CollectionName, manifest: &Manifest, duration: Duration) {
        let label = &[name.as_str()];
        let dead = manifest
            .segments
            .iter()
            .map(|segment| i64::from(segment.rows - segment.live))
            .sum();
        self.generation.with_label_values(label).set(manifest.generation as i64);
        self.documents.with_label_values(label).set(manifest.documents as i64);
        self.bytes.with_label_values(label).set(manifest.bytes() as i64);
        self.dead_rows.with_label_values(label).set(dead);
        self.published_at
            .with_label_values(label)
            .set(manifest.created_at.0 / 1_000_000_000);
        self.swap_seconds
            .with_label_values(label)
            .observe(duration.as_secs_f64());
    }

    /// Another lineage answers than before, or the first.
    pub(crate) fn answers(&self, name: &CollectionName, before: Option<&LineageId>, lineage: &LineageId) {
        if let Some(before) = before.filter(|before| *before != lineage) {
            // One that never answered has no figure to be removed.
            let _ = self.lineage.remove_label_values(&[name.as_str(), before.as_str()]);
        }
        self.lineage
            .with_label_values(&[name.as_str(), lineage.as_str()])
            .set(1);
    }

    /// A collection is not open any more: without figures of it, what comes and goes leaves nothing.
    pub(crate) fn forget(&self, name: &CollectionName, lineage: Option<&LineageId>) {
        let label = &[name.as_str()];
        // What was never measured has no figure to be removed.
        for gauge in [
            &self.generation,
            &self.documents,
            &self.bytes,
            &self.dead_rows,
            &self.published_at,
        ] {
            let _ = gauge.remove_label_values(label);
        }
        for seconds in [
            &self.swap_seconds,
            &self.search_seconds,
            &self.embed_seconds,
            &self.measure_seconds,
        ] {
            let _ = seconds.remove_label_values(label);
        }
        for counter in [
            &self.refresh_failures,
            &self.flips,
            &self.other_failures,
            &self.queries_left_out,
        ] {
            let _ = counter.remove_label_values(label);
        }
        let _ = self.stale_seconds.remove_label_values(label);
        if let Some(lineage) = lineage {
            let _ = self.lineage.remove_label_values(&[name.as_str(), lineage.as_str()]);
        }
    }

    /// So many collections are open.
    pub(crate) fn open(&self, count: usize) {
        self.open.set(count as i64);
    }

    pub(crate) fn closed(&self, why: Closed) {
        self.closed.with_label_values(&[why.name()]).inc();
    }

    pub(crate) fn stale(&self, name: &CollectionName, stale: Duration) {
        self.stale_seconds
            .with_label_values(&[name.as_str()])
            .set(stale.as_secs_f64());
    }

    pub(crate) fn refresh_failed(&self, name: &CollectionName) {
        self.refresh_failures.with_label_values(&[name.as_str()]).inc();
    }

    pub(crate) fn flipped(&self, name: &CollectionName) {
        self.flips.with_label_values(&[name.as_str()]).inc();
    }

    pub(crate) fn other_failed(&self, name: &CollectionName) {
        self.other_failures.with_label_values(&[name.as_str()]).inc();
    }

    pub(crate) fn query_left_out(&self, name: &CollectionName) {
        self.queries_left_out.with_label_values(&[name.as_str()]).inc();
    }

    pub(crate) fn measured(&self, name: &CollectionName, duration: Duration) {
        let seconds = self.measure_seconds.with_label_values(&[name.as_str()]);
        seconds.observe(duration.as_secs_f64());
    }

    pub(crate) fn searched(&self, name: &CollectionName, embed: Duration, search: Duration) {
        let label = &[name.as_str()];
        self.search_seconds
            .with_label_values(label)
            .observe(search.as_secs_f64());
        if !embed.is_zero() {
            self.embed_seconds.with_label_values(label).observe(embed.as_secs_f64());
        }
    }
}

/// How many collections are open, and how many were closed.
fn opening(registry: &Registry) -> Result<(IntGauge, IntCounterVec), prometheus::Error> {
    let open = IntGauge::new("verdigris_search_open_collections", "Collections that are open")?;
    let closed = Opts::new(
        "verdigris_search_closed_total",
        "Collections of a prefix that were closed: nobody used them, or others needed their room",
    );
    let closed = IntCounterVec::new(closed, &["why"])?;
    registry.register(Box::new(open.clone()))?;
    registry.register(Box::new(closed.clone()))?;
    Ok((open, closed))
}

/// How old what answers is, and which lineage it is.
fn freshness(registry: &Registry) -> Result<(GaugeVec, IntGaugeVec), prometheus::Error> {
    let stale = Opts::new(
        "verdigris_search_stale_seconds",
        "Since the pointer was last read without an error, at the newest look",
    );
    let lineage = Opts::new("verdigris_release_lineage_info", "1 for the lineage that answers");
    let (stale, lineage) = (
        GaugeVec::new(stale, &["collection"])?,
        IntGaugeVec::new(lineage, &["collection", "lineage"])?,
    );
    registry.register(Box::new(stale.clone()))?;
    registry.register(Box::new(lineage.clone()))?;
    Ok((stale, lineage))
}
