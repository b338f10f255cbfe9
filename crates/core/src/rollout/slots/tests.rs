//! Goal: what is done with slots, pods and Services at each place of a rollout, and why. Method: a cluster as data, the
//! pointer made by its real edits, and the plan in short.

mod pods;
mod room;
mod steps;

use super::*;
use crate::gates::tests::{good, value};
use crate::pointer::{Flip, Pointer, Published};
use crate::rollout::tests::{build, release, settings_reference};
use crate::rollout::{Observation, Promotion};

const SECOND: i64 = 1_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp((1_000 + seconds) * SECOND)
}

#[derive(Clone)]
struct Cluster {
    pointer: Pointer,
    seen: Seen,
    spec: Spec,
}

fn target(lineage: &str, template: &str) -> Target {
    Target {
        lineage: lineage.to_owned().into(),
        template: template.to_owned().into(),
    }
}

/// Two pods of a target, of which some are ready.
fn slot(lineage: &str, template: &str, generation: u64, ready: usize) -> SlotSeen {
    let target = target(lineage, template);
    let pod = |number: usize| PodSeen {
        name: format!("{lineage}-{template}-{number}"),
        target: target.id(),
        is_ready: number < ready,
        unplaced: None,
        report: Some(PodReport {
            lineage: target.lineage.clone(),
            generation,
            is_warm: number < ready,
            problem: None,
            is_demoted: false,
            requests: 0,
            errors: 0,
            p50_ms: 1.0,
            p99_ms: 1.0,
        }),
    };
    SlotSeen {
        since: at(0),
        replicas: 2,
        is_settled: true,
        pods_left: 2,
        epoch: 1,
        pods: (0..2).map(pod).collect(),
        target: Some(target),
        approved_by: None,
        refused: None,
    }
}

fn empty(lineage: &str, template: &str) -> SlotSeen {
    SlotSeen {
        replicas: 0,
        pods_left: 0,
        pods: Vec::new(),
        ..slot(lineage, template, 0, 0)
    }
}

impl Cluster {
    /// Lineage `a` in template `one` answers from blue since second 0.
    fn new() -> Self {
        let name = "products".parse().expect("valid");
        let first = Pointer::first(name, settings_reference(), "first".to_owned(), at(0));
        let claimed = first.claim("i", "c".to_owned(), at(0)).expect("free");
        let owned = claimed.claim_rollouts("controller/n/p", false, "o".to_owned(), at(0));
        let blue = slot("a", "one", 1, 2);
        let mut cluster = Self {
            pointer: owned.expect("free"),
            seen: Seen {
                traffic: Some(Traffic {
                    target: blue.target.as_ref().map(Target::id),
                    since: at(0),
                    endpoints: blue.pods.iter().map(|pod| pod.name.clone()).collect(),
                    epoch: 1,
                    ..Traffic::default()
                }),
                blue,
                epoch: 1,
                ..Seen::default()
            },
            spec: Spec {
                rollout: crate::rollout::Spec::default(),
                template: "one".to_owned().into(),
                replicas: 2,
                steps: Steps::default(),
                is_paused: false,
            },
        };
        cluster.publish("a", None);
        cluster
    }

    fn publish(&mut self, lineage: &str, other: Option<&str>) {
        let generation = self.pointer.generation + 1;
        let published = Published {
            release: release(lineage, generation, 20_000),
            settings: settings_reference(),
            grace_ns: 0,
            other: other.map(|other| release(other, generation, 20_000)),
        };
        let next = self.pointer.publish(1, &published, format!("p{generation}"), at(5));
        self.pointer = next.expect("its turn");
    }

    /// With candidate `b` named.
    fn with_candidate() -> Self {
        let mut cluster = Self::new();
        let begun = cluster.pointer.begin_build(1, build("b", at(5)), "b".to_owned(), at(5));
        cluster.pointer = begun.expect("free");
        cluster.publish("a", Some("b"));
        cluster.seen.blue = slot("a", "one", 2, 2);
        cluster
    }

