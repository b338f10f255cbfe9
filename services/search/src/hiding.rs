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
    /// Whether the pointer was looked at before.
    looked: bool,
    list: Option<ManifestReference>,
    ids: Arc<BTreeSet<String>>,
}

impl Hidden {
    /// What to hide by this pointer, where that is another list. Of a list that is new, also when the removal of its
    /// documents has ended between two looks: pages of earlier searches are open still.
    pub(crate) async fn next(&self, store: &dyn Store, pointer: &Pointer) -> Result<Option<Self>, ReadError> {
        let list = pointer.erased.as_ref().map(|erased| erased.list.clone());
        if self.looked && self.list == list {
            return Ok(None);
        }
        let may_be_open = pointer.erased.as_ref().filter(|erased| self.looked || !erased.removed);
        let ids = match may_be_open {
            Some(erased) => objects::erased_list(store, &pointer.collection, &erased.list)
                .await?
                .pending(),
            None => BTreeSet::new(),
        };
        Ok(Some(Self {
            looked: true,
            list,
            ids: Arc::new(ids),
        }))
    }

    /// The same without what nothing holds any more, which need not be looked for in each release that is opened. To be
    /// asked for when everything that is named is open: an older release that is being opened still has them.
    pub(crate) fn without_removed(&self, pointer: &Pointer) -> Option<Self> {
        let is_removed = pointer.erased.as_ref().is_some_and(|erased| erased.removed);
        (is_removed && !self.ids.is_empty()).then(|| Self {
            ids: Arc::default(),
            ..self.clone()
        })
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
