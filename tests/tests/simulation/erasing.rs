//! What an erase promises (I-14): what was erased stays so, no event for it is taken any more, and once its bytes are
//! said to be removed, nothing that is named holds a row of it, dead or alive.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use verdigris_core::dead_letter;
use verdigris_core::digest::Digest;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_core::settings::Settings;
use verdigris_store::keys;

use super::disk::Disk;
use super::leftovers::references;
use super::reading::Reading;
use super::{Verdict, hold, name};

/// Erased documents as a pointer lists them, each with whether its bytes are said to be gone.
pub(crate) fn listed(disk: &Disk, pointer: &Pointer) -> Verdict<BTreeMap<String, bool>> {
    let Some(erased) = &pointer.erased else {
        return Ok(BTreeMap::new());
    };
    let key = keys::object(&name(), &erased.list.path);
    let object = disk.look(&key).ok_or(format!("I-14: {key} is not there"))?;
    hold(Digest::of(&object.bytes) == erased.list.digest, || {
        format!("I-14: {key} is damaged")
    })?;
    let list: Value = serde_json::from_slice(&object.bytes).map_err(|error| format!("I-14: {key}: {error}"))?;
    let entries = list["erasures"]
        .as_array()
        .ok_or(format!("I-14: {key} lists nothing"))?;
    let entry = |entry: &Value| {
        let id = entry["id"].as_str()?.to_owned();
        Some((id, erased.removed || entry["removed"] == true))
    };
    let listed: BTreeMap<String, bool> = entries.iter().filter_map(entry).collect();
    hold(listed.len() == entries.len(), || {
        format!("I-14: {key} lists something twice")
    })?;
    Ok(listed)
}

pub(crate) fn ids(listed: &BTreeMap<String, bool>) -> BTreeSet<String> {
    listed.keys().cloned().collect()
}

/// I-14: an erased document stays erased, and what is named holds nothing of what is said to be gone.
pub(crate) fn for_ever(
    disk: &Disk,
    reading: &mut Reading,
    was: &BTreeMap<String, bool>,
    is: &BTreeMap<String, bool>,
    after: &Pointer,
) -> Verdict<()> {
    let back = was.iter().find(|(id, gone)| is.get(*id).is_none_or(|is| **gone && !is));
    hold(back.is_none(), || format!("I-14: {back:?} is erased no more"))?;
    let gone: BTreeSet<String> = is.iter().filter(|(_, gone)| **gone).map(|(id, _)| id.clone()).collect();
    if gone.is_empty() {
        return Ok(());
    }
    for reference in references(after) {
        let held = reading.holds(reference, &gone)?;
        hold(held.is_none(), || {
            format!(
                "I-14: {} holds a row of {held:?}, whose bytes are said to be gone",
                reference.path
            )
        })?;
    }
    for build in &after.builds {
        let settings = disk.look(&keys::settings(&name(), build.settings.version, &build.settings.digest));
        let settings = settings.ok_or("I-2: a build without its settings")?;
        let settings = Settings::parse(&settings.bytes).map_err(|error| format!("I-2: {error:?}"))?;
        for part in &build.parts {
            let held = reading.held_by(part, settings.embedder.dimension, &gone)?;
            hold(held.is_none(), || {
                format!("I-14: a part of a build holds a row of {held:?}")
            })?;
        }
    }
    Ok(())
}

/// Kept releases that an erase may drop: those with rows of what is being erased.
pub(crate) fn dropped(
    reading: &mut Reading,
    before: &Pointer,
    after: &Pointer,
    listed: &BTreeMap<String, bool>,
) -> Verdict<BTreeSet<u64>> {
    let pending: BTreeSet<String> = listed
        .iter()
        .filter(|(_, gone)| !**gone)
        .map(|(id, _)| id.clone())
        .collect();
    let stays = |manifest: &ManifestReference| after.kept.iter().any(|kept| kept.manifest == *manifest);
    let mut dropped = BTreeSet::new();
    for kept in before
        .kept
        .iter()
        .filter(|kept| !pending.is_empty() && !stays(&kept.manifest))
    {
        if reading.holds(&kept.manifest, &pending)?.is_some() {
            dropped.insert(kept.generation);
        }
    }
    Ok(dropped)
}

/// Every document that was ever erased, and since when: what lay there before must be gone with its bytes.
#[derive(Default)]
pub(crate) struct Since(BTreeMap<String, i64>);

impl Since {
    /// Takes note of what a swing names.
    pub(crate) fn note(&mut self, is: &BTreeMap<String, bool>, at: i64) {
        for id in is.keys() {
            self.0.entry(id.clone()).or_insert(at);
        }
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// No dead letter that lay there before the erase is left once the bytes are said to be gone; one that a sleeper
    /// wrote later, or that a listing of before did not show, goes later.
    pub(crate) fn letters_are_gone(
        &self,
        disk: &Disk,
        was: &BTreeMap<String, bool>,
        is: &BTreeMap<String, bool>,
    ) -> Verdict<()> {
        let prefix = keys::dead_letters(&name());
        let is_new = |id: &str| is[id] && was.get(id) != Some(&true);
        let shown = |since: i64| disk.mislisted_at(&prefix).is_none_or(|at| at < since);
        let gone = self.0.iter().filter(|(id, since)| is_new(id) && shown(**since));
        let gone: BTreeMap<&str, i64> = gone.map(|(id, since)| (id.as_str(), *since)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        for key in disk.keys().iter().filter(|key| key.starts_with(&prefix)) {
            let object = disk.look(key).ok_or("a letter that went")?;
            let lay_there = gone.iter().filter(|(_, since)| object.modified <= **since);
            let left = events_of(key, &object.bytes, lay_there.map(|(id, _)| *id))?;
            hold(left.is_empty(), || {
                format!("I-14: a dead letter keeps an event of {left:?}, whose bytes are said to be gone: {key}")
            })?;
        }
        Ok(())
    }
}

/// Of which of these documents a batch of letters keeps an event.
fn events_of<'i>(key: &str, bytes: &[u8], ids: impl Iterator<Item = &'i str> + Clone) -> Verdict<BTreeSet<&'i str>> {
    let letters = dead_letter::decode(key, bytes).map_err(|error| format!("I-12: {error}"))?;
    let payloads = letters
        .iter()
        .map(|letter| String::from_utf8_lossy(&letter.payload_bytes()).into_owned());
    let of = |payload: String| {
        ids.clone()
            .filter(move |id| payload.contains(&format!("\"id\":\"{id}\"")))
    };
    Ok(payloads.flat_map(of).collect())
}

/// At the end of a story nothing of them is anywhere in the store.
pub(crate) fn nothing_is_left(disk: &Disk, pointer: &Pointer) -> Verdict<()> {
    let ids = ids(&listed(disk, pointer)?);
    let is_removed = pointer.erased.as_ref().is_none_or(|erased| erased.removed);
    hold(is_removed, || format!("I-14: bytes of {ids:?} are never removed"))?;
    for key in disk.keys().iter().filter(|key| key.contains("/dead-letters/")) {
        let object = disk.look(key).ok_or("a letter that went")?;
        let kept = events_of(key, &object.bytes, ids.iter().map(String::as_str))?;
        hold(kept.is_empty(), || {
            format!("I-14: a dead letter keeps an event of {kept:?}: {key}")
        })?;
    }
    Ok(())
}