    /// With `b` warm in green, and judged.
    fn judged(recall: f64) -> Self {
        let mut cluster = Self::with_candidate();
        cluster.seen.green = slot("b", "one", 2, 2);
        cluster.seen.traffic().preview = Some(target("b", "one").id());
        let mut m = good();
        (m.candidate.lineage, m.candidate.generation) = ("b".to_owned().into(), 2);
        value(&mut m.same_generation).generation = 2;
        value(&mut m.recall).recall = recall;
        cluster.seen.memory.measured = Some(m);
        cluster
    }

    /// With the pointer flipped to `b` at second 20, and traffic still at `a`.
    fn flipped() -> Self {
        let mut cluster = Self::judged(0.99);
        let flip = Flip {
            lineage: "b".to_owned().into(),
            actor: "rollout".to_owned(),
            reason: "it passed".to_owned(),
            stale: false,
        };
        cluster.pointer = cluster.pointer.flip(1, &flip, "f".to_owned(), at(20)).expect("level");
        cluster.seen.memory = Observation::default();
        cluster
    }

    /// With traffic moved at second 21.
    fn moved() -> Self {
        let mut cluster = Self::flipped();
        let traffic = cluster.seen.traffic();
        traffic.previous = traffic.target.replace(target("b", "one").id());
        (traffic.since, traffic.preview) = (at(21), Some(target("a", "one").id()));
        traffic.endpoints = ["b-one-0".to_owned(), "b-one-1".to_owned()].into();
        cluster
    }

    /// The new template `two` answers from green since second 21, `one` is its way back.
    fn new_image() -> Self {
        let mut cluster = Self::new();
        cluster.spec.template = "two".to_owned().into();
        cluster.seen.green = slot("a", "two", 1, 2);
        let traffic = cluster.seen.traffic();
        traffic.previous = traffic.target.replace(target("a", "two").id());
        (traffic.since, traffic.preview) = (at(21), Some(target("a", "one").id()));
        traffic.endpoints = ["a-two-0".to_owned(), "a-two-1".to_owned()].into();
        cluster
    }

    fn check(&self, seconds: i64, phase: Phase, actions: &[&str]) {
        let plan = plan(&self.spec, &self.pointer, &self.seen, at(seconds));
        let short: Vec<String> = plan.actions.iter().map(short).collect();
        assert_eq!(
            (plan.phase, short),
            (phase, actions.iter().map(ToString::to_string).collect()),
            "{plan:?}"
        );
    }

    fn says(&self, seconds: i64, text: &str) {
        let plan = plan(&self.spec, &self.pointer, &self.seen, at(seconds));
        let said: Vec<String> = plan.reasons.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|said| said.contains(text)), "{said:?}");
    }
}

impl Seen {
    fn traffic(&mut self) -> &mut Traffic {
        self.traffic.as_mut().expect("there are Services")
    }
}

fn short(action: &Action) -> String {
    use crate::rollout::Action as Edit;
    match action {
        Action::CreateServices => "create".to_owned(),
        Action::Fence => "fence".to_owned(),
        Action::Scale { slot, replicas } => format!("scale {slot} {replicas}"),
        Action::SetTarget { slot, target } => format!("set {slot} {} {}", target.lineage, target.template),
        Action::Select(selection) => format!("select {}", selection.slot),
        Action::Preview(target) => format!("preview {}", if target.is_some() { "other" } else { "none" }),
        Action::Widen { slot, percent, .. } => format!("widen {slot} {percent}"),
        Action::Demote(slot) => format!("demote {slot}"),
        Action::Shed { slot, percent } => format!("shed {slot} {percent}"),
        Action::EndDemotion(slot) => format!("keep {slot}"),
        Action::HoldPromotion(wish) => format!("hold {}", wish.actor),
        Action::Pointer(Edit::Flip(flip)) => format!("flip {}", flip.lineage),
        Action::Pointer(Edit::Return(flip)) => format!("return {}", flip.lineage),
        Action::Pointer(Edit::Retire { lineage }) => format!("retire {lineage}"),
        Action::Pointer(Edit::Measure { lineage, .. }) => format!("measure {lineage}"),
        Action::Pointer(edit) => format!("{edit:?}").to_lowercase(),
    }
}

