//! What a rollout costs on a real catalog: a rebuild and what searches feel of it, the gates, follows, promotions and
//! returns under load.
//!
//! Searches are asked by tasks of this process, one after the other each, while changes come in. A promotion or return
//! is timed from the call until a client is first answered by the lineage that is meant. Query texts were all asked
//! before, so that their vectors are cached: what is left is the search, and what else the machine has to do.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use verdigris_proto::admin::{GetRebuildRequest, RebuildRequest};
use verdigris_proto::rollout::rollout_service_client::RolloutServiceClient;
use verdigris_proto::rollout::{GetRolloutRequest, GetRolloutResponse, PromoteRequest, ResumeRequest, RollBackRequest};
use verdigris_proto::search::measurement_service_client::MeasurementServiceClient;
use verdigris_proto::search::{MeasureRequest, SearchRequest, SearchResponse};

use crate::client::Client;
use crate::process::Up;
use crate::{at, sorted};

/// Clients that search at the same time.
const CLIENTS: usize = 2;
/// Queries that they take their texts from.
const QUERIES: usize = 300;
/// Between two searches of a client: a shop's load, and not as much as the machine can bear.
const THINK: Duration = Duration::from_millis(10);
/// How long the quiet searches are measured that all is compared with.
const QUIET: Duration = Duration::from_secs(10);
/// Changes that come in while lineages are flipped: so many, so often.
const CHANGES: (usize, Duration) = (10, Duration::from_millis(100));
/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(1_800);
const LOOK: Duration = Duration::from_millis(100);
const ROLLBACK_P99_MAX_S: f64 = 2.0;

/// What searches were answered, since it was asked last.
#[derive(Default)]
struct Seen {
    ms: Vec<f64>,
    failed: u64,
    /// The lineage that answered last.
    lineage: String,
}

struct Bench {
    client: Client,
    seen: Rc<RefCell<Seen>>,
    searching: Vec<JoinHandle<()>>,
}

/// Runs all of it on the products of these files.
pub(crate) async fn run(up: &Path, folder: &Path, queries: &Path, rounds: usize, files: &[&str]) -> anyhow::Result<()> {
    let server = Up::start(up, &folder.join("data"))?;
    let client = Client::connect(&server.url, "rollout").await?;
    client.create(&json!({"rollout": {"promotion": "manual"}})).await?;
    let documents = documents(files)?;
    let began = Instant::now();
    let events = documents.iter().map(|document| Bytes::from(document.clone()));
    client.load(events).await?;
    client.settle().await?;
    println!(
        "{} documents loaded in {:.1} s",
        documents.len(),
        began.elapsed().as_secs_f64()
    );
    let local = tokio::task::LocalSet::new();
    local
        .run_until(measured(client, &server, queries, rounds, &documents))
        .await
}

async fn measured(
    client: Client,
    server: &Up,
    queries: &Path,
    rounds: usize,
    documents: &[String],
) -> anyhow::Result<()> {
    let bench = Bench::start(client, queries).await?;
    let quiet = bench.searched_for(QUIET).await;
    println!(
        "{:34} {:>9} {:>9} {:>9} {:>7}",
        "searches", "answers", "p50 ms", "p99 ms", "failed"
    );
    told("nothing else going on", &quiet);
    let rebuilt = bench.rebuild(server, documents.len()).await?;
    let gates = bench.gates().await?;
    let follows = bench.follows(documents).await?;
    let flips = bench.flips(documents, rounds).await?;
    for searching in &bench.searching {
        searching.abort();
    }
    let line = json!({"rebuild": rebuilt, "gates": gates, "follows": follows, "flips": flips, "quiet_p99_ms": at(&quiet.ms, 0.99)});
    println!("{line}");
    Ok(())
}

// === impl Bench ===

