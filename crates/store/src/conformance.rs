//! What every store must do, as a list of cases to run against it. Crashes, full disks and formats are each store's own
//! tests; here is what a reader or a writer may rely on.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;
use crate::object::{Body, Get, Precondition, Store, Tag};

/// A store to run the cases against: empty at first, the same for all handles.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A new handle to the store, as another process would have it.
    async fn handle(&self) -> Arc<dyn Store>;

    /// A folder for files to be stored.
    fn scratch(&self) -> PathBuf;

    /// How often what may go wrong once is tried.
    fn rounds(&self) -> u64 {
        200
    }

    /// Whether the same content written again has another tag. One that has not relies on its writers: what they swap
    /// never has the same content twice.
    fn tells_rewrites_apart(&self) -> bool {
        true
    }
}

/// A case: its name, and what runs it.
pub type Case = (
    &'static str,
    for<'f> fn(&'f dyn Fixture) -> Pin<Box<dyn Future<Output = ()> + Send + 'f>>,
);

/// All cases. Each is run on a fixture of its own, on a runtime of several threads.
pub const CASES: &[Case] = &[
    ("an object is read back, replaced and removed", |f| {
        Box::pin(whole_life(f))
    }),
    ("what is there is not created again", |f| Box::pin(create_only(f))),
    ("a swap needs the tag of what is there", |f| Box::pin(swaps(f))),
    ("a reader who knows the tag is told that nothing changed", |f| {
        Box::pin(not_modified(f))
    }),
    ("a tag never comes back", |f| Box::pin(no_aba(f))),
    ("a range is read, and ends where the object does", |f| {
        Box::pin(ranges(f))
    }),
    ("a listing is ordered, bounded and pages without gaps", |f| {
        Box::pin(listings(f))
    }),
    ("a file is taken when it is stored, and left when it is not", |f| {
        Box::pin(files(f))
    }),
    ("an object of many megabytes is whole", |f| Box::pin(large(f))),
    ("a text that is no key is refused by every call", |f| Box::pin(keys(f))),
    ("of many who swap at once one wins each round", |f| {
        Box::pin(swap_race(f))
    }),
    ("of many who create at once one wins each round", |f| {
        Box::pin(create_race(f))
    }),
    ("a reader never sees part of a write", |f| Box::pin(no_torn_reads(f))),
    ("writing beside removals under one prefix always succeeds", |f| {
        Box::pin(beside_removals(f))
    }),
];

const RACERS: u64 = 8;

fn bytes(text: &str) -> Body {
    Body::Bytes(Bytes::from(text.to_owned()))
}

async fn read(store: &dyn Store, key: &str) -> (Bytes, Tag) {
    match store.get(key, None).await.expect("read") {
        Get::Found { bytes, tag, .. } => (bytes, tag),
        Get::NotModified => panic!("{key}: no tag was given"),
    }
}

async fn put(store: &dyn Store, key: &str, text: &str) -> Tag {
    store.put(key, bytes(text), Precondition::Any).await.expect("written")
}

async fn is_absent(store: &dyn Store, key: &str) -> bool {
    let got = store.get(key, None).await;
    let range = store.get_range(key, 0..1).await;
    got.is_err_and(|error| error.is_not_found()) && range.is_err_and(|error| error.is_not_found())
}

async fn whole_life(f: &dyn Fixture) {
    let (store, other) = (f.handle().await, f.handle().await);
    assert!(is_absent(&*store, "a/b").await);
    let first = put(&*store, "a/b", "one").await;
    assert_eq!(read(&*other, "a/b").await, (Bytes::from("one"), first.clone()));
    let second = put(&*other, "a/b", "two").await;
    assert_ne!(first, second);
    assert_eq!(read(&*store, "a/b").await, (Bytes::from("two"), second));
    put(&*store, "empty", "").await;
    assert!(read(&*other, "empty").await.0.is_empty());
    store.delete("a/b").await.expect("removed");
    assert!(is_absent(&*other, "a/b").await);
    store
        .delete("a/b")
        .await
        .expect("removing what is not there is no error");
    store
        .delete("never/was")
        .await
        .expect("removing what is not there is no error");
    // A prefix of keys is no object.
    put(&*store, "folder/object", "x").await;
    assert!(is_absent(&*store, "folder").await);
}

async fn create_only(f: &dyn Fixture) {
    let (store, other) = (f.handle().await, f.handle().await);
    let tag = store
        .put("a", bytes("one"), Precondition::Absent)
        .await
        .expect("created");
    let again = other.put("a", bytes("two"), Precondition::Absent).await;
    assert!(matches!(again, Err(StoreError::PreconditionFailed { key }) if key == "a"));
    assert_eq!(read(&*store, "a").await, (Bytes::from("one"), tag));
    store.delete("a").await.expect("removed");
    other
        .put("a", bytes("two"), Precondition::Absent)
        .await
        .expect("it is gone");
}

