//! Events as clients write them.

use bytes::Bytes;
use serde_json::{Value, json};

/// A whole document.
pub(crate) fn upsert(id: &str, title: &str, batch: u64) -> Bytes {
    bytes(&json!({"id": id, "title": title, "batch": batch}))
}

/// Some fields of one.
pub(crate) fn patch(id: &str, batch: u64) -> Bytes {
    bytes(&json!({"id": id, "_op": "patch", "batch": batch}))
}

/// The end of one.
pub(crate) fn delete(id: &str) -> Bytes {
    bytes(&json!({"id": id, "_op": "delete"}))
}

fn bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
