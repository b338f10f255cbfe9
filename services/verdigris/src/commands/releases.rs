//! `releases`: what was published, and whether its files are whole. Exporting works on files and is not here.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tonic::Code;
use verdigris_proto::admin::{
    DiffReleasesRequest, GetReleaseRequest, ListReleasesRequest, PinReleaseRequest, Release, ResumePublishingRequest,
    RollBackReleaseRequest, VerifyReleaseRequest, VerifyReleaseResponse,
};
use verdigris_proto::search::GetServingStatsRequest;

use super::documents::pretty;
use super::{CommandError, raw};
use crate::arguments::Releases;
use crate::client::{CALL, Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs, size, table, to_the_second};

#[derive(Serialize)]
struct Shown {
    generation: u64,
    lineage: String,
    created_at: String,
    documents: u64,
    segments: u64,
    bytes: u64,
    position: String,
    reason: String,
    active: bool,
    replayable: bool,
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Box<RawValue>>,
}

/// Runs a command about releases.
pub(crate) async fn run(
    command: &Releases,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    match command {
        Releases::List => {
            let answer = client
                .admin()
                .list_releases(within(CALL, ListReleasesRequest { collection }))
                .await?;
            let releases = answer.into_inner().releases.into_iter().map(Shown::try_from);
            let releases: Vec<Shown> = releases.collect::<Result<_, _>>()?;
            output.answer(&json!({"releases": releases}), |_| many(&releases))?;
            Ok(Exit::Done)
        }
        Releases::Show { generation } => {
            let request = GetReleaseRequest {
                collection,
                generation: generation.unwrap_or(0),
            };
            let release = client.admin().get_release(within(CALL, request)).await?.into_inner();
            output.answer(&Shown::try_from(release)?, one)?;
            Ok(Exit::Done)
        }
        Releases::Verify { generation } => verify(collection, generation.unwrap_or(0), client, output).await,
        Releases::Diff { before, after, limit } => {
            let request = DiffReleasesRequest {
                collection,
                before: *before,
                after: after.unwrap_or(0),
                limit: (*limit).max(1),
            };
            super::explain::diff(request, client, output).await
        }
        Releases::Rollback { .. } | Releases::Resume { .. } | Releases::Pin { .. } => {
            act(command, collection, client, output).await
        }
        Releases::Export { .. } => unreachable!("main runs what needs no server"),
    }
}

/// What changes something.
async fn act(command: &Releases, collection: String, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    match command {
        Releases::Rollback {
            generation,
            reason,
            without_replay,
            actor,
        } => {
            let request = RollBackReleaseRequest {
                collection: collection.clone(),
                generation: *generation,
                actor: actor.clone().unwrap_or_else(user),
                reason: reason.clone(),
                without_replay: *without_replay,
            };
            let release = client.admin().roll_back_release(within(LONG_CALL, request)).await?;
            let release = Shown::try_from(release.into_inner())?;
            answered(&collection, release.generation, client).await?;
            output.answer(&release, |release| went_back(*generation, release))?;
        }
        Releases::Resume {
            set_aside,
            reason,
            actor,
        } => {
            let set_aside = set_aside.as_deref().map(super::staged::lines).transpose()?;
            let request = ResumePublishingRequest {
                collection,
                actor: actor.clone().unwrap_or_else(user),
                set_aside: set_aside.unwrap_or_default(),
                reason: reason.clone().unwrap_or_default(),
            };
            let answer = client.admin().resume_publishing(within(LONG_CALL, request)).await?;
            let unread = answer.into_inner().unread_events;
            output.answer(&json!({"unread_events": unread}), |_| {
                format!("publishing goes on; {unread} events are read again")
            })?;
        }
        Releases::Pin { generation, remove } => {
            let request = PinReleaseRequest {
                collection,
                generation: *generation,
                pinned: !remove,
            };
            let release = client.admin().pin_release(within(CALL, request)).await?.into_inner();
            output.answer(&Shown::try_from(release)?, |release| {
                let until = if release.pinned {
                    "is kept until it is let go by word"
                } else {
                    "is kept as long as any other"
                };
                format!("generation {} {until}", release.generation)
            })?;
        }
        _ => unreachable!("the caller shows what changes nothing"),
    }
    Ok(Exit::Done)
}

