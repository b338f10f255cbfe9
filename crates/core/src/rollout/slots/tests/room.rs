//! A rollout whose pods do not fit: nothing more is asked for, traffic stays, and the status says why.

use super::*;

fn room(left: i128) -> Vec<Grant> {
    vec![Grant {
        quota: "team".to_owned(),
        resource: "requests.memory".to_owned(),
        left: Amount((left << 30) * 1_000),
        per_pod: Amount((4_i128 << 30) * 1_000),
    }]
}

impl Cluster {
    fn condition(&self, seconds: i64, kind: &str) -> (Option<bool>, &'static str, String) {
        let plan = plan(&self.spec, &self.pointer, &self.seen, at(seconds));
        let all = conditions(&self.pointer, &self.seen, &plan);
        let found = all.into_iter().find(|condition| condition.kind == kind);
        let found = found.expect("a condition of that kind");
        (found.holds, found.reason, found.message)
    }

    fn check_stalled(&self, seconds: i64, text: &str) {
        let (holds, reason, message) = self.condition(seconds, "Progressing");
        assert_eq!((holds, reason), (Some(false), "NoRoom"), "{message}");
        let (holds, _, message) = self.condition(seconds, "Degraded");
        assert!(holds == Some(true) && message.contains(text), "{message}");
    }
}

#[test]
fn a_candidate_whose_pods_do_not_fit_gets_none_until_they_do() {
    let mut cluster = Cluster::with_candidate();
    cluster.seen.green = empty("b", "one");
    cluster.seen.grants = room(7);
    cluster.check(10, Phase::Warming, &[]);
    let text = "2 more pods of slot green do not fit: they ask for 8Gi of requests.memory, and quota team leaves 7Gi";
    cluster.check_stalled(10, text);
    cluster.seen.grants = room(8);
    cluster.check(10, Phase::Warming, &["scale green 2"]);
    // Pods that are there are counted in what is left.
    cluster.seen.green = slot("b", "one", 2, 0);
    cluster.seen.grants = room(0);
    cluster.check(10, Phase::Warming, &["preview other"]);
    assert_eq!(cluster.condition(10, "Degraded").0, Some(false));
}

#[test]
fn a_new_image_whose_pods_do_not_fit_gets_none_until_they_do() {
    let mut cluster = Cluster::new();
    cluster.spec.template = "two".to_owned().into();
    cluster.seen.green = empty("a", "two");
    cluster.seen.grants = room(-1);
    cluster.check(10, Phase::Warming, &[]);
    cluster.check_stalled(10, "quota team leaves 0; traffic stays where it is");
    cluster.seen.grants = room(9);
    cluster.check(10, Phase::Warming, &["scale green 2"]);
}

#[test]
fn what_answers_and_its_way_back_get_what_fits_without_being_asked() {
    let mut cluster = Cluster::moved();
    cluster.seen.demoted_at = Some(at(25));
    (cluster.spec.replicas, cluster.seen.grants) = (5, room(0));
    cluster.check(30, Phase::Baking, &["scale blue 5", "scale green 5"]);
    let mut first = Cluster::new();
    first.seen.traffic().target = None;
    (first.seen.blue, first.seen.grants) = (empty("a", "one"), room(0));
    first.check(1, Phase::Warming, &["scale blue 2"]);
}

#[test]
fn pods_that_no_node_has_room_for_are_told_of_after_a_while() {
    let mut cluster = Cluster::with_candidate();
    cluster.seen.traffic().preview = Some(target("b", "one").id());
    cluster.seen.green = slot("b", "one", 2, 1);
    let why = "0/3 nodes are available: 3 Insufficient memory.".to_owned();
    cluster.seen.green.pods[1].unplaced = Some((at(10), why));
    cluster.check(39, Phase::Warming, &[]);
    assert_eq!(cluster.condition(39, "Progressing").0, Some(true));
    let waits = plan(&cluster.spec, &cluster.pointer, &cluster.seen, at(39));
    assert_eq!(waits.wake_at, Some(at(40)));
    cluster.check(40, Phase::Warming, &[]);
    let text = "no node has room for 1 pods of slot green: 0/3 nodes are available";
    cluster.check_stalled(40, text);
}

#[test]
fn pods_that_the_cluster_does_not_make_are_told_of_in_its_words() {
    let mut cluster = Cluster::with_candidate();
    cluster.seen.traffic().preview = Some(target("b", "one").id());
    cluster.seen.green = slot("b", "one", 2, 0);
    cluster.seen.green.refused = Some("exceeded quota: team".to_owned());
    cluster.check(10, Phase::Warming, &[]);
    cluster.check_stalled(10, "the cluster makes no more pods of slot green: exceeded quota: team");
    // What answers goes on: nothing stands still there.
    let mut steady = Cluster::new();
    steady.seen.blue.refused = Some("exceeded quota: team".to_owned());
    assert_eq!(
        steady.condition(10, "Progressing"),
        (Some(false), "Steady", steady.condition(10, "Degraded").2)
    );
    assert_eq!(steady.condition(10, "Degraded").0, Some(true));
}

#[test]
fn pods_that_are_not_ready_by_the_deadline_do_not_progress() {
    let mut cluster = Cluster::with_candidate();
    cluster.seen.green = slot("b", "one", 2, 1);
    let deadline = i64::from(cluster.spec.rollout.rollout.deadline_seconds);
    assert_eq!(cluster.condition(deadline - 10, "Progressing").0, Some(true));
    let late = cluster.condition(deadline + 10, "Progressing");
    assert_eq!((late.0, late.1), (Some(false), "DeadlineExceeded"), "{}", late.2);
}

#[test]
fn amounts_are_told_as_people_write_them() {
    let check = |thousandths: i128, text: &str| assert_eq!(Amount(thousandths).to_string(), text);
    check(250, "250m");
    check(2_000, "2");
    check(0, "0");
    check((3 << 30) * 1_000, "3Gi");
    check((1_536 << 20) * 1_000, "1536Mi");
    check(1_000_000_000, "1000000");
}
