//! Scores by words are those of a plain implementation of the formula, and do not depend on how rows lie in segments.

mod rows_support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roaring::RoaringBitmap;
use rows_support::{TestRow, rows_of};
use tempfile::TempDir;
use verdigris_engine::ann::DenseBitmap;
use verdigris_engine::rows::Rows;
use verdigris_engine::words::{SegmentWords, WordsQuery, WordsScores, WordsStats, WordsWeights, score_words};

/// Words that the analysis leaves as they are, so that the reference needs no analysis of its own.
const WORDS: [&str; 12] = [
    "red", "drill", "cat", "dog", "sun", "moon", "ab", "cd", "ef", "gh", "ij", "kl",
];
/// Codes with their prefixes.
const CODES: [&str; 4] = ["x1y2", "x1z", "dw745b", "dw74"];
/// Largest relative difference of two sums of floats in another order.
const TOLERANCE: f32 = 1e-5;

#[derive(Debug, Clone)]
struct Document {
    words: Vec<&'static str>,
    codes: Vec<&'static str>,
    dead: bool,
}

fn document() -> impl Strategy<Value = Document> {
    let words = prop::collection::vec(prop::sample::select(&WORDS[..]), 0..60);
    let codes = prop::collection::vec(prop::sample::select(&CODES[..]), 0..4);
    (words, codes, prop::bool::weighted(0.3)).prop_map(|(words, codes, dead)| Document { words, codes, dead })
}

/// One segment and its dead rows.
struct Part {
    _folder: TempDir,
    rows: Rows,
    dead: RoaringBitmap,
}

fn part<'a>(documents: impl IntoIterator<Item = &'a Document>, ghosts: usize) -> Part {
    let mut dead = RoaringBitmap::new();
    let mut rows = Vec::new();
    for (n, document) in documents.into_iter().enumerate() {
        if document.dead {
            dead.insert(n as u32);
        }
        rows.push(TestRow {
            id: format!("row {n}"),
            document: Some(serde_json::Map::new()),
            words: vec![document.words.join(" ")],
            codes: vec![document.codes.join(" ")],
        });
    }
    // The first ghost is dead too: the statistics must not mind.
    if ghosts > 0 {
        dead.insert(rows.len() as u32);
    }
    rows.extend((0..ghosts).map(|n| TestRow {
        id: format!("ghost {n}"),
        ..TestRow::default()
    }));
    let (folder, rows) = rows_of(&rows);
    Part {
        _folder: folder,
        rows,
        dead,
    }
}

fn scores(parts: &[Part], allowed: &[Option<DenseBitmap>], query: &str) -> WordsScores {
    let stats = WordsStats::of(parts.iter().map(|part| (&part.rows, &part.dead)));
    let segments: Vec<SegmentWords<'_>> = parts
        .iter()
        .zip(allowed)
        .map(|(part, allowed)| SegmentWords {
            rows: &part.rows,
            allowed: allowed.as_ref(),
        })
        .collect();
    score_words(&segments, &stats, &WordsQuery::parse(query), &WordsWeights::default())
}

/// Tantivy's rounding of lengths, by its definition: exact up to 40, then steps that double.
fn rounded(length: usize) -> f32 {
    let mut steps: Vec<usize> = (0..40).collect();
    let (mut at, mut step) = (40, 2);
    while at < 1_000_000 {
        for _ in 0..8 {
            steps.push(at);
            at += step;
        }
        step *= 2;
    }
    *steps.iter().rev().find(|step| **step <= length).expect("0 is a step") as f32
}

