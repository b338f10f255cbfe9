//! Rebuilds: all rows of a release written anew as another lineage. What may change by one, and when one is due.

use serde::{Deserialize, Serialize};

use crate::manifest::Metric;
use crate::settings::{Provider, Settings};

/// How and when all rows are written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebuildSettings {
    /// Whether a base with too many dead rows, or too much beside it, is rebuilt as a candidate that has to pass the
    /// gates. Otherwise it is merged in its place.
    pub automatic: bool,
    /// Rows of one segment of a rebuild: bounds its memory, about 4 bytes a coordinate and 300 more for each row.
    pub part_rows: u32,
    /// Rows written in a second; 0 for no limit.
    pub rows_per_second: u32,
}

impl Default for RebuildSettings {
    fn default() -> Self {
        Self {
            automatic: false,
            part_rows: 1_000_000,
            rows_per_second: 0,
        }
    }
}

/// Why settings cannot be reached by a rebuild from stored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRebuildable {
    /// Stamps of stored documents are of one kind.
    #[error("revision cannot change: the stamps of stored documents are of one kind")]
    Revision,
    /// Vectors that came with documents cannot be made, nor made up.
    #[error("embedder cannot change between given vectors and a model: documents hold the one or the other")]
    GivenVectors,
    /// Given vectors have their dimension.
    #[error("embedder.dimension cannot change: the vectors came with the documents")]
    Dimension,
    /// Under cosine only the direction of a given vector is kept.
    #[error("metric cannot change: the vectors came with the documents")]
    Metric,
}

impl Settings {
    /// Whether all rows can be written by `next` from what is stored.
    pub fn check_rebuildable(&self, next: &Self) -> Result<(), NotRebuildable> {
        let (given, given_next) = (
            self.embedder.provider == Provider::None,
            next.embedder.provider == Provider::None,
        );
        if self.revision != next.revision {
            return Err(NotRebuildable::Revision);
        }
        if given != given_next {
            return Err(NotRebuildable::GivenVectors);
        }
        if given && self.embedder.dimension != next.embedder.dimension {
            return Err(NotRebuildable::Dimension);
        }
        if given && self.metric != next.metric && next.metric != Metric::Cosine {
            return Err(NotRebuildable::Metric);
        }
        Ok(())
    }

    /// Whether rows of these settings can keep the vectors of rows of `other`.
    pub fn same_vectors(&self, other: &Self) -> bool {
        let given = self.embedder.provider == Provider::None;
        self.embedder == other.embedder && self.metric == other.metric && (given || self.text.embed == other.text.embed)
    }

    /// These settings with what acts in place taken from `other`.
    pub fn with_in_place_of(&self, other: &Self) -> Self {
        let mut mixed = other.clone();
        mixed.revision = self.revision;
        mixed.embedder = self.embedder.clone();
        mixed.metric = self.metric;
        mixed.text = self.text.clone();
        mixed.ann.index_type = self.ann.index_type;
        mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::RevisionKind;

    #[test]
    fn what_stored_rows_do_not_hold_cannot_be_rebuilt() {
        let model = Settings::default();
        let mut given = Settings::default();
        given.embedder.provider = Provider::None;
        assert_eq!(model.check_rebuildable(&given), Err(NotRebuildable::GivenVectors));
        assert_eq!(given.check_rebuildable(&model), Err(NotRebuildable::GivenVectors));
        let mut wider = given.clone();
        wider.embedder.dimension = 500;
        assert_eq!(given.check_rebuildable(&wider), Err(NotRebuildable::Dimension));
        let mut numbered = model.clone();
        numbered.revision = RevisionKind::Number;
        assert_eq!(model.check_rebuildable(&numbered), Err(NotRebuildable::Revision));
        let mut hashed = model.clone();
        hashed.embedder.provider = Provider::Hash;
        hashed.embedder.dimension = 64;
        assert_eq!(model.check_rebuildable(&hashed), Ok(()));
        assert!(!model.same_vectors(&hashed) && model.same_vectors(&model.clone()));
    }

    #[test]
    fn what_acts_in_place_can_be_told_from_what_is_baked_in() {
        let mut baked = Settings::default();
        baked.ann.index_type = "Flat".parse().expect("allowed");
        let mut loose = Settings::default();
        loose.weights.vector = 3.0;
        loose.ann.ef_search = 77;
        let mixed = baked.with_in_place_of(&loose);
        assert!(mixed.needs_rebuild(&baked).is_empty());
        assert!((mixed.weights.vector, mixed.ann.ef_search) == (3.0, 77));
    }
}
