//! Goal: the default limits refuse what breaks in practice and nothing that is only different.
//! Method: what would be measured of a good lineage, changed in the ways of each kind; each kind in many sizes.

use super::*;
use crate::digest::ContentSum;
use crate::embedder::EmbedderIdentity;
use crate::index_type::{Codes, IndexType};
use crate::manifest::{Checkpoint, SettingsReference};
use crate::position::StreamIdentity;

const MODEL: &str = "all-MiniLM-L6-v2";

fn content(text: &str) -> ContentSum {
    let mut sum = ContentSum::default();
    sum.add(&Digest::of(text.as_bytes()));
    sum
}

fn model(name: &str) -> EmbedderIdentity {
    EmbedderIdentity {
        provider: "minilm".to_owned(),
        model: name.to_owned(),
        normalised: true,
        ..EmbedderIdentity::none(384)
    }
}

fn facts(lineage: &str) -> LineageFacts {
    LineageFacts {
        lineage: lineage.to_owned().into(),
        generation: 40,
        manifest: Digest::of(lineage.as_bytes()),
        documents: 20_000,
        chunks: 20_000,
        live_bytes: 18_000_000,
        ghosts: 300,
        content: content("all"),
        checkpoint: Checkpoint {
            stream: StreamIdentity(7),
            sequence: 21_000,
            digest: None,
        },
        dimension: 384,
        embedder: model(MODEL),
        settings: SettingsReference {
            version: 1,
            digest: Digest::of(b"settings"),
        },
        index_types: vec![IndexType::Flat, IndexType::Hnsw(Codes::Exact)],
    }
}

/// What is measured by reading a rebuild that went well; it was asked nothing.
fn read() -> Measurements {
    let candidate = facts("b");
    Measurements {
        files: Measured::Value(FilesVerified {
            verified: 6,
            named: 6,
            damaged: Vec::new(),
        }),
        rows: Measured::Value(RowsCounted {
            documents: candidate.documents,
            duplicates: 0,
            content: candidate.content,
        }),
        same_generation: Measured::Value(SameGeneration {
            generation: candidate.generation,
            content: candidate.content,
            documents: candidate.documents,
            checkpoint: candidate.checkpoint.clone(),
        }),
        model: Measured::Value(LoadedModel {
            embedder: candidate.embedder.clone(),
            file_dimensions: vec![384],
        }),
        vectors: Measured::Value(VectorsChecked {
            sampled: 200,
            right: 200,
            wrong: Vec::new(),
        }),
        texts: Measured::Value(TextsChecked {
            sampled: 200,
            absent: 0,
            empty: 3,
            empty_active: 3,
        }),
        known_items: Measured::Value(KnownItems {
            sampled: 200,
            found: 188,
            found_active: 190,
        }),
        deletes: Measured::Value(DeletesChecked {
            sampled: 200,
            leaked: Vec::new(),
        }),
        active: Measured::Value(facts("a")),
        measured_at: Timestamp(1),
        recall: Measured::default(),
        golden: Measured::default(),
        queries: Measured::default(),
        latency: Measured::default(),
        memory: Measured::default(),
        ready_ms: Measured::default(),
        candidate,
    }
}

/// What is measured of a rebuild that went well.
pub(crate) fn good() -> Measurements {
    Measurements {
        recall: Measured::Value(RecallMeasured {
            sampled: 200,
            recall: 0.991,
            active: Some(0.994),
        }),
        golden: Measured::Value(vec![GoldenResult {
            query: "m8 bolt".to_owned(),
            missing: Vec::new(),
            ndcg: Some(0.80),
            ndcg_active: Some(0.81),
            floor: Some(0.6),
        }]),
        queries: Measured::Value(SampledQueries {
            sampled: 200,
            overlap: 0.99,
            rank_change: 0.02,
            zero_hits: 4,
            zero_hits_active: 4,
            least: Vec::new(),
        }),
        latency: Measured::Value(LatencyMeasured {
            sampled: 200,
            p50_ms: 1.4,
            p99_ms: 6.0,
            active_p50_ms: 1.2,
            active_p99_ms: 5.0,
        }),
        memory: Measured::NotApplicable("no limit is set".to_owned()),
        ready_ms: Measured::Value(900),
        ..read()
    }
}

