//! A real S3 server on loopback, shared by the tests that run at the same time, and gone with the last of them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use verdigris_store::s3::{Keys, S3Options};

/// Looks at a server that starts, this long apart.
const LOOK: Duration = Duration::from_millis(50);
/// Looks before it is given up.
const LOOKS_MAX: u32 = 1_200;
/// The one bucket; each test has prefixes of its own.
pub(crate) const BUCKET: &str = "catalog";

/// The server; it ends when this is dropped.
pub(crate) struct Ministack {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

static SHARED: Mutex<Weak<Ministack>> = Mutex::new(Weak::new());
static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The server, started if it is not there; none, and a word about it, where it is not installed.
pub(crate) async fn shared(test: &str) -> Option<Arc<Ministack>> {
    let executable = executable();
    if !executable.exists() {
        println!(
            "skipped: {test}: {} is not there; `make servers` installs it",
            executable.display()
        );
        return None;
    }
    let _turn = STARTING.lock().await;
    if let Some(server) = SHARED.lock().expect("no panic").upgrade() {
        return Some(server);
    }
    let server = Arc::new(start(&executable).await);
    *SHARED.lock().expect("no panic") = Arc::downgrade(&server);
    Some(server)
}

fn executable() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = std::env::var_os("VERDIGRIS_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
    cache.join("servers/ministack/bin/ministack")
}

async fn start(executable: &Path) -> Ministack {
    let folder = tempfile::tempdir().expect("temporary folder");
    // Another process may take the port before the server does; then there is no bucket, and the test says so.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let child = Command::new(executable)
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", address.port().to_string())
        .env("S3_DATA_DIR", folder.path())
        .env("STATE_DIR", folder.path())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let server = Ministack {
        child,
        address,
        _folder: folder,
    };
    for _ in 0..LOOKS_MAX {
        if let Ok(answer) = server.ask("PUT", &format!("/{BUCKET}")).await
            && answer.starts_with("HTTP/1.1 200")
        {
            return server;
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("the server at {address} does not answer");
}

impl Ministack {
    /// A request without a body, straight to the server; the whole answer.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Options for a store of its own on this server.
    pub(crate) fn options(&self, prefix: &str) -> S3Options {
        options(self.address, prefix)
    }
}

/// Options for a store at this address; retries are kept, and nothing waits long.
pub(crate) fn options(address: SocketAddr, prefix: &str) -> S3Options {
    let mut options = S3Options::new(BUCKET, prefix).expect("a bucket and a prefix");
    options.endpoint = Some(format!("http://{address}"));
    options.region = Some("us-east-1".to_owned());
    options.path_style = true;
    options.keys = Some(Keys {
        access: "test".to_owned(),
        secret: "test".to_owned(),
    });
    options.probe = false;
    options
}

impl Drop for Ministack {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing else to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
