//! The file that names refused lines: JSON Lines with file, line, reason, message and text. Made with the first of them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::CommandError;
use super::lines::Refused;

/// Files of one name and second; more runs than these in one second are a mistake somewhere.
const SAME_NAME_MAX: u32 = 100;

/// Where refused lines go.
pub(crate) enum RejectedPath {
    /// The file that was asked for; an old one is replaced.
    Chosen(PathBuf),
    /// A new file of this folder, whose name starts so.
    New {
        /// The folder; made when it is needed.
        folder: PathBuf,
        /// Name of what is read, and the time.
        stem: String,
    },
}

/// The file of refused lines.
pub(crate) struct Rejected {
    path: RejectedPath,
    written: Option<(PathBuf, BufWriter<File>)>,
    count: u64,
}

#[derive(Serialize)]
struct Record<'a> {
    file: &'a str,
    line: u64,
    reason: &'a str,
    message: &'a str,
    text: &'a str,
}

impl Rejected {
    /// A file that is made with its first line; one that was chosen is made empty at once, so that nobody takes the
    /// refusals of an earlier run for this one's.
    pub(crate) fn begin(path: RejectedPath) -> Result<Self, CommandError> {
        let mut rejected = Self {
            path,
            written: None,
            count: 0,
        };
        if let RejectedPath::Chosen(path) = &rejected.path {
            let made = File::create(path).map_err(|source| CommandError::Write {
                path: path.clone(),
                source,
            })?;
            rejected.written = Some((path.clone(), BufWriter::new(made)));
        }
        Ok(rejected)
    }

    /// Writes a refused line.
    pub(crate) fn write(&mut self, file: &str, line: u64, refused: &Refused) -> Result<(), CommandError> {
        self.count += 1;
        if self.written.is_none() {
            self.written = Some(made(&self.path)?);
        }
        let Some((path, writer)) = &mut self.written else {
            return Ok(());
        };
        let Refused { reason, message, text } = refused;
        let record = serde_json::to_string(&Record {
            file,
            line,
            reason,
            message,
            text,
        });
        let record = record.expect("text and numbers are JSON");
        writeln!(writer, "{record}").map_err(|source| CommandError::Write {
            path: path.clone(),
            source,
        })
    }

    /// How many were written.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Finishes the file, and names it when there is anything in it.
    pub(crate) fn finish(&mut self) -> Result<Option<&Path>, CommandError> {
        let Some((path, writer)) = &mut self.written else {
            return Ok(None);
        };
        writer.flush().map_err(|source| CommandError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(Some(path.as_path()).filter(|_| self.count > 0))
    }
}

fn made(path: &RejectedPath) -> Result<(PathBuf, BufWriter<File>), CommandError> {
    let (folder, stem) = match path {
        RejectedPath::New { folder, stem } => (folder, stem),
        RejectedPath::Chosen(path) => (path, &String::new()),
    };
    fs::create_dir_all(folder).map_err(|source| CommandError::Write {
        path: folder.clone(),
        source,
    })?;
    for again in 1..=SAME_NAME_MAX {
        let name = if again == 1 {
            format!("{stem}.jsonl")
        } else {
            format!("{stem}-{again}.jsonl")
        };
        let path = folder.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, BufWriter::new(file))),
            Err(source) if source.kind() == ErrorKind::AlreadyExists && again < SAME_NAME_MAX => {}
            Err(source) => return Err(CommandError::Write { path, source }),
        }
    }
    unreachable!("the last try returns either way")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Refused {
        Refused {
            reason: reason.to_owned(),
            message: "why".to_owned(),
            text: "{\"id\": \"\u{1}".to_owned(),
        }
    }

    #[test]
    fn a_refused_line_is_kept_with_its_place_reason_and_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/rejected");
        let begin = || {
            Rejected::begin(RejectedPath::New {
                folder: path.clone(),
                stem: "feed".to_owned(),
            })
        };
        let mut rejected = begin().expect("begins");
        assert_eq!(rejected.finish().expect("nothing to do"), None);
        assert!(!path.exists(), "no folder without a refusal");
        rejected
            .write("feed.jsonl", 7, &refused("INVALID_JSON"))
            .expect("written");
        let file = rejected.finish().expect("written").expect("named").to_owned();
        let expect = "{\"file\":\"feed.jsonl\",\"line\":7,\"reason\":\"INVALID_JSON\",\"message\":\"why\",\
                      \"text\":\"{\\\"id\\\": \\\"\\u0001\"}\n";
        assert_eq!(fs::read_to_string(&file).expect("there"), expect);

        let mut second = begin().expect("begins");
        second.write("feed.jsonl", 1, &refused("MISSING_ID")).expect("written");
        assert_ne!(
            second.finish().expect("written"),
            Some(file.as_path()),
            "an earlier file is never replaced"
        );
    }

    #[test]
    fn a_chosen_file_does_not_show_the_refusals_of_an_earlier_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        fs::write(&path, "old\n").expect("written");
        let mut rejected = Rejected::begin(RejectedPath::Chosen(path.clone())).expect("begins");
        assert_eq!(rejected.finish().expect("finished"), None);
        assert_eq!(fs::read_to_string(&path).expect("there"), "");
    }
}
