//! From rows to answers: documents as JSON, the release that answered, errors as statuses.

use std::error::Error;

use serde_json::value::RawValue;
use tonic::Status;
use verdigris_core::document::encoding::{EncodingError, document_text};
use verdigris_core::manifest::{Manifest, ManifestError};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::PointerError;
use verdigris_engine::error::EngineError;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::ReleaseInfo;
use verdigris_store::{ReadError, StoreError};

use crate::lineages::NotServed;

/// The document of a row's state as JSON text: whole, or the asked fields in the order of the document. The id is
/// always there.
pub(crate) fn document_json(state: &[u8], fields: &[String]) -> Result<String, Status> {
    let damaged = |error: EncodingError| Reason::DataDamaged.status(chain(&error));
    let text = document_text(state).map_err(damaged)?;
    if fields.is_empty() {
        return Ok(text.to_owned());
    }
    // Values are passed on as they are written, not parsed.
    let document: std::collections::BTreeMap<&str, &RawValue> =
        serde_json::from_str(text).map_err(|error| Reason::DataDamaged.status(error.to_string()))?;
    let asked: std::collections::BTreeMap<&&str, &&RawValue> = document
        .iter()
        .filter(|(name, _)| **name == "id" || fields.iter().any(|field| field == *name))
        .collect();
    serde_json::to_string(&asked).map_err(|error| Reason::Internal.status(error.to_string()))
}

/// A document of which only the id was asked.
pub(crate) fn id_json(id: &str) -> String {
    let id = serde_json::to_string(id).expect("text is JSON");
    format!(r#"{{"id":{id}}}"#)
}

/// The release that an answer comes from.
pub(crate) fn release_info(manifest: &Manifest) -> ReleaseInfo {
    ReleaseInfo {
        generation: manifest.generation,
        lineage: manifest.lineage.to_string(),
        watermark: manifest.watermark.map(|time| time.to_string()).unwrap_or_default(),
        published_at: manifest.created_at.to_string(),
        position: manifest
            .checkpoint
            .stream
            .position(manifest.checkpoint.sequence)
            .to_string(),
        stale_milliseconds: 0,
    }
}

pub(crate) fn status_of_not_served(name: &CollectionName, why: &NotServed) -> Status {
    match why {
        NotServed::Empty => Reason::NotReady.status(format!("collection {name} has no release yet")),
        NotServed::Gone => Reason::CollectionNotFound.status(format!("collection {name} does not exist")),
        NotServed::NoOther => Reason::NoOtherLineage.status(format!("collection {name} has one lineage")),
        NotServed::Opening(lineage) => Reason::NotReady.status(format!("lineage {lineage} is being opened")),
        NotServed::Broken(problem) => problem.reason.status(problem.message.clone()),
    }
}

/// A collection that is not there, or of which nobody knows.
pub(crate) fn status_of_unknown(name: &CollectionName, error: &ReadError) -> Status {
    match error {
        ReadError::NoCollection(_) => status_of_not_served(name, &NotServed::Gone),
        error => reason_of_read(error).status(chain(error)),
    }
}

pub(crate) fn status_of_engine(error: &EngineError) -> Status {
    let reason = match error {
        EngineError::Dimension { .. } | EngineError::Coordinate { .. } => Reason::InvalidVector,
        _ => Reason::Internal,
    };
    reason.status(chain(error))
}

/// The reason for an object that cannot be used.
pub(crate) fn reason_of_read(error: &ReadError) -> Reason {
    match error {
        ReadError::NoCollection(_) => Reason::CollectionNotFound,
        ReadError::Store(StoreError::NotFound { .. }) => Reason::DataDamaged,
        ReadError::Store(StoreError::Format { .. })
        | ReadError::Pointer {
            source: PointerError::FormatVersion(_),
            ..
        }
        | ReadError::Manifest {
            source: ManifestError::FormatVersion(_),
            ..
        } => Reason::UnknownFormat,
        ReadError::Store(StoreError::OutOfSpace { .. }) => Reason::DiskFull,
        ReadError::Store(_) | ReadError::NotLocal { .. } => Reason::StoreUnavailable,
        _ => Reason::DataDamaged,
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