pub(crate) fn value<T>(measured: &mut Measured<T>) -> &mut T {
    match measured {
        Measured::Value(value) => value,
        Measured::NotApplicable(why) | Measured::Missing(why) => panic!("it has no value: {why}"),
    }
}

/// Gates that refuse, by the default limits.
fn refusing(m: &Measurements) -> Vec<Gate> {
    let verdict = judge(&GateSettings::default(), m);
    let against: Vec<Gate> = verdict.against().map(|verdict| verdict.gate).collect();
    assert_eq!(against.is_empty(), verdict.is_promotable());
    against
}

/// A candidate that lacks documents, and says so or not.
fn without_documents(share: f64, is_honest: bool) -> Measurements {
    let mut m = good();
    let left = (20_000.0 * (1.0 - share)) as u64;
    let rows = value(&mut m.rows);
    (rows.documents, rows.content) = (left, content("half"));
    if is_honest {
        (m.candidate.documents, m.candidate.chunks) = (left, left);
        m.candidate.live_bytes = (18_000_000.0 * (1.0 - share)) as u64;
        m.candidate.content = content("half");
    }
    value(&mut m.texts).absent = (200.0 * share) as u64;
    value(&mut m.known_items).found = (188.0 * (1.0 - share)) as u64;
    value(&mut m.queries).overlap = 1.0 - share;
    m
}

/// The ten kinds of bad candidates, each of a size from 0 (just so) to 9 (gross), and a gate that must see it.
fn bad(kind: usize, size: u32) -> (&'static str, Measurements, Gate) {
    let (mut m, part) = (good(), f64::from(size + 1) / 10.0);
    match kind {
        0 => {
            let m = without_documents(0.3 + part / 2.0, size.is_multiple_of(2));
            let seen_by = if size.is_multiple_of(2) {
                Gate::Content
            } else {
                Gate::Rows
            };
            ("half the documents missing", m, seen_by)
        }
        1 => {
            // Vectors of some rows changed places: the files are whole, and the texts are theirs.
            value(&mut m.vectors).right = 200 - (200.0 * part.max(0.1)) as u64;
            value(&mut m.queries).overlap = 1.0 - 0.4 * part;
            ("shuffled rows", m, Gate::Vectors)
        }
        2 => {
            value(&mut m.vectors).right = u64::from(size);
            if size.is_multiple_of(2) {
                value(&mut m.model).embedder = model("another");
            }
            ("wrong model of the same dimension", m, Gate::Vectors)
        }
        3 => {
            value(&mut m.recall).recall = 0.94 - part / 2.0;
            ("broken graph", m, Gate::Recall)
        }
        4 => {
            m.candidate.checkpoint.sequence -= u64::from(size) * 10 + 1;
            if size.is_multiple_of(2) {
                m.candidate.content = content("older");
                value(&mut m.rows).content = content("older");
            }
            ("stale checkpoint", m, Gate::Content)
        }
        5 => {
            let leaked = (0..=size).map(|n| format!("sku-{n}")).collect();
            value(&mut m.deletes).leaked = leaked;
            ("leaked deletes", m, Gate::Deletes)
        }
        6 => {
            value(&mut m.texts).empty = (200.0 * part.max(0.1)) as u64;
            value(&mut m.vectors).right = 200;
            ("empty texts", m, Gate::Texts)
        }
        7 => {
            let latency = value(&mut m.latency);
            if size.is_multiple_of(2) {
                latency.p99_ms = 21.0 + 50.0 * part;
            } else {
                latency.p50_ms = 21.0 + 10.0 * part;
            }
            ("slow index", m, Gate::Latency)
        }
        8 => {
            let files = value(&mut m.files);
            files.damaged = (0..=size.min(5))
                .map(|n| format!("segments/{n}/vectors.faiss"))
                .collect();
            files.verified -= files.damaged.len() as u64;
            ("truncated file", m, Gate::Files)
        }
        _ => {
            value(&mut m.rows).duplicates = u64::from(size) * 100 + 1;
            ("duplicate documents", m, Gate::Rows)
        }
    }
}

