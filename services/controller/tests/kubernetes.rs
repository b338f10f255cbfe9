//! The controller on a real kube-apiserver with a real etcd.
//!
//! Goal: the order of a rollout, the gates, the ways back and the goings-on after an end anywhere hold against the API as
//! it is, with its conflicts and its server-side apply. Method: the API is real; what a kubelet and the controllers of
//! Deployments and EndpointSlices would do is written through it by the test, and each pod's search process is a real
//! gRPC server on an address of its own. A watcher looks all the time whether what is selected has a ready pod (I-6).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(clippy::print_stdout, reason = "what is skipped, or tried again, is told")]

#[path = "kubernetes/apiserver.rs"]
mod apiserver;
#[path = "kubernetes/cluster.rs"]
mod cluster;
#[path = "kubernetes/indexer.rs"]
mod indexer;
#[path = "kubernetes/plugin.rs"]
mod plugin;
#[path = "kubernetes/search.rs"]
mod search;
#[path = "kubernetes/steps.rs"]
mod steps;
#[path = "kubernetes/tenants.rs"]
mod tenants;
#[path = "kubernetes/world.rs"]
mod world;

use serde_json::json;

use crate::apiserver::Server;
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_go_their_way_on_a_real_api() {
    let Some(server) = Server::start().await else { return };
    server.install_definition().await;
    // Beside each other, each in a namespace of its own.
    tokio::join!(
        swap_and_go_back(server.world("swap").await),
        gates_and_words(server.world("gates").await),
        image_and_scale(server.world("image").await),
        killed_between_steps(server.world("killed").await),
        one_leads(server.world("lease").await),
        no_room(server.world("room").await),
        steps::a_share_at_a_time(server.world("steps").await),
        plugin::every_verb_says_how_it_ended(server.world("plugin").await),
        deleted(server.world("end").await),
        tenants::many_in_the_same_pods(server.world("tenants").await),
    );
}

