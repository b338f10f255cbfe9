//! What a command says: an answer on standard output, for people or as JSON, and notes and progress on standard error.
//!
//! Nothing else writes to standard output. Text of documents is shown without its control characters, so that a product
//! cannot steer a terminal. There are no colours.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use verdigris_proto::reason::Reason;

use crate::commands::CommandError;
use crate::exit::Exit;

/// Characters of a text that a table shows.
const CELL_CHARACTERS_MAX: usize = 72;

/// Whom answers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables and sentences.
    People,
    /// One JSON object on standard output.
    Json,
}

/// The two streams that a command writes to.
pub(crate) struct Output {
    format: Format,
    answers: Mutex<Box<dyn Write + Send>>,
    notes: Mutex<Box<dyn Write + Send>>,
    progress: bool,
    /// Whether a picture takes the place of the one before.
    redraws: bool,
}

impl Output {
    /// Writes to the process's standard output and standard error.
    pub(crate) fn standard(format: Format) -> Self {
        let progress = format == Format::People && io::stderr().is_terminal();
        Self {
            format,
            answers: Mutex::new(Box::new(io::stdout())),
            notes: Mutex::new(Box::new(io::stderr())),
            progress,
            redraws: io::stdout().is_terminal(),
        }
    }

    /// Whom answers are for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The answer of a command: `value` for programs, `people` for people.
    pub(crate) fn answer<T: Serialize>(
        &self,
        value: &T,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), CommandError> {
        match self.format {
            Format::People => self.text(&people(value)),
            Format::Json => {
                let json = serde_json::to_string(value).expect("answers have text as keys and no failing parts");
                self.text(&json)
            }
        }
    }

    /// Text as it is, with a line's end.
    pub(crate) fn text(&self, text: &str) -> Result<(), CommandError> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let written = answers.write_all(text.trim_end_matches('\n').as_bytes());
        written
            .and_then(|()| answers.write_all(b"\n"))
            .and_then(|()| answers.flush())
            .map_err(CommandError::Output)
    }

    /// A picture of what changes: in the place of the one before on a terminal, below it elsewhere.
    pub(crate) fn picture(&self, text: &str) -> Result<(), CommandError> {
        // Everything away, and up to the first line.
        const CLEAR: &str = "\x1b[2J\x1b[H";
        let (before, after) = if self.redraws { (CLEAR, "") } else { ("", "\n ") };
        self.text(&format!("{before}{text}{after}"))
    }

    /// A hint beside the answer; programs do not get it.
    pub(crate) fn note(&self, text: &str) {
        if self.format == Format::People {
            self.standard_error(text);
        }
    }

    /// Tells an error: `{"error": {"reason", "message"}}` for programs, what happened and what to do for people.
    pub(crate) fn error(&self, reason: &str, message: &str, advice: Option<&str>) {
        match self.format {
            Format::Json => {
                self.standard_error(&json!({"error": {"reason": reason, "message": message}}).to_string());
            }
            Format::People => {
                let mut text = format!("error: {reason}: {}", printable_lines(message));
                if let Some(advice) = advice {
                    text.push_str(&format!("\n  {advice}"));
                }
                if documented(reason) {
                    text.push_str(&format!("\n  see docs/errors/{reason}.md"));
                }
                self.standard_error(&text);
            }
        }
    }

    /// Tells why a command failed, and how the process ends with it.
    pub(crate) fn failure(&self, error: &CommandError) -> Exit {
        let exit = error.exit();
        if exit != Exit::Done {
            self.error(&error.reason(), &error.message(), error.advice());
        }
        exit
    }

    /// A progress bar on standard error over `length` steps; one that is not drawn where nobody would see it.
    pub(crate) fn progress(&self, length: Option<u64>, template: &'static str) -> ProgressBar {
        let target = if self.progress {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template).expect("templates are constants that tests have drawn");
        ProgressBar::with_draw_target(length, target).with_style(style.progress_chars("=> "))
    }

    /// Who reads standard error may be gone; there is nobody left to tell.
    fn standard_error(&self, text: &str) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(notes, "{text}").and_then(|()| notes.flush());
    }
}

