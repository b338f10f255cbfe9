//! `search --compare`: what both lineages answer, rank by rank, and how each hit moved.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use verdigris_core::queries::ranking::{overlap, rank_change};
use verdigris_proto::search::{Lineage, ReleaseInfo, SearchRequest, SearchResponse};

use super::CommandError;
use super::reading::read;
use super::search::{TITLE, field};
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Output, table};

/// How often both are asked where a flip between the two questions gave one lineage twice.
const TRIES: u32 = 3;

#[derive(Serialize)]
struct Shown {
    active: ShownRelease,
    other: ShownRelease,
    /// Share of hits that both have, of the longer ranking; null where both are empty.
    overlap: Option<f64>,
    /// Ranks by which these moved, on average.
    rank_change: Option<f64>,
    ranks: Vec<ShownRank>,
    /// Hits of the active lineage that the other one does not have.
    gone: Vec<String>,
}

#[derive(Serialize)]
struct ShownRelease {
    lineage: String,
    generation: u64,
    hits: usize,
}

/// What both have at one rank.
#[derive(Serialize)]
struct ShownRank {
    rank: usize,
    active: Option<ShownHit>,
    other: Option<ShownHit>,
}

#[derive(Serialize)]
struct ShownHit {
    id: String,
    title: String,
    score: f32,
    /// The rank that the other of the two has it at; null where it does not.
    rank_there: Option<usize>,
}

/// Asks both lineages, and shows their answers side by side.
pub(crate) async fn run(request: SearchRequest, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let mut tries = 1;
    let shown = loop {
        let active = ask(&request, Lineage::Active, client).await?;
        let other = ask(&request, Lineage::Other, client).await?;
        let is_flipped = lineage(&active) == lineage(&other);
        if !is_flipped || tries == TRIES {
            break compared(&active, &other);
        }
        tries += 1;
    };
    output.answer(&shown, for_people)?;
    Ok(Exit::Done)
}

async fn ask(request: &SearchRequest, lineage: Lineage, client: &Client) -> Result<SearchResponse, CommandError> {
    let request = SearchRequest {
        lineage: lineage.into(),
        ..request.clone()
    };
    Ok(read(async || client.search().search(within(CALL, request.clone())).await).await?)
}

fn lineage(answer: &SearchResponse) -> &str {
    answer.release.as_ref().map_or("", |release| &release.lineage)
}

fn compared(active: &SearchResponse, other: &SearchResponse) -> Shown {
    let ids = |answer: &SearchResponse| -> Vec<String> { answer.hits.iter().map(|hit| hit.id.clone()).collect() };
    let (before, after) = (ids(active), ids(other));
    let longer = before.len().max(after.len());
    let (shown_active, shown_other) = (hits(active, &after), hits(other, &before));
    let gone = shown_active.iter().filter(|hit| hit.rank_there.is_none());
    let gone = gone.map(|hit| hit.id.clone()).collect();
    let (mut left, mut right) = (shown_active.into_iter(), shown_other.into_iter());
    let rank = |n: usize| ShownRank {
        rank: n + 1,
        active: left.next(),
        other: right.next(),
    };
    Shown {
        active: release(active),
        other: release(other),
        overlap: overlap(&before, &after, longer),
        rank_change: rank_change(&before, &after, longer),
        ranks: (0..longer).map(rank).collect(),
        gone,
    }
}

fn release(answer: &SearchResponse) -> ShownRelease {
    let ReleaseInfo {
        lineage, generation, ..
    } = answer.release.clone().unwrap_or_default();
    ShownRelease {
        lineage,
        generation,
        hits: answer.hits.len(),
    }
}

/// The hits of one answer, each with its rank in the other.
fn hits(answer: &SearchResponse, there: &[String]) -> Vec<ShownHit> {
    let ranks: BTreeMap<&str, usize> = there.iter().enumerate().map(|(n, id)| (id.as_str(), n + 1)).collect();
    let shown = answer.hits.iter().map(|hit| {
        let document: Value = serde_json::from_str(&hit.document_json).unwrap_or_default();
        ShownHit {
            id: hit.id.clone(),
            title: field(&document, TITLE),
            score: hit.score,
            rank_there: ranks.get(hit.id.as_str()).copied(),
        }
    });
    shown.collect()
}

