//! Each role as a process of its own over one store: events in, releases out, answers, a rollout; each of them killed and
//! started again.
//!
//! Deliberately absent: what a role does inside; other tests have it, with all roles in one process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

#[path = "processes/cache.rs"]
mod cache;
#[path = "processes/outages.rs"]
mod outages;
mod searching;
#[path = "processes/telling.rs"]
mod telling;

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use verdigris_proto::search::pod_service_client::PodServiceClient;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_proto::search::{DemoteRequest, GetPodRequest, SearchRequest};
use verdigris_tests::process::{Folder, Server};
use verdigris_tests::servers;

const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: &str =
    r#"{"embedder":{"provider":"hash","dimension":64},"rollout":{"promotion":"automatic","bake_seconds":0}}"#;
const NEXT: &str =
    r#"{"embedder":{"provider":"hash","dimension":96},"rollout":{"promotion":"automatic","bake_seconds":0}}"#;

/// A role, with a folder of its own.
struct Role {
    name: &'static str,
    folder: Folder,
    environment: Vec<(&'static str, String)>,
    server: Option<Server>,
}

impl Role {
    fn start(name: &'static str, environment: Vec<(&'static str, String)>) -> Self {
        let mut role = Self {
            name,
            folder: Folder::new(),
            environment,
            server: None,
        };
        role.begin();
        role
    }

