//! Which segments to merge, and what a merge means for rows that died while it ran.
//!
//! Segments lie in tiers by rows; a tier that is full is merged into one segment of the next. A row is thus written
//! once a tier, which bounds write amplification. The base (the largest segment) is left out of tier merges: writing
//! it anew costs what exists, not what changed, so it waits until enough of it is dead or enough lies beside it.

use roaring::RoaringBitmap;

use crate::manifest::{SegmentEntry, SegmentId};

/// Segments of one tier that are merged together. Larger means fewer bytes written and more segments to search.
pub const SEGMENTS_PER_TIER: usize = 8;
/// Rows below which all segments are of the lowest tier: opening a file costs more than its rows.
const LOWEST_TIER_ROWS: u32 = 64;
/// How much of a segment beside the base may be dead before it is written anew.
const DEAD_SHARE_MAX: f64 = 0.5;
/// How much of the base may be dead before it is written anew, with all that lies beside it.
const BASE_DEAD_SHARE_MAX: f64 = 0.3;
/// Live rows beside the base, as a share of its own, before all is merged into a new base.
const BESIDE_BASE_SHARE_MAX: f64 = 0.25;
/// Below this many rows there is no base to spare: all segments are alike.
pub const BASE_ROWS_MIN: u32 = 4_096;

/// A merge to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergePlan {
    /// The segments to merge, in the manifest's order.
    pub segments: Vec<SegmentId>,
    /// Whether the base is among them: counted apart in write amplification.
    pub takes_base: bool,
}

/// The next merge that these segments need, if any. Those `in_work` are being merged already; while the base is among
/// them, what comes beside it is merged in tiers, so that a long merge of the base does not let segments pile up.
pub fn plan(segments: &[SegmentEntry], in_work: &[SegmentId]) -> Option<MergePlan> {
    let is_free = |segment: &&SegmentEntry| !in_work.contains(&segment.id);
    let base = base(segments);
    let beside: Vec<&SegmentEntry> = segments
        .iter()
        .filter(|segment| Some(&segment.id) != base.map(|b| &b.id))
        .filter(is_free)
        .collect();
    let ids = |part: &[&SegmentEntry]| part.iter().map(|segment| segment.id.clone()).collect();
    if let Some(base) = base.filter(is_free) {
        let beside_live: u64 = beside.iter().map(|segment| live(segment)).sum();
        let crowded = beside_live as f64 > BESIDE_BASE_SHARE_MAX * live(base) as f64;
        if dead_share(base) > BASE_DEAD_SHARE_MAX || crowded {
            let all = segments.iter().filter(is_free);
            return Some(MergePlan {
                segments: all.map(|segment| segment.id.clone()).collect(),
                takes_base: true,
            });
        }
    }
    let mut tiers: Vec<Vec<&SegmentEntry>> = vec![Vec::new(); 32];
    for segment in &beside {
        tiers[tier(segment)].push(segment);
    }
    if let Some(n) = tiers.iter().position(|tier| tier.len() >= SEGMENTS_PER_TIER) {
        // Smaller ones ride along: they would only be merged again soon after.
        let part: Vec<_> = beside.iter().copied().filter(|segment| tier(segment) <= n).collect();
        return Some(MergePlan {
            segments: ids(&part),
            takes_base: false,
        });
    }
    let mostly_dead = beside
        .iter()
        .find(|segment| rows(segment) >= u64::from(LOWEST_TIER_ROWS) && dead_share(segment) > DEAD_SHARE_MAX)?;
    Some(MergePlan {
        segments: vec![mostly_dead.id.clone()],
        takes_base: false,
    })
}

/// The base: the segment with the most live rows, once it is large enough to spare.
pub fn base(segments: &[SegmentEntry]) -> Option<&SegmentEntry> {
    segments
        .iter()
        .max_by_key(|segment| live(segment))
        .filter(|segment| rows(segment) >= u64::from(BASE_ROWS_MIN))
}

/// Whether the base should be written anew at any cost: more of it is dead than alive, or more lies beside it.
pub fn is_overdue(segments: &[SegmentEntry]) -> bool {
    let all: u64 = segments.iter().map(live).sum();
    base(segments).is_some_and(|base| dead_share(base) > 0.5 || live(base) * 2 < all)
}

fn tier(segment: &SegmentEntry) -> usize {
    let mut tier = 0;
    let mut bound = u64::from(LOWEST_TIER_ROWS);
    while live(segment) >= bound {
        tier += 1;
        bound *= SEGMENTS_PER_TIER as u64;
    }
    tier
}

fn rows(segment: &SegmentEntry) -> u64 {
    u64::from(segment.rows) + u64::from(segment.ghosts)
}

fn live(segment: &SegmentEntry) -> u64 {
    u64::from(segment.live) + u64::from(segment.live_ghosts)
}

fn dead_share(segment: &SegmentEntry) -> f64 {
    1.0 - live(segment) as f64 / rows(segment).max(1) as f64
}

/// Where a row of a merge's result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which of the merged segments, by its place in the plan.
    pub segment: u32,
    /// Its row there.
    pub row: u32,
}

