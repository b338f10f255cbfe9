//! `ingest`, `patch` and `delete`: events in, and what became of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use verdigris_proto::ingest::{GetProgressResponse, IngestResponse};
use verdigris_runtime::clock::Clock;

use super::CommandError;
use super::batches::{self, Batch, STANDARD_INPUT};
use super::lines::Refused;
use super::rejected::{Rejected, RejectedPath};
use super::sending::send;
use super::waiting::{self, Range};
use crate::arguments::{Ingest, Wait};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{Output, pairs};

/// Refusals of `delete` that are told one by one.
const REFUSALS_SHOWN: usize = 100;

/// What became of the events. Counts that nobody waited for are not known.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) applied: Option<u64>,
    pub(crate) unchanged: Option<u64>,
    pub(crate) stale: Option<u64>,
    pub(crate) set_aside: Option<u64>,
    /// Position of the last accepted event.
    pub(crate) position: Option<String>,
    pub(crate) generation: Option<u64>,
    pub(crate) seconds: f64,
    /// Whether all accepted events are searchable, where that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) searchable: Option<bool>,
    /// Why they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// Where the refused lines are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rejected_file: Option<PathBuf>,
    /// Refused events of `patch` and `delete`, which have no file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rejections: Vec<Refusal>,
}

/// A refused event of `patch` or `delete`.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Sends files, waits where that was asked, and sums up.
pub(crate) async fn run(
    arguments: &Ingest,
    collection: &str,
    data: &Path,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let began = Instant::now();
    let mut intake = Intake {
        collection,
        client,
        range: Range {
            collection: collection.to_owned(),
            first: String::new(),
            last: String::new(),
        },
        accepted: 0,
        rejected: Rejected::begin(rejected_path(arguments, data, Clock::system().now_ns()))?,
    };
    let taken = intake.take_files(&arguments.files, output).await;
    let rejected_file = intake.rejected.finish()?.map(Path::to_owned);
    taken.map_err(|error| intake.interrupted(error))?;
    let mut summary = Summary {
        accepted: intake.accepted,
        rejected: intake.rejected.count(),
        rejected_file,
        ..Summary::default()
    };
    settle(&mut summary, &intake.range, &arguments.wait, client, output).await;
    finish(summary, began, output)
}

/// Sends a handful of events that `patch` or `delete` made, each with its document's id.
pub(crate) async fn send_made(
    events: Vec<(String, Bytes)>,
    collection: &str,
    wait: &Wait,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let began = Instant::now();
    let mut range = Range {
        collection: collection.to_owned(),
        first: String::new(),
        last: String::new(),
    };
    let mut summary = Summary::default();
    for batch in events.chunks(batches::BATCH_EVENTS) {
        let payloads: Vec<Bytes> = batch.iter().map(|(_, event)| event.clone()).collect();
        let answer = send(client, collection, &payloads).await?;
        note_positions(&mut range, &answer);
        summary.accepted += answer.accepted;
        summary.rejected += answer.rejections.len() as u64;
        for rejection in answer.rejections.into_iter().take(REFUSALS_SHOWN) {
            let id = batch
                .get(rejection.index as usize)
                .map(|(id, _)| id.clone())
                .unwrap_or_default();
            output.note(&format!(
                "{id} was refused: {} ({})",
                rejection.message, rejection.reason
            ));
            summary.rejections.push(Refusal {
                id,
                reason: rejection.reason,
                message: rejection.message,
            });
        }
    }
    settle(&mut summary, &range, wait, client, output).await;
    finish(summary, began, output)
}

/// Waits for events that were accepted, and notes what became of them.
pub(crate) async fn settle(summary: &mut Summary, range: &Range, wait: &Wait, client: &Client, output: &Output) {
    summary.position = Some(range.last.clone()).filter(|last| !last.is_empty());
    if !wait.wait {
        return;
    }
    if range.last.is_empty() {
        // Nothing to wait for; the generation is that of whatever is there.
        let progress = waiting::progress(client, range).await;
        let generation = progress.as_ref().map(|now| now.generation);
        count(summary, &progress.unwrap_or_default());
        summary.generation = generation;
        summary.searchable = Some(true);
        return;
    }
    let waited = waiting::wait(client, range, Duration::from_secs(wait.timeout), output).await;
    if let Some(progress) = &waited.progress {
        count(summary, progress);
    }
    summary.searchable = Some(waited.not_searchable.is_none());
    (summary.reason, summary.message) = waited.not_searchable.unzip();
}

