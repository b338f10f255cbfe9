//! What gates say against a lineage, and what documents say of themselves.

use serde_json::Value;
use verdigris_core::gates::{Gate, Verdict};

pub(crate) fn against(verdict: &Verdict) -> Vec<(Gate, String)> {
    verdict
        .against()
        .map(|found| (found.gate, found.text.clone()))
        .collect()
}

pub(crate) fn text(document: &Value) -> String {
    let document = document.as_object().unwrap();
    verdigris_core::text::embedded_text(document, &super::settings().text.embed)
}