impl Bench {
    async fn start(client: Client, queries: &Path) -> anyhow::Result<Self> {
        let file = std::fs::read_to_string(queries).with_context(|| format!("{} cannot be read", queries.display()))?;
        let texts = file.lines().filter_map(|line| line.split_once('\t'));
        let texts: Rc<Vec<String>> = Rc::new(texts.map(|(_, text)| text.to_owned()).take(QUERIES).collect());
        let seen = Rc::new(RefCell::new(Seen::default()));
        for text in texts.iter() {
            client.search().search(request(&client, text)).await?;
        }
        let searching = (0..CLIENTS).map(|n| {
            let (client, texts, seen) = (client.clone(), texts.clone(), seen.clone());
            tokio::task::spawn_local(search(client, texts, seen, n))
        });
        let searching = searching.collect();
        Ok(Self {
            client,
            seen,
            searching,
        })
    }

    fn rollouts(&self) -> RolloutServiceClient<Channel> {
        RolloutServiceClient::new(self.client.channel.clone())
    }

    async fn status(&self) -> anyhow::Result<GetRolloutResponse> {
        let collection = self.client.collection.clone();
        let answer = self.rollouts().get_rollout(GetRolloutRequest { collection }).await?;
        Ok(answer.into_inner())
    }

    /// What was answered since this was asked last, sorted.
    fn taken(&self) -> Seen {
        let lineage = self.seen.borrow().lineage.clone();
        let seen = self.seen.replace(Seen {
            lineage,
            ..Seen::default()
        });
        Seen {
            ms: sorted(seen.ms),
            ..seen
        }
    }

    async fn searched_for(&self, time: Duration) -> Seen {
        self.taken();
        tokio::time::sleep(time).await;
        self.taken()
    }

