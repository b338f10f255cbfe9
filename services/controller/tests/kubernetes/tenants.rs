//! Many tenants in the same pods: their lineages are judged and swapped in place, one by one, and an image is rolled out
//! beneath them; controllers come and go meanwhile.

use serde_json::{Value, json};

use crate::indexer::Indexer;
use crate::plugin::Plugin;
use crate::world::World;

/// Tenants appear; one gets a good candidate, one a bad one; words about them; a new image; a controller after the other.
pub(crate) async fn many_in_the_same_pods(world: World) {
    let [one, two] = ["tenant-1", "tenant-2"].map(|name| world.indexer_of(name));
    one.publish_first("a1").await;
    two.publish_first("a2").await;
    world.indexer_of("elsewhere").publish_first("e").await;
    let both = json!({"name": "products", "prefix": "tenant-"});
    for wrong in [both, json!({})] {
        let refused = world.apply_to(wrong, json!({})).await.unwrap_err().to_string();
        assert!(refused.contains("give either a name or a prefix"), "{refused}");
    }
    let controller = world.start_controller("one");
    let prefix = json!({"prefix": "tenant-"});
    world
        .apply_to(prefix, json!({"keepSeconds": 1, "bakeSeconds": 0}))
        .await
        .unwrap();
    until_tenants(&world, 2, 0).await;
    until_image(&world, "vdg.test/search:1").await;
    world
        .until("two pods are told of", async |world| world.status().await.replicas == 2)
        .await;
    assert_eq!(world.status().await.lineage, None);
    let three = world.indexer_of("tenant-3");
    three.publish_first("a3").await;
    until_tenants(&world, 3, 0).await;
    candidates(&world, &one, &two).await;
    world.stop(controller).await;

    world.set_image("vdg.test/search:2").await;
    world
        .until_with_kills("the new image answers", async |world| {
            world.image().await.as_deref() == Some("vdg.test/search:2")
        })
        .await;
    assert_eq!(two.active().await, "a2", "what gates refuse stays out, whoever looks");
    let controller = world.start_controller("last");
    words(&world, &two, &three).await;
    assert!(
        world.status().await.controller_epoch.unwrap() > 2,
        "each controller took an epoch"
    );
    assert!(
        world.indexer_of("elsewhere").pointer().await.owner.is_none(),
        "it is not of the prefix"
    );
    taken_over(&world).await;
    world.stop(controller).await;
}

/// A good one and a bad one, both in place.
async fn candidates(world: &World, one: &Indexer, two: &Indexer) {
    let before = world.status().await.active_target;
    one.publish_candidate("b1").await;
    until_answers(world, one, "b1").await;
    two.publish_candidate("bad2").await;
    until_tenants(world, 3, 1).await;
    let after = world.status().await;
    assert_eq!((after.active_target, world.pods().await), (before, 2), "in place");
    let troubled = &after.tenants.unwrap().first_troubled[0];
    assert_eq!(
        (troubled.name.as_str(), troubled.phase.as_str()),
        ("tenant-2", "Refused")
    );
    assert!(troubled.message.contains("recall"), "{troubled:?}");
    world
        .until_said("Degraded", "1 tenants need attention, such as tenant-2")
        .await;
    world
        .until_figure(
            "verdigris_rollout_tenants{collection=\"products\",state=\"refused\"}",
            Some(1.0),
        )
        .await;
    assert_eq!(
        world.figure("verdigris_rollout_phase{collection=\"tenant-1\",phase=\"steady\"}"),
        None
    );
}

/// A controller that another took over from ends its work, however late it looks again: it has no lease to tell it.
async fn taken_over(world: &World) {
    let second = world.start_controller("second");
    world
        .until("the first finds a higher epoch", async |world| {
            let lost = "verdigris_controller_looks_total{outcome=\"owned_by_another\"}";
            world.figure(lost).is_some()
        })
        .await;
    world.set_image("vdg.test/search:3").await;
    until_image(world, "vdg.test/search:3").await;
    world.stop(second).await;
}

