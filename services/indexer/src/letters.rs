//! Dead letters as administration finds them.

use std::collections::BTreeSet;

use tonic::Status;
use verdigris_core::dead_letter::DeadLetter as Letter;
use verdigris_core::names::CollectionName;
use verdigris_proto::reason::Reason;

use crate::admin::AdminRpc;
use crate::dead_letters;
use crate::ingest::status_of_read;

impl AdminRpc {
    pub(crate) async fn letters(&self, name: &CollectionName) -> Result<Vec<Letter>, Status> {
        self.pointer(name).await?;
        let batches = dead_letters::batches(&*self.indexer.deps().store, name).await;
        let batches = batches.map_err(|error| status_of_read(&error))?;
        // A crash between letters and swing leaves a letter in two batches: that of its window, and one of its own.
        let mut seen = BTreeSet::new();
        let letters = batches.into_iter().flat_map(|batch| batch.letters);
        Ok(letters
            .filter(|letter| seen.insert(letter.position.to_string()))
            .collect())
    }

    pub(crate) async fn letter(&self, name: &CollectionName, position: &str) -> Result<Letter, Status> {
        let letters = self.letters(name).await?;
        let found = letters
            .into_iter()
            .find(|letter| letter.position.to_string() == position);
        found.ok_or_else(|| Reason::DeadLetterNotFound.status(format!("there is no dead letter at {position:?}")))
    }

    pub(crate) async fn remove(&self, name: &CollectionName, positions: Vec<String>) -> Result<u64, Status> {
        let positions: BTreeSet<String> = positions.into_iter().collect();
        let removed = dead_letters::remove(&*self.indexer.deps().store, name, &positions).await;
        removed.map_err(|error| status_of_read(&error))
    }
}
