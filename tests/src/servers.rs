//! A real S3 server and a real NATS server as child processes, on loopback, free ports and temporary folders.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const BUCKET: &str = "catalog";

/// A server; it ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing else to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where servers for tests are installed; none, with a word about it, where one is not.
pub(crate) fn executable(test: &str, path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let cache = std::env::var_os("VERDIGRIS_CACHE").map_or(root, PathBuf::from);
    let path = cache.join("servers").join(path);
    if path.exists() {
        return Some(path);
    }
    println!(
        "skipped: {test}: {} is not there; `make servers` installs it",
        path.display()
    );
    None
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

/// An S3 server with an empty bucket.
pub(crate) fn s3(executable: &Path) -> Server {
    let (folder, port) = (TempDir::new().unwrap(), free_port());
    let child = Command::new(executable)
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("S3_DATA_DIR", folder.path())
        .env("STATE_DIR", folder.path())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server {
        child,
        port,
        _folder: folder,
    };
    let began = Instant::now();
    while !has_bucket(port) {
        assert!(began.elapsed() < PATIENCE, "the S3 server does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

/// Makes the bucket; whether the server did.
fn has_bucket(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let request =
        format!("PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// A NATS server with JetStream.
pub(crate) fn nats(executable: &Path) -> Server {
    let (folder, port) = (TempDir::new().unwrap(), free_port());
    let configuration = format!(
        "listen: \"127.0.0.1:{port}\"\nmax_payload: 32MB\nmax_pending: 128MB\njetstream {{ store_dir: {:?}, sync_interval: always }}\n",
        folder.path().join("jetstream")
    );
    std::fs::write(folder.path().join("server.conf"), configuration).unwrap();
    let mut child = Command::new(executable)
        .arg("-c")
        .arg(folder.path().join("server.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("Server is ready")),
        "the NATS server ended"
    );
    // A full pipe would stop the server.
    std::thread::spawn(move || lines.for_each(drop));
    Server {
        child,
        port,
        _folder: folder,
    }
}

/// What roles are told of both.
pub(crate) fn environment(s3: &Server, nats: &Server) -> Vec<(&'static str, String)> {
    vec![
        ("VERDIGRIS_STORE_URL", format!("s3://{BUCKET}/roles")),
        ("VERDIGRIS_STORE_ENDPOINT", format!("http://127.0.0.1:{}", s3.port)),
        ("VERDIGRIS_STORE_REGION", "us-east-1".to_owned()),
        ("VERDIGRIS_STORE_PATH_STYLE", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("VERDIGRIS_BUS_URL", format!("nats://127.0.0.1:{}", nats.port)),
    ]
}
