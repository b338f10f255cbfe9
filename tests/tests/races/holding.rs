//! What a release must hold, and whether it does: read anew from the store, row by row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use verdigris_core::digest::ContentSum;
use verdigris_core::manifest::Manifest;
use verdigris_engine::release::open::OpenRelease;
use verdigris_store::Store;
use verdigris_store::fetch::VerifiedFiles;

use super::roles::World;
use super::roles::events::{delete, patch, upsert};
use super::roles::opener::Opener;

/// Documents by id, with the batch that wrote each last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    documents: BTreeMap<String, u64>,
    /// Every id that there ever was.
    ids: BTreeSet<String>,
}

impl Model {
    /// A new or a whole document.
    pub(crate) fn upsert(&mut self, id: &str, batch: u64) -> Bytes {
        self.ids.insert(id.to_owned());
        self.documents.insert(id.to_owned(), batch);
        upsert(id, &format!("thing {id}"), batch)
    }

    /// A part of a document. Of one that is gone, it waits in a ghost row and shows nothing.
    pub(crate) fn patch(&mut self, id: &str, batch: u64) -> Bytes {
        self.ids.insert(id.to_owned());
        if let Some(known) = self.documents.get_mut(id) {
            *known = batch;
        }
        patch(id, batch)
    }

    pub(crate) fn delete(&mut self, id: &str) -> Bytes {
        self.ids.insert(id.to_owned());
        self.documents.remove(id);
        delete(id)
    }

    /// Checks a release: each document once and as it was written last, a ghost for each that is gone, nothing else,
    /// and the sum of them all.
    pub(crate) fn check(&self, world: &World, manifest: &Manifest) {
        let store: Arc<dyn Store> = world.store.clone();
        let release =
            world.block_on(Opener::new(store, VerifiedFiles::default()).open(Arc::new(manifest.clone()), None));
        let release = release.expect("it opens");
        let shown = format!("release {} ({:?})", manifest.generation, manifest.reason);
        let (mut content, mut documents, mut ghosts) = (ContentSum::default(), BTreeMap::new(), BTreeSet::new());
        for place in release.live_rows() {
            let (row, state) = release.state(place).expect("a row");
            content.add(&state.digest());
            assert!(
                row.generation <= manifest.generation,
                "{shown}: {} is of a later release",
                row.id
            );
            let batch = state
                .document()
                .map(|document| document["batch"].as_u64().expect("a number"));
            let is_new = match batch {
                Some(batch) => documents.insert(row.id.clone(), batch).is_none(),
                None => ghosts.insert(row.id.clone()),
            };
            assert!(is_new, "{shown}: two rows of {} live", row.id);
            assert_eq!(batch.is_some(), release.has_vector(place), "{shown}: {}", row.id);
        }
        assert_eq!(documents, self.documents, "{shown}: documents");
        let gone: BTreeSet<String> = self
            .ids
            .iter()
            .filter(|id| !self.documents.contains_key(*id))
            .cloned()
            .collect();
        assert_eq!(ghosts, gone, "{shown}: ghosts");
        assert_eq!(content, manifest.content, "{shown}: the sum of its documents");
        assert_eq!(manifest.documents, self.documents.len() as u64, "{shown}: count");
    }
}

/// The release that the pointer names.
pub(crate) fn newest(world: &World) -> Manifest {
    world.manifest(world.pointer().generation)
}
