//! Refresh and swap: see the pointer move, verify and open what is new, warm it, swap the one handle.
//!
//! The active lineage is followed at each move of the pointer. The other one is opened beside it, by a loop of its own,
//! so that however long that takes, and however it ends, the active one has no part in it. Requests in flight keep the
//! release that they took; its files are unmapped when the last of them leaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use verdigris_core::pointer::LineagePointer;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::ReadError;
use verdigris_store::collection::{self as objects, SeenPointer};

use crate::Search;
use crate::answer::{chain, reason_of_read};
use crate::following::Start;
use crate::lineages::{Followed, LineageState, LineageView, NotServed, Problem, Served};
use crate::open::{of_read, open};
use crate::standing;
use crate::tenants;
use crate::warm::warm;

/// Between two tries after an error.
const RETRY: Duration = Duration::from_secs(1);

/// A collection of a prefix that nobody has used for so many looks is looked at again when somebody does: thousands that
/// are open cost nothing then.
const LOOKS_AWAKE: u32 = 10;

/// Follows the pointer until the collection is gone. May be dropped at any time.
pub(crate) async fn run(search: &Arc<Search>, followed: &Arc<Followed>) {
    // Each release takes files and threads to open; those who wait for the first look wait in turn.
    let place = search.opening.acquire().await;
    tenants::make_room(search, followed).await;
    let is_there = look(search, followed).await;
    drop(place);
    if !is_there {
        search.forget(followed);
    }
    followed.usage.looked();
    if is_there {
        // Ending either drops the other: both are cancel safe.
        tokio::select! {
            () = follow_active(search, followed) => {}
            () = follow_other(search, followed) => {}
        }
    }
}