/// The formula over the live documents, term by term, document by document.
fn reference(documents: &[Document], query: &str) -> Vec<f32> {
    let prefixes = |code: &str| (3..=code.len()).map(|end| code[..end].to_owned()).collect::<Vec<_>>();
    let words_of = |document: &Document| document.words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let codes_of = |document: &Document| {
        document
            .codes
            .iter()
            .flat_map(|code| prefixes(code))
            .collect::<Vec<_>>()
    };
    let distinct = |terms: Vec<String>| terms.into_iter().collect::<BTreeSet<_>>();
    let asked: Vec<&str> = query.split(' ').collect();
    let asked_codes = distinct(
        asked
            .iter()
            .filter(|word| word.contains(|c: char| c.is_ascii_digit()))
            .flat_map(|word| prefixes(word))
            .collect(),
    );
    let asked_words = distinct(
        asked
            .iter()
            .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
            .map(|word| (*word).to_owned())
            .collect(),
    );
    let field = |terms_of: &dyn Fn(&Document) -> Vec<String>, asked: &BTreeSet<String>, coverage: f64| -> Vec<f64> {
        let live: Vec<&Document> = documents.iter().filter(|document| !document.dead).collect();
        let mean = live
            .iter()
            .map(|document| f64::from(rounded(terms_of(document).len())))
            .sum::<f64>()
            / live.len().max(1) as f64;
        let idf = |term: &String| {
            let with = live.iter().filter(|document| terms_of(document).contains(term)).count() as f64;
            (1.0 + (live.len() as f64 - with + 0.5) / (with + 0.5)).ln()
        };
        let idf: BTreeMap<&String, f64> = asked.iter().map(|term| (term, idf(term))).collect();
        let all: f64 = idf.values().sum();
        documents
            .iter()
            .map(|document| {
                let terms = terms_of(document);
                let length = f64::from(rounded(terms.len()));
                asked
                    .iter()
                    .map(|term| {
                        let frequency = terms.iter().filter(|other| *other == term).count() as f64;
                        if frequency == 0.0 {
                            return 0.0;
                        }
                        let bm25 = idf[term] * 2.2 * frequency / (frequency + 1.2 * (0.25 + 0.75 * length / mean));
                        bm25 + coverage * idf[term] / all
                    })
                    .sum()
            })
            .collect()
    };
    let words = field(&words_of, &asked_words, 10.0);
    let codes = field(&codes_of, &asked_codes, 0.0);
    documents
        .iter()
        .zip(words.into_iter().zip(codes))
        .map(|(document, (words, codes))| if document.dead { 0.0 } else { (words + codes) as f32 })
        .collect()
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]
    #[test]
    fn scores_over_segments_with_dead_rows_are_those_of_the_formula_and_of_one_rebuilt_segment(
        documents in prop::collection::vec(document(), 1..120),
        cuts in prop::collection::vec(0_usize..120, 0..4),
        ghosts in 0_usize..3,
        asked in prop::collection::vec(prop::sample::select(&["red", "drill", "moon", "kl", "nothing", "unheard"][..]), 1..6),
        code in prop::sample::select(&["", "x1y2", "dw745", "q9q"][..]),
    ) {
        // A code alone is a word too, which the reference leaves out; it is asked for in a query of its own.
        let queries = [asked.join(" "), format!("{code} ")];
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < documents.len()).collect();
        cuts.extend([0, documents.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let parts: Vec<Part> = cuts.windows(2).map(|cut| part(&documents[cut[0]..cut[1]], ghosts)).collect();
        let live: Vec<Document> = documents.iter().filter(|document| !document.dead).cloned().collect();
        let rebuilt = [part(if live.is_empty() { &documents } else { &live }, 0)];
        let query = &queries[0];
        let found = scores(&parts, &vec![None; parts.len()], query);
        let again = scores(&rebuilt, &[None], query);
        let expect = reference(&documents, query);
        let mut live_row = 0;
        for (n, document) in documents.iter().enumerate() {
            let segment = cuts.partition_point(|cut| *cut <= n) - 1;
            let score = found.get(segment, (n - cuts[segment]) as u32);
            prop_assert!(near(score, expect[n]), "{query:?}, document {n}: {score} instead of {}", expect[n]);
            if !document.dead {
                let rebuilt = again.get(0, live_row);
                prop_assert!(near(score, rebuilt), "{query:?}, document {n}: {score}, but {rebuilt} when rebuilt");
                live_row += 1;
            }
        }
        check_top(&found, &expect, &cuts)?;
        if !code.is_empty() {
            check_codes(&documents, &parts, &cuts, code)?;
        }
    }
}

