//! A real S3 server and a real NATS server as child processes, on loopback, free ports and temporary folders: killed, and
//! begun again in the same place, with what they had stored.
//!
//! Deliberately absent: any other server of either kind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const BUCKET: &str = "catalog";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Nats,
}

/// A server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    executable: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// An S3 server with an empty bucket; none, with a word about it, where it is not installed.
    #[must_use]
    pub fn s3(test: &str) -> Option<Self> {
        Self::start(Kind::S3, executable(test, "ministack/bin/ministack")?)
    }

    /// A NATS server with JetStream; none, with a word about it, where it is not installed.
    #[must_use]
    pub fn nats(test: &str) -> Option<Self> {
        Self::start(Kind::Nats, executable(test, "nats/bin/nats-server")?)
    }

    fn start(kind: Kind, executable: PathBuf) -> Option<Self> {
        let mut server = Self {
            kind,
            executable,
            folder: TempDir::new().expect("the temporary folder takes a folder"),
            port: free_port(),
            child: None,
        };
        server.begin();
        Some(server)
    }

    /// Begins it, at first or again: on the same port, with what it had stored.
    ///
    /// # Panics
    /// When it does not come to answer.
    pub fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        match self.kind {
            Kind::S3 => self.begin_s3(),
            Kind::Nats => self.begin_nats(),
        }
    }

    fn begin_s3(&mut self) {
        let child = Command::new(&self.executable)
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", self.port.to_string())
            .env("S3_DATA_DIR", self.folder.path().join("objects"))
            .env("S3_PERSIST", "1")
            .env("STATE_DIR", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("it starts"));
        let began = Instant::now();
        while !has_bucket(self.port) {
            assert!(began.elapsed() < PATIENCE, "the S3 server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn begin_nats(&mut self) {
        let configuration = format!(
            "listen: \"127.0.0.1:{}\"\nmax_payload: 32MB\nmax_pending: 128MB\n\
             jetstream {{ store_dir: {:?}, sync_interval: always }}\n",
            self.port,
            self.stream_files()
        );
        let path = self.folder.path().join("server.conf");
        fs::write(&path, configuration).expect("the temporary folder takes a file");
        let child = Command::new(&self.executable)
            .arg("-c")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("standard error is piped"))
            .lines()
            .map_while(Result::ok);
        assert!(
            lines.any(|line| line.contains("Server is ready")),
            "the NATS server ended"
        );
        // A full pipe would stop the server.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; there is nothing else to end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn stream_files(&self) -> PathBuf {
        self.folder.path().join("jetstream")
    }

    /// A copy of what a NATS server stores, taken while it does not run.
    #[must_use]
    pub fn copy(&self) -> TempDir {
        let copy = TempDir::new().expect("the temporary folder takes a folder");
        copy_folder(&self.stream_files(), copy.path());
        copy
    }

    /// Puts what a NATS server stores back to a copy, while it does not run.
    pub fn put_back(&self, copy: &TempDir) {
        let files = self.stream_files();
        fs::remove_dir_all(&files).expect("it stored something");
        copy_folder(copy.path(), &files);
    }

    /// The address of a NATS server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// What a role is told of it.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self.kind {
            Kind::S3 => vec![
                ("VERDIGRIS_STORE_URL", format!("s3://{BUCKET}/roles")),
                ("VERDIGRIS_STORE_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
                ("VERDIGRIS_STORE_REGION", "us-east-1".to_owned()),
                ("VERDIGRIS_STORE_PATH_STYLE", "true".to_owned()),
                ("AWS_ACCESS_KEY_ID", "test".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ],
            Kind::Nats => vec![("VERDIGRIS_BUS_URL", self.url())],
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where servers for tests are installed; none, with a word about it, where one is not.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn executable(test: &str, path: &str) -> Option<PathBuf> {
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
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    free.expect("loopback has a free port").port()
}

/// Makes the bucket; whether it is there.
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

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary folder takes a folder");
    for entry in fs::read_dir(from).expect("a folder is listed") {
        let path = entry.expect("a folder is listed").path();
        let copy = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("a file is copied");
        }
    }
}
