//! The embedded bus: the conformance suite, the file's own dangers, and processes that are killed.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_bus::conformance::{CASES, Fixture};
use verdigris_bus::{Bus, BusError, NewEvent, ReadLimits, Retention, SqliteBus, SqliteOptions};
use verdigris_core::names::CollectionName;

const ALL: ReadLimits = ReadLimits {
    events: u64::MAX,
    bytes: u64::MAX,
};

fn collection() -> CollectionName {
    "products".parse().expect("valid")
}

fn event(bytes: impl Into<Vec<u8>>) -> NewEvent {
    NewEvent {
        payload: Bytes::from(bytes.into()),
    }
}

fn open(path: &Path) -> Result<SqliteBus, BusError> {
    SqliteBus::open(path, SqliteOptions::default(), Arc::new(|| 1))
}

struct SqliteFixture {
    folder: tempfile::TempDir,
    now_ns: Arc<AtomicI64>,
}

#[async_trait]
impl Fixture for SqliteFixture {
    async fn handle(&self) -> Arc<dyn Bus> {
        let now_ns = self.now_ns.clone();
        let clock = Arc::new(move || now_ns.load(Ordering::SeqCst));
        let path = self.folder.path().join("bus.sqlite");
        Arc::new(SqliteBus::open(&path, SqliteOptions::default(), clock).expect("opened"))
    }

