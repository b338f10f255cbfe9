//! Goal: each way a rollout can stand, what is done there, and why. Method: real pointers, made by the edits of both
//! writers, and what was observed as data.

use super::*;
use crate::digest::{ContentSum, Digest};
use crate::gates::Measured;
use crate::gates::tests::{good, value};
use crate::guards::Facts;
use crate::manifest::SettingsReference;
use crate::pointer::{Build, KeptRelease, ManifestReference, Pointer, Published};

const SECOND: i64 = 1_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_000 * SECOND + seconds * SECOND)
}

fn reference(text: &str) -> ManifestReference {
    ManifestReference {
        path: text.to_owned(),
        digest: Digest::of(text.as_bytes()),
    }
}

pub(super) fn settings_reference() -> SettingsReference {
    SettingsReference {
        version: 1,
        digest: Digest::of(b"settings"),
    }
}

pub(super) fn release(lineage: &str, generation: u64, documents: u64) -> KeptRelease {
    KeptRelease {
        generation,
        lineage: lineage.to_owned().into(),
        manifest: reference(&format!("releases/{generation}-{lineage}")),
        created_at: Timestamp(generation as i64),
        checkpoint: generation,
        pinned: false,
        facts: Some(Facts {
            documents,
            live_bytes: documents * 900,
            deleted: 0,
            erased_bytes: 0,
        }),
    }
}

pub(super) fn build(lineage: &str, since: Timestamp) -> Build {
    Build {
        lineage: lineage.to_owned().into(),
        settings: settings_reference(),
        source: reference("source"),
        source_generation: 1,
        parts: Vec::new(),
        rows_done: 0,
        rows: 1,
        content: ContentSum::default(),
        documents: 0,
        actor: "ada".to_owned(),
        reason: "a new index".to_owned(),
        since,
    }
}

/// A pointer under test, with the epochs of its indexer and its owner both 1.
#[derive(Clone)]
struct World {
    pointer: Pointer,
    documents: u64,
}

impl World {
    /// Lineage `a` answers at generation 1.
    fn new() -> Self {
        let first = Pointer::first(
            "products".parse().expect("valid"),
            settings_reference(),
            "first".to_owned(),
            at(0),
        );
        let claimed = first.claim("i", "c".to_owned(), at(0)).expect("free");
        let owned = claimed
            .claim_rollouts("up/1", false, "o".to_owned(), at(0))
            .expect("free");
        let mut world = Self {
            pointer: owned,
            documents: 20_000,
        };
        world.publish("a", None, at(0));
        world
    }

    fn nonce(&self) -> String {
        format!("n{}", self.pointer.sequence)
    }

    fn publish(&mut self, lineage: &str, other: Option<&str>, now: Timestamp) {
        let generation = self.pointer.generation + 1;
        let published = Published {
            release: release(lineage, generation, self.documents),
            settings: settings_reference(),
            grace_ns: 0,
            other: other.map(|other| release(other, generation, self.documents)),
        };
        let next = self.pointer.publish(1, &published, self.nonce(), now);
        self.pointer = next.expect("its turn");
    }

    /// With the candidate `b`, level at generation 2, named at second 10.
    fn with_candidate() -> Self {
        let mut world = Self::new();
        let begun = world.pointer.begin_build(1, build("b", at(5)), world.nonce(), at(5));
        world.pointer = begun.expect("free");
        world.publish("a", Some("b"), at(10));
        world
    }

    /// With `b` promoted at second 20 and `a` the way back.
    fn promoted() -> Self {
        let mut world = Self::with_candidate();
        let flipped = world.pointer.flip(1, &flip_to("b"), world.nonce(), at(20));
        world.pointer = flipped.expect("level");
        world
    }

    fn edit<E: std::fmt::Debug>(&mut self, edit: impl FnOnce(&Pointer, String) -> Result<Pointer, E>) {
        self.pointer = edit(&self.pointer, self.nonce()).expect("it applies");
    }

    fn plan(&self, spec: &Spec, observation: &Observation, seconds: i64) -> Plan {
        plan(spec, &self.pointer, observation, at(seconds))
    }
}

