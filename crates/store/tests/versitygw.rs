//! Large files on another S3 server than the one of the other tests: versitygw, which holds the checksums of parts against
//! what was said when the upload began. `tests/cluster/tools versitygw` builds it; without it the test says so and ends.
//! Deliberately absent: the conformance suite and cut connections, which tests/s3.rs has.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use verdigris_store::s3::{Keys, S3Options, S3Store};
use verdigris_store::{Body, Get, Precondition, Store};

const BUCKET: &str = "catalog";
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: u32 = 1_200;
/// Three parts of which the last is short.
const BYTES: usize = (11 << 20) + 7;

/// The server; it ends when this is dropped.
struct Versitygw(Child);

impl Drop for Versitygw {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing else to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn executable() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = std::env::var_os("VERDIGRIS_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
    cache.join("cluster/tools/bin/versitygw")
}

async fn start(executable: &Path, folder: &Path) -> (Versitygw, S3Options) {
    std::fs::create_dir(folder.join(BUCKET)).expect("a folder is a bucket");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let child = Command::new(executable)
        .args(["--port", &address.to_string(), "posix"])
        .arg(folder)
        .envs([("ROOT_ACCESS_KEY", "tests"), ("ROOT_SECRET_KEY", "tests-secret")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Versitygw(child.expect("it starts"));
    for _ in 0..LOOKS_MAX {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            let mut options = S3Options::new(BUCKET, "store").expect("a bucket and a prefix");
            (options.endpoint, options.path_style) = (Some(format!("http://{address}")), true);
            options.region = Some("us-east-1".to_owned());
            options.keys = Some(Keys {
                access: "tests".to_owned(),
                secret: "tests-secret".to_owned(),
            });
            (options.multipart_above, options.part_bytes) = (1 << 20, S3Options::PART_BYTES_MIN);
            return (server, options);
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("the server at {address} does not answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_up_in_parts_to_a_server_that_holds_their_checksums_against_the_upload() {
    let executable = executable();
    if !executable.exists() {
        println!("skipped: files in parts on versitygw: tests/cluster/tools versitygw builds it");
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (_server, options) = start(&executable, folder.path()).await;
    let store = S3Store::connect(options).await.expect("it keeps its promises");
    let bytes: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
    let scratch = tempfile::tempdir().expect("temporary folder");
    let file = scratch.path().join("vectors");
    std::fs::write(&file, &bytes).expect("written");
    let key = "products/segments/a/vectors.faiss";
    let put = store.put(key, Body::File(file.clone()), Precondition::Absent).await;
    let tag = put.expect("written in parts");
    match store.get(key, None).await.expect("read") {
        Get::Found {
            bytes: found, tag: of, ..
        } => {
            assert!(found == bytes, "other bytes came back");
            assert_eq!(of, tag);
        }
        other => panic!("{other:?}"),
    }
    let again = store.put(key, Body::File(file), Precondition::Absent).await;
    assert!(again.is_err(), "a second one is refused: {again:?}");
}