fn for_people(shown: &Shown) -> String {
    if shown.ranks.is_empty() {
        return format!("neither lineage has a hit\n\n{}", footer(shown));
    }
    let cells = |hit: &Option<ShownHit>| match hit {
        Some(hit) => [hit.id.clone(), hit.title.clone()],
        None => [String::new(), String::new()],
    };
    let rows = shown.ranks.iter().map(|rank| {
        let moved = rank.other.as_ref().map(|hit| moved(rank.rank, hit.rank_there));
        let (active, other) = (cells(&rank.active), cells(&rank.other));
        std::iter::once(rank.rank.to_string())
            .chain(active)
            .chain(moved.or(Some(String::new())))
            .chain(other)
            .collect()
    });
    let table = table(
        &["#", "active", "title", "moved", "other", "title"],
        &["#", "moved"],
        rows,
    );
    format!("{table}\n\n{}", footer(shown))
}

/// How far a hit of the other lineage is from its rank in the active one: up is better.
fn moved(rank: usize, before: Option<usize>) -> String {
    match before {
        None => "new".to_owned(),
        Some(before) if before == rank => "=".to_owned(),
        Some(before) if before > rank => format!("+{}", before - rank),
        Some(before) => format!("-{}", rank - before),
    }
}

fn footer(shown: &Shown) -> String {
    let mut footer = format!(
        "active: lineage {} at generation {}; other: lineage {} at generation {}",
        shown.active.lineage, shown.active.generation, shown.other.lineage, shown.other.generation
    );
    if let Some(overlap) = shown.overlap {
        footer.push_str(&format!("\n{:.0} % of the hits are in both", overlap * 100.0));
    }
    if let Some(change) = shown.rank_change {
        footer.push_str(&format!(", moved by {change:.1} ranks on average"));
    }
    if !shown.gone.is_empty() {
        footer.push_str(&format!("\ngone: {}", crate::output::printable(&shown.gone.join(", "))));
    }
    footer
}

#[cfg(test)]
mod tests {
    use verdigris_proto::search::Hit;

    use super::*;

    fn answer(lineage: &str, ids: &[&str]) -> SearchResponse {
        let hit = |id: &&str| Hit {
            id: (*id).to_owned(),
            score: 1.0,
            document_json: format!(r#"{{"id":"{id}","title":"thing {id}"}}"#),
            ..Hit::default()
        };
        SearchResponse {
            hits: ids.iter().map(hit).collect(),
            release: Some(ReleaseInfo {
                generation: 7,
                lineage: lineage.to_owned(),
                ..ReleaseInfo::default()
            }),
            ..SearchResponse::default()
        }
    }

    #[test]
    fn people_see_both_rankings_side_by_side_and_how_hits_moved() {
        let shown = compared(&answer("l1", &["a", "b", "c"]), &answer("l2", &["b", "a", "d", "e"]));
        let expect = " #  active  title    moved  other  title
 1  a       thing a     +1  b      thing b
 2  b       thing b     -1  a      thing a
 3  c       thing c    new  d      thing d
 4                     new  e      thing e

active: lineage l1 at generation 7; other: lineage l2 at generation 7
50 % of the hits are in both, moved by 1.0 ranks on average
gone: c";
        assert_eq!(for_people(&shown), expect);
        let none = compared(&answer("l1", &[]), &answer("l2", &[]));
        assert!(for_people(&none).starts_with("neither lineage has a hit\n"));
    }

    #[test]
    fn programs_get_the_ranks_of_both() {
        let shown = compared(&answer("l1", &["a", "b"]), &answer("l2", &["b"]));
        let printed = serde_json::to_value(&shown).expect("JSON");
        assert_eq!(printed["ranks"][0]["other"]["rank_there"], 2);
        assert_eq!(printed["ranks"][0]["active"]["rank_there"], Value::Null);
        assert_eq!(printed["ranks"][1]["other"], Value::Null);
        assert_eq!(printed["gone"][0], "a");
        assert_eq!(printed["overlap"], 0.5);
    }
}
