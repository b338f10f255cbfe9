//! Folding: order and duplicates never change the result (I-13), checked against a slow and plain model; and the stored form.

use proptest::prelude::*;
use serde_json::json;

use super::encoding::{EncodingError, document_text};
use super::*;
use crate::event::{Event, JudgeContext, VectorRule};
use crate::revision::RevisionKind;

fn judge(event: &Value, vectors: VectorRule) -> Judged {
    let collection = "products".parse().expect("valid");
    let context = JudgeContext {
        collection: &collection,
        revision_kind: RevisionKind::Number,
        vectors,
        accepted_at_ns: 0,
    };
    Event::parse(event.to_string().as_bytes())
        .and_then(|event| event.judge(&context))
        .expect("fits")
}

fn fold_all<'j>(history: impl IntoIterator<Item = &'j Judged>) -> DocumentState {
    let mut state = DocumentState::new("A".parse().expect("valid"));
    for judged in history {
        state.fold(judged);
    }
    state
}

/// Folds plain events of document A, and returns what each did.
#[track_caller]
fn check(events: &[Value], expect: &[Fold], document: Option<Value>) -> DocumentState {
    let mut state = DocumentState::new("A".parse().expect("valid"));
    let folds: Vec<_> = events
        .iter()
        .map(|event| state.fold(&judge(event, VectorRule::Forbidden)))
        .collect();
    assert_eq!(folds, expect);
    assert_eq!(state.document().map(Value::Object), document);
    state
}

/// The rules of a document, said in another way: sort all events, forget what is before the floor, write in order.
fn model(history: &[Judged]) -> Option<Map<String, Value>> {
    let mut sorted: Vec<_> = history.iter().collect();
    sorted.sort_by_key(|judged| judged.stamp());
    let floor = sorted
        .iter()
        .rposition(|judged| judged.stamp().kind != EventKind::Patch)?;
    if sorted[floor].stamp().kind == EventKind::Delete {
        return None;
    }
    let mut document = Map::from_iter([("id".to_owned(), json!("A"))]);
    for judged in &sorted[floor..] {
        for (name, value) in judged.fields() {
            if value.is_null() {
                document.remove(name);
            } else {
                document.insert(name.clone(), value.clone());
            }
        }
    }
    Some(document)
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => (0..4i64).prop_map(Value::from),
        2 => Just(Value::Null),
        1 => Just(json!({"deep": [1, null]})),
        1 => any::<f64>().prop_filter("JSON", |f| f.is_finite()).prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
    ]
}

/// An event of document A. Few revisions, fields and values, so that equal ones meet.
fn events() -> impl Strategy<Value = Judged> {
    let fields = prop::collection::btree_map("[abc]", values(), 0..4);
    (0..6i64, 0..7usize, fields).prop_map(|(revision, kind, fields)| {
        let word = ["upsert", "upsert", "patch", "patch", "patch", "patch", "delete"][kind];
        let mut event: Map<String, Value> = fields.into_iter().collect();
        event.extend([
            ("id".to_owned(), json!("A")),
            ("_op".to_owned(), json!(word)),
            ("_revision".to_owned(), json!(revision)),
        ]);
        judge(&Value::Object(event), VectorRule::Forbidden)
    })
}

