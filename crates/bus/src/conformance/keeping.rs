//! What stays and what goes: retention, forgetting, and checkpoints that are compared with what is left.

use bytes::Bytes;
use verdigris_core::checkpoint::check_checkpoint;
use verdigris_core::manifest::Checkpoint;

use super::{ALL, Fixture, HOUR, all_but, append, name, placed, read, texts};
use crate::{Bus, BusError, BusEvent, Retention, facts};

pub(super) async fn retention(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    for hour in 1..=5 {
        fixture.set_clock(hour * HOUR);
        append(&*bus, "c", &["12345"; 2]).await;
    }
    let events = read(&*bus, "c", 0).await;
    let now = events[9].accepted_at_ns + HOUR;
    let keep = Retention {
        age_ns: i64::MAX,
        bytes: u64::MAX,
        never_past: u64::MAX,
    };
    let younger_than = |event: &BusEvent| Retention {
        age_ns: now - event.accepted_at_ns,
        ..keep
    };
    let check = async |first: usize| {
        let state = bus.state(&c).await.expect("there");
        assert!((events[first - 1].sequence + 1..=events[first].sequence).contains(&state.first_kept));
        assert_eq!(state.last, events[9].sequence);
        assert!(state.bytes.is_none_or(|bytes| bytes == 5 * (10 - first as u64)));
        let (last, next) = (&events[first - 1], &events[first]);
        assert_eq!(read(&*bus, "c", last.sequence).await, events[first..]);
        assert_eq!(
            bus.oldest_after(&c, last.sequence).await.expect("asked"),
            Some(next.accepted_at_ns)
        );
    };
    assert_eq!(bus.retain(&c, keep, now).await.expect("retained"), 0);
    let removed = bus.retain(&c, younger_than(&events[2]), now).await.expect("retained");
    assert_eq!(removed, 2, "those of the first hour");
    check(2).await;
    let counts_bytes = bus.state(&c).await.expect("there").bytes.is_some();
    let small = if counts_bytes {
        Retention { bytes: 24, ..keep }
    } else {
        younger_than(&events[6])
    };
    let removed = bus.retain(&c, small, now).await.expect("retained");
    assert_eq!(removed, 4, "until 24 bytes hold the rest");
    check(6).await;
    assert_eq!(bus.retain(&c, small, now).await.expect("retained"), 0);
    assert_eq!(bus.oldest_after(&c, events[9].sequence).await.expect("asked"), None);
}

pub(super) async fn retention_and_checkpoint(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    let at = placed(&*bus, "c", &["1", "2", "3", "4", "5"]).await;
    let digest = bus.digest_at(&c, at[2]).await.expect("asked");
    assert_eq!(bus.retain(&c, all_but(0), i64::MAX).await.expect("retained"), 0);
    assert_eq!(bus.retain(&c, all_but(at[2]), i64::MAX).await.expect("retained"), 2);
    assert_eq!(texts(&read(&*bus, "c", at[1]).await), ["3", "4", "5"]);
    assert_eq!(
        bus.digest_at(&c, at[2]).await.expect("asked"),
        digest,
        "a checkpoint there can still be compared"
    );
}

pub(super) async fn trimmed(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    let at = placed(&*bus, "c", &["1", "2", "3"]).await;
    bus.retain(&c, all_but(at[2]), i64::MAX).await.expect("retained");
    let kept = bus.state(&c).await.expect("there").first_kept;
    assert!((at[1] + 1..=at[2]).contains(&kept));
    for after in [0, at[0]] {
        let error = bus.read(&c, after, ALL).await.expect_err("events are gone");
        assert!(
            matches!(error, BusError::Trimmed { first_kept, after: at, .. } if at == after && first_kept == kept),
            "{error}"
        );
    }
    assert_eq!(texts(&read(&*bus, "c", at[1]).await), ["3"]);
}

pub(super) async fn empty_after_retention(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    let at = placed(&*bus, "c", &["1", "2"]).await;
    let before = read(&*bus, "c", at[0]).await.remove(0);
    assert_eq!(bus.retain(&c, all_but(u64::MAX), i64::MAX).await.expect("retained"), 2);
    let state = bus.state(&c).await.expect("there");
    assert_eq!((state.first_kept, state.last), (at[1] + 1, at[1]));
    assert_eq!(state.bytes.unwrap_or(0), 0);
    assert!(read(&*bus, "c", at[1]).await.is_empty());
    fixture.set_clock(0);
    let appended = append(&*bus, "c", &["3"]).await;
    assert!(appended.first > at[1]);
    let after = read(&*bus, "c", at[1]).await.remove(0);
    assert!(after.accepted_at_ns > before.accepted_at_ns, "accept times go on too");
}