async fn follow_active(search: &Arc<Search>, followed: &Arc<Followed>) {
    loop {
        tokio::time::sleep(pause(search.deps.poll)).await;
        if tenants::is_for_tenants(search) {
            followed.usage.used_within(LOOKS_AWAKE * search.deps.poll).await;
        }
        let is_there = look(search, followed).await;
        followed.usage.looked();
        if !is_there {
            search.forget(followed);
            return;
        }
        followed.forget_paged();
        if let Err(error) = followed.forgetting.go_on(search, &followed.name).await {
            tracing::warn!(collection = %followed.name, "queries about erased documents are still in the sample: {error}");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Readers that began together do not stay together.
fn pause(poll: Duration) -> Duration {
    poll.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

/// Opens what the pointer names as the other lineage, whenever it names something else.
async fn follow_other(search: &Arc<Search>, followed: &Arc<Followed>) {
    let mut changes = followed.other_named();
    loop {
        let named = changes.borrow_and_update().clone();
        let opened = match &named {
            Some(named) => open_other(search, followed, named).await,
            None => true,
        };
        let retry = async {
            match opened {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

/// True when the named release is open and warm.
async fn open_other(search: &Arc<Search>, followed: &Followed, named: &LineagePointer) -> bool {
    let is_open = |served: &Arc<Served>| served.is(named);
    if followed.lineages().open_of(&named.lineage).is_some_and(is_open) {
        return true;
    }
    match open(search, followed, named).await {
        Ok(mut served) => {
            let is_first = followed.lineages().open_of(&named.lineage).is_none();
            if is_first {
                served.ready += warm(search, &followed.name, &served).await;
            }
            followed.put_other(&Arc::new(served));
            tracing::info!(collection = %followed.name, lineage = %named.lineage, generation = named.generation,
                "the other lineage is warm");
            true
        }
        Err(problem) => {
            search.deps.metrics.other_failed(&followed.name);
            tracing::warn!(collection = %followed.name, lineage = %named.lineage, generation = named.generation,
                reason = problem.reason.as_str(), "the other lineage: {}", problem.message);
            followed.other_broken(named, problem);
            false
        }
    }
}

/// Looks at the pointer once, and swaps if it has moved. False when the collection is gone.
pub(crate) async fn look(search: &Arc<Search>, followed: &Arc<Followed>) -> bool {
    let known = followed.seen.lock().expect("held for a moment only").clone();
    let asked = Instant::now();
    let seen = match objects::pointer_if_moved(&*search.deps.store, &followed.name, known.as_ref()).await {
        Ok(None) => {
            note_age(search, followed, Age::ReadAt(asked));
            return true;
        }
        Ok(Some(seen)) => {
            followed.forgetting.asked(&seen.pointer);
            if search.deps.following.start == Start::Beside {
                followed.publishing(standing::by_pointer(&seen.pointer));
            }
            note_age(search, followed, Age::ReadAt(asked));
            seen
        }
        Err(ReadError::NoCollection(_)) => {
            gone(search, followed).await;
            return false;
        }
        Err(error) => {
            // What is open goes on answering; the age of the release tells how stale it is.
            tracing::warn!(collection = %followed.name, "pointer: {}", chain(&error));
            note_age(search, followed, Age::Unread);
            search.deps.metrics.refresh_failed(&followed.name);
            if let ReadError::Pointer { .. } = error {
                let (reason, message) = (reason_of_read(&error), chain(&error));
                let problem = Problem { reason, message };
                if followed.pointer_broken(&problem) {
                    not_ready(search, followed, problem);
                }
            }
            tokio::time::sleep(RETRY).await;
            return true;
        }
    };
    if let Err(problem) = follow_to(search, followed, &seen).await {
        search.deps.metrics.refresh_failed(&followed.name);
        tracing::error!(collection = %followed.name, reason = problem.reason.as_str(), "{}", problem.message);
        // The one before goes on answering, where there is one.
        let named = search.deps.following.of(&seen.pointer);
        if followed.active_broken(named.first, named.other, &problem) {
            not_ready(search, followed, problem);
        }
        tokio::time::sleep(RETRY).await;
        return true;
    }
    *followed.seen.lock().expect("held for a moment only") = Some(seen.tag);
    true
}

/// Whether the pointer was read.
#[derive(Clone, Copy)]
enum Age {
    ReadAt(Instant),
    Unread,
}

fn note_age(search: &Search, followed: &Followed, age: Age) {
    if let Age::ReadAt(asked) = age {
        followed.pointer_was_read(asked);
    }
    search.deps.metrics.stale(&followed.name, followed.stale());
}

async fn gone(search: &Search, followed: &Followed) {
    followed.stop(NotServed::Gone);
    search.log.forget(&followed.name).await;
    search.deps.readiness.ready(followed.name.as_str());
}

/// One of many tenants is no reason to send requests for the others elsewhere.
fn not_ready(search: &Search, followed: &Followed, problem: Problem) {
    if tenants::is_for_tenants(search) {
        return;
    }
    search.deps.readiness.not_ready(followed.name.as_str(), problem.message);
}

async fn follow_to(search: &Arc<Search>, followed: &Followed, seen: &SeenPointer) -> Result<(), Problem> {
    let pointer = &seen.pointer;
    if pointer.deleted_at.is_some() {
        followed.stop(NotServed::Gone);
        search.log.forget(&followed.name).await;
        search.deps.readiness.ready(followed.name.as_str());
        return Ok(());
    }
    let hidden = followed.hidden().next(&*search.deps.store, pointer).await;
    if let Some(hidden) = hidden.map_err(of_read)? {
        followed.hide(hidden);
    }
    let named = search.deps.following.of(pointer);
    let Some(active) = &named.first else {
        return not_named(search, followed);
    };
    let began = Instant::now();
    let is_named = |served: &&Arc<Served>| served.is(active);
    // After a flip it is open already, as the other one.
    let is_open = followed.lineages().open_of(&active.lineage).filter(is_named).cloned();
    let served = match is_open {
        Some(served) => served,
        None => Arc::new(opened(search, followed, active).await?),
    };
    let now = Timestamp(search.deps.clock.now_ns());
    let before = followed.lineages();
    let before = before.windows().0.map(|window| window.lineage().clone());
    let swapped = followed.swap(&served, active, named.other, now);
    let (metrics, manifest) = (&search.deps.metrics, served.release.manifest());
    if swapped.is_flip {
        metrics.flipped(&followed.name);
        tracing::info!(collection = %followed.name, lineage = %manifest.lineage, generation = manifest.generation,
            "another lineage answers");
    }
    if swapped.is_new {
        metrics.answers(&followed.name, before.as_ref(), &manifest.lineage);
        metrics.swapped(&followed.name, manifest, began.elapsed());
        search.log.settings(&followed.name, &served.settings.queries).await;
    }
    let hidden = followed.hidden().without_removed(pointer);
    let is_open = |view: &LineageView<'_>| view.state == LineageState::Warm;
    if let Some(hidden) = hidden.filter(|_| followed.lineages().views().iter().all(is_open)) {
        followed.hide(hidden);
    }
    search.deps.readiness.ready(followed.name.as_str());
    Ok(())
}

/// Opens what is to answer; where nothing of its lineage was open and somebody waits for readiness, it is warmed before.
async fn opened(search: &Arc<Search>, followed: &Followed, named: &LineagePointer) -> Result<Served, Problem> {
    let is_first = followed.lineages().open_of(&named.lineage).is_none();
    let mut served = open(search, followed, named).await?;
    if is_first && search.deps.following.start == Start::Beside {
        served.ready += warm(search, &followed.name, &served).await;
    }
    Ok(served)
}

/// The pointer names nothing that this process follows.
fn not_named(search: &Search, followed: &Followed) -> Result<(), Problem> {
    let Some(lineage) = &search.deps.following.lineage else {
        followed.stop(NotServed::Empty);
        // An empty answer is the right one.
        search.deps.readiness.ready(followed.name.as_str());
        return Ok(());
    };
    if followed.lineages().open_of(lineage).is_some() {
        // Whoever still sends requests here gets answers until the pod goes.
        return Ok(());
    }
    followed.stop(NotServed::Opening(lineage.clone()));
    let message = format!("lineage {lineage} is not named by the pointer");
    search.deps.readiness.not_ready(followed.name.as_str(), message);
    Ok(())
}
