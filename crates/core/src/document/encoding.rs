//! A document's state as bytes: what each row of `rows.tar` keeps, ghost rows too.
//!
//! The values are one JSON text, the document as users see it, so that a hit is answered by cutting it out
//! ([`document_text`]). Stamps stand before it, and one equal to the floor's costs nothing, which is most of them. The
//! vector of a document that exists is left out: `vectors.faiss` has it, exactly. There is no checksum, since the
//! manifest has a digest of the whole file.
//!
//! ```text
//! 'D' version flags [floor: revision digest] stamps exceptions json
//! stamps:     count, then per patch that still shows: revision digest
//! exceptions: count, then per field not written by the floor, or not in the text: name, which stamp (0 floor), what
//! ```
//! Numbers are LEB128, revisions zigzag, texts have their length before them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{DocumentState, FieldWrite, Written};
use crate::canonical;
use crate::digest::Digest;
use crate::event::VECTOR_FIELD;
use crate::names::{DocumentId, NameError};
use crate::revision::{EventKind, Revision, Stamp};

/// The version that is written; any other is refused.
pub const FORMAT_VERSION: u8 = 1;

const MAGIC: u8 = b'D';
const FLAG_FLOOR: u8 = 1;
const FLAG_EXISTS: u8 = 2;
const FLAGS_ALL: u8 = FLAG_FLOOR | FLAG_EXISTS;

const IN_TEXT: u8 = 0;
const REMOVED: u8 = 1;
const IN_SEGMENT: u8 = 2;

/// Why bytes are no document's state, or a state has no bytes.
#[derive(Debug, thiserror::Error)]
pub enum EncodingError {
    /// A ghost's vector is still in the segment that it comes from; storing the ghost would lose it.
    #[error("the vector of {0} was not restored before its state is stored without a row of its own")]
    VectorNotRestored(DocumentId),
    /// Another format, or another version of it.
    #[error("format version {0} of a stored document is not known; this reads version {FORMAT_VERSION}")]
    UnknownVersion(u8),
    /// Bytes that end early, or do not fit together.
    #[error("stored document is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where.
        offset: usize,
        /// What was wrong.
        what: &'static str,
    },
    /// A text that is no JSON object.
    #[error("stored document's text is damaged")]
    Json(#[source] serde_json::Error),
    /// An id that no document can have.
    #[error("stored document's id is damaged")]
    Id(#[source] NameError),
}

impl DocumentState {
    /// The state as bytes.
    pub fn encode(&self) -> Result<Vec<u8>, EncodingError> {
        let exists = self.exists();
        let mut bytes = vec![MAGIC, FORMAT_VERSION];
        let floor = if self.floor.is_some() { FLAG_FLOOR } else { 0 };
        bytes.push(if exists { floor | FLAG_EXISTS } else { floor });
        if let Some(floor) = &self.floor {
            put_stamp(&mut bytes, floor);
        }
        let patches = self.patches();
        put_number(&mut bytes, patches.len() as u64);
        patches.iter().for_each(|stamp| put_stamp(&mut bytes, stamp));
        let mut exceptions = Vec::new();
        for (name, write) in &self.fields {
            let what = match &write.value {
                Written::Removed => REMOVED,
                _ if exists && name == VECTOR_FIELD => IN_SEGMENT,
                Written::Value(_) => IN_TEXT,
                Written::InSegment => return Err(EncodingError::VectorNotRestored(self.id.clone())),
            };
            let which = patches.binary_search(&write.stamp).map_or(0, |at| at + 1);
            if which > 0 || what != IN_TEXT {
                exceptions.push((name, which, what));
            }
        }
        put_number(&mut bytes, exceptions.len() as u64);
        for (name, which, what) in exceptions {
            put_text(&mut bytes, name);
            put_number(&mut bytes, which as u64);
            bytes.push(what);
        }
        let mut text = String::new();
        canonical::write_object(&mut text, &self.visible(|name| !(exists && name == VECTOR_FIELD)));
        put_text(&mut bytes, &text);
        Ok(bytes)
    }

    /// The stamps of the writes that are not the floor's, sorted, each once.
    fn patches(&self) -> Vec<Stamp> {
        let mut stamps: Vec<_> = self
            .fields
            .values()
            .map(|write| write.stamp)
            .filter(|stamp| Some(*stamp) != self.floor)
            .collect();
        stamps.sort_unstable();
        stamps.dedup();
        stamps
    }

    /// The state that `bytes` hold. A vector that was left out reads as [`Written::InSegment`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EncodingError> {
        let mut reader = Reader { bytes, at: 0 };
        let header = reader.header()?;
        let mut stamps = vec![];
        for _ in 0..reader.count()? {
            stamps.push(reader.stamp(EventKind::Patch)?);
        }
        let exceptions = reader.exceptions(header, &stamps)?;
        let text = reader.rest()?;
        let mut values: BTreeMap<String, Value> = serde_json::from_str(text).map_err(EncodingError::Json)?;
        let Some(Value::String(id)) = values.remove("id") else {
            return Err(reader.damaged("no id"));
        };
        let id = DocumentId::try_from(id).map_err(EncodingError::Id)?;
        let mut fields = BTreeMap::new();
        for (name, (stamp, what)) in exceptions {
            let value = match (what, values.remove(&name)) {
                (IN_TEXT, Some(value)) => Written::Value(value),
                (REMOVED, None) => Written::Removed,
                (IN_SEGMENT, None) if header.exists && name == VECTOR_FIELD => Written::InSegment,
                _ => return Err(reader.damaged("a field that is both there and not there")),
            };
            fields.insert(name, FieldWrite { stamp, value });
        }
        for (name, value) in values {
            let stamp = header
                .floor
                .filter(|_| header.exists)
                .ok_or_else(|| reader.damaged("a field without a stamp"))?;
            fields.insert(
                name,
                FieldWrite {
                    stamp,
                    value: Written::Value(value),
                },
            );
        }
        Ok(Self {
            id,
            floor: header.floor,
            fields,
        })
    }
}

