//! `rebuild`: all rows written anew as another lineage, beside what is served.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use verdigris_proto::admin::{GetRebuildRequest, GetRebuildResponse, RebuildRequest, RebuildResponse};

use super::CommandError;
use super::releases::user;
use super::settings::settings_text;
use crate::arguments::Rebuild;
use crate::client::{CALL, Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs};

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(200);
/// The phase in which rows are written.
const BUILDING: &str = "building";
/// The phase in which the last publishes are caught up with.
const LEVELING: &str = "leveling";

/// Begins a rebuild, or shows how far one has come.
pub(crate) async fn run(
    arguments: &Rebuild,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    if arguments.status {
        let status = status(collection, client).await?;
        output.answer(&of_status(&status), |_| shown(&status))?;
        return Ok(Exit::Done);
    }
    let settings_json = arguments.settings.as_deref().map(settings_text).transpose()?;
    let request = RebuildRequest {
        collection: collection.to_owned(),
        settings_json: settings_json.unwrap_or_default(),
        actor: arguments.actor.clone().unwrap_or_else(user),
        reason: arguments.reason.clone(),
    };
    let begun = client.admin().rebuild(within(LONG_CALL, request)).await?.into_inner();
    if !arguments.wait {
        output.answer(&of_begun(&begun), |_| begun_in_words(&begun))?;
        return Ok(Exit::Done);
    }
    output.note(&begun_in_words(&begun));
    let ended = wait(arguments, &begun, collection, client, output).await?;
    let is_there = ended.lineage == begun.lineage && ended.phase != BUILDING && ended.phase != LEVELING;
    output.answer(&of_status(&ended), |_| shown(&ended))?;
    Ok(if is_there { Exit::Done } else { Exit::NotSearchable })
}

async fn status(collection: &str, client: &Client) -> Result<GetRebuildResponse, CommandError> {
    let request = GetRebuildRequest {
        collection: collection.to_owned(),
    };
    Ok(client.admin().get_rebuild(within(CALL, request)).await?.into_inner())
}

/// Waits until the lineage is no longer being built, whatever became of it.
async fn wait(
    arguments: &Rebuild,
    begun: &RebuildResponse,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<GetRebuildResponse, CommandError> {
    let until = arguments
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let bar = output.progress(Some(begun.rows), "{wide_bar} {pos}/{len} rows, {eta} left");
    loop {
        let now = status(collection, client).await?;
        bar.set_position(now.rows_done);
        let is_built = now.lineage == begun.lineage && (now.phase == BUILDING || now.phase == LEVELING);
        if !is_built || until.is_some_and(|until| Instant::now() >= until) {
            bar.finish_and_clear();
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn of_begun(begun: &RebuildResponse) -> Value {
    json!({
        "lineage": begun.lineage,
        "rows": begun.rows,
        "embeds": begun.embeds,
        "estimated_seconds": begun.estimated_seconds,
    })
}

fn begun_in_words(begun: &RebuildResponse) -> String {
    let embeds = if begun.embeds { ", texts are embedded anew" } else { "" };
    format!(
        "lineage {} is being built: {} rows{embeds}, about {:.0} s; `verdigris rebuild --status` shows how far it is",
        begun.lineage, begun.rows, begun.estimated_seconds
    )
}

fn of_status(status: &GetRebuildResponse) -> Value {
    json!({
        "phase": status.phase,
        "lineage": status.lineage,
        "rows_done": status.rows_done,
        "rows": status.rows,
        "source_generation": status.source_generation,
        "embedded": status.embedded,
        "seconds_left": status.seconds_left,
        "actor": status.actor,
        "reason": status.reason,
        "since": status.since,
    })
}

fn shown(status: &GetRebuildResponse) -> String {
    if status.phase.is_empty() {
        return "nothing is being built, and no lineage lies beside the active one".to_owned();
    }
    let mut rows = vec![
        ("phase", status.phase.replace('_', " ")),
        ("lineage", status.lineage.clone()),
    ];
    if status.phase == BUILDING || status.phase == LEVELING {
        let left = status
            .seconds_left
            .map_or_else(String::new, |left| format!(", about {left:.0} s left"));
        rows.push(("rows", format!("{} of {}{left}", status.rows_done, status.rows)));
        rows.push(("from generation", status.source_generation.to_string()));
        rows.push(("asked by", format!("{}: {}", status.actor, status.reason)));
    }
    rows.push(("since", status.since.clone()));
    pairs(&rows)
}
