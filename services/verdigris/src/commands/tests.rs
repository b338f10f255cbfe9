//! Commands against a server that answers as each test says: what is sent, what is printed, how the process ends.

mod previews;
mod server;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::Status;
use verdigris_proto::admin::DeadLetter;
use verdigris_proto::ingest::{GetProgressRequest, GetProgressResponse};
use verdigris_proto::reason::Reason;
use verdigris_proto::search::{GetDocumentResponse, Hit, ReleaseInfo, SearchResponse};

use self::server::{Script, scripted};
use super::{CommandError, needs_server, run};
use crate::arguments::{Arguments, Command};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::Format;
use crate::output::tests::captured;

/// What a command did.
struct Ran {
    exit: Result<Exit, CommandError>,
    json: Value,
}

/// Runs a command line with `--json` in a folder of its own.
async fn ran(client: &Client, folder: &TempDir, line: &[&str]) -> Ran {
    let data = folder.path().join("data");
    let data = data.to_str().expect("text");
    let arguments = ["verdigris", "--json", "--data", data]
        .into_iter()
        .chain(line.iter().copied());
    let arguments = Arguments::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));
    assert!(needs_server(&arguments.command));
    let (output, answers, _) = captured(Format::Json);
    let exit = run(&arguments.command, &arguments.global, client, &output).await;
    let printed = answers.text();
    assert!(printed.lines().count() <= 1, "one JSON object: {printed}");
    Ran {
        exit,
        json: serde_json::from_str(&printed).unwrap_or_default(),
    }
}

