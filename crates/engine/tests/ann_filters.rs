//! A selective filter never returns fewer hits than exist, and finds the right ones: against brute force.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use support::{Built, TYPES, build, exact, made_vectors, random_rows, recall, rows_of};
use verdigris_engine::ann::{AnnSearch, DenseBitmap};

const D: usize = 48;
const ROWS: usize = 20_000;
const K: usize = 10;
/// With 64 candidates a walk is cheaper than a scan down to a third of these rows, with 32 of 128 lists down to a tenth.
const EFFORT: AnnSearch = AnnSearch {
    k: K,
    ef_search: Some(64),
    nprobe: Some(32),
};

fn check_filter(built: &Built, vectors: &[f32], queries: &[f32], allowed: &DenseBitmap, at_least: f64) {
    let name = built.expected.index_type;
    let (mut sum, mut count) = (0.0, 0);
    for query in rows_of(queries, D) {
        let hits = built.ann.search(query, &EFFORT, Some(allowed)).unwrap();
        assert_eq!(
            hits.len(),
            K.min(allowed.count() as usize),
            "{name}: {} rows allowed",
            allowed.count()
        );
        assert!(
            hits.iter().all(|(row, _)| allowed.contains(*row)),
            "{name} returned an excluded row"
        );
        assert!(hits.is_sorted_by(|a, b| a.1 >= b.1), "{name} is not in order");
        if !hits.is_empty() {
            sum += recall(&hits, &exact(vectors, query, |row| allowed.contains(row)), K);
            count += 1;
        }
    }
    let recall = sum / f64::from(count.max(1));
    assert!(
        count == 0 || recall >= at_least,
        "{name}: recall {recall} with {} rows allowed",
        allowed.count()
    );
}

#[test]
fn filters_of_every_selectivity_find_as_many_and_as_good_hits_as_exist() {
    let (vectors, queries) = (made_vectors(ROWS, D, 11), made_vectors(40, D, 12));
    for index_type in TYPES {
        let built = build(index_type, D as u32, &vectors);
        // The made vectors have 48 coordinates of noise: harder for codes and lists than embeddings are.
        let at_least = if index_type.contains("PQ") { 0.90 } else { 0.95 };
        for share in [1.0, 0.99, 0.5, 0.4, 0.1, 0.05, 0.005, 0.0005, 0.0] {
            let allowed = random_rows(ROWS as u32, share, 13);
            check_filter(&built, &vectors, &queries, &allowed, at_least);
        }
    }
}

// A graph walk starts near the query; a filter that allows only rows far from it must not leave it empty-handed. An
// inverted file must find as many, but where thousands of allowed rows are about equally far it has no order to go by.
#[test]
fn a_filter_that_allows_only_far_rows_still_finds_the_best_of_them() {
    let (vectors, queries) = (made_vectors(ROWS, D, 14), made_vectors(10, D, 15));
    for index_type in ["HNSW32", "HNSW32,SQ8,RFlat", "IVF128,Flat"] {
        let built = build(index_type, D as u32, &vectors);
        for query in rows_of(&queries, D) {
            let mut order = exact(&vectors, query, |_| true);
            order.reverse();
            for keep in [ROWS / 2, ROWS / 3, ROWS / 20, 5, 1] {
                let mut allowed = DenseBitmap::empty(ROWS as u32);
                order[..keep].iter().for_each(|(row, _)| allowed.insert(*row));
                let at_least = if index_type.starts_with("IVF") && keep > ROWS / 20 {
                    0.0
                } else {
                    0.9
                };
                check_filter(&built, &vectors, query, &allowed, at_least);
            }
        }
    }
}

#[test]
fn no_filter_at_all_finds_k_hits_even_where_k_is_large() {
    let vectors = made_vectors(6_000, D, 16);
    for index_type in TYPES {
        let built = build(index_type, D as u32, &vectors);
        for k in [0, 1, 10, 1_000, 5_999, 6_000, 1_000_000] {
            let search = AnnSearch {
                k,
                ef_search: Some(16),
                nprobe: Some(1),
            };
            let hits = built.ann.search(&vectors[..D], &search, None).unwrap();
            assert_eq!(hits.len(), k.min(6_000), "{index_type} k {k}");
            let mut rows: Vec<u32> = hits.iter().map(|hit| hit.0).collect();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), hits.len(), "{index_type} k {k}: a row came twice");
        }
    }
}

#[test]
fn requests_choose_their_own_effort() {
    let (vectors, queries) = (made_vectors(ROWS, D, 17), made_vectors(60, D, 18));
    for (index_type, low, high) in [
        (
            "HNSW32",
            AnnSearch {
                k: K,
                ef_search: Some(10),
                nprobe: None,
            },
            AnnSearch {
                k: K,
                ef_search: Some(200),
                nprobe: None,
            },
        ),
        (
            "IVF128,Flat",
            AnnSearch {
                k: K,
                ef_search: None,
                nprobe: Some(1),
            },
            AnnSearch {
                k: K,
                ef_search: None,
                nprobe: Some(16),
            },
        ),
    ] {
        let built = build(index_type, D as u32, &vectors);
        let mean = |search: &AnnSearch| {
            let one = |query| {
                recall(
                    &built.ann.search(query, search, None).unwrap(),
                    &exact(&vectors, query, |_| true),
                    K,
                )
            };
            rows_of(&queries, D).map(one).sum::<f64>() / 60.0
        };
        let (low, high) = (mean(&low), mean(&high));
        assert!(high >= 0.98 && high > low, "{index_type}: {low} {high}");
    }
}