/// A first lineage, a swap by itself, and back by a person's word, which sticks.
async fn swap_and_go_back(world: World) {
    world.publish_first("a").await;
    let controller = world.start_controller("one");
    world.apply(json!({})).await;
    world.until_active("a").await;
    let first = world.status().await;
    assert_eq!((first.active_slot.as_deref(), first.replicas), (Some("blue"), 2));
    world.publish_candidate("b").await;
    world.until_active("b").await;
    world
        .until("the slot before is demoted", async |world| world.demoted("a") == 2)
        .await;
    assert_eq!(world.demoted("b"), 0);
    let status = world.status().await;
    let way_back = status.slots.iter().find(|slot| slot.role == "wayBack").unwrap();
    assert_eq!((way_back.lineage.as_deref(), way_back.ready), (Some("a"), 2));
    let said = world.command("rollback", &way_back.target.clone().unwrap(), None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    world.until_active("a").await;
    world
        .until("clients of the way back stay", async |world| world.demoted("a") == 0)
        .await;
    world.until_condition("Held", "True").await;
    assert_eq!(world.pointer().await.promotion_hold.unwrap().actor, "ada");
    world
        .until_events(&["TrafficMoved", "Promoted", "Returned", "Command"])
        .await;
    // The first lineage was not moved to. How long the cluster took to follow is known a look later.
    for kind in ["promote", "return"] {
        let of = format!("{{collection=\"products\",kind=\"{kind}\"}}");
        assert_eq!(world.figure(&format!("verdigris_rollout_flips_total{of}")), Some(1.0));
        world
            .until_figure(&format!("verdigris_rollout_swap_seconds_count{of}"), Some(1.0))
            .await;
    }
    for (series, value) in [
        ("verdigris_controller_leader", 1.0),
        ("verdigris_rollout_held{collection=\"products\"}", 1.0),
        (
            "verdigris_rollout_pods{collection=\"products\",slot=\"blue\",state=\"ready\"}",
            2.0,
        ),
    ] {
        world.until_figure(series, Some(value)).await;
    }
    world.stop(controller).await;
    assert_eq!(world.figure("verdigris_controller_leader"), Some(0.0));
}

/// A lineage that fails a gate stays out, until a person promotes it as it was judged; another one is given up.
async fn gates_and_words(world: World) {
    world.publish_first("a").await;
    let controller = world.start_controller("one");
    world.apply(json!({"keepSeconds": 1, "bakeSeconds": 0})).await;
    world.until_active("a").await;
    world.publish_candidate("bad1").await;
    world.until_condition("GatesPassed", "False").await;
    let status = world.status().await;
    assert_eq!(status.lineage.as_deref(), Some("a"));
    assert!(status.verdict.unwrap().against[0].starts_with("recall"));
    for (series, value) in [
        ("verdigris_rollout_gate{collection=\"products\",gate=\"recall\"}", 0.0),
        (
            "verdigris_rollout_judged_total{collection=\"products\",promotable=\"false\"}",
            1.0,
        ),
        ("verdigris_rollout_degraded{collection=\"products\"}", 1.0),
    ] {
        world.until_figure(series, Some(value)).await;
    }
    let target = world.target_of("bad1").await;
    let said = world.command("promote", &target, Some(999)).await;
    assert_eq!(said.outcome, "Refused", "{}", said.message);
    let said = world.command("hold", "", None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    let said = world.command("promote", &target, None).await;
    assert!(said.message.contains("held by ada"), "{}", said.message);
    world.command("resume", "", None).await;
    let said = world.command("promote", &target, None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    world.until_active("bad1").await;
    world
        .until("the lineage before is un-named once its pods are gone", async |world| {
            world.pointer().await.other.is_none()
        })
        .await;
    assert_eq!(world.pods_of("a").await, 0);
    world.publish_candidate("bad2").await;
    world.until_condition("GatesPassed", "False").await;
    let said = world.command("abort", &world.target_of("bad2").await, None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    world
        .until("its pods are gone", async |world| world.pods_of("bad2").await == 0)
        .await;
    assert_eq!(world.status().await.lineage.as_deref(), Some("bad1"));
    world.stop(controller).await;
}

/// A new image is a rollout; the number of pods is none; what never gets ready never answers.
async fn image_and_scale(world: World) {
    world.publish_first("a").await;
    let controller = world.start_controller("one");
    world
        .apply(json!({"promotion": "Manual", "keepSeconds": 2, "bakeSeconds": 0}))
        .await;
    world.until_active("a").await;
    let before = world.status().await.active_target.unwrap();
    world.scale(3).await;
    world
        .until("three pods answer", async |world| world.status().await.replicas == 3)
        .await;
    assert_eq!(world.status().await.active_target.unwrap(), before);
    world.set_image("vdg.test/search:broken").await;
    world
        .until("the broken image gets its pods", async |world| world.pods().await == 6)
        .await;
    world.set_image("vdg.test/search:2").await;
    world.until_phase("AwaitingApproval").await;
    let status = world.status().await;
    assert_eq!(status.active_target.as_deref(), Some(before.as_str()));
    let candidate = status.slots.iter().find(|slot| slot.role == "candidate").unwrap();
    let said = world.command("promote", &candidate.target.clone().unwrap(), None).await;
    assert_eq!(said.outcome, "Done", "{}", said.message);
    world
        .until("the new image answers", async |world| {
            world.status().await.active_target != Some(before.clone())
        })
        .await;
    assert_eq!(world.status().await.lineage.as_deref(), Some("a"));
    world
        .until("the image before is gone after keep", async |world| {
            world.pods().await == 3
        })
        .await;
    world.stop(controller).await;
}

/// What does not fit is not begun, and what the cluster does not place or make is told in its words; traffic stays.
async fn no_room(world: World) {
    world.publish_first("a").await;
    let controller = world.start_controller("one");
    world.apply(json!({"keepSeconds": 1, "bakeSeconds": 0})).await;
    world.until_active("a").await;
    let (three, four) = (json!({"requests.memory": "3Gi"}), json!({"requests.memory": "4Gi"}));
    world.quota("team", &[], three, json!({"requests.memory": "2Gi"})).await;
    world.publish_candidate("b").await;
    world
        .until_said(
            "Degraded",
            "they ask for 2Gi of requests.memory, and quota team leaves 1Gi",
        )
        .await;
    world.until_condition("Progressing", "False").await;
    assert_eq!(
        (world.pods_of("b").await, world.status().await.phase.as_str()),
        (0, "Warming")
    );
    world.quota("team", &[], four, json!({"requests.memory": "2Gi"})).await;
    world.until_active("b").await;
    world
        .until("the way back is given up", async |world| world.pods_of("a").await == 0)
        .await;
    // Nothing but the API knows what a quota with a scope is about.
    world
        .quota("team", &[], json!({"requests.memory": "1Ti"}), json!({}))
        .await;
    world
        .quota("few", &["NotBestEffort"], json!({"pods": "2"}), json!({"pods": "2"}))
        .await;
    world.set_image("vdg.test/search:2").await;
    world
        .until_said("Degraded", "the cluster makes no more pods of slot blue")
        .await;
    world.until_said("Degraded", "exceeded quota: few").await;
    world
        .quota("few", &["NotBestEffort"], json!({"pods": "100"}), json!({"pods": "2"}))
        .await;
    world
        .until("the new image answers", async |world| {
            world.status().await.active_slot.as_deref() == Some("blue")
        })
        .await;
    world
        .until("the image before is gone after keep", async |world| {
            world.pods().await == 2
        })
        .await;
    world.set_image("vdg.test/search:huge").await;
    world
        .until_said(
            "Degraded",
            "no node has room for 2 pods of slot green: 0/1 nodes are available",
        )
        .await;
    world.until_condition("Progressing", "False").await;
    assert_eq!(world.status().await.active_slot.as_deref(), Some("blue"));
    world.stop(controller).await;
}

/// A controller that ends at any moment, while somebody else writes to the same objects, is carried on by the next.
async fn killed_between_steps(world: World) {
    world.publish_first("a").await;
    let meddler = world.meddle();
    world.apply(json!({"keepSeconds": 1, "bakeSeconds": 0})).await;
    world.until_active_with_kills("a").await;
    world.publish_candidate("b").await;
    world.until_active_with_kills("b").await;
    world.publish_second_candidate("c").await;
    world.until_active_with_kills("c").await;
    meddler.abort();
    assert!(
        world.pointer().await.owner.unwrap().epoch > 3,
        "more than one controller claimed"
    );
}

/// Of two controllers one works; the other takes over when the first has let go.
async fn one_leads(world: World) {
    world.publish_first("a").await;
    let first = world.start_leading("first");
    world
        .until("the first leads", async |world| {
            world.leader().await.as_deref() == Some("first")
        })
        .await;
    let second = world.start_leading("second");
    world.apply(json!({})).await;
    world.until_active("a").await;
    assert_eq!(world.leader().await.as_deref(), Some("first"));
    world.stop(first).await;
    world
        .until("the second leads", async |world| {
            world.leader().await.as_deref() == Some("second")
        })
        .await;
    world.publish_candidate("b").await;
    world.until_active("b").await;
    world.stop(second).await;
}

/// What is made for a Collection is its own, and a Collection that goes lets the pointer go.
async fn deleted(world: World) {
    world.publish_first("a").await;
    let controller = world.start_controller("one");
    world.apply(json!({})).await;
    world.until_active("a").await;
    world.check_owned().await;
    world.delete().await;
    world
        .until("the Collection is gone", async |world| world.is_gone().await)
        .await;
    world
        .until_figure("verdigris_rollout_degraded{collection=\"products\"}", None)
        .await;
    world.stop(controller).await;
}
