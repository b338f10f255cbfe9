//! Files of events cut into batches by a thread of their own: reading goes on while a batch is on its way, and stops
//! when the server is slower, so that memory stays flat for a file of any size.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use tokio::sync::mpsc;
use verdigris_core::rejection::Rejection;

use super::CommandError;
use super::lines::{Lines, Refused};

/// Events of one batch: one commit of the log, so that waiting for the disk is shared by many.
pub(crate) const BATCH_EVENTS: usize = 500;
/// Bytes of one batch; one event may go beyond it.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// Batches that wait for the one on its way.
const BATCHES_AHEAD: usize = 4;
/// The name of standard input.
pub(crate) const STANDARD_INPUT: &str = "-";

/// Events of one file, in its order.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) file: Arc<str>,
    pub(crate) events: Vec<Bytes>,
    /// The line of each event.
    pub(crate) lines: Vec<u64>,
    /// Lines that cannot be sent.
    pub(crate) refused: Vec<(u64, Refused)>,
    /// Bytes of the file that this batch took.
    pub(crate) bytes_read: u64,
}

/// Batches of files, one file after the other. Dropping the receiver ends the thread at its next batch.
pub(crate) fn read(files: Vec<String>) -> mpsc::Receiver<Result<Batch, CommandError>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    // Not a task of the runtime: a read from a terminal cannot be interrupted and would hold up the process's end.
    let reader = thread::Builder::new().name("read-events".to_owned());
    let failed = sender.clone();
    let spawned = reader.spawn(move || {
        for file in files {
            let read = read_file(&file, &sender);
            if let Err(source) = read {
                let _ = sender.blocking_send(Err(CommandError::Read { path: file, source }));
                return;
            }
        }
    });
    if let Err(source) = spawned {
        let _ = failed.try_send(Err(CommandError::Read {
            path: "the input".to_owned(),
            source,
        }));
    }
    receiver
}

/// Bytes of all files together, where that is known beforehand.
pub(crate) fn bytes_of(files: &[String]) -> Option<u64> {
    let bytes = |file: &String| {
        let metadata = std::fs::metadata(file).ok()?;
        metadata.is_file().then_some(metadata.len())
    };
    files.iter().map(bytes).sum()
}

fn read_file(file: &str, sender: &mpsc::Sender<Result<Batch, CommandError>>) -> io::Result<()> {
    if file == STANDARD_INPUT {
        cut(file, Lines::new(io::stdin()), sender)
    } else {
        cut(file, Lines::new(File::open(file)?), sender)
    }
}

/// An element of an array that is a list again. A server would take it for a batch of its own, and every refusal
/// after it would be told of the wrong line.
fn list_in_list(event: &[u8]) -> Option<Refused> {
    let rejection = Rejection::NotAnObject { found: "a list" };
    event.starts_with(b"[").then(|| Refused {
        reason: rejection.reason().to_owned(),
        message: rejection.to_string(),
        text: String::from_utf8_lossy(event).into_owned(),
    })
}

/// Gathers what a file holds into batches.
struct Cutter<'a> {
    sender: &'a mpsc::Sender<Result<Batch, CommandError>>,
    batch: Batch,
    /// Bytes of what the batch holds, texts of refused lines included.
    bytes: usize,
    /// Bytes of the file that batches before this one took.
    bytes_sent: u64,
}

/// The receiver is gone: whoever sends batches has ended, and tells why.
struct Gone;

fn cut<R: Read>(file: &str, mut lines: Lines<R>, sender: &mpsc::Sender<Result<Batch, CommandError>>) -> io::Result<()> {
    let mut cutter = Cutter {
        sender,
        batch: Batch::empty(Arc::from(file)),
        bytes: 0,
        bytes_sent: 0,
    };
    while let Some(line) = lines.next_line()? {
        let read = lines.bytes();
        let mut sent = Ok(());
        match line.events {
            Err(refused) => sent = cutter.refuse(line.number, refused, read),
            Ok(events) => {
                for event in events {
                    sent = sent.and_then(|()| match list_in_list(&event) {
                        Some(refused) => cutter.refuse(line.number, refused, read),
                        None => cutter.add(line.number, event.into(), read),
                    });
                }
            }
        }
        // What comes from a program or a person goes on as it comes, not when a whole batch has gathered.
        if file == STANDARD_INPUT && lines.may_wait() {
            sent = sent.and_then(|()| cutter.send(read));
        }
        if sent.is_err() {
            return Ok(());
        }
    }
    // Nothing follows that a receiver that is gone could miss.
    let _ = cutter.send(lines.bytes());
    Ok(())
}

