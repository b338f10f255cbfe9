//! The store on S3 against versitygw, the server of the cluster tests, which is stricter than the one of the other tests:
//! it knows its keys, and checks signatures and checksums. Where it is not built, the test says so and ends.
//!
//! Deliberately absent: the commit protocol, which `s3.rs` tries behind a proxy.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "what was skipped and what was tried is part of what a test tells"
)]

mod on_server;
#[expect(dead_code, reason = "one kind of cut is all that is needed here")]
mod proxy;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use on_server::conforms;
use proxy::{Deed, Fault, Proxy, Side};
use verdigris_store::s3::{Keys, S3Options, S3Store};
use verdigris_store::{Body, Get, Precondition, Store, StoreError};

const BUCKET: &str = "catalog";
/// Looks at a server that starts, this long apart.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: u32 = 600;

/// The server; it ends when this is dropped.
struct Versitygw {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Versitygw {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing else to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Versitygw {
    fn start(test: &str) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
        let cache = std::env::var_os("VERDIGRIS_CACHE").map_or(root, PathBuf::from);
        let executable = cache.join("cluster/tools/bin/versitygw");
        if !executable.exists() {
            println!(
                "skipped: {test}: {} is not there; `tests/cluster/tools versitygw` builds it",
                executable.display()
            );
            return None;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        // A folder is a bucket.
        std::fs::create_dir(folder.path().join(BUCKET)).expect("made");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let child = Command::new(executable)
            .args(["--access", "test", "--secret", "a secret of this test", "--port"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("posix")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let server = Self {
            child,
            port,
            _folder: folder,
        };
        let is_there = (0..LOOKS_MAX).any(|_| {
            std::thread::sleep(LOOK);
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        assert!(is_there, "the server does not answer");
        Some(server)
    }

    fn options(&self, prefix: &str) -> S3Options {
        let mut options = S3Options::new(BUCKET, prefix).expect("a bucket and a prefix");
        options.endpoint = Some(format!("http://127.0.0.1:{}", self.port));
        options.region = Some("us-east-1".to_owned());
        options.path_style = true;
        options.keys = Some(Keys {
            access: "test".to_owned(),
            secret: "a secret of this test".to_owned(),
        });
        options
    }

    /// The trial at the start is part of it.
    async fn connect(&self, prefix: &str) -> Arc<dyn Store> {
        let store = S3Store::connect(self.options(prefix)).await;
        Arc::new(store.expect("it keeps what is needed of a bucket"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_on_versitygw_passes_the_conformance_suite() {
    let Some(server) = Versitygw::start("the_store_on_versitygw_passes_the_conformance_suite") else {
        return;
    };
    conforms(async |prefix| server.connect(prefix).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_to_versitygw_in_parts_and_takes_no_name_that_is_taken() {
    let test = "a_large_file_goes_to_versitygw_in_parts_and_takes_no_name_that_is_taken";
    let Some(server) = Versitygw::start(test) else { return };
    let mut options = server.options("large");
    options.multipart_above = 1 << 20;
    options.part_bytes = S3Options::PART_BYTES_MIN;
    let store = S3Store::connect(options).await.expect("connected");
    let folder = tempfile::tempdir().expect("temporary folder");
    let content: Vec<u8> = (0..11_000_003_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let file = |bytes: &[u8]| {
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        Body::File(path)
    };
    let tag = store
        .put("a", file(&content), Precondition::Absent)
        .await
        .expect("stored");
    let Get::Found { bytes, tag: read, .. } = store.get("a", None).await.expect("read") else {
        panic!("no tag was given")
    };
    assert!(bytes == content && read == tag);
    let again = store.put("a", file(&content[..3_000_000]), Precondition::Absent).await;
    assert!(matches!(again, Err(StoreError::PreconditionFailed { .. })), "{again:?}");
    assert_eq!(
        store.get_range("a", 5_242_000..5_243_000).await.expect("read"),
        content[5_242_000..5_243_000]
    );
    let swapped = store
        .put(
            "a",
            Body::Bytes(Bytes::from_static(b"small")),
            Precondition::Matches(tag),
        )
        .await;
    swapped.expect("the tag of parts is one to swap by");
}

/// Goal: an upload that was put together without our hearing of it is ours. Method: no answer to that call ever arrives,
/// however often it is made (who makes it once more is answered as before), so that only the mark on the object tells.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_completion_was_not_answered_is_known_by_its_mark() {
    let test = "an_upload_whose_completion_was_not_answered_is_known_by_its_mark";
    let Some(server) = Versitygw::start(test) else { return };
    let proxy = Proxy::start((Ipv4Addr::LOCALHOST, server.port).into()).await;
    let mut options = server.options("marked");
    options.endpoint = Some(format!("http://{}", proxy.address));
    options.multipart_above = 1 << 20;
    options.part_bytes = S3Options::PART_BYTES_MIN;
    let store = S3Store::connect(options).await.expect("connected");
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("file");
    std::fs::write(&path, vec![7; 6_000_000]).expect("written");
    proxy.arm(Fault {
        method: "POST",
        path: "uploadId",
        side: Side::Answer,
        at: 0,
        deed: Deed::Cut,
        times: 1_000,
    });
    let put = store.put("a", Body::File(path), Precondition::Absent).await;
    assert_eq!(proxy.disarm(), 1, "it was looked for before it was sent again");
    put.expect("it is ours, and there");
}
