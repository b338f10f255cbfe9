//! Why an event was refused: one stable reason each, and words that say what was wrong and where.
//!
//! A rejection is for what an event is, never for how often it came. Texts of the event are quoted shortened: messages
//! end up in logs and tables, payloads do not belong there.

use crate::event::{BATCH_EVENTS_MAX, DEPTH_MAX, EVENT_BYTES_MAX, FIELDS_MAX};
use crate::names::NameError;
use crate::revision::RevisionKind;
use crate::timestamp::Timestamp;

/// Why an event was refused. [`Rejection::reason`] is the stable word for it, `Display` the sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message beside each variant says what its fields are")]
pub enum Rejection {
    #[error("not UTF-8: the byte at offset {offset} is not text")]
    InvalidUtf8 { offset: usize },
    #[error("not JSON: {what} at line {line} column {column}")]
    InvalidJson { what: String, line: usize, column: usize },
    #[error("an event is a JSON object, this is {found}")]
    NotAnObject { found: &'static str },
    #[error("field {path} is there twice; JSON readers disagree which one counts")]
    DuplicateKey { path: String },
    #[error("{literal} at byte {offset} does not fit an integer of 64 bits; write it as text")]
    NumberOutOfRange { literal: String, offset: usize },
    #[error("the event has {bytes} bytes; at most {EVENT_BYTES_MAX} are allowed")]
    EventTooLarge { bytes: usize },
    #[error("the document has {fields} fields; at most {FIELDS_MAX} are allowed, nested ones included")]
    TooManyFields { fields: usize },
    #[error("{} is nested deeper than {DEPTH_MAX} levels", place(path))]
    TooDeep { path: String },
    #[error("the batch has {events} events; at most {BATCH_EVENTS_MAX} are allowed")]
    BatchTooLarge { events: usize },
    #[error("the document has no id; give it in {place}")]
    MissingId { place: &'static str },
    #[error("{0}")]
    InvalidId(NameError),
    #[error("id must be text, this is {found}")]
    IdNotText { found: &'static str },
    #[error("the subject is {subject:?}, but the document's id is {id:?}")]
    IdMismatch { subject: String, id: String },
    #[error("{found:?} is no kind of event; known are {known}")]
    UnknownEventType { found: String, known: &'static str },
    #[error("{0}")]
    InvalidCollection(NameError),
    #[error("the event is for collection {found}, this is {expected}")]
    WrongCollection { found: String, expected: String },
    #[error(
        "specversion {found} is not supported; this reads CloudEvents 1.0 (a document cannot have a field of that name)"
    )]
    UnsupportedSpecversion { found: String },
    #[error("CloudEvents attribute {name} must be {want}")]
    InvalidAttribute { name: &'static str, want: &'static str },
    #[error("an event of kind {kind} needs a document in data")]
    MissingData { kind: &'static str },
    #[error("data must be a JSON object, this is {found}")]
    DataNotObject { found: &'static str },
    #[error("data_base64 is not base64: wrong at character {offset}")]
    InvalidBase64 { offset: usize },
    #[error("datacontenttype {found:?} is not JSON")]
    UnsupportedContentType { found: String },
    #[error("field {field} is kept for plain JSON events; a CloudEvent says it by {instead}")]
    ReservedField { field: &'static str, instead: &'static str },
    #[error("{found} is not an RFC 3339 time such as 2026-05-01T12:00:00Z, between the years 1678 and 2262")]
    InvalidTime { found: String },
    #[error("{found} is not a revision: a whole number of at most 63 bits")]
    InvalidRevision { found: String },
    #[error("revision {revision} cannot be compared: this collection is ordered by {kind}")]
    WrongRevisionKind { revision: i64, kind: RevisionKind },
    #[error("the event has no revision, and this collection is ordered by a number that each event must bring")]
    MissingRevision,
    #[error("its time {time} is more than five minutes ahead of {accepted}, when it was accepted")]
    AheadOfTime { time: Timestamp, accepted: Timestamp },
    #[error("field _vector is not allowed here: this collection's embedder makes the vectors")]
    VectorNotAllowed,
    #[error("the document has no _vector, and this collection has no embedder to make one")]
    MissingVector,
    #[error("_vector must be a list of numbers, {place} is {found}")]
    InvalidVector { place: String, found: &'static str },
    #[error("_vector has {found} numbers, this collection's have {expected}")]
    WrongDimension { found: usize, expected: u32 },
    #[error("_vector is not finite as float32: {place} is too large")]
    VectorNotFinite { place: String },
    #[error("_vector is zero, and cosine needs a direction")]
    ZeroVector,
    #[error("a full feed is of documents alone, this is a {kind}")]
    NotInFeed { kind: &'static str },
    #[error("the document was erased, and nothing is taken for it any more")]
    Erased,
}

/// Each reason, for the page that explains them and the test that compares both.
pub const REASONS: [&str; 35] = [
    "INVALID_UTF8",
    "INVALID_JSON",
    "NOT_AN_OBJECT",
    "DUPLICATE_KEY",
    "NUMBER_OUT_OF_RANGE",
    "EVENT_TOO_LARGE",
    "TOO_MANY_FIELDS",
    "TOO_DEEP",
    "BATCH_TOO_LARGE",
    "MISSING_ID",
    "INVALID_ID",
    "ID_MISMATCH",
    "UNKNOWN_EVENT_TYPE",
    "INVALID_COLLECTION",
    "WRONG_COLLECTION",
    "UNSUPPORTED_SPECVERSION",
    "INVALID_ATTRIBUTE",
    "MISSING_DATA",
    "DATA_NOT_OBJECT",
    "INVALID_BASE64",
    "UNSUPPORTED_CONTENT_TYPE",
    "RESERVED_FIELD",
    "INVALID_TIME",
    "INVALID_REVISION",
    "WRONG_REVISION_KIND",
    "MISSING_REVISION",
    "AHEAD_OF_TIME",
    "VECTOR_NOT_ALLOWED",
    "MISSING_VECTOR",
    "INVALID_VECTOR",
    "WRONG_DIMENSION",
    "VECTOR_NOT_FINITE",
    "ZERO_VECTOR",
    "NOT_IN_FEED",
    "ERASED",
];

impl Rejection {
    /// The stable word for programs: the same in gRPC, on the command line and in dead letters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 { .. } => "INVALID_UTF8",
            Self::InvalidJson { .. } => "INVALID_JSON",
            Self::NotAnObject { .. } => "NOT_AN_OBJECT",
            Self::DuplicateKey { .. } => "DUPLICATE_KEY",
            Self::NumberOutOfRange { .. } => "NUMBER_OUT_OF_RANGE",
            Self::EventTooLarge { .. } => "EVENT_TOO_LARGE",
            Self::TooManyFields { .. } => "TOO_MANY_FIELDS",
            Self::TooDeep { .. } => "TOO_DEEP",
            Self::BatchTooLarge { .. } => "BATCH_TOO_LARGE",
            Self::MissingId { .. } => "MISSING_ID",
            Self::InvalidId(_) | Self::IdNotText { .. } => "INVALID_ID",
            Self::IdMismatch { .. } => "ID_MISMATCH",
            Self::UnknownEventType { .. } => "UNKNOWN_EVENT_TYPE",
            Self::InvalidCollection(_) => "INVALID_COLLECTION",
            Self::WrongCollection { .. } => "WRONG_COLLECTION",
            Self::UnsupportedSpecversion { .. } => "UNSUPPORTED_SPECVERSION",
            Self::InvalidAttribute { .. } => "INVALID_ATTRIBUTE",
            Self::MissingData { .. } => "MISSING_DATA",
            Self::DataNotObject { .. } => "DATA_NOT_OBJECT",
            Self::InvalidBase64 { .. } => "INVALID_BASE64",
            Self::UnsupportedContentType { .. } => "UNSUPPORTED_CONTENT_TYPE",
            Self::ReservedField { .. } => "RESERVED_FIELD",
            Self::InvalidTime { .. } => "INVALID_TIME",
            Self::InvalidRevision { .. } => "INVALID_REVISION",
            Self::WrongRevisionKind { .. } => "WRONG_REVISION_KIND",
            Self::MissingRevision => "MISSING_REVISION",
            Self::AheadOfTime { .. } => "AHEAD_OF_TIME",
            Self::VectorNotAllowed => "VECTOR_NOT_ALLOWED",
            Self::MissingVector => "MISSING_VECTOR",
            Self::InvalidVector { .. } => "INVALID_VECTOR",
            Self::WrongDimension { .. } => "WRONG_DIMENSION",
            Self::VectorNotFinite { .. } => "VECTOR_NOT_FINITE",
            Self::ZeroVector => "ZERO_VECTOR",
            Self::NotInFeed { .. } => "NOT_IN_FEED",
            Self::Erased => "ERASED",
        }
    }

    /// Puts `name` before the path of a fault found inside that member.
    pub(crate) fn prepend(&mut self, name: &str) {
        let (Self::DuplicateKey { path } | Self::TooDeep { path }) = self else {
            return;
        };
        let name = excerpt(name);
        *path = if path.is_empty() {
            name
        } else {
            format!("{name}.{path}")
        };
    }
}

/// The most characters of an event that a message quotes.
const EXCERPT_CHARS_MAX: usize = 60;

/// The beginning of a text of the event.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a JSON value is, in words.
pub(crate) fn kind_of(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn place(path: &str) -> String {
    if path.is_empty() {
        "the document".to_owned()
    } else {
        format!("field {path}")
    }
}
