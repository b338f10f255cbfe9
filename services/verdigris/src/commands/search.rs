//! `search`: a table of hits for people, the whole answer for programs.

use std::path::Path;
use std::{fs, io};

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use verdigris_proto::search::{
    Hit, Lineage as ProtoLineage, SearchMode as ProtoMode, SearchRequest, SearchResponse, Timings,
};

use super::reading::read;
use super::{CommandError, compare, raw};
use crate::arguments::{Lineage, Search, SearchMode};
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Output, table, to_the_second};

/// The fields that a title may come from.
pub(crate) const TITLE: &[&str] = &["title", "name"];
/// Columns that are shown where a hit has them, and the fields they may come from.
const COLUMNS: [(&str, &[&str]); 3] = [
    ("title", TITLE),
    ("brand", &["brand", "manufacturer"]),
    ("price", &["price"]),
];

#[derive(Serialize)]
struct Shown {
    generation: u64,
    lineage: String,
    hits: Vec<ShownHit>,
    next_page_token: Option<String>,
    /// How fresh the release is.
    published_at: String,
    watermark: Option<String>,
    position: String,
    timings: ShownTimings,
}

#[derive(Serialize)]
struct ShownHit {
    id: String,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    words_score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector_score: Option<f32>,
    written_generation: u64,
    document: Box<RawValue>,
}

#[derive(Serialize)]
struct ShownTimings {
    embed_micros: u64,
    search_micros: u64,
    fetch_micros: u64,
    wait_micros: u64,
    total_micros: u64,
}

/// Searches, and shows the hits.
pub(crate) async fn run(
    arguments: &Search,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let request = request(arguments, collection)?;
    if arguments.compare {
        return compare::run(request, client, output).await;
    }
    let answer = read(async || client.search().search(within(CALL, request.clone())).await).await?;
    let shown = Shown::try_from(answer)?;
    output.answer(&shown, |shown| for_people(shown, arguments.offset))?;
    Ok(Exit::Done)
}

fn request(arguments: &Search, collection: &str) -> Result<SearchRequest, CommandError> {
    Ok(SearchRequest {
        collection: collection.to_owned(),
        text: arguments.text.clone().unwrap_or_default(),
        vector: arguments
            .vector_file
            .as_deref()
            .map(vector)
            .transpose()?
            .unwrap_or_default(),
        mode: arguments.mode.map_or(ProtoMode::Unspecified, proto_mode).into(),
        top_k: arguments.top_k,
        offset: arguments.offset,
        page_token: arguments.page_token.clone().unwrap_or_default(),
        filter: arguments.filter.clone().unwrap_or_default(),
        fields: arguments.fields.clone(),
        ef_search: arguments.ef_search.unwrap_or(0),
        nprobe: arguments.nprobe.unwrap_or(0),
        min_score: arguments.min_score,
        min_position: arguments.min_position.clone().unwrap_or_default(),
        lineage: proto_lineage(arguments.lineage).into(),
    })
}

/// A lineage, as the interface calls it.
pub(crate) fn proto_lineage(lineage: Lineage) -> ProtoLineage {
    match lineage {
        Lineage::Active => ProtoLineage::Active,
        Lineage::Other => ProtoLineage::Other,
    }
}

/// A mode, as the interface calls it.
pub(crate) fn proto_mode(mode: SearchMode) -> ProtoMode {
    match mode {
        SearchMode::Hybrid => ProtoMode::Hybrid,
        SearchMode::Vector => ProtoMode::Vector,
        SearchMode::Words => ProtoMode::Words,
    }
}

fn vector(path: &Path) -> Result<Vec<f32>, CommandError> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(path)
    };
    let text = text.map_err(|source| CommandError::Read {
        path: path.display().to_string(),
        source,
    })?;
    let vector = serde_json::from_str(&text);
    vector.map_err(|source| CommandError::Json {
        what: format!("{} (an array of numbers)", path.display()),
        source,
    })
}

fn for_people(shown: &Shown, offset: u32) -> String {
    let parsed = |hit: &ShownHit| serde_json::from_str::<Value>(hit.document.get()).unwrap_or_default();
    let documents: Vec<Value> = shown.hits.iter().map(parsed).collect();
    let columns: Vec<(&str, &[&str])> = COLUMNS
        .into_iter()
        .filter(|(_, fields)| documents.iter().any(|document| !field(document, fields).is_empty()))
        .collect();
    let header: Vec<&str> = ["#", "score", "id"]
        .into_iter()
        .chain(columns.iter().map(|(name, _)| *name))
        .collect();
    let rows = shown
        .hits
        .iter()
        .zip(&documents)
        .enumerate()
        .map(|(at, (hit, document))| {
            let rank = (offset as usize + at + 1).to_string();
            let cells = columns.iter().map(|(_, fields)| field(document, fields));
            [rank, format!("{:.4}", hit.score), hit.id.clone()]
                .into_iter()
                .chain(cells)
                .collect()
        });
    let footer = footer(shown);
    if shown.hits.is_empty() {
        return format!("no hits\n\n{footer}");
    }
    format!("{}\n\n{footer}", table(&header, &["#", "score", "price"], rows))
}

