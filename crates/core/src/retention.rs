//! Which releases stay readable: the last ones, and ever sparser ones of the past.

use std::collections::BTreeSet;

use crate::pointer::KeptRelease;
use crate::timestamp::Timestamp;

/// The newest releases that stay, whatever their age.
pub const RELEASES_KEPT: usize = 50;

const MINUTE: i64 = 60 * 1_000_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// (width of a slot, how far back slots reach): the newest release of each minute for an hour, and so on.
const SLOTS: [(i64, i64); 3] = [(MINUTE, HOUR), (HOUR, DAY), (DAY, 7 * DAY)];

/// Splits `kept` (oldest first) into those that stay and those that go. Pinned releases and those that `named` says
/// the pointer needs always stay.
pub fn split(
    kept: &[KeptRelease],
    now: Timestamp,
    named: impl Fn(&KeptRelease) -> bool,
) -> (Vec<KeptRelease>, Vec<KeptRelease>) {
    let newest_first_from = kept.len().saturating_sub(RELEASES_KEPT);
    let mut slots_taken = BTreeSet::new();
    let mut stays = vec![false; kept.len()];
    for (n, release) in kept.iter().enumerate().rev() {
        let age = now.since(release.created_at);
        let mut first_of_a_slot = false;
        for (width, reach) in SLOTS {
            // `|` and not `||`: a release takes its slot in every row that it is the newest of.
            first_of_a_slot |= age <= reach && slots_taken.insert((width, release.created_at.0.div_euclid(width)));
        }
        stays[n] = n >= newest_first_from || first_of_a_slot || release.pinned || named(release);
    }
    let (stay, go): (Vec<_>, Vec<_>) = kept.iter().zip(stays).partition(|(_, stays)| *stays);
    let releases = |part: Vec<(&KeptRelease, bool)>| part.into_iter().map(|(release, _)| release.clone()).collect();
    (releases(stay), releases(go))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::pointer::ManifestReference;

    fn release(generation: u64, created_at: i64) -> KeptRelease {
        KeptRelease {
            generation,
            lineage: "l".to_owned().into(),
            manifest: ManifestReference {
                path: format!("releases/{generation}.json"),
                digest: Digest::of(b""),
            },
            created_at: Timestamp(created_at),
            checkpoint: generation,
            pinned: false,
            facts: None,
        }
    }

    fn stay(kept: &[KeptRelease], now: i64) -> Vec<u64> {
        split(kept, Timestamp(now), |_| false)
            .0
            .iter()
            .map(|release| release.generation)
            .collect()
    }

    #[test]
    fn the_last_fifty_stay_whatever_their_age() {
        let kept: Vec<_> = (1..=60).map(|n| release(n, 0)).collect();
        assert_eq!(stay(&kept, 100 * DAY), (11..=60).collect::<Vec<_>>());
    }

    #[test]
    fn a_release_a_second_for_ten_days_leaves_the_newest_of_each_slot() {
        let second = 1_000_000_000;
        // Every second of the last two minutes, every ten minutes before that.
        let mut times: Vec<i64> = (0..10 * 24 * 6).map(|n| n * 600 * second).collect();
        let end = 10 * DAY;
        times.extend((0..120).map(|n| end - (120 - n) * second));
        let kept: Vec<_> = times
            .iter()
            .enumerate()
            .map(|(n, time)| release(n as u64, *time))
            .collect();
        let (stays, goes) = split(&kept, Timestamp(end), |_| false);
        assert_eq!(stays.len() + goes.len(), kept.len());
        // 50 newest, the last minute but one, 6 of the hour, 24 of the day and 7 of the week, some of them the same.
        assert!((80..=95).contains(&stays.len()), "{}", stays.len());
        assert!(stays.iter().all(|release| end - release.created_at.0 <= 7 * DAY));
    }

    #[test]
    fn pinned_and_named_releases_stay() {
        let mut kept: Vec<_> = (1..=60).map(|n| release(n, 0)).collect();
        kept[0].pinned = true;
        let (stays, goes) = split(&kept, Timestamp(100 * DAY), |release| release.generation == 2);
        assert_eq!(
            stays
                .iter()
                .map(|release| release.generation)
                .take(3)
                .collect::<Vec<_>>(),
            [1, 2, 11]
        );
        assert_eq!(goes.len(), 8);
    }
}
