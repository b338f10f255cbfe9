//! A release without some documents that its files hold still: erased ones, until their bytes are removed.
//!
//! The manifest stays as it was written, its counts among it. Deliberately absent: a list of what is hidden; a hidden
//! row is a dead row, so that nothing that reads releases can forget to ask.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::release::{Release, ReleaseSegment};
use crate::rows::Rows;
use crate::words::WordsStats;

impl Release {
    /// The same release with all rows of these documents dead, ghost rows among them; itself where it shows none of them.
    /// Segments are shared. One look into a dictionary for each segment and document.
    pub fn hiding<'a>(self: &Arc<Self>, ids: impl IntoIterator<Item = &'a str> + Clone) -> Arc<Self> {
        let hidden = |part: &ReleaseSegment| {
            let rows = rows_of(part.segment.rows(), ids.clone());
            rows - &*part.dead
        };
        let hidden: Vec<RoaringBitmap> = self.segments.iter().map(hidden).collect();
        if hidden.iter().all(RoaringBitmap::is_empty) {
            return self.clone();
        }
        let segments: Vec<ReleaseSegment> = self
            .segments
            .iter()
            .zip(hidden)
            .map(|(part, hidden)| {
                let dead = if hidden.is_empty() {
                    part.dead.clone()
                } else {
                    Arc::new(&*part.dead | hidden)
                };
                ReleaseSegment::new(part.segment.clone(), dead)
            })
            .collect();
        let stats = WordsStats::of(segments.iter().map(|part| (part.segment.rows(), &*part.dead)));
        Arc::new(Self {
            manifest: self.manifest.clone(),
            segments,
            stats,
            is_hiding: true,
        })
    }

    /// Whether rows are dead in it that are alive by its manifest. Then its dead rows are of no use for opening another.
    pub fn is_hiding(&self) -> bool {
        self.is_hiding
    }
}

/// All rows of these documents, dead or alive.
pub fn rows_of<'a>(rows: &Rows, ids: impl IntoIterator<Item = &'a str>) -> RoaringBitmap {
    ids.into_iter().flat_map(|id| rows.find(id)).collect()
}
