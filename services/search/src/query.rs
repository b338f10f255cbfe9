//! The last step: a request becomes a search of one release, and rows become hits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Status;
use verdigris_core::manifest::Metric;
use verdigris_engine::filter::Filter;
use verdigris_engine::release::search::{Hit as Found, Mode, Query};
use verdigris_proto::reason::Reason;
use verdigris_proto::search::{Hit, Lineage, SearchMode, SearchRequest, SearchResponse, Timings};

use crate::Search;
use crate::answer::{document_json, id_json, release_info, status_of_engine};
use crate::lineages::Served;
use crate::page::{PageToken, fingerprint};

/// Hits of one answer.
pub(crate) const TOP_K: (u32, u32) = (10, 1_000);
/// How deep pages go.
const DEPTH_MAX: u32 = 10_000;
/// Hits that are fetched on the runtime's own threads, a few microseconds each.
const BRIEF_HITS_MAX: u32 = 20;
/// The longest query text in bytes.
const TEXT_BYTES_MAX: usize = 8_192;
/// The most candidates that a request may ask a graph for.
const EF_SEARCH_MAX: u32 = 10_000;

/// A request that was checked.
pub(crate) struct Checked {
    mode: Mode,
    text: Option<String>,
    vector: Option<Vec<f32>>,
    top_k: u32,
    offset: u32,
    filter: Option<Filter>,
    fields: Vec<String>,
    ef_search: Option<u32>,
    nprobe: Option<u32>,
    min_score: Option<f32>,
    fingerprint: String,
    /// Which lineage is to answer.
    pub(crate) lineage: Lineage,
    /// The release that a page token names, which answers whatever became of its lineage.
    pub(crate) page: Option<PageToken>,
}

impl Checked {
    /// Hits that are asked for.
    pub(crate) fn top_k(&self) -> u32 {
        self.top_k
    }
}

/// Checks a request by itself: what is wrong is said with the field's name.
pub(crate) fn check(request: SearchRequest) -> Result<Checked, Status> {
    let wrong = |field: &str, message: String| Reason::InvalidArgument.status_for_field(field, message);
    if request.text.len() > TEXT_BYTES_MAX {
        return Err(wrong(
            "text",
            format!(
                "text has {} bytes; at most {TEXT_BYTES_MAX} are allowed",
                request.text.len()
            ),
        ));
    }
    let top_k = if request.top_k == 0 { TOP_K.0 } else { request.top_k };
    if top_k > TOP_K.1 {
        return Err(wrong(
            "top_k",
            format!("top_k is {top_k}; at most {} hits are answered at once", TOP_K.1),
        ));
    }
    let fingerprint = fingerprint(&request);
    let lineage = lineage(request.lineage)?;
    let page = match request.page_token.as_str() {
        "" => None,
        token => Some(PageToken::parse(token, &fingerprint)?),
    };
    let offset = page.as_ref().map_or(request.offset, |page| page.offset);
    if offset.saturating_add(top_k) > DEPTH_MAX {
        return Err(wrong(
            "offset",
            format!(
                "offset and top_k reach to {}; pages go {DEPTH_MAX} hits deep",
                offset.saturating_add(top_k)
            ),
        ));
    }
    if request.ef_search > EF_SEARCH_MAX {
        return Err(wrong(
            "ef_search",
            format!("ef_search is {}; at most {EF_SEARCH_MAX} is allowed", request.ef_search),
        ));
    }
    if request.min_score.is_some_and(f32::is_nan) {
        return Err(wrong("min_score", "min_score is not a number".to_owned()));
    }
    let text = Some(request.text).filter(|text| !text.trim().is_empty());
    let vector = Some(request.vector).filter(|vector| !vector.is_empty());
    let mode = mode(request.mode, text.is_some(), vector.is_some())?;
    let filter = match request.filter.trim() {
        "" => None,
        filter => Some(
            Filter::parse(filter)
                .map_err(|error| Reason::InvalidFilter.status_for_field("filter", error.to_string()))?,
        ),
    };
    Ok(Checked {
        mode,
        text,
        vector,
        top_k,
        offset,
        filter,
        fields: request.fields,
        ef_search: Some(request.ef_search).filter(|ef| *ef > 0),
        nprobe: Some(request.nprobe).filter(|nprobe| *nprobe > 0),
        min_score: request.min_score,
        fingerprint,
        lineage,
        page,
    })
}

