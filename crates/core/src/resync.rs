//! Resync: making a collection equal to a full feed, as of the feed's moment, while events go on.
//!
//! A feed says what exists: what it has is there, what it lacks is deleted, both as of its own revision. What happened
//! later survives, since later stamps win. Nothing here needs the log: it compares the feed with the documents of a
//! release, and so repairs a collection whose log was replaced (I-15). Reading the feed, appending the events and moving
//! the checkpoint are the indexer's.

use crate::document::DocumentState;
use crate::event::Event;
use crate::names::DocumentId;
use crate::rejection::Rejection;
use crate::revision::{EventKind, Revision, RevisionKind, Stamp};
use crate::timestamp::Timestamp;

/// When a feed was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedMoment {
    /// What orders the collection.
    pub kind: RevisionKind,
    /// The revision as of which the feed is true.
    pub revision: Revision,
}

/// The event for a document that is in the feed; `state` is what the release knows of it.
///
/// The document keeps a revision of its own where it has one, so that what has not changed since is no change now. Where
/// it has none, or where the release has something newer that the feed, being later still, contradicts, it gets the
/// feed's. An event that is no upsert is refused: a full feed has no patches.
pub fn fed(moment: FeedMoment, mut event: Event, state: Option<&DocumentState>) -> Result<Event, Rejection> {
    if event.kind != EventKind::Upsert {
        return Err(Rejection::NotInFeed {
            kind: event.kind.word(),
        });
    }
    let own = match moment.kind {
        RevisionKind::EventTime => event.time.map(|time| Revision(time.0)),
        RevisionKind::Number => event.revision.map(Revision),
    };
    let stands = |own: Revision| state.is_none_or(|state| !is_overtaken(moment, own, &event, state));
    if !own.is_some_and(stands) {
        set_revision(&mut event, moment);
    }
    Ok(event)
}

/// The event for a document of the release that the feed lacks: a delete as of the feed's moment. Nothing where it does
/// not exist, or where it was written anew after the feed.
pub fn lacking(moment: FeedMoment, state: &DocumentState) -> Option<Event> {
    let floor = state.floor().filter(|_| state.exists())?;
    delete_of(moment, state.id(), floor)
}

/// The same, for a caller that has the stamp of the document's floor at hand and not its state.
pub fn delete_of(moment: FeedMoment, id: &DocumentId, floor: Stamp) -> Option<Event> {
    (floor.revision <= moment.revision).then(|| unread(moment, id))
}

/// The event for a document of which nobody has read more than that the log has events about it, and that the feed lacks.
/// Where these are later than the feed, it changes nothing.
pub fn unread(moment: FeedMoment, id: &DocumentId) -> Event {
    let mut event = Event::delete(id.clone());
    set_revision(&mut event, moment);
    event
}

/// Whether the release has something that would win over the fed document under its own revision, and yet is not newer
/// than the feed. At equal revisions kind and digest would decide, which the feed knows nothing of.
fn is_overtaken(moment: FeedMoment, own: Revision, event: &Event, state: &DocumentState) -> bool {
    let writes = state.fields().values().map(|write| write.stamp).chain(state.floor());
    let newest = writes
        .map(|stamp| stamp.revision)
        .filter(|revision| *revision <= moment.revision)
        .max();
    newest.is_some_and(|newest| own < newest || own == newest && !is_shown(moment, event, state))
}

/// Whether the document is what the event says, apart from fields written after the feed.
fn is_shown(moment: FeedMoment, event: &Event, state: &DocumentState) -> bool {
    let later = |name: &str| {
        state
            .fields()
            .get(name)
            .is_some_and(|write| write.stamp.revision > moment.revision)
    };
    state.document().is_some_and(|document| {
        let shown = document.iter().filter(|(name, _)| *name != "id" && !later(name));
        shown.eq(event.fields.iter().filter(|(name, _)| !later(name)))
    })
}