/// The JSON text of the document in `bytes`, with its id and without its vector: what a hit returns, not parsed.
/// Of a ghost, its waiting fields.
pub fn document_text(bytes: &[u8]) -> Result<&str, EncodingError> {
    let mut reader = Reader { bytes, at: 0 };
    let header = reader.header()?;
    let stamps = reader.count()?;
    let mut skipped = Vec::new();
    for _ in 0..stamps {
        skipped.push(reader.stamp(EventKind::Patch)?);
    }
    reader.exceptions(header, &skipped)?;
    reader.rest()
}

#[derive(Clone, Copy)]
struct Header {
    floor: Option<Stamp>,
    exists: bool,
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn damaged(&self, what: &'static str) -> EncodingError {
        EncodingError::Damaged { offset: self.at, what }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], EncodingError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.damaged("it ends early"));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, EncodingError> {
        Ok(self.take(1)?[0])
    }

    fn header(&mut self) -> Result<Header, EncodingError> {
        if self.byte()? != MAGIC {
            return Err(self.damaged("no stored document begins so"));
        }
        let version = self.byte()?;
        if version != FORMAT_VERSION {
            return Err(EncodingError::UnknownVersion(version));
        }
        let flags = self.byte()?;
        let exists = flags & FLAG_EXISTS != 0;
        if flags & !FLAGS_ALL != 0 || (exists && flags & FLAG_FLOOR == 0) {
            return Err(self.damaged("flags that cannot be"));
        }
        let kind = if exists { EventKind::Upsert } else { EventKind::Delete };
        let floor = if flags & FLAG_FLOOR != 0 {
            Some(self.stamp(kind)?)
        } else {
            None
        };
        Ok(Header { floor, exists })
    }

    fn number(&mut self) -> Result<u64, EncodingError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.damaged("a number beyond 64 bits"))
    }

    /// A number of things of at least a byte each: so a damaged one allocates nothing large.
    fn count(&mut self) -> Result<usize, EncodingError> {
        let count = self.number()?;
        let left = self.bytes.len() - self.at;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= left)
            .ok_or_else(|| self.damaged("more than there are bytes"))
    }

    fn text(&mut self) -> Result<&'b str, EncodingError> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| self.damaged("text that is not UTF-8"))
    }

    fn stamp(&mut self, kind: EventKind) -> Result<Stamp, EncodingError> {
        let zigzag = self.number()?;
        let revision = Revision((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        let digest = self
            .take(32)?
            .try_into()
            .map_err(|_| self.damaged("a digest cut short"))?;
        Ok(Stamp {
            revision,
            kind,
            digest: Digest::from_bytes(digest),
        })
    }

    fn exceptions(&mut self, header: Header, stamps: &[Stamp]) -> Result<BTreeMap<String, (Stamp, u8)>, EncodingError> {
        let mut exceptions = BTreeMap::new();
        for _ in 0..self.count()? {
            let name = self.text()?;
            let which = self.number()?;
            let stamp = match which.checked_sub(1) {
                None => header.floor,
                Some(patch) => usize::try_from(patch).ok().and_then(|patch| stamps.get(patch).copied()),
            };
            let stamp = stamp.ok_or_else(|| self.damaged("a stamp that is not there"))?;
            let what = self.byte()?;
            if exceptions.insert(name.to_owned(), (stamp, what)).is_some() {
                return Err(self.damaged("a field that is there twice"));
            }
        }
        Ok(exceptions)
    }

    /// The text that ends the bytes.
    fn rest(&mut self) -> Result<&'b str, EncodingError> {
        let text = self.text()?;
        if self.at == self.bytes.len() {
            Ok(text)
        } else {
            Err(self.damaged("bytes after the end"))
        }
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn put_stamp(bytes: &mut Vec<u8>, stamp: &Stamp) {
    let revision = stamp.revision.0;
    put_number(bytes, (revision << 1 ^ revision >> 63) as u64);
    bytes.extend_from_slice(stamp.digest.as_bytes());
}
