//! Metrics: one registry, and the figures of the process and of gRPC calls. Roles add their own.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Bounds of latency histograms in seconds: from a word search in memory to a slow bulk call.
pub const LATENCY_BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Metrics of gRPC calls. Labels are bounded: methods are those of the served interface.
#[derive(Clone)]
pub struct RpcMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Calls that are being answered.
    pub in_flight: IntGauge,
    /// Calls that were refused because too many were being answered.
    pub shed: IntGauge,
}

impl RpcMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("verdigris_rpc_requests_total", "gRPC calls by method and code"),
                &["method", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("verdigris_rpc_seconds", "Duration of gRPC calls by method")
                    .buckets(LATENCY_BUCKETS.to_vec()),
                &["method"],
            )?,
            in_flight: IntGauge::new("verdigris_rpc_in_flight", "gRPC calls being answered")?,
            shed: IntGauge::new("verdigris_rpc_shed_total", "gRPC calls refused because of overload")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.shed.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn observe(&self, method: &str, code: &str, duration: Duration) {
        self.requests.with_label_values(&[method, code]).inc();
        self.seconds.with_label_values(&[method]).observe(duration.as_secs_f64());
    }
}

/// The registry as Prometheus reads it, with the process's memory.
pub fn text(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = TextEncoder::new().encode_to_string(&registry.gather())?;
    if let Some(bytes) = resident_bytes() {
        text.push_str("# HELP process_resident_memory_bytes Resident memory, mapped files among it\n");
        text.push_str("# TYPE process_resident_memory_bytes gauge\n");
        text.push_str(&format!("process_resident_memory_bytes {bytes}\n"));
    }
    Ok(text)
}

/// Resident memory of this process; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
