//! The calls about a staged release: shown, accepted, judged anew, rejected.

use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::StagedRelease as Staged;
use verdigris_core::position::Position;
use verdigris_proto::admin::*;
use verdigris_proto::reason::Reason;
use verdigris_store::collection as objects;

use crate::Command;
use crate::admin::{AdminRpc, given};
use crate::error::chain;
use crate::guard::{self, Choice, Decision, DecisionKind, Verdict};
use crate::ingest::{name_of, status_of_read};

/// Counted events that are shown.
const EVENTS_SHOWN: usize = 1_000;

impl AdminRpc {
    pub(crate) async fn staged_release(
        &self,
        request: Request<GetStagedReleaseRequest>,
    ) -> Result<Response<StagedRelease>, Status> {
        let name = name_of(&request.into_inner().collection)?;
        let staged = self.staged(&name).await?;
        let store = &*self.indexer.deps().store;
        let manifest = objects::manifest(store, &name, &staged.release.manifest).await;
        let manifest = manifest.map_err(|error| status_of_read(&error))?;
        let verdict = guard::read::<Verdict>(store, &name, &staged.verdict).await;
        let verdict = verdict.map_err(|error| error.standstill().reason.status(chain(&error)))?;
        let served = self.manifest(&name, 0).await.map_or(0, |(served, ..)| served.documents);
        let stream = manifest.checkpoint.stream;
        let events = verdict.counted.iter().take(EVENTS_SHOWN).map(|counted| CountedEvent {
            position: stream.position(counted.sequence).to_string(),
            id: counted.id.clone(),
        });
        Ok(Response::new(StagedRelease {
            generation: staged.release.generation,
            since: staged.since.to_string(),
            breaches: verdict.breaches.iter().map(ToString::to_string).collect(),
            documents: manifest.documents,
            documents_served: served,
            counted: verdict.counted.len() as u64,
            events: events.collect(),
            waiting: verdict.waiting,
            judged_to: stream.position(verdict.judged_to).to_string(),
        }))
    }

    pub(crate) async fn accept(
        &self,
        request: Request<AcceptStagedReleaseRequest>,
    ) -> Result<Response<Release>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let actor = given("actor", request.actor, "say who decides")?;
        self.decide(&name, request.generation, actor, DecisionKind::Accept)
            .await?;
        let (manifest, pointer, pinned) = self.manifest(&name, request.generation).await?;
        Ok(Response::new(self.release(&manifest, &pointer, pinned).await))
    }

    pub(crate) async fn retry(
        &self,
        request: Request<RetryStagedReleaseRequest>,
    ) -> Result<Response<RetryStagedReleaseResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let actor = given("actor", request.actor, "say who decides")?;
        self.decide(&name, request.generation, actor, DecisionKind::Retry)
            .await?;
        Ok(Response::new(RetryStagedReleaseResponse {}))
    }

    pub(crate) async fn reject(
        &self,
        request: Request<RejectStagedReleaseRequest>,
    ) -> Result<Response<RejectStagedReleaseResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        let actor = given("actor", request.actor, "say who decides")?;
        let reason = given("reason", request.reason, "say why; it is kept with each dead letter")?;
        let choice = match (request.ids.is_empty(), request.positions.is_empty()) {
            (true, true) => Choice::Counted,
            (false, true) => Choice::Ids(request.ids),
            (true, false) => Choice::Sequences(self.sequences(&name, &request.positions).await?),
            (false, false) => {
                let message = "choose by ids or by positions, not by both";
                return Err(Reason::InvalidArgument.status_for_field("positions", message));
            }
        };
        let kind = DecisionKind::Reject { reason, choice };
        let rejected = self.decide(&name, request.generation, actor, kind).await?;
        Ok(Response::new(RejectStagedReleaseResponse { rejected }))
    }

    async fn staged(&self, name: &CollectionName) -> Result<Staged, Status> {
        let staged = self.pointer(name).await?.staged;
        staged.ok_or_else(|| Reason::NotStaged.status(format!("no release of {name} waits for a decision")))
    }

    pub(crate) async fn sequences(&self, name: &CollectionName, positions: &[String]) -> Result<Vec<u64>, Status> {
        let (manifest, ..) = self.manifest(name, 0).await?;
        let stream = manifest.checkpoint.stream;
        let sequence = |text: &String| {
            let position: Result<Position, _> = text.parse();
            let sequence = position.and_then(|position| stream.sequence_of(position));
            sequence.map_err(|error| Reason::InvalidPosition.status_for_field("positions", error.to_string()))
        };
        positions.iter().map(sequence).collect()
    }

    async fn decide(
        &self,
        name: &CollectionName,
        generation: u64,
        actor: String,
        kind: DecisionKind,
    ) -> Result<u64, Status> {
        let staged = self.staged(name).await?.release.generation;
        if staged != generation {
            let message = format!("release {staged} waits for a decision, not {generation}: look at it first");
            return Err(Reason::NotStaged.status(message));
        }
        let (done, ended) = oneshot::channel();
        let decision = Decision {
            generation,
            actor,
            kind,
            done,
        };
        self.tell(name, Command::Decide(decision), ended).await
    }
}
