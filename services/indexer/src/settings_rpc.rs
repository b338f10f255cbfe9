//! Settings of a collection, and their change in place: what would need other rows is refused, and is a rebuild's.

use tonic::{Request, Response, Status};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::EditRefused;
use verdigris_core::settings::Settings as CollectionSettings;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::admin::{GetSettingsRequest, Settings, UpdateSettingsRequest};
use verdigris_proto::reason::Reason;
use verdigris_store::{CommitError, collection as objects, commit};

use crate::Command;
use crate::admin::AdminRpc;
use crate::error::{chain, reason_of_store};
use crate::ingest::{name_of, settings_of, status_of_read};
use crate::shown::{parsed_settings, status_of_commit};

/// How often settings are chosen again because lineages or settings moved meanwhile.
const TRIES: u32 = 8;

impl AdminRpc {
    pub(crate) async fn shown_settings(
        &self,
        request: Request<GetSettingsRequest>,
    ) -> Result<Response<Settings>, Status> {
        let name = name_of(&request.into_inner().collection)?;
        let pointer = self.pointer(&name).await?;
        let settings = settings_of(&self.indexer, &name).await?;
        Ok(Response::new(shown(pointer.settings.version, &settings)))
    }

    pub(crate) async fn changed_settings(
        &self,
        request: Request<UpdateSettingsRequest>,
    ) -> Result<Response<Settings>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let settings = parsed_settings(&request.settings_json)?;
        let handle = self.indexer.ensure(&name, &settings).await;
        let handle = handle.map_err(|error| status_of_read(&error))?;
        let mut tries = 1;
        let version = loop {
            match self.swing_settings(&name, &settings).await? {
                Ok(version) => break version,
                Err(CommitError::Refused(EditRefused::SettingsMoved)) if tries < TRIES => tries += 1,
                Err(error) => return Err(status_of_commit(&error)),
            }
        };
        handle.send(Command::Refresh).await;
        Ok(Response::new(shown(version, &settings)))
    }

    /// Names these settings, where they fit what answers now; the version that they got.
    async fn swing_settings(
        &self,
        name: &CollectionName,
        settings: &CollectionSettings,
    ) -> Result<Result<u64, CommitError>, Status> {
        let store = &*self.indexer.deps().store;
        let unread = |error| status_of_read(&error);
        let unsent = |error| reason_of_store(&error).status(chain(&error));
        let read = self.pointer(name).await?;
        let current = objects::settings(store, name, &read.settings).await.map_err(unread)?;
        let keys = current.needs_rebuild(settings);
        if read.generation > 0 && !keys.is_empty() {
            let message = format!(
                "{} cannot change in place while the collection holds documents; `verdigris rebuild --settings FILE` \
                 writes all rows anew beside what is served",
                keys.join(", ")
            );
            return Err(Reason::NeedsRebuild.status(message));
        }
        let version = read.newest_settings_version() + 1;
        let reference = objects::put_settings(store, name, version, settings).await;
        let reference = reference.map_err(unsent)?;
        let beside = match read.beside() {
            None => None,
            Some((_, theirs)) => {
                let theirs = objects::settings(store, name, theirs).await.map_err(unread)?;
                let theirs = theirs.with_in_place_of(settings);
                let theirs = objects::put_settings(store, name, version, &theirs).await;
                Some(theirs.map_err(unsent)?)
            }
        };
        let (nonce, clock) = (commit::nonce(), &self.indexer.deps().clock);
        let swung = commit::swing(store, name, nonce.clone(), |pointer| {
            let now = Timestamp(clock.now_ns());
            pointer.set_settings(&read, reference.clone(), beside.clone(), nonce.clone(), now)
        });
        Ok(swung.await.map(|_| version))
    }
}

fn shown(version: u64, settings: &CollectionSettings) -> Settings {
    Settings {
        version,
        settings_json: String::from_utf8_lossy(&settings.encode()).into_owned(),
    }
}
