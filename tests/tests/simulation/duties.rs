//! Who may change what of the pointer, and what must stay in it.

use std::collections::BTreeSet;

use serde_json::Value;
use verdigris_core::digest::Digest;
use verdigris_core::pointer::{KeptRelease, LineageRole, Pointer, RejectedEvents};
use verdigris_store::keys;

use super::disk::Disk;
use super::leftovers::references;
use super::{Verdict, beside, hold, name};

/// How the seats of owners of rollouts begin; all others are indexers.
pub(crate) const OWNER: &str = "up/";

const MINUTE: i64 = 60 * 1_000_000_000;

/// Sequences that a person rejected.
pub(crate) fn rejected(disk: &Disk, rejected: &RejectedEvents) -> Verdict<BTreeSet<u64>> {
    let key = keys::object(&name(), &rejected.list.path);
    let object = disk.look(&key).ok_or(format!("I-12: {key} is not there"))?;
    hold(Digest::of(&object.bytes) == rejected.list.digest, || {
        format!("I-12: {key} is damaged")
    })?;
    let list: Value = serde_json::from_slice(&object.bytes).map_err(|error| format!("I-12: {key}: {error}"))?;
    let sequences = list["sequences"]
        .as_array()
        .ok_or(format!("I-12: {key} lists nothing"))?;
    Ok(sequences.iter().filter_map(Value::as_u64).collect())
}

/// I-4, I-19: whoever swings has the epoch of his kind, and leaves alone what is the other kind's.
pub(crate) fn allowed(by: &str, before: &Pointer, after: &Pointer) -> Verdict<()> {
    remembers_rejected(before, after)?;
    lets_go_by_the_grace(before, after)?;
    if by.starts_with(OWNER) {
        owner(by, before, after)
    } else {
        indexer(by, before, after)
    }
}

/// I-12: what a person rejected is known as long as a release from before it is kept: it may be read again.
fn remembers_rejected(before: &Pointer, after: &Pointer) -> Verdict<()> {
    let forgotten = before.rejected.as_ref().filter(|_| after.rejected.is_none());
    let may_return = forgotten.filter(|rejected| after.kept.iter().any(|kept| kept.checkpoint < rejected.to));
    hold(may_return.is_none(), || {
        format!("I-12: {may_return:?} is forgotten, and may be read again")
    })
}

/// I-10: a manifest that may have answered is remembered when it is named no more, so that its files stay for the grace.
fn lets_go_by_the_grace(before: &Pointer, after: &Pointer) -> Verdict<()> {
    let remembered = after.unnamed.iter().map(|unnamed| &unnamed.manifest.path);
    let stays: BTreeSet<&String> = references(after)
        .map(|manifest| &manifest.path)
        .chain(remembered)
        .collect();
    let sources: BTreeSet<&String> = before.builds.iter().map(|build| &build.source.path).collect();
    let mut gone = references(before).filter(|manifest| !stays.contains(&manifest.path));
    let gone = gone.find(|manifest| !sources.contains(&manifest.path));
    hold(gone.is_none(), || format!("I-10: {gone:?} is let go without the grace"))
}

fn owner(by: &str, before: &Pointer, after: &Pointer) -> Verdict<()> {
    hold(before.writer == after.writer, || {
        "I-4: an owner changed the writer".to_owned()
    })?;
    hold(before.generation == after.generation, || {
        "I-4: an owner published".to_owned()
    })?;
    let (was, is) = (before.owner.as_ref(), after.owner.as_ref());
    if was != is {
        let rises = is.map_or(0, |owner| owner.epoch) == was.map_or(0, |owner| owner.epoch) + 1;
        hold(rises && is.is_some_and(|owner| owner.id == by), || {
            "I-4: a claim for another".to_owned()
        })?;
        return hold(before.active == after.active && before.other == after.other, || {
            "I-4: a claim that moves traffic".to_owned()
        });
    }
    hold(was.is_some_and(|owner| owner.id == by), || {
        format!("I-4: {by} has lost its epoch to {was:?}")
    })
}

