//! `explain-document` and `releases diff`: where a document is, and what became different.

use serde_json::{Value, json};
use verdigris_proto::admin::{
    DiffReleasesRequest, DiffReleasesResponse, DocumentInLineage, ExplainDocumentRequest, ExplainDocumentResponse,
    ValueCount,
};
use verdigris_proto::search::{Hit, Lineage, SearchRequest};

use super::CommandError;
use super::reading::read;
use crate::client::{CALL, Client, LONG_CALL, within};
use crate::exit::Exit;
use crate::output::{Output, pairs, table, to_the_second};

/// Hits among which a rank is looked for: the most that one search gives.
const HITS: u32 = 1_000;

/// A document's place among the hits of a query.
struct Rank {
    /// From 1; none where it is not among them.
    rank: Option<usize>,
    /// Its scores: what it is ranked by, by words, by the vector.
    hit: Option<Hit>,
    /// The same without the filter, where one leaves it out.
    unfiltered: Option<usize>,
}

/// A document in one lineage.
struct InLineage<'a> {
    place: &'a DocumentInLineage,
    rank: Option<Rank>,
    /// Why there is no rank although there is a query.
    unranked: String,
}

/// Says where a document is. `query` is a text and a filter, which may be empty.
pub(crate) async fn run(
    id: &str,
    query: Option<(&str, &str)>,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let request = ExplainDocumentRequest {
        collection: collection.to_owned(),
        id: id.to_owned(),
    };
    let answer = client
        .admin()
        .explain_document(within(LONG_CALL, request))
        .await?
        .into_inner();
    let lineages = in_lineages(&answer, query, collection, client).await?;
    let rank = lineages.first().and_then(|one| one.rank.as_ref());
    let events = answer.events.iter().map(|event| {
        json!({
            "position": event.position, "accepted_at": event.accepted_at, "kind": event.kind,
            "revision": event.revision, "outcome": event.outcome, "reason": event.reason,
        })
    });
    let fields = answer
        .fields
        .iter()
        .map(|field| (field.name.clone(), json!(field.revision)));
    let hit = rank.and_then(|rank| rank.hit.as_ref());
    let report = json!({
        "id": answer.id,
        "generation": answer.generation,
        "state": answer.state,
        "segment": answer.segment,
        "row": answer.row,
        "written_generation": answer.written_generation,
        "floor": answer.floor,
        "fields": fields.collect::<serde_json::Map<_, _>>(),
        "embedded_text": answer.embedded_text,
        "events": events.collect::<Vec<_>>(),
        "looked_through": answer.looked_through,
        "standstill": answer.standstill,
        "rank": rank.and_then(|rank| rank.rank),
        "score": hit.map(|hit| hit.score),
        "words_score": hit.and_then(|hit| hit.words_score),
        "vector_score": hit.and_then(|hit| hit.vector_score),
        "rank_without_filter": rank.and_then(|rank| rank.unfiltered),
        "lineages": lineages.iter().map(of_lineage).collect::<Vec<_>>(),
    });
    output.answer(&report, |_| shown(&answer, &lineages))?;
    Ok(Exit::Done)
}

/// Looks for a document's rank in each lineage, where there is a query. An other lineage that does not answer (it may be
/// about to open, or about to go) is told; the active one has to.
async fn in_lineages<'a>(
    answer: &'a ExplainDocumentResponse,
    query: Option<(&str, &str)>,
    collection: &str,
    client: &Client,
) -> Result<Vec<InLineage<'a>>, CommandError> {
    let mut all = Vec::new();
    for place in &answer.lineages {
        let lineage = if place.role == "active" {
            Lineage::Active
        } else {
            Lineage::Other
        };
        let ranked = match query {
            Some(query) => ranked(&answer.id, query, lineage, collection, client).await.map(Some),
            None => Ok(None),
        };
        let (rank, unranked) = match ranked {
            Ok(rank) => (rank, String::new()),
            Err(CommandError::Refused(status)) if lineage == Lineage::Other => (None, status.message().to_owned()),
            Err(error) => return Err(error),
        };
        all.push(InLineage { place, rank, unranked });
    }
    Ok(all)
}

fn of_lineage(one: &InLineage<'_>) -> Value {
    let InLineage { place, rank, unranked } = one;
    let hit = rank.as_ref().and_then(|rank| rank.hit.as_ref());
    json!({
        "lineage": place.lineage, "role": place.role, "generation": place.generation, "state": place.state,
        "segment": place.segment, "row": place.row, "written_generation": place.written_generation,
        "floor": place.floor, "embedded_text": place.embedded_text, "problem": place.problem,
        "rank": rank.as_ref().and_then(|rank| rank.rank),
        "score": hit.map(|hit| hit.score),
        "words_score": hit.and_then(|hit| hit.words_score),
        "vector_score": hit.and_then(|hit| hit.vector_score),
        "rank_without_filter": rank.as_ref().and_then(|rank| rank.unfiltered),
        "unranked": unranked,
    })
}

async fn ranked(
    id: &str,
    (text, filter): (&str, &str),
    lineage: Lineage,
    collection: &str,
    client: &Client,
) -> Result<Rank, CommandError> {
    let place = async |filter: &str| -> Result<Option<(usize, Hit)>, CommandError> {
        let request = SearchRequest {
            collection: collection.to_owned(),
            text: text.to_owned(),
            filter: filter.to_owned(),
            top_k: HITS,
            lineage: lineage.into(),
            ..SearchRequest::default()
        };
        let answer = read(async || client.search().search(within(CALL, request.clone())).await).await?;
        let hits = answer.hits;
        let found = hits.into_iter().zip(1..).find(|(hit, _)| hit.id == id);
        Ok(found.map(|(hit, rank)| (rank, hit)))
    };
    let found = place(filter).await?;
    let unfiltered = match found {
        None if !filter.is_empty() => place("").await?,
        _ => None,
    };
    Ok(Rank {
        rank: found.as_ref().map(|(rank, _)| *rank),
        hit: found.map(|(_, hit)| hit),
        unfiltered: unfiltered.map(|(rank, _)| rank),
    })
}

