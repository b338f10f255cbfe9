//! The trait of every store: objects by key, with compare-and-swap.

use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_core::timestamp::Timestamp;

use crate::error::StoreError;

/// What tells one content of an object from another. Opaque; never the same for two contents.
///
/// Whether the same content written again has another tag is each store's own: a folder's has, while an S3 ETag is often
/// the content's MD5. Nothing may rely on it: what is swapped carries a sequence and a nonce, so that its content never
/// comes back, and everything else is created once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(pub String);

/// What a write expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// That there is no such object.
    Absent,
    /// That the object still has this tag.
    Matches(Tag),
}

/// What is written.
#[derive(Debug, Clone)]
pub enum Body {
    /// These bytes.
    Bytes(Bytes),
    /// This file. A put that succeeds takes it away; one that does not leaves it, except where nobody knows the outcome.
    File(PathBuf),
}

/// What a read gave.
#[derive(Debug, Clone)]
pub enum Get {
    /// The object.
    Found {
        /// Its content.
        bytes: Bytes,
        /// Its tag.
        tag: Tag,
        /// When it was last written.
        modified: Timestamp,
    },
    /// It still has the tag that the reader knows.
    NotModified,
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

/// Part of an object, and which one it is of.
#[derive(Debug, Clone)]
pub struct Part {
    /// The bytes.
    pub bytes: Bytes,
    /// The tag of the object that they are of, where the store tells it with a range.
    pub tag: Option<Tag>,
}

/// Objects by key. A write is whole or not there at all, for every reader and after any crash.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads an object, unless it still has the tag `if_none_match`.
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError>;

    /// Reads bytes of an object: fewer where it ends before the range does.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Reads bytes as [`Store::get_range`] does and says what they are of. Where `of` is given, only of the object that
    /// has this tag: [`StoreError::PreconditionFailed`] when another is there by now. A store that tells no tags with
    /// ranges need not look at it; whoever puts ranges together checks the digest of the whole.
    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        let _ = of;
        let bytes = self.get_range(key, range).await?;
        Ok(Part { bytes, tag: None })
    }

    /// Writes an object if it is as expected, durably; its new tag, which a read then gives. To expect a tag of an object
    /// that is not there is [`StoreError::NotFound`]. [`StoreError::NoAnswer`] means that nobody knows; after every other
    /// error nothing was written.
    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError>;

    /// Objects whose key begins with `prefix`, by key, after `start_after`, at most `limit`.
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Removes an object; no error when it is not there.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Where the object's file lies, for a store on this machine: readers map it.
    fn local_path(&self, key: &str) -> Option<PathBuf>;

    /// What it is, for messages.
    fn describe(&self) -> String;
}
