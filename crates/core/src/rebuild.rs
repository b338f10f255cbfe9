//! Rebuilds: all rows of a release written anew as another lineage. What may change by one, and when one is due.

use serde::{Deserialize, Serialize};

use crate::index_type::IndexType;
use crate::manifest::{Metric, SegmentEntry, SegmentId};
use crate::settings::{Provider, Settings, SettingsMistake};

/// How much more of a base has to die before its graph is looked at again.
const GRAPH_LOOK_SHARE: f64 = 0.05;

/// How and when all rows are written anew.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebuildSettings {
    /// Whether a base with too many dead rows, or too much beside it, is rebuilt as a candidate that has to pass the
    /// gates. Otherwise it is merged in its place.
    pub automatic: bool,
    /// Share of the nearest ten that the graph of a base has to find while rows of it die; below it the base is rebuilt,
    /// where rebuilds come by themselves. 0 never looks.
    pub recall_min: f64,
    /// Rows of one segment of a rebuild: bounds its memory, about 4 bytes a coordinate and 300 more for each row.
    pub part_rows: u32,
    /// Rows written in a second; 0 for no limit.
    pub rows_per_second: u32,
}

impl Default for RebuildSettings {
    fn default() -> Self {
        Self {
            automatic: false,
            recall_min: 0.9,
            part_rows: 1_000_000,
            rows_per_second: 0,
        }
    }
}

impl RebuildSettings {
    /// Values out of range that are no whole numbers.
    pub(crate) fn mistakes(&self) -> Option<SettingsMistake> {
        let is_share = (0.0..=1.0).contains(&self.recall_min);
        (!is_share).then(|| SettingsMistake::Range {
            key: "rebuild.recall_min",
            value: self.recall_min.to_string(),
            range: "0 to 1".to_owned(),
        })
    }
}

/// Whether it is time to look how well the graph of a base finds what is there. `looked` is the base that was looked at
/// last, with its live rows then. Without dead rows a graph is as good as a rebuild makes it.
pub fn is_graph_look_due(settings: &RebuildSettings, base: &SegmentEntry, looked: Option<&(SegmentId, u32)>) -> bool {
    let is_wanted = settings.automatic && settings.recall_min > 0.0 && base.index_type != IndexType::Flat;
    let before = looked
        .filter(|(id, _)| *id == base.id)
        .map_or(base.rows, |(_, live)| *live);
    let died = before.saturating_sub(base.live);
    is_wanted && died > 0 && f64::from(died) >= GRAPH_LOOK_SHARE * f64::from(base.rows)
}

/// Whether the graph of a base finds too little.
pub fn is_graph_worn(settings: &RebuildSettings, recall: f64) -> bool {
    settings.automatic && recall < settings.recall_min
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
    fn the_graph_of_a_base_is_looked_at_again_when_a_further_twentieth_of_it_has_died() {
        let settings = RebuildSettings {
            automatic: true,
            ..RebuildSettings::default()
        };
        let base = |live| SegmentEntry {
            index_type: "HNSW32".parse().expect("allowed"),
            ..crate::merge::tests::segment("base", 10_000, live)
        };
        let looked = |name: &str, live| Some((SegmentId::from(name.to_owned()), live));
        for (live, looked, expect) in [
            (10_000, None, false),
            (9_501, None, false),
            (9_500, None, true),
            (9_500, looked("base", 9_500), false),
            (9_001, looked("base", 9_500), false),
            (9_000, looked("base", 9_500), true),
            (9_500, looked("another", 9_500), true),
        ] {
            let due = is_graph_look_due(&settings, &base(live), looked.as_ref());
            assert_eq!(due, expect, "{live} of 10,000, {looked:?}");
        }
        let off = |settings| is_graph_look_due(&settings, &base(5_000), None);
        let by_hand = RebuildSettings::default();
        assert!(!off(by_hand) && !is_graph_worn(&by_hand, 0.1), "rebuilds come by word");
        assert!(!off(RebuildSettings {
            recall_min: 0.0,
            ..settings
        }));
        let exact = crate::merge::tests::segment("base", 10_000, 5_000);
        assert!(!is_graph_look_due(&settings, &exact, None), "an exact one finds all");
        assert!(is_graph_worn(&settings, 0.89) && !is_graph_worn(&settings, 0.9));
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
