//! What people ask of the owner of rollouts. A word is an edit of the pointer, made by the owner's epoch; what follows
//! from it, the owner does at its next look.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use verdigris_core::manifest::LineageId;
use verdigris_core::pointer::{LineagePointer, LineageRole};
use verdigris_core::rollout::ReturnWish;
use verdigris_proto::reason::Reason;
use verdigris_proto::rollout::rollout_service_server::RolloutService;
use verdigris_proto::rollout::*;

use crate::Controller;
use crate::collection::{Claim, Collection, Standing, WishRefused, Wished};
use crate::shown;

/// The gRPC service.
pub struct RolloutRpc {
    controller: Arc<Controller>,
}

impl RolloutRpc {
    /// The service over an owner.
    pub fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }

    async fn collection(&self, name: &str) -> Result<Arc<Collection>, Status> {
        let name = name
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        let collection = self.controller.collection(&name).await;
        collection.ok_or_else(|| Reason::CollectionNotFound.status(format!("collection {name} does not exist")))
    }
}

async fn fresh(collection: &Collection) -> Result<Standing, Status> {
    collection.fresh().await.map_err(|error| match error.is_gone() {
        true => Reason::CollectionNotFound.status(format!("collection {} was deleted", collection.name)),
        false => error.status(),
    })
}

async fn shown(collection: &Collection) -> Result<Response<Rollout>, Status> {
    Ok(Response::new(shown::rollout(&fresh(collection).await?)))
}

/// A text that must not be empty.
fn given(field: &str, text: String, why: &str) -> Result<String, Status> {
    if text.trim().is_empty() {
        return Err(Reason::InvalidArgument.status_for_field(field, format!("{field} is empty: {why}")));
    }
    Ok(text)
}

fn actor(text: String) -> Result<String, Status> {
    given("actor", text, "say who asks")
}

fn words(text: String) -> Result<String, Status> {
    given("reason", text, "say why, for those who read the history")
}

/// The other lineage, if it is this one.
fn named<'a>(standing: &'a Standing, lineage: &str, role: LineageRole) -> Result<&'a LineagePointer, Status> {
    let other = standing.pointer.other.as_ref().filter(|other| other.role == role);
    let meant = other.filter(|other| lineage.is_empty() || other.lineage.as_str() == lineage);
    meant.ok_or_else(|| match (role, other) {
        (LineageRole::WayBack, None) => Reason::NoWayBack.status("there is no way back to return to"),
        (LineageRole::WayBack, Some(other)) => {
            Reason::NoWayBack.status(format!("the way back is lineage {}, not {lineage}", other.lineage))
        }
        (_, None) => Reason::LineageNotFound.status(format!("lineage {lineage} is not the candidate; there is none")),
        (_, Some(other)) => Reason::LineageNotFound.status(format!(
            "lineage {lineage} is not the candidate; that is {}",
            other.lineage
        )),
    })
}

#[tonic::async_trait]
impl RolloutService for RolloutRpc {
    async fn get_rollout(&self, request: Request<GetRolloutRequest>) -> Result<Response<Rollout>, Status> {
        let collection = self.collection(&request.into_inner().collection).await?;
        shown(&collection).await
    }

