//! `erase`: documents hidden at once and for ever, and what is left of their bytes.

use serde_json::{Value, json};
use verdigris_core::erasure::ERASED_AT_ONCE_MAX;
use verdigris_proto::admin::{EraseDocumentsRequest, Erasure, GetErasureRequest, GetErasureResponse};

use super::CommandError;
use super::releases::user;
use crate::arguments::Erase;
use crate::client::{Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs, to_the_second};

/// Erases documents, or shows what is left of them.
pub(crate) async fn run(
    arguments: &Erase,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    if arguments.status {
        return status(arguments, collection, client, output).await;
    }
    let (mut hidden, mut already, mut waits) = (0, 0, String::new());
    for ids in arguments.ids.chunks(ERASED_AT_ONCE_MAX) {
        let request = EraseDocumentsRequest {
            collection: collection.to_owned(),
            ids: ids.to_vec(),
            actor: arguments.actor.clone().unwrap_or_else(user),
            reason: arguments.reason.clone().unwrap_or_default(),
        };
        let answer = client.admin().erase_documents(within(LONG_CALL, request)).await?;
        let answer = answer.into_inner();
        hidden += answer.hidden;
        already += answer.already;
        waits = answer.waits;
    }
    let report = json!({"hidden": hidden, "already": already, "waits": waits});
    output.answer(&report, |_| {
        let mut text = format!("{hidden} documents are hidden in every release");
        if already > 0 {
            text += &format!(", {already} were erased before");
        }
        if hidden > 0 && waits.is_empty() {
            text += "; their bytes are being removed: `verdigris erase --status` says what is left";
        } else if !waits.is_empty() {
            text += &format!("; their bytes wait, because {waits}");
        }
        text
    })?;
    Ok(Exit::Done)
}

async fn status(arguments: &Erase, collection: &str, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let request = GetErasureRequest {
        collection: collection.to_owned(),
        ids: arguments.ids.clone(),
        limit: u32::try_from(arguments.ids.len()).unwrap_or(u32::MAX),
    };
    let answer = client
        .admin()
        .get_erasure(within(LONG_CALL, request))
        .await?
        .into_inner();
    let report = json!({
        "erasures": answer.erasures.iter().map(of_one).collect::<Vec<_>>(),
        "total": answer.total,
        "removed": answer.removed,
        "waits": answer.waits,
        "looked_through": answer.looked_through,
        "bus_days": answer.bus_days,
    });
    output.answer(&report, |_| shown(&answer))?;
    for id in &arguments.ids {
        if !answer.erasures.iter().any(|erasure| erasure.id == *id) {
            output.note(&format!("{id} was not erased"));
        }
    }
    Ok(Exit::Done)
}

fn of_one(erasure: &Erasure) -> Value {
    json!({
        "id": erasure.id,
        "actor": erasure.actor,
        "reason": erasure.reason,
        "hidden_since": erasure.hidden_since,
        "segments": erasure.segments,
        "releases": erasure.releases,
        "files_until": erasure.files_until,
        "dead_letters": erasure.dead_letters,
        "events": erasure.events,
        "first_position": erasure.first_position,
        "last_position": erasure.last_position,
    })
}

fn shown(answer: &GetErasureResponse) -> String {
    if answer.total == 0 {
        return "nothing was erased in this collection".to_owned();
    }
    let mut parts: Vec<String> = answer.erasures.iter().map(|one| one_shown(one, answer)).collect();
    let told = answer.erasures.len() as u64;
    if told < answer.total {
        parts.push(format!("{told} of {} erased documents are shown", answer.total));
    }
    parts.push(match (answer.removed, answer.waits.as_str()) {
        (true, _) => "nothing that can answer holds their bytes any more".to_owned(),
        (false, "") => "their bytes are being removed".to_owned(),
        (false, waits) => format!("their bytes wait, because {waits}"),
    });
    parts.join("\n\n")
}

fn one_shown(erasure: &Erasure, answer: &GetErasureResponse) -> String {
    let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let releases = erasure.releases.iter().map(u64::to_string).collect::<Vec<_>>();
    let files = match erasure.files_until.as_str() {
        "" => "none".to_owned(),
        until => format!("until {} and the next collection after that", to_the_second(until)),
    };
    let log = match erasure.events {
        0 => format!("none among the last {}", answer.looked_through),
        events => format!(
            "{events} among the last {}, {} to {}; the log keeps events {} days",
            answer.looked_through, erasure.first_position, erasure.last_position, answer.bus_days
        ),
    };
    pairs(&[
        ("document", erasure.id.clone()),
        ("hidden since", to_the_second(&erasure.hidden_since)),
        ("asked by", format!("{}: {}", erasure.actor, erasure.reason)),
        ("in segments", none(erasure.segments.join(", "))),
        ("in kept releases", none(releases.join(", "))),
        ("files that wait", files),
        ("dead letters", erasure.dead_letters.to_string()),
        ("events in the log", log),
    ])
}
