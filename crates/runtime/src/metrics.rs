//! Metrics: the figures of the process and of gRPC calls, and the rules that all names follow. Roles add their own.
//!
//! A metric with labels is given its first series when it is registered: a rate exists before the first event then,
//! and [`reference`] sees every metric.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{
    Counter, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::authentication::Scope;

/// Bounds of latency histograms in seconds: from a word search in memory to a slow bulk call.
pub const LATENCY_BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The method label of calls to methods that do not exist: their names are the client's, and unbounded.
pub(crate) const OTHER_METHOD: &str = "other";

/// Metrics of gRPC calls. Labels are bounded: methods are those of the served interface.
#[derive(Clone)]
pub struct RpcMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    shed: IntCounterVec,
    /// Open connections.
    pub(crate) connections: IntGauge,
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
                HistogramOpts::new("verdigris_rpc_duration_seconds", "Duration of gRPC calls by method")
                    .buckets(LATENCY_BUCKETS.to_vec()),
                &["method"],
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new("verdigris_rpc_in_flight", "gRPC calls being answered, by scope"),
                &["scope"],
            )?,
            shed: IntCounterVec::new(
                Opts::new(
                    "verdigris_rpc_shed_total",
                    "gRPC calls refused because of overload, by scope (I-20)",
                ),
                &["scope"],
            )?,
            connections: IntGauge::new("verdigris_rpc_connections", "Open gRPC connections")?,
        };
        metrics.requests.with_label_values(&[OTHER_METHOD, "UNIMPLEMENTED"]);
        metrics.seconds.with_label_values(&[OTHER_METHOD]);
        for scope in Scope::ALL {
            metrics.in_flight(scope);
            metrics.shed(scope);
        }
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.shed.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn in_flight(&self, scope: Scope) -> IntGauge {
        self.in_flight.with_label_values(&[scope.as_str()])
    }

    pub(crate) fn shed(&self, scope: Scope) -> IntCounter {
        self.shed.with_label_values(&[scope.as_str()])
    }

    /// Calls of methods that begin so, by what became of them: answered, whatever the answer was, and failed by the
    /// server's fault, which are among the first.
    pub fn calls(&self, prefix: &str) -> (u64, u64) {
        let (mut answered, mut failed) = (0, 0);
        for family in self.requests.collect() {
            for metric in family.get_metric() {
                let label = |name: &str| {
                    let labels = metric.get_label().iter();
                    labels
                        .filter(|label| label.name() == name)
                        .map(|label| label.value())
                        .next()
                        .unwrap_or("")
                };
                if !label("method").starts_with(prefix) {
                    continue;
                }
                let calls = metric.get_counter().get_value() as u64;
                answered += calls;
                if matches!(
                    label("code"),
                    "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS" | "DEADLINE_EXCEEDED" | "OTHER"
                ) {
                    failed += calls;
                }
            }
        }
        (answered, failed)
    }

    pub(crate) fn observe(&self, method: &str, code: &str, duration: Duration) {
        self.requests.with_label_values(&[method, code]).inc();
        self.seconds
            .with_label_values(&[method])
            .observe(duration.as_secs_f64());
    }
}

/// A registry with the figures of this process, read anew at each look.
pub fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessMetrics::new()?))?;
    Ok(registry)
}

/// The registry as Prometheus reads it.
pub fn text(registry: &Registry) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// Resident memory of this process, mapped files among it; none where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// A page with every metric of a registry, in Markdown: name, kind, labels, meaning.
pub fn reference(registry: &Registry) -> String {
    let mut page = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for family in registry.gather() {
        let labels: Vec<String> = family
            .get_metric()
            .first()
            .map(|metric| {
                metric
                    .get_label()
                    .iter()
                    .map(|label| format!("`{}`", label.name()))
                    .collect()
            })
            .unwrap_or_default();
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        page.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            family.name(),
            labels.join(", "),
            family.help()
        ));
    }
    page
}