fn count(summary: &mut Summary, progress: &GetProgressResponse) {
    summary.generation = Some(progress.generation);
    summary.applied = Some(progress.applied);
    summary.unchanged = Some(progress.unchanged);
    summary.stale = Some(progress.stale);
    summary.set_aside = Some(progress.set_aside);
}

/// Prints the summary, and says how the process ends.
pub(crate) fn finish(mut summary: Summary, began: Instant, output: &Output) -> Result<Exit, CommandError> {
    summary.seconds = (began.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0;
    output.answer(&summary, shown)?;
    if summary.set_aside.unwrap_or(0) > 0 {
        output.note("events were set aside: see `verdigris dead-letters list`");
    }
    Ok(summary.exit())
}

// === impl Summary ===

impl Summary {
    /// How the process ends. Not being searchable outranks refusals: while the one lasts, the other's count is not
    /// final.
    pub(crate) fn exit(&self) -> Exit {
        if self.searchable == Some(false) {
            Exit::NotSearchable
        } else if self.rejected > 0 || self.set_aside.unwrap_or(0) > 0 {
            Exit::Refused
        } else {
            Exit::Done
        }
    }

    /// Whether all is searchable, for people; empty where nobody waited.
    pub(crate) fn searchable_shown(&self) -> String {
        match (self.searchable, &self.reason, &self.message) {
            (None, ..) => String::new(),
            (Some(false), Some(reason), Some(message)) => format!("no: {message} ({reason})"),
            (Some(false), ..) => "no".to_owned(),
            (Some(true), ..) => "yes".to_owned(),
        }
    }
}

fn shown(summary: &Summary) -> String {
    let number = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    let rejected = match &summary.rejected_file {
        Some(file) => format!("{}, with reasons in {}", summary.rejected, file.display()),
        None => summary.rejected.to_string(),
    };
    pairs(&[
        ("accepted", summary.accepted.to_string()),
        ("rejected", rejected),
        ("applied", number(summary.applied)),
        ("unchanged", number(summary.unchanged)),
        ("stale", number(summary.stale)),
        ("set aside", number(summary.set_aside)),
        ("searchable", summary.searchable_shown()),
        ("generation", number(summary.generation)),
        ("position", summary.position.clone().unwrap_or_default()),
        ("seconds", format!("{:.1}", summary.seconds)),
    ])
}

/// What an answer says about a range of positions; only the first answer with an accepted event moves its start.
fn note_positions(range: &mut Range, answer: &IngestResponse) {
    if range.first.is_empty() {
        range.first.clone_from(&answer.first_position);
    }
    if !answer.last_position.is_empty() {
        range.last.clone_from(&answer.last_position);
    }
}

fn rejected_path(arguments: &Ingest, data: &Path, now_ns: i64) -> RejectedPath {
    if let Some(path) = &arguments.rejected {
        return RejectedPath::Chosen(path.clone());
    }
    let file = arguments
        .files
        .first()
        .map(String::as_str)
        .filter(|file| *file != STANDARD_INPUT);
    let name = file
        .and_then(|file| Path::new(file).file_stem())
        .map_or("stdin".into(), |stem| stem.to_string_lossy());
    let time = Timestamp::from_nanosecond(i128::from(now_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    let stem = format!("{name}-{}", time.strftime("%Y%m%dT%H%M%SZ"));
    RejectedPath::New {
        folder: data.join("rejected"),
        stem,
    }
}

/// Files on their way into the log.
struct Intake<'a> {
    collection: &'a str,
    client: &'a Client,
    range: Range,
    accepted: u64,
    rejected: Rejected,
}

// === impl Intake ===

impl Intake<'_> {
    async fn take_files(&mut self, files: &[String], output: &Output) -> Result<(), CommandError> {
        let total = batches::bytes_of(files);
        let template = match total {
            Some(_) => "{bar:30} {bytes}/{total_bytes} {msg} [{elapsed_precise}, {eta} left]",
            None => "{spinner} {bytes} {msg} [{elapsed_precise}]",
        };
        let bar = output.progress(total, template);
        let mut batches = batches::read(files.to_vec());
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            self.take(&batch).await?;
            bar.inc(batch.bytes_read);
            bar.set_message(format!("{} accepted", self.accepted));
        }
        bar.finish_and_clear();
        Ok(())
    }

    async fn take(&mut self, batch: &Batch) -> Result<(), CommandError> {
        for (line, refused) in &batch.refused {
            self.rejected.write(&batch.file, *line, refused)?;
        }
        if batch.events.is_empty() {
            return Ok(());
        }
        let answer = send(self.client, self.collection, &batch.events).await?;
        note_positions(&mut self.range, &answer);
        self.accepted += answer.accepted;
        for rejection in answer.rejections {
            let at = rejection.index as usize;
            let text = batch
                .events
                .get(at)
                .map(|event| String::from_utf8_lossy(event).into_owned());
            let refused = Refused {
                reason: rejection.reason,
                message: rejection.message,
                text: text.unwrap_or_default(),
            };
            self.rejected
                .write(&batch.file, batch.lines.get(at).copied().unwrap_or_default(), &refused)?;
        }
        Ok(())
    }

    fn interrupted(&self, source: CommandError) -> CommandError {
        if self.accepted == 0 {
            return source;
        }
        let (accepted, position) = (self.accepted, self.range.last.clone());
        CommandError::Interrupted {
            accepted,
            position,
            source: Box::new(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use crate::output::tests::captured;

    fn summary() -> Summary {
        Summary {
            accepted: 3,
            applied: Some(2),
            unchanged: Some(1),
            stale: Some(0),
            set_aside: Some(0),
            position: Some("0000abcd-3".to_owned()),
            generation: Some(7),
            searchable: Some(true),
            ..Summary::default()
        }
    }

    #[test]
    fn exits_say_whether_all_was_accepted_and_is_searchable() {
        assert_eq!(summary().exit(), Exit::Done);
        assert_eq!(
            (Summary {
                searchable: None,
                ..summary()
            })
            .exit(),
            Exit::Done
        );
        assert_eq!(
            (Summary {
                rejected: 1,
                ..summary()
            })
            .exit(),
            Exit::Refused
        );
        assert_eq!(
            (Summary {
                set_aside: Some(1),
                ..summary()
            })
            .exit(),
            Exit::Refused
        );
        assert_eq!(
            (Summary {
                searchable: Some(false),
                ..summary()
            })
            .exit(),
            Exit::NotSearchable
        );
        assert_eq!(
            (Summary {
                rejected: 1,
                searchable: Some(false),
                ..summary()
            })
            .exit(),
            Exit::NotSearchable
        );
    }

    #[test]
    fn the_summary_has_all_keys_of_the_contract() {
        let (output, answers, _) = captured(Format::Json);
        finish(summary(), Instant::now(), &output).expect("written");
        let printed: serde_json::Value = serde_json::from_str(&answers.text()).expect("one JSON object");
        let keys = "accepted rejected applied unchanged stale set_aside position generation seconds";
        for key in keys.split(' ') {
            assert!(printed.get(key).is_some(), "{key} is missing in {printed}");
        }
        assert_eq!((&printed["accepted"], &printed["generation"]), (&3.into(), &7.into()));
    }

    #[test]
    fn people_see_what_became_of_their_events_and_where_the_refused_are() {
        let refused = Summary {
            rejected: 1,
            rejected_file: Some("d/rejected/feed.jsonl".into()),
            searchable: Some(false),
            reason: Some("PUBLISHING_HELD".to_owned()),
            message: Some("held by sre".to_owned()),
            ..summary()
        };
        let expect = "\
accepted    3
rejected    1, with reasons in d/rejected/feed.jsonl
applied     2
unchanged   1
stale       0
set aside   0
searchable  no: held by sre (PUBLISHING_HELD)
generation  7
position    0000abcd-3
seconds     0.0";
        assert_eq!(shown(&refused), expect);
    }

    #[test]
    fn refused_lines_go_to_a_file_named_after_the_source_and_the_time() {
        let arguments = |file: &str| Ingest {
            files: vec![file.to_owned()],
            wait: Wait {
                wait: false,
                timeout: 1,
            },
            rejected: None,
        };
        let stem = |file: &str| match rejected_path(&arguments(file), Path::new("d"), 1_777_640_400_000_000_000) {
            RejectedPath::New { folder, stem } => (folder, stem),
            RejectedPath::Chosen(path) => panic!("nobody chose {}", path.display()),
        };
        assert_eq!(
            stem("feeds/today.jsonl"),
            (PathBuf::from("d/rejected"), "today-20260501T130000Z".to_owned())
        );
        assert_eq!(stem("-").1, "stdin-20260501T130000Z");
    }
}
