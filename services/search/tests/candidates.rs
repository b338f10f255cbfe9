//! A hundred bad candidates of ten kinds, none of which may be promoted by itself, and a hundred good ones of five, none
//! of which may be refused (I-19).
//!
//! Goal: the gates with their defaults tell what breaks in practice from what is only different. Method: real files,
//! the real measurement over them, and the real judgement; each kind in many sizes, by a seed that is printed with what
//! it found. Catalogs are small but where a graph is what matters, since small segments have none.
//! One limit is not the default's: answers may take two seconds, or another process of this machine would be judged too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod measuring;
mod world;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use verdigris_core::digest::ContentSum;
use verdigris_core::gates::{Gate, GateSettings, Verdict, judge};
use verdigris_core::pointer::LineageRole::Candidate;
use verdigris_embed::HashEmbedder;
use verdigris_proto::search::LineageState;

use measuring::graph::links;
use measuring::{against, measured, sees_a_day, settings, text};
use world::{Draft, Server, Start, World, Written, catalog, eventually};

const GENERATION: u64 = 5;
const BAD_SEEDS: u64 = 10;
const GOOD_SEEDS: u64 = 20;
/// Documents where exact segments will do, and where there has to be a graph.
const FEW: usize = 300;
const MANY: usize = 2_400;
/// What an answer may take on a machine that does other things too, and what the slow index takes at least.
const LATENCY_FLOOR_MS: u32 = 2_000;

/// Numbers from a seed, spread evenly.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }

    fn shuffled<T>(&mut self, mut all: Vec<T>) -> Vec<T> {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
        all
    }
}

/// The deleted ones of so many documents.
fn deleted(count: usize) -> Range<usize> {
    count - 40..count - 10
}

fn living(count: usize) -> Vec<Value> {
    let mut documents = catalog(count);
    documents.drain(deleted(count));
    documents
}

fn ghosts(count: usize) -> Vec<String> {
    deleted(count).map(|n| format!("p-{n}")).collect()
}

/// The lineage that answers: it has seen deletes, so that rows of it are dead.
fn active(count: usize) -> Draft {
    Draft {
        settings: settings(),
        settings_version: 2,
        dead: deleted(count).map(|n| n as u32).collect(),
        ghosts: ghosts(count),
        ..Draft::new("one", GENERATION, catalog(count))
    }
}

/// The same documents, written anew.
fn rebuilt(count: usize, seed: u64) -> Draft {
    Draft {
        settings: settings(),
        settings_version: 2,
        ghosts: ghosts(count),
        ..Draft::new(&format!("c{seed}"), GENERATION, living(count))
    }
}

/// A search role with an active lineage, golden queries, and queries that were asked.
struct Stage {
    world: World,
    server: Server,
    active: Written,
}

impl Stage {
    async fn new(active: &Draft, start: Start) -> Self {
        let world = World::new().await;
        let active = world.write(active).await;
        world.name(&active, None).await;
        let server = Server::start_as(&world, start).await;
        let golden = "copper drill number 0\tp-0\noak drill number 16\tp-16\t0.5\nglass pipe\tp-43\n";
        sees_a_day(&server, golden).await;
        Self { world, server, active }
    }

    async fn of(count: usize) -> Self {
        Self::new(&active(count), Start::default()).await
    }

    /// What the gates say of this candidate, once the search role has done what it can with it.
    async fn judged(&self, candidate: &Written) -> Verdict {
        self.world.name(&self.active, Some((candidate, Candidate))).await;
        let lineage = candidate.manifest.lineage.to_string();
        eventually("it is open, or refused", async || {
            let other = self.server.stats().await.lineages.into_iter().nth(1)?;
            let is_settled = matches!(other.state(), LineageState::Warm | LineageState::Broken);
            (other.lineage == lineage && is_settled).then_some(())
        })
        .await;
        let measured = measured(&self.server, &lineage, candidate.manifest.generation).await;
        let limits = GateSettings {
            latency_floor_ms: LATENCY_FLOOR_MS,
            ..GateSettings::default()
        };
        judge(&limits, &measured.unwrap())
    }

    /// Bad candidates of a kind: none is promotable, and this gate is among those that say so.
    async fn refuses(self, gate: Gate, bad: impl Fn(u64) -> Draft) {
        for seed in 0..BAD_SEEDS {
            let candidate = self.world.write(&bad(seed)).await;
            let verdict = self.judged(&candidate).await;
            assert_refused(&verdict, gate, seed);
        }
        self.server.stop().await;
    }

    /// Good candidates: nothing speaks against any.
    async fn takes(&self, seed: u64, good: &Draft) {
        let candidate = self.world.write(good).await;
        let verdict = self.judged(&candidate).await;
        assert!(verdict.is_promotable(), "seed {seed}: {:?}", against(&verdict));
    }
}

fn assert_refused(verdict: &Verdict, gate: Gate, seed: u64) {
    let against = against(verdict);
    assert!(!verdict.is_promotable(), "I-19: seed {seed} is promotable");
    assert!(
        against.iter().any(|(found, _)| *found == gate),
        "seed {seed}: {gate:?} is not among {against:?}"
    );
}