/// What people say is about one tenant, or about the pods.
async fn words(world: &World, two: &Indexer, three: &Indexer) {
    let said = world.ask(json!({"verb": "hold"})).await;
    assert!(
        said.outcome == "Refused" && said.message.contains("say of which tenant"),
        "{said:?}"
    );
    let said = world.ask(json!({"verb": "hold", "tenant": "elsewhere"})).await;
    assert_eq!(said.outcome, "Refused", "{said:?}");
    done(world, json!({"verb": "hold", "tenant": "tenant-3"})).await;
    world
        .until("one is held", async |world| {
            world.status().await.tenants.is_some_and(|told| told.held == 1)
        })
        .await;
    three.publish_candidate("c3").await;
    let said = world.ask(json!({"verb": "promote", "tenant": "tenant-3"})).await;
    assert!(
        said.outcome == "Refused" && said.message.contains("held by ada"),
        "{said:?}"
    );
    done(world, json!({"verb": "resume", "tenant": "tenant-3"})).await;
    until_answers(world, three, "c3").await;
    let said = world
        .ask(json!({"verb": "promote", "tenant": "tenant-2", "target": "other"}))
        .await;
    assert_eq!(said.outcome, "Refused", "{said:?}");
    done(world, json!({"verb": "promote", "tenant": "tenant-2"})).await;
    until_answers(world, two, "bad2").await;
    let shown = done(world, json!({"verb": "show", "tenant": "tenant-2"})).await;
    assert!(
        shown.contains("active: lineage bad2") && shown.contains("by ada"),
        "{shown}"
    );
    by_the_plugin(world).await;
    done(world, json!({"verb": "hold", "pods": true})).await;
    world.until_condition("Held", "True").await;
    done(world, json!({"verb": "resume", "pods": true})).await;
    world.until_condition("Held", "False").await;
}

/// The same as people type it.
async fn by_the_plugin(world: &World) {
    let plugin = Plugin::new(world.kubeconfig()).await;
    let said = |answer: Value| answer["message"].as_str().unwrap().to_owned();
    let shown = said(plugin.run("status products --tenant tenant-2", 0).await);
    assert!(shown.contains("active: lineage bad2"), "{shown}");
    let history = said(plugin.run("history products --tenant tenant-2", 0).await);
    assert!(history.lines().all(|line| line.starts_with("answered:")), "{history}");
    assert!(history.contains("lineage bad2 by ada"), "{history}");
    let refused = said(plugin.run("hold products", 3).await);
    assert!(refused.contains("say of which tenant"), "{refused}");
    plugin.run("hold products --tenant tenant-1 --reason sale", 0).await;
    plugin.run("resume products --tenant tenant-1", 0).await;
    plugin.run("hold products --pods --reason sale", 0).await;
    plugin.run("resume products --pods", 0).await;
    plugin.run("promote products --tenant tenant-1", 3).await;
}

async fn done(world: &World, command: Value) -> String {
    let said = world.ask(command).await;
    assert_eq!(said.outcome, "Done", "{said:?}");
    said.message
}

async fn until_tenants(world: &World, count: i32, refused: i32) {
    let what = format!("there are {count} tenants, {refused} of them refused");
    world
        .until(&what, async |world| {
            let told = world.status().await.tenants;
            told.is_some_and(|told| (told.count, told.refused) == (count, refused))
        })
        .await;
}

async fn until_image(world: &World, image: &str) {
    world
        .until(&format!("{image} answers"), async |world| {
            world.image().await.as_deref() == Some(image)
        })
        .await;
}

async fn until_answers(world: &World, tenant: &Indexer, lineage: &str) {
    world
        .until(&format!("{lineage} answers"), async |_| {
            tenant.active().await == lineage
        })
        .await;
}