fn file(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn answers<T>(answers: impl IntoIterator<Item = T>) -> Mutex<VecDeque<T>> {
    Mutex::new(answers.into_iter().collect())
}

fn searchable() -> GetProgressResponse {
    GetProgressResponse {
        searchable: true,
        generation: 7,
        applied: 2,
        unchanged: 1,
        ..GetProgressResponse::default()
    }
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{{\"id\":\"{n}\"}}\n")).collect()
}

#[tokio::test]
async fn events_arrive_once_each_and_in_the_order_of_the_file_though_the_server_was_busy() {
    let busy = Reason::Overloaded.status_with_retry("busy", Duration::from_millis(1));
    let ok = || Status::ok("");
    let fails = answers([busy.clone(), ok(), ok(), busy.clone(), busy]);
    let (client, script) = scripted(Script {
        ingest_fails: fails,
        ..Script::default()
    })
    .await;
    let folder = folder();
    let ran = ran(
        &client,
        &folder,
        &["ingest", &file(&folder, "feed.jsonl", lines(2_100))],
    )
    .await;
    assert_eq!(ran.exit.expect("accepted"), Exit::Done);
    assert_eq!(
        (&ran.json["accepted"], &ran.json["position"]),
        (&json!(2_100), &json!("0000abcd-2100"))
    );
    assert_eq!(ran.json["applied"], Value::Null, "nobody waited");
    let taken = script.taken.lock().expect("whole");
    assert!(
        taken
            .iter()
            .zip(lines(2_100).lines())
            .all(|(taken, sent)| taken == sent)
    );
}

#[tokio::test]
async fn refused_events_are_kept_with_the_line_they_came_from() {
    let script = Script {
        refuses: Some("bad"),
        progress: answers([Ok(searchable())]),
        ..Script::default()
    };
    let (client, _) = scripted(script).await;
    let folder = folder();
    let feed = file(
        &folder,
        "feed.jsonl",
        "{\"id\":\"a\"}\n\n[{\"id\":\"b\"},{\"bad\":1}]\nnot \u{fffd}\n[{]\n",
    );
    let ran = ran(&client, &folder, &["ingest", &feed, "--wait"]).await;
    assert_eq!(ran.exit.expect("accepted"), Exit::Refused);
    assert_eq!((&ran.json["accepted"], &ran.json["rejected"]), (&json!(3), &json!(2)));
    let rejected = PathBuf::from(ran.json["rejected_file"].as_str().expect("a path"));
    assert!(rejected.starts_with(folder.path().join("data/rejected")));
    let text = fs::read_to_string(rejected).expect("there");
    let mut kept: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    kept.sort_by_key(|record| record["line"].as_u64());
    let expect = json!({"file": feed, "line": 3, "reason": "MISSING_ID", "message": "no id", "text": "{\"bad\":1}"});
    assert_eq!(kept[0], expect);
    assert_eq!(
        (&kept[1]["line"], &kept[1]["reason"]),
        (&json!(5), &json!("INVALID_JSON"))
    );
}

#[tokio::test]
async fn waiting_goes_on_until_the_events_are_searchable() {
    let not_yet = Reason::PositionNotReached.status("not yet");
    let half = GetProgressResponse {
        embedding_done: 1,
        embedding_total: 2,
        ..GetProgressResponse::default()
    };
    let progress = answers([
        Err(not_yet),
        Ok(half.clone()),
        Err(Status::unavailable("gone")),
        Ok(half),
        Ok(searchable()),
    ]);
    let (client, script) = scripted(Script {
        progress,
        ..Script::default()
    })
    .await;
    let folder = folder();
    let ran = ran(
        &client,
        &folder,
        &["ingest", &file(&folder, "feed.jsonl", lines(1_300)), "--wait"],
    )
    .await;
    assert_eq!(ran.exit.expect("accepted"), Exit::Done);
    let counts = ["applied", "unchanged", "stale", "set_aside", "generation"].map(|key| ran.json[key].as_u64());
    assert_eq!(counts, [2, 1, 0, 0, 7].map(Some));
    assert_eq!(ran.json["searchable"], json!(true));
    let asked = script.asked.lock().expect("whole");
    let whole = |asked: &GetProgressRequest| (asked.from_position.clone(), asked.to_position.clone());
    let expect = ("0000abcd-1".to_owned(), "0000abcd-1300".to_owned());
    assert!(asked.iter().all(|asked| whole(asked) == expect), "{asked:?}");
}

#[tokio::test]
async fn events_that_cannot_become_searchable_are_accepted_all_the_same_and_the_reason_is_told() {
    let held = Reason::PublishingHeld.status("held by a person");
    let (client, _) = scripted(Script {
        progress: answers([Err(held)]),
        ..Script::default()
    })
    .await;
    let folder = folder();
    let feed = file(&folder, "feed.jsonl", lines(3));
    let held = ran(&client, &folder, &["ingest", &feed, "--wait"]).await;
    assert_eq!(held.exit.expect("accepted"), Exit::NotSearchable);
    assert_eq!(
        (&held.json["accepted"], &held.json["reason"]),
        (&json!(3), &json!("PUBLISHING_HELD"))
    );

    let (client, _) = scripted(Script::default()).await;
    let late = ran(&client, &folder, &["ingest", &feed, "--wait", "--timeout", "0"]).await;
    assert_eq!(late.exit.expect("accepted"), Exit::NotSearchable);
    assert_eq!(
        (&late.json["searchable"], &late.json["reason"]),
        (&json!(false), &json!("POSITION_NOT_REACHED"))
    );
}

#[tokio::test]
async fn events_that_were_set_aside_show_in_the_exit() {
    let progress = GetProgressResponse {
        set_aside: 1,
        ..searchable()
    };
    let (client, _) = scripted(Script {
        progress: answers([Ok(progress)]),
        ..Script::default()
    })
    .await;
    let folder = folder();
    let ran = ran(
        &client,
        &folder,
        &["ingest", &file(&folder, "feed.jsonl", lines(1)), "--wait"],
    )
    .await;
    assert_eq!(ran.exit.expect("accepted"), Exit::Refused);
}

#[tokio::test]
async fn an_error_half_way_says_what_was_accepted_before() {
    let fails = answers([Status::ok(""), Reason::DiskFull.status("no room")]);
    let (client, _) = scripted(Script {
        ingest_fails: fails,
        ..Script::default()
    })
    .await;
    let folder = folder();
    let ran = ran(&client, &folder, &["ingest", &file(&folder, "feed.jsonl", lines(900))]).await;
    let error = ran.exit.expect_err("the disk is full");
    assert_eq!((error.reason().as_str(), error.exit()), ("DISK_FULL", Exit::Error));
    let expect = "no room (500 events were accepted before that, up to position 0000abcd-500)";
    assert_eq!(error.message(), expect);
}

#[tokio::test]
async fn a_mistyped_collection_is_not_made_by_a_change() {
    let unknown = || Err(Reason::CollectionNotFound.status("collection prodcuts does not exist"));
    for line in [&["patch", "a", "{\"price\": 1}"][..], &["delete", "a"]] {
        let (client, script) = scripted(Script {
            progress: answers([unknown()]),
            ..Script::default()
        })
        .await;
        let error = ran(&client, &folder(), line)
            .await
            .exit
            .expect_err("no such collection");
        assert_eq!(error.reason(), "COLLECTION_NOT_FOUND");
        assert!(script.taken.lock().expect("whole").is_empty());
    }
}

#[tokio::test]
async fn changes_are_events_and_a_refused_one_is_told() {
    let (client, script) = scripted(Script {
        refuses: Some("bad"),
        ..Script::default()
    })
    .await;
    let folder = folder();
    let patched = ran(&client, &folder, &["patch", "DW-745/B", "{\"price\": 1.10}"]).await;
    assert_eq!(
        (patched.exit.expect("accepted"), &patched.json["accepted"]),
        (Exit::Done, &json!(1))
    );
    let deleted = ran(&client, &folder, &["delete", "a b", "bad"]).await;
    assert_eq!(deleted.exit.expect("answered"), Exit::Refused);
    assert_eq!(
        deleted.json["rejections"],
        json!([{"id": "bad", "reason": "MISSING_ID", "message": "no id"}])
    );
    let expect = [
        r#"{"id":"DW-745/B","_op":"patch","price": 1.10}"#,
        r#"{"_op":"delete","id":"a b"}"#,
    ];
    assert_eq!(*script.taken.lock().expect("whole"), expect);
}

#[tokio::test]
async fn a_feed_with_a_line_that_cannot_be_sent_is_not_begun() {
    let (ended, mut resyncs) = mpsc::unbounded_channel();
    let (client, script) = scripted(Script {
        resyncs: Mutex::new(Some(ended)),
        ..Script::default()
    })
    .await;
    let folder = folder();
    let mut text = lines(1_200).into_bytes();
    text.extend_from_slice(b"\xff\n");
    let feed = file(&folder, "feed.jsonl", text);
    let error = ran(&client, &folder, &["resync", &feed])
        .await
        .exit
        .expect_err("a bad line");
    assert_eq!(error.reason(), "INVALID_UTF8");
    assert!(error.message().starts_with("line 1201 of "), "{}", error.message());

    let empty = file(&folder, "empty.jsonl", "\n");
    let error = ran(&client, &folder, &["resync", &empty])
        .await
        .exit
        .expect_err("empty");
    assert!(matches!(error, CommandError::EmptyFeed { .. }), "{error}");
    script.resyncs.lock().expect("whole").take();
    assert_eq!(resyncs.recv().await, None, "no call was begun");
}

#[tokio::test]
async fn a_whole_feed_is_sent_and_what_it_lacks_is_counted() {
    let (ended, mut resyncs) = mpsc::unbounded_channel();
    let script = Script {
        resyncs: Mutex::new(Some(ended)),
        progress: answers([Ok(searchable())]),
        ..Script::default()
    };
    let (client, _) = scripted(script).await;
    let folder = folder();
    let feed = file(&folder, "feed.jsonl", lines(1_200));
    let ran = ran(&client, &folder, &["resync", &feed, "--wait"]).await;
    assert_eq!(ran.exit.expect("accepted"), Exit::Done);
    assert_eq!(
        (&ran.json["accepted"], &ran.json["deleted"]),
        (&json!(1_200), &json!(4))
    );
    assert_eq!(resyncs.recv().await, Some(true));
}

#[tokio::test]
async fn a_feed_that_the_server_refuses_early_ends_with_the_servers_reason() {
    let refuses_resync = Some(Reason::CollectionNotFound.status("no such collection"));
    let (client, _) = scripted(Script {
        refuses_resync,
        ..Script::default()
    })
    .await;
    let folder = folder();
    let feed = file(&folder, "feed.jsonl", lines(20_000));
    let error = ran(&client, &folder, &["resync", &feed])
        .await
        .exit
        .expect_err("refused");
    assert_eq!(error.reason(), "COLLECTION_NOT_FOUND");
}

#[tokio::test]
async fn searches_and_documents_are_printed_as_the_contract_says() {
    let release = Some(ReleaseInfo {
        generation: 7,
        lineage: "l".into(),
        ..ReleaseInfo::default()
    });
    let hit = Hit {
        id: "a".into(),
        score: 0.5,
        document_json: "{\"price\":1.10}".into(),
        ..Hit::default()
    };
    let search = SearchResponse {
        hits: vec![hit],
        release: release.clone(),
        ..SearchResponse::default()
    };
    let document = GetDocumentResponse {
        id: "a".into(),
        document_json: "{\"price\":1.10}".into(),
        revision: "2026-05-01T12:00:00Z".into(),
        written_generation: 3,
        release,
    };
    let (client, script) = scripted(Script {
        search,
        document,
        ..Script::default()
    })
    .await;
    let folder = folder();
    let vector = file(&folder, "vector.json", "[0.5, 1]");
    let line = [
        "search",
        "saw",
        "--top-k",
        "3",
        "--mode",
        "words",
        "--filter",
        "price < 2",
        "--vector-file",
        &vector,
    ];
    let found = ran(&client, &folder, &line).await;
    assert_eq!(found.exit.expect("found"), Exit::Done);
    assert_eq!(
        (&found.json["generation"], &found.json["lineage"]),
        (&json!(7), &json!("l"))
    );
    assert_eq!(
        (&found.json["hits"][0]["id"], &found.json["hits"][0]["score"]),
        (&json!("a"), &json!(0.5))
    );
    assert_eq!(found.json["hits"][0]["document"], json!({"price": 1.10}));
    let asked = script.searched.lock().expect("whole")[0].clone();
    assert_eq!(
        (asked.collection.as_str(), asked.text.as_str(), asked.top_k, asked.mode),
        ("products", "saw", 3, 3)
    );
    assert_eq!((asked.vector, asked.filter), (vec![0.5, 1.0], "price < 2".to_owned()));

    let shown = ran(&client, &folder, &["get", "a"]).await;
    let expect = json!({"id": "a", "revision": "2026-05-01T12:00:00Z", "written_generation": 3, "generation": 7,
        "lineage": "l", "document": {"price": 1.10}});
    assert_eq!(shown.json, expect);
}

#[tokio::test]
async fn evaluation_asks_each_judged_query_for_a_hundred_hits() {
    let hits = ["x", "a"]
        .map(|id| Hit {
            id: id.into(),
            ..Hit::default()
        })
        .to_vec();
    let (client, script) = scripted(Script {
        search: SearchResponse {
            hits,
            ..SearchResponse::default()
        },
        ..Script::default()
    })
    .await;
    let folder = folder();
    let queries = file(&folder, "q.tsv", "q1\tdrill\nq2\tsaw\nq3\tunjudged\n");
    let judgements = file(&folder, "j.tsv", "q1\ta\t1\nq2\tb\t1\n");
    let run_file = folder.path().join("run.tsv").to_str().expect("text").to_owned();
    let line = [
        "evaluate",
        "--queries",
        &queries,
        "--judgements",
        &judgements,
        "--run-file",
        &run_file,
    ];
    let measured = ran(&client, &folder, &line).await;
    assert_eq!(measured.exit.expect("measured"), Exit::Done);
    assert_eq!(
        (&measured.json["mrr@10"], &measured.json["queries"]),
        (&json!(0.25), &json!(2))
    );
    let asked = script.searched.lock().expect("whole");
    let asked: Vec<_> = asked
        .iter()
        .map(|request| (request.text.as_str(), request.top_k))
        .collect();
    assert_eq!(asked, [("drill", 100), ("saw", 100)]);
    assert_eq!(
        fs::read_to_string(run_file).expect("kept"),
        "q1\tx\t1\nq1\ta\t2\nq2\tx\t1\nq2\ta\t2\n"
    );
}

#[tokio::test]
async fn all_pages_of_dead_letters_are_listed() {
    let letter = |position: &str| DeadLetter {
        position: position.into(),
        ..DeadLetter::default()
    };
    let letters = vec![vec![letter("p-1"), letter("p-2")], vec![letter("p-3")]];
    let (client, _) = scripted(Script {
        letters,
        ..Script::default()
    })
    .await;
    let listed = ran(&client, &folder(), &["dead-letters", "list"]).await.json;
    let letters = listed["dead_letters"].as_array().expect("a list");
    assert_eq!(
        letters.iter().map(|letter| &letter["position"]).collect::<Vec<_>>(),
        ["p-1", "p-2", "p-3"]
    );
    assert_eq!(listed["more"], json!(false));
}

#[tokio::test]
async fn a_damaged_release_ends_with_an_error() {
    let (client, _) = scripted(Script {
        problems: vec!["vectors.faiss is missing".into()],
        ..Script::default()
    })
    .await;
    let verified = ran(&client, &folder(), &["releases", "verify"]).await;
    assert_eq!(verified.exit.expect("answered"), Exit::Error);
    assert_eq!(verified.json["problems"], json!(["vectors.faiss is missing"]));
    let (client, _) = scripted(Script::default()).await;
    assert_eq!(
        ran(&client, &folder(), &["releases", "verify"])
            .await
            .exit
            .expect("answered"),
        Exit::Done
    );
}

#[test]
fn search_without_a_text_or_a_vector_is_the_role_and_takes_no_option_of_a_search() {
    let parsed = |arguments: &[&str]| Arguments::try_parse_from([&["verdigris", "search"], arguments].concat());
    let is_asked = |arguments: &[&str]| match parsed(arguments).expect("valid").command {
        Command::Search(search) => search.is_asked(),
        other => panic!("{other:?}"),
    };
    assert!(is_asked(&["saw"]) && is_asked(&["--vector-file", "v.json"]));
    assert!(is_asked(&["saw", "--vector-file", "v.json", "--top-k", "3"]));
    assert!(!is_asked(&[]) && !is_asked(&["--grpc", "127.0.0.1:0"]));
    for option in [["--top-k", "3"], ["--filter", "price < 3"], ["--mode", "words"]] {
        assert_eq!(parsed(&option).expect_err("a text was forgotten").exit_code(), 2);
    }
}
