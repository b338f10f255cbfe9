//! What differs between two releases: documents added, removed, and changed by field.
//!
//! Only rows that are alive in one release and not in the other are read: a segment that both have, with the same dead
//! rows, costs nothing, so that neighbours among releases of a million rows are compared at once. A merge moves rows
//! without changing them; such documents are read and found equal.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use crate::error::EngineError;
use crate::release::{Release, RowPlace};

/// A document that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its id.
    pub id: String,
    /// The document before; none where it did not exist.
    pub before: Option<Map<String, Value>>,
    /// The document after; none where it does not exist any more.
    pub after: Option<Map<String, Value>>,
}

impl Difference {
    /// The fields whose values differ, by name; all of them where the document came or went.
    pub fn fields(&self) -> Vec<&str> {
        let value = |document: &Option<Map<String, Value>>, name: &str| {
            document.as_ref().and_then(|document| document.get(name)).cloned()
        };
        let documents = [&self.before, &self.after].into_iter().flatten();
        let mut names: Vec<&str> = documents
            .flat_map(|document| document.keys().map(String::as_str))
            .collect();
        names.retain(|name| value(&self.before, name) != value(&self.after, name));
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Calls `found` with each document that differs from `before` to `after`, by id. Blocking: it reads mapped files.
pub fn diff(before: &Release, after: &Release, mut found: impl FnMut(Difference)) -> Result<(), EngineError> {
    let mut places: BTreeMap<String, (Option<RowPlace>, Option<RowPlace>)> = BTreeMap::new();
    for place in rows_only_in(before, after) {
        places.entry(before.id(place)?).or_default().0 = Some(place);
    }
    for place in rows_only_in(after, before) {
        places.entry(after.id(place)?).or_default().1 = Some(place);
    }
    for (id, (old, new)) in places {
        let document = |release: &Release, place: Option<RowPlace>| match place {
            Some(place) if release.has_vector(place) => {
                let (_, mut state) = release.state(place)?;
                // A vector that the document brought is a field of it, kept in the segment's other file.
                state.restore_vector(&release.vector(place));
                Ok(state.document())
            }
            _ => Ok::<_, EngineError>(None),
        };
        let (old, new) = (document(before, old)?, document(after, new)?);
        if old != new {
            found(Difference {
                id,
                before: old,
                after: new,
            });
        }
    }
    Ok(())
}

/// The rows that are alive in `one` and not in `other`, ghost rows among them.
fn rows_only_in<'a>(one: &'a Release, other: &'a Release) -> impl Iterator<Item = RowPlace> + 'a {
    one.segments().iter().enumerate().flat_map(move |(segment, part)| {
        let same = other
            .segments()
            .iter()
            .find(|there| there.segment.id() == part.segment.id());
        let rows = match same {
            Some(there) => &*there.dead - &*part.dead,
            None => {
                let mut rows = RoaringBitmap::new();
                rows.insert_range(0..part.segment.rows.rows());
                rows - &*part.dead
            }
        };
        rows.into_iter().map(move |row| RowPlace { segment, row })
    })
}