fn flip_to(lineage: &str) -> Flip {
    Flip {
        lineage: lineage.to_owned().into(),
        actor: "ada".to_owned(),
        reason: "it passed".to_owned(),
        stale: false,
    }
}

fn ready(lineage: &str, generation: u64) -> OtherSeen {
    OtherSeen::Ready {
        lineage: lineage.to_owned().into(),
        generation,
    }
}

fn measured(generation: u64, seconds: i64) -> Measurements {
    let mut m = good();
    m.candidate.generation = generation;
    value(&mut m.same_generation).generation = generation;
    m.measured_at = at(seconds);
    m
}

/// A warm candidate that was measured at generation 2.
fn judged() -> Observation {
    Observation {
        other: ready("b", 2),
        measured: Some(measured(2, 12)),
        ..Observation::default()
    }
}

fn manual() -> Spec {
    let mut spec = Spec::default();
    spec.rollout.promotion = Promotion::Manual;
    spec
}

/// What a plan says, in short: phase, actions and reasons.
fn check(plan: &Plan, expected: &str) {
    let actions = plan.actions.iter().map(|action| match action {
        Action::Level { lineage } => format!("level {lineage}"),
        Action::StopLeveling => "stop leveling".to_owned(),
        Action::LevelLater => "level later".to_owned(),
        Action::Measure { lineage, generation } => format!("measure {lineage} at {generation}"),
        Action::Flip(flip) => format!("flip to {} by {}: {}", flip.lineage, flip.actor, flip.reason),
        Action::Return(flip) => {
            let stale = if flip.stale { " as it is" } else { "" };
            format!("return to {}{stale} by {}: {}", flip.lineage, flip.actor, flip.reason)
        }
        Action::Retire { lineage } => format!("retire {lineage}"),
    });
    let mut lines = vec![plan.phase.name().to_owned()];
    lines.extend(actions.map(|action| format!("do {action}")));
    lines.extend(plan.reasons.iter().map(|reason| format!("as {reason}")));
    lines.extend(
        plan.wake_at
            .map(|wake| format!("wake at {}", wake.since(at(0)) as f64 / SECOND as f64)),
    );
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn without_another_lineage_nothing_is_done() {
    let first = Pointer::first(
        "products".parse().expect("valid"),
        settings_reference(),
        "f".to_owned(),
        at(0),
    );
    check(&plan(&Spec::default(), &first, &Observation::default(), at(1)), "empty");
    check(
        &World::new().plan(&Spec::default(), &Observation::default(), 1),
        "steady",
    );
    let mut building = World::new();
    building.edit(|pointer, nonce| pointer.begin_build(1, build("b", at(1)), nonce, at(1)));
    check(&building.plan(&Spec::default(), &Observation::default(), 2), "building");
}

#[test]
fn a_candidate_is_warmed_before_anybody_pauses_for_it() {
    let mut world = World::with_candidate();
    world.publish("a", None, at(11));
    check(&world.plan(&Spec::default(), &Observation::default(), 11), "warming");
    let refused = Observation {
        other: OtherSeen::Refused {
            lineage: "b".to_owned().into(),
            why: "a file is damaged".to_owned(),
        },
        ..Observation::default()
    };
    let expected = "warming\nas it cannot be opened: a file is damaged";
    check(&world.plan(&Spec::default(), &refused, 11), expected);
    world.edit(|pointer, nonce| pointer.want_level(1, &"b".to_owned().into(), nonce, at(11)));
    let expected = "warming\ndo stop leveling\nas it cannot be opened: a file is damaged";
    check(&world.plan(&Spec::default(), &refused, 11), expected);
}

#[test]
fn a_warm_candidate_is_brought_level_and_measured_there() {
    let mut world = World::with_candidate();
    let mut seen = Observation {
        other: ready("b", 2),
        ..Observation::default()
    };
    check(&world.plan(&Spec::default(), &seen, 11), "judging\ndo measure b at 2");
    world.publish("a", None, at(11));
    check(&world.plan(&Spec::default(), &seen, 11), "leveling\ndo level b");
    world.edit(|pointer, nonce| pointer.want_level(1, &"b".to_owned().into(), nonce, at(11)));
    seen.leveling_since = Some(at(11));
    check(&world.plan(&Spec::default(), &seen, 11), "leveling\nwake at 11.02");
    world.publish("a", Some("b"), at(12));
    check(&world.plan(&Spec::default(), &seen, 12), "leveling\nwake at 12.02");
    seen.other = ready("b", 4);
    check(
        &world.plan(&Spec::default(), &seen, 12),
        "judging\ndo measure b at 4\ndo stop leveling",
    );
    seen.is_measuring = true;
    check(&world.plan(&Spec::default(), &seen, 12), "judging\ndo stop leveling");
}

#[test]
fn a_level_that_is_not_reached_lets_publishing_go_on_and_is_tried_again_later() {
    let mut world = World::with_candidate();
    world.publish("a", None, at(11));
    world.edit(|pointer, nonce| pointer.want_level(1, &"b".to_owned().into(), nonce, at(11)));
    let mut seen = judged();
    seen.leveling_since = Some(at(11));
    check(&world.plan(&Spec::default(), &seen, 15), "promoting\ndo level later");
    world.edit(|pointer, nonce| pointer.stop_leveling(1, nonce, at(15)));
    (1..=3).for_each(|_| seen.leveling.fail(at(15)));
    let expected = "promoting\nas leveling came to nothing 3 times and is tried again\nwake at 35";
    check(&world.plan(&Spec::default(), &seen, 16), expected);
    check(&world.plan(&Spec::default(), &seen, 35), "promoting\ndo level b");
}

#[test]
fn measuring_that_fails_is_tried_again_with_longer_and_longer_waits() {
    let world = World::with_candidate();
    let mut seen = Observation {
        other: ready("b", 2),
        ..Observation::default()
    };
    seen.measuring.fail(at(11));
    let expected = "judging\nas measuring came to nothing 1 times and is tried again\nwake at 16";
    check(&world.plan(&Spec::default(), &seen, 12), expected);
    check(&world.plan(&Spec::default(), &seen, 16), "judging\ndo measure b at 2");
    (0..40).for_each(|_| seen.measuring.fail(at(11)));
    let expected = "judging\nas measuring came to nothing 41 times and is tried again\nwake at 311";
    check(&world.plan(&Spec::default(), &seen, 12), expected);
}

#[test]
fn a_candidate_that_passed_is_promoted_by_itself_once_it_is_level() {
    let mut world = World::with_candidate();
    let expected = "promoting\ndo flip to b by rollout: passed all gates at generation 2";
    check(&world.plan(&Spec::default(), &judged(), 13), expected);
    world.publish("a", None, at(13));
    check(&world.plan(&Spec::default(), &judged(), 13), "promoting\ndo level b");
    world.publish("a", Some("b"), at(14));
    check(&world.plan(&Spec::default(), &judged(), 14), "promoting\ndo level b");
    let mut seen = judged();
    seen.other = ready("b", 4);
    check(&world.plan(&Spec::default(), &seen, 14), expected);
}

#[test]
fn a_candidate_that_failed_a_gate_is_shown_and_promoted_only_by_word() {
    let mut world = World::with_candidate();
    let mut seen = judged();
    value(&mut seen.measured.as_mut().expect("measured").recall).recall = 0.5;
    let expected = "refused\nas gates speak against it: recall";
    check(&world.plan(&Spec::default(), &seen, 13), expected);
    check(&world.plan(&manual(), &seen, 13), expected);
    check(&world.plan(&Spec::default(), &seen, 1_000), expected);
    world.edit(|pointer, nonce| pointer.approve(1, &"b".to_owned().into(), 2, "ada", nonce, at(13)));
    let expected = "promoting\ndo flip to b by ada: promoted by word at generation 2 although gates speak against it";
    check(&world.plan(&Spec::default(), &seen, 13), expected);
}

#[test]
fn a_gate_without_data_keeps_it_from_being_promoted_and_is_measured_again_later() {
    let world = World::with_candidate();
    let mut seen = judged();
    seen.measured.as_mut().expect("measured").golden = Measured::Missing("the queries cannot be read".to_owned());
    let expected = "refused\nas gates speak against it: golden\nwake at 72";
    check(&world.plan(&Spec::default(), &seen, 13), expected);
    let expected = "judging\ndo measure b at 2\nas gates speak against it: golden";
    check(&world.plan(&Spec::default(), &seen, 72), expected);
    seen.is_measuring = true;
    let expected = "judging\nas gates speak against it: golden";
    check(&world.plan(&Spec::default(), &seen, 73), expected);
}

#[test]
fn other_limits_judge_what_was_measured_before_at_once() {
    let world = World::with_candidate();
    let mut strict = Spec::default();
    strict.gates.recall_min = 0.999;
    check(
        &world.plan(&strict, &judged(), 13),
        "refused\nas gates speak against it: recall",
    );
}

#[test]
fn an_approval_holds_for_the_judged_generation_and_for_no_other() {
    let mut world = World::with_candidate();
    check(&world.plan(&manual(), &judged(), 13), "awaiting_approval");
    world.edit(|pointer, nonce| pointer.approve(1, &"b".to_owned().into(), 1, "ada", nonce, at(13)));
    let expected = "awaiting_approval\nas the approval names generation 1, but it was judged anew at 2";
    check(&world.plan(&manual(), &judged(), 13), expected);
    world.edit(|pointer, nonce| pointer.approve(1, &"b".to_owned().into(), 2, "ada", nonce, at(13)));
    let expected = "promoting\ndo flip to b by ada: promoted by word, judged at generation 2";
    check(&world.plan(&manual(), &judged(), 13), expected);
    // Later generations are promoted under it, as long as the documents that were judged are there.
    (0..3).for_each(|_| world.publish("a", Some("b"), at(14)));
    let mut seen = judged();
    seen.other = ready("b", 5);
    check(&world.plan(&manual(), &seen, 14), expected);
    world.documents = 15_000;
    world.publish("a", Some("b"), at(15));
    seen.other = ready("b", 6);
    let expected = "judging\ndo measure b at 6\n\
        as it was judged at generation 2 and has lost too much since: it is judged anew";
    check(&world.plan(&manual(), &seen, 15), expected);
    seen.measured = Some(measured(6, 16));
    let anew = seen.measured.as_mut().expect("measured");
    for facts in [&mut anew.candidate, value(&mut anew.active)] {
        (facts.documents, facts.live_bytes) = (15_000, 15_000 * 900);
    }
    value(&mut anew.rows).documents = 15_000;
    value(&mut anew.same_generation).documents = 15_000;
    let expected = "awaiting_approval\nas the approval names generation 2, but it was judged anew at 6";
    check(&world.plan(&manual(), &seen, 16), expected);
}

#[test]
fn while_something_is_held_a_candidate_waits_whatever_it_passed() {
    let mut world = World::with_candidate();
    world.edit(|pointer, nonce| pointer.approve(1, &"b".to_owned().into(), 2, "ada", nonce, at(12)));
    world.edit(|pointer, nonce| pointer.want_level(1, &"b".to_owned().into(), nonce, at(12)));
    world.edit(|pointer, nonce| pointer.hold_promotion(1, "ada", "black friday", nonce, at(13)));
    let expected = "held\ndo stop leveling\nas held by ada: black friday";
    check(&world.plan(&Spec::default(), &judged(), 13), expected);
    world.edit(|pointer, nonce| pointer.resume_promotion(1, nonce, at(14)));
    let expected = "promoting\ndo flip to b by ada: promoted by word, judged at generation 2";
    check(&world.plan(&Spec::default(), &judged(), 14), expected);
}

#[test]
fn a_candidate_that_is_late_is_reported() {
    let world = World::with_candidate();
    let expected = "warming\nas overdue: it is the candidate for 3600 seconds";
    check(&world.plan(&Spec::default(), &Observation::default(), 3_610), expected);
}

#[test]
fn a_promoted_lineage_is_watched_and_the_one_before_kept() {
    let world = World::promoted();
    let warm = Observation {
        other: ready("a", 2),
        ..Observation::default()
    };
    check(&world.plan(&Spec::default(), &warm, 21), "baking\nwake at 620");
    check(
        &world.plan(&Spec::default(), &warm, 620),
        "keeping_way_back\nwake at 3620",
    );
    check(
        &world.plan(&Spec::default(), &warm, 3_620),
        "keeping_way_back\ndo retire a",
    );
    let mut held = world.clone();
    held.edit(|pointer, nonce| pointer.hold_promotion(1, "ada", "to be looked into", nonce, at(30)));
    let expected = "keeping_way_back\nas the way back stays until what is held is resumed";
    check(&held.plan(&Spec::default(), &warm, 3_620), expected);
    let mut short = Spec::default();
    short.rollout.keep_seconds = 5;
    check(&world.plan(&short, &warm, 619), "baking\nwake at 620");
}

fn failing(lineage: &str) -> Option<ServingWindow> {
    Some(ServingWindow {
        lineage: lineage.to_owned().into(),
        requests: 100,
        errors: 30,
        p50_ms: 1.0,
        p99_ms: 1.0,
    })
}

#[test]
fn a_promoted_lineage_that_fails_is_returned_from_by_itself() {
    let mut world = World::promoted();
    let mut seen = Observation {
        other: ready("a", 2),
        window: failing("b"),
        ..Observation::default()
    };
    let why = "30 of 100 requests failed since it answers";
    check(
        &world.plan(&Spec::default(), &seen, 21),
        &format!("returning\ndo return to a by rollout: {why}\nas {why}"),
    );
    // What another lineage answered says nothing, and neither does what comes after the bake.
    check(
        &world.plan(&Spec::default(), &seen, 621),
        "keeping_way_back\nwake at 3620",
    );
    seen.window = failing("a");
    check(&world.plan(&Spec::default(), &seen, 21), "baking\nwake at 620");
    // The level is had at once, or it is gone back without.
    seen.window = failing("b");
    world.publish("b", None, at(22));
    check(
        &world.plan(&Spec::default(), &seen, 22),
        &format!("returning\ndo level a\nas {why}"),
    );
    world.edit(|pointer, nonce| pointer.want_level(1, &"a".to_owned().into(), nonce, at(22)));
    seen.leveling_since = Some(at(22));
    check(
        &world.plan(&Spec::default(), &seen, 22),
        &format!("returning\nas {why}\nwake at 22.02"),
    );
    let expected = format!("returning\ndo return to a as it is by rollout: {why}\nas {why}");
    check(&world.plan(&Spec::default(), &seen, 23), &expected);
    seen.other = OtherSeen::NotOpen;
    let expected =
        format!("returning\ndo stop leveling\nas the way back is not open: traffic stays where it is\nas {why}");
    check(&world.plan(&Spec::default(), &seen, 23), &expected);
}

#[test]
fn a_person_goes_back_at_any_time_while_there_is_a_way_back() {
    let mut world = World::promoted();
    let seen = Observation {
        other: ready("a", 2),
        return_wish: Some(ReturnWish {
            lineage: "a".to_owned().into(),
            actor: "ada".to_owned(),
            reason: "odd results".to_owned(),
        }),
        ..Observation::default()
    };
    let expected = "returning\ndo return to a by ada: odd results\nas ada asked to go back: odd results";
    check(&world.plan(&Spec::default(), &seen, 2_000), expected);
    world.edit(|pointer, nonce| pointer.return_to_way_back(1, &flip_to("a"), nonce, at(2_000)));
    // The wish that is fulfilled means nothing any more.
    check(
        &world.plan(&Spec::default(), &seen, 2_001),
        "held\nas held by ada: it passed",
    );
    world.edit(|pointer, nonce| pointer.resume_promotion(1, nonce, at(2_002)));
    let expected = "awaiting_approval\nas it was returned from: only a person promotes it again";
    check(&world.plan(&Spec::default(), &judged(), 2_003), expected);
}

#[test]
fn a_window_that_is_a_candidate_alone_needs_no_level() {
    let mut world = World::new();
    let alone = Published {
        release: release("b", 2, 20_000),
        settings: settings_reference(),
        grace_ns: 0,
        other: None,
    };
    world.edit(|pointer, nonce| pointer.publish_candidate(1, &alone, nonce, at(10)));
    let mut seen = judged();
    let expected = "promoting\ndo flip to b by rollout: passed all gates at generation 2";
    check(&world.plan(&Spec::default(), &seen, 13), expected);
    seen.measured = None;
    check(&world.plan(&Spec::default(), &seen, 13), "judging\ndo measure b at 2");
}