#[test]
fn the_first_lineage_answers_as_soon_as_half_of_its_pods_can() {
    let mut cluster = Cluster::new();
    let blue = std::mem::take(&mut cluster.seen.blue);
    cluster.seen.traffic = None;
    cluster.check(1, Phase::Empty, &["create"]);
    cluster.seen.traffic = Some(Traffic {
        epoch: 1,
        ..Traffic::default()
    });
    cluster.check(1, Phase::Warming, &["set blue a one"]);
    cluster.seen.blue = empty("a", "one");
    cluster.check(1, Phase::Warming, &["scale blue 2"]);
    cluster.seen.blue = slot("a", "one", 1, 0);
    cluster.check(1, Phase::Warming, &[]);
    cluster.seen.blue = slot("a", "one", 1, 1);
    cluster.check(1, Phase::Promoting, &["select blue"]);
    cluster.seen.blue = blue;
    cluster.check(1, Phase::Promoting, &["select blue"]);
}

#[test]
fn a_controller_that_begins_marks_every_object_before_it_decides_anything() {
    let mut cluster = Cluster::judged(0.99);
    cluster.seen.epoch = 2;
    cluster.check(30, Phase::Promoting, &["fence"]);
    cluster.seen.traffic().epoch = 2;
    cluster.seen.blue.epoch = 2;
    cluster.check(30, Phase::Promoting, &["fence"]);
    cluster.seen.green.epoch = 2;
    cluster.check(30, Phase::Promoting, &["flip b"]);
}

#[test]
fn a_candidate_gets_the_idle_slot_through_empty_and_the_size_of_the_active() {
    let mut cluster = Cluster::with_candidate();
    cluster.check(10, Phase::Warming, &["set green b one"]);
    cluster.seen.green = slot("z", "one", 1, 2);
    cluster.check(10, Phase::Warming, &["scale green 0", "preview other"]);
    cluster.seen.green.replicas = 0;
    cluster.check(10, Phase::Warming, &[]);
    cluster.seen.green = empty("z", "one");
    cluster.check(10, Phase::Warming, &["set green b one"]);
    cluster.seen.green = empty("b", "one");
    cluster.spec.replicas = 3;
    cluster.check(10, Phase::Warming, &["scale green 3", "scale blue 3"]);
}

#[test]
fn a_candidate_is_measured_when_all_its_pods_are_warm_and_flipped_to_when_it_passed() {
    let mut cluster = Cluster::judged(0.99);
    let measured = cluster.seen.memory.measured.take();
    cluster.check(10, Phase::Judging, &["measure b"]);
    cluster.seen.green = slot("b", "one", 2, 1);
    cluster.check(10, Phase::Warming, &[]);
    cluster.says(10, "1 of 2 pods of slot green are ready and warm");
    // A pod that says it is warm, and that the cluster does not send to.
    cluster.seen.green = slot("b", "one", 2, 2);
    cluster.seen.green.pods[0].is_ready = false;
    cluster.check(10, Phase::Warming, &[]);
    cluster.seen.memory.measured = measured;
    cluster.check(10, Phase::Warming, &[]);
    cluster.seen.green = slot("b", "one", 2, 2);
    cluster.check(10, Phase::Promoting, &["flip b"]);
}

#[test]
fn a_candidate_that_fails_a_gate_stays_where_it_is() {
    let cluster = Cluster::judged(0.3);
    cluster.check(10, Phase::Refused, &[]);
    cluster.says(10, "gates speak against it: recall");
}

#[test]
fn a_spec_that_is_paused_promotes_nothing() {
    let mut cluster = Cluster::judged(0.99);
    cluster.spec.is_paused = true;
    cluster.check(10, Phase::Held, &[]);
    cluster.says(10, "rollout.paused is set");
}

#[test]
fn traffic_follows_the_pointer_once_all_pods_are_ready() {
    let mut cluster = Cluster::flipped();
    cluster.check(20, Phase::Promoting, &["select green"]);
    cluster.seen.green = slot("b", "one", 2, 1);
    cluster.check(20, Phase::Promoting, &[]);
    cluster.says(20, "traffic moves to slot green once its pods are ready");
    // What answers is never touched for it.
    cluster.seen.green = slot("z", "one", 2, 2);
    cluster.check(20, Phase::Promoting, &["scale green 0", "preview other"]);
}