#[test]
fn a_hundred_bad_candidates_of_ten_kinds_are_all_refused() {
    for (kind, size) in (0..10).flat_map(|kind| (0..10).map(move |size| (kind, size))) {
        let (name, m, expected) = bad(kind, size);
        let gates = refusing(&m);
        assert!(gates.contains(&expected), "{name}, size {size}: refused by {gates:?}");
    }
}

/// The five kinds of good candidates, with noise by `n` as measuring has it.
fn different(kind: usize, n: u32) -> (&'static str, Measurements) {
    let (mut m, noise) = (good(), f64::from(n) / 20.0);
    value(&mut m.recall).recall = 0.985 + 0.01 * noise;
    value(&mut m.known_items).found = 190 - u64::from(n % 6);
    let latency = value(&mut m.latency);
    (latency.p50_ms, latency.p99_ms) = (1.2 + noise, 5.0 + 12.0 * noise);
    let queries = value(&mut m.queries);
    queries.zero_hits = 4 + u64::from(n % 4);
    match kind {
        0 => ("equal rebuild", m),
        1 | 2 => {
            // The active was measured before the churn; what is at equal generation is equal.
            let share = if kind == 1 { 0.01 } else { 0.1 };
            let active = value(&mut m.active);
            active.generation -= 1;
            active.documents = (20_000.0 * (1.0 + share * (noise * 2.0 - 1.0))) as u64;
            active.live_bytes = (18_000_000.0 * (1.0 + 2.0 * share * (noise * 2.0 - 1.0))) as u64;
            let queries = value(&mut m.queries);
            queries.overlap = 1.0 - share * (1.0 + noise);
            queries.rank_change = 5.0 * share;
            (if kind == 1 { "churn of 1 %" } else { "churn of 10 %" }, m)
        }
        3 => {
            let types = ["Flat", "HNSW32,SQ8,RFlat", "IVF128,Flat", "IVF128,SQ8,RFlat"];
            let index_type: IndexType = types[n as usize % 4].parse().expect("allowed");
            m.candidate.index_types = vec![index_type];
            m.candidate.settings.version = 2;
            m.recall = match index_type {
                IndexType::Flat => Measured::NotApplicable("all segments are exact".to_owned()),
                _ => Measured::Value(RecallMeasured {
                    sampled: 200,
                    recall: 0.978 + 0.01 * noise,
                    active: Some(0.994),
                }),
            };
            value(&mut m.latency).p50_ms = 1.2 + 15.0 * noise;
            value(&mut m.queries).overlap = 0.95;
            ("another index type with equal recall", m)
        }
        _ => {
            m.candidate.settings.version = 2;
            if n.is_multiple_of(2) {
                m.candidate.embedder = model("another");
                value(&mut m.model).embedder = model("another");
            }
            let queries = value(&mut m.queries);
            (queries.overlap, queries.rank_change) = (0.3 + 0.5 * noise, 3.1);
            value(&mut m.golden)[0].ndcg = Some(0.78);
            ("new settings", m)
        }
    }
}

#[test]
fn a_hundred_good_candidates_of_five_kinds_are_none_of_them_refused() {
    for (kind, n) in (0..5).flat_map(|kind| (0..20).map(move |n| (kind, n))) {
        let (name, m) = different(kind, n);
        assert_eq!(
            refusing(&m),
            [],
            "{name}, {n}: {:?}",
            judge(&GateSettings::default(), &m)
        );
    }
}

