//! Lineages are measured as they are: each kind of a bad candidate is seen by a gate, each kind of a good one by none.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod measuring;
mod world;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use verdigris_core::gates::{Gate, GateOutcome, GateSettings, Measured, Measurements, Verdict, judge};
use verdigris_core::pointer::LineageRole::Candidate;
use verdigris_core::settings::Settings;
use verdigris_embed::HashEmbedder;
use verdigris_proto::reason::reason_of;
use verdigris_proto::search::LineageState;

use measuring::graph::links;
use measuring::{against, measured, sees_a_day, settings, text};
use world::{Draft, Server, Start, World, Written, catalog};

/// Documents: enough for a graph that is walked, and not scanned.
const DOCUMENTS: usize = 2_400;
/// Those of them that were deleted.
const DELETED: std::ops::Range<usize> = 2_300..2_360;
const GENERATION: u64 = 5;

fn deleted_ids() -> Vec<String> {
    DELETED.map(|n| format!("p-{n}")).collect()
}

fn living() -> Vec<Value> {
    let mut documents = catalog(DOCUMENTS);
    documents.drain(DELETED);
    documents
}

/// The active lineage: it has seen deletes, so that rows of it are dead.
fn active() -> Draft {
    Draft {
        settings: settings(),
        settings_version: 2,
        dead: DELETED.map(|n| n as u32).collect(),
        ghosts: deleted_ids(),
        ..Draft::new("one", GENERATION, catalog(DOCUMENTS))
    }
}

/// The same documents, written anew.
fn rebuilt() -> Draft {
    Draft {
        settings: settings(),
        settings_version: 2,
        ghosts: deleted_ids(),
        ..Draft::new("two", GENERATION, living())
    }
}

/// A world with this candidate beside the active lineage, golden queries, and queries that were asked.
struct Case {
    world: World,
    server: Server,
    active: Written,
    candidate: Written,
}

impl Case {
    async fn new(candidate: &Draft, start: Start) -> Self {
        let world = World::new().await;
        let (active, candidate) = (world.write(&active()).await, world.write(candidate).await);
        world.name(&active, None).await;
        let server = Server::start_as(&world, start).await;
        let golden = "copper drill number 0\tp-0\noak drill number 16\tp-16\t0.5\nglass pipe\tp-2359,p-43\n";
        sees_a_day(&server, golden).await;
        world.name(&active, Some((&candidate, Candidate))).await;
        Self {
            world,
            server,
            active,
            candidate,
        }
    }

    async fn measured(&self) -> Measurements {
        measured(&self.server, "", GENERATION).await.unwrap()
    }

    async fn verdict(&self) -> Verdict {
        self.server.other_is(LineageState::Warm, GENERATION).await;
        judge(&GateSettings::default(), &self.measured().await)
    }
}

/// A good candidate passes every gate that has a subject.
async fn check_good(candidate: Draft) {
    let case = Case::new(&candidate, Start::default()).await;
    let verdict = case.verdict().await;
    assert!(verdict.is_promotable(), "{:?}", against(&verdict));
    let passed = |gate| {
        let found = verdict.gates.iter().find(|found| found.gate == gate).unwrap();
        assert_eq!(found.outcome, GateOutcome::Passed, "{found:?}");
    };
    for gate in [
        Gate::Files,
        Gate::Rows,
        Gate::Content,
        Gate::Vectors,
        Gate::Texts,
        Gate::Deletes,
        Gate::Golden,
    ] {
        passed(gate);
    }
    for gate in [
        Gate::KnownItems,
        Gate::Overlap,
        Gate::ZeroHits,
        Gate::Latency,
        Gate::Memory,
        Gate::Ready,
    ] {
        passed(gate);
    }
    case.server.stop().await;
}

/// A bad candidate is refused by this gate at least.
async fn check_bad(candidate: Draft, gate: Gate) {
    check_bad_as(candidate, Start::default(), gate).await;
}

async fn check_bad_as(candidate: Draft, start: Start, gate: Gate) {
    let case = Case::new(&candidate, start).await;
    let verdict = case.verdict().await;
    let against = against(&verdict);
    assert!(
        against.iter().any(|(found, _)| *found == gate),
        "{gate:?} is not among {against:?}"
    );
    case.server.stop().await;
}

