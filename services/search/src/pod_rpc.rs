//! What a search process says of itself to the controller of rollouts, and the controller's word that it is demoted.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use verdigris_core::names::CollectionName;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::pod_service_server::PodService;
use verdigris_proto::search::{DemoteRequest, GetPodRequest, Pod, PodCollection};
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::metrics::{RpcMetrics, resident_bytes};

use crate::Search;
use crate::answer::status_of_unknown;
use crate::lineages::{Followed, LineageState, LineageView, Lineages};
use crate::tenants;
use crate::window::WindowFacts;

/// Methods that are searches and reads, by how their names begin.
const SEARCHES: &str = "/verdigris.search.v1.SearchService/";
/// Collections of a prefix that are told of at once: who wants to know of one names it.
const TOLD_MAX: usize = 100;
/// The longest time that a demotion holds without being asked again: one that is forgotten must not last.
const DEMOTED_MAX: Duration = Duration::from_secs(60 * 60);

/// What the service knows beside the role.
#[derive(Clone)]
pub struct PodDeps {
    /// Connections for searches.
    pub demotion: Demotion,
    /// Calls of the process.
    pub calls: RpcMetrics,
}

/// The gRPC service.
pub struct PodRpc {
    search: Arc<Search>,
    deps: PodDeps,
}

impl PodRpc {
    /// The service over the role.
    pub fn new(search: Arc<Search>, deps: PodDeps) -> Self {
        Self { search, deps }
    }

    /// Of this collection, or of all where none is named.
    fn pod(&self, named: Option<&CollectionName>) -> Pod {
        let deps = &self.search.deps;
        let at_most = match tenants::is_for_tenants(&self.search) {
            true => TOLD_MAX,
            false => usize::MAX,
        };
        let (open_collections, followed): (usize, Vec<Arc<Followed>>) = {
            let all = self.search.lock();
            let told = all
                .values()
                .filter(|followed| named.is_none_or(|name| followed.name == *name));
            (all.len(), told.take(at_most).cloned().collect())
        };
        let (answered, failed) = self.deps.calls.calls(SEARCHES);
        let reasons = deps.readiness.reasons();
        let reasons: Vec<String> = reasons.iter().map(|(part, why)| format!("{part}: {why}")).collect();
        Pod {
            collections: followed.iter().flat_map(|followed| collections(followed)).collect(),
            answered,
            failed,
            connections: self.deps.demotion.connections(),
            told_to_go: self.deps.demotion.told_to_go(),
            demoted: self.deps.demotion.is_demoted(),
            lineage: deps
                .following
                .lineage
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            ready: reasons.is_empty(),
            not_ready_reason: reasons.join("; "),
            memory_bytes: resident_bytes().unwrap_or(0),
            memory_limit_bytes: deps.memory_limit.unwrap_or(0),
            open_collections: open_collections as u64,
        }
    }
}

/// Each lineage of a collection, the one that answers first.
fn collections(followed: &Followed) -> Vec<PodCollection> {
    let lineages = followed.lineages();
    let views = lineages.views();
    views.iter().map(|view| collection(followed, &lineages, view)).collect()
}

fn collection(followed: &Followed, lineages: &Lineages, view: &LineageView<'_>) -> PodCollection {
    let (now, before) = lineages.windows();
    let mut windows = now.into_iter().chain(before);
    let window = windows.find(|window| *window.lineage() == view.named.lineage);
    let window = window.map(|window| window.facts());
    let millis = |of: fn(&WindowFacts) -> Duration| window.as_ref().map_or(0.0, |facts| of(facts).as_secs_f64() * 1e3);
    let manifest = view.served.map(|served| served.release.manifest());
    PodCollection {
        collection: followed.name.to_string(),
        lineage: view.named.lineage.to_string(),
        generation: manifest.map_or(0, |manifest| manifest.generation),
        warm: view.state == LineageState::Warm,
        documents: manifest.map_or(0, |manifest| manifest.documents),
        bytes: manifest.map_or(0, |manifest| manifest.bytes()),
        ready_milliseconds: view.served.map_or(0, |served| served.ready.as_millis() as u64),
        stale_seconds: followed.stale().as_secs_f64(),
        problem: view
            .problem
            .map(|problem| format!("{}: {}", problem.reason.as_str(), problem.message))
            .unwrap_or_default(),
        window_answered: window.as_ref().map_or(0, |facts| facts.requests),
        window_failed: window.as_ref().map_or(0, |facts| facts.errors),
        window_p50_milliseconds: millis(|facts| facts.p50),
        window_p99_milliseconds: millis(|facts| facts.p99),
    }
}

#[tonic::async_trait]
impl PodService for PodRpc {
    async fn get_pod(&self, request: Request<GetPodRequest>) -> Result<Response<Pod>, Status> {
        let request = request.into_inner();
        if request.collection.is_empty() {
            return Ok(Response::new(self.pod(None)));
        }
        let name: CollectionName = request
            .collection
            .parse()
            .map_err(|error| Reason::InvalidCollection.status_for_field("collection", format!("{error}")))?;
        if request.open {
            let opened = self.search.collection(&name).await;
            opened.map_err(|error| status_of_unknown(&name, &error))?;
        }
        Ok(Response::new(self.pod(Some(&name))))
    }

    async fn demote(&self, request: Request<DemoteRequest>) -> Result<Response<Pod>, Status> {
        let request = request.into_inner();
        let wrong = |field: &str, message: String| Reason::InvalidArgument.status_for_field(field, message);
        let time = match request.time {
            None => Duration::ZERO,
            Some(time) => Duration::try_from(time).map_err(|_| wrong("time", "a time is not negative".to_owned()))?,
        };
        if time > DEMOTED_MAX {
            let message = format!("a demotion holds for {DEMOTED_MAX:?} at most; ask again before it ends");
            return Err(wrong("time", message));
        }
        let share = request.share.unwrap_or(1.0);
        if !(share > 0.0 && share <= 1.0) {
            return Err(wrong("share", format!("share is {share}: it is above 0 and up to 1")));
        }
        let was = self.deps.demotion.is_demoted();
        self.deps.demotion.demote(time, share);
        let is = self.deps.demotion.is_demoted();
        if was != is {
            tracing::info!(
                demoted = is,
                share,
                "connections for searches: {}",
                if is { "told to go" } else { "stay" }
            );
        }
        Ok(Response::new(self.pod(None)))
    }
}
