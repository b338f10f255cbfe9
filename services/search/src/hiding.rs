//! Erased documents that releases hold still: hidden in all that is open, and in whatever is opened after.
//!
//! An erase moves no generation, so that the pointer alone tells. Deliberately absent: requests under way; they end on
//! the release that they took.

use std::collections::BTreeSet;
use std::sync::Arc;

use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_engine::release::Release;
use verdigris_store::{ReadError, Store, collection as objects};

use crate::lineages::Served;

/// What is hidden, by the list that says so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hidden {
    list: Option<ManifestReference>,
    ids: Arc<BTreeSet<String>>,
}

impl Hidden {
    /// What to hide by this pointer, where that is another list. Ids stay until a later erase, so that an older release
    /// which is being opened all the while does not show one whose removal has ended meanwhile.
    pub(crate) async fn next(&self, store: &dyn Store, pointer: &Pointer) -> Result<Option<Self>, ReadError> {
        let Some(erased) = pointer.erased.as_ref().filter(|erased| !erased.removed) else {
            return Ok(None);
        };
        if self.list.as_ref() == Some(&erased.list) {
            return Ok(None);
        }
        Ok(Some(Self {
            list: Some(erased.list.clone()),
            ids: Arc::new(objects::hidden(store, pointer).await?),
        }))
    }

    /// A release as it may be shown; itself where it shows nothing else already.
    pub(crate) fn of(&self, served: &Arc<Served>) -> Arc<Served> {
        if served.hidden == self.list {
            return served.clone();
        }
        Arc::new(Served {
            release: self.hide(&served.release),
            settings: served.settings.clone(),
            embedder: served.embedder.clone(),
            reference: served.reference.clone(),
            ready: served.ready,
            hidden: self.list.clone(),
        })
    }

    /// Takes as long as it takes to look into the dictionaries of the segments: moments, and only after an erase.
    pub(crate) fn hide(&self, release: &Arc<Release>) -> Arc<Release> {
        release.hiding(self.ids.iter().map(String::as_str))
    }

    /// The list that says so.
    pub(crate) fn list(&self) -> Option<ManifestReference> {
        self.list.clone()
    }
}
