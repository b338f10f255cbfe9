//! Rows of one lineage as rows of another: what a rebuild writes and what a follow takes over.
//!
//! States are copied byte by byte, with the generation that wrote them, so that `content` stays the same. Only vectors
//! may be made anew. Synchronous: it reads mapped files and belongs on a blocking thread.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringBitmap;
use serde_json::{Map, Value};
use verdigris_core::digest::ContentSum;
use verdigris_core::document::DocumentState;
use verdigris_core::manifest::{Metric, SegmentId};
use verdigris_core::settings::{Provider, Settings};
use verdigris_core::text::embedded_text;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::{Release, RowPlace};
use verdigris_engine::segment::write::NewRow;

use crate::order::{VectorSource, normalise};

/// The settings that rows come from and those that they are written by.
#[derive(Debug, Clone)]
pub(crate) struct Between {
    pub(crate) from: Settings,
    pub(crate) to: Settings,
}

/// A row to be written, and where its vector comes from.
pub(crate) struct TakenRow {
    pub(crate) row: NewRow,
    pub(crate) vector: VectorSource,
}

/// What brings one lineage level with another.
pub(crate) struct Taken {
    pub(crate) rows: Vec<TakenRow>,
    /// All dead rows of the follower's segments in which a row died.
    pub(crate) dead: BTreeMap<SegmentId, RoaringBitmap>,
    /// The follower's sums after it.
    pub(crate) content: ContentSum,
    pub(crate) documents: u64,
}

/// A document as one lineage has it.
pub(crate) struct Found {
    pub(crate) row: NewRow,
    pub(crate) state: DocumentState,
    pub(crate) exists: bool,
}

/// What `active` wrote after the generation of `follower`, as rows of the follower; and documents of `erased` as `active`
/// has them: a follower that was ahead has taken events for them that are set aside when they are read again.
pub(crate) fn take_over(
    active: &Release,
    follower: &Release,
    between: &Between,
    erased: &BTreeSet<String>,
) -> Result<Taken, EngineError> {
    let manifest = follower.manifest();
    let since = manifest.generation;
    let mut taken = Taken {
        rows: Vec::new(),
        dead: BTreeMap::new(),
        content: manifest.content,
        documents: manifest.documents,
    };
    for (segment, part) in active.segments().iter().enumerate() {
        if active.manifest().segments[segment].newest_generation <= since {
            continue;
        }
        for (row, generation) in (0u32..).zip(part.segment.rows().generations()) {
            if generation > since && !part.dead.contains(row) {
                take_one(active, RowPlace { segment, row }, follower, between, &mut taken)?;
            }
        }
    }
    for id in erased {
        let (ours, theirs) = (active.find(id), follower.find(id));
        let ours = ours.map(|place| Ok::<_, EngineError>((place, found(active, place, &between.from)?)));
        let Some(theirs) = theirs.map(|place| found(follower, place, &between.to)).transpose()? else {
            continue;
        };
        match ours.transpose()? {
            None => {
                forget(id, follower, between, &mut taken)?;
            }
            Some((place, ours)) if ours.row.generation <= since && ours.state.digest() != theirs.state.digest() => {
                take_one(active, place, follower, between, &mut taken)?;
            }
            Some(_) => {}
        }
    }
    Ok(taken)
}

/// A row of the follower that died, and its document.
struct Old {
    place: RowPlace,
    document: Option<Map<String, Value>>,
}

/// The follower's row of a document dies.
fn forget(id: &str, follower: &Release, between: &Between, taken: &mut Taken) -> Result<Option<Old>, EngineError> {
    let Some(old) = follower.find(id) else { return Ok(None) };
    let before = found(follower, old, &between.to)?;
    let part = &follower.segments()[old.segment];
    let dead = taken.dead.entry(part.segment.id().clone());
    dead.or_insert_with(|| (*part.dead).clone()).insert(old.row);
    taken.content.remove(&before.state.digest());
    taken.documents -= u64::from(before.exists);
    Ok(Some(Old {
        place: old,
        document: before.row.document,
    }))
}

fn take_one(
    active: &Release,
    place: RowPlace,
    follower: &Release,
    between: &Between,
    taken: &mut Taken,
) -> Result<(), EngineError> {
    let found = found(active, place, &between.from)?;
    let old = forget(&found.row.id, follower, between, taken)?;
    taken.content.add(&found.state.digest());
    taken.documents += u64::from(found.exists);
    let old = old
        .as_ref()
        .and_then(|old| Some((follower, old.place, old.document.as_ref()?)));
    let vector = vector_source(active, place, &found, between, old);
    taken.rows.push(TakenRow { row: found.row, vector });
    Ok(())
}

/// A slice of the live rows of `source`, from the n-th on, for a lineage that is written from nothing.
pub(crate) fn slice(
    source: &Release,
    places: &[RowPlace],
    between: &Between,
    content: &mut ContentSum,
    documents: &mut u64,
) -> Result<Vec<TakenRow>, EngineError> {
    let mut rows = Vec::with_capacity(places.len());
    for place in places {
        let found = found(source, *place, &between.from)?;
        content.add(&found.state.digest());
        *documents += u64::from(found.exists);
        let vector = vector_source(source, *place, &found, between, None);
        rows.push(TakenRow { row: found.row, vector });
    }
    Ok(rows)
}

pub(crate) fn found(release: &Release, place: RowPlace, settings: &Settings) -> Result<Found, EngineError> {
    let (stored, mut state) = release.state(place)?;
    let exists = release.has_vector(place);
    let row = NewRow {
        id: stored.id,
        generation: stored.generation,
        document: state.document(),
        state: stored.state,
    };
    if exists && settings.embedder.provider == Provider::None {
        // The digest of a document is over its vector too.
        state.restore_vector(&release.vector(place));
    }
    Ok(Found { row, state, exists })
}

/// `old` is the document as the follower has it.
fn vector_source(
    from: &Release,
    place: RowPlace,
    found: &Found,
    between: &Between,
    old: Option<(&Release, RowPlace, &Map<String, Value>)>,
) -> VectorSource {
    let Some(document) = &found.row.document else {
        return VectorSource::Ghost;
    };
    if between.from.same_vectors(&between.to) {
        return VectorSource::Given(from.vector(place));
    }
    if between.to.embedder.provider == Provider::None {
        let mut vector = from.vector(place);
        if between.to.metric == Metric::Cosine {
            normalise(&mut vector);
        }
        return VectorSource::Given(vector);
    }
    let text = embedded_text(document, &between.to.text.embed);
    match old {
        Some((follower, place, old)) if embedded_text(old, &between.to.text.embed) == text => {
            VectorSource::Kept(follower.vector(place))
        }
        _ => VectorSource::Text(text),
    }
}
