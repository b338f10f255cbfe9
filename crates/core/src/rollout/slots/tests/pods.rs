//! Pods without a lineage: an image is rolled out, judged by its pods alone, and gone back from; no pointer is edited.

use super::*;
use crate::rollout::slots::{ALL_LINEAGES, pods_alone};

/// Pods of image `one` answer from blue.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.seen.blue = slot(ALL_LINEAGES, "one", 0, 2);
    let blue = &cluster.seen.blue;
    let traffic = cluster.seen.traffic.as_mut().expect("it has Services");
    traffic.target = blue.target.as_ref().map(Target::id);
    traffic.endpoints = blue.pods.iter().map(|pod| pod.name.clone()).collect();
    cluster.pointer = pods_alone(None);
    cluster
}

fn planned(cluster: &Cluster, seconds: i64) -> Plan {
    let plan = plan(&cluster.spec, &cluster.pointer, &cluster.seen, at(seconds));
    let edits = |action: &&Action| matches!(action, Action::Pointer(_));
    assert_eq!(plan.actions.iter().find(edits), None, "there is no pointer");
    plan
}

#[test]
fn pods_that_open_what_is_asked_for_answer_as_soon_as_they_are_ready() {
    let mut cluster = cluster();
    cluster.seen.traffic = Some(Traffic {
        epoch: 1,
        ..Traffic::default()
    });
    cluster.seen.blue = SlotSeen::default();
    let begun = planned(&cluster, 1);
    let target = target(ALL_LINEAGES, "one");
    let asked = Action::SetTarget {
        slot: Slot::Blue,
        target: target.clone(),
    };
    assert!(begun.actions.contains(&asked), "{:?}", begun.actions);
    cluster.seen.blue = slot(ALL_LINEAGES, "one", 0, 2);
    let select = planned(&cluster, 2).actions;
    assert!(
        matches!(&select[..], [Action::Select(selection)] if selection.target == target.id()),
        "{select:?}"
    );
}

#[test]
fn a_new_image_answers_once_its_pods_are_ready_and_is_gone_back_from_when_it_fails() {
    let mut cluster = cluster();
    assert_eq!(
        (planned(&cluster, 1).phase, planned(&cluster, 1).actions.len()),
        (Phase::Steady, 0)
    );
    cluster.spec.template = "two".to_owned().into();
    cluster.seen.green = slot(ALL_LINEAGES, "two", 0, 1);
    assert_eq!(planned(&cluster, 2).phase, Phase::Warming, "half of them is not enough");
    cluster.seen.green = slot(ALL_LINEAGES, "two", 0, 2);
    let plan = planned(&cluster, 3);
    let Some(Action::Select(selection)) = plan.actions.iter().find(|action| matches!(action, Action::Select(_))) else {
        panic!("{:?}", plan.actions);
    };
    let traffic = cluster.seen.traffic.as_mut().expect("it has Services");
    (traffic.target, traffic.previous) = (Some(selection.target.clone()), selection.previous.clone());
    traffic.since = at(3);
    traffic.endpoints = cluster.seen.green.pods.iter().map(|pod| pod.name.clone()).collect();
    assert_eq!(planned(&cluster, 4).phase, Phase::Baking);
    for pod in &mut cluster.seen.green.pods {
        let report = pod.report.as_mut().expect("it answers");
        (report.requests, report.errors) = (1_000, 500);
    }
    let plan = planned(&cluster, 5);
    assert_eq!(plan.phase, Phase::Returning);
    let is_hold = |action: &Action| matches!(action, Action::HoldPromotion(_));
    let back = |action: &Action| matches!(action, Action::Select(selection) if selection.slot == Slot::Blue);
    assert!(
        plan.actions.iter().any(is_hold) && plan.actions.iter().any(back),
        "{:?}",
        plan.actions
    );
}

#[test]
fn a_held_image_waits() {
    let mut cluster = cluster();
    let wish = Wish {
        actor: "ada".to_owned(),
        reason: "sale".to_owned(),
    };
    cluster.pointer = pods_alone(Some((&wish, at(0))));
    cluster.spec.template = "two".to_owned().into();
    cluster.seen.green = slot(ALL_LINEAGES, "two", 0, 2);
    let plan = planned(&cluster, 3);
    assert_eq!(plan.phase, Phase::Held);
    assert!(!plan.actions.iter().any(|action| matches!(action, Action::Select(_))));
}
