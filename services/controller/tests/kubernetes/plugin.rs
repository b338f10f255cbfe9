//! `kubectl verdigris` as kubectl starts it: a process under the plugin's name, with a kubeconfig, and its exit codes.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use verdigris_tests::process::executable;
use verdigris_tests::watch;

use crate::world::World;

/// The executable under the name that kubectl looks for.
pub(crate) struct Plugin {
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl Plugin {
    pub(crate) async fn new(kubeconfig: PathBuf) -> Self {
        let folder = TempDir::new().unwrap();
        let link = folder.path().join("kubectl-verdigris");
        let linked = tokio::task::spawn_blocking(move || std::os::unix::fs::symlink(executable(), link));
        linked.await.unwrap().unwrap();
        Self { folder, kubeconfig }
    }

    /// Runs it to its end, which must have this exit code; its JSON, of standard error where that is all.
    pub(crate) async fn run(&self, arguments: &str, code: i32) -> Value {
        let mut command = Command::new(self.folder.path().join("kubectl-verdigris"));
        command.args(arguments.split(' ')).arg("--json");
        command.env("KUBECONFIG", &self.kubeconfig).env("USER", "ada");
        let ended = tokio::task::spawn_blocking(move || watch::run(&mut command, watch::PATIENCE));
        let ended = ended.await.unwrap();
        assert!(!ended.hung, "{arguments} hung");
        let text = format!("{arguments}\n{}{}", ended.out, ended.err);
        assert_eq!(ended.status.code(), Some(code), "{text}");
        let json = serde_json::from_str(&ended.out).or_else(|_| serde_json::from_str(&ended.err));
        json.unwrap_or(Value::Null)
    }
}

/// Every verb, on the way of a candidate that a person promotes, goes back from and gives up.
pub(crate) async fn every_verb_says_how_it_ended(world: World) {
    let plugin = Plugin::new(world.kubeconfig()).await;
    world.publish_first("a").await;
    let missing = plugin.run("status products", 1).await;
    assert_eq!(missing["error"]["reason"], "COLLECTION_NOT_FOUND", "{missing}");
    plugin.run("hold products", 1).await;
    world.apply(json!({"promotion": "Manual", "bakeSeconds": 0})).await;
    // Nobody looks after it yet.
    plugin.run("status products --wait --timeout 0", 4).await;
    let controller = world.start_controller("one");
    world.until_phase("Steady").await;
    let steady = plugin.run("status products --wait --timeout 120", 0).await;
    assert_eq!((&steady["phase"], &steady["lineage"]), (&json!("Steady"), &json!("a")));
    let listed = plugin.run("get", 0).await;
    assert_eq!(listed[0]["metadata"]["name"], "products");
    let nothing = plugin.run("promote products", 3).await;
    assert_eq!(nothing["outcome"], "Refused", "{nothing}");
    world.publish_candidate("b").await;
    world.until_phase("AwaitingApproval").await;
    plugin.run("status products --wait --timeout 120", 0).await;
    plugin.run("hold products --reason sale", 0).await;
    let held = plugin.run("promote products", 3).await;
    assert!(
        held["message"].as_str().unwrap().contains("held by ada: sale"),
        "{held}"
    );
    plugin.run("resume products", 0).await;
    let promoted = plugin.run("promote products --timeout 120", 0).await;
    assert_eq!(promoted["lineage"], "b", "{promoted}");
    plugin.run("rollback products --reason odd", 0).await;
    world.until_active("a").await;
    let history = plugin.run("history products", 0).await;
    let entry = |at: usize| (history[at]["lineage"].clone(), history[at]["reason"].clone());
    assert_eq!(entry(0), (json!("a"), json!("odd")), "{history}");
    assert_eq!(entry(1).0, "b", "{history}");
    plugin.run("abort products", 0).await;
    world
        .until("what was given up has no pods", async |world| {
            world.pods_of("b").await == 0
        })
        .await;
    plugin.run("resume products", 0).await;
    world.publish_candidate("bad").await;
    world.until_phase("Refused").await;
    let refused = plugin.run("status products --wait --timeout 120", 3).await;
    assert_eq!(
        (&refused["phase"], &refused["lineage"]),
        (&json!("Refused"), &json!("a"))
    );
    plugin.run("sttus products", 2).await;
    let lost = Plugin {
        kubeconfig: plugin.folder.path().join("none"),
        ..Plugin::new(world.kubeconfig()).await
    };
    let lost = lost.run("get", 1).await;
    assert_eq!(lost["error"]["reason"], "SERVER_UNREACHABLE", "{lost}");
    world.stop(controller).await;
}
