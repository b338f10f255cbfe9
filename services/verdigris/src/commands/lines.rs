//! JSON Lines, read event by event: memory holds one line at most, however large the file, and a line that is too long
//! is passed over and named, never held.
//!
//! Only what must be known to cut a file is judged here; whether an event is one, the server says.

use std::io::{self, BufReader, Read};

use verdigris_core::event::{ENVELOPE_BYTES_MAX, EVENT_BYTES_MAX, split};
use verdigris_core::rejection::Rejection;

/// The longest line with one event: the largest that a server takes, attributes of a CloudEvent included.
pub(crate) const LINE_BYTES_MAX: usize = EVENT_BYTES_MAX + ENVELOPE_BYTES_MAX;
/// The longest line with a JSON array of events.
pub(crate) const ARRAY_LINE_BYTES_MAX: usize = 8 * LINE_BYTES_MAX;
/// What is kept of a line that is too long, so that a person finds it.
const EXCERPT_BYTES: usize = 200;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// UTF-8's mark at the start of a file, which some exports write.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a line holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// Its events, or why it is refused.
    pub(crate) events: Result<Vec<Vec<u8>>, Refused>,
}

/// A line, or an event of one, that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The text as it came; the beginning of it where it is too long.
    pub(crate) text: String,
}

/// The lines of a source.
pub(crate) struct Lines<R> {
    source: BufReader<R>,
    number: u64,
    bytes: u64,
}

/// A line's bytes; of one that is too long, its beginning and its length.
enum Raw {
    Whole(Vec<u8>),
    TooLong { start: Vec<u8>, bytes: u64 },
}

// === impl Lines ===

impl<R: Read> Lines<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            number: 0,
            bytes: 0,
        }
    }

    /// The next line that is not empty.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line>> {
        while let Some(raw) = self.raw()? {
            self.number += 1;
            let events = match raw {
                Raw::Whole(bytes) => match trimmed(&bytes, self.number) {
                    b"" => continue,
                    text => events(text),
                },
                Raw::TooLong { start, bytes } => Err(too_long(&start, bytes)),
            };
            return Ok(Some(Line {
                number: self.number,
                events,
            }));
        }
        Ok(None)
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the next line is not there yet, so that asking for it may wait for whoever writes it.
    pub(crate) fn may_wait(&self) -> bool {
        !self.source.buffer().contains(&b'\n')
    }

    fn raw(&mut self) -> io::Result<Option<Raw>> {
        use std::io::BufRead;
        let mut line = Vec::new();
        let (mut length, mut over, mut any) = (0_u64, false, false);
        loop {
            let buffer = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            if buffer.is_empty() && !any {
                return Ok(None);
            }
            any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            length += part.len() as u64;
            over = over || line.len() + part.len() > bytes_max(if line.is_empty() { part } else { &line });
            let room = if over {
                EXCERPT_BYTES.saturating_sub(line.len())
            } else {
                part.len()
            };
            line.extend_from_slice(&part[..room.min(part.len())]);
            let done = end.is_some() || buffer.is_empty();
            let used = part.len() + usize::from(end.is_some());
            self.source.consume(used);
            self.bytes += used as u64;
            if over {
                line.truncate(EXCERPT_BYTES);
                line.shrink_to_fit();
            }
            if done {
                return Ok(Some(if over {
                    Raw::TooLong {
                        start: line,
                        bytes: length,
                    }
                } else {
                    Raw::Whole(line)
                }));
            }
        }
    }
}

/// How long a line may be that starts so.
fn bytes_max(start: &[u8]) -> usize {
    match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => ARRAY_LINE_BYTES_MAX,
        _ => LINE_BYTES_MAX,
    }
}

fn trimmed(line: &[u8], number: u64) -> &[u8] {
    let line = if number == 1 {
        line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
    } else {
        line
    };
    line.trim_ascii()
}

fn events(text: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let refused = |rejection: &Rejection| Refused {
        reason: rejection.reason().to_owned(),
        message: rejection.to_string(),
        text: String::from_utf8_lossy(text).into_owned(),
    };
    if let Err(error) = std::str::from_utf8(text) {
        return Err(refused(&Rejection::InvalidUtf8 {
            offset: error.valid_up_to(),
        }));
    }
    let parts = split(text).map_err(|rejection| refused(&rejection))?;
    Ok(parts.into_iter().map(<[u8]>::to_vec).collect())
}

