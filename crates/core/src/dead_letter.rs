//! Dead letters: events that were set aside, with the reason. A batch is one object of the store, a line a letter,
//! written before a checkpoint passes them, so that a poison event neither blocks the stream nor vanishes (I-12).

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::position::Position;
use crate::timestamp::Timestamp;

/// An event that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its place in the bus.
    pub position: Position,
    /// When the bus accepted it.
    pub accepted_at: Timestamp,
    /// When it was set aside.
    pub set_aside_at: Timestamp,
    /// Stable reason, such as `INVALID_JSON`.
    pub reason: String,
    /// What was wrong, and where.
    pub message: String,
    /// The event as it came, when it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The event as it came in hexadecimal, when it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
}

/// A line of a batch that is no dead letter.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of {path} is no dead letter")]
pub struct DeadLetterError {
    /// Key of the batch.
    pub path: String,
    /// Line, from 1.
    pub line: usize,
    /// What the decoder said.
    #[source]
    pub source: serde_json::Error,
}

impl DeadLetter {
    /// A letter for an event as it came.
    pub fn new(
        position: Position,
        accepted_at: Timestamp,
        set_aside_at: Timestamp,
        reason: &str,
        message: String,
        payload: &[u8],
    ) -> Self {
        let text = std::str::from_utf8(payload).ok().map(str::to_owned);
        let payload_hex = text
            .is_none()
            .then(|| payload.iter().map(|byte| format!("{byte:02x}")).collect());
        Self {
            position,
            accepted_at,
            set_aside_at,
            reason: reason.to_owned(),
            message,
            payload: text,
            payload_hex,
        }
    }

    /// The letter without the event: of a document that was erased nothing is kept.
    #[must_use]
    pub fn without_payload(mut self) -> Self {
        self.payload = None;
        self.payload_hex = None;
        self
    }

    /// The event as it came.
    pub fn payload_bytes(&self) -> Vec<u8> {
        match (&self.payload, &self.payload_hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(hex)) => {
                let byte = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
                (0..hex.len()).step_by(2).filter_map(byte).collect()
            }
            (None, None) => Vec::new(),
        }
    }
}

/// A batch of letters: its key relative to the collection, and its bytes. The key begins with the first letter's
/// position and ends with the content's digest, so that the same letters written twice are one object.
pub fn encode(letters: &[DeadLetter]) -> Option<(String, Vec<u8>)> {
    let first = letters.first()?;
    let mut bytes = Vec::new();
    for letter in letters {
        serde_json::to_writer(&mut bytes, letter).expect("writing to a vector cannot fail");
        bytes.push(b'\n');
    }
    // When a letter was set aside must not matter: a second read of the bus writes the same object.
    let mut identity = Vec::new();
    for letter in letters {
        let parts = (&letter.position, &letter.reason, &letter.payload, &letter.payload_hex);
        serde_json::to_writer(&mut identity, &parts).expect("writing to a vector cannot fail");
    }
    let digest = Digest::of(&identity).to_string();
    Some((
        format!("dead-letters/{}-{}.jsonl", first.position, &digest[..16]),
        bytes,
    ))
}

/// Reads a batch.
pub fn decode(path: &str, bytes: &[u8]) -> Result<Vec<DeadLetter>, DeadLetterError> {
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty());
    let letter = |(n, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|source| DeadLetterError {
            path: path.to_owned(),
            line: n + 1,
            source,
        })
    };
    lines.map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::StreamIdentity;

    fn letter(sequence: u64, payload: &[u8], now: i64) -> DeadLetter {
        let position = StreamIdentity(7).position(sequence);
        let message = "line 1: not JSON".to_owned();
        DeadLetter::new(position, Timestamp(1), Timestamp(now), "INVALID_JSON", message, payload)
    }

    #[test]
    fn letters_are_read_back_with_their_payload_byte_for_byte() {
        let payloads: [&[u8]; 4] = [b"{", b"", b"\xff\x00\xfe", "ä\n".as_bytes()];
        let letters: Vec<_> = payloads
            .iter()
            .zip(1..)
            .map(|(payload, n)| letter(n, payload, 5))
            .collect();
        let (path, bytes) = encode(&letters).expect("letters");
        let read = decode(&path, &bytes).expect("whole");
        assert_eq!(read, letters);
        assert!(
            read.iter()
                .zip(payloads)
                .all(|(letter, payload)| letter.payload_bytes() == payload)
        );
    }

    #[test]
    fn the_same_letters_have_the_same_key_whenever_they_are_set_aside() {
        let key = |now| encode(&[letter(1, b"{", now)]).expect("a letter").0;
        assert_eq!(key(1), key(2));
        assert_eq!(encode(&[]), None);
    }
}
