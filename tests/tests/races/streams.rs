//! I-15: a log that is not the one that was read stops the indexer with a reason, answers go on, and a full feed repairs
//! the collection.

use std::sync::Arc;

use tonic::Request;
use verdigris_bus::{Bus, NewEvent, Retention, SqliteBus};
use verdigris_proto::admin::ResyncRequest;
use verdigris_proto::admin::admin_service_client::AdminServiceClient;
use verdigris_proto::reason::{Reason, reason_of};
use verdigris_proto::search::GetDocumentRequest;
use verdigris_proto::search::search_service_server::SearchService;

use super::poison::{batch, wait_for};
use super::roles::events::upsert;
use super::roles::listening::{connect, listen};
use super::roles::{Process, Start, World, name, open_bus, settings};

/// Five events, each in a release of its own; the third is the last of the copy that is made of the log.
fn world() -> World {
    let world = World::new();
    world.create(&settings());
    let process = world.process("a");
    for n in 1..=5 {
        process.publish(vec![upsert(&format!("d{n}"), "thing", n)]);
        if n == 3 {
            for ending in ["", "-wal"] {
                let file = |stem: &str| world.folder.path().join(format!("{stem}.sqlite{ending}"));
                std::fs::copy(file("bus"), file("copy")).expect("the folder takes a file");
            }
        }
    }
    process.stop();
    world
}

fn copy(world: &World) -> SqliteBus {
    open_bus(world.folder.path().join("copy.sqlite"), world.clock.clone())
}

fn append(world: &World, bus: &SqliteBus, id: &str) {
    let payload = upsert(id, "another thing", 9);
    let appended = world.block_on(bus.append(&name(), vec![NewEvent { payload }]));
    appended.expect("the bus takes events");
}

/// A process on this log stands still, goes on answering and accepting, and is repaired by a feed.
fn check(world: &World, bus: SqliteBus) {
    let before = world.pointer();
    let bus: Arc<dyn Bus> = Arc::new(bus);
    let process = Process::start(world, Start::new("b").with_bus(bus));
    assert_eq!(process.wait_for_standstill().reason, Reason::StreamMismatch);
    assert_eq!(batch(&process, "d5", ""), Some(5), "answers go on");
    let position = process.send(vec![upsert("late", "thing", 6)]);
    let told = process.searchable(&position).unwrap_err();
    assert_eq!(
        reason_of(&told).as_deref(),
        Some("STREAM_MISMATCH"),
        "a wait ends at once"
    );
    let request = GetDocumentRequest {
        collection: name().to_string(),
        id: "d5".to_owned(),
        min_position: position,
        ..GetDocumentRequest::default()
    };
    let told = process.block_on(process.search.get_document(Request::new(request)));
    assert_eq!(
        reason_of(&told.unwrap_err()).as_deref(),
        Some("STREAM_MISMATCH"),
        "so does a read"
    );
    assert_eq!(world.pointer().generation, before.generation, "nothing is published");
    let last = resync(&process);
    wait_for(&process, &last);
    let batches = ["d1", "d2", "d3", "d4", "d5", "fed"].map(|id| batch(&process, id, &last));
    assert_eq!(
        batches,
        [Some(101), Some(102), None, None, None, Some(104)],
        "as the feed"
    );
    assert_eq!(
        batch(&process, "late", &last),
        Some(6),
        "I-1: what was accepted meanwhile"
    );
    assert!(process.standstill().is_none());
    process.serve(vec![upsert("after", "thing", 7)]);
    assert_eq!(batch(&process, "after", ""), Some(7));
    process.stop();
}

/// A full feed: two of the documents anew, and one that was never there. The position of its last event.
fn resync(process: &Process) -> String {
    let address = listen(process, 8);
    let fed = [("d1", 101), ("d2", 102), ("fed", 104)];
    let documents = fed.map(|(id, batch)| upsert(id, "thing", batch)).to_vec();
    let feed = ResyncRequest {
        collection: name().to_string(),
        documents,
        complete: true,
        ..ResyncRequest::default()
    };
    let answer = process.block_on(async {
        let mut client = AdminServiceClient::new(connect(address).await);
        client.resync(Request::new(tokio_stream::iter([feed]))).await
    });
    let answer = answer.expect("it repairs").into_inner();
    assert_eq!((answer.rejected, answer.deleted), (0, 3));
    answer.last_position
}

#[test]
fn a_log_that_was_made_anew_stops_the_indexer_and_a_feed_repairs_it() {
    let world = world();
    let bus = open_bus(world.folder.path().join("another.sqlite"), world.clock.clone());
    check(&world, bus);
}

#[test]
fn a_log_that_lost_its_end_stops_the_indexer_and_a_feed_repairs_it() {
    let world = world();
    let bus = copy(&world);
    check(&world, bus);
}

#[test]
fn a_log_that_lost_its_end_and_grew_again_stops_the_indexer_and_a_feed_repairs_it() {
    let world = world();
    let bus = copy(&world);
    for id in ["x", "y", "z"] {
        append(&world, &bus, id);
    }
    check(&world, bus);
}

#[test]
fn a_log_that_was_cut_behind_the_checkpoint_stops_the_indexer_and_a_feed_repairs_it() {
    let world = world();
    let bus = open_bus(world.folder.path().join("bus.sqlite"), world.clock.clone());
    for id in ["x", "y", "z"] {
        append(&world, &bus, id);
    }
    let retention = Retention {
        age_ns: 0,
        bytes: 0,
        never_past: 8,
    };
    let now = world.clock.now_ns() + 1_000_000_000;
    assert!(world.block_on(bus.retain(&name(), retention, now)).unwrap() > 0);
    check(&world, bus);
}
