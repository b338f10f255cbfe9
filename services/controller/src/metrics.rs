//! Figures of rollouts.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use verdigris_core::gates::Verdict;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::{BY_ITSELF, Phase};

/// Figures of all collections; labels are bounded by collections, phases and gates.
#[derive(Clone)]
pub struct ControllerMetrics {
    phase: IntGaugeVec,
    held: IntGaugeVec,
    overdue: IntGaugeVec,
    verdicts: IntCounterVec,
    flips: IntCounterVec,
    returns: IntCounterVec,
    failures: IntCounterVec,
}

impl ControllerMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            phase: gauge(
                "verdigris_rollout_phase",
                "1 for the phase that the rollout is in",
                &["collection", "phase"],
            )?,
            held: gauge(
                "verdigris_rollout_held",
                "1 while nothing is promoted until somebody resumes",
                &["collection"],
            )?,
            overdue: gauge(
                "verdigris_rollout_overdue",
                "1 while the candidate is not promoted by its deadline",
                &["collection"],
            )?,
            verdicts: counter(
                "verdigris_rollout_gate_verdicts_total",
                "Gates judged, by what came of them",
                &["collection", "gate", "outcome"],
            )?,
            flips: counter(
                "verdigris_rollout_flips_total",
                "Candidates promoted, by themselves or by word",
                &["collection", "by"],
            )?,
            returns: counter(
                "verdigris_rollout_returns_total",
                "Returns to the way back, by themselves or by word",
                &["collection", "by"],
            )?,
            failures: counter(
                "verdigris_rollout_failures_total",
                "Looks and actions of the rollout owner that failed",
                &["collection"],
            )?,
        };
        registry.register(Box::new(metrics.phase.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.overdue.clone()))?;
        registry.register(Box::new(metrics.verdicts.clone()))?;
        registry.register(Box::new(metrics.flips.clone()))?;
        registry.register(Box::new(metrics.returns.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        Ok(metrics)
    }

    /// Makes each metric show up without waiting for its event: for the reference page.
    pub fn touch(&self) {
        let label = &["products"];
        self.phase.with_label_values(&["products", Phase::Steady.name()]);
        self.held.with_label_values(label);
        self.overdue.with_label_values(label);
        self.verdicts.with_label_values(&["products", "recall", "passed"]);
        self.flips.with_label_values(&["products", "itself"]);
        self.returns.with_label_values(&["products", "word"]);
        self.failures.with_label_values(label);
    }

    pub(crate) fn standing(&self, name: &CollectionName, phase: Phase, is_held: bool, is_overdue: bool) {
        for each in Phase::ALL {
            let gauge = self.phase.with_label_values(&[name.as_str(), each.name()]);
            gauge.set(i64::from(each == phase));
        }
        self.held.with_label_values(&[name.as_str()]).set(i64::from(is_held));
        self.overdue
            .with_label_values(&[name.as_str()])
            .set(i64::from(is_overdue));
    }

    pub(crate) fn judged(&self, name: &CollectionName, verdict: &Verdict) {
        for gate in &verdict.gates {
            let labels = [name.as_str(), gate.gate.name(), gate.outcome.name()];
            self.verdicts.with_label_values(&labels).inc();
        }
    }

    pub(crate) fn flipped(&self, name: &CollectionName, actor: &str) {
        self.flips.with_label_values(&[name.as_str(), by(actor)]).inc();
    }

    pub(crate) fn returned(&self, name: &CollectionName, actor: &str) {
        self.returns.with_label_values(&[name.as_str(), by(actor)]).inc();
    }

    pub(crate) fn failed(&self, name: &CollectionName) {
        self.failures.with_label_values(&[name.as_str()]).inc();
    }
}

/// Actors are people's names: they would not be bounded.
fn by(actor: &str) -> &'static str {
    if actor == BY_ITSELF { "itself" } else { "word" }
}
