//! Carrying out: each action is one write to what was seen, a word to pods, or a swing of the pointer.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::EventType;
use serde_json::{Value, json};
use verdigris_core::manifest::LineageId;
use verdigris_core::pointer::EditRefused;
use verdigris_core::rollout::slots::{Action, DEMOTED_FOR_NS, SHED_FOR_NS, Selection, Slot, TargetId, Widened, Wish};
use verdigris_core::rollout::{self, Phase};
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{CommitError, commit};

use super::Context;
use super::claim::Claimed;
use super::names;
use super::observe::{Cluster, Looked};
use super::reconcile::{Memory, Moved, ReconcileError};
use super::render;
use super::resource::Collection;

/// Whether the list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Went {
    Done,
    /// It is not so any more: everything is looked at again.
    Otherwise,
}

/// One look's hand: what was seen, and where to write.
pub(crate) struct Hand<'a> {
    pub(crate) context: &'a Context,
    pub(crate) collection: &'a Collection,
    pub(crate) cluster: &'a Cluster,
    /// The pointer; none where pods have no lineage of their own.
    pub(crate) claimed: Option<&'a Claimed>,
    /// The epoch of this controller.
    pub(crate) epoch: u64,
    pub(crate) looked: &'a mut Looked,
    pub(crate) now: Timestamp,
    /// Where the rollout stands.
    pub(crate) phase: Phase,
}

