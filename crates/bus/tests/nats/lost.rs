//! A log that is not the one that was read (I-15): made anew, emptied, cut short, filled by others, or trimmed by the
//! broker's own limits.

use async_nats::jetstream::stream;
use verdigris_bus::nats::NatsBus;
use verdigris_bus::{Bus, BusError, Retention, facts};
use verdigris_core::checkpoint::check_checkpoint;
use verdigris_core::manifest::Checkpoint;

use super::server::Server;
use super::{ALL, append, name, texts};

/// A checkpoint at this place, as a release would have it.
async fn checkpoint(bus: &NatsBus, collection: &str, sequence: u64) -> Checkpoint {
    let stream = bus.open(&name(collection)).await.unwrap();
    let digest = bus.digest_at(&name(collection), sequence).await.unwrap();
    Checkpoint {
        stream,
        sequence,
        digest,
    }
}

async fn fits(bus: &NatsBus, collection: &str, checkpoint: &Checkpoint) -> Result<(), &'static str> {
    bus.open(&name(collection)).await.unwrap();
    let facts = facts(bus, &name(collection), checkpoint.sequence).await.unwrap();
    check_checkpoint(checkpoint, &facts).map_err(|mismatch| mismatch.reason())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_made_anew_emptied_or_regrown_is_told() {
    let Some(server) = Server::start("a_log_that_was_made_anew_emptied_or_regrown_is_told", "") else {
        return;
    };
    let outside = server.outside().await;
    let purge = async |subject: &str| {
        let stream = outside.get_stream("VERDIGRIS").await.unwrap();
        stream.purge().filter(subject).await.unwrap();
    };
    for (what, expect) in [
        ("anew", "STREAM_RECREATED"),
        ("purged", "STREAM_TRUNCATED"),
        ("purged and refilled", "STREAM_PURGED"),
        ("purged and refilled by others", "STREAM_TRUNCATED"),
        ("purged with its mark", "STREAM_RECREATED"),
    ] {
        let bus = server.bus().await;
        append(&bus, "c", &["1", "2"]).await;
        let read = bus.read(&name("c"), 0, ALL).await.unwrap();
        let at = read[1].sequence;
        let checkpoint = checkpoint(&bus, "c", at).await;
        assert_eq!(fits(&bus, "c", &checkpoint).await, Ok(()), "{what}");
        append(&bus, "c", &["unread"]).await;
        match what {
            "anew" => {
                outside.delete_stream("VERDIGRIS").await.unwrap();
                let other = server.bus().await;
                append(&other, "c", &["1", "2", "3", "4", "5", "6"]).await;
            }
            "purged with its mark" => {
                outside.get_stream("VERDIGRIS").await.unwrap().purge().await.unwrap();
                append(&bus, "c", &["other"]).await;
            }
            _ => purge("verdigris.events.c").await,
        }
        if what == "purged and refilled" {
            append(&bus, "c", &["other"]).await;
        }
        if what == "purged and refilled by others" {
            append(&bus, "d", &["other"; 9]).await;
        }
        // The reader that was there all the time is told, and reads nothing of it.
        let told = bus.read(&name("c"), at, ALL).await.unwrap_err();
        assert!(matches!(told, BusError::StreamChanged(_)), "{what}: {told}");
        let told = bus.wait(&name("c"), at).await.unwrap_err();
        assert!(matches!(told, BusError::StreamChanged(_)), "{what}: {told}");
        // So is one that begins now.
        assert_eq!(fits(&server.bus().await, "c", &checkpoint).await, Err(expect), "{what}");
        bus.forget(&name("c")).await.unwrap();
    }
}

/// Goal: a tail that a power cut took, and that grew again with other events, is told. Method: the server is stopped and
/// its files are put back to an earlier copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_end_is_told_also_when_others_have_filled_it() {
    let Some(server) = Server::start("a_log_that_lost_its_end_is_told_also_when_others_have_filled_it", "") else {
        return;
    };
    let bus = server.bus().await;
    append(&bus, "c", &["1"]).await;
    server.kill();
    let copy = server.copy();
    server.run();
    let bus_after = server.bus().await;
    let at = append(&bus_after, "c", &["2"]).await;
    let checkpoint = checkpoint(&bus_after, "c", at).await;
    assert!(checkpoint.digest.is_some());
    server.kill();
    server.put_back(&copy);
    server.run();
    let bus = server.bus().await;
    assert_eq!(fits(&bus, "c", &checkpoint).await, Err("STREAM_TRUNCATED"));
    append(&bus, "d", &["in its place", "and on", "and on"]).await;
    assert_eq!(fits(&bus, "c", &checkpoint).await, Err("STREAM_TRUNCATED"));
    append(&bus, "c", &["later"]).await;
    assert_eq!(
        fits(&bus, "c", &checkpoint).await,
        Err("STREAM_REGROWN"),
        "an event of another collection is in its place"
    );
}

/// Goal: the broker's own limits are told from silence. Method: a stream of at most 100 messages, a collection that is
/// quiet while another one fills it, with and without the round of retention that watches over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_lets_go_is_lost_only_where_it_was_not_looked_after() {
    let Some(server) = Server::start("what_the_broker_lets_go_is_lost_only_where_it_was_not_looked_after", "") else {
        return;
    };
    let config = stream::Config {
        name: "VERDIGRIS".to_owned(),
        subjects: vec!["verdigris.>".to_owned()],
        max_messages: 100,
        discard: stream::DiscardPolicy::Old,
        ..stream::Config::default()
    };
    server.outside().await.create_stream(config).await.unwrap();
    let bus = server.bus().await;
    let read_to = append(&bus, "quiet", &["1", "2"]).await;
    let alive = checkpoint(&bus, "quiet", read_to).await;
    let keep = Retention {
        age_ns: i64::MAX,
        bytes: u64::MAX,
        never_past: 0,
    };
    for _ in 0..20 {
        append(&bus, "busy", &["x"; 30]).await;
        bus.retain(&name("quiet"), keep, 0).await.unwrap();
        assert_eq!(fits(&bus, "quiet", &alive).await, Ok(()), "nothing of it was lost");
        assert!(texts(&bus, "quiet", read_to).await.is_empty());
    }
    append(&bus, "quiet", &["3"]).await;
    assert_eq!(texts(&bus, "quiet", read_to).await, ["3"]);
    let error = bus.read(&name("quiet"), 0, ALL).await.unwrap_err();
    assert!(matches!(error, BusError::Trimmed { .. }), "{error}");
    for _ in 0..4 {
        append(&bus, "busy", &["x"; 30]).await;
    }
    let error = bus.read(&name("quiet"), read_to, ALL).await.unwrap_err();
    assert!(
        matches!(error, BusError::Trimmed { .. } | BusError::StreamChanged(_)),
        "{error}"
    );
    assert!(
        fits(&server.bus().await, "quiet", &alive).await.is_err(),
        "3 is gone, unread"
    );
}
