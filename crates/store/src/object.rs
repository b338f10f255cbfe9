//! The trait of every store: objects by key, with compare-and-swap.

use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_core::timestamp::Timestamp;

use crate::error::StoreError;

/// What tells one content of an object from another. Opaque; never the same again for another write.
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

/// Objects by key. A write is whole or not there at all, for every reader and after any crash.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads an object, unless it still has the tag `if_none_match`.
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError>;

    /// Reads bytes of an object: fewer where it ends before the range does.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

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
