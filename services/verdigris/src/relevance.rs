//! Relevance of rankings against graded judgements: ndcg@10, mrr@10, recall@10, recall@100.
//!
//! ndcg takes gains as they are, an unjudged document has none, and the ideal order is taken over all judged documents.
//! A document is relevant for mrr and recall when its gain is 1 or more. Queries without a positive gain stay out of ndcg's
//! mean, those without a relevant document out of the others'.

use std::collections::{BTreeMap, BTreeSet};

/// Gains of documents, by query.
pub(crate) type Judgements = BTreeMap<String, BTreeMap<String, f64>>;

/// A line of a TSV file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TsvError {
    /// Too few columns.
    #[error("line {line} has {found} columns; {wanted} are needed, separated by tabs")]
    Columns { line: usize, found: usize, wanted: usize },
    /// The last column is no number.
    #[error("line {line} has the gain {text:?}, which is no number from 0 on")]
    Gain { line: usize, text: String },
}

/// Means over queries.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Relevance {
    pub(crate) ndcg_10: f64,
    pub(crate) mrr_10: f64,
    pub(crate) recall_10: f64,
    pub(crate) recall_100: f64,
}

/// Reads queries: id, tab, text.
pub(crate) fn queries(tsv: &str) -> Result<Vec<(String, String)>, TsvError> {
    let query = |(n, line): (usize, &str)| match line.split_once('\t') {
        Some((id, text)) => Ok((id.to_owned(), text.to_owned())),
        None => Err(TsvError::Columns {
            line: n + 1,
            found: 1,
            wanted: 2,
        }),
    };
    tsv.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(query)
        .collect()
}

/// Reads judgements: query id, document id, …, gain in the last column.
pub(crate) fn judgements(tsv: &str) -> Result<Judgements, TsvError> {
    let mut judgements = Judgements::new();
    for (n, line) in tsv.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [query, document, .., text] = columns[..] else {
            return Err(TsvError::Columns {
                line: n + 1,
                found: columns.len(),
                wanted: 3,
            });
        };
        let gain = text
            .trim()
            .parse()
            .ok()
            .filter(|gain: &f64| gain.is_finite() && *gain >= 0.0);
        let gain = gain.ok_or_else(|| TsvError::Gain {
            line: n + 1,
            text: text.to_owned(),
        })?;
        judgements
            .entry(query.to_owned())
            .or_default()
            .insert(document.to_owned(), gain);
    }
    Ok(judgements)
}

/// Scores rankings, best first, by query; a judged query without a ranking scores 0.
pub(crate) fn relevance(judgements: &Judgements, rankings: &BTreeMap<String, Vec<String>>) -> Relevance {
    let empty = Vec::new();
    let (mut ndcg, mut rest): (Vec<f64>, Vec<[f64; 3]>) = (Vec::new(), Vec::new());
    for (query, gains) in judgements {
        let ranking = deduplicated(rankings.get(query).unwrap_or(&empty));
        if gains.values().any(|gain| *gain > 0.0) {
            ndcg.push(ndcg_10(gains, &ranking));
        }
        let relevant: BTreeSet<&str> = gains
            .iter()
            .filter(|(_, gain)| **gain >= 1.0)
            .map(|(id, _)| id.as_str())
            .collect();
        if !relevant.is_empty() {
            let found = |depth: usize| ranking.iter().take(depth).filter(|id| relevant.contains(*id)).count() as f64;
            let first = ranking.iter().take(10).position(|id| relevant.contains(id));
            let recall = |depth: usize| found(depth) / depth.min(relevant.len()) as f64;
            rest.push([
                first.map_or(0.0, |rank| 1.0 / (rank + 1) as f64),
                recall(10),
                recall(100),
            ]);
        }
    }
    let mean = |n: usize| rest.iter().map(|row| row[n]).sum::<f64>() / rest.len().max(1) as f64;
    Relevance {
        ndcg_10: ndcg.iter().sum::<f64>() / ndcg.len().max(1) as f64,
        mrr_10: mean(0),
        recall_10: mean(1),
        recall_100: mean(2),
    }
}

fn deduplicated(ranking: &[String]) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    ranking
        .iter()
        .map(String::as_str)
        .filter(|id| seen.insert(*id))
        .collect()
}

fn ndcg_10(gains: &BTreeMap<String, f64>, ranking: &[&str]) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains
            .take(10)
            .enumerate()
            .map(|(rank, gain)| gain / ((rank + 2) as f64).log2())
            .sum()
    };
    let mut ideal: Vec<f64> = gains.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let got = discounted(&mut ranking.iter().map(|id| gains.get(*id).copied().unwrap_or(0.0)));
    got / discounted(&mut ideal.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(judged: &str, ranking: &[&str]) -> Relevance {
        let rankings = BTreeMap::from([("q".to_owned(), ranking.iter().map(|id| (*id).to_owned()).collect())]);
        relevance(&judgements(judged).expect("judgements"), &rankings)
    }

    #[test]
    fn a_perfect_ranking_scores_one_and_an_empty_one_nothing() {
        let judged = "q\ta\tE\t1\nq\tb\tS\t0.1\nq\tc\tI\t0\n";
        let perfect = Relevance {
            ndcg_10: 1.0,
            mrr_10: 1.0,
            recall_10: 1.0,
            recall_100: 1.0,
        };
        assert_eq!(scored(judged, &["a", "b", "c"]), perfect);
        assert_eq!(scored(judged, &[]), Relevance::default());
    }

    #[test]
    fn ranks_are_discounted_and_a_document_counts_once() {
        let second = scored("q\ta\t1\n", &["x", "x", "a"]);
        assert!((second.ndcg_10 - 1.0 / 3f64.log2()).abs() < 1e-12);
        assert_eq!(second.mrr_10, 0.5);
    }

    #[test]
    fn wrong_lines_are_named() {
        assert_eq!(
            judgements("q\ta\n").expect_err("two columns").to_string(),
            "line 1 has 2 columns; 3 are needed, separated by tabs"
        );
        assert!(
            judgements("q\ta\t1\nq\tb\tx\n")
                .expect_err("no number")
                .to_string()
                .starts_with("line 2 has the gain \"x\"")
        );
        assert!(queries("q1 no tab\n").is_err());
    }
}
