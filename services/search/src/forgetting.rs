//! Asked queries that name an erased document leave the sample by themselves: the list that the pointer names tells of
//! which documents.
//!
//! The indexer of another process cannot take them away, and knows nothing of this one. Deliberately absent: hiding the
//! documents, which `hiding` does.

use std::io;
use std::sync::{Arc, Mutex};

use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_store::collection as objects;

use crate::Search;

/// Up to which list a collection's sample was gone through.
#[derive(Debug, Default)]
pub(crate) struct Forgetting(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    asked: Option<ManifestReference>,
    done: Option<ManifestReference>,
}

impl Forgetting {
    /// The pointer names this list, or none.
    pub(crate) fn asked(&self, pointer: &Pointer) {
        self.lock().asked = pointer.erased.as_ref().map(|erased| erased.list.clone());
    }

    /// Goes through the sample, where that is due and the sample is known. All documents of the list are looked for: which
    /// of them are new to a file of an earlier process, nobody knows.
    pub(crate) async fn go_on(&self, search: &Arc<Search>, name: &CollectionName) -> io::Result<()> {
        let due = {
            let lists = self.lock();
            lists.asked.clone().filter(|asked| lists.done.as_ref() != Some(asked))
        };
        let Some(list) = due.filter(|_| search.log.knows(name)) else {
            return Ok(());
        };
        let erased = objects::erased_list(&*search.deps.store, name, &list).await;
        let ids = erased.map_err(io::Error::other)?.ids();
        search
            .log
            .delete(name, |query| ids.iter().any(|id| query.names(id)))
            .await?;
        self.lock().done = Some(list);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lists> {
        self.0.lock().expect("held for a moment only")
    }
}