    fn set_clock(&self, now_ns: i64) -> bool {
        self.now_ns.store(now_ns, Ordering::SeqCst);
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_bus_passes_the_conformance_suite() {
    for (name, case) in CASES {
        eprintln!("conformance: {name}");
        let folder = tempfile::tempdir().expect("temporary folder");
        case(&SqliteFixture {
            folder,
            now_ns: Arc::default(),
        })
        .await;
    }
}

// === The file ===

#[tokio::test]
async fn a_file_that_is_no_bus_is_refused_by_name_and_left_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");

    std::fs::write(
        &path,
        b"not a database at all, but long enough to be looked at ".repeat(30),
    )
    .expect("written");
    let error = open(&path).err().expect("no database");
    assert!(matches!(error, BusError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("bus.sqlite is damaged"), "{error}");

    std::fs::remove_file(&path).expect("removed");
    let foreign = rusqlite::Connection::open(&path).expect("opened");
    foreign
        .execute_batch("CREATE TABLE customers (name TEXT); INSERT INTO customers VALUES ('Ada')")
        .expect("written");
    let error = open(&path).err().expect("another database");
    assert!(matches!(error, BusError::Foreign { .. }), "{error}");
    let names: i64 = foreign
        .query_row("SELECT count(*) FROM customers", [], |row| row.get(0))
        .expect("still there");
    assert_eq!(names, 1);

    drop(foreign);
    std::fs::remove_file(&path).expect("removed");
    drop(open(&path).expect("made"));
    let later = rusqlite::Connection::open(&path).expect("opened");
    later.pragma_update(None, "user_version", 2).expect("set");
    let error = open(&path).err().expect("a later format");
    assert_eq!(
        error.to_string(),
        format!(
            "the bus at {} has format version 2; this software reads version 1",
            path.display()
        )
    );
    later.pragma_update(None, "user_version", 1).expect("set");
    later.execute_batch("DROP TABLE events").expect("dropped");
    let error = open(&path).err().expect("half a bus");
    assert!(matches!(error, BusError::Inconsistent { .. }), "{error}");

    let error = open(&folder.path().join("missing/bus.sqlite"))
        .err()
        .expect("no folder");
    assert!(matches!(error, BusError::Open { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_an_error_and_not_fewer_events() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let bus = open(&path).expect("made");
    for _ in 0..50 {
        bus.append(&collection(), vec![event(vec![b'x'; 10_000]); 4])
            .await
            .expect("appended");
    }
    bus.close();
    let length = std::fs::metadata(&path).expect("there").len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(length / 2))
        .expect("cut");
    let read = match open(&path) {
        Ok(bus) => bus.read(&collection(), 0, ALL).await.map(|events| events.len()),
        Err(error) => Err(error),
    };
    assert!(matches!(read, Err(BusError::Damaged { .. })), "{read:?}");
}

#[tokio::test]
async fn a_missing_event_is_an_error_and_not_a_gap() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let bus = open(&path).expect("made");
    bus.append(&collection(), vec![event("x"); 9]).await.expect("appended");
    let two = ReadLimits { events: 2, ..ALL };
    for sequence in [5, 9] {
        let thief = rusqlite::Connection::open(&path).expect("opened");
        thief
            .execute("DELETE FROM events WHERE sequence = ?1", [sequence])
            .expect("deleted");
        let error = bus.read(&collection(), sequence - 2, two).await.expect_err("a gap");
        assert!(matches!(error, BusError::Inconsistent { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_full_file_refuses_whole_appends_and_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let options = SqliteOptions {
        bytes_max: Some(400_000),
    };
    let bus = SqliteBus::open(&path, options, Arc::new(|| 1)).expect("made");
    let mut accepted = 0;
    let error = loop {
        match bus.append(&collection(), vec![event(vec![b'x'; 3_000]); 10]).await {
            Ok(appended) => accepted = appended.last,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BusError::Full { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!("no room left for the bus at {}; nothing was accepted", path.display())
    );
    assert!(accepted >= 50 && accepted % 10 == 0, "{accepted}");
    assert_eq!(
        bus.read(&collection(), 0, ALL).await.expect("read").len() as u64,
        accepted,
        "nothing half accepted"
    );
    let room = Retention {
        age_ns: i64::MAX,
        bytes: 60_000,
        never_past: u64::MAX,
    };
    assert!(bus.retain(&collection(), room, 1).await.expect("retained") > 0);
    let appended = bus
        .append(&collection(), vec![event("x")])
        .await
        .expect("there is room again");
    assert_eq!(appended.first, accepted + 1);
}

#[tokio::test]
async fn a_clock_at_the_end_of_time_refuses_instead_of_repeating_itself() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let bus = SqliteBus::open(&path, SqliteOptions::default(), Arc::new(|| i64::MAX - 1)).expect("made");
    assert_eq!(
        bus.append(&collection(), vec![event("x"); 2]).await.expect("fits").last,
        2
    );
    let error = bus
        .append(&collection(), vec![event("x")])
        .await
        .expect_err("no time left");
    assert!(matches!(error, BusError::ClockExhausted(_)), "{error}");
    let other: CollectionName = "other".parse().expect("valid");
    assert!(
        bus.append(&other, vec![event("x")]).await.is_ok(),
        "others are not in its way"
    );
}

#[tokio::test]
async fn closing_writes_what_waits_and_forgotten_events_leave_the_file() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let bus = Arc::new(open(&path).expect("made"));
    for _ in 0..3 {
        bus.append(&collection(), vec![event("x"); 5_000])
            .await
            .expect("appended");
    }
    bus.forget(&collection()).await.expect("forgotten");
    drop(bus);
    // Whatever the first process got done: the next one ends it.
    let bus = open(&path).expect("opened");
    let look = rusqlite::Connection::open(&path).expect("opened");
    let left = || {
        look.query_row(
            "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM streams)",
            [],
            |row| row.get::<_, i64>(0),
        )
    };
    while left().expect("counted") > 0 {
        tokio::task::yield_now().await;
    }
    bus.close();
}

/// Goal: an fsync is shared. Method: while another process holds the write lock, appends queue up; then the commits in the
/// write-ahead log are counted, which a frame with the file's size in it ends.
#[tokio::test]
async fn many_appends_share_a_commit() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let bus = open(&path).expect("made");
    bus.open(&collection()).await.expect("opened");
    let commits = || {
        let log = std::fs::read(folder.path().join("bus.sqlite-wal")).expect("there");
        log[32..]
            .chunks(24 + 4096)
            .filter(|frame| frame[4..8] != [0; 4])
            .count()
    };
    let before = commits();
    let blocker = rusqlite::Connection::open(&path).expect("opened");
    blocker.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let here = collection();
    let mut appends: Vec<_> = (0..100).map(|_| bus.append(&here, vec![event("x")])).collect();
    for append in &mut appends {
        let first = std::future::poll_fn(|task| Poll::Ready(append.as_mut().poll(task))).await;
        assert!(first.is_pending(), "nothing is accepted while the file is locked");
        // Gives back the budget of the runtime, without which later appends would not come as far as the queue.
        tokio::task::yield_now().await;
    }
    blocker.execute_batch("ROLLBACK").expect("unlocked");
    for append in appends {
        append.await.expect("appended");
    }
    assert_eq!(bus.state(&here).await.expect("there").last, 100);
    assert!(
        commits() - before <= 2,
        "the one that was blocked, and one for all that came meanwhile"
    );
}

// === Processes ===

const CHILD: &str = "VERDIGRIS_TEST_BUS_CHILD";

/// Not a test of its own: the process that other tests start, and kill. Appends batches and prints what is acknowledged.
#[test]
fn a_child_process_appends_until_it_ends() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let (path, rest) = path.split_once('|').expect("path, name, batches");
    let (name, batches) = rest.split_once('|').expect("name, batches");
    let bus = open(Path::new(path)).expect("opened");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let mut out = std::io::stdout();
    runtime.block_on(async {
        for batch in 0..batches.parse::<u64>().expect("a number") {
            let size = batch % 5 + 1;
            let events = (0..size).map(|n| event(format!("{name} {batch} {n} {}", "x".repeat(batch as usize % 3_000))));
            let appended = bus.append(&collection(), events.collect()).await.expect("appended");
            writeln!(out, "ack {batch} {} {}", appended.first, appended.last).expect("the parent listens");
            out.flush().expect("the parent listens");
        }
    });
}

fn child(path: &Path, name: &str, batches: u64) -> (Child, impl Iterator<Item = (u64, u64, u64)> + use<>) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "a_child_process_appends_until_it_ends",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, format!("{}|{name}|{batches}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let acks = lines.map_while(Result::ok).filter_map(|line| {
        let numbers: Vec<u64> = line
            .split_once("ack ")?
            .1
            .split(' ')
            .filter_map(|n| n.parse().ok())
            .collect();
        Some((*numbers.first()?, *numbers.get(1)?, *numbers.get(2)?))
    });
    (child, acks)
}

/// Goal: what was acknowledged survives kill -9, in order. Method: a child appends and prints each acknowledgement; it is
/// killed after a different number of them each round, the file is opened anew and compared with what was printed.
#[tokio::test]
async fn every_acknowledged_event_is_there_after_kill_9() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path: PathBuf = folder.path().join("bus.sqlite");
    let mut acknowledged: Vec<(String, u64, u64, u64)> = Vec::new();
    for round in 0..12usize {
        let name = format!("round{round}");
        let (mut process, mut acks) = child(&path, &name, u64::MAX);
        for _ in 0..round * round + 1 {
            let (batch, first, last) = acks.next().expect("the child appends until it is killed");
            acknowledged.push((name.clone(), batch, first, last));
        }
        process.kill().expect("killed");
        process.wait().expect("ended");
        // What it said between our last look and the kill counts too.
        acknowledged.extend(acks.map(|(batch, first, last)| (name.clone(), batch, first, last)));

        let bus = open(&path).expect("opened after the kill");
        let events = bus.read(&collection(), 0, ALL).await.expect("read");
        assert!(
            events
                .iter()
                .zip(1..)
                .all(|(event, sequence)| event.sequence == sequence),
            "no gaps"
        );
        assert!(
            events.is_sorted_by(|a, b| a.accepted_at_ns < b.accepted_at_ns),
            "accept times increase"
        );
        assert_eq!(bus.state(&collection()).await.expect("there").last, events.len() as u64);
        for (name, batch, first, last) in &acknowledged {
            assert_eq!(last - first, batch % 5, "a whole batch");
            for (n, event) in events[*first as usize - 1..*last as usize].iter().enumerate() {
                let begin = format!("{name} {batch} {n} ");
                assert!(
                    event.payload.starts_with(begin.as_bytes()),
                    "event {} is {begin}",
                    event.sequence
                );
            }
        }
    }
    assert!(acknowledged.len() > 300);
}

#[tokio::test]
async fn two_processes_and_this_one_append_to_one_file() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("bus.sqlite");
    let bus = open(&path).expect("made");
    let (mut one, acks_one) = child(&path, "one", 150);
    let (mut two, acks_two) = child(&path, "two", 150);
    let mut places = Vec::new();
    for _ in 0..150 {
        let appended = bus
            .append(&collection(), vec![event("here"); 2])
            .await
            .expect("appended");
        places.push((appended.first, appended.last));
    }
    let theirs: Vec<_> = acks_one.chain(acks_two).map(|(_, first, last)| (first, last)).collect();
    assert_eq!(theirs.len(), 300);
    assert!(one.wait().expect("ended").success() && two.wait().expect("ended").success());
    places.extend(theirs);
    places.sort_unstable();
    let end = places.iter().fold(0, |end, (first, last)| {
        assert_eq!(*first, end + 1, "places follow each other without gap or overlap");
        *last
    });
    let events = bus.read(&collection(), 0, ALL).await.expect("read");
    assert_eq!(events.len() as u64, end);
    assert!(events.is_sorted_by(|a, b| a.accepted_at_ns < b.accepted_at_ns));
}
