//! What each command of a client does. Each asks a server that `main` found or started, and says what it got.
//!
//! `up`, `doctor`, `config`, `model` and `releases export` work on this machine and are not here.

mod batches;
mod collections;
mod compare;
pub(crate) mod completions;
mod dead_letters;
mod documents;
mod erase;
mod error;
mod evaluate;
mod explain;
mod golden;
mod ingest;
mod lines;
mod logged;
pub(crate) mod looking;
mod reading;
mod rebuild;
mod rejected;
mod releases;
mod resync;
mod rollout;
mod search;
mod sending;
mod settings;
mod staged;
mod waiting;

use serde_json::value::RawValue;

pub(crate) use self::error::CommandError;
pub(crate) use self::releases::user;
use crate::arguments::{Command, Global, Queries, Releases};
use crate::client::Client;
use crate::exit::Exit;
use crate::output::Output;

/// Whether a command is one of [`run`]'s, and so needs a server.
pub(crate) fn needs_server(command: &Command) -> bool {
    match command {
        Command::Ingest(_)
        | Command::Get { .. }
        | Command::ExplainDocument { .. }
        | Command::Patch { .. }
        | Command::Delete { .. }
        | Command::Collections(_)
        | Command::Settings(_)
        | Command::Resync { .. }
        | Command::Releases(
            Releases::List
            | Releases::Show { .. }
            | Releases::Verify { .. }
            | Releases::Diff { .. }
            | Releases::Rollback { .. }
            | Releases::Resume { .. }
            | Releases::Pin { .. },
        )
        | Command::Rebuild(_)
        | Command::Erase(_)
        | Command::Rollout(_)
        | Command::Staged(_)
        | Command::DeadLetters(_)
        | Command::Queries(_)
        | Command::Evaluate(_) => true,
        Command::Search(search) => search.is_asked(),
        Command::Up(_)
        | Command::Indexer(_)
        | Command::Controller(_)
        | Command::Releases(Releases::Export { .. })
        | Command::Model(_)
        | Command::Doctor
        | Command::Config(_)
        | Command::Completions { .. } => false,
    }
}

/// Runs a command that needs a server.
///
/// # Panics
/// On one that [`needs_server`] says no about.
pub(crate) async fn run(
    command: &Command,
    global: &Global,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = global.collection.as_str();
    match command {
        Command::Ingest(arguments) => ingest::run(arguments, collection, &global.data, client, output).await,
        Command::Search(arguments) => search::run(arguments, collection, client, output).await,
        Command::Get {
            id,
            lineage,
            min_position,
        } => {
            let asked = documents::Asked {
                id,
                lineage: *lineage,
                min_position: min_position.as_deref(),
            };
            documents::get(&asked, collection, client, output).await
        }
        Command::ExplainDocument { id, query, filter } => {
            let query = query
                .as_deref()
                .map(|text| (text, filter.as_deref().unwrap_or_default()));
            explain::run(id, query, collection, client, output).await
        }
        Command::Patch { id, fields, wait } => documents::patch(id, fields, wait, collection, client, output).await,
        Command::Delete { ids, wait } => documents::delete(ids, wait, collection, client, output).await,
        Command::Collections(command) => collections::run(command, collection, client, output).await,
        Command::Settings(command) => settings::run(command, collection, client, output).await,
        Command::Resync {
            file,
            time,
            revision,
            wait,
        } => {
            let feed = resync::Feed {
                file,
                time: time.as_deref(),
                revision: *revision,
            };
            resync::run(&feed, wait, collection, client, output).await
        }
        Command::Releases(command) => releases::run(command, collection, client, output).await,
        Command::Erase(arguments) => erase::run(arguments, collection, client, output).await,
        Command::Rebuild(arguments) => rebuild::run(arguments, collection, client, output).await,
        Command::Rollout(command) => rollout::run(command, collection, client, output).await,
        Command::Staged(command) => staged::run(command, collection, client, output).await,
        Command::DeadLetters(command) => dead_letters::run(command, collection, client, output).await,
        Command::Queries(Queries::Golden(command)) => golden::run(command, collection, client, output).await,
        Command::Queries(Queries::Log(command)) => logged::run(command, collection, client, output).await,
        Command::Evaluate(arguments) => evaluate::run(arguments, collection, client, output).await,
        Command::Up(_)
        | Command::Indexer(_)
        | Command::Controller(_)
        | Command::Model(_)
        | Command::Doctor
        | Command::Config(_)
        | Command::Completions { .. } => {
            unreachable!("main runs what needs no server")
        }
    }
}

/// JSON that a server sent, kept digit for digit.
fn raw(what: &str, json: String) -> Result<Box<RawValue>, CommandError> {
    let json = if json.is_empty() { "null".to_owned() } else { json };
    RawValue::from_string(json).map_err(|source| CommandError::Json {
        what: what.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
