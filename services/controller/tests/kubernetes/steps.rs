//! Traffic that moves in steps: both slots are sent to, and the way back from a step is no swap.

use serde_json::json;

use crate::world::World;

/// So long that no step ends by itself.
const LONG: u32 = 86_400;

/// A share at a time; back from one by itself, and by a word; and all the way, over controllers that come and go.
pub(crate) async fn a_share_at_a_time(world: World) {
    world.publish_first("a").await;
    let controller = world.start_controller("one");
    let given = json!({"steps": [10, 50], "bakeSeconds": LONG, "keepSeconds": LONG});
    world.apply(given).await;
    world.scale(4).await;
    world.until_active("a").await;
    world
        .until("four pods answer", async |world| world.pods_of("a").await == 4)
        .await;

    world.publish_candidate("b").await;
    until_step(&world, "green", 10).await;
    world
        .until("both slots are sent to", async |world| {
            world.lineages_sent_to().await == ["a", "b"]
        })
        .await;
    assert_eq!((world.pods_of("a").await, world.pods_of("b").await), (4, 1));
    world
        .until("the old slot sheds half of its connections", async |world| {
            world.shares("a") == [0.5; 4]
        })
        .await;
    assert_eq!(
        (world.demoted("b"), world.status().await.lineage.as_deref()),
        (0, Some("a"))
    );
    assert_eq!(world.pointer().await.active.unwrap().lineage.as_str(), "b");
    world.stop(controller).await;

    // The next controller knows the step, and that it fails.
    let controller = world.start_controller("two");
    until_step(&world, "green", 10).await;
    world.fail("b");
    until_alone(&world, "a").await;
    let hold = world.pointer().await.promotion_hold.expect("a return sticks");
    assert!(hold.reason.contains("20 of 40 requests failed"), "{}", hold.reason);
    world
        .until("its clients are told to go", async |world| world.demoted("b") == 1)
        .await;
    world.until_events(&["TrafficWidened", "Returned"]).await;

    let said = world.command("abort", &world.target_of("b").await, None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    world.command("resume", "", None).await;
    world
        .until("its pods are gone", async |world| world.pods_of("b").await == 0)
        .await;
    world.publish_candidate("c").await;
    until_step(&world, "green", 10).await;
    let said = world.command("rollback", &world.target_of("a").await, None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    until_alone(&world, "a").await;
    let said = world.command("abort", &world.target_of("c").await, None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    world.command("resume", "", None).await;

    world.stop(controller).await;
    world.set_rollout(json!({"bakeSeconds": 1})).await;
    world.publish_candidate("d").await;
    world.until_active_with_kills("d").await;
    let controller = world.start_controller("last");
    until_alone(&world, "d").await;
    world
        .until("all of its pods answer", async |world| world.pods_of("d").await == 4)
        .await;
    let wrong = json!({"steps": [50, 10]});
    world.set_rollout(wrong).await;
    world
        .until_said("Degraded", "spec.rollout.steps: steps are shares")
        .await;
    world.stop(controller).await;
}

async fn until_step(world: &World, slot: &str, percent: i32) {
    world
        .until(&format!("slot {slot} has {percent} %"), async |world| {
            let step = world.status().await.step;
            step.is_some_and(|step| (step.slot.as_str(), step.percent) == (slot, percent))
        })
        .await;
}

async fn until_alone(world: &World, lineage: &str) {
    world.until_active(lineage).await;
    world
        .until(&format!("{lineage} answers alone"), async |world| {
            world.lineages_sent_to().await == [lineage] && world.status().await.step.is_none()
        })
        .await;
}
