//! The executable as a process on a data folder: started, looked at from outside, told to end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A running `up`; told to end when dropped.
pub(crate) struct Up {
    child: Child,
    /// Address of gRPC.
    pub(crate) url: String,
    /// Its Unix domain socket.
    pub(crate) socket: String,
    /// From the start of the process until it said that it is ready.
    pub(crate) ready_after: Duration,
}

/// Memory of a process in KiB, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Its own: heap and stacks.
    pub(crate) anonymous: u64,
    /// Mapped files; the page cache holds these bytes in any case.
    pub(crate) file: u64,
    /// The most that it ever had of both.
    pub(crate) peak: u64,
}

impl Up {
    /// Starts on a folder and waits until it answers. One worker thread for gRPC, as clients have one.
    pub(crate) fn start(executable: &Path, data: &Path) -> anyhow::Result<Self> {
        Self::start_with(executable, data, &[])
    }

    /// The same with variables that set configuration keys.
    pub(crate) fn start_with(executable: &Path, data: &Path, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let began = Instant::now();
        let log = std::fs::File::create(data.with_extension("log"))?;
        let mut child = Command::new(executable)
            .env_remove("VERDIGRIS_SERVER")
            .env("TOKIO_WORKER_THREADS", "1")
            .envs(variables.iter().copied())
            .arg("--data")
            .arg(data)
            .args([
                "--json",
                "up",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--socket",
            ])
            .arg(data.join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", executable.display()))?;
        let out = child.stdout.take().context("standard output is piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let ready_after = began.elapsed();
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("up is not ready; see {}.log", data.display()))?;
        let said = |name: &str| anyhow::Ok(ready[name].as_str().context("up says its addresses")?.to_owned());
        let (url, socket) = (said("grpc")?, said("socket")?);
        Ok(Self {
            child,
            url,
            socket,
            ready_after,
        })
    }

    pub(crate) fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
                .unwrap_or(0)
        };
        Memory {
            anonymous: of("RssAnon:"),
            file: of("RssFile:"),
            peak: of("VmHWM:"),
        }
    }

    /// From here on, the most that it ever had is counted anew.
    pub(crate) fn forget_peak(&self) -> anyhow::Result<()> {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").context("the kernel counts it")
    }

    /// SIGTERM, and waits for the clean end.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            Command::new("kill").arg(self.child.id().to_string()).status()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Nothing can be done about an end that went wrong, and the report is printed already.
        let _ = self.stop();
    }
}
