//! Every key's name, made and read in one place. What follows the collection is a path, as manifests use it; `core`
//! makes the paths of what it names itself (manifests, dead rows, dead letters).

use verdigris_core::digest::Digest;
use verdigris_core::manifest::SegmentId;
use verdigris_core::names::CollectionName;

/// The path of the pointer.
const POINTER: &str = "latest";

/// The pointer of a collection.
pub fn pointer(collection: &CollectionName) -> String {
    format!("{collection}/{POINTER}")
}

/// An object of a collection by the path that manifests use.
pub fn object(collection: &CollectionName, path: &str) -> String {
    format!("{collection}/{path}")
}

/// Settings by version; the digest tells two of the same version apart.
pub fn settings(collection: &CollectionName, version: u64, digest: &Digest) -> String {
    format!("{collection}/settings/{version:010}-{}.json", &digest.to_string()[..16])
}

/// The path of a segment's vectors, relative to its collection.
pub fn vectors_path(segment: &SegmentId) -> String {
    format!("segments/{segment}/vectors.faiss")
}

/// The path of a segment's rows, relative to its collection.
pub fn rows_path(segment: &SegmentId) -> String {
    format!("segments/{segment}/rows.tar")
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

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The pointer.
    Pointer,
    /// A manifest.
    Release {
        /// Its generation.
        generation: u64,
        /// Its lineage.
        lineage: String,
        /// The nonce of the publish that wrote it.
        nonce: String,
    },
    /// A file of a segment.
    SegmentFile {
        /// The segment.
        segment: String,
    },
    /// Dead rows of one publish.
    Dead {
        /// Its generation.
        generation: u64,
    },
    /// Settings.
    Settings {
        /// Their version.
        version: u64,
    },
    /// A batch of dead letters.
    DeadLetters,
    /// A verdict of a gate.
    Verdict,
    /// Golden or warm-up queries.
    Queries,
    /// A list of erased documents.
    Erased,
}

/// The collection and the kind of a key; none for a key that no part of Verdigris makes.
pub fn parse(key: &str) -> Option<(CollectionName, Kind)> {
    let (collection, path) = key.split_once('/')?;
    let collection = collection.parse().ok()?;
    if path == POINTER {
        return Some((collection, Kind::Pointer));
    }
    let (folder, name) = path.split_once('/')?;
    let kind = match folder {
        "releases" => {
            let (generation, rest) = name.strip_suffix(".json")?.split_once('-')?;
            let (lineage, nonce) = rest.rsplit_once('-')?;
            Kind::Release {
                generation: number(generation)?,
                lineage: lineage.to_owned(),
                nonce: nonce.to_owned(),
            }
        }
        "segments" => {
            let (segment, file) = name.split_once('/')?;
            let known = ["vectors.faiss", "rows.tar"].contains(&file);
            known.then(|| Kind::SegmentFile {
                segment: segment.to_owned(),
            })?
        }
        "dead" => {
            let generation = name.strip_suffix(".roaring")?.split_once('-')?.0;
            Kind::Dead {
                generation: number(generation)?,
            }
        }
        "settings" => {
            let version = name.strip_suffix(".json")?.split_once('-')?.0;
            Kind::Settings {
                version: number(version)?,
            }
        }
        "dead-letters" => Kind::DeadLetters,
        "verdicts" => Kind::Verdict,
        "queries" => Kind::Queries,
        "erased" => Kind::Erased,
        _ => return None,
    };
    Some((collection, kind))
}

/// The numbers of keys have ten digits, so that keys sort as their numbers do.
fn number(text: &str) -> Option<u64> {
    (text.len() >= 10).then(|| text.parse().ok())?
}

/// The longest key, in bytes: what S3 allows. The longest part of one is what file systems allow.
const KEY_BYTES_MAX: usize = 1_024;
const KEY_PART_BYTES_MAX: usize = 255;

/// Whether a text can be a key. One that can names nothing outside the folder it is looked for in, and none of a
/// store's own files, which begin with a dot.
pub fn is_key(text: &str) -> bool {
    let is_part = |part: &str| {
        (1..=KEY_PART_BYTES_MAX).contains(&part.len()) && !part.starts_with('.') && !part.contains(['\0', '\\'])
    };
    text.len() <= KEY_BYTES_MAX && text.split('/').all(is_part)
}

/// The collection that a key belongs to.
pub fn collection_of(key: &str) -> Option<CollectionName> {
    key.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, expected: Option<Kind>) {
        assert_eq!(parse(key).map(|(_, kind)| kind), expected, "{key}");
    }

    #[test]
    fn every_key_that_is_made_is_read_back() {
        let products: CollectionName = "products".parse().expect("valid");
        let segment = SegmentId::from("01seg".to_owned());
        let object = |path: &str| object(&products, path);
        check(&pointer(&products), Some(Kind::Pointer));
        check(
            &settings(&products, 7, &Digest::of(b"")),
            Some(Kind::Settings { version: 7 }),
        );
        check(
            &object(&vectors_path(&segment)),
            Some(Kind::SegmentFile {
                segment: "01seg".to_owned(),
            }),
        );
        check(
            &object(&rows_path(&segment)),
            Some(Kind::SegmentFile {
                segment: "01seg".to_owned(),
            }),
        );
        check(
            &object("releases/0000000042-01lineage-0a1b.json"),
            Some(Kind::Release {
                generation: 42,
                lineage: "01lineage".to_owned(),
                nonce: "0a1b".to_owned(),
            }),
        );
        check(
            &object("dead/0000000042-01lineage-0a1b.roaring"),
            Some(Kind::Dead { generation: 42 }),
        );
        check(&object("dead-letters/0a1b2c3d-7-ff.jsonl"), Some(Kind::DeadLetters));
    }

    #[test]
    fn keys_of_nobody_are_known_as_such() {
        for key in [
            "",
            "latest",
            "Products/latest",
            "products/",
            "products/new",
            "products/releases/42-l-n.json",
        ] {
            check(key, None);
        }
        check("products/segments/01seg/other.bin", None);
    }

    #[test]
    fn no_key_leads_out_of_its_folder() {
        for text in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "../a",
            "a/../b",
            "a/./b",
            ".lock",
            "a/.tmp/b",
            "a\\b",
            "a\0b",
        ] {
            assert!(!is_key(text), "{text:?}");
        }
        assert!(!is_key(&"x".repeat(256)) && !is_key(&"x/".repeat(600)));
        assert!(is_key("a/b.c/d..e") && is_key(&"x".repeat(255)));
    }

    #[test]
    fn keys_sort_as_their_generations_do() {
        let key = |generation: u64| format!("releases/{generation:010}-l-n.json");
        assert!(key(9) < key(10) && key(99) < key(100));
    }
}
