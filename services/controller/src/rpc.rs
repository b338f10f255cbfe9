//! What people ask of rollouts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{EditRefused, LineageRole, Pointer};
use verdigris_core::rollout::ReturnWish;
use verdigris_core::timestamp::Timestamp;
use verdigris_proto::reason::Reason;
use verdigris_proto::rollout::rollout_service_server::RolloutService;
use verdigris_proto::rollout::*;
use verdigris_store::{CommitError, ReadError, collection as objects, commit};

use crate::owner::Wish;
use crate::shown::{self, chain};
use crate::{Controller, Owned, Pace};

/// How long an answer waits for what was asked to be so.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for the owner to look again.
const LOOK: Duration = Duration::from_secs(2);

/// The gRPC service.
pub struct RolloutRpc {
    controller: Arc<Controller>,
    /// The nonce of the one command that this is for.
    nonce: Option<String>,
}

impl RolloutRpc {
    /// The service over the role.
    pub fn new(controller: Arc<Controller>) -> Self {
        Self {
            controller,
            nonce: None,
        }
    }

    /// For one command, whose swing has this nonce: given twice it is carried out once.
    pub(crate) fn for_command(controller: Arc<Controller>, nonce: String) -> Self {
        let nonce = Some(nonce);
        Self { controller, nonce }
    }

    /// Whether the pointer remembers the command.
    pub(crate) async fn was_carried_out(&self, name: &CollectionName) -> Result<bool, Status> {
        let pointer = self.pointer(name).await?;
        Ok(self.nonce.as_ref().is_some_and(|nonce| pointer.remembers(nonce)))
    }

    /// Of many tenants those are claimed about which something is said.
    async fn claim(&self, name: &CollectionName) {
        let Pace::Far { .. } = self.controller.deps().scope.pace else {
            return;
        };
        let Some(owned) = self.controller.owned(name).await else {
            return;
        };
        let (noted, claimed) = oneshot::channel();
        // Where it does not come about, the swing is refused and says who owns it.
        if owned.wishes.send(Wish::Claim { noted }).await.is_ok() {
            let _ = tokio::time::timeout(PATIENCE, claimed).await;
        }
    }

    async fn owned(&self, collection: &str) -> Result<(CollectionName, Arc<Owned>), Status> {
        let name: CollectionName = collection
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        let missing = || Reason::CollectionNotFound.status(format!("collection {name} does not exist"));
        let owned = self.controller.owned(&name).await.ok_or_else(missing)?;
        Ok((name, owned))
    }

    async fn pointer(&self, name: &CollectionName) -> Result<Pointer, Status> {
        let seen = objects::pointer(&*self.controller.deps().store, name).await;
        let pointer = seen.map_err(|error| status_of_read(&error))?.pointer;
        if pointer.deleted_at.is_some() {
            return Err(Reason::CollectionNotFound.status(format!("collection {name} was deleted")));
        }
        Ok(pointer)
    }

    /// How it stands, after the owner has looked once more.
    async fn told(&self, name: &CollectionName, owned: &Owned) -> Result<Response<GetRolloutResponse>, Status> {
        let mut standing = owned.standing.clone();
        standing.mark_unchanged();
        // An owner that is busy looks soon by itself.
        let _ = owned.wishes.try_send(Wish::Look);
        let _ = tokio::time::timeout(LOOK, standing.changed()).await;
        let pointer = self.pointer(name).await?;
        let standing = standing.borrow().clone();
        Ok(Response::new(shown::rollout(&pointer, &standing)))
    }