/// A history, and the same events in another order with some of them again.
fn histories() -> impl Strategy<Value = (Vec<Judged>, Vec<Judged>)> {
    prop::collection::vec(events(), 0..12)
        .prop_flat_map(|history| {
            let again = prop::collection::vec(0..history.len().max(1), 0..6);
            (Just(history), again)
        })
        .prop_flat_map(|(history, again)| {
            let repeated = again.iter().filter_map(|n| history.get(*n).cloned());
            let all: Vec<_> = history.iter().cloned().chain(repeated).collect();
            (Just(history), Just(all).prop_shuffle())
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn order_and_duplication_of_events_never_change_the_result((history, other) in histories()) {
        let (one, two) = (fold_all(&history), fold_all(&other));
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(one.digest(), two.digest());
        prop_assert_eq!(one.encode().expect("stored"), two.encode().expect("stored"));
        prop_assert_eq!(one.document(), model(&history));
    }

    #[test]
    fn what_is_folded_twice_is_never_applied_twice((history, _) in histories()) {
        let mut state = fold_all(&history);
        let before = state.clone();
        for judged in &history {
            prop_assert_ne!(state.fold(judged), Fold::Applied);
        }
        prop_assert_eq!(state, before);
    }

    #[test]
    fn applied_means_that_the_state_is_another((history, _) in histories()) {
        let mut state = DocumentState::new("A".parse().expect("valid"));
        for judged in &history {
            let before = state.clone();
            let fold = state.fold(judged);
            prop_assert_eq!(fold == Fold::Applied, state != before);
            prop_assert_eq!(state.digest() != before.digest(), state != before);
        }
    }

    #[test]
    fn a_stored_state_is_read_back_and_folds_on_alike((history, more) in histories()) {
        let mut state = fold_all(&history);
        let bytes = state.encode().expect("stored");
        let mut read = DocumentState::decode(&bytes).expect("read back");
        prop_assert_eq!(&read, &state);
        let text: Value = serde_json::from_str(document_text(&bytes).expect("there")).expect("JSON");
        if let Some(document) = state.document() {
            prop_assert_eq!(text, Value::Object(document));
        }
        more.iter().for_each(|judged| { state.fold(judged); read.fold(judged); });
        prop_assert_eq!(read, state);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_state_and_never_a_panic(
        (history, _) in histories(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let bytes = fold_all(&history).encode().expect("stored");
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] = byte;
        drop(DocumentState::decode(&changed));
        drop(document_text(&changed));
        prop_assert!(DocumentState::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

#[test]
fn a_patch_that_comes_before_its_upsert_waits_for_it() {
    let state = check(
        &[
            json!({"id": "A", "_op": "patch", "_revision": 2, "price": 9, "title": null}),
            json!({"id": "A", "_revision": 1, "price": 10, "title": "Drill", "brand": "Bosch"}),
        ],
        &[Fold::Applied, Fold::Applied],
        Some(json!({"id": "A", "price": 9, "brand": "Bosch"})),
    );
    assert!(state.exists() && !state.is_ghost());
}

#[test]
fn an_older_patch_does_not_bring_back_a_field_that_a_newer_one_removed() {
    check(
        &[
            json!({"id": "A", "_revision": 1, "price": 10}),
            json!({"id": "A", "_op": "patch", "_revision": 3, "price": null}),
            json!({"id": "A", "_op": "patch", "_revision": 2, "price": 9}),
        ],
        &[Fold::Applied, Fold::Applied, Fold::Stale],
        Some(json!({"id": "A"})),
    );
}

#[test]
fn a_patch_to_the_value_that_is_there_still_counts() {
    // Were it skipped as no change, the older patch that comes later would win.
    check(
        &[
            json!({"id": "A", "_revision": 1, "price": 10}),
            json!({"id": "A", "_op": "patch", "_revision": 3, "price": 10}),
            json!({"id": "A", "_op": "patch", "_revision": 2, "price": 7}),
        ],
        &[Fold::Applied, Fold::Applied, Fold::Stale],
        Some(json!({"id": "A", "price": 10})),
    );
}

#[test]
fn a_delete_wins_over_equal_revisions_and_newer_patches_wait_in_the_ghost() {
    let delete = json!({"id": "A", "_op": "delete", "_revision": 5});
    let state = check(
        &[
            delete.clone(),
            json!({"id": "A", "_revision": 5, "price": 10}),
            json!({"id": "A", "_op": "patch", "_revision": 5, "price": 9}),
            json!({"id": "A", "_op": "patch", "_revision": 6, "price": 8}),
            json!({"id": "A", "_revision": 4, "price": 7}),
            delete,
        ],
        &[
            Fold::Applied,
            Fold::Stale,
            Fold::Stale,
            Fold::Applied,
            Fold::Stale,
            Fold::Unchanged,
        ],
        None,
    );
    assert!(state.is_ghost());
    assert_eq!(state.fields().len(), 1);
    assert_eq!(state.newest().map(|stamp| stamp.revision.0), Some(6));
}

#[test]
fn a_patch_wins_over_an_upsert_of_equal_revision() {
    let upsert = json!({"id": "A", "_revision": 5, "price": 10});
    let patch = json!({"id": "A", "_op": "patch", "_revision": 5, "price": 9});
    let document = json!({"id": "A", "price": 9});
    check(
        &[upsert.clone(), patch.clone()],
        &[Fold::Applied; 2],
        Some(document.clone()),
    );
    check(&[patch, upsert], &[Fold::Applied; 2], Some(document));
}

#[test]
fn a_patch_that_says_nothing_leaves_no_ghost() {
    let state = check(
        &[json!({"id": "A", "_op": "patch", "_revision": 1})],
        &[Fold::Unchanged],
        None,
    );
    assert!(!state.is_ghost());
}

#[test]
fn a_patch_of_which_one_field_is_newer_is_applied() {
    check(
        &[
            json!({"id": "A", "_revision": 1, "price": 10, "stock": 1}),
            json!({"id": "A", "_op": "patch", "_revision": 3, "price": 9}),
            json!({"id": "A", "_op": "patch", "_revision": 2, "price": 8, "stock": 5}),
            json!({"id": "A", "_op": "patch", "_revision": 2, "price": 8, "stock": 5}),
        ],
        &[Fold::Applied, Fold::Applied, Fold::Applied, Fold::Unchanged],
        Some(json!({"id": "A", "price": 9, "stock": 5})),
    );
}

#[test]
fn the_vector_of_an_existing_document_is_stored_by_its_segment_alone() {
    let rule = VectorRule::Required {
        dimension: 3,
        cosine: true,
    };
    let mut state = fold_all(&[judge(
        &json!({"id": "A", "_revision": 1, "_vector": [0.1, 1, -0.7]}),
        rule,
    )]);
    let vector = state.vector().expect("it brought one");
    assert_eq!(vector, [0.1f32, 1.0, -0.7]);
    let bytes = state.encode().expect("stored");
    assert_eq!(document_text(&bytes).expect("there"), r#"{"id":"A"}"#);
    let mut read = DocumentState::decode(&bytes).expect("read back");
    assert_eq!((read.vector(), read.digest()), (None, state.digest()));
    assert_eq!(read.encode().expect("stored again without it"), bytes);
    read.restore_vector(&vector);
    assert_eq!(read, state);

    // A newer patch of the vector survives an older delete that comes late; then no row has it any more.
    state.fold(&judge(
        &json!({"id": "A", "_op": "patch", "_revision": 5, "_vector": [1, 2, 3]}),
        rule,
    ));
    let mut read = DocumentState::decode(&state.encode().expect("stored")).expect("read back");
    let delete = judge(&json!({"id": "A", "_op": "delete", "_revision": 3}), rule);
    read.fold(&delete);
    assert!(matches!(read.encode(), Err(EncodingError::VectorNotRestored(_))));
    read.restore_vector(&[1.0, 2.0, 3.0]);
    state.fold(&delete);
    let ghost = DocumentState::decode(&read.encode().expect("restored")).expect("read back");
    assert_eq!((&ghost, ghost.vector()), (&state, Some(vec![1.0, 2.0, 3.0])));
}

#[test]
fn the_stored_form_costs_a_floor_and_the_text() {
    let upsert = json!({"id": "A", "_revision": 1, "title": "Drill", "price": 10, "brand": "Bosch"});
    let state = fold_all(&[judge(&upsert, VectorRule::Forbidden)]);
    let text = r#"{"brand":"Bosch","id":"A","price":10,"title":"Drill"}"#;
    let bytes = state.encode().expect("stored");
    // 'D', version, flags, revision, digest, no stamps, no exceptions, length of the text.
    assert_eq!(bytes.len(), 3 + 1 + 32 + 1 + 1 + 1 + text.len());
    assert_eq!(document_text(&bytes).expect("there"), text);
}

#[test]
fn damaged_states_are_told_apart() {
    let state = fold_all(&[judge(
        &json!({"id": "A", "_revision": 1, "x": 1}),
        VectorRule::Forbidden,
    )]);
    let bytes = state.encode().expect("stored");
    let message = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        DocumentState::decode(&changed).expect_err("damaged").to_string()
    };
    let unknown = "format version 2 of a stored document is not known; this reads version 1";
    assert_eq!(message(&|bytes| bytes[1] = 2), unknown);
    assert_eq!(
        message(&|bytes| bytes[0] = b'X'),
        "stored document is damaged at byte 1: no stored document begins so"
    );
    assert_eq!(
        message(&|bytes| bytes[2] = 2),
        "stored document is damaged at byte 3: flags that cannot be"
    );
    assert_eq!(
        message(&|bytes| bytes.push(0)),
        "stored document is damaged at byte 55: bytes after the end"
    );
    let last = bytes.len() - 1;
    assert_eq!(
        message(&|bytes| bytes[last] = b'x'),
        "stored document's text is damaged"
    );
}
