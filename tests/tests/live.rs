//! Changes, starts and stops as a script sees them: answers and exit codes of the real executable.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use verdigris_tests::process::Folder;

const CATALOG: &str = concat!(
    "{\"id\":\"KT-1/A\",\"title\":\"cordless drill\",\"price\":89}\n",
    "{\"id\":\"KT-2\",\"title\":\"garden hose\",\"price\":20}\n",
    "{\"id\":\"KT-3\",\"title\":\"desk lamp\",\"price\":35}\n",
);

fn event(kind: &str, id: &str, time: &str, data: &str) -> String {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"e\",\"source\":\"test\",\"type\":\"dev.verdigris.document.{kind}.v1\",\
         \"subject\":\"{id}\",\"time\":\"{time}\",\"data\":{data}}}\n"
    )
}

#[test]
fn changes_are_in_the_answers_at_the_position_that_was_told() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let file = folder.file("catalog.jsonl", CATALOG);
    let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_eq!((&told["accepted"], &told["applied"]), (&3.into(), &3.into()));

    let told = folder
        .run(&["patch", "KT-1/A", r#"{"price":1.5}"#, "--wait"])
        .with_code(0);
    assert_eq!(told["searchable"], true);
    let held = folder.run(&["get", "KT-1/A"]).with_code(0);
    assert_eq!(held["document"]["price"], 1.5);
    assert_eq!(held["document"]["title"], "cordless drill");

    let added = folder.file("new.jsonl", "{\"id\":\"NEW-9\",\"title\":\"submersible pump\"}\n");
    let told = folder.run(&["ingest", &added]).with_code(0);
    let position = told["position"].as_str().unwrap();
    let found = folder.run(&["search", "submersible", "--mode", "words", "--min-position", position]);
    assert_eq!(found.with_code(0)["hits"][0]["id"], "NEW-9");

    let _told = folder.run(&["delete", "NEW-9", "--wait"]).with_code(0);
    let gone = folder.run(&["get", "NEW-9"]);
    assert_eq!((gone.code, gone.reason()), (1, "DOCUMENT_NOT_FOUND"), "{}", gone.text);
    let found = folder.run(&["search", "submersible", "--mode", "words"]);
    assert_eq!(found.with_code(0)["hits"].as_array().map(Vec::len), Some(0));
}

#[test]
fn what_a_wait_called_searchable_is_in_the_very_next_answer() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    for price in 0..25 {
        let file = folder.file(
            "one.jsonl",
            format!("{{\"id\":\"a\",\"title\":\"drill\",\"price\":{price}}}\n"),
        );
        let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
        let found = folder
            .run(&["search", "drill", "--filter", &format!("price = {price}")])
            .with_code(0);
        assert_eq!(found["hits"][0]["document"]["price"], price, "{found}");
    }
}

#[test]
fn stale_and_repeated_events_change_nothing() {
    let folder = Folder::new();
    let _server = folder.up();
    folder.create_collection();
    let newer = event("upsert", "a", "2024-05-02T00:00:00Z", r#"{"title":"newer"}"#);
    let older = event("upsert", "a", "2024-05-01T00:00:00Z", r#"{"title":"older"}"#);
    let file = folder.file("newer.jsonl", &newer);
    let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    assert_eq!(told["applied"], 1);
    for lines in [&newer, &older] {
        let file = folder.file("again.jsonl", lines);
        let told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
        assert_eq!(told["applied"], 0, "{told}");
        let held = folder.run(&["get", "a"]).with_code(0);
        assert_eq!(held["document"]["title"], "newer");
    }
}

#[test]
fn a_second_server_and_a_taken_port_are_refused_with_their_reason() {
    let folder = Folder::new();
    let mut server = folder.up();
    let refused = folder.try_up("127.0.0.1:0").unwrap_err();
    assert!(refused.contains("is in use by process"), "{refused}");
    assert_eq!(server.stop().code(), Some(0));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = folder.try_up(&address).unwrap_err();
    assert!(refused.contains(&address) && refused.contains("in use"), "{refused}");
}

#[test]
fn a_socket_answers_its_user_survives_a_kill_and_goes_with_the_server() {
    let folder = Folder::new();
    let socket = folder.data().with_file_name("search.sock");
    let url = format!("unix:{}", socket.display());
    let up = || {
        let mut up = folder.command();
        up.args(["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--socket"]);
        up.arg(&socket);
        up
    };
    let mut server = folder.try_up_by(&mut up()).unwrap();
    folder.create_collection();
    let file = folder.file("catalog.jsonl", CATALOG);
    let told = folder.run(&["--server", &url, "ingest", &file, "--wait"]).with_code(0);
    assert_eq!(told["accepted"], 3);
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may open it");
    let other = Folder::new();
    let taken = other
        .command()
        .arg("up")
        .arg("--socket")
        .arg(&socket)
        .args(["--grpc", "127.0.0.1:0"])
        .output();
    let said = String::from_utf8(taken.unwrap().stderr).unwrap();
    assert!(
        said.contains("ADDRESS_UNAVAILABLE") && said.contains("another process answers there"),
        "{said}"
    );
    server.kill();
    let gone = folder.run(&["--server", &url, "search", "drill", "--mode", "words"]);
    assert_eq!((gone.code, gone.reason()), (1, "SERVER_UNREACHABLE"), "{}", gone.text);
    let mut server = folder.try_up_by(&mut up()).unwrap();
    let found = folder
        .run(&["--server", &url, "search", "drill", "--mode", "words"])
        .with_code(0);
    assert_eq!(found["hits"][0]["id"], "KT-1/A");
    assert_eq!(server.stop().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn commands_work_with_a_server_and_without_one() {
    let folder = Folder::new();
    folder.create_collection();
    let file = folder.file("catalog.jsonl", CATALOG);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    let held = folder.run(&["get", "KT-2"]).with_code(0);
    let mut server = folder.up();
    let served = folder.run(&["get", "KT-2"]).with_code(0);
    assert_eq!(held["document"], served["document"]);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(folder.run(&["get", "KT-2"]).with_code(0)["document"], held["document"]);
}

#[test]
fn a_clean_end_leaves_the_log_of_events_in_one_file() {
    let folder = Folder::new();
    folder.create_collection();
    let mut server = folder.up();
    let file = folder.file("catalog.jsonl", CATALOG);
    let _told = folder.run(&["ingest", &file, "--wait"]).with_code(0);
    let beside = folder.data().join("bus.sqlite-wal");
    assert!(beside.exists(), "SQLite's own log is in use while the server runs");
    assert_eq!(server.stop().code(), Some(0));
    assert!(!beside.exists(), "the next start has to read SQLite's own log again");
}

// Reflection is made when it is first asked for: no start tells whether it takes our descriptors.
#[tokio::test]
async fn reflection_names_every_service() {
    let folder = Folder::new();
    let server = folder.up();
    let channel = Endpoint::from_shared(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await;
    let answer = format!("{:?}", answers.unwrap().into_inner().next().await.unwrap().unwrap());
    for service in [
        "search.v1.SearchService",
        "ingest.v1.IngestService",
        "admin.v1.AdminService",
        "rollout.v1.RolloutService",
    ] {
        assert!(answer.contains(&format!("verdigris.{service}")), "{service}: {answer}");
    }
}