/// The user of this machine, as an actor.
pub(crate) fn user() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Waits until searches are answered from this generation or a later one.
async fn answered(collection: &str, generation: u64, client: &Client) -> Result<(), CommandError> {
    /// Between two questions: the reader looks at the pointer as often.
    const PAUSE: Duration = Duration::from_millis(50);
    let until = Instant::now() + CALL;
    loop {
        let request = GetServingStatsRequest {
            collection: collection.to_owned(),
            ..GetServingStatsRequest::default()
        };
        let stats = match client.search().get_serving_stats(within(CALL, request)).await {
            // Where the token may not read, or an indexer alone is asked, the pointer is all that can be waited for.
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => return Ok(()),
            stats => stats?.into_inner(),
        };
        let served = stats.release.map_or(0, |release| release.generation);
        if served >= generation || Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn went_back(to: u64, release: &Shown) -> String {
    format!(
        "searches are answered from the content of generation {to} again, as generation {}\n\
         publishing is held; look at the events since, then: verdigris releases resume",
        release.generation
    )
}

async fn verify(collection: String, generation: u64, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let request = VerifyReleaseRequest { collection, generation };
    let answer = client
        .admin()
        .verify_release(within(LONG_CALL, request))
        .await?
        .into_inner();
    let VerifyReleaseResponse {
        generation,
        files,
        bytes,
        problems,
    } = &answer;
    let json = json!({"generation": generation, "files": files, "bytes": bytes, "problems": problems});
    output.answer(&json, |_| verified(&answer))?;
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Error })
}

fn verified(answer: &VerifyReleaseResponse) -> String {
    let VerifyReleaseResponse {
        generation,
        files,
        bytes,
        problems,
    } = answer;
    if problems.is_empty() {
        return format!("generation {generation} is whole: {files} files, {}", size(*bytes));
    }
    format!("generation {generation} is damaged:\n  {}", problems.join("\n  "))
}

fn many(releases: &[Shown]) -> String {
    let header = [
        "generation",
        "lineage",
        "created at",
        "documents",
        "segments",
        "size",
        "reason",
        "",
    ];
    let rows = releases.iter().map(|release| {
        vec![
            release.generation.to_string(),
            release.lineage.clone(),
            to_the_second(&release.created_at),
            release.documents.to_string(),
            release.segments.to_string(),
            size(release.bytes),
            release.reason.clone(),
            marks(release),
        ]
    });
    table(&header, &["generation", "documents", "segments", "size"], rows)
}

fn marks(release: &Shown) -> String {
    let marks = [
        (release.active, "active"),
        (release.pinned, "pinned"),
        (!release.replayable, "not replayable"),
    ];
    let marks: Vec<&str> = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
    marks.join(", ")
}

fn one(release: &Shown) -> String {
    let facts = pairs(&[
        ("generation", release.generation.to_string()),
        ("lineage", release.lineage.clone()),
        ("created at", release.created_at.clone()),
        ("documents", release.documents.to_string()),
        ("segments", release.segments.to_string()),
        ("size", size(release.bytes)),
        ("position", release.position.clone()),
        ("reason", release.reason.clone()),
        ("state", marks(release)),
    ]);
    match &release.manifest {
        Some(manifest) => format!("{facts}\n\n{}", pretty(manifest)),
        None => facts,
    }
}

// === impl Shown ===

impl TryFrom<Release> for Shown {
    type Error = CommandError;

    fn try_from(release: Release) -> Result<Self, CommandError> {
        let manifest = Some(release.manifest_json).filter(|json| !json.is_empty());
        Ok(Self {
            generation: release.generation,
            lineage: release.lineage,
            created_at: release.created_at,
            documents: release.documents,
            segments: release.segments,
            bytes: release.bytes,
            position: release.position,
            reason: release.reason,
            active: release.active,
            replayable: release.replayable,
            pinned: release.pinned,
            manifest: manifest
                .map(|json| raw("the manifest that the server sent", json))
                .transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_shows_whether_it_is_active_and_can_be_replayed() {
        let release = Release {
            generation: 12,
            lineage: "l1".to_owned(),
            created_at: "2026-05-01T12:00:00Z".to_owned(),
            documents: 3,
            segments: 1,
            bytes: 10,
            reason: "publish".to_owned(),
            active: true,
            ..Release::default()
        };
        let shown = Shown::try_from(release).expect("no manifest");
        let expect = " generation  lineage  created at            documents  segments  size  reason
         12  l1       2026-05-01T12:00:00Z          3         1  10 B  publish  active, not replayable";
        assert_eq!(many(&[shown]), expect);
    }

    #[test]
    fn a_damaged_release_names_each_problem() {
        let answer = VerifyReleaseResponse {
            generation: 4,
            problems: vec!["a.tar: 1 bit".into(), "b".into()],
            ..Default::default()
        };
        assert_eq!(verified(&answer), "generation 4 is damaged:\n  a.tar: 1 bit\n  b");
    }
}