    /// One edit of the pointer by the owner of now.
    async fn swing(
        &self,
        name: &CollectionName,
        edit: impl Fn(&Pointer, u64, String, Timestamp) -> Result<Pointer, EditRefused> + Send + Sync,
    ) -> Result<Pointer, Status> {
        let deps = self.controller.deps();
        self.claim(name).await;
        let nonce = self.nonce.clone().unwrap_or_else(commit::nonce);
        let now = Timestamp(deps.clock.now_ns());
        let swung = commit::swing(&*deps.store, name, nonce.clone(), |pointer| {
            let owner = pointer.owner.as_ref().filter(|owner| owner.id == deps.id);
            let epoch = owner.map(|owner| owner.epoch).ok_or_else(|| {
                let holder = pointer.owner.as_ref().map_or("nobody", |owner| owner.id.as_str());
                EditRefused::OwnedBy(holder.to_owned())
            })?;
            edit(pointer, epoch, nonce.clone(), now)
        });
        swung.await.map_err(|error| status_of_commit(&error))
    }
}

fn given(field: &str, text: String, why: &str) -> Result<String, Status> {
    if text.trim().is_empty() {
        return Err(Reason::InvalidArgument.status_for_field(field, format!("{field} is empty: {why}")));
    }
    Ok(text)
}

fn status_of_read(error: &ReadError) -> Status {
    match error {
        ReadError::NoCollection(name) => Reason::CollectionNotFound.status(format!("collection {name} does not exist")),
        error => Reason::StoreUnavailable.status(chain(error)),
    }
}

fn status_of_commit(error: &CommitError) -> Status {
    let reason = match error {
        CommitError::Read(error) => return status_of_read(error),
        CommitError::Store(_) | CommitError::Unknown(_) => Reason::StoreUnavailable,
        CommitError::Refused(refused) => match refused {
            EditRefused::NotNamed(_) => Reason::LineageNotFound,
            EditRefused::NotCandidate(_) => Reason::NotCandidate,
            EditRefused::NotWayBack(_) => Reason::NoWayBack,
            EditRefused::PromotionNotHeld => Reason::PromotionNotHeld,
            EditRefused::Held { .. } => Reason::PromotionHeld,
            EditRefused::OwnedBy(_) | EditRefused::LostOwnership { .. } => Reason::NotOwner,
            EditRefused::Deleted(_) => Reason::CollectionDeleted,
            _ => Reason::Internal,
        },
    };
    reason.status(chain(error))
}

#[tonic::async_trait]
impl RolloutService for RolloutRpc {
    async fn get_rollout(&self, request: Request<GetRolloutRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let (name, owned) = self.owned(&request.into_inner().collection).await?;
        let pointer = self.pointer(&name).await?;
        let standing = owned.standing.borrow().clone();
        // Nobody is told of a phase that the pointer has left.
        if standing.sequence != pointer.sequence && standing.problem.is_none() {
            return self.told(&name, &owned).await;
        }
        Ok(Response::new(shown::rollout(&pointer, &standing)))
    }

    async fn promote(&self, request: Request<PromoteRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let request = request.into_inner();
        let (name, owned) = self.owned(&request.collection).await?;
        let actor = given("actor", request.actor, "say who promotes")?;
        let lineage = LineageId::from(given(
            "lineage",
            request.lineage,
            "name the candidate that you looked at",
        )?);
        let standing = owned.standing.borrow().clone();
        let judged = standing.plan.as_ref().and_then(|plan| plan.verdict.as_ref());
        let judged = judged
            .filter(|verdict| verdict.lineage == lineage)
            .map(|verdict| verdict.generation);
        let pointer = self.pointer(&name).await?;
        if pointer.other.as_ref().is_none_or(|other| other.lineage != lineage) {
            return Err(Reason::LineageNotFound.status(format!("lineage {lineage} is not the candidate")));
        }
        if let Some(hold) = pointer.publish_hold().or(pointer.promotion_hold.as_ref()) {
            let message = format!("promotion is held by {}: {}", hold.actor, hold.reason);
            return Err(Reason::PromotionHeld.status(message));
        }
        if judged != Some(request.generation) {
            let message = match judged {
                Some(judged) => format!(
                    "lineage {lineage} was judged at generation {judged}, not {}",
                    request.generation
                ),
                None => format!("lineage {lineage} has not been judged yet"),
            };
            return Err(Reason::NotJudged.status(message));
        }
        self.swing(&name, |pointer, epoch, nonce, now| {
            pointer.approve(epoch, &lineage, request.generation, &actor, nonce, now)
        })
        .await?;
        tracing::info!(collection = %name, %lineage, actor, generation = request.generation, "a candidate was approved");
        self.told(&name, &owned).await
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let request = request.into_inner();
        let (name, owned) = self.owned(&request.collection).await?;
        let actor = given("actor", request.actor, "say who gives it up")?;
        let reason = given("reason", request.reason, "say why")?;
        let lineage = LineageId::from(given("lineage", request.lineage, "name the lineage that is given up")?);
        self.swing(&name, |pointer, epoch, nonce, now| {
            pointer.drop_other(epoch, &lineage, nonce, now)
        })
        .await?;
        tracing::warn!(collection = %name, %lineage, actor, reason, "a lineage was given up");
        self.told(&name, &owned).await
    }

