//! `doctor`: looks for trouble on this machine, in the store, and with the process that publishes, and says what to do
//! about each finding.

use std::sync::Arc;

use tonic::Code;
use verdigris_core::names::CollectionName;
use verdigris_embed::model;
use verdigris_proto::admin::ListCollectionsRequest;
use verdigris_store::{ReadError, Store, collection as objects, fetch};

use crate::arguments::Global;
use crate::client::{CALL, Client, within};
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::local::{model_folder, running};
use crate::output::{Output, table};
use crate::parts::{self, Rights};
use crate::up::configuration;

/// One thing that was looked at.
#[derive(Debug, serde::Serialize)]
struct Finding {
    what: String,
    ok: bool,
    found: String,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok: true,
            found: found.into(),
        }
    }

    fn bad(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self {
            what: what.into(),
            ok: false,
            found: chain(error),
        }
    }
}

/// Looks at everything; exit code 1 when something is wrong.
pub(crate) async fn run(global: &Global, output: &Output) -> anyhow::Result<Exit> {
    let mut findings = vec![match verdigris_engine::processor::check_processor() {
        Ok(()) => Finding::ok("processor", "x86-64-v3, FAISS built for it"),
        Err(error) => Finding::bad("processor", &error),
    }];
    findings.push(match model::locate(&model_folder(global)) {
        Ok(files) => Finding::ok("model", files.dir().display().to_string()),
        Err(error) => Finding::bad("model", &error),
    });
    match store(global).await {
        Ok(Some(store)) => look_at_store(store, &mut findings).await,
        Ok(None) => findings.push(Finding::ok("store", format!("none yet in {}", global.data.display()))),
        Err(error) => findings.push(Finding::bad("store", &*error)),
    }
    match running(global).await {
        Ok(Some(client)) => ask_indexer(&client, &mut findings).await,
        Ok(None) => {}
        Err(error) => findings.push(Finding::bad("server", &*error)),
    }
    let all_ok = findings.iter().all(|finding| finding.ok);
    output.answer(&findings, |findings| {
        let rows = findings.iter().map(|finding| {
            vec![
                if finding.ok { "ok" } else { "WRONG" }.to_owned(),
                finding.what.clone(),
                finding.found.clone(),
            ]
        });
        table(&["", "what", "found"], &[], rows)
    })?;
    Ok(if all_ok { Exit::Done } else { Exit::Error })
}

/// The store of the environment, else of the data folder; none where nothing was made yet.
async fn store(global: &Global) -> anyhow::Result<Option<Arc<dyn Store>>> {
    let values = configuration(None, Vec::new())?;
    let folder = global.data.join("store");
    if values.text("store.url").is_none() && !folder.is_dir() {
        return Ok(None);
    }
    let (store, _) = parts::open_store(&values, &folder, Rights::Read).await?;
    Ok(Some(store))
}

/// What only the process knows that publishes: whether it does, and why not. Another role has nothing to say of it.
async fn ask_indexer(client: &Client, findings: &mut Vec<Finding>) {
    let request = within(CALL, ListCollectionsRequest {});
    let collections = match client.admin().list_collections(request).await {
        Ok(answer) => answer.into_inner().collections,
        Err(status) if status.code() == Code::Unimplemented => return,
        Err(status) => return findings.push(Finding::bad("server", &CommandError::from(status))),
    };
    for collection in collections {
        let (reason, message) = (&collection.standstill_reason, &collection.standstill_message);
        findings.push(Finding {
            what: format!("publishing of {}", collection.name),
            ok: reason.is_empty(),
            found: match reason.as_str() {
                "" => "goes on".to_owned(),
                reason => format!("{message} ({reason})"),
            },
        });
    }
}

async fn look_at_store(store: Arc<dyn Store>, findings: &mut Vec<Finding>) {
    let names = match objects::list(&*store).await {
        Ok(names) => names,
        Err(error) => return findings.push(Finding::bad("store", &error)),
    };
    findings.push(Finding::ok(
        "store",
        format!("{}, {} collections", store.describe(), names.len()),
    ));
    for name in names {
        let finding = look_at_collection(&*store, &name).await;
        findings.push(finding.unwrap_or_else(|error| Finding::bad(format!("collection {name}"), &error)));
    }
}

async fn look_at_collection(store: &dyn Store, name: &CollectionName) -> Result<Finding, ReadError> {
    let what = format!("collection {name}");
    let pointer = match objects::pointer(store, name).await {
        Ok(seen) => seen.pointer,
        Err(error @ ReadError::Pointer { .. }) => {
            let found = match objects::newest_whole_manifest(store, name).await? {
                Some((key, manifest)) => format!(
                    "{}; the newest whole manifest is {key}, generation {}",
                    chain(&error),
                    manifest.generation
                ),
                None => format!("{}; no manifest is whole", chain(&error)),
            };
            return Ok(Finding { what, ok: false, found });
        }
        Err(error) => return Err(error),
    };
    objects::settings(store, name, &pointer.settings).await?;
    if let Some(staged) = &pointer.staged {
        let found = format!(
            "release {} breached a guard and is staged since {}: see `verdigris staged show`",
            staged.release.generation, staged.since
        );
        return Ok(Finding { what, ok: false, found });
    }
    if let Some(hold) = pointer.publish_hold() {
        let found = format!(
            "publishing is held by {} since {}: {}; `verdigris releases resume` goes on",
            hold.actor, hold.since, hold.reason
        );
        return Ok(Finding { what, ok: false, found });
    }
    let Some(active) = &pointer.active else {
        return Ok(Finding::ok(what, "nothing published yet"));
    };
    let manifest = objects::manifest(store, name, &active.manifest).await?;
    let verification = fetch::verify_release(store, &manifest).await;
    if verification.problems.is_empty() {
        let found = format!(
            "release {}: {} documents, {} files with the right digests",
            manifest.generation, manifest.documents, verification.files
        );
        return Ok(Finding::ok(what, found));
    }
    Ok(Finding {
        what,
        ok: false,
        found: verification.problems.join("; "),
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
