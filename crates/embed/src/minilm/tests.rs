//! The model against golden vectors that other implementations made, and against itself.
//!
//! Needs the model in `.cache/models` of the repository and, for the golden vectors, `../shared/data` beside it;
//! skips by name where they are absent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(super) fn model(test: &str) -> Option<ModelFiles> {
    let files = model::locate(&root().join(".cache/models")).ok();
    if files.is_none() {
        println!("skipped: {test}: no model in .cache/models");
    }
    files
}

fn golden(test: &str) -> Option<Vec<Value>> {
    let Ok(bytes) = fs::read(root().join("../shared/data/minilm-golden.json")) else {
        println!("skipped: {test}: no ../shared/data");
        return None;
    };
    let mut golden: Value = serde_json::from_slice(&bytes).unwrap();
    Some(golden["cases"].as_array_mut().unwrap().drain(..).collect())
}

fn text(case: &Value) -> String {
    case["text"].as_str().unwrap().to_owned()
}

async fn embed(model: &MiniLm, texts: &[String]) -> Vec<Vec<f32>> {
    model.embed(texts, TextKind::Document).await.unwrap()
}

fn check_golden(cases: &[Value], vectors: &[Vec<f32>]) {
    assert_eq!(vectors.len(), cases.len());
    let mut worst = 1.0_f64;
    for (case, vector) in cases.iter().zip(vectors) {
        let expect: Vec<f64> = case["vector"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        let dot: f64 = expect.iter().zip(vector).map(|(a, b)| a * f64::from(*b)).sum();
        let length = |sum: f64| sum.sqrt();
        let cosine = dot
            / length(expect.iter().map(|x| x * x).sum())
            / length(vector.iter().map(|x| f64::from(*x).powi(2)).sum());
        assert!(cosine >= 0.9999, "cosine {cosine} for {:.80}", text(case));
        let own = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        assert!((own - 1.0).abs() < 1e-5, "length² {own} for {:.80}", text(case));
        worst = worst.min(cosine);
    }
    println!("golden: {} texts, cosine at least {worst:.8}", cases.len());
}

#[tokio::test]
async fn every_golden_text_gets_its_golden_vector_and_token_count() {
    let test = "every_golden_text_gets_its_golden_vector_and_token_count";
    let (Some(files), Some(cases)) = (model(test), golden(test)) else {
        return;
    };
    let model = MiniLm::load(&files, 2).unwrap();
    let texts: Vec<String> = cases.iter().map(text).collect();
    check_golden(&cases, &embed(&model, &texts).await);
    for case in &cases {
        let count = model.model.tokens.ids(&text(case)).unwrap().len();
        assert_eq!(Some(count as u64), case["tokens"].as_u64(), "{:.80}", text(case));
    }
    let total: u64 = cases.iter().map(|case| case["tokens"].as_u64().unwrap()).sum();
    assert_eq!(model.tokens(), total);
}

#[tokio::test]
async fn the_golden_vectors_hold_on_older_processors_too() {
    let test = "the_golden_vectors_hold_on_older_processors_too";
    let (Some(files), Some(mut cases)) = (model(test), golden(test)) else {
        return;
    };
    // Plain code is twenty times slower; short texts take the same branches.
    cases.retain(|case| case["tokens"].as_u64().unwrap() <= 40);
    cases.truncate(20);
    let texts: Vec<String> = cases.iter().map(text).collect();
    let mut archs = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
    for arch in archs {
        let model = MiniLm::load_for(&files, 2, arch).unwrap();
        check_golden(&cases, &embed(&model, &texts).await);
    }
}

#[tokio::test]
async fn a_vector_has_the_same_bits_whatever_stands_beside_its_text() {
    let test = "a_vector_has_the_same_bits_whatever_stands_beside_its_text";
    let (Some(files), Some(cases)) = (model(test), golden(test)) else {
        return;
    };
    let model = MiniLm::load(&files, 2).unwrap();
    let mut texts: Vec<String> = cases.iter().map(text).collect();
    let together = embed(&model, &texts).await;
    for (text, expect) in texts.iter().zip(&together) {
        let alone = model.embed(std::slice::from_ref(text), TextKind::Query).await.unwrap();
        assert_eq!(&alone[0], expect, "{text:.80}");
    }
    texts.reverse();
    let mut backwards = embed(&model, &texts).await;
    backwards.reverse();
    assert_eq!(backwards, together);
}

#[tokio::test]
async fn a_query_does_not_wait_behind_documents() {
    let Some(files) = model("a_query_does_not_wait_behind_documents") else {
        return;
    };
    let model = MiniLm::load(&files, 1).unwrap();
    // The one document thread is held; the query must come through all the same.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let held = model.documents.submit(move |_| gate.recv()).await.unwrap();
    let query = ["copper pipe".to_owned()];
    let answer = tokio::time::timeout(Duration::from_secs(60), model.embed(&query, TextKind::Query)).await;
    let vectors = answer.expect("the query waited behind documents").unwrap();
    assert_eq!(vectors[0].len(), WIDTH);
    open.send(()).unwrap();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn odd_texts_have_unit_vectors_and_nothing_beyond_256_tokens_counts() {
    let Some(files) = model("odd_texts_have_unit_vectors_and_nothing_beyond_256_tokens_counts") else {
        return;
    };
    let model = MiniLm::load(&files, 2).unwrap();
    let words = "word ".repeat(3000);
    let odd = [
        "",
        " ",
        "\0",
        "a\0b",
        "\u{feff}",
        "🦀🦀",
        "日本語のテキスト",
        "שלום",
        &"A".repeat(5000),
        &words,
    ];
    let odd: Vec<String> = odd.iter().map(|text| (*text).to_owned()).collect();
    for (text, vector) in odd.iter().zip(embed(&model, &odd).await) {
        let length = vector.iter().map(|x| x * x).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5, "{text:.40}: {length}");
    }
    let same = embed(
        &model,
        &[words.clone() + "other end", words.clone(), "word ".repeat(254)],
    )
    .await;
    assert_eq!(same[0], same[1]);
    assert_eq!(same[0], same[2]);
    assert_ne!(same[0], embed(&model, &["word ".repeat(253)]).await[0]);
    assert!(embed(&model, &[]).await.is_empty());
}

#[test]
fn jobs_hold_every_text_once_and_in_order() {
    let texts: Vec<String> = (0..500).map(|n| "x".repeat(n * 7 % 1500)).collect();
    let back: Vec<String> = jobs(&texts).flatten().cloned().collect();
    assert_eq!(back, texts);
    assert!(jobs(&texts).all(|job| job.len() <= JOB_TOKENS / 2));
    assert_eq!(jobs(&[]).count(), 0);
}

#[test]
fn the_identity_changes_only_on_purpose() {
    // Whoever changes the model, its files or how vectors are made sees this fail: every index needs a rebuild then.
    let identity = MiniLm::known_identity();
    assert_eq!(
        identity.revision,
        "c52760ecc4594108f93383fb6489ae7d8af050053420300ffe7eed1316bed287"
    );
    assert_ne!(
        identity.revision,
        crate::HashEmbedder::new(384).unwrap().identity().revision
    );
    assert_ne!(identity, EmbedderIdentity::none(384));
}
