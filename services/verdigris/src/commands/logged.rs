//! `queries log`: the sample of asked queries that the server keeps on its machine.

use serde_json::json;
use verdigris_proto::search::{ClearQueryLogRequest, GetQueryLogRequest};

use super::CommandError;
use crate::arguments::QueryLog;
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Output, table};

/// Runs a command about asked queries.
pub(crate) async fn run(
    command: &QueryLog,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    let mut queries = client.queries();
    match command {
        QueryLog::Show { limit } => {
            let limit = *limit;
            let request = GetQueryLogRequest { collection, limit };
            let answer = queries.get_query_log(within(CALL, request)).await?.into_inner();
            let shown: Vec<_> = answer
                .queries
                .iter()
                .map(|query| json!({"text": query.text, "filter": query.filter}))
                .collect();
            let json = json!({
                "enabled": answer.enabled,
                "kept": answer.kept,
                "kept_max": answer.kept_max,
                "queries": shown,
            });
            output.answer(&json, |_| {
                let rows = answer
                    .queries
                    .iter()
                    .map(|query| vec![query.text.clone(), query.filter.clone()]);
                let state = match answer.enabled {
                    true => format!("{} of at most {} are kept", answer.kept, answer.kept_max),
                    false => "queries are not kept: the setting queries.log is false".to_owned(),
                };
                if answer.queries.is_empty() {
                    return format!("no queries\n\n{state}");
                }
                format!("{}\n\n{state}", table(&["text", "filter"], &[], rows))
            })?;
        }
        QueryLog::Clear => {
            let request = ClearQueryLogRequest { collection };
            let answer = queries.clear_query_log(within(CALL, request)).await?.into_inner();
            output.answer(&json!({"removed": answer.removed}), |_| {
                format!("{} asked queries are forgotten", answer.removed)
            })?;
        }
    }
    Ok(Exit::Done)
}