/// The best rows, each with its score, best first.
fn check_top(found: &WordsScores, expect: &[f32], cuts: &[usize]) -> Result<(), TestCaseError> {
    let matching = expect.iter().filter(|score| **score > 0.0).count();
    for n in [0, 1, 5, 1_000] {
        let top = found.top(n);
        prop_assert_eq!(top.len(), matching.min(n));
        prop_assert!(top.is_sorted_by(|a, b| a.2 > b.2 || a.2 == b.2 && (a.0, a.1) < (b.0, b.1)));
        let place = |segment: usize, row: u32| cuts[segment] + row as usize;
        for (segment, row, score) in &top {
            prop_assert_eq!(*score, found.get(*segment, *row));
        }
        let worst = top.last().map_or(f32::INFINITY, |hit| hit.2);
        let in_top: BTreeSet<usize> = top.iter().map(|hit| place(hit.0, hit.1)).collect();
        for (document, score) in expect.iter().enumerate().filter(|(n, _)| !in_top.contains(n)) {
            prop_assert!(
                n == 0 || *score <= worst + TOLERANCE * worst,
                "document {} is better than the worst of {}",
                document,
                n
            );
        }
    }
    Ok(())
}

/// Words weigh nothing here, so that only BM25 of codes is left.
fn check_codes(documents: &[Document], parts: &[Part], cuts: &[usize], code: &str) -> Result<(), TestCaseError> {
    let stats = WordsStats::of(parts.iter().map(|part| (&part.rows, &part.dead)));
    let segments: Vec<SegmentWords<'_>> = parts
        .iter()
        .map(|part| SegmentWords {
            rows: &part.rows,
            allowed: None,
        })
        .collect();
    let weights = WordsWeights {
        words: 0.0,
        coverage: 0.0,
        ..WordsWeights::default()
    };
    let found = score_words(&segments, &stats, &WordsQuery::parse(code), &weights);
    let expect = reference(documents, code);
    for (n, expect) in expect.iter().enumerate() {
        let segment = cuts.partition_point(|cut| *cut <= n) - 1;
        let score = found.get(segment, (n - cuts[segment]) as u32);
        prop_assert!(
            near(score, *expect),
            "{code:?}, document {n}: {score} instead of {expect}"
        );
    }
    Ok(())
}

#[test]
fn a_filter_restricts_hits_and_leaves_scores_alone() {
    let document = |words: &[&'static str], dead: bool| Document {
        words: words.to_vec(),
        codes: vec![],
        dead,
    };
    let documents: Vec<Document> = (0..3_000)
        .map(|n| {
            document(
                if n % 3 == 0 {
                    &["red", "cat"]
                } else {
                    &["red", "dog", "sun"]
                },
                n % 7 == 0,
            )
        })
        .collect();
    let parts = [part(&documents[..1_000], 0), part(&documents[1_000..], 2)];
    let all = scores(&parts, &[None, None], "red cat");
    let allowed: RoaringBitmap = (0..2_000).filter(|row| row % 5 == 0).collect();
    let some = scores(
        &parts,
        &[
            Some(DenseBitmap::empty(1_000)),
            Some(DenseBitmap::from_roaring(&allowed, 2_000)),
        ],
        "red cat",
    );
    for row in 0..1_000 {
        assert_eq!(some.get(0, row), 0.0, "segment 0, row {row}");
    }
    for row in 0..2_000 {
        let expect = if row % 5 == 0 { all.get(1, row) } else { 0.0 };
        assert_eq!(some.get(1, row), expect, "segment 1, row {row}");
    }
    assert!(
        some.top(10_000)
            .iter()
            .all(|(segment, row, _)| *segment == 1 && row % 5 == 0)
    );
    assert_eq!(
        some.top(10_000).len(),
        (0..2_000).filter(|row| row % 5 == 0 && (row + 1_000) % 7 != 0).count()
    );
}

#[test]
fn words_that_no_live_row_has_count_in_the_coverage_of_others() {
    let documents = [
        Document {
            words: vec!["red"],
            codes: vec![],
            dead: false,
        },
        Document {
            words: vec!["moon"],
            codes: vec![],
            dead: true,
        },
    ];
    let parts = [part(&documents, 0)];
    let alone = scores(&parts, &[None], "red").get(0, 0);
    for missing in ["moon", "nothing"] {
        let score = scores(&parts, &[None], &format!("red {missing}")).get(0, 0);
        assert!(score < alone, "{missing}: {score} is not below {alone}");
    }
    let with = |word: &str| scores(&parts, &[None], &format!("red {word}")).get(0, 0);
    assert_eq!(
        with("moon"),
        with("nothing"),
        "a word of dead rows alone is as unknown as one that was never there"
    );
}