#[test]
fn the_slot_before_is_demoted_once_the_cluster_has_followed() {
    let mut cluster = Cluster::moved();
    cluster.seen.traffic().endpoints.insert("a-one-0".to_owned());
    cluster.check(22, Phase::Baking, &[]);
    cluster.says(22, "the cluster is following");
    cluster.seen.traffic().endpoints.remove("a-one-0");
    cluster.check(22, Phase::Baking, &["demote blue"]);
    cluster.seen.demoted_at = Some(at(22));
    cluster.check(30, Phase::Baking, &[]);
    cluster.check(43, Phase::Baking, &["demote blue"]);
}

#[test]
fn a_way_back_is_kept_for_keep_emptied_and_only_then_un_named() {
    let mut cluster = Cluster::moved();
    cluster.seen.demoted_at = Some(at(3_621));
    cluster.seen.idle_quiet_since = Some(at(3_000));
    cluster.check(3_620, Phase::KeepingWayBack, &[]);
    cluster.check(3_621, Phase::KeepingWayBack, &["scale blue 0"]);
    cluster.seen.idle_quiet_since = Some(at(3_620));
    cluster.says(3_621, "slot blue was still asked");
    cluster.seen.blue = empty("a", "one");
    cluster.seen.blue.pods_left = 1;
    cluster.check(3_622, Phase::KeepingWayBack, &["preview none"]);
    cluster.seen.blue.pods_left = 0;
    cluster.check(3_622, Phase::KeepingWayBack, &["retire a", "preview none"]);
}

#[test]
fn clients_that_never_leave_hold_a_slot_for_five_minutes_and_are_told_of() {
    let mut cluster = Cluster::moved();
    cluster.spec.rollout.rollout.keep_seconds = 0;
    cluster.spec.rollout.rollout.bake_seconds = 0;
    cluster.seen.demoted_at = Some(at(310));
    cluster.seen.idle_quiet_since = Some(at(320));
    cluster.check(320, Phase::KeepingWayBack, &[]);
    cluster.seen.demoted_at = Some(at(321));
    cluster.check(321, Phase::KeepingWayBack, &["scale blue 0"]);
    cluster.says(321, "still asked by clients after five minutes");
}

#[test]
fn a_wish_to_go_back_moves_the_pointer_then_traffic_with_half_of_the_pods() {
    let mut cluster = Cluster::moved();
    cluster.seen.demoted_at = Some(at(25));
    cluster.seen.wish = Some(Wish {
        actor: "ada".to_owned(),
        reason: "odd".to_owned(),
    });
    cluster.seen.blue = slot("a", "one", 2, 1);
    for pod in &mut cluster.seen.blue.pods {
        pod.report.as_mut().expect("it answers").is_demoted = true;
    }
    cluster.check(30, Phase::Returning, &["return a"]);
    let flip = Flip {
        lineage: "a".to_owned().into(),
        actor: "ada".to_owned(),
        reason: "odd".to_owned(),
        stale: false,
    };
    let returned = cluster.pointer.return_to_way_back(1, &flip, "r".to_owned(), at(30));
    cluster.pointer = returned.expect("level");
    cluster.check(30, Phase::Returning, &["keep blue", "select blue"]);
    cluster.seen.blue = slot("a", "one", 2, 0);
    cluster.check(30, Phase::Returning, &[]);
}

#[test]
fn errors_within_the_bake_go_back_by_themselves() {
    let mut cluster = Cluster::moved();
    cluster.seen.demoted_at = Some(at(25));
    for pod in &mut cluster.seen.green.pods {
        let report = pod.report.as_mut().expect("it answers");
        (report.requests, report.errors) = (100, 20);
    }
    cluster.check(30, Phase::Returning, &["return a"]);
    cluster.says(30, "40 of 200 requests failed");
}

#[test]
fn a_new_slot_without_a_ready_pod_is_left_again() {
    let mut cluster = Cluster::moved();
    cluster.seen.demoted_at = Some(at(25));
    cluster.seen.green = slot("b", "one", 2, 0);
    cluster.check(25, Phase::Baking, &[]);
    cluster.check(26, Phase::Returning, &["return a"]);
}

