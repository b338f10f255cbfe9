//! Pods that follow no lineage of their own: many tenants in the same pods, each of whose lineages is swapped in place by
//! its own pointer.
//!
//! A new image or new settings of such pods are a rollout as any other, and there is no one pointer for it. What
//! [`plan`](super::plan()) reads of a pointer is stood in for here: something that always answers, and what a person
//! holds. Nothing of it is ever edited, since it has no other lineage.

use super::Wish;
use crate::manifest::SettingsReference;
use crate::names::CollectionName;
use crate::pointer::{Hold, HoldKind, LineagePointer, LineageRole, ManifestReference, Pointer};
use crate::timestamp::Timestamp;

/// The lineage of pods that follow whatever is asked for; no lineage has this name.
pub const ALL_LINEAGES: &str = "*";

/// What pods without a lineage are planned by: `held` is who holds their image and settings, and since when.
pub fn pods_alone(held: Option<(&Wish, Timestamp)>) -> Pointer {
    let digest = crate::digest::Digest::of(ALL_LINEAGES.as_bytes());
    let settings = SettingsReference { version: 1, digest };
    let name: CollectionName = "pods".parse().expect("a name of four letters");
    let mut pointer = Pointer::first(name, settings, String::new(), Timestamp(0));
    pointer.active = Some(LineagePointer {
        lineage: ALL_LINEAGES.to_owned().into(),
        generation: 0,
        manifest: ManifestReference {
            path: String::new(),
            digest,
        },
        role: LineageRole::Active,
        since: Timestamp(0),
    });
    pointer.promotion_hold = held.map(|(wish, since)| Hold {
        kind: HoldKind::Promotion,
        actor: wish.actor.clone(),
        reason: wish.reason.clone(),
        since,
    });
    pointer
}
