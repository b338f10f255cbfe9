//! `collections`: list, make, show and delete.

use std::path::Path;

use serde::Serialize;
use serde_json::json;
use verdigris_proto::admin::{
    Collection, CreateCollectionRequest, DeleteCollectionRequest, GetCollectionRequest, ListCollectionsRequest,
};

use super::CommandError;
use super::settings::settings_text;
use crate::arguments::Collections;
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Output, pairs, size, table, to_the_second};

#[derive(Serialize)]
struct Shown {
    name: String,
    documents: u64,
    generation: u64,
    segments: u64,
    bytes: u64,
    position: String,
    published_at: Option<String>,
    settings_version: u64,
    /// Why publishing stands still.
    #[serde(skip_serializing_if = "Option::is_none")]
    standstill: Option<Standstill>,
}

#[derive(Serialize)]
struct Standstill {
    reason: String,
    message: String,
}

/// Runs a command about collections.
pub(crate) async fn run(
    command: &Collections,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    match command {
        Collections::List => list(client, output).await,
        Collections::Create { name, settings } => create(name, settings.as_deref(), client, output).await,
        Collections::Show { name } => {
            let request = GetCollectionRequest {
                name: name.as_deref().unwrap_or(collection).to_owned(),
            };
            let found = client.admin().get_collection(within(CALL, request)).await?.into_inner();
            output.answer(&Shown::from(found), one)?;
            Ok(Exit::Done)
        }
        Collections::Delete { name } => {
            let request = DeleteCollectionRequest { name: name.clone() };
            client.admin().delete_collection(within(CALL, request)).await?;
            output.answer(&json!({"deleted": name}), |_| {
                format!("{name} is deleted; its files go, and its name is free, some minutes after this")
            })?;
            Ok(Exit::Done)
        }
    }
}

async fn list(client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let answer = client
        .admin()
        .list_collections(within(CALL, ListCollectionsRequest {}))
        .await?
        .into_inner();
    let found: Vec<Shown> = answer.collections.into_iter().map(Shown::from).collect();
    output.answer(&json!({"collections": found}), |_| many(&found))?;
    if found.is_empty() {
        output.note("there is no collection yet: `verdigris ingest FILE` makes one");
    }
    Ok(Exit::Done)
}

async fn create(name: &str, settings: Option<&Path>, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let settings_json = settings
        .map(|path| settings_text(&path.display().to_string()))
        .transpose()?;
    let request = CreateCollectionRequest {
        name: name.to_owned(),
        settings_json: settings_json.unwrap_or_default(),
    };
    let made = client
        .admin()
        .create_collection(within(CALL, request))
        .await?
        .into_inner();
    output.answer(&Shown::from(made), |made| format!("{} is there, and empty", made.name))?;
    Ok(Exit::Done)
}

fn many(collections: &[Shown]) -> String {
    let header = [
        "name",
        "documents",
        "generation",
        "segments",
        "size",
        "published at",
        "state",
    ];
    let rows = collections.iter().map(|one| {
        let state = one
            .standstill
            .as_ref()
            .map_or("publishing", |standstill| standstill.reason.as_str());
        vec![
            one.name.clone(),
            one.documents.to_string(),
            one.generation.to_string(),
            one.segments.to_string(),
            size(one.bytes),
            to_the_second(one.published_at.as_deref().unwrap_or_default()),
            state.to_owned(),
        ]
    });
    table(&header, &["documents", "generation", "segments", "size"], rows)
}

fn one(collection: &Shown) -> String {
    let standstill = collection.standstill.as_ref();
    pairs(&[
        ("name", collection.name.clone()),
        ("documents", collection.documents.to_string()),
        ("generation", collection.generation.to_string()),
        ("segments", collection.segments.to_string()),
        ("size", size(collection.bytes)),
        ("position", collection.position.clone()),
        ("published at", collection.published_at.clone().unwrap_or_default()),
        ("settings", format!("version {}", collection.settings_version)),
        (
            "stands still",
            standstill
                .map(|why| format!("{} ({})", why.message, why.reason))
                .unwrap_or_default(),
        ),
    ])
}

// === impl Shown ===

impl From<Collection> for Shown {
    fn from(collection: Collection) -> Self {
        let (reason, message) = (collection.standstill_reason, collection.standstill_message);
        Self {
            name: collection.name,
            documents: collection.documents,
            generation: collection.generation,
            segments: collection.segments,
            bytes: collection.bytes,
            position: collection.position,
            published_at: Some(collection.published_at).filter(|at| !at.is_empty()),
            settings_version: collection.settings_version,
            standstill: Some(Standstill { reason, message }).filter(|standstill| !standstill.reason.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_that_stands_still_says_why() {
        let collection = Collection {
            name: "products".to_owned(),
            documents: 2,
            bytes: 2_048,
            standstill_reason: "DISK_FULL".to_owned(),
            standstill_message: "no room".to_owned(),
            ..Collection::default()
        };
        let shown = Shown::from(collection);
        assert!(
            one(&shown).ends_with("stands still  no room (DISK_FULL)"),
            "{}",
            one(&shown)
        );
        let expect = " name      documents  generation  segments      size  published at  state
 products          2           0         0  2.00 KiB                DISK_FULL";
        assert_eq!(many(&[shown]), expect);
    }
}