    async fn roll_back(&self, request: Request<RollBackRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let request = request.into_inner();
        let (name, owned) = self.owned(&request.collection).await?;
        let actor = given("actor", request.actor, "say who goes back")?;
        let reason = given("reason", request.reason, "say why: it is kept in the history")?;
        let pointer = self.pointer(&name).await?;
        let way_back = pointer
            .other
            .as_ref()
            .filter(|other| other.role == LineageRole::WayBack);
        let no_way_back = || Reason::NoWayBack.status(format!("collection {name} keeps no lineage to go back to"));
        let lineage = way_back.ok_or_else(no_way_back)?.lineage.clone();
        let (noted, known) = oneshot::channel();
        let wish = ReturnWish {
            lineage: lineage.clone(),
            actor,
            reason,
        };
        let ended = || Reason::ShuttingDown.status("the owner of rollouts has ended");
        owned
            .wishes
            .send(Wish::Return { wish, noted })
            .await
            .map_err(|_| ended())?;
        known.await.map_err(|_| ended())?;
        let mut standing = owned.standing.clone();
        let went = tokio::time::timeout(PATIENCE, async {
            loop {
                let pointer = self.pointer(&name).await?;
                if pointer.active.is_some_and(|active| active.lineage == lineage) {
                    return Ok::<(), Status>(());
                }
                // A pause between looks; the owner may move the pointer without telling more.
                let _ = tokio::time::timeout(Duration::from_millis(20), standing.changed()).await;
            }
        })
        .await;
        match went {
            Ok(done) => done?,
            Err(_) => {
                let _ = owned.wishes.send(Wish::Withdraw).await;
                let told = owned.standing.borrow().clone();
                let why = told
                    .plan
                    .map(|plan| plan.reasons.iter().map(ToString::to_string).collect::<Vec<_>>());
                let why = why.unwrap_or_default().join("; ");
                return Err(Reason::NoWayBack.status(format!("the way back does not answer: {why}")));
            }
        }
        self.told(&name, &owned).await
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let request = request.into_inner();
        let (name, owned) = self.owned(&request.collection).await?;
        let actor = given("actor", request.actor, "say who holds")?;
        let reason = given(
            "reason",
            request.reason,
            "say why: it is shown as long as promotion is held",
        )?;
        self.swing(&name, |pointer, epoch, nonce, now| {
            pointer.hold_promotion(epoch, &actor, &reason, nonce, now)
        })
        .await?;
        tracing::warn!(collection = %name, actor, reason, "promotion is held");
        self.told(&name, &owned).await
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let request = request.into_inner();
        let (name, owned) = self.owned(&request.collection).await?;
        let actor = given("actor", request.actor, "say who resumes")?;
        self.swing(&name, |pointer, epoch, nonce, now| {
            pointer.resume_promotion(epoch, nonce, now)
        })
        .await?;
        tracing::info!(collection = %name, actor, "promotion goes on");
        self.told(&name, &owned).await
    }
}
