//! Who opens releases for the roles of a process: one opener, so that files are verified and mapped once.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use verdigris_core::manifest::Manifest;

use crate::release::Release;

/// Why a release could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is damaged, or contradicts the manifest: trying again does not help.
    #[error("a file of the release is damaged")]
    Damaged(#[source] Box<dyn Error + Send + Sync>),
    /// A file could not be had this time.
    #[error("a file of the release could not be had")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// The future of [`OpenRelease::open`].
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Arc<Release>, OpenError>> + Send + 'a>>;

/// Opens releases: fetches and verifies what is new, and shares what is open.
pub trait OpenRelease: Send + Sync {
    /// Opens the release of a manifest; `previous` lends what stayed the same, but no dead rows where it hides some.
    fn open<'a>(&'a self, manifest: Arc<Manifest>, previous: Option<&'a Arc<Release>>) -> Opening<'a>;
}
