//! The real executable as a process: started, asked through its command line, stopped or killed by its id.
//! Deliberately absent: any look inside the process; what a test knows, a script could know.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::watch::{self, PATIENCE, Watchdog};

/// How long a build may take that changed everything.
const BUILD_PATIENCE: Duration = Duration::from_secs(1_800);

/// What variables begin with that cargo sets for a test.
const OF_THE_TEST: [&str; 5] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_CRATE_",
    "CARGO_BIN_",
    "CARGO_PRIMARY_",
];

/// Settings of a collection that needs no model.
pub const HASH_SETTINGS: &str = r#"{"embedder":{"provider":"hash","dimension":64}}"#;

/// The executable beside the test's own target folder, as new as the sources.
///
/// Each test process asks cargo once, whatever lies there: a test of an executable of yesterday proves nothing. Cargo's
/// own lock keeps two of them apart, and where nothing changed it is a matter of a blink.
#[must_use]
pub fn executable() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().expect("a running test has a path");
        let profile = test.ancestors().nth(2).expect("tests lie in PROFILE/deps");
        let target = profile.parent().expect("the profile lies in the target folder");
        let name = profile
            .file_name()
            .and_then(|name| name.to_str())
            .expect("profiles are words");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--offline", "--workspace", "--bins", "--profile"])
            .arg(if name == "debug" { "dev" } else { name })
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target);
        // What cargo tells a test of its own package, a build script may take for a change, and half of the dependencies
        // would be built again each time (ring's does).
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if OF_THE_TEST.iter().any(|prefix| name.starts_with(prefix)) {
                build.env_remove(&*name);
            }
        }
        let built = watch::run(&mut build, BUILD_PATIENCE);
        assert!(built.status.success(), "the executable was not built: {}", built.err);
        profile.join("verdigris")
    })
}

/// Standard error of all servers on a folder.
const LOG: &str = "up.err";

/// The cache folder with the embedding model, where it was fetched.
#[must_use]
pub fn model_cache() -> Option<PathBuf> {
    let of_repository = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let cache = std::env::var_os("VERDIGRIS_CACHE").map_or_else(of_repository, PathBuf::from);
    let is_there = cache.join("models/all-minilm-l6-v2/model.safetensors").exists();
    is_there.then_some(cache)
}

/// A folder of the data sets that lie beside the repository on some machines.
#[must_use]
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(name);
    path.exists().then_some(path)
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// The JSON of standard output, or of standard error where that is empty; null without JSON.
    pub json: Value,
    /// Both outputs, for messages.
    pub text: String,
}

impl Answer {
    /// The answer, which must have ended with this exit code.
    #[must_use]
    pub fn with_code(self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json
    }

    /// The reason of an error.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.json["error"]["reason"].as_str().unwrap_or("")
    }
}

/// A data folder, removed at the end.
#[derive(Debug)]
pub struct Folder {
    root: TempDir,
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// A fresh folder.
    #[must_use]
    pub fn new() -> Self {
        let root = TempDir::new().expect("the temporary folder takes a folder");
        Self { root }
    }

