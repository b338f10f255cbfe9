//! The store on S3 against a real server over HTTP: the conformance suite, the trial at the start, large files, and the
//! commit protocol under connections that are cut and held at chosen bytes. Where the server is not installed, the
//! tests say so and end.
#![expect(
    clippy::print_stdout,
    reason = "what was skipped and how much was tried is part of what a test tells"
)]

mod ministack;
mod on_server;
mod proxy;
mod s3_cuts;
#[expect(dead_code, reason = "the witness of the explorations is not used here")]
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ministack::{Ministack, options, shared};
use on_server::conforms;
use proxy::{Deed, Fault, Proxy, Side};
use verdigris_core::digest::Digest;
use verdigris_core::manifest::FileEntry;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::s3::{Encryption, Promise, S3Error, S3Options, S3Store};
use verdigris_store::{Body, Get, Precondition, Store, StoreError, digest_of_file, keys};

async fn connect(options: S3Options) -> S3Store {
    S3Store::connect(options).await.expect("connected")
}

// === Conformance ===

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_on_s3_passes_the_conformance_suite() {
    let Some(server) = shared("the_store_on_s3_passes_the_conformance_suite").await else {
        return;
    };
    conforms(async |prefix| Arc::new(connect(server.options(prefix)).await) as Arc<dyn Store>).await;
}

/// The neighbours of a prefix are not its objects, and neither is what has no key of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_sees_nothing_outside_its_prefix() {
    let Some(server) = shared("a_store_sees_nothing_outside_its_prefix").await else {
        return;
    };
    let whole = connect(server.options("")).await;
    let store = connect(server.options("tenants/a")).await;
    let body = |text: &str| Body::Bytes(Bytes::from(text.to_owned()));
    for key in ["tenants/a/x", "tenants/a/y", "tenants/ab/x", "tenants/b/x"] {
        whole.put(key, body(key), Precondition::Any).await.expect("written");
    }
    for folder in ["tenants/a/", "tenants/a/folder/", "tenants/a/.hidden"] {
        let answer = server.ask("PUT", &format!("/{}/{folder}", ministack::BUCKET)).await;
        assert!(answer.expect("answered").starts_with("HTTP/1.1 200"), "{folder}");
    }
    let keys = |objects: Vec<verdigris_store::ObjectMeta>| objects.into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("", None, 10).await.expect("listed")), ["x", "y"]);
    // A page of foreign objects is no end of the listing.
    assert_eq!(keys(store.list("", None, 1).await.expect("listed")), ["x"]);
    assert_eq!(keys(store.list("", Some("x"), 1).await.expect("listed")), ["y"]);
    let Get::Found { bytes, .. } = store.get("x", None).await.expect("read") else {
        panic!("no tag was given")
    };
    assert_eq!(bytes, "tenants/a/x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_no_missing_object() {
    let Some(server) = shared("a_bucket_that_is_not_there_is_no_missing_object").await else {
        return;
    };
    let mut options = server.options("p");
    options.bucket = "nowhere".to_owned();
    let store = connect(options.clone()).await;
    let body = || Body::Bytes(Bytes::from_static(b"x"));
    let got = store.get("a", None).await.map(|_| ());
    let put = store.put("a", body(), Precondition::Absent).await.map(|_| ());
    let listed = store.list("", None, 1).await.map(|_| ());
    for refused in [got, put, listed] {
        let error = refused.expect_err("refused");
        assert!(
            matches!(error, StoreError::Refused { .. }) && !error.may_pass(),
            "{error:?}"
        );
    }
    options.probe = true;
    let tried = S3Store::connect(options).await;
    assert!(matches!(tried, Err(S3Error::Probe { .. })), "{tried:?}");
}

// === The trial at the start ===