pub(super) async fn forgetting(fixture: &dyn Fixture) {
    let (bus, other) = (fixture.handle().await, fixture.handle().await);
    let c = name("c");
    let before = append(&*bus, "c", &["old"; 3]).await;
    append(&*other, "c", &["old"; 3]).await;
    append(&*bus, "d", &["kept"]).await;
    bus.forget(&c).await.expect("forgotten");
    bus.forget(&c).await.expect("forgotten twice");
    assert!(matches!(other.state(&c).await, Err(BusError::UnknownCollection(_))));
    assert!(read(&*other, "c", 0).await.is_empty());
    assert_eq!(bus.collections().await.expect("listed"), [name("d")]);
    let after = append(&*other, "c", &["new"]).await;
    assert_ne!(after.stream, before.stream);
    assert_eq!(after.stream, bus.open(&c).await.expect("open"));
    assert_eq!(
        bus.state(&c).await.expect("there").first_kept,
        1,
        "nothing of it is missing"
    );
    assert_eq!(texts(&read(&*bus, "c", 0).await), ["new"]);
    assert_eq!(texts(&read(&*bus, "d", 0).await), ["kept"]);
}

async fn fits(bus: &dyn Bus, checkpoint: &Checkpoint) -> Result<(), &'static str> {
    let facts = facts(bus, &name("c"), checkpoint.sequence).await.expect("asked");
    check_checkpoint(checkpoint, &facts).map_err(|mismatch| mismatch.reason())
}

pub(super) async fn checkpoints(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    let stream = bus.open(&c).await.expect("opened");
    let genesis = Checkpoint {
        stream,
        sequence: 0,
        digest: None,
    };
    assert_eq!(fits(&*bus, &genesis).await, Ok(()));
    let at = placed(&*bus, "c", &["1", "2", "3"]).await;
    assert_eq!(fits(&*bus, &genesis).await, Ok(()));
    let event = read(&*bus, "c", at[0]).await.remove(0);
    let second = Checkpoint {
        stream,
        sequence: at[1],
        digest: Some(event.digest()),
    };
    assert_eq!(
        fits(&*bus, &second).await,
        Ok(()),
        "the digest of what was read is that of what is there"
    );
    let later = BusEvent {
        accepted_at_ns: event.accepted_at_ns + 1,
        ..event.clone()
    };
    let other = BusEvent {
        payload: Bytes::from_static(b"other"),
        ..event.clone()
    };
    for another in [later, other] {
        let digest = Some(another.digest());
        assert_eq!(
            fits(&*bus, &Checkpoint { digest, ..second }).await,
            Err("STREAM_REGROWN")
        );
    }
    let sequence = at[2] + 1;
    assert_eq!(
        fits(&*bus, &Checkpoint { sequence, ..second }).await,
        Err("STREAM_TRUNCATED")
    );
    bus.forget(&c).await.expect("forgotten");
    append(&*bus, "c", &["1", "2", "3"]).await;
    assert_eq!(fits(&*bus, &second).await, Err("STREAM_RECREATED"));
}

pub(super) async fn checkpoint_passed_over(fixture: &dyn Fixture) {
    let bus = fixture.handle().await;
    let c = name("c");
    fixture.set_clock(HOUR);
    let at = placed(&*bus, "c", &["1", "2", "3"]).await;
    let mut first = Checkpoint {
        stream: bus.open(&c).await.expect("opened"),
        sequence: at[0],
        digest: bus.digest_at(&c, at[0]).await.expect("asked"),
    };
    bus.retain(&c, all_but(at[1]), i64::MAX).await.expect("retained");
    assert_eq!(fits(&*bus, &first).await, Ok(()), "all that it has not read is there");
    assert_eq!(texts(&read(&*bus, "c", at[0]).await), ["2", "3"]);
    bus.retain(&c, all_but(at[2]), i64::MAX).await.expect("retained");
    assert_eq!(fits(&*bus, &first).await, Err("STREAM_PASSED_OVER"));
    first.sequence = 0;
    first.digest = None;
    assert_eq!(fits(&*bus, &first).await, Err("STREAM_PASSED_OVER"));
}