    fn begin(&mut self) {
        // Whoever asked it before finds it where it was.
        let [grpc, admin] = match &self.server {
            Some(server) => [Some(&server.url), server.admin.as_ref()].map(|url| {
                url.map_or_else(
                    || "127.0.0.1:0".to_owned(),
                    |url| url.trim_start_matches("http://").to_owned(),
                )
            }),
            None => ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()],
        };
        let mut command = self.command();
        command.args([self.name, "--http", "127.0.0.1:0", "--admin", &admin]);
        if self.name != "controller" {
            command.args(["--grpc", &grpc]);
        }
        let started = self.folder.try_up_by(&mut command);
        self.server = Some(started.unwrap_or_else(|said| panic!("{} ended: {said}", self.name)));
    }

    fn command(&self) -> Command {
        let mut command = self.folder.command();
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn kill_and_begin(&mut self) {
        self.server.as_mut().unwrap().kill();
        self.begin();
    }

    fn admin(&self) -> String {
        self.server().admin.clone().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Value {
        self.folder.run(arguments).with_code(0)
    }

    /// The lineage that answers, once it has this document.
    fn finds(&self, id: &str) -> String {
        let began = Instant::now();
        loop {
            let answer = self.folder.run(&["search", id, "--mode", "words", "--top-k", "3"]);
            let found = answer.json["hits"]
                .as_array()
                .is_some_and(|hits| hits.iter().any(|hit| hit["id"] == id));
            if found {
                return answer.json["lineage"].as_str().unwrap().to_owned();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{} never answered with {id}: {}\n{}",
                self.name,
                answer.text,
                self.folder.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The four processes.
struct Roles {
    indexer: Role,
    searches: [Role; 2],
    controller: Role,
    _shared: Option<Folder>,
}

impl Roles {
    /// Over a folder.
    fn start() -> Self {
        let shared = Folder::new();
        let url = format!("file:{}", shared.data().join("shared").display());
        let roles = Self::over(&[("VERDIGRIS_STORE_URL", url)]);
        Self {
            _shared: Some(shared),
            ..roles
        }
    }

    /// Over what they are told of by their environment.
    fn over(environment: &[(&'static str, String)]) -> Self {
        let indexer = Role::start("indexer", environment.to_vec());
        let settings = indexer.folder.file("settings.json", SETTINGS);
        let _made = indexer.run(&["collections", "create", "products", "--settings", &settings]);
        let searches = [(); 2].map(|()| Role::start("search", environment.to_vec()));
        let asked = ("VERDIGRIS_CONTROLLER_SEARCH", searches[0].admin());
        let controller = Role::start("controller", [environment, &[asked]].concat());
        Self {
            indexer,
            searches,
            controller,
            _shared: None,
        }
    }

    /// Sends documents `first..end`, and waits until they are in a release.
    fn ingest(&self, first: u32, end: u32) {
        let lines = (first..end).fold(String::new(), |mut lines, n| {
            writeln!(
                lines,
                "{{\"id\":\"item-{n}\",\"title\":\"thing item-{n} of kind {}\"}}",
                n % 7
            )
            .unwrap();
            lines
        });
        let file = self.indexer.folder.file("catalog.jsonl", lines);
        let _told = self.indexer.run(&["ingest", &file, "--wait"]);
    }

    /// Lineages that answer, once both processes have this document.
    fn find(&self, n: u32) -> [String; 2] {
        [0, 1].map(|process| self.searches[process].finds(&format!("item-{n}")))
    }
}

#[test]
fn four_processes_over_one_store_converge_whichever_of_them_is_killed() {
    converge(Roles::start());
}

// The same over real servers: releases come from S3 into the cache of each process, events from JetStream.
#[test]
fn four_processes_over_s3_and_nats_converge_whichever_of_them_is_killed() {
    let test = "four_processes_over_s3_and_nats_converge_whichever_of_them_is_killed";
    let (Some(s3), Some(nats)) = (servers::Server::s3(test), servers::Server::nats(test)) else {
        return;
    };
    converge(Roles::over(&[s3.environment(), nats.environment()].concat()));
}

fn converge(mut roles: Roles) {
    roles.ingest(0, 300);
    let [first, second] = roles.find(299);
    assert_eq!(first, second);

    roles.indexer.kill_and_begin();
    roles.ingest(300, 320);
    roles.find(319);

    roles.searches[0].kill_and_begin();
    roles.ingest(320, 340);
    roles.find(339);

    // A rollout, whose owner is killed in the midst of it.
    let next = roles.indexer.folder.file("next.json", NEXT);
    let _told = roles.indexer.run(&["rebuild", "--settings", &next]);
    roles.controller.kill_and_begin();
    let began = Instant::now();
    while roles.find(339).contains(&first) {
        assert!(
            began.elapsed() < PATIENCE,
            "the rebuilt lineage was never promoted: {}\n{}",
            roles.controller.run(&["rollout", "status"]),
            roles.controller.folder.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    roles.ingest(340, 350);
    let [one, other] = roles.find(349);
    assert_eq!(one, other);
    assert_ne!(one, first);
    for role in [
        &roles.indexer,
        &roles.searches[0],
        &roles.searches[1],
        &roles.controller,
    ] {
        assert!(
            role.server().metric("verdigris_rpc_connections").is_some(),
            "{}",
            role.name
        );
    }
}

// Goal: a process that follows one lineage answers from it whatever the pointer says, and is ready when it is warm.
#[test]
fn a_search_process_of_one_lineage_stays_with_it() {
    let roles = Roles::start();
    roles.ingest(0, 300);
    let [old, _] = roles.find(299);
    // The owner has looked by then, and is one.
    let _told = roles
        .controller
        .run(&["rollout", "status", "--wait", "--timeout", "60"]);
    let _told = roles.controller.run(&["rollout", "hold", "--reason", "a test"]);
    let next = roles.indexer.folder.file("next.json", NEXT);
    let _told = roles.indexer.run(&["rebuild", "--settings", &next]);
    let status = roles
        .controller
        .run(&["rollout", "status", "--wait", "--timeout", "60"]);
    let new = status["other"]["lineage"]
        .as_str()
        .unwrap_or_else(|| panic!("{status}"));
    let of = |lineage: &str| {
        let environment = vec![
            roles.indexer.environment[0].clone(),
            ("VERDIGRIS_SEARCH_LINEAGE", lineage.to_owned()),
        ];
        Role::start("search", environment)
    };
    let (blue, green) = (of(&old), of(new));
    assert_eq!(blue.finds("item-7"), old);
    assert_eq!(green.finds("item-7"), new);
    let _told = roles.controller.run(&["rollout", "resume"]);
    let began = Instant::now();
    while roles.find(7)[0] != new {
        assert!(
            began.elapsed() < PATIENCE,
            "never promoted: {}",
            roles.controller.folder.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    roles.ingest(300, 310);
    assert_eq!(green.finds("item-309"), new);
    assert_eq!(blue.finds("item-7"), old, "the way back answers with its own lineage");
}

async fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

/// Searches one after the other until told to stop; how many were answered. None may fail.
async fn searching(channel: Channel, stop: Arc<AtomicBool>) -> u64 {
    let mut service = SearchServiceClient::new(channel);
    let mut answered = 0;
    while !stop.load(Ordering::SeqCst) {
        let request = SearchRequest {
            collection: "products".to_owned(),
            text: "thing of kind 3".to_owned(),
            ..SearchRequest::default()
        };
        let answer = match service.search(request).await {
            // A call whose connection is told to go at that moment never leaves its client. Clients of gRPC make it again
            // by themselves, tonic's does not; that none did leave is seen by what the server has answered.
            Err(status) if status.metadata().get("grpc-status-details-bin").is_none() => continue,
            answer => answer.unwrap_or_else(|status| panic!("I-6: a request failed: {status}")),
        };
        assert_eq!(answer.into_inner().hits.len(), 10);
        answered += 1;
    }
    answered
}

// Goal: what the controller does to a slot that traffic has left: every connection goes, and no search fails for it.
#[test]
fn a_demoted_search_process_sheds_its_connections_and_fails_no_search() {
    const CLIENTS: u64 = 6;
    let roles = Roles::start();
    roles.ingest(0, 100);
    roles.find(99);
    let process = &roles.searches[0];
    let (grpc, admin) = (process.server().url.clone(), process.admin());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut pods = PodServiceClient::new(channel(&admin).await);
        let before = pods.get_pod(GetPodRequest::default()).await.unwrap().into_inner();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(tokio::spawn(searching(channel(&grpc).await, stop.clone())));
        }
        assert!(before.ready && !before.demoted, "{before:?}");
        assert!(
            before.collections.iter().all(|collection| collection.warm),
            "{before:?}"
        );
        let began = Instant::now();
        while pods
            .get_pod(GetPodRequest::default())
            .await
            .unwrap()
            .into_inner()
            .connections
            < CLIENTS
        {
            assert!(began.elapsed() < PATIENCE, "clients are connected and not accepted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let time = Some(Duration::from_secs(60).try_into().unwrap());
        let demote = DemoteRequest { time, share: None };
        let told = pods.demote(demote).await.unwrap().into_inner();
        assert!(told.demoted && told.connections >= CLIENTS, "{told:?}");
        let began = Instant::now();
        loop {
            // By its own connection, which stays: administration is not demoted.
            let pod = pods.get_pod(GetPodRequest::default()).await.unwrap().into_inner();
            if pod.told_to_go >= 2 * CLIENTS {
                assert_eq!(pod.failed, 0);
                assert!(pod.answered > 0);
                break;
            }
            assert!(began.elapsed() < PATIENCE, "connections stayed: {pod:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::SeqCst);
        let mut answered = 0;
        for client in clients {
            answered += client.await.unwrap();
        }
        let after = pods.get_pod(GetPodRequest::default()).await.unwrap().into_inner();
        assert_eq!((after.answered - before.answered, after.failed), (answered, 0));
        assert!(answered > 0);
    });
}
