//! How two rankings differ, and how good one is: pure arithmetic over ids.

use std::collections::BTreeMap;

/// Normalised discounted cumulative gain of a ranking: gains as they are, an unjudged document has none, and the ideal
/// order is taken over all judged ones. None where nothing has a gain.
pub fn ndcg(ranking: &[impl AsRef<str>], gains: &BTreeMap<String, f32>, within: usize) -> Option<f64> {
    let discounted = |(rank, gain): (usize, f64)| gain / (rank as f64 + 2.0).log2();
    let mut ideal: Vec<f64> = gains.values().map(|gain| f64::from(*gain)).collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best: f64 = ideal.into_iter().take(within).enumerate().map(discounted).sum();
    let gain = |id: &str| gains.get(id).map_or(0.0, |gain| f64::from(*gain));
    let found = ranking.iter().take(within).map(|id| gain(id.as_ref()));
    let found: f64 = found.enumerate().map(discounted).sum();
    (best > 0.0).then(|| found / best)
}

/// The share of the first `within` hits that two rankings have in common, of the longer one. None where both are empty.
pub fn overlap(before: &[impl AsRef<str>], after: &[impl AsRef<str>], within: usize) -> Option<f64> {
    let first = |ranking: usize| ranking.min(within);
    let longer = first(before.len()).max(first(after.len()));
    let common = before.iter().take(within).filter(|id| {
        let id = id.as_ref();
        after.iter().take(within).any(|other| other.as_ref() == id)
    });
    let common = common.count();
    (longer > 0).then(|| common as f64 / longer as f64)
}

/// By how many ranks the hits that two rankings have in common moved, on average. None where they have none.
pub fn rank_change(before: &[impl AsRef<str>], after: &[impl AsRef<str>], within: usize) -> Option<f64> {
    let moves: Vec<usize> = moves(before, after, within);
    let moved: usize = moves.iter().sum();
    (!moves.is_empty()).then(|| moved as f64 / moves.len() as f64)
}

fn moves(before: &[impl AsRef<str>], after: &[impl AsRef<str>], within: usize) -> Vec<usize> {
    let rank_after = |id: &str| after.iter().take(within).position(|other| other.as_ref() == id);
    let before = before.iter().take(within).enumerate();
    before
        .filter_map(|(rank, id)| rank_after(id.as_ref()).map(|other| other.abs_diff(rank)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gains(gains: &[(&str, f32)]) -> BTreeMap<String, f32> {
        gains.iter().map(|(id, gain)| ((*id).to_owned(), *gain)).collect()
    }

    #[test]
    fn ndcg_is_one_for_the_ideal_order_and_less_for_any_other() {
        let judged = gains(&[("a", 3.0), ("b", 1.0)]);
        assert_eq!(ndcg(&["a", "b", "c"], &judged, 10), Some(1.0));
        let turned = ndcg(&["b", "a"], &judged, 10).unwrap();
        // (1 + 3 / log2(3)) / (3 + 1 / log2(3))
        assert!((turned - 0.796_707_5).abs() < 1e-6, "{turned}");
        assert_eq!(ndcg(&["c"], &judged, 10), Some(0.0));
        assert_eq!(ndcg(&["c", "a"], &judged, 1), Some(0.0));
        assert_eq!(ndcg(&["a"], &gains(&[("a", 0.0)]), 10), None);
    }

    #[test]
    fn overlap_and_rank_change_look_at_the_first_hits_alone() {
        let none: [&str; 0] = [];
        assert_eq!(overlap(&["a", "b"], &["b", "a"], 10), Some(1.0));
        assert_eq!(overlap(&["a", "b"], &["b", "c"], 10), Some(0.5));
        assert_eq!(overlap(&["a", "b"], &["b", "c"], 1), Some(0.0));
        assert_eq!(overlap(&none, &["a"], 10), Some(0.0));
        assert_eq!(overlap(&none, &none, 10), None);
        assert_eq!(rank_change(&["a", "b", "c"], &["c", "b", "a"], 10), Some(4.0 / 3.0));
        assert_eq!(rank_change(&["a"], &["b"], 10), None);
    }
}
