//! Goal: traffic that moves in steps gets pods and connections step by step, stops when held, and goes back to what never
//! stopped answering. Method: as beside.

use super::*;

const STEPS: [u32; 2] = [10, 50];

fn stepped(mut cluster: Cluster) -> Cluster {
    cluster.spec.steps = Steps::new(STEPS.to_vec()).expect("they rise");
    cluster.spec.replicas = 4;
    cluster.seen.blue = sized(cluster.seen.blue, 4);
    cluster
}

/// A slot with so many ready pods.
fn sized(mut slot: SlotSeen, pods: u32) -> SlotSeen {
    let pod = slot.pods.first().cloned().expect("a pod to make others from");
    slot.pods = (0..pods)
        .map(|number| {
            let mut pod = pod.clone();
            pod.name.pop();
            pod.name.push_str(&number.to_string());
            pod
        })
        .collect();
    (slot.replicas, slot.pods_left) = (pods, pods);
    slot
}

impl Cluster {
    /// Green has a share since a second, and as many pods.
    fn at_step(mut self, percent: u32, pods: u32, since: i64) -> Self {
        self.seen.green = sized(self.seen.green, pods);
        let target = self.seen.green.target.as_ref().map(Target::id).expect("it has one");
        let slots = [&self.seen.blue, &self.seen.green];
        let names = slots
            .into_iter()
            .flat_map(|slot| &slot.pods)
            .map(|pod| pod.name.clone());
        let endpoints = names.collect();
        let traffic = self.seen.traffic();
        traffic.endpoints = endpoints;
        traffic.widened = Some(Widened {
            target: target.clone(),
            percent,
            since: at(since),
        });
        traffic.preview = Some(target);
        self.seen.demoted_at = Some(at(since));
        self
    }

    fn fails(&mut self) {
        for pod in &mut self.seen.green.pods {
            if let Some(report) = &mut pod.report {
                (report.requests, report.errors) = (40, 20);
            }
        }
    }
}

/// The pointer claims `b`, whose pods are ready for the first step.
fn flipped() -> Cluster {
    let mut cluster = stepped(Cluster::flipped());
    cluster.seen.green = sized(cluster.seen.green, 1);
    cluster
}

/// Template `two` is ready in green for the first step.
fn new_image() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.spec.template = "two".to_owned().into();
    cluster.seen.green = slot("a", "two", 1, 2);
    cluster.seen.traffic().preview = Some(target("a", "two").id());
    let mut cluster = stepped(cluster);
    cluster.seen.green = sized(cluster.seen.green, 1);
    cluster
}

#[test]
fn steps_are_shares_that_rise() {
    for wrong in [vec![0], vec![50, 50], vec![50, 10], vec![101], vec![100, 100]] {
        let error = Steps::new(wrong).expect_err("no steps");
        assert!(error.to_string().contains("between 1 and 99"), "{error}");
    }
    assert_eq!(Steps::new(vec![10, 50, 100]), Steps::new(vec![10, 50]));
    assert_eq!(Steps::new(vec![100]), Ok(Steps::default()));
}

#[test]
fn a_candidate_is_judged_with_the_pods_of_the_first_step() {
    let mut cluster = stepped(Cluster::judged(0.99));
    cluster.seen.green = empty("b", "one");
    cluster.check(10, Phase::Warming, &["scale green 1", "preview none"]);
    cluster.seen.green = sized(slot("b", "one", 2, 2), 1);
    cluster.check(10, Phase::Promoting, &["flip b"]);
}

#[test]
fn each_step_widens_bakes_and_grows_and_the_last_selects() {
    let cluster = flipped();
    cluster.check(20, Phase::Promoting, &["widen green 10"]);
    let bake = i64::from(cluster.spec.rollout.rollout.bake_seconds);
    let first = flipped().at_step(10, 1, 20);
    first.check(21, Phase::Baking, &[]);
    first.says(21, "slot green has 10 % of the traffic, and is watched until");
    first.check(20 + bake, Phase::Promoting, &["scale green 2"]);
    let grown = flipped().at_step(10, 2, 20);
    grown.check(20 + bake, Phase::Promoting, &["widen green 50"]);
    let second = flipped().at_step(50, 2, 20);
    second.check(20 + bake, Phase::Promoting, &["scale green 4"]);
    let last = flipped().at_step(50, 4, 20);
    last.check(20 + bake, Phase::Promoting, &["select green"]);
}