#[test]
fn a_new_image_is_a_rollout_without_the_pointer() {
    let mut cluster = Cluster::new();
    cluster.spec.template = "two".to_owned().into();
    cluster.check(10, Phase::Warming, &["set green a two"]);
    cluster.seen.green = slot("a", "two", 1, 2);
    cluster.seen.traffic().preview = Some(target("a", "two").id());
    cluster.check(10, Phase::Promoting, &["select green"]);
    cluster.seen.blue = slot("a", "one", 9, 2);
    cluster.check(10, Phase::Warming, &[]);
    cluster.seen.blue = slot("a", "one", 1, 2);
    let held = cluster.pointer.hold_promotion(1, "ada", "sale", "h".to_owned(), at(9));
    let free = std::mem::replace(&mut cluster.pointer, held.expect("ours"));
    cluster.check(10, Phase::Held, &[]);
    cluster.says(10, "held by ada: sale");
    cluster.pointer = free;
    cluster.spec.rollout.rollout.promotion = Promotion::Manual;
    cluster.check(10, Phase::AwaitingApproval, &[]);
    cluster.seen.green.approved_by = Some("ada".to_owned());
    cluster.check(10, Phase::Promoting, &["select green"]);
}

#[test]
fn an_image_that_does_worse_is_returned_from_and_only_a_person_promotes_it_again() {
    let mut cluster = Cluster::new_image();
    cluster.seen.demoted_at = Some(at(25));
    cluster.check(30, Phase::Baking, &[]);
    for pod in &mut cluster.seen.green.pods {
        let report = pod.report.as_mut().expect("it answers");
        (report.requests, report.errors) = (100, 20);
    }
    cluster.check(30, Phase::Returning, &["hold rollout", "select blue"]);
    let traffic = cluster.seen.traffic();
    traffic.previous = traffic.target.replace(target("a", "one").id());
    traffic.returned_from = Some("two".to_owned().into());
    traffic.preview = Some(target("a", "two").id());
    traffic.endpoints = ["a-one-0".to_owned()].into();
    cluster.check(31, Phase::AwaitingApproval, &[]);
    cluster.seen.green.approved_by = Some("ada".to_owned());
    cluster.check(31, Phase::Promoting, &["select green"]);
}

#[test]
fn a_candidate_waits_while_the_way_back_of_an_image_is_kept() {
    let mut cluster = Cluster::new_image();
    cluster.seen.demoted_at = Some(at(1_000));
    let begun = cluster.pointer.begin_build(1, build("b", at(5)), "b".to_owned(), at(5));
    cluster.pointer = begun.expect("free");
    cluster.publish("a", Some("b"));
    cluster.check(1_001, Phase::KeepingWayBack, &[]);
    cluster.says(1_001, "candidate b waits until the way back is given up");
    cluster.seen.demoted_at = Some(at(3_621));
    cluster.seen.idle_quiet_since = Some(at(3_000));
    cluster.check(3_622, Phase::Warming, &["scale blue 0"]);
    // A person gives the way back up.
    cluster.seen.traffic().previous = None;
    cluster.check(1_001, Phase::Warming, &["scale blue 0"]);
}

#[test]
fn pods_follow_the_asked_number_in_both_slots_at_any_time() {
    let mut cluster = Cluster::moved();
    cluster.seen.demoted_at = Some(at(25));
    cluster.spec.replicas = 5;
    cluster.check(30, Phase::Baking, &["scale blue 5", "scale green 5"]);
    cluster.spec.replicas = 0;
    cluster.check(30, Phase::Baking, &["scale blue 1", "scale green 1"]);
}

#[test]
fn traffic_follows_a_pointer_that_names_neither_slot_any_more() {
    let mut cluster = Cluster::new();
    cluster.seen.blue = slot("z", "one", 1, 2);
    cluster.seen.traffic().target = Some(target("z", "one").id());
    cluster.check(10, Phase::Promoting, &["set green a one"]);
    cluster.seen.green = slot("a", "one", 1, 2);
    cluster.seen.traffic().preview = Some(target("a", "one").id());
    cluster.check(10, Phase::Promoting, &["select green"]);
}