    async fn promote(&self, request: Request<PromoteRequest>) -> Result<Response<Rollout>, Status> {
        let request = request.into_inner();
        let (collection, actor) = (self.collection(&request.collection).await?, actor(request.actor)?);
        let asked = given("lineage", request.lineage, "name the candidate that you looked at")?;
        let standing = fresh(&collection).await?;
        let lineage = named(&standing, &asked, LineageRole::Candidate)?.lineage.clone();
        let pointer = &standing.pointer;
        if let Some(hold) = pointer.publish_hold().or(pointer.promotion_hold.as_ref()) {
            let message = format!("promotion is held by {}: {}", hold.actor, hold.reason);
            return Err(Reason::PromotionHeld.status(message));
        }
        let judged = standing.plan.verdict.as_ref().map(|verdict| verdict.generation);
        if judged != Some(request.generation) {
            let judged = judged.map_or("not judged yet".to_owned(), |judged| {
                format!("judged at generation {judged}")
            });
            let message = format!(
                "lineage {lineage} is {judged}, not at {}: look again",
                request.generation
            );
            return Err(Reason::NotJudged.status(message));
        }
        let swung = self.controller.swing(&collection, |pointer, epoch, nonce, now| {
            pointer.approve(epoch, &lineage, request.generation, &actor, nonce, now)
        });
        swung.await.map_err(|error| error.status())?;
        shown(&collection).await
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<Rollout>, Status> {
        let request = request.into_inner();
        let collection = self.collection(&request.collection).await?;
        let (actor, reason) = (actor(request.actor)?, words(request.reason)?);
        let lineage: LineageId = given("lineage", request.lineage, "name what is given up")?.into();
        let swung = self.controller.swing(&collection, |pointer, epoch, nonce, now| {
            pointer.drop_other(epoch, &lineage, nonce, now)
        });
        swung.await.map_err(|error| error.status())?;
        tracing::info!(collection = %collection.name, %lineage, actor, reason, "given up");
        shown(&collection).await
    }

    async fn roll_back_rollout(&self, request: Request<RollBackRolloutRequest>) -> Result<Response<Rollout>, Status> {
        let request = request.into_inner();
        let collection = self.collection(&request.collection).await?;
        let (actor, reason) = (actor(request.actor)?, words(request.reason)?);
        // Whether it may is told before anybody waits.
        let claimed = self.controller.claim(&collection, false).await;
        claimed.map_err(|error| error.status())?;
        let standing = fresh(&collection).await?;
        let lineage = named(&standing, &request.lineage, LineageRole::WayBack)?
            .lineage
            .clone();
        let (done, told) = oneshot::channel();
        *collection.lock_wish() = Some(Wished {
            wish: ReturnWish { lineage, actor, reason },
            since: Instant::now(),
            done,
        });
        collection.wake.notify_one();
        match told.await {
            Ok(Ok(())) => shown(&collection).await,
            Ok(Err(refused @ WishRefused::NoWayBack(_))) => Err(Reason::NoWayBack.status(refused.to_string())),
            Ok(Err(refused @ WishRefused::NotOpen(_))) => Err(Reason::NotReady.status(refused.to_string())),
            // Another wish took its place, or the process ends.
            Err(_) => Err(Reason::ShuttingDown.status("somebody else asked to go back meanwhile, or the process ends")),
        }
    }

    async fn hold_promotion(&self, request: Request<HoldPromotionRequest>) -> Result<Response<Rollout>, Status> {
        let request = request.into_inner();
        let collection = self.collection(&request.collection).await?;
        let (actor, reason) = (actor(request.actor)?, words(request.reason)?);
        let swung = self.controller.swing(&collection, |pointer, epoch, nonce, now| {
            pointer.hold_promotion(epoch, &actor, &reason, nonce, now)
        });
        swung.await.map_err(|error| error.status())?;
        shown(&collection).await
    }

    async fn resume_promotion(&self, request: Request<ResumePromotionRequest>) -> Result<Response<Rollout>, Status> {
        let request = request.into_inner();
        let (collection, actor) = (self.collection(&request.collection).await?, actor(request.actor)?);
        let swung = self.controller.swing(&collection, |pointer, epoch, nonce, now| {
            pointer.resume_promotion(epoch, nonce, now)
        });
        swung.await.map_err(|error| error.status())?;
        tracing::info!(collection = %collection.name, actor, "promotion goes on");
        shown(&collection).await
    }

    async fn measure_again(&self, request: Request<MeasureAgainRequest>) -> Result<Response<Rollout>, Status> {
        let collection = self.collection(&request.into_inner().collection).await?;
        named(&fresh(&collection).await?, "", LineageRole::Candidate)?;
        collection.measure_again.store(true, Ordering::Relaxed);
        shown(&collection).await
    }

    async fn take_over(&self, request: Request<TakeOverRequest>) -> Result<Response<Rollout>, Status> {
        let request = request.into_inner();
        let (collection, actor) = (self.collection(&request.collection).await?, actor(request.actor)?);
        let before = collection.claim.lock().await.clone();
        let claimed = self.controller.claim(&collection, true).await;
        claimed.map_err(|error| error.status())?;
        if let Claim::Elsewhere(owner) = before {
            tracing::warn!(collection = %collection.name, owner, actor, "the rollouts are taken over by word");
        }
        shown(&collection).await
    }

    async fn list_served(&self, request: Request<ListServedRequest>) -> Result<Response<ListServedResponse>, Status> {
        let collection = self.collection(&request.into_inner().collection).await?;
        let standing = fresh(&collection).await?;
        Ok(Response::new(ListServedResponse {
            entries: shown::served(&standing.pointer),
        }))
    }
}
