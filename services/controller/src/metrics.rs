//! Figures of rollouts, and of the controller that carries them out.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use verdigris_core::gates::{Gate, GateOutcome, Verdict};
use verdigris_core::rollout::Phase;
use verdigris_core::rollout::slots::Slot;

use crate::kubernetes::resource::TenantsStatus;

/// Bounds of the time until a cluster has followed a selector, in seconds.
const SWAP_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// What moves of traffic are.
const KINDS: [&str; 2] = ["promote", "return"];
/// What a measured lineage may come to.
const PROMOTABLE: [&str; 2] = ["true", "false"];
/// What is counted of the pods of a slot.
const STATES: [&str; 2] = ["wanted", "ready"];

/// What is counted of the collections of a prefix.
const TENANTS: [&str; 5] = ["all", "candidate", "refused", "held", "troubled"];

/// Figures of all collections; labels are bounded by collections, phases, gates, slots and outcomes. On Kubernetes a
/// collection goes by the name of its resource.
#[derive(Clone)]
pub struct ControllerMetrics {
    phase: IntGaugeVec,
    gates: IntGaugeVec,
    judged: IntCounterVec,
    flips: IntCounterVec,
    held: IntGaugeVec,
    degraded: IntGaugeVec,
    pods: IntGaugeVec,
    swap: HistogramVec,
    looks: IntCounterVec,
    leader: IntGauge,
    tenants: IntGaugeVec,
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
            degraded: gauge(
                "verdigris_rollout_degraded",
                "1 while a person should look at the rollout; on Kubernetes",
                &["collection"],
            )?,
            pods: gauge(
                "verdigris_rollout_pods",
                "Pods of each slot that are wanted, and that are ready and warm; on Kubernetes",
                &["collection", "slot", "state"],
            )?,
            swap: HistogramVec::new(
                HistogramOpts::new(
                    "verdigris_rollout_swap_seconds",
                    "Duration of swaps, from the moved selector until only pods of the new slot are sent to; on Kubernetes",
                )
                .buckets(SWAP_BUCKETS.to_vec()),
                &["collection", "kind"],
            )?,
            looks: counter(
                "verdigris_controller_looks_total",
                "Looks at Collections by what came of them: done, or what kept the controller from it; on Kubernetes",
                &["outcome"],
            )?,
            tenants: of_tenants(registry)?,
            leader: IntGauge::new(
                "verdigris_controller_leader",
                "1 while this process looks after the Collections of its namespace",
            )?,
        };
        for vec in [
            &metrics.phase,
            &metrics.gates,
            &metrics.held,
            &metrics.degraded,
            &metrics.pods,
        ] {
            registry.register(Box::new(vec.clone()))?;
        }
        for vec in [&metrics.judged, &metrics.flips, &metrics.looks] {
            registry.register(Box::new(vec.clone()))?;
        }
        registry.register(Box::new(metrics.swap.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        Ok(metrics)
    }

    /// Makes every figure visible before anything happened, for the reference page.
    pub fn touch(&self) {
        self.phase.with_label_values(&["products", "steady"]);
        self.gates.with_label_values(&["products", "recall"]);
        self.judged.with_label_values(&["products", "true"]);
        self.flips.with_label_values(&["products", "promote"]);
        self.held.with_label_values(&["products"]);
        self.degraded.with_label_values(&["products"]);
        self.pods.with_label_values(&["products", "blue", "ready"]);
        self.swap.with_label_values(&["products", "promote"]);
        self.looks.with_label_values(&["done"]);
        self.tenants.with_label_values(&["products", "all"]);
    }

    pub(crate) fn stands(&self, name: &str, phase: Phase, is_held: bool) {
        for of in Phase::ALL {
            let gauge = self.phase.with_label_values(&[name, of.name()]);
            gauge.set(i64::from(of == phase));
        }
        self.held.with_label_values(&[name]).set(i64::from(is_held));
        // A rate exists before the first event then, so that no alert misses it.
        for kind in KINDS {
            self.flips.with_label_values(&[name, kind]);
        }
    }

    pub(crate) fn degraded(&self, name: &str, is_degraded: bool) {
        self.degraded.with_label_values(&[name]).set(i64::from(is_degraded));
    }

    pub(crate) fn judged(&self, name: &str, verdict: &Verdict) {
        for gate in &verdict.gates {
            let labels = &[name, gate.gate.name()];
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
        self.judged.with_label_values(&[name, promotable]).inc();
    }

    pub(crate) fn flipped(&self, name: &str, kind: &str) {
        self.flips.with_label_values(&[name, kind]).inc();
    }

    /// The cluster has followed a moved selector.
    pub(crate) fn followed(&self, name: &str, kind: &str, after: Duration) {
        self.swap.with_label_values(&[name, kind]).observe(after.as_secs_f64());
    }

    pub(crate) fn pods(&self, name: &str, slot: Slot, wanted: i32, ready: i32) {
        for (state, count) in STATES.into_iter().zip([wanted, ready]) {
            let gauge = self.pods.with_label_values(&[name, slot.name(), state]);
            gauge.set(i64::from(count));
        }
    }

    pub(crate) fn tenants(&self, name: &str, told: &TenantsStatus) {
        let counts = [told.count, told.candidates, told.refused, told.held, told.troubled];
        for (state, count) in TENANTS.into_iter().zip(counts) {
            self.tenants.with_label_values(&[name, state]).set(i64::from(count));
        }
    }

    pub(crate) fn looked(&self, outcome: &str) {
        self.looks.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn leads(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }

    /// A collection that is gone has no figures: an alert about it would never end.
    pub(crate) fn forget(&self, name: &str) {
        for phase in Phase::ALL {
            let _ = self.phase.remove_label_values(&[name, phase.name()]);
        }
        for gate in Gate::ALL {
            let _ = self.gates.remove_label_values(&[name, gate.name()]);
        }
        for slot in Slot::ALL {
            for state in STATES {
                let _ = self.pods.remove_label_values(&[name, slot.name(), state]);
            }
        }
        for kind in KINDS {
            let _ = self.flips.remove_label_values(&[name, kind]);
            let _ = self.swap.remove_label_values(&[name, kind]);
        }
        for state in TENANTS {
            let _ = self.tenants.remove_label_values(&[name, state]);
        }
        for promotable in PROMOTABLE {
            let _ = self.judged.remove_label_values(&[name, promotable]);
        }
        let _ = self.held.remove_label_values(&[name]);
        let _ = self.degraded.remove_label_values(&[name]);
    }
}

/// What is counted of the collections of a prefix.
fn of_tenants(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    let help =
        "Collections of a prefix: all, with a candidate, refused by gates, held, or in need of a person; on Kubernetes";
    let tenants = Opts::new("verdigris_rollout_tenants", help);
    let tenants = IntGaugeVec::new(tenants, &["collection", "state"])?;
    registry.register(Box::new(tenants.clone()))?;
    Ok(tenants)
}
