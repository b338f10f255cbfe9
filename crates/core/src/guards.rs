//! Guards: cheap checks of each publish, so that a bad feed cannot empty the shop.
//!
//! A publish is compared with the fullest release of the last hour and of the last day. What breaches is staged: it is
//! written and named and not served, until a person decides. What is counted here comes from manifests alone; which
//! events are to blame, the indexer knows.

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;
use crate::pointer::KeptRelease;
use crate::timestamp::Timestamp;

const HOUR_NS: i64 = 3_600 * 1_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;

/// Limits of the guards; each share is of the release that is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardSettings {
    /// Whether they judge at all.
    pub enabled: bool,
    /// Documents below which nothing is judged: of a handful, one is a large share.
    pub documents_min: u32,
    /// Share of documents that may be deleted within an hour.
    pub deleted_hour: f32,
    /// Share of documents that may be deleted within a day.
    pub deleted_day: f32,
    /// Share by which the bytes of stored documents may shrink within an hour.
    pub bytes_hour: f32,
    /// Share by which they may shrink within a day.
    pub bytes_day: f32,
    /// Share of a publish's new vectors that may be equal although their texts differ.
    pub alike_vectors: f32,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            documents_min: 100,
            deleted_hour: 0.2,
            deleted_day: 0.4,
            bytes_hour: 0.2,
            bytes_day: 0.4,
            alike_vectors: 0.5,
        }
    }
}

impl GuardSettings {
    /// Keys and values of shares that are none.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, f32)> {
        let shares = [
            ("guards.deleted_hour", self.deleted_hour),
            ("guards.deleted_day", self.deleted_day),
            ("guards.bytes_hour", self.bytes_hour),
            ("guards.bytes_day", self.bytes_day),
            ("guards.alike_vectors", self.alike_vectors),
        ];
        shares
            .into_iter()
            .filter(|(_, share)| !(share.is_finite() && (0.0..=1.0).contains(share)))
            .collect()
    }
}

/// What guards compare of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Documents that exist.
    pub documents: u64,
    /// Bytes of stored states before compression, those of dead rows left out by their share.
    pub live_bytes: u64,
    /// Documents ever deleted.
    pub deleted: u64,
    /// Bytes that ever left with erased documents.
    #[serde(default, skip_serializing_if = "crate::pointer::is_zero")]
    pub erased_bytes: u64,
}

impl Manifest {
    /// What guards compare.
    pub fn facts(&self) -> Facts {
        let live_bytes = self.segments.iter().map(|segment| {
            let rows = u64::from(segment.rows) + u64::from(segment.ghosts);
            let live = u64::from(segment.live) + u64::from(segment.live_ghosts);
            (u128::from(segment.state_bytes) * u128::from(live) / u128::from(rows.max(1))) as u64
        });
        Facts {
            documents: self.documents,
            live_bytes: live_bytes.sum(),
            deleted: self.stats.deleted,
            erased_bytes: self.stats.erased_bytes,
        }
    }
}

impl Facts {
    /// Bytes that this release lacks of an earlier one, but those of documents that were erased between them: an erase
    /// is no feed that deletes.
    fn bytes_lost_since(&self, earlier: &Self) -> u64 {
        let erased = self.erased_bytes.saturating_sub(earlier.erased_bytes);
        earlier
            .live_bytes
            .saturating_sub(self.live_bytes)
            .saturating_sub(erased)
    }
}

/// A publish as guards see it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Judged {
    /// The release with what waits in the log folded in, as far as it was looked at.
    pub facts: Facts,
    /// New vectors.
    pub vectors: u64,
    /// The most of them that are equal although their texts differ.
    pub alike_vectors: u64,
}

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Documents deleted within an hour.
    DeletedHour,
    /// Documents deleted within a day.
    DeletedDay,
    /// Bytes lost within an hour.
    BytesHour,
    /// Bytes lost within a day.
    BytesDay,
    /// Equal vectors of different texts.
    AlikeVectors,
}

/// A guard that was breached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breach {
    /// Which.
    pub guard: Guard,
    /// The release that was compared with; none where the publish alone is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Documents, bytes or vectors before.
    pub of: u64,
    /// How many of them are lost, or alike.
    pub count: u64,
    /// The limit as a share.
    pub limit: f32,
}