// === Good candidates ===

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_passes() {
    check_good(rebuilt()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lineage_of_other_segments_passes() {
    check_good(Draft {
        segment_rows: 400,
        ..rebuilt()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_index_type_passes() {
    let mut draft = Draft {
        settings_version: 3,
        ..rebuilt()
    };
    draft.settings.ann.index_type = "IVF16,Flat".parse().unwrap();
    draft.settings.ann.nprobe = 8;
    check_good(draft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_passes() {
    let mut draft = Draft {
        settings_version: 3,
        ..rebuilt()
    };
    draft.settings.embedder.dimension = 32;
    check_good(draft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_pass() {
    let mut draft = Draft {
        settings_version: 3,
        ..rebuilt()
    };
    draft.settings.text.words.push("ean".to_owned());
    draft.settings.weights.vector = 12.0;
    check_good(draft).await;
}

// === Bad candidates ===

#[tokio::test(flavor = "multi_thread")]
async fn half_the_documents_missing_is_seen() {
    let mut draft = rebuilt();
    draft.documents.truncate(DOCUMENTS / 2);
    let mut again = rebuilt();
    again.documents.truncate(DOCUMENTS / 2);
    check_bad(draft, Gate::Documents).await;
    check_bad(again, Gate::Texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_out_of_order_are_seen() {
    let texts: Vec<String> = living().iter().map(text).collect();
    let embedder = HashEmbedder::new(16).unwrap();
    check_bad(
        Draft {
            vector: Some(Box::new(move |n, _| embedder.vector(&texts[(n + 1) % texts.len()]))),
            ..rebuilt()
        },
        Gate::Vectors,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_rows_out_of_order_are_seen() {
    let embedder = HashEmbedder::new(16).unwrap();
    check_bad(
        Draft {
            vector: Some(Box::new(move |n, text| match n % 20 {
                0 => embedder.vector("something else"),
                _ => embedder.vector(text),
            })),
            ..rebuilt()
        },
        Gate::Vectors,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_of_the_same_dimension_is_seen() {
    let embedder = HashEmbedder::new(16).unwrap();
    check_bad(
        Draft {
            vector: Some(Box::new(move |_, text| {
                let mut vector = embedder.vector(text);
                vector.reverse();
                vector
            })),
            ..rebuilt()
        },
        Gate::Vectors,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_leads_nowhere_is_seen() {
    // Every link leads into the first two hundred rows: a walk finds as many as it wants there, and none beyond.
    #[allow(clippy::ptr_arg, reason = "the type of a function that may also cut")]
    fn bend(bytes: &mut Vec<u8>) {
        for at in links(bytes, living().len())
            .into_iter()
            .flat_map(|links| links.step_by(4))
        {
            let link = i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            if link >= 0 {
                bytes[at..at + 4].copy_from_slice(&(link % 200).to_le_bytes());
            }
        }
    }
    check_bad(
        Draft {
            bend: Some(Box::new(bend)),
            ..rebuilt()
        },
        Gate::Recall,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_checkpoint_is_seen() {
    check_bad(
        Draft {
            checkpoint: 90,
            ..rebuilt()
        },
        Gate::Content,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_documents_that_are_back_are_seen() {
    let mut leaky = rebuilt();
    // One of sixty is enough, and a manifest that claims to be right does not hide it.
    leaky.documents.push(catalog(DOCUMENTS)[DELETED.start].clone());
    leaky.ghosts.remove(0);
    let right = Case::new(&rebuilt(), Start::default()).await;
    let manifest = &right.candidate.manifest;
    leaky.claims = Some((manifest.content, manifest.documents));
    right.server.stop().await;
    check_bad(leaky, Gate::Deletes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_texts_are_seen() {
    let mut draft = Draft {
        settings_version: 3,
        ..rebuilt()
    };
    draft.settings.text.embed[0].fields = vec!["titel".to_owned()];
    draft.settings.text.embed.truncate(1);
    check_bad(draft, Gate::Texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_index_is_seen() {
    let slow = Start {
        drag: Some(Arc::new(|manifest| match manifest.lineage.as_str() {
            "two" => Duration::from_secs(60),
            _ => Duration::ZERO,
        })),
        ..Start::default()
    };
    check_bad_as(rebuilt(), slow, Gate::Latency).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_there_twice_are_seen() {
    let right = Case::new(&rebuilt(), Start::default()).await;
    let manifest = &right.candidate.manifest;
    let mut twice = rebuilt();
    twice.claims = Some((manifest.content, manifest.documents));
    let again: Vec<Value> = twice.documents[..3].to_vec();
    twice.documents.extend(again);
    // In another segment, where no look-up of an id meets both.
    twice.segment_rows = 2_200;
    right.server.stop().await;
    check_bad(twice, Gate::Rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_needs_more_memory_than_there_is_is_seen() {
    let tight = Start {
        memory_limit: Some(100_000),
        ..Start::default()
    };
    check_bad_as(rebuilt(), tight, Gate::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_short_is_seen_before_and_after_it_was_opened() {
    let case = Case::new(&rebuilt(), Start::default()).await;
    case.server.other_is(LineageState::Warm, GENERATION).await;
    let (file, rows) = (
        case.world.file(&case.candidate, false),
        case.world.file(&case.candidate, true),
    );
    let whole = std::fs::read(&rows).unwrap();
    // Another file under the same name: what is open keeps the one that it has.
    std::fs::remove_file(&rows).unwrap();
    std::fs::write(&rows, &whole[..whole.len() / 2]).unwrap();
    let measurements = case.measured().await;
    let files = measurements.files.value().unwrap();
    assert_eq!((files.verified, files.named, files.damaged.len()), (1, 2, 1));
    assert!(files.damaged[0].contains("rows.tar"), "{files:?}");
    assert!(
        matches!(measurements.recall, Measured::Missing(_)),
        "nothing is read of a damaged release"
    );
    assert!(!judge(&GateSettings::default(), &measurements).is_promotable(), "I-19");
    let Case {
        world, server, active, ..
    } = case;
    server.stop().await;
    std::fs::remove_file(&file).unwrap();
    let server = Server::start(&world).await;
    server.other_is(LineageState::Broken, GENERATION).await;
    let measurements = measured(&server, "", GENERATION).await.unwrap();
    let files = measurements.files.value().unwrap();
    assert_eq!((files.verified, files.damaged.len()), (0, 2), "{files:?}");
    assert_eq!(measurements.active.value().unwrap().lineage, active.manifest.lineage);
    assert!(!judge(&GateSettings::default(), &measurements).is_promotable(), "I-19");
    server.stop().await;
}

// === What measuring itself promises ===

#[tokio::test(flavor = "multi_thread")]
async fn the_same_releases_give_the_same_numbers() {
    let case = Case::new(&rebuilt(), Start::default()).await;
    case.server.other_is(LineageState::Warm, GENERATION).await;
    let [one, two] = [case.measured().await, case.measured().await].map(|mut measurements| {
        measurements.latency = Measured::NotApplicable(String::new());
        measurements.measured_at = verdigris_core::timestamp::Timestamp(0);
        measurements
    });
    assert_eq!(one, two);
    let deletes = one.deletes.value().unwrap();
    assert_eq!((deletes.sampled, deletes.leaked.len()), (60, 0));
    let queries = one.queries.value().unwrap();
    assert_eq!((queries.sampled, queries.zero_hits), (5, 0));
    let golden = one.golden.value().unwrap();
    assert_eq!(golden.len(), 3);
    assert!(golden[1].ndcg.is_some() && golden[1].ndcg_active.is_some() && golden[0].ndcg.is_none());
    assert_eq!(
        golden[2].missing,
        Vec::<String>::new(),
        "what a feed deleted is not missed"
    );
    let known = one.known_items.value().unwrap();
    assert!(known.sampled == 200 && known.found > 190, "{known:?}");
    case.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_subject_is_not_applicable() {
    let world = World::new().await;
    let draft = |lineage: &str| Draft::new(lineage, GENERATION, catalog(50));
    let (one, two) = (world.write(&draft("one")).await, world.write(&draft("two")).await);
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, GENERATION).await;
    let measurements = measured(&server, "two", GENERATION).await.unwrap();
    assert!(matches!(measurements.golden, Measured::NotApplicable(_)));
    assert!(matches!(measurements.queries, Measured::NotApplicable(_)));
    assert!(matches!(measurements.deletes, Measured::NotApplicable(_)));
    assert!(
        matches!(measurements.recall, Measured::NotApplicable(_)),
        "all segments are exact"
    );
    assert!(measurements.latency.value().is_some(), "by texts of documents");
    let verdict = judge(&GateSettings::default(), &measurements);
    assert!(verdict.is_promotable(), "{:?}", against(&verdict));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_lineage_may_be_ahead_of_the_one_that_is_measured() {
    let world = World::new().await;
    let same = world.write(&Draft::new("one", GENERATION, catalog(50))).await;
    let candidate = world.write(&Draft::new("two", GENERATION, catalog(50))).await;
    world.name(&same, Some((&candidate, Candidate))).await;
    let mut newer = Draft::new("one", GENERATION + 1, catalog(60));
    newer.checkpoint += 10;
    let newer = world.write(&newer).await;
    world.name(&newer, Some((&candidate, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, GENERATION).await;
    let measurements = measured(&server, "two", GENERATION).await.unwrap();
    let same_generation = measurements.same_generation.value().unwrap();
    assert_eq!(same_generation.content, same.manifest.content);
    assert_eq!(measurements.active.value().unwrap().generation, GENERATION + 1);
    server.stop().await;
}

/// Goal: a candidate that was published alone, with events that the active has not had, is no bad one for them: a
/// document that came back, one that went, one that is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_may_be_ahead_of_the_active_lineage() {
    let world = World::new().await;
    let active = Draft {
        ghosts: vec!["p-100".to_owned(), "p-101".to_owned()],
        ..Draft::new("one", GENERATION, catalog(100))
    };
    let mut ahead = Draft {
        ghosts: vec!["p-7".to_owned(), "p-101".to_owned()],
        rows_of: GENERATION + 1,
        ..Draft::new("two", GENERATION + 1, catalog(105))
    };
    ahead
        .documents
        .retain(|document| document["id"] != "p-7" && document["id"] != "p-101");
    let (active, ahead) = (world.write(&active).await, world.write(&ahead).await);
    world.name(&active, Some((&ahead, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, GENERATION + 1).await;
    let measurements = measured(&server, "two", GENERATION + 1).await.unwrap();
    assert!(matches!(measurements.same_generation, Measured::NotApplicable(_)));
    let verdict = judge(&GateSettings::default(), &measurements);
    assert!(verdict.is_promotable(), "{:?}", against(&verdict));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn given_vectors_are_compared_with_those_of_the_active_lineage() {
    let world = World::new().await;
    let settings = Settings::parse(br#"{"revision":"number","embedder":{"provider":"none","dimension":4}}"#).unwrap();
    let document = |n: usize| {
        let angle = n as f64 * 0.1;
        json!({"id": format!("v-{n}"), "title": format!("thing {n}"), "_vector": [angle.cos(), angle.sin(), 0.0, 0.0]})
    };
    let draft = |lineage: &str, documents: Vec<Value>| Draft {
        settings: settings.clone(),
        settings_version: 4,
        ..Draft::new(lineage, GENERATION, documents)
    };
    let documents: Vec<Value> = (0..40).map(document).collect();
    let one = world.write(&draft("one", documents.clone())).await;
    let two = world.write(&draft("two", documents)).await;
    world.name(&one, Some((&two, Candidate))).await;
    let server = Server::start(&world).await;
    server.other_is(LineageState::Warm, GENERATION).await;
    let measurements = measured(&server, "", GENERATION).await.unwrap();
    let vectors = measurements.vectors.value().unwrap();
    assert_eq!((vectors.sampled, vectors.right), (40, 40));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_to_be_measured_is_refused_with_a_reason() {
    let world = World::new().await;
    let one = world.write(&Draft::new("one", GENERATION, catalog(50))).await;
    let two = world.write(&Draft::new("two", GENERATION, catalog(50))).await;
    world.name(&one, None).await;
    let server = Server::start(&world).await;
    let reason = async |lineage: &str, generation: u64| {
        let refused = measured(&server, lineage, generation).await.unwrap_err();
        reason_of(&refused).unwrap_or_default()
    };
    assert_eq!(reason("", GENERATION).await, "NO_OTHER_LINEAGE");
    assert_eq!(reason("three", GENERATION).await, "LINEAGE_NOT_FOUND");
    world.name(&one, Some((&two, Candidate))).await;
    server.other_is(LineageState::Warm, GENERATION).await;
    assert_eq!(reason("two", GENERATION + 1).await, "NOT_READY");
    server.stop().await;
}