    /// All rows written anew, by the settings in force: time, memory, and what searches felt of it.
    async fn rebuild(&self, server: &Up, documents: usize) -> anyhow::Result<Value> {
        let before = server.memory();
        server.forget_peak()?;
        let request = RebuildRequest {
            collection: self.client.collection.clone(),
            actor: "bench".to_owned(),
            reason: "to be measured".to_owned(),
            ..RebuildRequest::default()
        };
        self.taken();
        let began = Instant::now();
        let begun = self.client.admin().rebuild(request).await?.into_inner();
        let mut own_max = before.anonymous;
        loop {
            let collection = self.client.collection.clone();
            let status = self
                .client
                .admin()
                .get_rebuild(GetRebuildRequest { collection })
                .await?;
            let status = status.into_inner();
            own_max = own_max.max(server.memory().anonymous);
            if !matches!(status.phase.as_str(), "building" | "leveling") {
                anyhow::ensure!(
                    status.lineage == begun.lineage,
                    "the rebuild did not come to be a candidate"
                );
                break;
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "the rebuild does not end");
            tokio::time::sleep(LOOK).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        let meanwhile = self.taken();
        told("while all rows are written anew", &meanwhile);
        let (own, peak) = ((own_max - before.anonymous) >> 10, server.memory().peak >> 10);
        println!(
            "rebuild of {documents} documents: {seconds:.1} s (said beforehand: {:.0} s), own memory {} MiB + {own} MiB, peak with mapped files {peak} MiB",
            begun.estimated_seconds,
            before.anonymous >> 10
        );
        Ok(json!({
            "documents": documents, "s": seconds, "estimated_s": begun.estimated_seconds, "own_mib": before.anonymous >> 10,
            "own_more_mib": own, "peak_mib": peak, "p50_ms": at(&meanwhile.ms, 0.5), "p99_ms": at(&meanwhile.ms, 0.99),
        }))
    }

    /// From the candidate's name until it is judged, and the measurement alone.
    async fn gates(&self) -> anyhow::Result<Value> {
        self.taken();
        let began = Instant::now();
        let judged = loop {
            let status = self.status().await?;
            if let Some(verdict) = status.verdict.filter(|_| status.phase == "awaiting_approval") {
                break verdict;
            }
            anyhow::ensure!(status.phase != "refused", "the gates refuse it: {:?}", status.reasons);
            anyhow::ensure!(began.elapsed() < PATIENCE, "nobody judges it");
            tokio::time::sleep(LOOK).await;
        };
        let waited = began.elapsed().as_secs_f64();
        let mut service = MeasurementServiceClient::new(self.client.channel.clone());
        let mut seconds = Vec::new();
        for _ in 0..3 {
            let generation = self
                .status()
                .await?
                .other
                .map_or(judged.generation, |other| other.generation);
            let request = MeasureRequest {
                collection: self.client.collection.clone(),
                lineage: judged.lineage.clone(),
                generation,
            };
            let began = Instant::now();
            service.measure(request).await?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        let seconds = sorted(seconds);
        told("while gates are measured", &self.taken());
        println!(
            "gates: judged {waited:.1} s after the rebuild; one measurement {:.1} s (median of 3)",
            at(&seconds, 0.5)
        );
        Ok(json!({"judged_after_s": waited, "measure_s": at(&seconds, 0.5)}))
    }

    /// A promotion brings the candidate level first: its time by what has changed is the cost of a follow.
    async fn follows(&self, documents: &[String]) -> anyhow::Result<Value> {
        let mut lines = Vec::new();
        for changed in [0, 100, 1_000, 5_000] {
            let events = (0..changed.min(documents.len())).map(|n| patch(&documents[n * 7 % documents.len()], n));
            let events: Vec<Bytes> = events.collect::<anyhow::Result<_>>()?;
            if !events.is_empty() {
                self.client.load(events.into_iter()).await?;
            }
            let forth = self.promote().await?;
            let back = self.roll_back().await?;
            println!("promotion after {changed} changes: {forth:.3} s; return {back:.3} s");
            lines.push(json!({"changed": changed, "promote_s": forth, "return_s": back}));
        }
        Ok(lines.into())
    }

    /// Promotions and returns while changes come in and searches are asked.
    async fn flips(&self, documents: &[String], rounds: usize) -> anyhow::Result<Value> {
        let events: Vec<Bytes> = (0..documents.len())
            .map(|n| patch(&documents[n], n + 1))
            .collect::<anyhow::Result<_>>()?;
        let changing = tokio::task::spawn_local(change(self.client.clone(), events));
        self.taken();
        let (mut forth, mut back) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            forth.push(self.promote().await?);
            back.push(self.roll_back().await?);
        }
        let searched = self.taken();
        anyhow::ensure!(!changing.is_finished(), "changes stopped coming in");
        changing.abort();
        told("amid promotions and returns", &searched);
        let (forth, back) = (sorted(forth), sorted(back));
        for (what, times) in [("promotion", &forth), ("return", &back)] {
            println!(
                "{what}, to the first answer: p50 {:.3} s, p99 {:.3} s, worst {:.3} s of {rounds}",
                at(times, 0.5),
                at(times, 0.99),
                at(times, 1.0)
            );
        }
        let (p99, failed) = (at(&back, 0.99), searched.failed);
        let word = if p99 <= ROLLBACK_P99_MAX_S { "met" } else { "MISSED" };
        println!("mark: return to first answer under load, p99 at most 2 s: {p99:.2} s {word}");
        let word = if failed == 0 { "met" } else { "MISSED" };
        println!(
            "mark: no search fails amid {} flips: {failed} of {} {word}",
            2 * rounds,
            searched.ms.len()
        );
        Ok(json!({
            "rounds": rounds, "promote_p50_s": at(&forth, 0.5), "promote_p99_s": at(&forth, 0.99),
            "return_p50_s": at(&back, 0.5), "return_p99_s": p99, "search_p99_ms": at(&searched.ms, 0.99), "failed": failed,
        }))
    }

    /// Seconds until a client is answered by the candidate.
    async fn promote(&self) -> anyhow::Result<f64> {
        let asked = Instant::now();
        let status = loop {
            let status = self.status().await?;
            if status.phase == "awaiting_approval" && status.verdict.is_some() {
                break status;
            }
            anyhow::ensure!(
                asked.elapsed() < PATIENCE,
                "there is nothing to promote: {}",
                status.phase
            );
            tokio::time::sleep(LOOK / 10).await;
        };
        let lineage = status.other.map(|other| other.lineage).unwrap_or_default();
        let request = PromoteRequest {
            collection: self.client.collection.clone(),
            lineage: lineage.clone(),
            generation: status.verdict.map_or(0, |verdict| verdict.generation),
            actor: "bench".to_owned(),
        };
        let began = Instant::now();
        self.rollouts().promote(request).await?;
        self.answered_by(&lineage, began).await
    }

    /// Seconds until a client is answered by the way back; then promotion goes on.
    async fn roll_back(&self) -> anyhow::Result<f64> {
        let status = loop {
            let status = self.status().await?;
            if status.other.as_ref().is_some_and(|other| other.role == "way_back") {
                break status;
            }
            tokio::time::sleep(LOOK / 10).await;
        };
        let lineage = status.other.map(|other| other.lineage).unwrap_or_default();
        let collection = self.client.collection.clone();
        let began = Instant::now();
        let request = RollBackRequest {
            collection: collection.clone(),
            actor: "bench".to_owned(),
            reason: "to be measured".to_owned(),
        };
        let (mut service, mut after) = (self.rollouts(), self.rollouts());
        let (back, seconds) = tokio::join!(service.roll_back(request), self.answered_by(&lineage, began));
        back?;
        let actor = "bench".to_owned();
        after.resume(ResumeRequest { collection, actor }).await?;
        seconds
    }

    async fn answered_by(&self, lineage: &str, began: Instant) -> anyhow::Result<f64> {
        while self.seen.borrow().lineage != lineage {
            anyhow::ensure!(began.elapsed() < PATIENCE, "no client is answered by {lineage}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

// === what goes on meanwhile ===

fn request(client: &Client, text: &str) -> SearchRequest {
    SearchRequest {
        collection: client.collection.clone(),
        text: text.to_owned(),
        top_k: 10,
        ..SearchRequest::default()
    }
}

/// One client, asking one question after the other.
async fn search(client: Client, texts: Rc<Vec<String>>, seen: Rc<RefCell<Seen>>, first: usize) {
    let mut service = client.search();
    for text in texts.iter().cycle().skip(first * texts.len() / CLIENTS) {
        let began = Instant::now();
        let answer = service.search(request(&client, text)).await;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        note(&mut seen.borrow_mut(), answer.map(tonic::Response::into_inner).ok(), ms);
        tokio::time::sleep(THINK).await;
    }
}

fn note(seen: &mut Seen, answer: Option<SearchResponse>, ms: f64) {
    match answer {
        Some(answer) => {
            seen.ms.push(ms);
            seen.lineage = answer.release.unwrap_or_default().lineage;
        }
        None => seen.failed += 1,
    }
}

/// Changes of prices, as a shop has them, for as long as it is let.
async fn change(client: Client, events: Vec<Bytes>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(CHANGES.1);
    loop {
        for some in events.chunks(CHANGES.0) {
            tick.tick().await;
            client.send(some.to_vec()).await?;
        }
    }
}

fn patch(document: &str, n: usize) -> anyhow::Result<Bytes> {
    let document: Value = serde_json::from_str(document)?;
    let id = document.get("id").context("a document has an id")?;
    Ok(Bytes::from(json!({"id": id, "_op": "patch", "price": n}).to_string()))
}

fn documents(files: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut documents = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(PathBuf::from(file)).with_context(|| format!("{file} cannot be read"))?;
        documents.extend(text.lines().map(str::to_owned));
    }
    anyhow::ensure!(!documents.is_empty(), "there are no documents");
    Ok(documents)
}

fn told(what: &str, seen: &Seen) {
    println!(
        "{what:34} {:>9} {:>9.2} {:>9.2} {:>7}",
        seen.ms.len(),
        at(&seen.ms, 0.5),
        at(&seen.ms, 0.99),
        seen.failed
    );
}