/// The rows of a merge's result that died while it ran: those whose origin is dead now. `origins[n]` is where row n
/// came from; `dead_now[s]` are the dead rows of segment s of the plan in the release that the merge commits against,
/// none where the segment has left it because all of its rows died.
pub fn died_meanwhile(origins: &[Origin], dead_now: &[Option<&RoaringBitmap>]) -> RoaringBitmap {
    let is_dead = |origin: &Origin| dead_now[origin.segment as usize].is_none_or(|dead| dead.contains(origin.row));
    (0u32..)
        .zip(origins)
        .filter(|(_, origin)| is_dead(origin))
        .map(|(row, _)| row)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::index_type::IndexType;
    use crate::manifest::{FileEntry, SegmentFiles};

    pub(crate) fn segment(name: &str, rows: u32, live: u32) -> SegmentEntry {
        let file = || FileEntry {
            path: name.to_owned(),
            bytes: 1,
            digest: Digest::of(b""),
        };
        SegmentEntry {
            id: name.to_owned().into(),
            index_type: IndexType::Flat,
            rows,
            ghosts: 0,
            live,
            live_ghosts: 0,
            newest_generation: 1,
            state_bytes: 0,
            files: SegmentFiles {
                vectors: file(),
                rows: file(),
            },
            dead: None,
            unknown: serde_json::Map::new(),
        }
    }

    fn planned(segments: &[SegmentEntry]) -> Option<(Vec<String>, bool)> {
        plan(segments, &[]).map(|plan| (plan.segments.iter().map(ToString::to_string).collect(), plan.takes_base))
    }

    #[test]
    fn a_full_tier_is_merged_and_the_base_left_alone() {
        let mut segments = vec![segment("base", 100_000, 100_000), segment("mid", 300, 300)];
        segments.extend((0..7).map(|n| segment(&format!("s{n}"), 20, 20)));
        assert_eq!(planned(&segments), None);
        segments.push(segment("s7", 20, 20));
        let (names, takes_base) = planned(&segments).expect("full");
        assert_eq!(names.len(), 8);
        assert!(!takes_base && !names.contains(&"base".to_owned()) && !names.contains(&"mid".to_owned()));
    }

    #[test]
    fn the_base_is_written_anew_when_enough_of_it_is_dead_or_enough_lies_beside_it() {
        assert_eq!(
            planned(&[segment("base", 10_000, 6_900)]),
            Some((vec!["base".to_owned()], true))
        );
        assert_eq!(planned(&[segment("base", 10_000, 7_100)]), None);
        let crowded = [segment("base", 10_000, 10_000), segment("s", 2_600, 2_600)];
        assert_eq!(planned(&crowded), Some((vec!["base".to_owned(), "s".to_owned()], true)));
    }

    #[test]
    fn what_comes_beside_a_base_that_is_being_merged_is_merged_in_tiers() {
        let mut segments = vec![segment("base", 10_000, 10_000), segment("s", 2_600, 2_600)];
        let in_work = ["base".to_owned().into(), "s".to_owned().into()];
        assert_eq!(plan(&segments, &in_work), None);
        segments.extend((0..8).map(|n| segment(&format!("p{n}"), 20, 20)));
        let small = plan(&segments, &in_work).expect("a full tier");
        assert!(!small.takes_base && small.segments.len() == 8);
        assert!(!small.segments.iter().any(|id| in_work.contains(id)));
        // And the other way round: a merge of small segments holds up no new base.
        let free = plan(&segments, &small.segments).expect("a crowded base");
        assert_eq!((free.takes_base, free.segments.as_slice()), (true, in_work.as_slice()));
    }

    #[test]
    fn a_mostly_dead_segment_beside_the_base_is_written_anew() {
        let segments = [segment("base", 100_000, 100_000), segment("s", 1_000, 400)];
        assert_eq!(planned(&segments), Some((vec!["s".to_owned()], false)));
    }

    /// Goal: write amplification of at most 4. Method: play 4,000 publishes of 20 rows, sum the rows that merges write.
    #[test]
    fn merges_write_each_row_at_most_four_times() {
        let mut segments = vec![segment("base", 1_000_000, 1_000_000)];
        let (mut published, mut merged, mut most) = (0u64, 0u64, 0);
        for n in 0..4_000 {
            segments.push(segment(&format!("p{n}"), 20, 20));
            published += 20;
            while let Some(plan) = plan(&segments, &[]) {
                assert!(!plan.takes_base);
                let rows = segments
                    .iter()
                    .filter(|s| plan.segments.contains(&s.id))
                    .map(|s| s.rows)
                    .sum();
                segments.retain(|s| !plan.segments.contains(&s.id));
                merged += u64::from(rows);
                segments.push(segment(&format!("m{n}-{rows}"), rows, rows));
            }
            most = most.max(segments.len());
        }
        let amplification = merged as f64 / published as f64;
        assert!(amplification <= 4.0, "{amplification}");
        assert!(most <= 4 * SEGMENTS_PER_TIER, "{most} segments");
    }

    #[test]
    fn rows_that_died_while_a_merge_ran_are_dead_in_its_result() {
        let origins = [(0, 1), (0, 3), (1, 0), (1, 2), (2, 0)].map(|(segment, row)| Origin { segment, row });
        let dead_now: [RoaringBitmap; 2] = [[0, 3].into_iter().collect(), [2].into_iter().collect()];
        let dead_now = [Some(&dead_now[0]), Some(&dead_now[1]), None];
        assert_eq!(
            died_meanwhile(&origins, &dead_now).iter().collect::<Vec<_>>(),
            [1, 3, 4]
        );
    }
}