#[test]
fn what_is_due_and_was_not_measured_refuses_and_what_has_no_subject_does_not() {
    type Part = (Gate, fn(&mut Measurements, bool));
    fn set<T>(part: &mut Measured<T>, is_due: bool) {
        let why = "because".to_owned();
        *part = if is_due {
            Measured::Missing(why)
        } else {
            Measured::NotApplicable(why)
        };
    }
    let parts: [Part; 9] = [
        (Gate::Files, |m, due| set(&mut m.files, due)),
        (Gate::Rows, |m, due| set(&mut m.rows, due)),
        (Gate::Texts, |m, due| set(&mut m.texts, due)),
        (Gate::Deletes, |m, due| set(&mut m.deletes, due)),
        (Gate::KnownItems, |m, due| set(&mut m.known_items, due)),
        (Gate::Golden, |m, due| set(&mut m.golden, due)),
        (Gate::Latency, |m, due| set(&mut m.latency, due)),
        (Gate::Memory, |m, due| set(&mut m.memory, due)),
        (Gate::Ready, |m, due| set(&mut m.ready_ms, due)),
    ];
    for (gate, change) in parts {
        let mut m = good();
        change(&mut m, true);
        assert_eq!(refusing(&m), [gate]);
        change(&mut m, false);
        assert_eq!(refusing(&m), [], "{gate:?}");
    }
}

#[test]
fn a_subject_that_the_facts_show_is_due_whatever_the_measuring_side_says() {
    let mut m = good();
    m.recall = Measured::NotApplicable("all segments are exact".to_owned());
    m.vectors = Measured::NotApplicable("there are no vectors".to_owned());
    assert_eq!(refusing(&m), [Gate::Vectors, Gate::Recall]);
    m.candidate.index_types = vec![IndexType::Flat];
    assert_eq!(refusing(&m), [Gate::Vectors]);
}

#[test]
fn the_first_lineage_has_nothing_to_be_compared_with() {
    let mut m = good();
    m.active = Measured::NotApplicable("nothing answers yet".to_owned());
    m.same_generation = Measured::Missing("nothing answers yet".to_owned());
    let verdict = judge(&GateSettings::default(), &m);
    assert!(verdict.is_promotable(), "{verdict:?}");
    m.active = Measured::Missing("it could not be read".to_owned());
    assert_eq!(
        refusing(&m),
        [Gate::Content, Gate::Documents, Gate::Bytes, Gate::Overlap]
    );
}

#[test]
fn a_sample_of_nothing_and_a_number_that_is_none_pass_nothing() {
    let mut m = good();
    value(&mut m.vectors).sampled = 0;
    value(&mut m.recall).recall = f64::NAN;
    value(&mut m.queries).overlap = f64::NAN;
    value(&mut m.latency).p99_ms = f64::NAN;
    value(&mut m.files).verified = 5;
    assert_eq!(
        refusing(&m),
        [Gate::Files, Gate::Vectors, Gate::Recall, Gate::Overlap, Gate::Latency]
    );
}

#[test]
fn content_of_another_generation_is_no_comparison() {
    let mut m = good();
    value(&mut m.same_generation).generation = 39;
    let verdict = judge(&GateSettings::default(), &m);
    let content = verdict.gates.iter().find(|verdict| verdict.gate == Gate::Content);
    assert_eq!(content.map(|verdict| verdict.outcome), Some(GateOutcome::NoData));
}

#[test]
fn a_golden_query_that_misses_or_falls_below_its_floor_refuses_however_the_others_do() {
    let with = |change: fn(&mut GoldenResult)| {
        let mut m = good();
        let golden = value(&mut m.golden);
        let mut other = golden[0].clone();
        change(&mut other);
        golden.push(other);
        refusing(&m)
    };
    assert_eq!(with(|golden| golden.missing = vec!["sku-1".to_owned()]), [Gate::Golden]);
    assert_eq!(with(|golden| golden.ndcg = Some(0.59)), [Gate::Golden]);
    assert_eq!(with(|golden| golden.ndcg = None), [Gate::Golden]);
    assert_eq!(with(|golden| golden.ndcg = Some(0.73)), []);
    assert_eq!(
        with(|golden| golden.ndcg = Some(0.61)),
        [Gate::Golden],
        "the mean is 0.1 below the active's"
    );
}

