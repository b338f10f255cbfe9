//! One raw sum of the score by words and the inner product: nothing is normalised, so that long queries and part
//! numbers go by words and short ones by meaning, without a classifier.

use std::collections::BTreeMap;

use crate::error::EngineError;
use crate::release::RowPlace;
use crate::release::search::Hit;
use crate::words::WordsScores;

/// Hits of a words list.
pub(crate) fn by_words(list: Vec<(usize, u32, f32)>) -> Vec<Hit> {
    let hit = |(segment, row, score)| Hit {
        place: RowPlace { segment, row },
        score,
        words: Some(score),
        vector: None,
    };
    list.into_iter().map(hit).collect()
}

/// Hits of a vector list.
pub(crate) fn by_vector(list: Vec<(RowPlace, f32)>) -> Vec<Hit> {
    list.into_iter()
        .map(|(place, score)| Hit {
            place,
            score,
            words: None,
            vector: Some(score),
        })
        .collect()
}

/// Both lists added up: what one list lacks is looked up exactly in the other.
pub(crate) fn hybrid(
    words: &WordsScores,
    nearest: Vec<(RowPlace, f32)>,
    candidates: usize,
    weight: f32,
    scores_of: impl Fn(usize, &[u32]) -> Result<Vec<f32>, EngineError>,
) -> Result<Vec<Hit>, EngineError> {
    let mut vectors: BTreeMap<RowPlace, f32> = nearest.into_iter().collect();
    let mut lacking: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (segment, row, _) in words.top(candidates) {
        if !vectors.contains_key(&RowPlace { segment, row }) {
            lacking.entry(segment).or_default().push(row);
        }
    }
    for (segment, rows) in lacking {
        let scores = scores_of(segment, &rows)?;
        vectors.extend(
            rows.into_iter()
                .zip(scores)
                .map(|(row, score)| (RowPlace { segment, row }, score)),
        );
    }
    let hit = |(place, vector): (RowPlace, f32)| {
        let by_words = words.get(place.segment, place.row);
        Hit {
            place,
            score: by_words + weight * vector,
            words: Some(by_words),
            vector: Some(vector),
        }
    };
    Ok(vectors.into_iter().map(hit).collect())
}
