//! What a release is measured by: exact neighbours to compare a graph with, memory, and rows that should not be there.
//!
//! Nothing here is needed to answer. All of it is blocking, and takes time in proportion to the rows.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::error::EngineError;
use crate::release::{Release, RowPlace};

/// A live row, by a number that equal ids share.
type Hashed = (u64, RowPlace);

impl Release {
    /// The exact nearest live rows of a vector, best first, equal scores by place: what a search through the structures
    /// should find.
    ///
    /// # Errors
    /// As a search by vector.
    pub fn exact(&self, vector: &[f32], k: usize) -> Result<Vec<(RowPlace, f32)>, EngineError> {
        let mut nearest = Vec::new();
        for (segment, part) in self.segments().iter().enumerate() {
            let rows = part.segment.ann().exact(vector, k, part.alive())?;
            nearest.extend(rows.into_iter().map(|(row, score)| (RowPlace { segment, row }, score)));
        }
        nearest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        nearest.truncate(k);
        Ok(nearest)
    }

    /// Memory that the release takes when all of its files are in it, with what is copied out of them.
    pub fn memory_bytes(&self) -> u64 {
        let copied = self.segments().iter().map(|part| {
            let alive = part.alive().map_or(0, |bitmap| u64::from(bitmap.rows()).div_ceil(8));
            part.segment.ann().copied_bytes() + alive + part.dead.serialized_size() as u64
        });
        self.manifest().bytes() + copied.sum::<u64>()
    }

    /// The live rows of documents that do not exist.
    pub fn ghosts(&self) -> impl Iterator<Item = RowPlace> + '_ {
        self.segments().iter().enumerate().flat_map(|(segment, part)| {
            let ghosts = part.segment.rows().vector_rows()..part.segment.rows().rows();
            ghosts
                .filter(|row| !part.dead.contains(*row))
                .map(move |row| RowPlace { segment, row })
        })
    }

    /// The rows with a vector that are dead: documents that changed or went.
    pub fn dead_rows(&self) -> impl Iterator<Item = RowPlace> + '_ {
        self.segments().iter().enumerate().flat_map(|(segment, part)| {
            let vectors = part.segment.rows().vector_rows();
            let dead = part.dead.iter().take_while(move |row| *row < vectors);
            dead.map(move |row| RowPlace { segment, row })
        })
    }

    /// All live rows of a document, its ghost included. In a whole release one document has the rows of one segment.
    pub fn live_rows_of(&self, id: &str) -> Vec<RowPlace> {
        let mut places = Vec::new();
        for (segment, part) in self.segments().iter().enumerate() {
            let rows = part.segment.rows().find(id).into_iter();
            let live = rows.filter(|row| !part.dead.contains(*row));
            places.extend(live.map(|row| RowPlace { segment, row }));
        }
        places
    }

    /// The ids that have more than one live row without being chunks of one document, in no order that means anything.
    ///
    /// # Errors
    /// A row cannot be read.
    pub fn repeated_ids(&self) -> Result<Vec<String>, EngineError> {
        let mut rows = self.hashed_ids();
        rows.sort_unstable();
        let mut repeated = Vec::new();
        for equal in rows.chunk_by(|a, b| a.0 == b.0).filter(|equal| equal.len() > 1) {
            repeated.extend(self.repeated_of(equal)?);
        }
        Ok(repeated)
    }

    fn hashed_ids(&self) -> Vec<Hashed> {
        let mut rows = Vec::with_capacity(self.manifest().count as usize);
        for (segment, part) in self.segments().iter().enumerate() {
            for (row, id) in (0..).zip(part.segment.rows().ids()) {
                if !part.dead.contains(row) {
                    let mut hasher = DefaultHasher::new();
                    id.hash(&mut hasher);
                    rows.push((hasher.finish(), RowPlace { segment, row }));
                }
            }
        }
        rows
    }

    /// Of rows whose numbers are equal: the ids that are there twice.
    fn repeated_of(&self, rows: &[Hashed]) -> Result<Vec<String>, EngineError> {
        let mut stored = Vec::with_capacity(rows.len());
        for (_, place) in rows {
            let row = self.stored(*place)?;
            stored.push((row.id, place.segment, row.chunk, place.row));
        }
        stored.sort_unstable();
        // Chunks of one document lie side by side, with a number each.
        let is_next = |a: &(String, usize, u32, u32), b: &(String, usize, u32, u32)| {
            a.1 == b.1 && a.2 + 1 == b.2 && a.3 + 1 == b.3
        };
        let pairs = stored
            .windows(2)
            .filter(|pair| pair[0].0 == pair[1].0 && !is_next(&pair[0], &pair[1]));
        let mut ids: Vec<String> = pairs.map(|pair| pair[0].0.clone()).collect();
        ids.dedup();
        Ok(ids)
    }
}