/// The lineage that a request asks for.
pub(crate) fn lineage(asked: i32) -> Result<Lineage, Status> {
    let wrong = |_| Reason::InvalidArgument.status_for_field("lineage", "this lineage is not known");
    Lineage::try_from(asked).map_err(wrong)
}

fn mode(asked: i32, has_text: bool, has_vector: bool) -> Result<Mode, Status> {
    let wrong = |message: &str| Reason::InvalidArgument.status_for_field("mode", message);
    match (SearchMode::try_from(asked), has_text, has_vector) {
        (_, false, false) => Err(Reason::InvalidArgument.status_for_field("text", "give a text, a vector, or both")),
        (Err(_), ..) => Err(wrong("this mode is not known")),
        (Ok(SearchMode::Unspecified), true, _) | (Ok(SearchMode::Hybrid), true, _) => Ok(Mode::Hybrid),
        (Ok(SearchMode::Unspecified), false, true) | (Ok(SearchMode::Vector), ..) => Ok(Mode::Vector),
        (Ok(SearchMode::Hybrid), false, true) => Err(wrong(
            "a hybrid search needs a text; search by vector alone in mode vector",
        )),
        (Ok(SearchMode::Words), true, _) => Ok(Mode::Words),
        (Ok(SearchMode::Words), false, true) => Err(wrong("a search by words needs a text")),
    }
}

/// What a search came to.
pub(crate) struct Answer {
    pub(crate) response: SearchResponse,
    /// Tokens that were embedded for it.
    pub(crate) tokens: u64,
}

/// Searches one release. The text is embedded by the release's model, then the search runs on a thread of its own; a
/// brief one runs here, because handing it over and back takes as long again.
pub(crate) async fn search(search: &Arc<Search>, served: Arc<Served>, checked: Checked) -> Result<Answer, Status> {
    let began = Instant::now();
    let Looked { vector, mode, tokens } = query_vector(&served, &checked).await?;
    let embed = began.elapsed();
    let permit = search.threads.clone().acquire_owned().await;
    let permit = permit.map_err(|_| Reason::ShuttingDown.status("the server is shutting down"))?;
    let (role, manifest) = (search.clone(), served.release.manifest().clone());
    let is_brief = is_brief(&served, &checked, mode);
    let work = move || {
        let _permit = permit;
        run(&role, &served, &checked, mode, vector.as_deref())
    };
    let (hits, next_page_token, searched, fetched) = if is_brief {
        work()?
    } else {
        let worked = tokio::task::spawn_blocking(work).await;
        worked.map_err(|error| Reason::Internal.status(format!("a search did not end: {error}")))??
    };
    search.deps.metrics.searched(&manifest.collection, embed, searched);
    let timings = Timings {
        embed_micros: embed.as_micros() as u64,
        search_micros: searched.as_micros() as u64,
        fetch_micros: fetched.as_micros() as u64,
        wait_micros: 0,
        total_micros: began.elapsed().as_micros() as u64,
    };
    let response = SearchResponse {
        hits,
        next_page_token,
        release: Some(release_info(&manifest)),
        timings: Some(timings),
    };
    Ok(Answer { response, tokens })
}

/// What is searched with.
struct Looked {
    vector: Option<Vec<f32>>,
    mode: Mode,
    /// Tokens that were embedded for it.
    tokens: u64,
}

