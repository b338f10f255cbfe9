//! Objects: one trait for every store, the directory store of a single machine, S3, the commit protocol over any store,
//! verified fetch, garbage collection, and faults for tests.
//!
//! Deliberately absent: what a publish means (that is `core`'s).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cache;
pub mod chance;
pub mod collection;
pub mod commit;
pub mod conformance;
pub mod directory;
mod download;
mod error;
pub mod faults;
pub mod fetch;
pub mod garbage;
pub mod keys;
pub mod memory;
mod object;
pub mod publish;
pub mod s3;

pub use error::{CommitError, ReadError, StoreError};
pub use fetch::digest_of_file;
pub use object::{Body, Get, ObjectMeta, Part, Precondition, Store, Tag};