#[test]
fn the_old_slot_sheds_once_and_only_when_the_new_one_is_sent_to() {
    let mut cluster = flipped().at_step(10, 1, 20);
    cluster.seen.demoted_at = None;
    // Of 5 pods, one is new: of half of the connections, a tenth of all come to it.
    cluster.check(21, Phase::Baking, &["shed blue 50"]);
    let all = std::mem::take(&mut cluster.seen.traffic().endpoints);
    cluster.seen.traffic().endpoints = all.into_iter().filter(|name| name.starts_with('a')).collect();
    cluster.check(21, Phase::Baking, &[]);
    cluster.says(21, "the cluster is following");
    let mut second = flipped().at_step(50, 2, 20);
    second.seen.demoted_at = None;
    second.check(21, Phase::Baking, &["shed blue 100"]);
}

#[test]
fn a_hold_stops_at_the_step_that_is_reached() {
    let mut cluster = flipped();
    cluster.spec.is_paused = true;
    cluster.check(20, Phase::Held, &[]);
    let mut cluster = flipped().at_step(10, 1, 20);
    cluster.spec.is_paused = true;
    let bake = i64::from(cluster.spec.rollout.rollout.bake_seconds);
    cluster.check(20 + bake, Phase::Held, &[]);
    cluster.says(20 + bake, "rollout.paused is set");
}

#[test]
fn a_share_that_fails_is_returned_from_and_what_never_stopped_answers_alone() {
    let mut cluster = flipped().at_step(10, 1, 20);
    cluster.fails();
    cluster.check(30, Phase::Returning, &["return a"]);
    let returned = Flip {
        lineage: "a".to_owned().into(),
        actor: "rollout".to_owned(),
        reason: "it fails".to_owned(),
        stale: false,
    };
    let back = cluster.pointer.return_to_way_back(1, &returned, "r".to_owned(), at(30));
    cluster.pointer = back.expect("it is the way back");
    cluster.check(31, Phase::Returning, &["select blue"]);
    let plan = plan(&cluster.spec, &cluster.pointer, &cluster.seen, at(31));
    let Some(Action::Select(selection)) = plan.actions.first() else {
        panic!("{plan:?}")
    };
    // Its clients are told to go, and it is promoted again by nobody but a person.
    assert_eq!(selection.previous, Some(target("b", "one").id()));
    assert!(cluster.pointer.promotion_hold.is_some());
    // As long as nothing of the old slot can answer, both are sent to.
    for pod in &mut cluster.seen.blue.pods {
        pod.is_ready = false;
    }
    cluster.check(31, Phase::Returning, &[]);
}

#[test]
fn a_step_to_what_the_pointer_claims_no_longer_is_taken_back() {
    let mut cluster = flipped().at_step(10, 1, 20);
    cluster.pointer.active.as_mut().expect("it was flipped").lineage = "c".to_owned().into();
    cluster.check(21, Phase::Returning, &["select blue"]);
    let mut gone = flipped().at_step(10, 1, 20);
    gone.seen.green = empty("z", "one");
    gone.check(21, Phase::Returning, &["select blue", "preview none"]);
}

#[test]
fn the_last_step_ends_also_where_the_way_back_was_given_up() {
    let bake = i64::from(crate::rollout::Spec::default().rollout.bake_seconds);
    let mut cluster = flipped().at_step(50, 4, 20);
    let given_up = cluster
        .pointer
        .drop_other(1, &"a".to_owned().into(), "d".to_owned(), at(30));
    cluster.pointer = given_up.expect("it is the way back");
    cluster.fails();
    cluster.check(20 + bake, Phase::Promoting, &["select green"]);
}

#[test]
fn a_persons_word_goes_back_from_a_step() {
    let mut cluster = flipped().at_step(10, 1, 20);
    cluster.seen.wish = Some(Wish {
        actor: "ada".to_owned(),
        reason: "odd".to_owned(),
    });
    cluster.check(30, Phase::Returning, &["return a"]);
}

#[test]
fn a_new_image_takes_the_same_steps() {
    let bake = i64::from(crate::rollout::Spec::default().rollout.bake_seconds);
    new_image().check(20, Phase::Promoting, &["widen green 10"]);
    new_image().at_step(10, 1, 20).check(21, Phase::Baking, &[]);
    let second = new_image().at_step(50, 4, 20);
    second.check(20 + bake, Phase::Promoting, &["select green"]);
    let mut failing = new_image().at_step(10, 1, 20);
    failing.fails();
    failing.check(30, Phase::Returning, &["hold rollout", "select blue"]);
    let mut reverted = new_image().at_step(10, 1, 20);
    reverted.spec.template = "one".to_owned().into();
    reverted.check(30, Phase::Returning, &["select blue"]);
    let mut another = new_image().at_step(10, 1, 20);
    another.spec.template = "three".to_owned().into();
    another.check(30, Phase::Returning, &["select blue"]);
}