/// What a manifest would say that were right: a bad one says the same.
async fn claims(count: usize) -> (ContentSum, u64) {
    let world = World::new().await;
    let right = world.write(&rebuilt(count, 0)).await;
    (right.manifest.content, right.manifest.documents)
}

// === Bad candidates ===

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_without_half_of_the_documents_is_promotable() {
    let stage = Stage::of(FEW).await;
    let bad = |seed: u64| {
        let mut draft = rebuilt(FEW, seed);
        draft.documents = Numbers(seed).shuffled(draft.documents);
        draft.documents.truncate(draft.documents.len() / 2);
        draft
    };
    stage.refuses(Gate::Documents, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_with_vectors_of_other_rows_is_promotable() {
    let stage = Stage::of(FEW).await;
    let bad = |seed: u64| {
        let texts: Vec<String> = Numbers(seed).shuffled(living(FEW)).iter().map(text).collect();
        let embedder = HashEmbedder::new(16).unwrap();
        Draft {
            vector: Some(Box::new(move |n, _| embedder.vector(&texts[n]))),
            ..rebuilt(FEW, seed)
        }
    };
    stage.refuses(Gate::Vectors, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_of_another_model_of_the_same_dimension_is_promotable() {
    let stage = Stage::of(FEW).await;
    let bad = |seed: u64| {
        // Each model has an order of its own for what it sees.
        let order = Numbers(seed).shuffled((0..16).collect::<Vec<usize>>());
        let embedder = HashEmbedder::new(16).unwrap();
        Draft {
            vector: Some(Box::new(move |_, text| {
                let vector = embedder.vector(text);
                order.iter().map(|at| vector[*at]).collect()
            })),
            ..rebuilt(FEW, seed)
        }
    };
    stage.refuses(Gate::Vectors, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_with_a_graph_that_leads_astray_is_promotable() {
    let stage = Stage::of(MANY).await;
    let bad = |seed: u64| {
        // Links lead into the first rows alone, more than an answer looks at: a walk finds as many as it wants there, and none
        // beyond. (One that finds too few is followed by an exact search, and is right.)
        let end = 200 + 40 * seed as i32;
        let bend = move |bytes: &mut Vec<u8>| {
            let rows = links(bytes, living(MANY).len());
            for at in rows.into_iter().flat_map(|links| links.step_by(4)) {
                let link = i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                if link >= 0 {
                    bytes[at..at + 4].copy_from_slice(&(link % end).to_le_bytes());
                }
            }
        };
        Draft {
            bend: Some(Box::new(bend)),
            ..rebuilt(MANY, seed)
        }
    };
    stage.refuses(Gate::Recall, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_with_a_stale_checkpoint_is_promotable() {
    let stage = Stage::of(FEW).await;
    let bad = |seed: u64| {
        let mut draft = rebuilt(FEW, seed);
        draft.checkpoint -= 1 + seed;
        for document in draft.documents.iter_mut().take(seed as usize) {
            // What the events since would have changed.
            document["price"] = json!(1_000);
        }
        draft
    };
    stage.refuses(Gate::Content, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_with_deleted_documents_is_promotable() {
    let (stage, claims) = (Stage::of(FEW).await, claims(FEW).await);
    let bad = |seed: u64| {
        let mut draft = rebuilt(FEW, seed);
        let back = Numbers(seed).shuffled(deleted(FEW).collect());
        for n in back.into_iter().take(1 + seed as usize) {
            draft.documents.push(catalog(FEW)[n].clone());
            draft.ghosts.retain(|id| *id != format!("p-{n}"));
        }
        draft.claims = Some(claims);
        draft
    };
    stage.refuses(Gate::Deletes, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_without_texts_is_promotable() {
    let stage = Stage::of(FEW).await;
    let bad = |seed: u64| {
        let mut draft = Draft {
            settings_version: 10 + seed,
            ..rebuilt(FEW, seed)
        };
        // A misspelt field, or one that few documents have, in the place of the title.
        let fields = ["titel", "Title", "titles", "heading", "caption"];
        let field = fields[seed as usize % fields.len()].to_owned();
        draft.settings.text.embed[0].fields = vec![field];
        // The brand alone says little, and nothing is nothing.
        draft.settings.text.embed.truncate(1 + (seed as usize % 2));
        if let Some(brand) = draft.settings.text.embed.get_mut(1) {
            brand.fields = vec!["brands".to_owned()];
        }
        draft
    };
    stage.refuses(Gate::Texts, bad).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_that_is_slow_is_promotable() {
    let slow = Start {
        drag: Some(Arc::new(|manifest| {
            let seed = manifest
                .lineage
                .as_str()
                .strip_prefix('c')
                .and_then(|seed| seed.parse().ok());
            seed.map_or(Duration::ZERO, |seed: u64| Duration::from_secs(3 + seed))
        })),
        ..Start::default()
    };
    let stage = Stage::new(&active(FEW), slow).await;
    stage.refuses(Gate::Latency, |seed| rebuilt(FEW, seed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_with_a_file_that_is_too_short_is_promotable() {
    let stage = Stage::of(FEW).await;
    for seed in 0..BAD_SEEDS {
        let candidate = stage.world.write(&rebuilt(FEW, seed)).await;
        let path = stage.world.file(&candidate, seed % 2 == 0);
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() * (seed as usize) / BAD_SEEDS as usize]).unwrap();
        let verdict = stage.judged(&candidate).await;
        assert_refused(&verdict, Gate::Files, seed);
    }
    stage.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_candidate_with_documents_that_are_there_twice_is_promotable() {
    let (stage, claims) = (Stage::of(FEW).await, claims(FEW).await);
    let bad = |seed: u64| {
        let mut draft = rebuilt(FEW, seed);
        // In another segment, where no look-up of an id meets both.
        draft.segment_rows = draft.documents.len();
        let twice = Numbers(seed).shuffled(living(FEW));
        draft.documents.extend(twice.into_iter().take(1 + seed as usize));
        draft.claims = Some(claims);
        draft
    };
    stage.refuses(Gate::Rows, bad).await;
}

// === Good candidates ===

#[tokio::test(flavor = "multi_thread")]
async fn no_rebuild_is_refused() {
    let stage = Stage::of(FEW).await;
    for seed in 0..GOOD_SEEDS {
        let mut draft = rebuilt(FEW, seed);
        draft.documents = Numbers(seed).shuffled(draft.documents);
        draft.segment_rows = [usize::MAX, 200, 100, 50][seed as usize % 4];
        stage.takes(seed, &draft).await;
    }
    stage.server.stop().await;
}

/// A lineage in which `changed` documents have been written again: their first rows are dead.
fn churned(lineage: &str, changed: &[usize], now: &[Value]) -> Draft {
    let mut documents = now.to_vec();
    for n in changed {
        documents[*n]["title"] = json!(format!("as it was called before {n}"));
    }
    let rows = documents.len();
    documents.extend(changed.iter().map(|n| now[*n].clone()));
    Draft {
        settings: settings(),
        settings_version: 2,
        ghosts: ghosts(FEW),
        dead: changed.iter().map(|n| *n as u32).collect(),
        segment_rows: rows,
        ..Draft::new(lineage, GENERATION, documents)
    }
}

/// A lineage that has seen changes is the active one, and its rebuild the candidate; or the other way round.
async fn no_churn_is_refused(share: usize) {
    for is_candidate in [false, true] {
        let changed = |seed| {
            let mut which = Numbers(seed).shuffled((0..living(FEW).len()).collect());
            which.truncate((which.len() * share).div_ceil(100));
            which
        };
        let stage = Stage::new(
            &if is_candidate {
                active(FEW)
            } else {
                churned("one", &changed(99), &living(FEW))
            },
            Start::default(),
        )
        .await;
        for seed in 0..GOOD_SEEDS / 2 {
            let candidate = match is_candidate {
                true => churned(&format!("c{seed}"), &changed(seed), &living(FEW)),
                false => Draft {
                    segment_rows: 60 + 30 * seed as usize,
                    ..rebuilt(FEW, seed)
                },
            };
            stage.takes(seed, &candidate).await;
        }
        stage.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lineage_with_a_hundredth_of_churn_between_is_refused() {
    no_churn_is_refused(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lineage_with_a_tenth_of_churn_between_is_refused() {
    no_churn_is_refused(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_index_type_that_finds_as_much_is_refused() {
    let stage = Stage::of(MANY).await;
    for seed in 0..GOOD_SEEDS {
        let (index_type, nprobe) =
            [("IVF16,Flat", 12), ("Flat", 1), ("IVF32,Flat", 24), ("HNSW32", 1)][seed as usize % 4];
        let mut draft = Draft {
            settings_version: 10 + seed,
            ..rebuilt(MANY, seed)
        };
        draft.documents = Numbers(seed).shuffled(draft.documents);
        draft.settings.ann.index_type = index_type.parse().unwrap();
        draft.settings.ann.nprobe = nprobe;
        stage.takes(seed, &draft).await;
    }
    stage.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_settings_that_do_no_harm_are_refused() {
    let stage = Stage::of(FEW).await;
    for seed in 0..GOOD_SEEDS {
        let mut draft = Draft {
            settings_version: 10 + seed,
            ..rebuilt(FEW, seed)
        };
        match seed % 5 {
            0 => draft.settings.text.words.push("ean".to_owned()),
            1 => draft.settings.weights.vector = 12.0 + seed as f32 / 4.0,
            2 => draft.settings.embedder.dimension = [24, 32, 48, 64][seed as usize / 5],
            3 => draft.settings.text.codes.push("ean".to_owned()),
            _ => draft.settings.ann.ef_search = 32 + seed as u32,
        }
        stage.takes(seed, &draft).await;
    }
    stage.server.stop().await;
}