async fn check_refused(server: &Ministack, hidden: &[&'static str], expected: Promise, named: &str) {
    let proxy = Proxy::start(server.address).await;
    for header in hidden {
        proxy.hide(header);
    }
    let mut options = options(proxy.address, "probe");
    options.probe = true;
    let error = S3Store::connect(options).await.expect_err("refused");
    let text = error.to_string();
    assert!(
        matches!(error, S3Error::Promise { promise, .. } if promise == expected),
        "{error:?}"
    );
    assert!(text.contains(named) && text.contains("s3://catalog/probe"), "{text}");
}

/// Goal: a store that ignores a condition is refused by the name of what it does not do. Method: a real server behind a
/// proxy that makes the header unreadable.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused_by_the_name_of_the_missing_promise() {
    let Some(server) = shared("a_store_that_ignores_conditions_is_refused_by_the_name_of_the_missing_promise").await
    else {
        return;
    };
    check_refused(&server, &["if-none-match"], Promise::CreateOnly, "If-None-Match").await;
    check_refused(&server, &["if-match"], Promise::Swap, "If-Match").await;
    check_refused(
        &server,
        &["if-match", "if-none-match"],
        Promise::CreateOnly,
        "create-only",
    )
    .await;
    check_refused(&server, &["range"], Promise::Ranges, "range").await;
    let mut options = server.options("probe");
    options.probe = true;
    let store = connect(options).await;
    assert!(store.list("", None, 10).await.expect("listed").is_empty());
    let left = server
        .ask("GET", "/catalog?list-type=2&prefix=probe/")
        .await
        .expect("answered");
    let objects = left.matches("<Key>").count();
    // Those that were refused removed theirs too.
    assert_eq!(objects, 0, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_goes_on_when_a_connection_is_cut() {
    let Some(server) = shared("a_trial_goes_on_when_a_connection_is_cut").await else {
        return;
    };
    for (method, side) in [("PUT", Side::Request), ("PUT", Side::Answer), ("GET", Side::Answer)] {
        let proxy = Proxy::start(server.address).await;
        proxy.arm(Fault {
            method,
            path: "/",
            side,
            at: 10,
            deed: Deed::Cut,
            times: 2,
        });
        let mut options = options(proxy.address, "cut-probe");
        options.probe = true;
        connect(options).await;
        assert_eq!(proxy.disarm(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_ask_for_the_encryption_of_the_options() {
    let Some(server) = shared("writes_ask_for_the_encryption_of_the_options").await else {
        return;
    };
    let folder = tempfile::tempdir().expect("temporary folder");
    for (encryption, expected) in [
        (Encryption::None, vec![]),
        (Encryption::Sse, vec!["x-amz-server-side-encryption: aes256"]),
        (
            Encryption::Kms("alias/catalog".to_owned()),
            vec![
                "x-amz-server-side-encryption-aws-kms-key-id: alias/catalog",
                "x-amz-server-side-encryption: aws:kms",
            ],
        ),
    ] {
        let proxy = Proxy::start(server.address).await;
        let mut options = options(proxy.address, "encryption");
        options.encryption = encryption;
        options.multipart_above = 1_000;
        let store = connect(options).await;
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'x'; 2_000]).expect("written");
        let body = Body::Bytes(Bytes::from_static(b"x"));
        // Whether the server knows the key is its own affair.
        let _ = store.put("a", body, Precondition::Any).await;
        let _ = store.put("b", Body::File(path), Precondition::Any).await;
        let heads = proxy.heads();
        let creating: Vec<&String> = heads
            .iter()
            .filter(|head| head.starts_with("put ") && !head.contains("partnumber") || head.contains("?uploads"))
            .collect();
        assert_eq!(creating.len(), 2, "{heads:?}");
        for head in creating {
            let asked = head
                .lines()
                .filter(|line| line.starts_with("x-amz-server-side-encryption"));
            let mut asked: Vec<&str> = asked.collect();
            asked.sort_unstable();
            assert_eq!(asked, expected);
        }
    }
}

// === Large files ===

const LARGE: usize = 11_000_003;

fn content() -> Vec<u8> {
    (0..LARGE as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// A store behind a proxy that sends files of more than a megabyte in parts.
struct InParts {
    server: Arc<Ministack>,
    proxy: Proxy,
    store: S3Store,
    folder: tempfile::TempDir,
    prefix: String,
}

impl InParts {
    async fn begin(test: &str, prefix: &str) -> Option<Self> {
        let server = shared(test).await?;
        let proxy = Proxy::start(server.address).await;
        let mut options = options(proxy.address, prefix);
        options.multipart_above = 1 << 20;
        options.part_bytes = S3Options::PART_BYTES_MIN;
        options.attempts = 3;
        let store = connect(options).await;
        Some(Self {
            server,
            proxy,
            store,
            folder: tempfile::tempdir().expect("temporary folder"),
            prefix: prefix.to_owned(),
        })
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// Uploads that were begun and neither completed nor given up.
    async fn incomplete(&self) -> usize {
        let answer = self.server.ask("GET", "/catalog?uploads").await.expect("answered");
        answer.matches(&format!("<Key>{}/", self.prefix)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_up_in_parts_whatever_is_cut_on_the_way() {
    let Some(world) = InParts::begin("a_large_file_goes_up_in_parts_whatever_is_cut_on_the_way", "parts").await else {
        return;
    };
    let content = content();
    let cut = |method, path, side, at, times| Fault {
        method,
        path,
        side,
        at,
        deed: Deed::Cut,
        times,
    };
    let (request, answer) = (Side::Request, Side::Answer);
    for (n, fault) in [
        None,
        Some(cut("POST", "uploads", request, 0, 1)),
        Some(cut("POST", "uploads", answer, 0, 2)),
        Some(cut("PUT", "partNumber=2", request, 3_000_000, 2)),
        Some(cut("PUT", "partNumber=1", answer, 20, 1)),
        Some(cut("POST", "uploadId", request, 30, 1)),
        // It was put together, and nobody was told: the mark on the object tells.
        Some(cut("POST", "uploadId", answer, 0, 1)),
        Some(cut("POST", "uploadId", answer, 40, 2)),
    ]
    .into_iter()
    .enumerate()
    {
        if let Some(fault) = fault {
            world.proxy.arm(fault);
        }
        let (key, path) = (format!("large/{n}"), world.file(&content));
        let put = world
            .store
            .put(&key, Body::File(path.clone()), Precondition::Absent)
            .await;
        let tag = put.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        assert_eq!(world.proxy.disarm() > 0, fault.is_some(), "{fault:?}: it was met");
        assert!(!path.exists(), "{fault:?}: it was taken");
        let Get::Found { bytes, tag: read, .. } = world.store.get(&key, None).await.expect("read") else {
            panic!("no tag was given")
        };
        assert!(bytes == content && tag == read, "{fault:?}");
        if n > 0 {
            continue;
        }
        let again = world.file(&content[..2_000_000]);
        let put = world
            .store
            .put(&key, Body::File(again.clone()), Precondition::Absent)
            .await;
        assert!(matches!(put, Err(StoreError::PreconditionFailed { .. })), "{put:?}");
        assert!(again.exists(), "it was not taken");
    }
    assert_eq!(
        world.incomplete().await,
        2,
        "only those whose beginning was never answered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_does_not_arrive_is_told_as_not_written_or_unknown() {
    let test = "a_large_file_that_does_not_arrive_is_told_as_not_written_or_unknown";
    let Some(world) = InParts::begin(test, "lost-parts").await else {
        return;
    };
    let content = content();
    let all = |method, path, side, at| Fault {
        method,
        path,
        side,
        at,
        deed: Deed::Cut,
        times: 1_000,
    };
    for (n, fault, is_unknown) in [
        (0, all("PUT", "partNumber=2", Side::Request, 4_000_000), false),
        (1, all("POST", "uploadId", Side::Request, 0), true),
    ] {
        world.proxy.arm(fault);
        let (key, path) = (format!("large/{n}"), world.file(&content));
        let error = world
            .store
            .put(&key, Body::File(path.clone()), Precondition::Absent)
            .await;
        let error = error.expect_err("it did not arrive");
        world.proxy.disarm();
        assert_eq!(
            matches!(error, StoreError::NoAnswer { .. }),
            is_unknown,
            "{fault:?}: {error:?}"
        );
        assert!(error.may_pass() && path.exists(), "{fault:?}: it may be sent again");
        let is_there = world.store.get_range(&key, 0..1).await.is_ok();
        assert!(!is_there, "{fault:?}");
        let tag = world.store.put(&key, Body::File(path), Precondition::Absent).await;
        tag.expect("sent again");
    }
}

/// Files of a release through connections that are cut: what came before is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_was_cut() {
    let Some(world) = InParts::begin("a_download_goes_on_where_it_was_cut", "download").await else {
        return;
    };
    let content = [content(), content(), content()].concat();
    let entry = FileEntry {
        path: "segments/a/vectors.faiss".to_owned(),
        bytes: content.len() as u64,
        digest: Digest::of(&content),
    };
    let key = keys::object(&world::name(), &entry.path);
    let file = world.file(&content);
    world
        .store
        .put(&key, Body::File(file), Precondition::Absent)
        .await
        .expect("stored");
    let cache = world.folder.path().join("cache");
    // Each range is cut so often that its attempts are used up.
    let cut = |times| Fault {
        method: "GET",
        path: "vectors.faiss",
        side: Side::Answer,
        at: 3_000_000,
        deed: Deed::Cut,
        times,
    };
    let files = VerifiedFiles::with_cache(&cache).expect("a folder");
    world.proxy.arm(cut(2));
    let path = files
        .local(&world.store, &world::name(), &entry)
        .await
        .expect("attempts were enough");
    assert_eq!(digest_of_file(&path).expect("read"), entry.digest);
    assert_eq!(world.proxy.disarm(), 2);
    let ranges = world
        .proxy
        .heads()
        .iter()
        .filter(|head| head.starts_with("get "))
        .count();
    assert_eq!(ranges, 4 + 2, "four ranges, of which two came again");
    let tagged = world
        .proxy
        .heads()
        .iter()
        .filter(|head| head.contains("if-match: \""))
        .count();
    assert!(tagged >= 3, "all but the first name what they are of");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_in_time_is_asked_again_and_then_given_up() {
    let test = "a_store_that_does_not_answer_in_time_is_asked_again_and_then_given_up";
    let Some(server) = shared(test).await else {
        return;
    };
    let proxy = Proxy::start(server.address).await;
    let mut options = options(proxy.address, "silence");
    options.attempt_timeout = Duration::from_millis(700);
    options.attempts = 2;
    let store = connect(options).await;
    let body = || Body::Bytes(Bytes::from_static(b"x"));
    store.put("a", body(), Precondition::Absent).await.expect("written");
    let silence = |method, times| Fault {
        method,
        path: "silence",
        side: Side::Answer,
        at: 0,
        deed: Deed::Hold,
        times,
    };
    proxy.arm(silence("GET", 1));
    assert!(store.get("a", None).await.is_ok(), "the second attempt is answered");
    proxy.arm(silence("GET", 2));
    let got = store.get("a", None).await;
    assert!(matches!(got, Err(StoreError::NoAnswer { .. })), "{got:?}");
    // A write is sent once.
    proxy.arm(silence("PUT", 2));
    let put = store.put("b", body(), Precondition::Absent).await;
    assert!(matches!(put, Err(StoreError::NoAnswer { .. })), "{put:?}");
    assert_eq!(proxy.disarm(), 1);
}

/// Goal: our own success is never told as a failed condition. Method: the answer is cut after the write was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_unknown_and_was_sent_once() {
    let Some(server) = shared("a_write_whose_answer_is_lost_is_unknown_and_was_sent_once").await else {
        return;
    };
    let proxy = Proxy::start(server.address).await;
    let store = connect(options(proxy.address, "lost-answer")).await;
    let body = |text: &'static str| Body::Bytes(Bytes::from_static(text.as_bytes()));
    let tag = store.put("swapped", body("one"), Precondition::Absent).await;
    let tag = tag.expect("written");
    for (n, (key, precondition)) in [
        ("created", Precondition::Absent),
        ("swapped", Precondition::Matches(tag)),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.arm(Fault {
            method: "PUT",
            path: "lost-answer",
            side: Side::Answer,
            at: n,
            deed: Deed::Cut,
            times: 1,
        });
        let put = store.put(key, body("two"), precondition).await;
        assert!(matches!(put, Err(StoreError::NoAnswer { .. })), "{key}: {put:?}");
        assert_eq!(proxy.disarm(), 1);
        let Get::Found { bytes, .. } = store.get(key, None).await.expect("read") else {
            panic!("no tag was given")
        };
        assert_eq!(bytes, "two", "{key}: it was made");
    }
    let puts = proxy.heads().iter().filter(|head| head.starts_with("put ")).count();
    assert_eq!(puts, 3);
}
