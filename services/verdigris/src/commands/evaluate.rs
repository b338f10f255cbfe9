//! `evaluate`: relevance and latency of the real path, by queries and judgements in TSV files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use verdigris_proto::search::SearchRequest;

use super::CommandError;
use super::reading;
use super::search::proto_mode;
use crate::arguments::Evaluate;
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Output, pairs};
use crate::relevance::{self, Judgements, Relevance};

/// Hits of each query: what recall@100 needs.
const TOP_K: u32 = 100;

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    #[serde(rename = "ndcg@10")]
    ndcg_10: f64,
    #[serde(rename = "mrr@10")]
    mrr_10: f64,
    #[serde(rename = "recall@10")]
    recall_10: f64,
    #[serde(rename = "recall@100")]
    recall_100: f64,
    /// Share of queries without a hit.
    zero_hits: f64,
    p50_ms: f64,
    p99_ms: f64,
    queries: usize,
    /// The release that answered first and last; two of them mean that the catalog changed meanwhile.
    generations: [u64; 2],
}

/// The answers to all queries.
#[derive(Default)]
struct Run {
    /// Document ids by query, best first.
    rankings: BTreeMap<String, Vec<String>>,
    milliseconds: Vec<f64>,
    generations: Option<[u64; 2]>,
}

/// Runs each query that has judgements, and measures the answers.
pub(crate) async fn run(
    arguments: &Evaluate,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let (queries, judgements) = read(arguments)?;
    let run = ask_all(&queries, arguments, collection, client, output).await?;
    if let Some(path) = &arguments.run_file {
        let written = fs::write(path, run_file(&run));
        written.map_err(|source| CommandError::Write {
            path: path.clone(),
            source,
        })?;
    }
    output.answer(&measure(&judgements, run), shown)?;
    Ok(Exit::Done)
}

/// Queries with judgements, and the judgements of these queries.
fn read(arguments: &Evaluate) -> Result<(Vec<(String, String)>, Judgements), CommandError> {
    let tsv = |path: &Path| {
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| CommandError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Ok::<_, CommandError>(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    };
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| CommandError::Tsv { path, source }
    };
    let queries = relevance::queries(&tsv(&arguments.queries)?).map_err(wrong(&arguments.queries))?;
    let mut judgements = relevance::judgements(&tsv(&arguments.judgements)?).map_err(wrong(&arguments.judgements))?;
    let queries: Vec<_> = queries
        .into_iter()
        .filter(|(id, _)| judgements.contains_key(id))
        .collect();
    judgements.retain(|id, _| queries.iter().any(|(query, _)| query == id));
    if queries.is_empty() {
        let (queries, judgements) = (arguments.queries.clone(), arguments.judgements.clone());
        return Err(CommandError::NothingJudged { queries, judgements });
    }
    Ok((queries, judgements))
}

