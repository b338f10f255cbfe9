//! Names that users choose: collections and documents. Parsed once at the edge, valid ever after.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest collection name, in bytes: a DNS label, because a collection may become a host name.
pub const COLLECTION_NAME_BYTES_MAX: usize = 63;
/// The longest document id, in bytes of UTF-8.
pub const DOCUMENT_ID_BYTES_MAX: usize = 512;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A collection name outside `[a-z0-9][a-z0-9-]{0,62}`.
    #[error("collection name {0:?} must be 1 to 63 of a-z, 0-9 and '-', not beginning with '-'")]
    Collection(String),
    /// An empty document id.
    #[error("document id is empty")]
    DocumentEmpty,
    /// A document id over [`DOCUMENT_ID_BYTES_MAX`].
    #[error("document id has {0} bytes; at most {DOCUMENT_ID_BYTES_MAX} are allowed")]
    DocumentTooLong(usize),
    /// A document id with a control character, at this byte offset.
    #[error("document id {id:?} has a control character at byte {offset}")]
    DocumentControl {
        /// The id as it came.
        id: String,
        /// Byte offset of the first control character.
        offset: usize,
    },
}

/// A collection's name: `[a-z0-9][a-z0-9-]{0,62}`.
///
/// ```
/// use verdigris_core::names::CollectionName;
/// assert!("products".parse::<CollectionName>().is_ok());
/// assert!("Products".parse::<CollectionName>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectionName(String);

impl CollectionName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CollectionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let letters = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let valid = (1..=COLLECTION_NAME_BYTES_MAX).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(letters);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Collection(text.to_owned()))
        }
    }
}

impl TryFrom<String> for CollectionName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<CollectionName> for String {
    fn from(name: CollectionName) -> String {
        name.0
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A document's id: 1 to 512 bytes of UTF-8 without control characters; `/`, `#` and space are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DocumentId(String);

impl DocumentId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DocumentId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for DocumentId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::DocumentEmpty);
        }
        if text.len() > DOCUMENT_ID_BYTES_MAX {
            return Err(NameError::DocumentTooLong(text.len()));
        }
        if let Some((offset, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(NameError::DocumentControl { id: text, offset });
        }
        Ok(Self(text))
    }
}

impl From<DocumentId> for String {
    fn from(id: DocumentId) -> String {
        id.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collection_names_are_dns_labels() {
        for good in ["a", "0", "products", "a-b-c", &"x".repeat(63)] {
            assert!(good.parse::<CollectionName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<CollectionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn document_ids_allow_what_catalogs_use_and_refuse_control_characters() {
        for good in ["1", "a/b#c d", "Ünïcode ✓", &"x".repeat(512)] {
            assert!(good.parse::<DocumentId>().is_ok(), "{good}");
        }
        assert_eq!("".parse::<DocumentId>(), Err(NameError::DocumentEmpty));
        assert_eq!(
            "x".repeat(513).parse::<DocumentId>(),
            Err(NameError::DocumentTooLong(513))
        );
        assert!(matches!(
            "a\nb".parse::<DocumentId>(),
            Err(NameError::DocumentControl { offset: 1, .. })
        ));
        assert!(matches!(
            "a\u{85}".parse::<DocumentId>(),
            Err(NameError::DocumentControl { offset: 1, .. })
        ));
    }
}
