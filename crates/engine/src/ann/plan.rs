//! How to search one segment: through its structure, or by looking at every allowed row. Pure arithmetic on measured
//! costs, so that it can be read and tested without FAISS.

use verdigris_core::index_type::{Codes, IndexType};
use verdigris_core::settings::EF_SEARCH_MAX;

use super::ffi::Request;
use super::{AnnExpectation, AnnSearch};

/// Scores that a graph search computes for each candidate it keeps (measured: 12 to 16, on real and on made vectors).
const SCORES_PER_CANDIDATE: usize = 14;
/// Rows that a scan scores in the time of one score in a walk: it knows what comes next and keeps no candidates
/// (measured: 2.6 from memory, 3.2 from cache).
const SCANNED_PER_SCORE: usize = 3;
/// Rows of an inverted list that can be found not to be allowed in the time of one score.
const LOOKS_PER_SCORE: usize = 16;
/// A filtered walk keeps no more candidates than this. All rows nearer than the worst candidate are known then, so that
/// the allowed ones among them are the right answer; where they are too few, the allowed rows are scanned.
const POOL_MAX: usize = 4_096;
/// Candidates of SQ8 codes scored again for each hit wanted. Codes of one byte hardly change the order.
const REFINE_SQ8: usize = 4;
/// Candidates of PQ codes scored again for each hit wanted: four bits for four coordinates change the order a lot.
const REFINE_PQ: usize = 16;
/// And so many more, which is what small `k` need (measured on 200,000 rows, k 10: 160 in all stop at recall 0.87).
const REFINE_MORE_SQ8: usize = 32;
/// The same for PQ codes.
const REFINE_MORE_PQ: usize = 512;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Look at every allowed row.
    Scan,
    /// Ask the structure; scan if it finds too few.
    Structure(Request),
}

/// Chooses by cost, for `k` of `allowed` rows, at least one each.
pub(super) fn plan(shape: &AnnExpectation, allowed: u32, k: usize, search: &AnnSearch) -> Plan {
    let (rows, allowed) = (shape.rows as usize, allowed as usize);
    match shape.index_type {
        IndexType::Flat => Plan::Scan,
        IndexType::Hnsw(_) => graph(rows, allowed, k, search.ef_search()),
        IndexType::Ivf { lists, codes } => inverted_file(rows, allowed, k, lists, codes, search.nprobe()),
    }
}

/// About how many scores the search computes, each counted as a step of a walk.
pub(super) fn scores(shape: &AnnExpectation, allowed: u32, k: usize, search: &AnnSearch) -> usize {
    let (rows, allowed_rows) = (shape.rows as usize, allowed as usize);
    match (plan(shape, allowed, k, search), shape.index_type) {
        (Plan::Structure(request), IndexType::Hnsw(_)) => {
            request.ef.max(request.wanted * rows / allowed_rows) * SCORES_PER_CANDIDATE
        }
        (Plan::Structure(request), IndexType::Ivf { lists, .. }) => {
            rows * request.nprobe / lists as usize / SCANNED_PER_SCORE + request.refine
        }
        (Plan::Structure(_) | Plan::Scan, _) => allowed_rows / SCANNED_PER_SCORE,
    }
}

fn graph(rows: usize, allowed: usize, k: usize, ef_search: u32) -> Plan {
    let ef = (ef_search.clamp(1, EF_SEARCH_MAX) as usize).max(k);
    if allowed == rows {
        let request = Request {
            ef,
            wanted: k,
            pool_max: ef,
            scores_max: usize::MAX,
            ..Request::default()
        };
        return if ef * SCORES_PER_CANDIDATE * SCANNED_PER_SCORE >= rows {
            Plan::Scan
        } else {
            Plan::Structure(request)
        };
    }
    // Half as many allowed candidates as an unfiltered search keeps give the same recall: the pool that they need is
    // larger, and so is what the walk sees.
    let wanted = (ef / 2).max(k);
    let candidates = ef.max(wanted * rows / allowed);
    let expected = candidates * SCORES_PER_CANDIDATE;
    let scan = allowed / SCANNED_PER_SCORE;
    if expected >= scan || candidates > POOL_MAX.max(ef) {
        return Plan::Scan;
    }
    // The estimate holds where allowed rows lie everywhere. Where they are far from the query the walk is given up once
    // it has cost as much as the scan would have, or as twice the estimate.
    let scores_max = scan.max(2 * expected);
    Plan::Structure(Request {
        ef,
        wanted,
        pool_max: POOL_MAX.max(ef),
        scores_max,
        ..Request::default()
    })
}

