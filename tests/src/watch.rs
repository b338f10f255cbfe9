//! Processes that are waited for under a watchdog: one that hangs is killed, and what it said becomes a failure.
//!
//! Deliberately absent: any judgement of speed. The limit is far beyond what a busy machine needs.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long any process may take to do what was asked of it.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Kills a process that nobody called off in time.
#[derive(Debug)]
pub struct Watchdog {
    call_off: Sender<()>,
    watching: JoinHandle<bool>,
}

impl Watchdog {
    /// Watches a child that has not been waited for yet.
    #[must_use]
    pub fn over(child: &Child, limit: Duration) -> Self {
        // A handle of the process, since its number may be another's once it has been waited for.
        let process =
            pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("the child has not been waited for");
        let (call_off, called_off) = channel();
        let watching = thread::spawn(move || {
            let is_late = called_off.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            // It may have ended in this very moment; then there is nobody to kill.
            is_late && pidfd_send_signal(process, Signal::KILL).is_ok()
        });
        Self { call_off, watching }
    }

    /// Ends the watch; whether it had to kill.
    #[must_use]
    pub fn call_off(self) -> bool {
        drop(self.call_off);
        self.watching.join().expect("the watchdog does not panic")
    }
}

/// What a process said until it ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// Whether it had to be killed because it did not end.
    pub hung: bool,
}

/// Runs a command to its end, or to the end of this patience.
#[must_use]
pub fn run(command: &mut Command, patience: Duration) -> Ended {
    // Files, not pipes: a grandchild that lives on could hold a pipe open for ever.
    let file = || tempfile::tempfile().expect("the temporary folder takes a file");
    let (mut out, mut err) = (file(), file());
    let to = |file: &File| Stdio::from(file.try_clone().expect("a file has a second handle"));
    let mut child = command
        .stdout(to(&out))
        .stderr(to(&err))
        .spawn()
        .expect("the program starts");
    let watchdog = Watchdog::over(&child, patience);
    let status = child.wait().expect("the child is ours");
    Ended {
        status,
        out: text_of(&mut out),
        err: text_of(&mut err),
        hung: watchdog.call_off(),
    }
}

fn text_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a file can be read again");
    file.read_to_end(&mut bytes).expect("a file of ours is readable");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_hangs_is_killed_and_what_it_said_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo said >&2; exec sleep 3600"]);
        let ended = run(&mut command, Duration::from_millis(300));
        assert!(ended.hung);
        assert_eq!(ended.err, "said\n");
    }

    #[test]
    fn a_process_that_ends_is_let_be() {
        let ended = run(Command::new("sh").args(["-c", "echo done; exit 3"]), PATIENCE);
        assert_eq!(
            (ended.status.code(), ended.out.as_str(), ended.hung),
            (Some(3), "done\n", false)
        );
    }
}