fn indexer(by: &str, before: &Pointer, after: &Pointer) -> Verdict<()> {
    hold(before.owner == after.owner, || {
        "I-4: an indexer changed the owner".to_owned()
    })?;
    hold(before.promotion_hold == after.promotion_hold, || {
        "I-9: an indexer changed the hold on promotion".to_owned()
    })?;
    hold(before.served == after.served, || {
        "I-19: an indexer moved traffic".to_owned()
    })?;
    given_up(before, after)?;
    let (was, is) = (before.writer.as_ref(), after.writer.as_ref());
    let (old, new) = (
        was.map_or(0, |writer| writer.epoch),
        is.map_or(0, |writer| writer.epoch),
    );
    if old != new {
        hold(new == old + 1 && is.is_some_and(|writer| writer.id == by), || {
            "I-4: a claim for another".to_owned()
        })?;
        return hold(same_releases(before, after), || {
            "I-4: a claim that publishes".to_owned()
        });
    }
    if same_releases(before, after) && before.writer == after.writer && is_wish(before, after) {
        return Ok(());
    }
    hold(was.is_some_and(|writer| writer.id == by), || {
        format!("I-4: {by} has lost its turn to {was:?}")
    })
}

/// I-18: a lineage that is built or followed as it should be is given up by its owner alone, or by going back.
fn given_up(before: &Pointer, after: &Pointer) -> Verdict<()> {
    let went_back = after.generation > before.generation && after.publish_hold().is_some();
    // A way back makes room for a window that is published as a candidate.
    let makes_room = before
        .other
        .as_ref()
        .is_some_and(|other| other.role == LineageRole::WayBack);
    let went_back = went_back || (makes_room && beside::is_candidate_alone(before, after));
    let named = |pointer: &Pointer| -> BTreeSet<String> {
        let builds = pointer.builds.iter().map(|build| &build.lineage);
        let other = pointer.other.iter().map(|other| &other.lineage);
        builds.chain(other).map(ToString::to_string).collect()
    };
    let (was, is) = (named(before), named(after));
    hold(went_back || was.is_subset(&is), || {
        format!(
            "I-18: the indexer gave {:?} up, which it cannot follow",
            was.difference(&is)
        )
    })
}

/// Settings and pins are set without a turn.
fn is_wish(before: &Pointer, after: &Pointer) -> bool {
    let mut without = before.clone();
    without.settings = after.settings.clone();
    without.other_settings = after.other_settings.clone();
    for (old, new) in without.builds.iter_mut().zip(&after.builds) {
        old.settings = new.settings.clone();
    }
    for (old, new) in without.kept.iter_mut().zip(&after.kept) {
        old.pinned = new.pinned;
    }
    let (sequence, nonce, nonces, updated_at) = (
        after.sequence,
        after.nonce.clone(),
        after.nonces.clone(),
        after.updated_at,
    );
    (without.sequence, without.nonce, without.nonces, without.updated_at) = (sequence, nonce, nonces, updated_at);
    without == *after
}

fn same_releases(before: &Pointer, after: &Pointer) -> bool {
    let kept = |pointer: &Pointer| -> Vec<(u64, String)> {
        pointer
            .kept
            .iter()
            .map(|kept| (kept.generation, kept.manifest.path.clone()))
            .collect()
    };
    before.active == after.active
        && before.other == after.other
        && before.generation == after.generation
        && before.staged == after.staged
        && before.hold == after.hold
        && kept(before) == kept(after)
}

/// What retention may let go, written without a look at how the product does it.
/// Those in `dropped` an erase lets go.
pub(crate) fn retained(before: &Pointer, after: &Pointer, now: i64, dropped: &BTreeSet<u64>) -> Verdict<()> {
    let stays = |release: &KeptRelease| after.kept.iter().any(|kept| kept.generation == release.generation);
    for (n, gone) in before.kept.iter().enumerate().filter(|(_, release)| !stays(release)) {
        if dropped.contains(&gone.generation) {
            continue;
        }
        let shown = || format!("I-10: release {} was let go", gone.generation);
        hold(!gone.pinned, || format!("{}, which is pinned", shown()))?;
        hold(before.kept.len() - n > 49, || {
            format!("{}, one of the last fifty", shown())
        })?;
        let is_named = [&after.active, &after.other]
            .into_iter()
            .flatten()
            .any(|lineage| lineage.generation == gone.generation);
        hold(!is_named, || format!("{}, which is named", shown()))?;
        // A minute of slack: the swing is later than the time that it was judged by.
        for (width, reach) in [
            (MINUTE, 60 * MINUTE),
            (60 * MINUTE, 24 * 60 * MINUTE),
            (24 * 60 * MINUTE, 7 * 24 * 60 * MINUTE),
        ] {
            let slot = |release: &KeptRelease| release.created_at.0.div_euclid(width);
            let is_newest = !after
                .kept
                .iter()
                .any(|later| later.generation > gone.generation && slot(later) == slot(gone));
            hold(now - gone.created_at.0 >= reach || !is_newest, || {
                format!("{}, the newest of its time", shown())
            })?;
        }
    }
    Ok(())
}