// === impl Cutter ===

impl Cutter<'_> {
    fn add(&mut self, line: u64, event: Bytes, bytes_read: u64) -> Result<(), Gone> {
        self.make_room(event.len(), bytes_read)?;
        self.batch.lines.push(line);
        self.batch.events.push(event);
        Ok(())
    }

    fn refuse(&mut self, line: u64, refused: Refused, bytes_read: u64) -> Result<(), Gone> {
        self.make_room(refused.text.len(), bytes_read)?;
        self.batch.refused.push((line, refused));
        Ok(())
    }

    fn make_room(&mut self, bytes: usize, bytes_read: u64) -> Result<(), Gone> {
        let held = self.batch.events.len() + self.batch.refused.len();
        if held >= BATCH_EVENTS || (held > 0 && self.bytes + bytes > BATCH_BYTES) {
            self.send(bytes_read)?;
        }
        self.bytes += bytes;
        Ok(())
    }

    fn send(&mut self, bytes_read: u64) -> Result<(), Gone> {
        let next = Batch::empty(self.batch.file.clone());
        let mut full = std::mem::replace(&mut self.batch, next);
        full.bytes_read = bytes_read - self.bytes_sent;
        (self.bytes, self.bytes_sent) = (0, bytes_read);
        self.sender.blocking_send(Ok(full)).map_err(|_| Gone)
    }
}

// === impl Batch ===

impl Batch {
    fn empty(file: Arc<str>) -> Self {
        Self {
            file,
            events: Vec::new(),
            lines: Vec::new(),
            refused: Vec::new(),
            bytes_read: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn batches(text: &str) -> Vec<Batch> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, text).expect("written");
        let mut receiver = read(vec![path.to_str().expect("text").to_owned()]);
        let mut all = Vec::new();
        while let Some(batch) = receiver.recv().await {
            all.push(batch.expect("readable"));
        }
        all
    }

    #[tokio::test]
    async fn batches_are_bounded_by_events_and_keep_each_events_line() {
        let text = "{}\n".repeat(BATCH_EVENTS) + "\n[{},{}]\n";
        let all = batches(&text).await;
        assert_eq!(
            all.iter().map(|batch| batch.events.len()).collect::<Vec<_>>(),
            [BATCH_EVENTS, 2]
        );
        assert_eq!(all[1].lines, [BATCH_EVENTS as u64 + 2; 2]);
        assert_eq!(all.iter().map(|batch| batch.bytes_read).sum::<u64>(), text.len() as u64);
    }

    #[tokio::test]
    async fn batches_are_bounded_by_bytes() {
        let line = format!("\"{}\"\n", "a".repeat(BATCH_BYTES / 2));
        let all = batches(&line.repeat(3)).await;
        assert_eq!(
            all.iter().map(|batch| batch.events.len()).collect::<Vec<_>>(),
            [1, 1, 1]
        );
    }

    #[tokio::test]
    async fn refused_lines_do_not_gather_without_bound() {
        let line = format!("[\"{}\n", "a".repeat(BATCH_BYTES - 10));
        let all = batches(&line.repeat(5)).await;
        assert!(
            all.iter().all(|batch| batch.refused.len() <= 2),
            "each holds two at most"
        );
        assert_eq!(all.iter().map(|batch| batch.refused.len()).sum::<usize>(), 5);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let mut receiver = read(vec!["not/there.jsonl".to_owned()]);
        let error = receiver.recv().await.expect("an answer").expect_err("no file");
        assert_eq!(error.reason(), "FILE_UNREADABLE");
        assert!(
            error.message().starts_with("not/there.jsonl cannot be read: "),
            "{}",
            error.message()
        );
    }
}