/// Compares a publish with what was kept. Releases read up to before `passed_to` are no measure any more: a person has
/// accepted what became of them.
pub fn judge(
    settings: &GuardSettings,
    kept: &[KeptRelease],
    passed_to: u64,
    judged: &Judged,
    now: Timestamp,
) -> Vec<Breach> {
    if !settings.enabled {
        return Vec::new();
    }
    let spans = [
        (
            HOUR_NS,
            Guard::DeletedHour,
            settings.deleted_hour,
            Guard::BytesHour,
            settings.bytes_hour,
        ),
        (
            DAY_NS,
            Guard::DeletedDay,
            settings.deleted_day,
            Guard::BytesDay,
            settings.bytes_day,
        ),
    ];
    let least = u64::from(settings.documents_min);
    let mut breaches = Vec::new();
    for (span, deleted, deleted_limit, bytes, bytes_limit) in spans {
        let measures = || {
            let recent = kept
                .iter()
                .filter(|kept| now.since(kept.created_at) <= span && kept.checkpoint >= passed_to);
            recent.filter_map(|kept| Some((kept.generation, kept.facts?)))
        };
        let enough = |facts: &Facts| facts.documents >= u64::from(settings.documents_min);
        if let Some((base, facts)) = measures()
            .max_by_key(|(_, facts)| facts.documents)
            .filter(|(_, f)| enough(f))
        {
            let count = judged.facts.deleted.saturating_sub(facts.deleted);
            breaches.extend(breach(
                deleted,
                Some(base),
                facts.documents,
                count,
                deleted_limit,
                least,
            ));
        }
        if let Some((base, facts)) = measures()
            .max_by_key(|(_, facts)| facts.live_bytes)
            .filter(|(_, f)| enough(f))
        {
            let count = judged.facts.bytes_lost_since(&facts);
            breaches.extend(breach(
                bytes,
                Some(base),
                facts.live_bytes,
                count,
                bytes_limit,
                least * facts.live_bytes / facts.documents.max(1),
            ));
        }
    }
    let alike = (judged.vectors, judged.alike_vectors, settings.alike_vectors);
    breaches.extend(breach(Guard::AlikeVectors, None, alike.0, alike.1, alike.2, least));
    breaches
}