fn inverted_file(rows: usize, allowed: usize, k: usize, lists: u32, codes: Codes, nprobe: u32) -> Plan {
    let lists = lists as usize;
    let asked = (nprobe.max(1) as usize).min(lists);
    // The nearest allowed rows lie further out than the nearest rows, and in more lists: by the root of the share that
    // is left, which kept the recall of the unfiltered search.
    let widened = (asked as f64 * (rows as f64 / allowed as f64).sqrt()).ceil() as usize;
    let nprobe = widened.min(lists);
    let cost = rows * nprobe / lists / LOOKS_PER_SCORE + allowed * nprobe / lists;
    if cost >= allowed || nprobe == lists {
        return Plan::Scan;
    }
    let (per_hit, more) = match codes {
        Codes::Exact | Codes::Sq8 => (REFINE_SQ8, REFINE_MORE_SQ8),
        Codes::Pq(_) => (REFINE_PQ, REFINE_MORE_PQ),
    };
    // Half of what these lists would hold if allowed rows lay everywhere, because lists differ in size.
    let wanted = if allowed == rows {
        0
    } else {
        allowed * nprobe / lists / 2
    };
    Plan::Structure(Request {
        nprobe,
        wanted,
        refine: k * per_hit + more,
        ..Request::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(index_type: &str, rows: u32, allowed: u32, k: usize) -> Plan {
        let shape = AnnExpectation {
            index_type: index_type.parse().unwrap(),
            dimension: 384,
            rows,
        };
        plan(
            &shape,
            allowed,
            k,
            &AnnSearch {
                k,
                ef_search: Some(64),
                nprobe: Some(16),
            },
        )
    }

    fn check(index_type: &str, rows: u32, allowed: u32, k: usize, scans: bool) {
        let plan = planned(index_type, rows, allowed, k);
        assert_eq!(
            plan == Plan::Scan,
            scans,
            "{index_type} {allowed} of {rows}, k {k}: {plan:?}"
        );
    }

    #[test]
    fn few_allowed_rows_are_scanned_and_many_are_searched_by_the_structure() {
        for (allowed, scans) in [
            (200_000, false),
            (100_000, false),
            (40_000, false),
            (10_000, true),
            (100, true),
            (1, true),
        ] {
            check("HNSW32", 200_000, allowed, 10, scans);
        }
        for (allowed, scans) in [
            (200_000, false),
            (100_000, false),
            (10_000, false),
            (1_000, true),
            (1, true),
        ] {
            check("IVF1024,Flat", 200_000, allowed, 10, scans);
        }
        check("Flat", 200_000, 200_000, 10, true);
    }

    #[test]
    fn a_large_k_on_few_rows_is_scanned() {
        check("HNSW32", 2_048, 2_048, 1_000, true);
        check("HNSW32", 1_000_000, 1_000_000, 1_000, false);
    }

    #[test]
    fn a_scan_costs_what_is_allowed_and_a_walk_what_it_keeps() {
        let search = AnnSearch {
            k: 10,
            ef_search: Some(64),
            nprobe: Some(16),
        };
        let check = |index_type: &str, rows: u32, allowed: u32, expect: usize| {
            let shape = AnnExpectation {
                index_type: index_type.parse().unwrap(),
                dimension: 384,
                rows,
            };
            let found = scores(&shape, allowed, 10, &search);
            assert_eq!(found, expect, "{index_type}, {allowed} of {rows}");
        };
        check("Flat", 1_500, 1_500, 500);
        check("HNSW32", 200_000, 200_000, 64 * 14);
        check("HNSW32", 1_000_000, 1_000_000, 64 * 14);
        check("HNSW32", 200_000, 100_000, 64 * 14);
        check("HNSW32", 200_000, 300, 100);
        check("IVF1024,Flat", 192_000, 192_000, 1_000 + 72);
    }

    #[test]
    fn a_filter_widens_the_search_and_bounds_its_cost() {
        let Plan::Structure(request) = planned("HNSW32", 200_000, 100_000, 10) else {
            panic!("scans")
        };
        assert_eq!((request.ef, request.wanted, request.pool_max), (64, 32, 4_096));
        assert_eq!(request.scores_max, 33_333, "what scanning the allowed rows would cost");
        let Plan::Structure(request) = planned("IVF1024,Flat", 200_000, 50_000, 10) else {
            panic!("scans")
        };
        assert_eq!(request.nprobe, 32);
    }
}
