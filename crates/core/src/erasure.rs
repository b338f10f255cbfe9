//! Erased documents: the list of them, and whose bytes a payload is.
//!
//! A list is an immutable object that the pointer names; a further erase writes another with the entries of the one
//! before. It holds ids, for ever: what comes for them later is refused by it. Deliberately absent: anything else of a
//! document.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::claimed_id;
use crate::timestamp::Timestamp;

/// Documents that one call erases.
pub const ERASED_AT_ONCE_MAX: usize = 1_000;

/// One erased document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Its id.
    pub id: String,
    /// Who asked.
    pub actor: String,
    /// Why, in that person's words.
    pub reason: String,
    /// When it was hidden.
    pub at: Timestamp,
    /// Whether its bytes were removed before this list was written: then no release needs to hide it any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub removed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Who erases, why, and when.
#[derive(Debug, Clone, Copy)]
pub struct ErasedBy<'a> {
    /// Who asked.
    pub actor: &'a str,
    /// Why, in that person's words.
    pub reason: &'a str,
    /// When.
    pub at: Timestamp,
}

/// All erased documents of a collection, in the order in which they were erased.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedList {
    /// One entry for each id.
    pub erasures: Vec<Erasure>,
}

impl ErasedList {
    /// The key of a list, relative to its collection.
    pub fn path(generation: u64, nonce: &str) -> String {
        format!("erased/{generation:010}-{nonce}.json")
    }

    /// This list with `ids` behind it; none where it has them all. `all_removed` says that the bytes of all that it has
    /// are removed.
    pub fn with(&self, ids: &[String], by: ErasedBy<'_>, all_removed: bool) -> Option<Self> {
        let mut known = self.ids();
        let mut next = self.clone();
        for entry in &mut next.erasures {
            entry.removed |= all_removed;
        }
        let before = next.erasures.len();
        for id in ids.iter().filter(|id| known.insert((*id).clone())) {
            next.erasures.push(Erasure {
                id: id.clone(),
                actor: by.actor.to_owned(),
                reason: by.reason.to_owned(),
                at: by.at,
                removed: false,
            });
        }
        (next.erasures.len() > before).then_some(next)
    }

    /// All ids.
    pub fn ids(&self) -> BTreeSet<String> {
        self.erasures.iter().map(|erasure| erasure.id.clone()).collect()
    }

    /// The ids whose bytes may still be somewhere.
    pub fn pending(&self) -> BTreeSet<String> {
        let pending = self.erasures.iter().filter(|erasure| !erasure.removed);
        pending.map(|erasure| erasure.id.clone()).collect()
    }
}

/// Whether what was set aside is about one of these documents. What is no JSON is taken for it where it has the id in
/// quotes anywhere: an event that was cut off in the middle has its text all the same.
pub fn is_about(payload: &[u8], ids: &BTreeSet<String>) -> bool {
    if ids.is_empty() || payload.is_empty() {
        return false;
    }
    if let Some(id) = claimed_id(payload) {
        return ids.contains(&id);
    }
    ids.iter().any(|id| {
        let quoted = serde_json::to_vec(id).expect("a text is always printable");
        payload.windows(quoted.len()).any(|part| part == quoted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(at: i64) -> ErasedBy<'static> {
        ErasedBy {
            actor: "ada",
            reason: "asked to",
            at: Timestamp(at),
        }
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_further_erase_keeps_what_was_erased_and_knows_what_is_removed() {
        let first = ErasedList::default().with(&ids(&["a", "b", "a"]), by(1), false);
        let first = first.expect("two new ones");
        assert_eq!(first.erasures.len(), 2);
        let second = first.with(&ids(&["b", "c"]), by(2), true).expect("a new one");
        assert_eq!(second.ids(), ids(&["a", "b", "c"]).into_iter().collect());
        assert_eq!(second.pending(), ids(&["c"]).into_iter().collect());
        assert_eq!(second.erasures[1].at, Timestamp(1), "the first word stands");
        assert_eq!(second.with(&ids(&["c"]), by(3), false), None);
        let third = first.with(&ids(&["c"]), by(2), false).expect("a new one");
        assert_eq!(third.pending().len(), 3, "nothing of it is removed yet");
    }

    #[test]
    fn a_payload_is_about_the_id_that_it_claims_and_a_broken_one_about_those_it_quotes() {
        let erased: BTreeSet<String> = ids(&["d-1", "7", "a\"b"]).into_iter().collect();
        for (payload, expect) in [
            (r#"{"id":"d-1","title":"x"}"#, true),
            (r#"{"id":7}"#, true),
            (r#"{"id":"d-10","like":"d-1"}"#, false),
            (r#"{"specversion":"1.0","id":"e","subject":"d-1"}"#, true),
            (r#"{"specversion":"1.0","id":"d-1","subject":"d-2"}"#, false),
            (r#"{"id":"d-1","title":"cut o"#, true),
            (r#"{"id":"d-10","title":"cut o"#, false),
            (r#"{"id":"a\"b", cut"#, true),
            ("", false),
        ] {
            assert_eq!(is_about(payload.as_bytes(), &erased), expect, "{payload}");
        }
        assert!(!is_about(br#"{"id":"d-1"}"#, &BTreeSet::new()));
    }
}