impl Hand<'_> {
    fn name(&self) -> String {
        self.collection.name_any()
    }

    /// Does one thing.
    pub(crate) async fn carry_out(&mut self, action: &Action, memory: &mut Memory) -> Result<Went, ReconcileError> {
        let done = match action {
            Action::CreateServices => self.create_services().await,
            Action::Fence => self.fence().await,
            Action::Scale { slot, replicas } => self.scale(*slot, *replicas).await,
            Action::SetTarget { slot, target } => {
                let epoch = self.epoch;
                let object = render::deployment(self.collection, *slot, target, epoch, self.now);
                self.set_target(*slot, object).await
            }
            Action::Select(selection) => {
                let object = render::selecting(self.collection, selection, self.epoch, self.now);
                let done = self.apply_service(object).await;
                if done.is_ok() {
                    self.moved(selection, memory).await;
                }
                done
            }
            Action::Widen { slot, target, percent } => {
                let done = self.widen(target, *percent).await;
                if done.is_ok() {
                    memory.demoted_at = None;
                    let note = format!("slot {slot} gets {percent} % of the traffic");
                    self.tell(EventType::Normal, "TrafficWidened", note).await;
                }
                done
            }
            Action::Preview(target) => self.preview(target.as_ref()).await,
            Action::Demote(slot) => {
                memory.demoted_at = Some(self.now);
                let time = Duration::from_nanos(DEMOTED_FOR_NS.unsigned_abs());
                self.demote(*slot, time, 1.0).await;
                Ok(())
            }
            Action::Shed { slot, percent } => {
                memory.demoted_at = Some(self.now);
                let time = Duration::from_nanos(SHED_FOR_NS.unsigned_abs());
                self.demote(*slot, time, f64::from(*percent) / 100.0).await;
                Ok(())
            }
            Action::EndDemotion(slot) => {
                self.demote(*slot, Duration::ZERO, 1.0).await;
                Ok(())
            }
            Action::HoldPromotion(wish) => match self.claimed {
                Some(claimed) => return self.hold(claimed, wish).await,
                None => self.hold_pods(Some(wish)).await,
            },
            Action::Pointer(action) => return self.edit(action, memory).await,
        };
        match done {
            Ok(()) => Ok(Went::Done),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                tracing::debug!(collection = self.name(), "not so any more: {}", status.message);
                Ok(Went::Otherwise)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn moved(&self, selection: &Selection, memory: &mut Memory) {
        memory.demoted_at = None;
        let note = format!("traffic goes to slot {}, target {}", selection.slot, selection.target);
        self.tell(EventType::Normal, "TrafficMoved", note).await;
        let before = self.looked.traffic.as_ref();
        if before.is_none_or(|before| before.target.as_ref().is_none_or(|before| *before == selection.target)) {
            // What answers first was not moved to, and what answers again alone was not left.
            return;
        }
        let kind = if self.phase == Phase::Returning {
            "return"
        } else {
            "promote"
        };
        self.context.deps.metrics.flipped(&self.name(), kind);
        memory.moved = Some(Moved {
            target: selection.target.clone(),
            kind,
            at: self.now,
        });
    }

    async fn create_services(&mut self) -> Result<(), kube::Error> {
        let (name, epoch) = (self.name(), self.epoch);
        let preview = names::preview(&name);
        let made = self.create_service(&preview, epoch).await;
        match made {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made?),
        }
        let made = self.create_service(&name, epoch).await?;
        self.looked.version = made.resource_version();
        Ok(())
    }

    async fn create_service(&self, name: &str, epoch: u64) -> Result<Service, kube::Error> {
        let object = render::first_service(self.collection, name, epoch);
        let service: Service = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        self.cluster.services.create(&written(), &service).await
    }

    async fn fence(&mut self) -> Result<(), kube::Error> {
        let (name, epoch) = (self.name(), self.epoch.to_string());
        for slot in Slot::ALL {
            if self.looked.place(slot).version.is_some() {
                let patch = json!({"metadata": {"annotations": {names::EPOCH: epoch}}});
                self.patch_deployment(slot, patch).await?;
            }
        }
        let patch = json!({
            "metadata": {"resourceVersion": self.looked.version, "annotations": {names::EPOCH: epoch}},
        });
        let service = self
            .cluster
            .services
            .patch(&name, &merged(), &Patch::Merge(patch))
            .await?;
        self.looked.version = service.resource_version();
        Ok(())
    }

    async fn scale(&mut self, slot: Slot, replicas: u32) -> Result<(), kube::Error> {
        self.patch_deployment(slot, json!({"metadata": {}, "spec": {"replicas": replicas}}))
            .await?;
        let note = format!("slot {slot} is asked for {replicas} pods");
        self.tell(EventType::Normal, "Scaled", note).await;
        Ok(())
    }

    /// A merge into the Deployment as it was seen.
    pub(crate) async fn patch_deployment(&mut self, slot: Slot, mut patch: Value) -> Result<(), kube::Error> {
        patch["metadata"]["resourceVersion"] = json!(self.looked.place(slot).version);
        let name = names::deployment(&self.name(), slot);
        let patched = self
            .cluster
            .deployments
            .patch(&name, &merged(), &Patch::Merge(patch))
            .await?;
        self.looked.place_mut(slot).version = patched.resource_version();
        Ok(())
    }

    /// A merge into the active Service as it was seen.
    pub(crate) async fn patch_service(&mut self, mut patch: Value) -> Result<(), kube::Error> {
        patch["metadata"]["resourceVersion"] = json!(self.looked.version);
        let patch = Patch::Merge(patch);
        let patched = self.cluster.services.patch(&self.name(), &merged(), &patch).await?;
        self.looked.version = patched.resource_version();
        Ok(())
    }

    async fn set_target(&mut self, slot: Slot, mut object: Value) -> Result<(), kube::Error> {
        if self.looked.place(slot).version.is_none() {
            // Made as the least that may be, so that one which is there by now is not touched unseen.
            let first = render::first_deployment(self.collection, slot);
            let first: Deployment = serde_json::from_value(first).map_err(kube::Error::SerdeError)?;
            let made = self.cluster.deployments.create(&written(), &first).await?;
            self.looked.place_mut(slot).version = made.resource_version();
        }
        object["metadata"]["resourceVersion"] = json!(self.looked.place(slot).version);
        let name = names::deployment(&self.name(), slot);
        let applied = self
            .cluster
            .deployments
            .patch(&name, &applied(), &Patch::Apply(object))
            .await?;
        self.looked.place_mut(slot).version = applied.resource_version();
        let note = format!("slot {slot} is prepared");
        self.tell(EventType::Normal, "SlotPrepared", note).await;
        Ok(())
    }

    async fn apply_service(&mut self, mut object: Value) -> Result<(), kube::Error> {
        object["metadata"]["resourceVersion"] = json!(self.looked.version);
        let patch = Patch::Apply(object);
        let service = self.cluster.services.patch(&self.name(), &applied(), &patch).await?;
        self.looked.version = service.resource_version();
        Ok(())
    }

    async fn widen(&mut self, target: &TargetId, percent: u32) -> Result<(), kube::Error> {
        let before = self.looked.traffic.clone().unwrap_or_default();
        let widened = Widened {
            target: target.clone(),
            percent,
            since: self.now,
        };
        let object = render::widening(self.collection, &before, &widened, self.epoch);
        self.apply_service(object).await
    }

    async fn preview(&self, target: Option<&TargetId>) -> Result<(), kube::Error> {
        let target = target.map_or(names::NO_TARGET, TargetId::as_str);
        let patch = Patch::Merge(json!({"spec": {"selector": {names::TARGET: target}}}));
        let name = names::preview(&self.name());
        match self.cluster.services.patch(&name, &merged(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.create_service(&name, self.epoch).await.map(drop)
            }
            patched => patched.map(drop),
        }
    }

    /// A pod that does not hear it goes on answering, and is told again.
    async fn demote(&self, slot: Slot, time: Duration, share: f64) {
        let places = &self.looked.place(slot).pods;
        let told = places.iter().filter_map(|place| {
            let address = place.address.as_deref()?;
            let pods = &self.context.deps.pods;
            Some(async move { (&place.name, pods.demote(address, time, share).await) })
        });
        for (pod, told) in join_all(told).await {
            if let Err(why) = told {
                tracing::warn!(pod, "a pod could not be told whether it is demoted: {why}");
            }
        }
    }

    async fn hold(&self, claimed: &Claimed, wish: &Wish) -> Result<Went, ReconcileError> {
        let swung = claimed.swing(commit::nonce(), |pointer, epoch, nonce| {
            pointer.hold_promotion(epoch, &wish.actor, &wish.reason, nonce, self.now)
        });
        let went = went(swung.await.map(drop))?;
        let note = format!("held by {}: {}", wish.actor, wish.reason);
        self.tell(EventType::Warning, "PromotionHeld", note).await;
        Ok(went)
    }

    /// Holds image and settings of pods without a lineage of their own, or goes on.
    pub(crate) async fn hold_pods(&mut self, wish: Option<&Wish>) -> Result<(), kube::Error> {
        let held = wish.map(|wish| {
            let since = self.now.to_string();
            json!({"actor": wish.actor, "reason": wish.reason, "since": since}).to_string()
        });
        let patch = json!({"metadata": {"annotations": {names::HELD: held}}});
        self.patch_service(patch).await
    }

    async fn edit(&self, action: &rollout::Action, memory: &mut Memory) -> Result<Went, ReconcileError> {
        use rollout::Action as Edit;
        let (nonce, now) = (commit::nonce(), self.now);
        let Some(claimed) = self.claimed else {
            return Ok(Went::Otherwise);
        };
        match action {
            Edit::Level { lineage } => {
                memory.observation.leveling_since = Some(now);
                let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                    pointer.want_level(epoch, lineage, nonce, now)
                });
                went(edit.await.map(drop))
            }
            Edit::StopLeveling | Edit::LevelLater => {
                if matches!(action, Edit::LevelLater) {
                    memory.observation.leveling.fail(now);
                }
                let edit = claimed.swing(nonce, |pointer, epoch, nonce| pointer.stop_leveling(epoch, nonce, now));
                went(edit.await.map(drop))
            }
            Edit::Measure { lineage, generation } => {
                self.measure(memory, claimed, lineage, *generation);
                Ok(Went::Done)
            }
            Edit::Flip(flip) => {
                let edit = claimed.swing(nonce, |pointer, epoch, nonce| pointer.flip(epoch, flip, nonce, now));
                let went = went(edit.await.map(drop))?;
                let note = format!(
                    "lineage {} is promoted by {}: {}",
                    flip.lineage, flip.actor, flip.reason
                );
                self.tell_if(went, EventType::Normal, "Promoted", note).await;
                Ok(went)
            }
            Edit::Return(flip) => {
                let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                    pointer.return_to_way_back(epoch, flip, nonce, now)
                });
                let went = went(edit.await.map(drop))?;
                let note = format!(
                    "lineage {} answers again, by {}: {}",
                    flip.lineage, flip.actor, flip.reason
                );
                self.tell_if(went, EventType::Warning, "Returned", note).await;
                Ok(went)
            }
            Edit::Retire { lineage } => {
                let edit = claimed.swing(nonce, |pointer, epoch, nonce| {
                    pointer.drop_other(epoch, lineage, nonce, now)
                });
                let went = went(edit.await.map(drop))?;
                let note = format!("lineage {lineage} is no longer kept as the way back");
                self.tell_if(went, EventType::Normal, "WayBackEnded", note).await;
                Ok(went)
            }
        }
    }

    /// Begins to measure on one pod of the slot that holds the lineage.
    fn measure(&self, memory: &mut Memory, claimed: &Claimed, lineage: &LineageId, generation: u64) {
        let is_of = |slot: &Slot| {
            let target = self.looked.place(*slot).seen.target.as_ref();
            target.is_some_and(|target| target.lineage == *lineage)
        };
        let places = Slot::ALL
            .into_iter()
            .filter(is_of)
            .flat_map(|slot| &self.looked.place(slot).pods);
        let Some(address) = places.filter_map(|place| place.address.clone()).next() else {
            return;
        };
        let (pods, lineage) = (self.context.deps.pods.clone(), lineage.clone());
        let name = claimed.name.to_string();
        memory.measuring = Some(tokio::spawn(async move {
            pods.measure(&address, &name, &lineage, generation).await
        }));
    }

    async fn tell_if(&self, went: Went, kind: EventType, reason: &str, note: String) {
        if went == Went::Done {
            self.tell(kind, reason, note).await;
        }
    }

    async fn tell(&self, kind: EventType, reason: &str, note: String) {
        super::status::tell(self.context, self.collection, kind, reason, note).await;
    }
}

/// What an edit came to: refusals that only say that things have moved on end the list.
pub(crate) fn went(done: Result<(), CommitError>) -> Result<Went, ReconcileError> {
    match done {
        Ok(()) => Ok(Went::Done),
        Err(CommitError::Refused(
            refused @ (EditRefused::NotLevel { .. }
            | EditRefused::NotNamed(_)
            | EditRefused::NotCandidate(_)
            | EditRefused::NotWayBack(_)
            | EditRefused::Held { .. }),
        )) => {
            tracing::debug!("not so any more: {refused}");
            Ok(Went::Otherwise)
        }
        Err(error) => Err(error.into()),
    }
}

fn applied() -> PatchParams {
    PatchParams::apply(names::MANAGER).force()
}

fn merged() -> PatchParams {
    PatchParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn written() -> PostParams {
    PostParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PostParams::default()
    }
}