fn too_long(start: &[u8], bytes: u64) -> Refused {
    let text = String::from_utf8_lossy(start).into_owned();
    if bytes_max(start) == ARRAY_LINE_BYTES_MAX {
        let message = format!("the array has {bytes} bytes; at most {ARRAY_LINE_BYTES_MAX} are read from one line");
        return Refused {
            reason: "BATCH_TOO_LARGE".to_owned(),
            message,
            text,
        };
    }
    let rejection = Rejection::EventTooLarge {
        bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
    };
    Refused {
        reason: rejection.reason().to_owned(),
        message: rejection.to_string(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: impl Read) -> Vec<Line> {
        let mut lines = Lines::new(source);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().expect("readable") {
            all.push(line);
        }
        all
    }

    fn shown(bytes: &[u8]) -> Vec<String> {
        let show = |line: Line| match line.events {
            Ok(events) => {
                let texts: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event)).collect();
                format!("{} {}", line.number, texts.join(" | "))
            }
            Err(refused) => format!("{} {}", line.number, refused.reason),
        };
        read(bytes).into_iter().map(show).collect()
    }

    /// Gives one byte at a time, as a slow pipe does.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let one = self.0.len().min(1).min(into.len());
            self.0.read(&mut into[..one])
        }
    }

    #[test]
    fn line_ends_of_windows_a_mark_empty_lines_and_a_missing_last_end_are_no_trouble() {
        assert_eq!(
            shown(b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"b\":2} \n{\"c\":3}"),
            ["1 {\"a\":1}", "4 {\"b\":2}", "5 {\"c\":3}"]
        );
        assert_eq!(shown(b""), Vec::<String>::new());
        assert_eq!(shown(b"\n\n"), Vec::<String>::new());
    }

    #[test]
    fn an_array_on_a_line_is_cut_into_its_events() {
        assert_eq!(
            shown(b"[{\"a\":1}, {\"b\": 2}]\n{\"c\":3}\n"),
            ["1 {\"a\":1} | {\"b\": 2}", "2 {\"c\":3}"]
        );
        assert_eq!(shown(b"[]\n[{]\n"), ["1 ", "2 INVALID_JSON"]);
    }

    #[test]
    fn a_line_that_is_not_text_is_refused_with_its_number_and_the_next_is_read() {
        assert_eq!(
            shown(b"{\"a\":1}\n{\"b\":\"\xff\"}\n{\"c\":3}\n"),
            ["1 {\"a\":1}", "2 INVALID_UTF8", "3 {\"c\":3}"]
        );
    }

    #[test]
    fn a_line_may_come_byte_by_byte() {
        let lines = read(Drops(b"{\"a\":1}\n{\"b\":2}"));
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2]);
        assert!(lines.iter().all(|line| line.events.is_ok()));
    }

    #[test]
    fn the_longest_line_is_read_and_one_byte_more_is_refused() {
        let mut text = vec![b'x'; LINE_BYTES_MAX];
        text.extend_from_slice(b"\n");
        text.extend(std::iter::repeat_n(b'y', LINE_BYTES_MAX + 1));
        text.extend_from_slice(b"\n{}\n");
        let lines = read(&*text);
        assert_eq!(lines[0].events.as_ref().expect("long enough")[0].len(), LINE_BYTES_MAX);
        let refused = lines[1].events.as_ref().expect_err("too long");
        assert_eq!(refused.reason, "EVENT_TOO_LARGE");
        assert!(
            refused.message.contains(&(LINE_BYTES_MAX + 1).to_string()),
            "{}",
            refused.message
        );
        assert_eq!(refused.text, "y".repeat(EXCERPT_BYTES));
        assert_eq!(
            (lines[2].number, lines[2].events.as_deref()),
            (3, Ok(&[b"{}".to_vec()][..]))
        );
    }

    #[test]
    fn a_huge_line_is_passed_over_without_being_held() {
        // A line of a gigabyte that never was in memory; reading it in drops would take too long to be worth it.
        let source = io::repeat(b'z').take(1 << 30).chain(&b"\n{}\n"[..]);
        let mut lines = Lines::new(source);
        let line = lines.next_line().expect("readable").expect("a line");
        assert_eq!(line.events.expect_err("too long").text.len(), EXCERPT_BYTES);
        assert_eq!(lines.next_line().expect("readable").expect("a line").number, 2);
        assert_eq!(lines.bytes(), (1 << 30) + 4);
    }

    #[test]
    fn an_array_may_be_longer_than_an_event_but_not_endless() {
        let array = |bytes: usize| format!("[\"{}\"]\n", "a".repeat(bytes)).into_bytes();
        assert!(read(&*array(LINE_BYTES_MAX)).remove(0).events.is_ok());
        assert_eq!(
            read(&*array(ARRAY_LINE_BYTES_MAX))
                .remove(0)
                .events
                .expect_err("too long")
                .reason,
            "BATCH_TOO_LARGE"
        );
    }

    #[test]
    fn lines_say_when_the_next_may_have_to_be_waited_for() {
        let mut lines = Lines::new(&b"{}\n{}\n{"[..]);
        assert!(lines.may_wait());
        lines.next_line().expect("readable");
        assert!(!lines.may_wait());
        lines.next_line().expect("readable");
        assert!(lines.may_wait());
    }
}