    /// The data folder itself.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Writes a file beside the data folder.
    #[must_use]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.root.path().join(name);
        fs::write(&path, content).expect("the temporary folder takes a file");
        path.to_string_lossy().into_owned()
    }

    /// A command on this folder: on its server when one runs, otherwise on the folder itself.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Answer {
        self.answer(self.command().args(arguments))
    }

    /// The executable on this folder, for tests that give it another environment.
    #[must_use]
    pub fn command(&self) -> Command {
        command(&self.data())
    }

    /// Runs such a command to its end.
    #[must_use]
    pub fn answer(&self, command: &mut Command) -> Answer {
        let ended = watch::run(command, PATIENCE);
        let (out, err) = (&ended.out, &ended.err);
        let shown: Vec<_> = command.get_args().collect();
        assert!(!ended.hung, "{shown:?} hung\n{out}{err}\nup said:\n{}", self.log());
        let json = serde_json::from_str(out).or_else(|_| serde_json::from_str(err.lines().last().unwrap_or("")));
        let code = ended.status.code().unwrap_or(-1);
        Answer {
            code,
            json: json.unwrap_or(Value::Null),
            text: format!("{shown:?} ended with {code}\n{out}{err}"),
        }
    }

    /// What all servers on this folder said on standard error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join(LOG)).unwrap_or_default()
    }

    /// Makes the collection `products` with the hash embedder.
    pub fn create_collection(&self) {
        let settings = self.file("settings.json", HASH_SETTINGS);
        let made = self.run(&["collections", "create", "products", "--settings", &settings]);
        assert_eq!(made.code, 0, "{}", made.text);
    }

    /// Starts a server and waits for its addresses.
    #[must_use]
    pub fn up(&self) -> Server {
        self.try_up("127.0.0.1:0")
            .unwrap_or_else(|err| panic!("up ended: {err}"))
    }

    /// Starts a server on this address.
    ///
    /// # Errors
    /// What it said when it ended before it was ready.
    pub fn try_up(&self, grpc: &str) -> Result<Server, String> {
        self.try_up_by(self.command().args(["up", "--grpc", grpc, "--http", "127.0.0.1:0"]))
    }

    /// Starts a server by a command of [`Folder::command`].
    ///
    /// # Errors
    /// What it said when it ended before it was ready.
    pub fn try_up_by(&self, up: &mut Command) -> Result<Server, String> {
        let before = self.log().len();
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.root.path().join(LOG))
            .expect("the temporary folder takes a file");
        let mut child = up
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the executable starts");
        let watchdog = Watchdog::over(&child, PATIENCE);
        let mut out = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("standard output is text");
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        let admin = ready["admin"].as_str().map(str::to_owned);
        // A process that has no searches and no events is spoken to where it is administered.
        let grpc = ready["grpc"].as_str().or(admin.as_deref());
        if let (Some(grpc), Some(http)) = (grpc, ready["http"].as_str()) {
            let hung = watchdog.call_off();
            assert!(!hung, "up was too slow to start\n{}", self.log());
            return Ok(Server {
                child,
                url: grpc.to_owned(),
                admin: admin.clone(),
                http: http.to_owned(),
            });
        }
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("standard output is text");
        let status = child.wait().expect("the child is ours");
        let log = self.log();
        assert!(!watchdog.call_off(), "up neither served nor ended\n{log}");
        Err(format!("{status}: {line}{rest}{}", &log[before..]))
    }

    /// Every file below a folder of the data folder; empty when the folder is not there.
    #[must_use]
    pub fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.data().join(below)];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(executable());
    // What a developer has set for daily work must not change what a test does; the model's folder may stay.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("VERDIGRIS_") && name != "VERDIGRIS_CACHE" {
            command.env_remove(&*name);
        }
    }
    command.arg("--data").arg(data).arg("--json").stdin(Stdio::null());
    command
}

/// A running `up`; told to end when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Address of gRPC.
    pub url: String,
    /// Address of administration, where that is a port of its own.
    pub admin: Option<String>,
    /// Address of metrics and health.
    pub http: String,
}

impl Server {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        let (status, hung) = self.end();
        assert!(!hung, "up did not end after SIGTERM");
        status
    }

    fn end(&mut self) -> (ExitStatus, bool) {
        if let Ok(Some(status)) = self.child.try_wait() {
            return (status, false);
        }
        kill_process(self.pid(), Signal::TERM).expect("the child has not been waited for");
        self.awaited()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill_process(self.pid(), Signal::KILL).expect("the child has not been waited for");
        }
        let _killed = self.wait();
    }

    /// Waits for a process that was killed.
    ///
    /// # Panics
    /// When nobody killed it after all.
    pub fn wait(&mut self) -> ExitStatus {
        let (status, hung) = self.awaited();
        assert!(!hung, "up was to be killed, but lived on");
        status
    }

    fn awaited(&mut self) -> (ExitStatus, bool) {
        if let Ok(Some(status)) = self.child.try_wait() {
            return (status, false);
        }
        let watchdog = Watchdog::over(&self.child, PATIENCE);
        let status = self.child.wait().expect("the child is ours");
        (status, watchdog.call_off())
    }

    /// The value of a metric, summed over its labels; nothing when it was never counted.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let address = self.http.strip_prefix("http://").expect("an address of HTTP");
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a limit that is not zero");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("metrics are text");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let ends = rest.starts_with(' ') || rest.starts_with('{');
            ends.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that has failed already must not be ended by a second panic.
        let (_, hung) = self.end();
        assert!(!hung || std::thread::panicking(), "up did not end after SIGTERM");
    }
}
