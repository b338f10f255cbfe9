//! The real executable as a process: started, asked through its command line, stopped or killed by its id.
//! Deliberately absent: any look inside the process; what a test knows, a script could know.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Settings of a collection that needs no model.
pub const HASH_SETTINGS: &str = r#"{"embedder":{"provider":"hash","dimension":64}}"#;

/// The executable beside the test's own target folder; built once when it is missing.
#[must_use]
pub fn executable() -> PathBuf {
    static BUILD: Once = Once::new();
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test.ancestors().nth(2).expect("tests lie in PROFILE/deps");
    let path = profile.join("verdigris");
    BUILD.call_once(|| {
        if !path.exists() {
            let target = profile.parent().expect("the profile lies in the target folder");
            let status = Command::new(env!("CARGO"))
                .args(["build", "-p", "verdigris", "--bins"])
                .env("CARGO_TARGET_DIR", target)
                .status()
                .expect("cargo built this test, so it runs");
            assert!(status.success(), "the executable was not built");
        }
    });
    path
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
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.root.path().join(name);
        fs::write(&path, content).expect("the temporary folder takes a file");
        path.to_string_lossy().into_owned()
    }

    /// A command on this folder: on its server when one runs, otherwise on the folder itself.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Answer {
        let mut command = command(&self.data());
        let output = command.args(arguments).output().expect("the executable starts");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_str(&out).or_else(|_| serde_json::from_str(err.lines().last().unwrap_or("")));
        let code = output.status.code().unwrap_or(-1);
        let text = format!("{arguments:?} ended with {code}\n{out}{err}");
        Answer {
            code,
            json: json.unwrap_or(Value::Null),
            text,
        }
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
        let mut child = command(&self.data())
            .args(["up", "--grpc", grpc, "--http", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::from(
                fs::File::create(self.root.path().join("up.err")).expect("the temporary folder takes a file"),
            ))
            .spawn()
            .expect("the executable starts");
        let mut out = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("standard output is text");
        match serde_json::from_str::<Value>(&line) {
            Ok(ready) if ready["grpc"].is_string() => Ok(Server {
                child,
                url: ready["grpc"].as_str().unwrap_or_default().to_owned(),
            }),
            _ => {
                let mut rest = String::new();
                out.read_to_string(&mut rest).expect("standard output is text");
                let status = child.wait().expect("the child is ours");
                let err = fs::read_to_string(self.root.path().join("up.err")).unwrap_or_default();
                Err(format!("{status}: {line}{rest}{err}"))
            }
        }
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
    command.env_remove("VERDIGRIS_SERVER").env_remove("VERDIGRIS_CONFIG");
    command.arg("--data").arg(data).arg("--json").stdin(Stdio::null());
    command
}

/// A running `up`; told to end when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Address of gRPC.
    pub url: String,
}

impl Server {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        if let Ok(Some(status)) = self.child.try_wait() {
            return status;
        }
        kill_process(self.pid(), Signal::TERM).expect("the child has not been waited for");
        self.child.wait().expect("the child is ours")
    }

    /// Waits for a process that was killed.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the child is ours")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