/// Whether the project's documents have a page for a reason.
fn documented(reason: &str) -> bool {
    const OWN: [&str; 4] = [
        "SERVER_UNREACHABLE",
        "DEADLINE_EXCEEDED",
        "FILE_UNREADABLE",
        "FILE_UNWRITABLE",
    ];
    OWN.contains(&reason) || Reason::ALL.iter().any(|known| known.as_str() == reason)
}

/// A table for people, as wide as the terminal at most; `right` are the columns of numbers.
pub(crate) fn table(header: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    // A test that runs in a terminal sees what all others see.
    #[cfg(test)]
    table.force_no_tty();
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|text| cell(text)).collect::<Vec<_>>());
    }
    for (column, name) in table.column_iter_mut().zip(header) {
        if right.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and values below each other.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = lines
        .map(|(name, value)| format!("{name:width$}  {}", printable(value)))
        .collect();
    lines.join("\n")
}

/// Text without control characters, on one line.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

/// Text without control characters but the ends of lines: a message may point at a column with a line of its own.
fn printable_lines(text: &str) -> String {
    let keep = |character: char| character == '\n' || !character.is_control();
    text.chars()
        .map(|character| if keep(character) { character } else { ' ' })
        .collect()
}

/// An RFC 3339 time to the second: the rest is for programs.
pub(crate) fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) => {
            let zone = fraction.trim_start_matches(|character: char| character.is_ascii_digit());
            format!("{seconds}{zone}")
        }
        None => time.to_owned(),
    }
}

/// Bytes with a unit.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

fn cell(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(CELL_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// What a command wrote.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text")
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that keeps what is written: answers, then notes.
    pub(crate) fn captured(format: Format) -> (Output, Captured, Captured) {
        let (answers, notes) = (Captured::default(), Captured::default());
        let output = Output {
            format,
            answers: Mutex::new(Box::new(answers.clone())),
            notes: Mutex::new(Box::new(notes.clone())),
            progress: false,
            redraws: false,
        };
        (output, answers, notes)
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_is_one_json_object_for_programs_and_advice_for_people() {
        let (output, answers, notes) = captured(Format::Json);
        output.error("INVALID_FILTER", "column 3", None);
        assert_eq!(
            notes.text(),
            "{\"error\":{\"message\":\"column 3\",\"reason\":\"INVALID_FILTER\"}}\n"
        );
        assert_eq!(answers.text(), "");
        let (output, _, notes) = captured(Format::People);
        output.error("INVALID_FILTER", "price <\n      ^ a value\u{1b}[31m", Some("mend it"));
        let expect =
            "error: INVALID_FILTER: price <\n      ^ a value [31m\n  mend it\n  see docs/errors/INVALID_FILTER.md\n";
        assert_eq!(notes.text(), expect);
    }

    #[test]
    fn a_closed_output_ends_quietly() {
        let (mut output, _, notes) = captured(Format::People);
        output.answers = Mutex::new(Box::new(Closed));
        let error = output.text("hello").expect_err("closed");
        assert_eq!(output.failure(&error), Exit::Done);
        assert_eq!(notes.text(), "");
    }

    #[test]
    fn tables_show_products_without_their_control_characters_and_cut_long_text() {
        let rows = vec![
            vec!["1".to_owned(), "Saw\u{1b}[2J\nblade".to_owned()],
            vec!["10".to_owned(), "x".repeat(CELL_CHARACTERS_MAX + 1)],
        ];
        let text = table(&["#", "title"], &["#"], rows);
        let expect = format!(
            "  #  title\n  1  Saw [2J blade\n 10  {}…",
            "x".repeat(CELL_CHARACTERS_MAX)
        );
        assert_eq!(text, expect);
    }

    #[test]
    fn times_are_shown_to_the_second_with_their_zone() {
        assert_eq!(to_the_second("2026-05-01T12:00:00.063001128Z"), "2026-05-01T12:00:00Z");
        assert_eq!(
            to_the_second("2026-05-01T12:00:00.5+02:00"),
            "2026-05-01T12:00:00+02:00"
        );
        assert_eq!(to_the_second("2026-05-01T12:00:00Z"), "2026-05-01T12:00:00Z");
        assert_eq!(to_the_second(""), "");
    }

    #[test]
    fn programs_get_no_hints_and_no_progress() {
        let (output, _, notes) = captured(Format::Json);
        output.note("next: search");
        assert_eq!(notes.text(), "");
        assert!(output.progress(Some(3), "{bar} {pos}/{len}").is_hidden());
    }
}