fn shown(answer: &ExplainDocumentResponse, lineages: &[InLineage<'_>]) -> String {
    let mut facts = vec![("document", answer.id.clone()), ("state", answer.state.clone())];
    if !answer.segment.is_empty() {
        let row = format!(
            "{} of segment {}, written by generation {}, in generation {}",
            answer.row, answer.segment, answer.written_generation, answer.generation
        );
        facts.push(("row", row));
        facts.push(("floor", answer.floor.clone()));
        let fields = answer.fields.iter().filter(|field| field.revision != answer.floor);
        let later = fields.map(|field| format!("{} at {}", field.name, field.revision));
        facts.push(("patched since", later.collect::<Vec<_>>().join(", ")));
        facts.push(("embedded text", answer.embedded_text.clone()));
    }
    for (one, name) in lineages.iter().zip(["rank", "rank in the other"]) {
        if one.place.role != "active" {
            facts.push(("in the other lineage", other_shown(one.place, answer)));
        }
        match &one.rank {
            Some(rank) => facts.push((name, rank_shown(rank))),
            None if !one.unranked.is_empty() => facts.push((name, format!("not to be had: {}", one.unranked))),
            None => {}
        }
    }
    if !answer.standstill.is_empty() {
        facts.push(("standstill", answer.standstill.clone()));
    }
    let rows = answer.events.iter().map(|event| {
        vec![
            event.position.clone(),
            to_the_second(&event.accepted_at),
            event.kind.clone(),
            event.revision.clone(),
            event.outcome.clone(),
            event.reason.clone(),
        ]
    });
    let header = ["position", "accepted at", "kind", "revision", "outcome", ""];
    let events = if answer.events.is_empty() {
        format!("no event of it among the last {} of the log", answer.looked_through)
    } else {
        table(&header, &[], rows)
    };
    format!("{}\n\n{events}", pairs(&facts))
}

fn other_shown(place: &DocumentInLineage, active: &ExplainDocumentResponse) -> String {
    let named = format!(
        "{} ({}), generation {}",
        place.lineage,
        place.role.replace('_', " "),
        place.generation
    );
    if !place.problem.is_empty() {
        return format!("{named}: {}", place.problem);
    }
    let text = match place.embedded_text == active.embedded_text {
        true => String::new(),
        false => format!(", with the embedded text {:?}", place.embedded_text),
    };
    match place.segment.as_str() {
        "" => format!("{named}: {}", place.state),
        segment => format!(
            "{named}: {}, row {} of segment {segment}, written by generation {}{text}",
            place.state, place.row, place.written_generation
        ),
    }
}

fn rank_shown(rank: &Rank) -> String {
    let part = |score: Option<f32>| score.map_or_else(|| "none".to_owned(), |score| format!("{score:.3}"));
    match (rank.rank, &rank.hit, rank.unfiltered) {
        (Some(place), Some(hit), _) => format!(
            "{place}, with a score of {:.3} (by words {}, by the vector {})",
            hit.score,
            part(hit.words_score),
            part(hit.vector_score)
        ),
        (_, _, Some(place)) => format!("the filter leaves it out; without it, {place}"),
        _ => format!("not among the first {HITS}"),
    }
}

/// Says what differs between two releases.
pub(crate) async fn diff(request: DiffReleasesRequest, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let answer = client
        .admin()
        .diff_releases(within(LONG_CALL, request))
        .await?
        .into_inner();
    let counts = |values: &[ValueCount]| {
        let counts = values.iter().map(|count| (count.value.clone(), json!(count.documents)));
        counts.collect::<serde_json::Map<_, _>>()
    };
    let documents = answer.documents.iter();
    let documents = documents.map(|one| json!({"id": one.id, "kind": one.kind, "fields": one.fields}));
    let report = json!({
        "before": answer.before,
        "after": answer.after,
        "added": answer.added,
        "removed": answer.removed,
        "changed": answer.changed,
        "fields": counts(&answer.fields),
        "brands": counts(&answer.brands),
        "categories": counts(&answer.categories),
        "documents": documents.collect::<Vec<_>>(),
    });
    output.answer(&report, |_| differences(&answer))?;
    Ok(Exit::Done)
}

fn differences(answer: &DiffReleasesResponse) -> String {
    let list = |values: &[ValueCount]| {
        let values = values
            .iter()
            .take(10)
            .map(|count| format!("{} {}", count.value, count.documents));
        values.collect::<Vec<_>>().join(", ")
    };
    let facts = pairs(&[
        ("generations", format!("{} to {}", answer.before, answer.after)),
        ("added", answer.added.to_string()),
        ("removed", answer.removed.to_string()),
        ("changed", answer.changed.to_string()),
        ("by field", list(&answer.fields)),
        ("by brand", list(&answer.brands)),
        ("by category", list(&answer.categories)),
    ]);
    let rows = answer.documents.iter();
    let rows = rows.map(|one| vec![one.kind.clone(), one.id.clone(), one.fields.join(", ")]);
    format!("{facts}\n\n{}", table(&["", "document", "fields"], &[], rows))
}