#[test]
fn an_answer_may_be_twice_as_slow_or_quick_enough_but_not_neither() {
    let with = |p99_ms, active_p99_ms| {
        let mut m = good();
        let latency = value(&mut m.latency);
        (latency.p99_ms, latency.active_p99_ms) = (p99_ms, active_p99_ms);
        refusing(&m)
    };
    assert_eq!(with(19.9, 1.0), [], "twenty times slower, and nobody sees it");
    assert_eq!(with(79.0, 40.0), []);
    assert_eq!(with(81.0, 40.0), [Gate::Latency]);
    assert_eq!(with(20.5, 10.0), [Gate::Latency]);
}

#[test]
fn of_few_queries_one_without_a_hit_is_chance() {
    let with = |sampled, zero_hits| {
        let mut m = good();
        let queries = value(&mut m.queries);
        (queries.sampled, queries.zero_hits, queries.zero_hits_active) = (sampled, zero_hits, 0);
        refusing(&m)
    };
    assert_eq!(with(10, 2), []);
    assert_eq!(with(10, 3), [Gate::ZeroHits]);
    assert_eq!(with(2, 2), [Gate::ZeroHits]);
    assert_eq!(with(200, 5), [Gate::ZeroHits]);
}

#[test]
fn a_gate_that_is_switched_off_is_shown_and_does_not_refuse() {
    let mut m = good();
    value(&mut m.recall).recall = 0.1;
    let settings = GateSettings {
        off: vec![Gate::Recall],
        ..GateSettings::default()
    };
    let verdict = judge(&settings, &m);
    assert!(verdict.is_promotable());
    let recall = verdict.gates.iter().find(|verdict| verdict.gate == Gate::Recall);
    assert_eq!(recall.map(|verdict| verdict.outcome), Some(GateOutcome::NotApplicable));
}

#[test]
fn a_verdict_that_lacks_a_gate_promotes_nothing() {
    let mut verdict = judge(&GateSettings::default(), &good());
    assert_eq!(verdict.gates.len(), Gate::ALL.len());
    assert!(verdict.is_promotable());
    verdict.gates.pop();
    assert!(!verdict.is_promotable());
}

#[test]
fn measurements_and_verdicts_are_read_back_and_parts_that_are_absent_are_missing() {
    let m = good();
    let text = serde_json::to_string(&m).expect("JSON");
    assert_eq!(serde_json::from_str::<Measurements>(&text).expect("whole"), m);
    let verdict = judge(&GateSettings::default(), &m);
    let text = serde_json::to_string(&verdict).expect("JSON");
    assert_eq!(serde_json::from_str::<Verdict>(&text).expect("whole"), verdict);
    let mut value = serde_json::to_value(&m).expect("JSON");
    value.as_object_mut().expect("an object").remove("deletes");
    let partial: Measurements = serde_json::from_value(value).expect("readable");
    assert_eq!(refusing(&partial), [Gate::Deletes]);
    for gate in Gate::ALL {
        assert_eq!(serde_json::to_value(gate).expect("JSON"), gate.name());
    }
}

#[test]
fn limits_that_are_none_are_named_at_once() {
    let settings = GateSettings {
        recall_min: 1.5,
        overlap_min: f64::NAN,
        samples: 0,
        ..GateSettings::default()
    };
    let keys: Vec<String> = settings.mistakes().iter().map(ToString::to_string).collect();
    assert_eq!(
        keys,
        [
            "gates.recall_min is 1.5; it must be 0 to 1",
            "gates.overlap_min is NaN; it must be 0 to 1",
            "gates.samples is 0; it must be 10 to 10000"
        ]
    );
    assert_eq!(GateSettings::default().mistakes(), []);
}
