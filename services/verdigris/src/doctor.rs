//! `doctor`: looks for trouble on this machine and in a data folder, and says what to do about each finding.

use std::sync::Arc;

use verdigris_core::names::CollectionName;
use verdigris_embed::model;
use verdigris_store::directory::DirectoryStore;
use verdigris_store::{ReadError, Store, collection as objects, fetch};

use crate::arguments::Global;
use crate::exit::Exit;
use crate::local::model_folder;
use crate::output::{Output, table};

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
    let root = global.data.join("store");
    if root.is_dir() {
        match DirectoryStore::open(&root) {
            Ok(store) => look_at_store(Arc::new(store), &mut findings).await,
            Err(error) => findings.push(Finding::bad("store", &error)),
        }
    } else {
        findings.push(Finding::ok("store", format!("none yet in {}", global.data.display())));
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