fn set_revision(event: &mut Event, moment: FeedMoment) {
    match moment.kind {
        RevisionKind::EventTime => event.time = Some(Timestamp(moment.revision.0)),
        RevisionKind::Number => event.revision = Some(moment.revision.0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::event::{JudgeContext, Judged, VectorRule};

    const FEED: FeedMoment = FeedMoment {
        kind: RevisionKind::Number,
        revision: Revision(10),
    };

    fn judge(event: Event) -> Judged {
        let collection = "products".parse().expect("valid");
        let context = JudgeContext {
            collection: &collection,
            revision_kind: RevisionKind::Number,
            vectors: VectorRule::Forbidden,
            accepted_at_ns: 0,
        };
        event.judge(&context).expect("fits")
    }

    fn event(id: &str, op: &str, revision: Option<i64>, fields: Value) -> Event {
        let mut text = json!({"id": id, "_op": op});
        let object = text.as_object_mut().expect("an object");
        object.extend(revision.map(|revision| ("_revision".to_owned(), json!(revision))));
        object.extend(fields.as_object().expect("an object").clone());
        Event::parse(text.to_string().as_bytes()).expect("valid")
    }

    type Documents = BTreeMap<String, DocumentState>;

    fn fold(documents: &mut Documents, event: Event) {
        let judged = judge(event);
        let new = || DocumentState::new(judged.id().clone());
        documents
            .entry(judged.id().to_string())
            .or_insert_with(new)
            .fold(&judged);
    }

    fn resync(documents: &mut Documents, feed: &BTreeMap<String, Event>) {
        let fed_events = feed
            .iter()
            .map(|(id, event)| fed(FEED, event.clone(), documents.get(id)).expect("upserts"));
        let deletes = documents
            .iter()
            .filter(|(id, _)| !feed.contains_key(*id))
            .filter_map(|(_, state)| lacking(FEED, state));
        let events: Vec<_> = fed_events.chain(deletes).collect();
        events.into_iter().for_each(|event| fold(documents, event));
    }

    fn visible(documents: &Documents) -> BTreeMap<String, Map<String, Value>> {
        documents
            .iter()
            .filter_map(|(id, state)| Some((id.clone(), state.document()?)))
            .collect()
    }

    fn events(revisions: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Event>> {
        let one = (
            "[abcd]",
            0..4usize,
            revisions,
            prop::collection::btree_map("[xy]", 0..3i64, 0..3),
        );
        prop::collection::vec(
            one.prop_map(|(id, kind, revision, fields)| {
                let op = ["upsert", "upsert", "patch", "delete"][kind];
                event(&id, op, Some(revision), json!(fields))
            }),
            0..12,
        )
    }

    fn feeds() -> impl Strategy<Value = BTreeMap<String, Event>> {
        let document = (
            prop::option::of(0..=10i64),
            prop::collection::btree_map("[xy]", 0..3i64, 0..3),
        );
        prop::collection::btree_map("[abcd]", document, 0..4).prop_map(|feed| {
            let upsert =
                |(id, (revision, fields)): (String, _)| (id.clone(), event(&id, "upsert", revision, json!(fields)));
            feed.into_iter().map(upsert).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Goal: after a resync the collection is the feed, whatever it was before.
        #[test]
        fn a_collection_is_equal_to_the_feed_where_nothing_came_later(before in events(0..11), feed in feeds()) {
            let mut documents = Documents::new();
            // An event at the very moment of the feed is ordered by kind and digest, not by the feed: see the test below.
            let before = before.into_iter().filter(|event| event.revision < Some(10));
            before.for_each(|event| fold(&mut documents, event));
            resync(&mut documents, &feed);
            let expect: BTreeMap<_, _> = feed.into_iter().map(|(id, event)| {
                let mut document = event.fields;
                document.insert("id".to_owned(), json!(id));
                (id, document)
            }).collect();
            prop_assert_eq!(visible(&documents), expect);
        }

        /// Goal: what happened after the feed survives it, whether it was there before the resync or comes after.
        #[test]
        fn events_newer_than_the_feed_survive(before in events(0..10), after in events(11..20), feed in feeds()) {
            let mut early = Documents::new();
            let mut late = Documents::new();
            before.iter().for_each(|event| { fold(&mut early, event.clone()); fold(&mut late, event.clone()); });
            after.iter().for_each(|event| fold(&mut early, event.clone()));
            resync(&mut early, &feed);
            resync(&mut late, &feed);
            after.iter().for_each(|event| fold(&mut late, event.clone()));
            prop_assert_eq!(visible(&early), visible(&late));
        }

        #[test]
        fn a_second_resync_with_the_same_feed_changes_nothing(before in events(0..20), feed in feeds()) {
            let mut documents = Documents::new();
            before.into_iter().for_each(|event| fold(&mut documents, event));
            resync(&mut documents, &feed);
            let once = documents.clone();
            resync(&mut documents, &feed);
            prop_assert_eq!(documents, once);
        }
    }

    #[test]
    fn a_document_that_has_not_changed_keeps_its_stamp_and_its_row() {
        let mut documents = Documents::new();
        fold(&mut documents, event("a", "upsert", Some(3), json!({"x": 1})));
        let same = fed(FEED, event("a", "upsert", Some(3), json!({"x": 1})), documents.get("a")).expect("an upsert");
        assert_eq!(
            documents["a"].clone().fold(&judge(same)),
            crate::document::Fold::Unchanged
        );
    }

    #[test]
    fn a_document_deleted_between_its_own_revision_and_the_feed_is_back() {
        let mut documents = Documents::new();
        fold(&mut documents, event("a", "delete", Some(5), json!({})));
        resync(
            &mut documents,
            &[("a".to_owned(), event("a", "upsert", Some(3), json!({"x": 1})))].into(),
        );
        assert!(documents["a"].exists(), "the feed of revision 10 has it");
    }

    #[test]
    fn a_document_deleted_at_its_own_revision_is_back_too() {
        let mut documents = Documents::new();
        fold(&mut documents, event("a", "delete", Some(6), json!({})));
        resync(
            &mut documents,
            &[("a".to_owned(), event("a", "upsert", Some(6), json!({"x": 1})))].into(),
        );
        assert!(documents["a"].exists());
    }

    #[test]
    fn what_is_not_there_or_came_later_needs_no_delete() {
        let mut documents = Documents::new();
        fold(&mut documents, event("old", "upsert", Some(10), json!({})));
        fold(&mut documents, event("new", "upsert", Some(11), json!({})));
        fold(&mut documents, event("gone", "delete", Some(3), json!({})));
        fold(&mut documents, event("waiting", "patch", Some(3), json!({"x": 1})));
        let deleted: Vec<_> = documents.values().filter_map(|state| lacking(FEED, state)).collect();
        let ids: Vec<_> = deleted
            .iter()
            .map(|event| (event.id.as_str(), event.revision))
            .collect();
        assert_eq!(ids, [("old", Some(10))]);
    }

    #[test]
    fn a_patch_in_a_full_feed_is_refused() {
        let rejection = fed(FEED, event("a", "patch", None, json!({"x": 1})), None).expect_err("a patch");
        assert_eq!(rejection.reason(), "NOT_IN_FEED");
        assert_eq!(
            rejection.to_string(),
            "a full feed is of documents alone, this is a patch"
        );
    }

    #[test]
    fn times_are_set_where_time_orders_the_collection() {
        let moment = FeedMoment {
            kind: RevisionKind::EventTime,
            revision: Revision(10),
        };
        let event = fed(moment, event("a", "upsert", None, json!({})), None).expect("an upsert");
        assert_eq!((event.time, event.revision), (Some(Timestamp(10)), None));
    }
}
