//! An opened release: segments, the rows of them that are dead, and the statistics of words over what is live.
//!
//! A release is immutable: a publish opens another, which shares the segments that stayed.

pub mod diff;
mod fusion;
pub mod hiding;
mod measure;
pub mod open;
pub mod search;

use std::sync::Arc;

use roaring::RoaringBitmap;
use verdigris_core::document::DocumentState;
use verdigris_core::manifest::Manifest;

use crate::ann::DenseBitmap;
use crate::error::EngineError;
use crate::rows::StoredRow;
use crate::segment::{Segment, SegmentCache, SegmentSource};
use crate::words::WordsStats;

/// A segment as one release sees it.
pub struct ReleaseSegment {
    /// The shared, immutable part.
    pub segment: Arc<Segment>,
    /// Its dead rows, ghost rows among them.
    pub dead: Arc<RoaringBitmap>,
    /// Rows with a vector that are alive; none when all are.
    alive: Option<DenseBitmap>,
}

/// Where a row is in a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowPlace {
    /// Which segment, by its place in the manifest.
    pub segment: usize,
    /// Its row there.
    pub row: u32,
}

/// A release that can be searched.
pub struct Release {
    manifest: Arc<Manifest>,
    segments: Vec<ReleaseSegment>,
    stats: WordsStats,
    /// Whether rows are dead in it that are alive by its manifest.
    is_hiding: bool,
}

impl Release {
    /// Opens a release: `parts[n]` are the verified files and the dead rows of the manifest's segment n. Segments that
    /// are open already are shared through `cache`.
    pub fn open(
        manifest: Arc<Manifest>,
        parts: Vec<(SegmentSource, Arc<RoaringBitmap>)>,
        cache: &SegmentCache,
    ) -> Result<Self, EngineError> {
        assert_eq!(parts.len(), manifest.segments.len(), "one part for each segment");
        let mut segments = Vec::with_capacity(parts.len());
        for (entry, (files, dead)) in manifest.segments.iter().zip(parts) {
            let segment = cache.open(entry, manifest.dimension, files)?;
            segments.push(ReleaseSegment::new(segment, dead));
        }
        let stats = WordsStats::of(segments.iter().map(|part| (part.segment.rows(), &*part.dead)));
        Ok(Self {
            manifest,
            segments,
            stats,
            is_hiding: false,
        })
    }

    /// A release without segments, before the first publish.
    pub fn empty(manifest: Arc<Manifest>) -> Self {
        assert!(manifest.segments.is_empty(), "a release with segments is opened");
        Self {
            manifest,
            segments: Vec::new(),
            stats: WordsStats::default(),
            is_hiding: false,
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Its segments, in the manifest's order.
    pub fn segments(&self) -> &[ReleaseSegment] {
        &self.segments
    }

    /// The live row of a document, or of its ghost.
    pub fn find(&self, id: &str) -> Option<RowPlace> {
        self.segments.iter().enumerate().find_map(|(segment, part)| {
            let live = part
                .segment
                .rows
                .find(id)
                .into_iter()
                .find(|row| !part.dead.contains(*row));
            live.map(|row| RowPlace { segment, row })
        })
    }

    /// Whether the row belongs to a document that exists.
    pub fn has_vector(&self, place: RowPlace) -> bool {
        place.row < self.segments[place.segment].segment.rows.vector_rows()
    }

    /// The exact vector of a row that has one.
    pub fn vector(&self, place: RowPlace) -> Vec<f32> {
        self.segments[place.segment].segment.ann.vector(place.row)
    }

    /// What a row stores.
    pub fn stored(&self, place: RowPlace) -> Result<StoredRow, EngineError> {
        self.segments[place.segment].segment.rows.stored(place.row)
    }

    /// The document id of a row.
    pub fn id(&self, place: RowPlace) -> Result<String, EngineError> {
        self.segments[place.segment].segment.rows.id(place.row)
    }

    /// The generation that wrote a row.
    pub fn generation(&self, place: RowPlace) -> u64 {
        self.segments[place.segment].segment.rows.generation(place.row)
    }

    /// The document's state as a row stores it.
    pub fn state(&self, place: RowPlace) -> Result<(StoredRow, DocumentState), EngineError> {
        let stored = self.stored(place)?;
        let id = || self.segments[place.segment].segment.id().clone();
        let state = DocumentState::decode(&stored.state).map_err(|source| EngineError::State {
            segment: id(),
            row: place.row,
            source,
        })?;
        Ok((stored, state))
    }

    /// The places of all live rows; with ghosts, also of documents that do not exist.
    pub fn live_rows(&self) -> impl Iterator<Item = RowPlace> + '_ {
        self.segments.iter().enumerate().flat_map(|(segment, part)| {
            let rows = 0..part.segment.rows.rows();
            rows.filter(|row| !part.dead.contains(*row))
                .map(move |row| RowPlace { segment, row })
        })
    }
}

impl ReleaseSegment {
    fn new(segment: Arc<Segment>, dead: Arc<RoaringBitmap>) -> Self {
        let rows = segment.rows.vector_rows();
        let any_dead = rows > 0 && dead.rank(rows - 1) > 0;
        let alive = any_dead.then(|| {
            let dead = DenseBitmap::from_roaring(&dead, rows);
            DenseBitmap::full(rows).and_not(&dead)
        });
        Self { segment, dead, alive }
    }

    pub(crate) fn alive(&self) -> Option<&DenseBitmap> {
        self.alive.as_ref()
    }
}