fn breach(guard: Guard, base: Option<u64>, of: u64, count: u64, limit: f32, least: u64) -> Option<Breach> {
    let is_breached = count >= least && count as f64 > of as f64 * f64::from(limit);
    is_breached.then_some(Breach {
        guard,
        base,
        of,
        count,
        limit,
    })
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { of, count, limit, .. } = self;
        let share = 100.0 * *count as f64 / (*of).max(1) as f64;
        let limit = 100.0 * limit;
        let base = self.base.map(|base| format!(" of release {base}")).unwrap_or_default();
        match self.guard {
            Guard::DeletedHour => write!(
                f,
                "{count} of {of} documents{base} deleted within an hour: {share:.0} %, limit {limit:.0} %"
            ),
            Guard::DeletedDay => write!(
                f,
                "{count} of {of} documents{base} deleted within a day: {share:.0} %, limit {limit:.0} %"
            ),
            Guard::BytesHour => write!(
                f,
                "documents lost {count} of {of} bytes{base} within an hour: {share:.0} %, limit {limit:.0} %"
            ),
            Guard::BytesDay => write!(
                f,
                "documents lost {count} of {of} bytes{base} within a day: {share:.0} %, limit {limit:.0} %"
            ),
            Guard::AlikeVectors => write!(
                f,
                "{count} of {of} new vectors are equal although their texts differ: {share:.0} %, limit {limit:.0} %"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::pointer::ManifestReference;

    const NOW: Timestamp = Timestamp(100 * DAY_NS);

    fn kept(generation: u64, hours_ago: i64, documents: u64, deleted: u64) -> KeptRelease {
        KeptRelease {
            generation,
            lineage: "l".to_owned().into(),
            manifest: ManifestReference {
                path: String::new(),
                digest: Digest::of(b""),
            },
            created_at: Timestamp(NOW.0 - hours_ago * HOUR_NS),
            checkpoint: generation,
            pinned: false,
            facts: Some(Facts {
                documents,
                live_bytes: documents * 1_000,
                deleted,
                erased_bytes: 0,
            }),
        }
    }

    fn after(documents: u64, deleted: u64) -> Judged {
        Judged {
            facts: Facts {
                documents,
                live_bytes: documents * 1_000,
                deleted,
                erased_bytes: 0,
            },
            ..Judged::default()
        }
    }

    fn guards(kept: &[KeptRelease], judged: &Judged) -> Vec<Guard> {
        let breaches = judge(&GuardSettings::default(), kept, 0, judged, NOW);
        breaches.iter().map(|breach| breach.guard).collect()
    }

    #[test]
    fn a_fifth_deleted_within_an_hour_is_the_most_that_passes() {
        let kept = [kept(1, 0, 1_000, 50)];
        assert_eq!(guards(&kept, &after(800, 250)), []);
        assert_eq!(guards(&kept, &after(799, 251)), [Guard::DeletedHour, Guard::BytesHour]);
    }

    #[test]
    fn slow_deletes_are_seen_against_the_fullest_release_of_the_day() {
        let kept = [kept(1, 23, 1_000, 0), kept(2, 12, 900, 100), kept(3, 0, 650, 350)];
        assert_eq!(guards(&kept, &after(600, 400)), []);
        assert_eq!(guards(&kept, &after(590, 410)), [Guard::DeletedDay, Guard::BytesDay]);
        assert_eq!(
            guards(&kept[2..], &after(590, 410)),
            [],
            "what is older than a day is no measure"
        );
    }

    #[test]
    fn documents_that_are_emptied_are_seen_by_their_bytes() {
        let mut emptied = after(1_000, 0);
        emptied.facts.live_bytes = 700_000;
        assert_eq!(guards(&[kept(1, 0, 1_000, 0)], &emptied), [Guard::BytesHour]);
    }

    #[test]
    fn bytes_of_erased_documents_are_no_loss_and_what_a_feed_takes_beside_them_is() {
        let mut after = after(1_000, 0);
        after.facts.live_bytes = 500_000;
        after.facts.erased_bytes = 350_000;
        assert_eq!(guards(&[kept(1, 0, 1_000, 0)], &after), []);
        after.facts.erased_bytes = 250_000;
        assert_eq!(guards(&[kept(1, 0, 1_000, 0)], &after), [Guard::BytesHour]);
        // What was erased before the release that is compared with is not in it.
        let mut erased = kept(1, 0, 1_000, 0);
        erased.facts = erased.facts.map(|facts| Facts {
            erased_bytes: 250_000,
            ..facts
        });
        after.facts.erased_bytes = 400_000;
        assert_eq!(guards(&[erased], &after), [Guard::BytesHour]);
    }

    #[test]
    fn a_handful_is_never_judged() {
        assert_eq!(guards(&[kept(1, 0, 99, 0)], &after(0, 99)), []);
        assert_eq!(guards(&[kept(1, 0, 300, 0)], &after(201, 99)), []);
    }

    #[test]
    fn what_a_person_accepted_is_no_measure_any_more() {
        let kept = [kept(1, 0, 1_000, 0), kept(5, 0, 500, 500)];
        let judge = |passed_to| judge(&GuardSettings::default(), &kept, passed_to, &after(450, 550), NOW).len();
        assert_eq!((judge(0), judge(5)), (4, 0));
    }

    #[test]
    fn equal_vectors_of_different_texts_are_seen() {
        let judged = |alike_vectors| Judged {
            vectors: 400,
            alike_vectors,
            ..after(1_000, 0)
        };
        assert_eq!(guards(&[], &judged(200)), []);
        assert_eq!(guards(&[], &judged(201)), [Guard::AlikeVectors]);
    }

    #[test]
    fn guards_that_are_off_see_nothing() {
        let off = GuardSettings {
            enabled: false,
            ..GuardSettings::default()
        };
        assert_eq!(judge(&off, &[kept(1, 0, 1_000, 0)], 0, &after(0, 1_000), NOW), []);
    }
}
