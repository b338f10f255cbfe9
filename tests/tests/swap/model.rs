//! What a release holds, by the number of batches in it. A batch changes every moving document, brings a new one and
//! takes an old one away, all in one append and so in one release: an answer that mixes two releases shows two batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use verdigris_core::position::Position;
use verdigris_proto::search::{Hit, ReleaseInfo, SearchResponse};

use super::roles::events::{delete, patch, upsert};

/// Documents that every batch changes.
pub(crate) const MOVING: u64 = 6;
/// For how many batches a new document stays.
pub(crate) const STAYS: u64 = 20;
/// Events of a batch.
const EVENTS: u64 = MOVING + 2;

/// The events of batch `n`, from 1.
pub(crate) fn batch(n: u64) -> Vec<Bytes> {
    let moving = (0..MOVING).map(|d| {
        let id = format!("moving-{d}");
        // Whole documents and parts of them take turns; a part leaves the vector as it is.
        if n % 3 == 1 {
            upsert(&id, &format!("moving thing {d}"), n)
        } else {
            patch(&id, n)
        }
    });
    let gone = n.saturating_sub(STAYS);
    moving
        .chain([
            upsert(&format!("new-{n}"), &format!("comer {n}"), n),
            delete(&format!("new-{gone}")),
        ])
        .collect()
}

/// Whether the new document of batch `d` is there after batch `n`.
pub(crate) fn stays(d: u64, n: u64) -> bool {
    (1..=n).contains(&d) && n - d < STAYS
}

/// Every document after batch `n`, with the batch that wrote it last.
pub(crate) fn documents(n: u64) -> BTreeMap<String, u64> {
    let moving = (0..MOVING).map(|d| (format!("moving-{d}"), n));
    let new = (1..=n).filter(|d| stays(*d, n)).map(|d| (format!("new-{d}"), d));
    moving.chain(new).collect()
}

/// How many batches the release of an answer holds, by its own word.
pub(crate) fn batches(release: &ReleaseInfo) -> u64 {
    let position: Position = release.position.parse().expect("a position");
    assert_eq!(position.sequence % EVENTS, 0, "a release holds whole appends");
    position.sequence / EVENTS
}

/// What all clients together have been told.
#[derive(Default)]
pub(crate) struct Told {
    /// Lineage and position of each generation that answered.
    generations: Mutex<BTreeMap<u64, (String, String)>>,
}

impl Told {
    /// One generation is one release, whoever asks. The number of batches in it.
    pub(crate) fn release(&self, release: &ReleaseInfo) -> u64 {
        let mut generations = self
            .generations
            .lock()
            .expect("no code panics while it holds this lock");
        let content = (release.lineage.clone(), release.position.clone());
        let first = generations
            .entry(release.generation)
            .or_insert_with(|| content.clone())
            .clone();
        drop(generations);
        assert_eq!(
            first, content,
            "I-7: two releases call themselves {}",
            release.generation
        );
        batches(release)
    }

    /// Generations that answered.
    pub(crate) fn seen(&self) -> usize {
        self.generations
            .lock()
            .expect("no code panics while it holds this lock")
            .len()
    }
}

fn check_hit(hit: &Hit, held: &BTreeMap<String, u64>, told: &str) {
    let document: serde_json::Value = serde_json::from_str(&hit.document_json).expect("a document");
    assert_eq!(document["id"], hit.id.as_str(), "{told}");
    let expected = held
        .get(&hit.id)
        .unwrap_or_else(|| panic!("I-7, I-14: {} is not in {told}", hit.id));
    assert_eq!(document["batch"], *expected, "I-7: {} is not as in {told}", hit.id);
}

/// Every hit is as the answer's own release has it, none comes twice, and these are there: all where `wanted` says so.
pub(crate) fn check(told: &Told, answer: &SearchResponse, wanted: impl Fn(&str) -> bool) -> u64 {
    let release = answer.release.as_ref().expect("there is a release");
    let n = told.release(release);
    let (held, shown) = (documents(n), format!("release {} of {n} batches", release.generation));
    answer.hits.iter().for_each(|hit| check_hit(hit, &held, &shown));
    let ids: BTreeSet<&str> = answer.hits.iter().map(|hit| hit.id.as_str()).collect();
    assert_eq!(ids.len(), answer.hits.len(), "I-7: a document twice in {shown}");
    let expected: BTreeSet<&str> = held.keys().map(String::as_str).filter(|id| wanted(id)).collect();
    assert!(
        expected.is_subset(&ids),
        "I-7: {:?} are missing in {shown}",
        expected.difference(&ids)
    );
    release.generation
}
