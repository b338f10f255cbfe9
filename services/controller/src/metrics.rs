//! Figures of rollouts.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use verdigris_core::gates::Verdict;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::Phase;

/// Figures of all collections; labels are bounded by collections, phases and gates.
#[derive(Clone)]
pub struct ControllerMetrics {
    phase: IntGaugeVec,
    gates: IntGaugeVec,
    judged: IntCounterVec,
    flips: IntCounterVec,
    held: IntGaugeVec,
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
            gates: gauge(
                "verdigris_rollout_gate",
                "The newest verdict of each gate: 1 passed, 0 failed or without data; absent where it does not apply",
                &["collection", "gate"],
            )?,
            judged: counter(
                "verdigris_rollout_judged_total",
                "Lineages that were measured and judged, by what came of it",
                &["collection", "promotable"],
            )?,
            flips: counter(
                "verdigris_rollout_flips_total",
                "Moves of traffic: promotions and returns",
                &["collection", "kind"],
            )?,
            held: gauge("verdigris_rollout_held", "1 while promotion is held", &["collection"])?,
        };
        registry.register(Box::new(metrics.phase.clone()))?;
        registry.register(Box::new(metrics.gates.clone()))?;
        registry.register(Box::new(metrics.judged.clone()))?;
        registry.register(Box::new(metrics.flips.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        Ok(metrics)
    }

    /// Makes every figure visible before anything happened, for the reference page.
    pub fn touch(&self) {
        self.phase.with_label_values(&["products", "steady"]);
        self.gates.with_label_values(&["products", "recall"]);
        self.judged.with_label_values(&["products", "true"]);
        self.flips.with_label_values(&["products", "promote"]);
        self.held.with_label_values(&["products"]);
    }

    pub(crate) fn stands(&self, name: &CollectionName, phase: Phase, is_held: bool) {
        for of in Phase::ALL {
            let gauge = self.phase.with_label_values(&[name.as_str(), of.name()]);
            gauge.set(i64::from(of == phase));
        }
        self.held.with_label_values(&[name.as_str()]).set(i64::from(is_held));
    }

    pub(crate) fn judged(&self, name: &CollectionName, verdict: &Verdict) {
        use verdigris_core::gates::GateOutcome;
        for gate in &verdict.gates {
            let labels = &[name.as_str(), gate.gate.name()];
            match gate.outcome {
                GateOutcome::Passed => self.gates.with_label_values(labels).set(1),
                GateOutcome::Failed | GateOutcome::NoData => self.gates.with_label_values(labels).set(0),
                GateOutcome::NotApplicable => {
                    // One that never applied has no figure to be removed.
                    let _ = self.gates.remove_label_values(labels);
                }
            }
        }
        let promotable = if verdict.is_promotable() { "true" } else { "false" };
        self.judged.with_label_values(&[name.as_str(), promotable]).inc();
    }

    pub(crate) fn flipped(&self, name: &CollectionName, kind: &str) {
        self.flips.with_label_values(&[name.as_str(), kind]).inc();
    }
}