async fn swaps(f: &dyn Fixture) {
    let (store, other) = (f.handle().await, f.handle().await);
    let first = put(&*store, "a", "one").await;
    let missing = store.put("b", bytes("x"), Precondition::Matches(first.clone())).await;
    assert!(matches!(missing, Err(StoreError::NotFound { key }) if key == "b"));
    assert!(is_absent(&*store, "b").await);
    let second = other
        .put("a", bytes("two"), Precondition::Matches(first.clone()))
        .await
        .expect("the tag is right");
    let stale = store.put("a", bytes("three"), Precondition::Matches(first)).await;
    assert!(matches!(stale, Err(StoreError::PreconditionFailed { key }) if key == "a"));
    assert_eq!(read(&*store, "a").await, (Bytes::from("two"), second.clone()));
    // Created anew, it is another object, even with the same content where the store says so.
    store.delete("a").await.expect("removed");
    put(&*store, "a", if f.tells_rewrites_apart() { "two" } else { "four" }).await;
    let old_life = other.put("a", bytes("three"), Precondition::Matches(second)).await;
    assert!(matches!(old_life, Err(StoreError::PreconditionFailed { .. })));
}

async fn not_modified(f: &dyn Fixture) {
    let store = f.handle().await;
    let first = put(&*store, "a", "one").await;
    assert!(matches!(
        store.get("a", Some(&first)).await.expect("read"),
        Get::NotModified
    ));
    let (_, read_tag) = read(&*store, "a").await;
    assert!(matches!(
        store.get("a", Some(&read_tag)).await.expect("read"),
        Get::NotModified
    ));
    put(&*store, "a", "two").await;
    assert!(matches!(
        store.get("a", Some(&first)).await.expect("read"),
        Get::Found { .. }
    ));
    store.delete("a").await.expect("removed");
    assert!(
        store
            .get("a", Some(&first))
            .await
            .is_err_and(|error| error.is_not_found())
    );
}

/// Contents alternate as fast as the store goes, so that whatever a tag is made of has every chance to come back. They
/// are as long as each other and differ in a byte where a store relies on its writers.
async fn no_aba(f: &dyn Fixture) {
    let store = f.handle().await;
    let mut tags = std::collections::HashSet::new();
    let mut last = put(&*store, "a", "content 0").await;
    let contents = if f.tells_rewrites_apart() { 2 } else { u64::MAX };
    for n in 0..f.rounds() {
        let content = format!("content {:05}", n % contents);
        let precondition = if n % 3 == 0 {
            Precondition::Any
        } else {
            Precondition::Matches(last)
        };
        last = store.put("a", bytes(&content), precondition).await.expect("written");
        assert!(tags.insert(last.clone()), "round {n}: {last:?} came back");
    }
}

async fn ranges(f: &dyn Fixture) {
    let store = f.handle().await;
    put(&*store, "a", "0123456789").await;
    for (range, expected) in [
        (0..10, "0123456789"),
        (3..5, "34"),
        (8..99, "89"),
        (0..0, ""),
        (10..20, ""),
        (50..60, ""),
    ] {
        let got = store.get_range("a", range.clone()).await.expect("read");
        assert_eq!(got, expected, "{range:?}");
    }
    parts(&*store).await;
}

/// A part that says what it is of is only given of that.
async fn parts(store: &dyn Store) {
    let first = store.get_part("a", 2..4, None).await.expect("read");
    assert_eq!(first.bytes, "23");
    let (_, tag) = read(store, "a").await;
    if let Some(told) = &first.tag {
        assert_eq!(*told, tag);
        let second = store.get_part("a", 4..6, Some(told)).await.expect("the same object");
        assert_eq!(second.bytes, "45");
        put(store, "a", "another one").await;
        let other = store.get_part("a", 4..6, Some(told)).await;
        assert!(matches!(other, Err(StoreError::PreconditionFailed { .. })), "{other:?}");
    }
    let missing = store.get_part("b", 0..6, first.tag.as_ref()).await;
    assert!(missing.is_err_and(|error| error.is_not_found()));
}