/// The vector that is searched with: the given one, or the text's. A text without an embedder is searched by words.
async fn query_vector(served: &Served, checked: &Checked) -> Result<Looked, Status> {
    let manifest = served.release.manifest();
    let looked = |vector, mode, tokens| Looked { vector, mode, tokens };
    if checked.mode == Mode::Words {
        return Ok(looked(None, Mode::Words, 0));
    }
    if let Some(vector) = &checked.vector {
        let vector = given_vector(vector, manifest.dimension, manifest.metric)?;
        return Ok(looked(Some(vector), checked.mode, 0));
    }
    match (&served.embedder, &checked.text) {
        (Some(embedder), Some(text)) => {
            let embedded = embedder.embed_counted(text).await;
            let embedded = embedded.map_err(|error| Reason::EmbedderUnavailable.status(crate::answer::chain(&error)));
            let (vector, tokens) = embedded?;
            Ok(looked(Some(vector.to_vec()), checked.mode, tokens))
        }
        (None, Some(_)) if checked.mode == Mode::Hybrid => Ok(looked(None, Mode::Words, 0)),
        _ => Err(Reason::NoEmbedder.status("this collection has no embedder: give the query's vector")),
    }
}

fn given_vector(vector: &[f32], dimension: u32, metric: Metric) -> Result<Vec<f32>, Status> {
    let wrong = |message: String| Err(Reason::InvalidVector.status_for_field("vector", message));
    if vector.len() != dimension as usize {
        return wrong(format!(
            "vector has {} coordinates; this collection has {dimension}",
            vector.len()
        ));
    }
    if let Some(at) = vector.iter().position(|x| !x.is_finite()) {
        return wrong(format!("coordinate {at} of the vector is not a finite number"));
    }
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    match metric {
        Metric::InnerProduct => Ok(vector.to_vec()),
        Metric::Cosine if length == 0.0 => wrong("the vector is zero, which has no direction under cosine".to_owned()),
        Metric::Cosine => Ok(vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()),
    }
}

fn is_brief(served: &Served, checked: &Checked, mode: Mode) -> bool {
    checked.offset + checked.top_k <= BRIEF_HITS_MAX
        && served.release.is_brief(&engine_query(served, checked, mode, None))
}

fn engine_query<'q>(served: &Served, checked: &'q Checked, mode: Mode, vector: Option<&'q [f32]>) -> Query<'q> {
    Query {
        mode,
        text: checked.text.as_deref(),
        vector,
        // One more tells whether there is another page.
        top: (checked.offset + checked.top_k) as usize + 1,
        filter: checked.filter.as_ref(),
        ef_search: checked.ef_search.or(Some(served.settings.ann.ef_search)),
        nprobe: checked.nprobe.or(Some(served.settings.ann.nprobe)),
        min_score: checked.min_score,
        weights: served.settings.weights,
    }
}

type Ran = (Vec<Hit>, String, Duration, Duration);

fn run(search: &Search, served: &Served, checked: &Checked, mode: Mode, vector: Option<&[f32]>) -> Result<Ran, Status> {
    let began = Instant::now();
    let depth = (checked.offset + checked.top_k) as usize;
    let query = engine_query(served, checked, mode, vector);
    let found = served
        .release
        .search(&query, &search.filters)
        .map_err(|error| status_of_engine(&error))?;
    let searched = began.elapsed();
    let manifest = served.release.manifest();
    let next_page_token = match found.len() > depth {
        true => PageToken::of(manifest, depth as u32).encode(&checked.fingerprint),
        false => String::new(),
    };
    let page = found.iter().take(depth).skip(checked.offset as usize);
    let hits: Result<Vec<Hit>, Status> = page.map(|found| hit(served, found, &checked.fields)).collect();
    Ok((hits?, next_page_token, searched, began.elapsed() - searched))
}

fn hit(served: &Served, found: &Found, fields: &[String]) -> Result<Hit, Status> {
    let of_engine = |error| status_of_engine(&error);
    if !fields.is_empty() && fields.iter().all(|field| field == "id") {
        // Columns have all of it: no state is unpacked.
        let id = served.release.id(found.place).map_err(of_engine)?;
        return Ok(Hit {
            score: found.score,
            words_score: found.words,
            vector_score: found.vector,
            document_json: id_json(&id),
            written_generation: served.release.generation(found.place),
            id,
        });
    }
    let stored = served.release.stored(found.place).map_err(of_engine)?;
    Ok(Hit {
        score: found.score,
        words_score: found.words,
        vector_score: found.vector,
        document_json: document_json(&stored.state, fields)?,
        written_generation: stored.generation,
        id: stored.id,
    })
}
