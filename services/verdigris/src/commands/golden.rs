//! `queries golden`: queries with what must be found, set and shown as the file that they are.

use std::{fs, io};

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use verdigris_proto::search::{ClearGoldenQueriesRequest, GetGoldenQueriesRequest, SetGoldenQueriesRequest};

use super::batches::STANDARD_INPUT;
use super::{CommandError, raw};
use crate::arguments::Golden;
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Serialize)]
struct Shown {
    version: u64,
    queries: Vec<Box<RawValue>>,
}

/// Runs a command about golden queries.
pub(crate) async fn run(
    command: &Golden,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    let mut queries = client.queries();
    match command {
        Golden::Set { file } => {
            let request = SetGoldenQueriesRequest {
                collection,
                content: content(file)?.into(),
            };
            let answer = queries.set_golden_queries(within(CALL, request)).await?.into_inner();
            let json = json!({"version": answer.version, "queries": answer.queries});
            output.answer(&json, |_| {
                format!(
                    "{} golden queries are in force as version {}",
                    answer.queries, answer.version
                )
            })?;
        }
        Golden::Show => {
            let request = GetGoldenQueriesRequest { collection };
            let answer = queries.get_golden_queries(within(CALL, request)).await?.into_inner();
            let text = String::from_utf8_lossy(&answer.content).into_owned();
            let line = |line: &str| raw("a golden query that the server sent", line.to_owned());
            let shown = Shown {
                version: answer.version,
                queries: text.lines().map(line).collect::<Result<_, _>>()?,
            };
            output.answer(&shown, |_| text)?;
            output.note(&format!(
                "{} golden queries, version {}",
                shown.queries.len(),
                shown.version
            ));
        }
        Golden::Clear => {
            let request = ClearGoldenQueriesRequest { collection };
            let answer = queries.clear_golden_queries(within(CALL, request)).await?.into_inner();
            let json = json!({"version": answer.version, "removed": answer.removed});
            output.answer(&json, |_| format!("{} golden queries are taken away", answer.removed))?;
        }
    }
    Ok(Exit::Done)
}

fn content(file: &str) -> Result<Vec<u8>, CommandError> {
    let read = if file == STANDARD_INPUT {
        io::read_to_string(io::stdin()).map(String::into_bytes)
    } else {
        fs::read(file)
    };
    read.map_err(|source| CommandError::Read {
        path: file.to_owned(),
        source,
    })
}
