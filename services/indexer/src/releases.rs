//! The calls about releases: listed, verified, gone back to, resumed, pinned.

use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use verdigris_core::manifest::Manifest;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::Pointer;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::admin::*;
use verdigris_proto::reason::Reason;
use verdigris_store::{collection as objects, commit, fetch};

use crate::Command;
use crate::admin::{AdminRpc, given};
use crate::holding::{Resume, RollBack};
use crate::ingest::{name_of, status_of_bus, status_of_read};
use crate::shown::{position_of, reason_word, status_of_commit};

impl AdminRpc {
    /// The manifest of a kept release; the newest for generation 0.
    pub(crate) async fn manifest(
        &self,
        name: &CollectionName,
        generation: u64,
    ) -> Result<(Manifest, Pointer, bool), Status> {
        let pointer = self.pointer(name).await?;
        let gone = || {
            Reason::ReleaseNotFound.status(format!(
                "release {generation} of {name} is not kept; see `releases list`"
            ))
        };
        let active = pointer.active.as_ref();
        let reference = match generation {
            0 => active.map(|active| active.manifest.clone()),
            _ => pointer
                .kept
                .iter()
                .find(|kept| kept.generation == generation)
                .map(|kept| kept.manifest.clone()),
        };
        let reference = reference.ok_or_else(gone)?;
        let manifest = objects::manifest(&*self.indexer.deps().store, name, &reference).await;
        let manifest = manifest.map_err(|error| status_of_read(&error))?;
        let pinned = pointer
            .kept
            .iter()
            .any(|kept| kept.generation == manifest.generation && kept.pinned);
        Ok((manifest, pointer, pinned))
    }

    pub(crate) async fn release(&self, manifest: &Manifest, pointer: &Pointer, pinned: bool) -> Release {
        let stream = self.indexer.deps().bus.state(&manifest.collection).await.ok();
        let checkpoint = &manifest.checkpoint;
        let replayable = stream
            .is_some_and(|state| state.identity == checkpoint.stream && state.first_kept <= checkpoint.sequence + 1);
        Release {
            generation: manifest.generation,
            lineage: manifest.lineage.to_string(),
            created_at: manifest.created_at.to_string(),
            documents: manifest.documents,
            segments: manifest.segments.len() as u64,
            bytes: manifest.bytes(),
            position: position_of(manifest),
            reason: reason_word(&manifest.reason).to_owned(),
            active: pointer
                .active
                .as_ref()
                .is_some_and(|active| active.generation == manifest.generation),
            replayable,
            manifest_json: String::new(),
            pinned,
        }
    }

    pub(crate) async fn listed_releases(
        &self,
        request: Request<ListReleasesRequest>,
    ) -> Result<Response<ListReleasesResponse>, Status> {
        let name = name_of(&request.into_inner().collection)?;
        let pointer = self.pointer(&name).await?;
        let mut releases = Vec::with_capacity(pointer.kept.len());
        for kept in pointer.kept.iter().rev() {
            let manifest = objects::manifest(&*self.indexer.deps().store, &name, &kept.manifest).await;
            let manifest = manifest.map_err(|error| status_of_read(&error))?;
            releases.push(self.release(&manifest, &pointer, kept.pinned).await);
        }
        Ok(Response::new(ListReleasesResponse { releases }))
    }

    pub(crate) async fn verified_release(
        &self,
        request: Request<VerifyReleaseRequest>,
    ) -> Result<Response<VerifyReleaseResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let (manifest, ..) = self.manifest(&name, request.generation).await?;
        let verification = fetch::verify_release(&*self.indexer.deps().store, &manifest).await;
        Ok(Response::new(VerifyReleaseResponse {
            generation: manifest.generation,
            files: verification.files,
            bytes: verification.bytes,
            problems: verification.problems,
        }))
    }

    pub(crate) async fn roll_back(
        &self,
        request: Request<RollBackReleaseRequest>,
    ) -> Result<Response<Release>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let actor = given("actor", request.actor, "say who goes back")?;
        let words = given("reason", request.reason, "say why; the next person will want to know")?;
        // A generation that is not kept is told before anything stands still.
        self.manifest(&name, request.generation).await?;
        let (done, ended) = oneshot::channel();
        let wish = RollBack {
            generation: request.generation,
            actor,
            words,
            without_replay: request.without_replay,
            done,
        };
        self.tell(&name, Command::RollBack(wish), ended).await?;
        let (manifest, pointer, pinned) = self.manifest(&name, 0).await?;
        Ok(Response::new(self.release(&manifest, &pointer, pinned).await))
    }

    pub(crate) async fn resume(
        &self,
        request: Request<ResumePublishingRequest>,
    ) -> Result<Response<ResumePublishingResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let actor = given("actor", request.actor, "say who goes on")?;
        let (manifest, ..) = self.manifest(&name, 0).await?;
        let set_aside = self.sequences(&name, &request.set_aside).await?.into_iter().collect();
        let words = if request.set_aside.is_empty() {
            request.reason
        } else {
            given("reason", request.reason, "say why; it is kept with each dead letter")?
        };
        let (done, ended) = oneshot::channel();
        let wish = Resume {
            actor,
            set_aside,
            words,
            done,
        };
        self.tell(&name, Command::Resume(wish), ended).await?;
        let bus = &self.indexer.deps().bus;
        let unread = bus.unread(&name, manifest.checkpoint.sequence).await;
        Ok(Response::new(ResumePublishingResponse {
            unread_events: unread.map_err(|error| status_of_bus(&error))?,
        }))
    }

    pub(crate) async fn pin(&self, request: Request<PinReleaseRequest>) -> Result<Response<Release>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let (nonce, now) = (commit::nonce(), Timestamp(self.indexer.deps().clock.now_ns()));
        let swung = commit::swing(&*self.indexer.deps().store, &name, nonce.clone(), |pointer| {
            pointer.pin(request.generation, request.pinned, nonce.clone(), now)
        })
        .await;
        swung.map_err(|error| status_of_commit(&error))?;
        let (manifest, pointer, pinned) = self.manifest(&name, request.generation).await?;
        Ok(Response::new(self.release(&manifest, &pointer, pinned).await))
    }
}