fn footer(shown: &Shown) -> String {
    let ms = |micros: u64| format!("{:.1}", micros as f64 / 1_000.0);
    let timings = &shown.timings;
    let mut footer = format!(
        "{} hits in {} ms (embed {}, search {}, fetch {}) from generation {}",
        shown.hits.len(),
        ms(timings.total_micros),
        ms(timings.embed_micros),
        ms(timings.search_micros),
        ms(timings.fetch_micros),
        shown.generation,
    );
    if !shown.published_at.is_empty() {
        footer.push_str(&format!(", published at {}", to_the_second(&shown.published_at)));
    }
    if let Some(token) = &shown.next_page_token {
        footer.push_str(&format!("\nmore: --page-token {token}"));
    }
    footer
}

/// The first of some fields that a document has, as text.
pub(crate) fn field(document: &Value, names: &[&str]) -> String {
    let found = names.iter().find_map(|name| document.get(name));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

// === impl Shown ===

impl TryFrom<SearchResponse> for Shown {
    type Error = CommandError;

    fn try_from(answer: SearchResponse) -> Result<Self, CommandError> {
        let release = answer.release.unwrap_or_default();
        Ok(Self {
            generation: release.generation,
            lineage: release.lineage,
            hits: answer
                .hits
                .into_iter()
                .map(ShownHit::try_from)
                .collect::<Result<_, _>>()?,
            next_page_token: Some(answer.next_page_token).filter(|token| !token.is_empty()),
            published_at: release.published_at,
            watermark: Some(release.watermark).filter(|watermark| !watermark.is_empty()),
            position: release.position,
            timings: answer.timings.unwrap_or_default().into(),
        })
    }
}

// === impl ShownHit ===

impl TryFrom<Hit> for ShownHit {
    type Error = CommandError;

    fn try_from(hit: Hit) -> Result<Self, CommandError> {
        Ok(Self {
            document: raw("a document that the server sent", hit.document_json)?,
            id: hit.id,
            score: hit.score,
            words_score: hit.words_score,
            vector_score: hit.vector_score,
            written_generation: hit.written_generation,
        })
    }
}

// === impl ShownTimings ===

impl From<Timings> for ShownTimings {
    fn from(timings: Timings) -> Self {
        let Timings {
            embed_micros,
            search_micros,
            fetch_micros,
            wait_micros,
            total_micros,
        } = timings;
        Self {
            embed_micros,
            search_micros,
            fetch_micros,
            wait_micros,
            total_micros,
        }
    }
}

#[cfg(test)]
mod tests {
    use verdigris_proto::search::ReleaseInfo;

    use super::*;

    fn answer() -> SearchResponse {
        let hit = |id: &str, score, document: &str| Hit {
            id: id.to_owned(),
            score,
            words_score: Some(1.5),
            document_json: document.to_owned(),
            written_generation: 3,
            ..Hit::default()
        };
        SearchResponse {
            hits: vec![
                hit(
                    "DW-745/B",
                    2.25,
                    r#"{"id":"DW-745/B","title":"Table saw","price":549.10}"#,
                ),
                hit("b", 0.5, r#"{"id":"b","name":"Blade\u001b[31m","brand":"Bosch"}"#),
            ],
            release: Some(ReleaseInfo {
                generation: 7,
                lineage: "l1".to_owned(),
                ..ReleaseInfo::default()
            }),
            timings: Some(Timings {
                total_micros: 3_210,
                search_micros: 900,
                ..Timings::default()
            }),
            ..SearchResponse::default()
        }
    }

    #[test]
    fn people_see_a_table_with_the_columns_that_hits_have() {
        let shown = Shown::try_from(answer()).expect("JSON");
        let expect = " #   score  id        title       brand  price
 1  2.2500  DW-745/B  Table saw          549.1
 2  0.5000  b         Blade [31m  Bosch

2 hits in 3.2 ms (embed 0.0, search 0.9, fetch 0.0) from generation 7";
        assert_eq!(for_people(&shown, 0), expect);
    }

    #[test]
    fn programs_get_documents_digit_for_digit() {
        let shown = Shown::try_from(answer()).expect("JSON");
        let printed = serde_json::to_string(&shown).expect("JSON");
        assert!(
            printed.starts_with(r#"{"generation":7,"lineage":"l1","hits":[{"id":"DW-745/B","score":2.25,"#),
            "{printed}"
        );
        assert!(printed.contains(r#""price":549.10}"#), "{printed}");
    }

    #[test]
    fn a_vector_file_that_is_no_array_of_numbers_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("v.json");
        fs::write(&path, "[0.5, \"x\"]").expect("written");
        assert!(vector(&path).expect_err("no numbers").message().contains("v.json"));
        fs::write(&path, "[0.5, -1, 2e-3]").expect("written");
        assert_eq!(vector(&path).expect("numbers"), [0.5, -1.0, 0.002]);
    }
}
