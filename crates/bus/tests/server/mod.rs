//! A real NATS server as a child process, on loopback, a free port and a temporary folder.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use async_nats::jetstream;
use verdigris_bus::nats::{NatsBus, NatsOptions};

/// A server that ends with this value.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
}

/// The server's executable, or why there is none.
fn executable() -> Result<PathBuf, String> {
    let cache = std::env::var_os("VERDIGRIS_CACHE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.cache"),
        PathBuf::from,
    );
    let path = cache.join("servers/nats/bin/nats-server");
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is not there; scripts/servers installs it", path.display()))
    }
}

impl Server {
    /// Starts a server; nothing, with a word on it, where there is no executable.
    pub(crate) fn start(test: &str, more: &str) -> Option<Self> {
        Self::start_synced(test, more, true)
    }

    /// The same, with an fsync for each message or every two minutes.
    pub(crate) fn start_synced(test: &str, more: &str, always: bool) -> Option<Self> {
        if let Err(reason) = executable() {
            eprintln!("skipped: {test}: {reason}");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let configuration = format!(
            "listen: \"127.0.0.1:{port}\"\nmax_payload: 32MB\nmax_pending: 128MB\n\
             jetstream {{ store_dir: {:?}, sync_interval: {}, max_file_store: 4GB }}\n{more}\n",
            folder.path().join("jetstream"),
            if always { "always" } else { "2m" },
        );
        std::fs::write(folder.path().join("server.conf"), configuration).expect("written");
        let server = Self {
            folder,
            port,
            child: Mutex::new(None),
        };
        server.run();
        Some(server)
    }

    /// Starts it again on the same port and folder, and returns when it says that it is ready.
    pub(crate) fn run(&self) {
        let mut child = Command::new(executable().expect("found before"))
            .arg("-c")
            .arg(self.folder.path().join("server.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = Vec::new();
        loop {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("the server ended: {}", said.join("\n")));
            if line.contains("Server is ready") {
                break;
            }
            said.push(line);
        }
        // Nobody reads on, so somebody must: a full pipe would stop the server.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        *self.child.lock().expect("nothing panics with it") = Some(child);
    }

    /// Ends it at once, as kill -9 does.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().expect("nothing panics with it").take() {
            child.kill().expect("it is ours");
            child.wait().expect("it ends");
        }
    }

    /// A copy of its files, to be taken and put back while it is not running.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder");
        copy_folder(&self.folder.path().join("jetstream"), copy.path());
        copy
    }

    /// Puts its files back to a copy.
    pub(crate) fn put_back(&self, copy: &tempfile::TempDir) {
        let files = self.folder.path().join("jetstream");
        std::fs::remove_dir_all(&files).expect("removed");
        copy_folder(copy.path(), &files);
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn options(&self) -> NatsOptions {
        NatsOptions::new(self.url())
    }

    pub(crate) async fn bus(&self) -> NatsBus {
        NatsBus::connect(self.options()).await.expect("a bus")
    }

    /// Another client's view of the same server, as a catalog system or an operator has it.
    pub(crate) async fn outside(&self) -> jetstream::Context {
        let client = async_nats::connect(self.url()).await.expect("connected");
        jetstream::new(client)
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let path = entry.expect("listed").path();
        let copy = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).expect("copied");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
