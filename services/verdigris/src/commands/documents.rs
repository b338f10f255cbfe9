//! `get`, `patch` and `delete`: one document, or some.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use verdigris_proto::search::GetDocumentRequest;

use super::ingest::send_made;
use super::reading::read;
use super::search::proto_lineage;
use super::waiting::{self, Range};
use super::{CommandError, raw};
use crate::arguments::{Lineage, Wait};
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Serialize)]
struct Shown {
    id: String,
    revision: String,
    /// The generation that wrote the document's row.
    written_generation: u64,
    /// The generation that the answer comes from.
    generation: u64,
    lineage: String,
    document: Box<RawValue>,
}

/// Which document is asked for, and of what.
pub(crate) struct Asked<'a> {
    pub(crate) id: &'a str,
    pub(crate) lineage: Lineage,
    pub(crate) min_position: Option<&'a str>,
}

/// Shows a document.
pub(crate) async fn get(
    asked: &Asked<'_>,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let request = GetDocumentRequest {
        collection: collection.to_owned(),
        id: asked.id.to_owned(),
        min_position: asked.min_position.unwrap_or_default().to_owned(),
        lineage: proto_lineage(asked.lineage).into(),
    };
    let answer = read(async || client.search().get_document(within(CALL, request.clone())).await).await?;
    let release = answer.release.unwrap_or_default();
    let shown = Shown {
        id: answer.id,
        revision: answer.revision,
        written_generation: answer.written_generation,
        generation: release.generation,
        lineage: release.lineage,
        document: raw("the document that the server sent", answer.document_json)?,
    };
    output.answer(&shown, |shown| pretty(&shown.document))?;
    output.note(&format!(
        "revision {}, written by generation {}, served from generation {}",
        shown.revision, shown.written_generation, shown.generation
    ));
    Ok(Exit::Done)
}

/// Changes some fields of a document.
pub(crate) async fn patch(
    id: &str,
    fields: &str,
    wait: &Wait,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let event = patch_event(id, fields)?;
    must_exist(collection, client).await?;
    send_made(vec![(id.to_owned(), event)], collection, wait, client, output).await
}

/// Deletes documents.
pub(crate) async fn delete(
    ids: &[String],
    wait: &Wait,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    must_exist(collection, client).await?;
    let event = |id: &String| (id.clone(), Bytes::from(json!({"id": id, "_op": "delete"}).to_string()));
    send_made(ids.iter().map(event).collect(), collection, wait, client, output).await
}

/// Ingest makes a collection on first use; a mistyped name of one to be changed must not.
async fn must_exist(collection: &str, client: &Client) -> Result<(), CommandError> {
    let nothing = Range {
        collection: collection.to_owned(),
        first: String::new(),
        last: String::new(),
    };
    match waiting::look(client, &nothing).await {
        Err(status) if super::error::reason_of_status(&status) == "COLLECTION_NOT_FOUND" => Err(status.into()),
        // Whatever else is wrong, sending says it too, and tries again where that helps.
        _ => Ok(()),
    }
}

/// A patch as an event. The fields go in as they were written, so that the server judges what was typed and not what a
/// JSON reader here made of it: a key given twice, or a number beyond 64 bits.
fn patch_event(id: &str, fields: &str) -> Result<Bytes, CommandError> {
    let parsed: Result<&RawValue, _> = serde_json::from_str(fields);
    let fields = parsed
        .map_err(|source| CommandError::Json {
            what: "the patch".to_owned(),
            source,
        })?
        .get();
    let inner = fields.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let inner = inner.ok_or(CommandError::PatchNotObject)?.trim();
    let comma = if inner.is_empty() { "" } else { "," };
    Ok(Bytes::from(format!(
        r#"{{"id":{},"_op":"patch"{comma}{inner}}}"#,
        json!(id)
    )))
}

/// JSON over several lines.
pub(crate) fn pretty(json: &RawValue) -> String {
    let value: Result<Value, _> = serde_json::from_str(json.get());
    let text = value.and_then(|value| serde_json::to_string_pretty(&value));
    text.unwrap_or_else(|_| json.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, fields: &str) -> String {
        String::from_utf8(patch_event(id, fields).expect("a patch").to_vec()).expect("text")
    }

    #[test]
    fn a_patch_carries_its_fields_as_they_were_typed() {
        assert_eq!(
            event("a\"b", r#" {"price": 1.10, "n": 18446744073709551616} "#),
            r#"{"id":"a\"b","_op":"patch","price": 1.10, "n": 18446744073709551616}"#
        );
        assert_eq!(event("a", "{ }"), r#"{"id":"a","_op":"patch"}"#);
    }

    #[test]
    fn a_patch_that_is_no_object_is_refused_before_it_is_sent() {
        assert!(matches!(patch_event("a", "[1]"), Err(CommandError::PatchNotObject)));
        let error = patch_event("a", "{price: 1}").expect_err("no JSON");
        assert!(
            error
                .message()
                .starts_with("the patch is not the JSON that is needed here"),
            "{}",
            error.message()
        );
    }
}