async fn listings(f: &dyn Fixture) {
    let store = f.handle().await;
    // Names around '/' in the order of bytes, where folders and objects mix.
    let mut keys = vec![
        "c/a", "c/a-b", "c/a/x", "c/a/y/z", "c/a0", "c/b", "c-d/a", "c0", "d/latest",
    ];
    for key in &keys {
        // A store of files cannot have an object and a prefix of the same name, and nobody needs it.
        if *key != "c/a" {
            put(&*store, key, key).await;
        }
    }
    keys.retain(|key| *key != "c/a");
    keys.sort_unstable();
    let listed = |prefix: &'static str, after: Option<&'static str>, limit| {
        let store = store.clone();
        async move {
            let objects = store.list(prefix, after, limit).await.expect("listed");
            objects.into_iter().map(|object| object.key).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("", None, 100).await, keys);
    assert_eq!(
        listed("c/", None, 100).await,
        ["c/a-b", "c/a/x", "c/a/y/z", "c/a0", "c/b"]
    );
    assert_eq!(listed("c/a", None, 100).await, ["c/a-b", "c/a/x", "c/a/y/z", "c/a0"]);
    assert_eq!(listed("c/a/", None, 100).await, ["c/a/x", "c/a/y/z"]);
    assert_eq!(listed("c/a/x", None, 100).await, ["c/a/x"]);
    assert!(listed("c/a/x/", None, 100).await.is_empty());
    assert!(listed("e/", None, 100).await.is_empty() && listed("", None, 0).await.is_empty());
    assert_eq!(listed("", Some("c0"), 100).await, ["d/latest"]);
    assert_eq!(listed("c/", Some("c/a/y"), 2).await, ["c/a/y/z", "c/a0"]);
    for limit in 1..=keys.len() {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let page = store
                .list("", paged.last().map(String::as_str), limit)
                .await
                .expect("listed");
            paged.extend(page.iter().map(|object| object.key.clone()));
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(paged, keys, "pages of {limit}");
    }
    let object = &store.list("c/b", None, 1).await.expect("listed")[0];
    let Get::Found { modified, .. } = store.get("c/b", None).await.expect("read") else {
        panic!("no tag was given")
    };
    assert_eq!((object.bytes, object.modified), (3, modified));
}

async fn files(f: &dyn Fixture) {
    let store = f.handle().await;
    let path = f.scratch().join("file");
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    write("one");
    let tag = store
        .put("a", Body::File(path.clone()), Precondition::Absent)
        .await
        .expect("created");
    assert!(!path.exists(), "it was taken");
    assert_eq!(read(&*store, "a").await, (Bytes::from("one"), tag.clone()));
    write("two");
    let again = store.put("a", Body::File(path.clone()), Precondition::Absent).await;
    assert!(matches!(again, Err(StoreError::PreconditionFailed { .. })));
    assert!(path.exists(), "it was not taken");
    let second = store
        .put("a", Body::File(path.clone()), Precondition::Matches(tag))
        .await
        .expect("the tag is right");
    assert_eq!(read(&*store, "a").await, (Bytes::from("two"), second));
    write("three");
    store
        .put("a", Body::File(path.clone()), Precondition::Any)
        .await
        .expect("written");
    assert_eq!(read(&*store, "a").await.0, "three");
    let missing = store.put("b", Body::File(path.clone()), Precondition::Absent).await;
    assert!(matches!(missing, Err(StoreError::Body { key, .. }) if key == "b"));
}

async fn large(f: &dyn Fixture) {
    let store = f.handle().await;
    let content: Vec<u8> = (0..5_000_011u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let tag = store
        .put("a", Body::Bytes(content.clone().into()), Precondition::Absent)
        .await
        .expect("created");
    let (got, got_tag) = read(&*store, "a").await;
    assert!(got == content, "{} bytes", got.len());
    assert_eq!(got_tag, tag);
    let path = f.scratch().join("large");
    std::fs::write(&path, &content).expect("written");
    let tag = store
        .put("b", Body::File(path), Precondition::Absent)
        .await
        .expect("created");
    let (got, got_tag) = read(&*store, "b").await;
    assert!(got == content, "{} bytes", got.len());
    assert_eq!(got_tag, tag);
    assert_eq!(
        store.get_range("b", 4_999_990..6_000_000).await.expect("read"),
        &content[4_999_990..]
    );
}

async fn keys(f: &dyn Fixture) {
    let store = f.handle().await;
    for key in [
        "",
        "/etc/passwd",
        "../outside",
        "a/../../outside",
        "a//b",
        "a/",
        ".hidden",
        "a/.hidden",
        "a\\b",
        "a\0b",
    ] {
        let is_refused = |error: StoreError| matches!(error, StoreError::Key { key: refused } if refused == key);
        assert!(store.get(key, None).await.is_err_and(is_refused), "get {key:?}");
        assert!(
            store.get_range(key, 0..1).await.is_err_and(is_refused),
            "get_range {key:?}"
        );
        assert!(
            store
                .put(key, bytes("x"), Precondition::Any)
                .await
                .is_err_and(is_refused),
            "put {key:?}"
        );
        assert!(store.delete(key).await.is_err_and(is_refused), "delete {key:?}");
        assert_eq!(store.local_path(key), None, "local_path {key:?}");
    }
    for prefix in ["/", "/etc/", "../", "a/../../", ".tmp/", "./"] {
        assert!(
            store.list(prefix, None, 10).await.expect("listed").is_empty(),
            "list {prefix:?}"
        );
    }
}

/// Every racer has a handle of its own and swaps from the same tag; the winner's content stays.
async fn swap_race(f: &dyn Fixture) {
    let store = f.handle().await;
    let mut tag = put(&*store, "a", "start").await;
    for round in 0..f.rounds() {
        let mut racers = Vec::new();
        for racer in 0..RACERS {
            let (store, tag) = (f.handle().await, tag.clone());
            racers.push(tokio::spawn(async move {
                let swapped = store
                    .put("a", bytes(&format!("{round} {racer}")), Precondition::Matches(tag))
                    .await;
                (racer, swapped)
            }));
        }
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.expect("no panic") {
                (racer, Ok(tag)) => winners.push((racer, tag)),
                (_, Err(StoreError::PreconditionFailed { .. } | StoreError::Conflict { .. })) => {}
                (_, Err(error)) => panic!("round {round}: {error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let (winner, won) = winners.remove(0);
        assert_eq!(
            read(&*store, "a").await,
            (format!("{round} {winner}").into(), won.clone())
        );
        tag = won;
    }
}

async fn create_race(f: &dyn Fixture) {
    let store = f.handle().await;
    for round in 0..f.rounds() / 4 {
        let mut racers = Vec::new();
        for racer in 0..RACERS {
            let store = f.handle().await;
            racers.push(tokio::spawn(async move {
                let key = format!("r/{round}/a");
                let created = store.put(&key, bytes(&racer.to_string()), Precondition::Absent).await;
                created.is_ok().then_some(racer)
            }));
        }
        let mut winners = Vec::new();
        for racer in racers {
            winners.extend(racer.await.expect("no panic"));
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(read(&*store, &format!("r/{round}/a")).await.0, winners[0].to_string());
    }
}

/// Each content says how long it is and repeats one byte.
async fn no_torn_reads(f: &dyn Fixture) {
    let store = f.handle().await;
    let content = |n: u64| {
        let letter = b'a' + (n % 26) as u8;
        vec![letter; 1 + (n as usize * 7_919) % 200_000]
    };
    store
        .put("a", Body::Bytes(content(0).into()), Precondition::Any)
        .await
        .expect("written");
    let (writer, reader) = (f.handle().await, f.handle().await);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (is_done, rounds) = (done.clone(), f.rounds());
    let reads = tokio::spawn(async move {
        let mut reads = 0u64;
        while !is_done.load(std::sync::atomic::Ordering::SeqCst) || reads == 0 {
            let (bytes, _) = read(&*reader, "a").await;
            let is_whole = bytes.iter().all(|byte| *byte == bytes[0]);
            let of_round = (0..rounds).any(|n| n % 26 == u64::from(bytes[0] - b'a') && content(n).len() == bytes.len());
            assert!(is_whole && of_round, "{} bytes of {}", bytes.len(), bytes[0]);
            reads += 1;
        }
        reads
    });
    for n in 0..rounds {
        writer
            .put("a", Body::Bytes(content(n).into()), Precondition::Any)
            .await
            .expect("written");
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(reads.await.expect("no torn read") > 0);
}

/// How often one write may meet others.
const CONFLICTS_MAX: u32 = 100;

/// Folders that become empty must not be taken from under a write.
async fn beside_removals(f: &dyn Fixture) {
    let mut tasks = Vec::new();
    for task in 0..4 {
        let (store, rounds) = (f.handle().await, f.rounds());
        tasks.push(tokio::spawn(async move {
            for n in 0..rounds {
                let key = format!("c/dead/{task}-{n}");
                let mut tries = 0;
                // That a write met another one and was not made is for the writer to try again.
                while let Err(error) = store.put(&key, bytes("x"), Precondition::Absent).await {
                    tries += 1;
                    let is_conflict = matches!(error, StoreError::Conflict { .. });
                    assert!(is_conflict && tries < CONFLICTS_MAX, "not created: {error:?}");
                }
                store.delete(&key).await.expect("removed");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no write met a removed folder");
    }
    assert!(f.handle().await.list("", None, 10).await.expect("listed").is_empty());
}
