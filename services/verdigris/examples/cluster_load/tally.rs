//! What was counted: calls, failures, mixed answers, and which lineage answers whom.
//!
//! Deliberately absent: a judgement.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::Status;
use verdigris_proto::search::SearchResponse;
use verdigris_runtime::clock::Clock;

use crate::client::Kind;

/// Generations whose documents are remembered for comparison.
const GENERATIONS_MAX: usize = 64;
/// Failures and mixed answers that are told in words.
const TOLD_MAX: usize = 20;

/// Counts of all clients.
#[derive(Default)]
pub(crate) struct Tally {
    calls: u64,
    failed_first: u64,
    failed: u64,
    by_code: BTreeMap<String, u64>,
    mixed: u64,
    told: Vec<Value>,
    micros: Vec<u32>,
    lineage_of: HashMap<usize, String>,
    answered_by: BTreeMap<String, u64>,
    documents: BTreeMap<u64, HashMap<String, u64>>,
}

/// Counts are worth having even when a client panicked.
pub(crate) fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> i64 {
    Clock::system().now_ns() / 1_000_000
}

impl Tally {
    /// A call was answered, however often it was tried.
    pub(crate) fn answered(&mut self, client: usize, kind: Kind, answer: &SearchResponse, took: Duration) {
        self.calls += 1;
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        let release = answer.release.clone().unwrap_or_default();
        *self.answered_by.entry(release.lineage.clone()).or_default() += 1;
        self.look_for_mixture(client, answer);
        if self.lineage_of.get(&client) != Some(&release.lineage) {
            let kind = if matches!(kind, Kind::Keeps) {
                "keeps"
            } else {
                "reconnects"
            };
            println!(
                "{}",
                json!({"at_ms": now_ms(), "client": client, "kind": kind, "lineage": release.lineage, "generation": release.generation})
            );
            self.lineage_of.insert(client, release.lineage);
        }
    }

    /// The first try of a call failed; others may follow.
    pub(crate) fn failed_first(&mut self, client: usize, status: &Status) {
        self.failed_first += 1;
        *self.by_code.entry(format!("{:?}", status.code())).or_default() += 1;
        self.tell(json!({"at_ms": now_ms(), "client": client, "code": format!("{:?}", status.code()), "message": status.message()}));
    }

    /// All tries of a call failed.
    pub(crate) fn failed(&mut self, client: usize) {
        self.calls += 1;
        self.failed += 1;
        self.tell(json!({"at_ms": now_ms(), "client": client, "message": "all tries failed"}));
    }

    /// What was counted, as one line.
    pub(crate) fn counted(&self, what: &str) -> Value {
        let mut micros = self.micros.clone();
        micros.sort_unstable();
        let at = |share: f64| {
            micros
                .get((micros.len() as f64 * share) as usize)
                .map(|micros| f64::from(*micros) / 1000.0)
        };
        json!({
            what: true, "at_ms": now_ms(), "calls": self.calls, "failed_first": self.failed_first, "failed": self.failed,
            "by_code": self.by_code, "mixed": self.mixed, "told": self.told, "answered_by": self.answered_by,
            "p50_ms": at(0.5), "p99_ms": at(0.99),
        })
    }

    fn look_for_mixture(&mut self, client: usize, answer: &SearchResponse) {
        let generation = answer.release.as_ref().map_or(0, |release| release.generation);
        let mut why = None;
        let seen = self.documents.entry(generation).or_default();
        for hit in &answer.hits {
            let mut hasher = DefaultHasher::new();
            hit.document_json.hash(&mut hasher);
            let digest = hasher.finish();
            if hit.written_generation > generation {
                why = Some(format!("{}: row of generation {}", hit.id, hit.written_generation));
            } else if *seen.entry(hit.id.clone()).or_insert(digest) != digest {
                why = Some(format!("{}: another content at the same generation", hit.id));
            }
        }
        if self.documents.len() > GENERATIONS_MAX {
            self.documents.pop_first();
        }
        if let Some(why) = why {
            self.mixed += 1;
            self.tell(json!({"at_ms": now_ms(), "client": client, "mixed": why, "generation": generation}));
        }
    }

    fn tell(&mut self, what: Value) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what);
        }
    }
}
