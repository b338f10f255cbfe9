//! What a turn goes by: settings that come into force, a log that is adopted, and a collection that begins anew.

use std::sync::Arc;

use verdigris_core::manifest::{Checkpoint, Genesis, Manifest, PublishReason};
use verdigris_core::pointer::EditRefused;
use verdigris_core::position::StreamIdentity;
use verdigris_engine::release::Release;
use verdigris_store::{CommitError, collection as objects};

use crate::error::IndexerError;
use crate::progress::Published;
use crate::turn::Turn;

impl Turn<'_> {
    /// Publishes settings that wait for it, unless publishing is held.
    pub(crate) async fn settings_into_force(&mut self) -> Result<(), IndexerError> {
        let manifest = self.head.manifest();
        if manifest.generation > 0
            && manifest.settings != self.wanted_settings
            && self.standing().is_none()
            && !self.awaits_promotion()
        {
            self.publish_settings().await?;
        }
        Ok(())
    }

    /// Looks at the pointer again: settings may have changed, or the collection may be deleted.
    pub(crate) async fn refresh(&mut self) -> Result<(), IndexerError> {
        let pointer = objects::pointer(&*self.deps.store, self.name).await?.pointer;
        if pointer.deleted_at.is_some() {
            return Err(CommitError::Refused(EditRefused::Deleted(self.name.clone())).into());
        }
        if pointer.settings != self.wanted_settings {
            self.settings = objects::settings(&*self.deps.store, self.name, &pointer.settings).await?;
            self.wanted_settings = pointer.settings;
            if self.head.manifest().generation > 0 {
                self.settings_into_force().await?;
            } else {
                self.begin_anew().await?;
            }
        }
        Ok(())
    }

    /// Before the first publish, new settings only change what the first release will be.
    pub(crate) async fn begin_anew(&mut self) -> Result<(), IndexerError> {
        self.embedder = None;
        let genesis = Genesis {
            collection: self.name.clone(),
            lineage: self.head.manifest().lineage.clone(),
            metric: self.settings.metric,
            embedder: self.deps.embedders.identity(&self.settings.embedder)?,
            settings: self.wanted_settings.clone(),
            stream: self.head.manifest().checkpoint.stream,
        };
        self.head = Arc::new(Release::empty(Arc::new(Manifest::genesis(genesis))));
        Ok(())
    }

    pub(crate) async fn publish_settings(&mut self) -> Result<(), IndexerError> {
        let manifest = self.head.manifest().clone();
        self.publish(self.unchanged(manifest.checkpoint.clone(), PublishReason::Settings))
            .await?;
        self.handle.progress.begin(Published {
            sequence: manifest.checkpoint.sequence,
            generation: self.generation,
        });
        Ok(())
    }

    /// The log was replaced, and a feed has repaired it: it is read from its beginning, which harms nothing, because
    /// events commute.
    pub(crate) async fn adopt(&mut self, stream: StreamIdentity) -> Result<(), IndexerError> {
        let state = self.deps.bus.state(self.name).await?;
        let sequence = state.first_kept.saturating_sub(1);
        let checkpoint = Checkpoint {
            stream,
            sequence,
            digest: self.deps.bus.digest_at(self.name, sequence).await?,
        };
        if self.head.manifest().generation == 0 {
            let mut manifest = (**self.head.manifest()).clone();
            manifest.checkpoint = checkpoint;
            self.head = Arc::new(Release::empty(Arc::new(manifest)));
            self.go_on();
            return Ok(());
        }
        let reason = PublishReason::Resync {
            actor: self.instance.to_owned(),
        };
        self.publish(self.unchanged(checkpoint, reason)).await?;
        self.handle.progress.begin(Published {
            sequence,
            generation: self.head.manifest().generation,
        });
        self.go_on();
        Ok(())
    }
}
