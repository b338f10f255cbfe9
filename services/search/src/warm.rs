//! The first searches of a lineage, before anybody relies on it: pages of its files come into memory, and its model is
//! loaded and has answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use verdigris_core::names::CollectionName;
use verdigris_core::queries::LoggedQuery;
use verdigris_engine::filter::Filter;
use verdigris_engine::release::search::{Mode, Query};

use crate::Search;
use crate::lineages::Served;

/// Searches of asked queries.
const QUERIES: usize = 32;
/// Searches by stored vectors, evenly spread over the rows: they touch the graph all over, asked queries or not.
const VECTORS: usize = 32;
/// Hits of each.
const TOP: usize = 10;

/// Warms a release; how long it took. A search that fails warms nothing, and says so where somebody asks for it.
pub(crate) async fn warm(search: &Arc<Search>, name: &CollectionName, served: &Served) -> Duration {
    let began = Instant::now();
    let queries = search.log.some(name, QUERIES);
    let mut asked = Vec::with_capacity(queries.len());
    for query in queries {
        let vector = match &served.embedder {
            Some(embedder) => embedder.embed(&query.text).await.ok().map(|vector| vector.to_vec()),
            None => None,
        };
        asked.push((query, vector));
    }
    let (role, release, settings) = (search.clone(), served.release.clone(), served.settings.clone());
    let work = tokio::task::spawn_blocking(move || {
        for (query, vector) in &asked {
            let _ = ask(&role, &release, &settings, query, vector.as_deref());
        }
        let rows = release.manifest().count as usize;
        let stored = release.live_rows().filter(|place| release.has_vector(*place));
        for place in stored.step_by((rows / VECTORS).max(1)).take(VECTORS) {
            let vector = release.vector(place);
            let text = LoggedQuery {
                text: String::new(),
                filter: String::new(),
            };
            let _ = ask(&role, &release, &settings, &text, Some(&vector));
        }
    });
    // A panic in there is one in a search as well, which tells it.
    let _ = work.await;
    began.elapsed()
}

fn ask(
    search: &Search,
    release: &verdigris_engine::release::Release,
    settings: &verdigris_core::settings::Settings,
    query: &LoggedQuery,
    vector: Option<&[f32]>,
) -> Option<()> {
    let filter = match query.filter.as_str() {
        "" => None,
        filter => Some(Filter::parse(filter).ok()?),
    };
    let mode = match (query.text.is_empty(), vector) {
        (true, _) => Mode::Vector,
        (false, Some(_)) => Mode::Hybrid,
        (false, None) => Mode::Words,
    };
    let query = Query {
        mode,
        text: Some(query.text.as_str()).filter(|text| !text.is_empty()),
        vector,
        top: TOP,
        filter: filter.as_ref(),
        ef_search: Some(settings.ann.ef_search),
        nprobe: Some(settings.ann.nprobe),
        min_score: None,
        weights: settings.weights,
    };
    let hits = release.search(&query, &search.filters).ok()?;
    for hit in hits {
        let _ = release.stored(hit.place);
    }
    Some(())
}