/// What is wrong with the names of a registry's metrics; empty when all follow the rules: our prefix, base units,
/// `_total` on counters alone, a help text.
pub fn naming_mistakes(registry: &Registry) -> Vec<String> {
    let mistakes = |family: &MetricFamily| {
        let name = family.name();
        let kind = family.get_field_type();
        let odd_unit = [
            "_ms", "_millis", "_micros", "_nanos", "_us", "_kb", "_mb", "_minutes", "_percent",
        ]
        .iter()
        .any(|unit| name.trim_end_matches("_total").ends_with(unit));
        let checks = [
            (
                !name.starts_with("verdigris_") && !name.starts_with("process_"),
                "has no prefix verdigris_",
            ),
            (
                (kind == MetricType::COUNTER) != name.ends_with("_total"),
                "_total belongs on counters, and on each",
            ),
            (odd_unit, "is not in a base unit: seconds, bytes or a ratio"),
            (family.help().is_empty(), "has no help text"),
        ];
        let wrong = checks.into_iter().filter(|(wrong, _)| *wrong);
        wrong.map(|(_, what)| format!("{name}: {what}")).collect::<Vec<_>>()
    };
    registry.gather().iter().flat_map(mistakes).collect()
}

// === impl ProcessMetrics ===

/// Figures that the system keeps. Those it does not tell stay at zero.
struct ProcessMetrics {
    resident: IntGauge,
    processor: Counter,
    files: IntGauge,
    threads: IntGauge,
    started: Gauge,
}

/// Linux tells processor time to programs in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            resident: IntGauge::new(
                "process_resident_memory_bytes",
                "Resident memory, mapped files among it",
            )?,
            processor: Counter::new("process_cpu_seconds_total", "Processor time used")?,
            files: IntGauge::new("process_open_fds", "Open file descriptors")?,
            threads: IntGauge::new("process_threads", "Threads")?,
            started: Gauge::new("process_start_time_seconds", "Start of the process, seconds since 1970")?,
        };
        if let Some(started) = started_seconds() {
            metrics.started.set(started);
        }
        Ok(metrics)
    }

    fn parts(&self) -> [&dyn Collector; 5] {
        [
            &self.resident,
            &self.processor,
            &self.files,
            &self.threads,
            &self.started,
        ]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(stat) = Stat::read() {
            self.processor
                .inc_by((stat.processor_ticks / TICKS_PER_SECOND - self.processor.get()).max(0.0));
            self.threads.set(stat.threads);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the folder that is being read.
            self.files.set(files.count() as i64 - 1);
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

/// Fields of `/proc/self/stat`.
struct Stat {
    processor_ticks: f64,
    threads: i64,
    started_ticks: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
        Some(Self {
            processor_ticks: field(14)? + field(15)?,
            threads: field(20)? as i64,
            started_ticks: field(22)?,
        })
    }
}

fn started_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(booted + Stat::read()?.started_ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_process_and_calls_follow_the_naming_rules_and_are_all_in_the_reference() {
        let registry = registry().expect("registered");
        RpcMetrics::register(&registry).expect("registered");
        assert_eq!(naming_mistakes(&registry), Vec::<String>::new());
        let page = reference(&registry);
        for row in [
            "| `verdigris_rpc_requests_total` | counter | `code`, `method` | gRPC calls by method and code |",
            "| `verdigris_rpc_duration_seconds` | histogram | `method` |",
            "| `process_resident_memory_bytes` | gauge |  |",
        ] {
            assert!(page.contains(row), "{page}");
        }
    }

    #[test]
    fn names_that_break_the_rules_are_found() {
        let registry = Registry::new();
        for (name, help) in [
            ("requests", "x"),
            ("verdigris_wait_ms", "x"),
            ("verdigris_sum_total", "x"),
        ] {
            registry
                .register(Box::new(IntGauge::new(name, help).expect("valid")))
                .expect("registered");
        }
        registry
            .register(Box::new(IntCounter::new("verdigris_events", "x").expect("valid")))
            .expect("registered");
        let mistakes = naming_mistakes(&registry);
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    }

    #[test]
    fn the_process_tells_its_memory_threads_files_and_start() {
        let text = text(&registry().expect("registered")).expect("encoded");
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")))
                .expect("there");
            line.rsplit(' ')
                .next()
                .and_then(|value| value.parse().ok())
                .expect("a number")
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_threads") >= 1.0 && value("process_open_fds") >= 3.0);
        assert!(value("process_start_time_seconds") > 1.7e9 && value("process_cpu_seconds_total") >= 0.0);
    }
}