/// One query after the other, so that latency is that of an answer and not of a queue.
async fn ask_all(
    queries: &[(String, String)],
    arguments: &Evaluate,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Run, CommandError> {
    let bar = output.progress(
        Some(queries.len() as u64),
        "{bar:30} {pos}/{len} queries [{elapsed_precise}, {eta} left]",
    );
    let mut search = client.search();
    let mut run = Run::default();
    for (id, text) in queries {
        let request = SearchRequest {
            collection: collection.to_owned(),
            text: text.clone(),
            mode: proto_mode(arguments.mode).into(),
            top_k: TOP_K,
            filter: arguments.filter.clone().unwrap_or_default(),
            fields: vec!["id".to_owned()],
            ..SearchRequest::default()
        };
        let asked = Instant::now();
        let answer = reading::read(async || search.search(within(CALL, request.clone())).await).await?;
        run.milliseconds.push(asked.elapsed().as_secs_f64() * 1_000.0);
        let generation = answer.release.unwrap_or_default().generation;
        run.generations = Some([run.generations.map_or(generation, |[first, _]| first), generation]);
        run.rankings
            .insert(id.clone(), answer.hits.into_iter().map(|hit| hit.id).collect());
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(run)
}

fn measure(judgements: &Judgements, mut run: Run) -> Measured {
    let Relevance {
        ndcg_10,
        mrr_10,
        recall_10,
        recall_100,
    } = relevance::relevance(judgements, &run.rankings);
    let without = run.rankings.values().filter(|ranking| ranking.is_empty()).count();
    run.milliseconds.sort_by(f64::total_cmp);
    let milliseconds = |share: f64| (percentile(&run.milliseconds, share) * 1_000.0).round() / 1_000.0;
    Measured {
        ndcg_10,
        mrr_10,
        recall_10,
        recall_100,
        zero_hits: without as f64 / run.rankings.len().max(1) as f64,
        p50_ms: milliseconds(0.5),
        p99_ms: milliseconds(0.99),
        queries: run.rankings.len(),
        generations: run.generations.unwrap_or_default(),
    }
}

/// The smallest number that at least this share of them does not exceed; of none, 0.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn run_file(run: &Run) -> String {
    let lines = run.rankings.iter().flat_map(|(query, ranking)| {
        ranking
            .iter()
            .enumerate()
            .map(move |(at, id)| format!("{query}\t{id}\t{}\n", at + 1))
    });
    lines.collect()
}

fn shown(measured: &Measured) -> String {
    let score = |score: f64| format!("{score:.4}");
    pairs(&[
        ("ndcg@10", score(measured.ndcg_10)),
        ("mrr@10", score(measured.mrr_10)),
        ("recall@10", score(measured.recall_10)),
        ("recall@100", score(measured.recall_100)),
        ("zero hits", format!("{:.1} %", measured.zero_hits * 100.0)),
        ("p50", format!("{:.1} ms", measured.p50_ms)),
        ("p99", format!("{:.1} ms", measured.p99_ms)),
        ("queries", measured.queries.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(rankings: &[(&str, &[&str])]) -> Run {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Run {
            rankings: rankings
                .iter()
                .map(|(query, ids)| ((*query).to_owned(), owned(ids)))
                .collect(),
            milliseconds: (1..=100).rev().map(f64::from).collect(),
            generations: Some([3, 3]),
        }
    }

    #[test]
    fn measures_are_means_over_queries_and_printed_under_their_usual_names() {
        let judgements = relevance::judgements("q1\ta\t1\nq2\tb\t1\n").expect("judgements");
        let measured = measure(&judgements, ranked(&[("q1", &["x", "a"]), ("q2", &[])]));
        let printed = serde_json::to_value(&measured).expect("JSON");
        let number = |key: &str| printed[key].as_f64().unwrap_or_else(|| panic!("{key} in {printed}"));
        assert!((number("ndcg@10") - 1.0 / 3f64.log2() / 2.0).abs() < 1e-9);
        let expect = [
            ("mrr@10", 0.25),
            ("recall@10", 0.5),
            ("recall@100", 0.5),
            ("zero_hits", 0.5),
            ("p50_ms", 50.0),
            ("p99_ms", 99.0),
        ];
        for (key, value) in expect {
            assert_eq!(number(key), value, "{key}");
        }
        assert_eq!(printed["queries"], 2);
    }

    #[test]
    fn a_percentile_is_one_of_the_numbers() {
        assert_eq!(percentile(&[], 0.5), 0.0);
        assert_eq!((percentile(&[7.0], 0.5), percentile(&[7.0], 0.99)), (7.0, 7.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.0);
    }

    #[test]
    fn the_run_file_names_query_product_and_rank() {
        assert_eq!(
            run_file(&ranked(&[("q1", &["x", "a"]), ("q2", &["b"])])),
            "q1\tx\t1\nq1\ta\t2\nq2\tb\t1\n"
        );
    }

    #[test]
    fn queries_without_judgements_and_judgements_without_queries_take_no_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let (queries, judged) = (folder.path().join("q.tsv"), folder.path().join("j.tsv"));
        fs::write(&queries, "\u{feff}q1\tdrill\r\nq9\tnothing\r\n").expect("written");
        fs::write(&judged, "q1\ta\tE\t3\nq2\tb\tE\t1\n").expect("written");
        let arguments = Evaluate {
            queries: queries.clone(),
            judgements: judged,
            mode: crate::arguments::SearchMode::Hybrid,
            run_file: None,
            filter: None,
        };
        let (kept, judgements) = read(&arguments).expect("readable");
        assert_eq!(kept, [("q1".to_owned(), "drill".to_owned())]);
        assert_eq!(judgements.into_keys().collect::<Vec<_>>(), ["q1"]);
        fs::write(&queries, "q9\tnothing\n").expect("written");
        assert!(matches!(read(&arguments), Err(CommandError::NothingJudged { .. })));
    }
}
