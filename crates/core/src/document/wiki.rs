//! The same as `tests`, on a history that nobody made up: 6,469 edits of two wikis.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

use super::DocumentState;
use crate::digest::ContentSum;
use crate::event::{Event, JudgeContext, Judged, VectorRule};
use crate::revision::RevisionKind;

fn lines(path: &Path) -> Vec<Value> {
    let file = std::fs::File::open(path).expect("readable");
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    lines
        .map(|line| serde_json::from_str(&line.expect("readable")).expect("JSON"))
        .collect()
}

fn judge(edit: &Value) -> Judged {
    let id = format!(
        "{}/{}",
        edit["wiki"].as_str().expect("text"),
        edit["page"].as_str().expect("text")
    );
    let mut event = json!({"id": id, "_op": edit["op"], "_revision": edit["seq"]});
    if edit["op"] == "upsert" {
        event["sha256"] = edit["sha256"].clone();
    }
    let collection = "wiki".parse().expect("valid");
    let context = JudgeContext {
        collection: &collection,
        revision_kind: RevisionKind::Number,
        vectors: VectorRule::Forbidden,
        accepted_at_ns: 0,
    };
    Event::parse(event.to_string().as_bytes())
        .and_then(|event| event.judge(&context))
        .expect("fits")
}

fn content(documents: &BTreeMap<String, DocumentState>) -> ContentSum {
    let mut sum = ContentSum::default();
    documents.values().for_each(|state| sum.add(&state.digest()));
    sum
}

#[test]
fn wiki_edits_in_any_order_end_in_the_pages_as_they_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/wiki");
    if !folder.exists() {
        println!("skipped: wiki_edits_in_any_order_end_in_the_pages_as_they_are: no ../shared/data");
        return;
    }
    let page = |page: &Value| {
        (
            format!(
                "{}/{}",
                page["wiki"].as_str().expect("text"),
                page["page"].as_str().expect("text")
            ),
            page["sha256"].clone(),
        )
    };
    let expect: BTreeMap<String, Value> = lines(&folder.join("pages.jsonl.gz")).iter().map(page).collect();
    let mut edits: Vec<_> = lines(&folder.join("events.jsonl.gz")).iter().map(judge).collect();
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut first_content = None;
    for round in 0..4 {
        let mut documents: BTreeMap<String, DocumentState> = BTreeMap::new();
        for edit in &edits {
            let new = || DocumentState::new(edit.id().clone());
            documents.entry(edit.id().to_string()).or_insert_with(new).fold(edit);
        }
        let found: BTreeMap<_, _> = documents
            .iter()
            .filter_map(|(id, state)| Some((id.clone(), state.document()?["sha256"].clone())))
            .collect();
        assert_eq!(found.len(), 464);
        assert_eq!(found, expect, "round {round}");
        assert_eq!(
            *first_content.get_or_insert_with(|| content(&documents)),
            content(&documents)
        );
        // From the second round on: another order, and every tenth edit twice.
        edits.extend(edits.iter().step_by(10).cloned().collect::<Vec<_>>());
        shuffle(&mut edits, &mut random);
    }
}

fn shuffle<T>(items: &mut [T], random: &mut TestRng) {
    use proptest::prelude::Rng;
    for n in (1..items.len()).rev() {
        items.swap(n, (random.next_u64() % (n as u64 + 1)) as usize);
    }
}
