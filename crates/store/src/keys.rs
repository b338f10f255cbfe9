//! Every key's name, made and read in one place.

use verdigris_core::digest::Digest;
use verdigris_core::names::CollectionName;

/// The pointer of a collection.
pub fn pointer(collection: &CollectionName) -> String {
    format!("{collection}/latest")
}

/// An object of a collection by the path that manifests use.
pub fn object(collection: &CollectionName, path: &str) -> String {
    format!("{collection}/{path}")
}

/// Settings by version; the digest tells two of the same version apart.
pub fn settings(collection: &CollectionName, version: u64, digest: &Digest) -> String {
    format!("{collection}/settings/{version:010}-{}.json", &digest.to_string()[..16])
}

/// Everything of a collection.
pub fn folder(collection: &CollectionName) -> String {
    format!("{collection}/")
}

/// All dead letters of a collection.
pub fn dead_letters(collection: &CollectionName) -> String {
    format!("{collection}/dead-letters/")
}

/// All manifests of a collection.
pub fn releases(collection: &CollectionName) -> String {
    format!("{collection}/releases/")
}

/// The collection whose pointer a key is.
pub fn collection_of_pointer(key: &str) -> Option<CollectionName> {
    key.strip_suffix("/latest")?.parse().ok()
}
