//! The search role as the owner of rollouts sees it, in another process: asked by gRPC, on its port of administration.
//!
//! A process that does not answer has nothing open, as far as anybody knows: a rollout waits for it.

use std::time::Duration;

use async_trait::async_trait;
use tonic::Code;
use tonic::transport::Channel;
use verdigris_controller::{Searchers, Seen, window_of};
use verdigris_core::gates::Measurements;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::rollout::OtherSeen;
use verdigris_proto::search::measurement_service_client::MeasurementServiceClient;
use verdigris_proto::search::pod_service_client::PodServiceClient;
use verdigris_proto::search::{GetPodRequest, MeasureRequest, PodCollection};
use verdigris_runtime::config::Values;

use crate::client::{Access, Authorized, Client, within};
use crate::parts::Unusable;

/// How long a search process may take to say how it is.
const LOOK: Duration = Duration::from_secs(2);
/// How long measuring may take: minutes for a large catalog on a busy machine.
const MEASURE: Duration = Duration::from_secs(60 * 60);

/// The search role of another process.
pub(crate) struct Remote {
    pods: PodServiceClient<Authorized>,
    measurements: MeasurementServiceClient<Authorized>,
}

impl Remote {
    /// The one of a configuration. It need not be there yet.
    pub(crate) fn of(values: &Values) -> anyhow::Result<Self> {
        let url = values.text("controller.search");
        let url = url.ok_or(Unusable::absent(
            "controller.search",
            "an address such as http://127.0.0.1:7702",
        ))?;
        let access = Access::read(
            values.path("controller.token_file"),
            values.path("controller.ca_file"),
            None,
        )?;
        Ok(Self::over(Client::lazy(url, &access)?, &access))
    }

    fn over(channel: Channel, access: &Access) -> Self {
        let client = Client::over(channel, access.credentials());
        Self {
            pods: client.pods(),
            measurements: client.measurements(),
        }
    }

    /// How a collection is there; one of a prefix is opened first where that is asked for.
    async fn look(&self, name: &CollectionName, open: bool) -> Seen {
        let collection = name.to_string();
        let request = GetPodRequest { collection, open };
        let pod = self.pods.clone().get_pod(within(LOOK, request)).await;
        match pod {
            Ok(pod) => seen(name, pod.into_inner().collections),
            // That process follows others.
            Err(status) if status.code() == Code::NotFound => Seen::default(),
            Err(status) => {
                tracing::warn!(collection = %name, code = ?status.code(), "the search process does not answer: {}", status.message());
                Seen::default()
            }
        }
    }
}

#[async_trait]
impl Searchers for Remote {
    async fn seen(&self, name: &CollectionName) -> Seen {
        self.look(name, true).await
    }

    async fn seen_if_open(&self, name: &CollectionName) -> Seen {
        self.look(name, false).await
    }

    async fn measure(
        &self,
        name: &CollectionName,
        lineage: &LineageId,
        generation: u64,
    ) -> Result<Measurements, String> {
        let request = MeasureRequest {
            collection: name.to_string(),
            lineage: lineage.to_string(),
            generation,
        };
        let measured = self.measurements.clone().measure(within(MEASURE, request)).await;
        let measured = measured.map_err(|status| status.message().to_owned())?;
        let json = measured.into_inner().measurements_json;
        serde_json::from_str(&json)
            .map_err(|error| format!("the search process measures what this one does not know: {error}"))
    }
}

/// What a process that follows the pointer says of a collection: the active lineage first, then the other.
fn seen(name: &CollectionName, collections: Vec<PodCollection>) -> Seen {
    let mut of_name = collections.into_iter().filter(|pod| pod.collection == name.as_str());
    let (active, other) = (of_name.next(), of_name.next());
    Seen {
        window: active.as_ref().map(window_of),
        window_before: other.as_ref().filter(|other| other.window_answered > 0).map(window_of),
        other: other.map_or(OtherSeen::NotOpen, of_other),
    }
}

fn of_other(pod: PodCollection) -> OtherSeen {
    let lineage = LineageId::from(pod.lineage);
    match (pod.problem, pod.generation) {
        (why, _) if !why.is_empty() => OtherSeen::Refused { lineage, why },
        (_, 0) => OtherSeen::NotOpen,
        (_, generation) => OtherSeen::Ready { lineage, generation },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(collection: &str, lineage: &str, generation: u64) -> PodCollection {
        PodCollection {
            collection: collection.to_owned(),
            lineage: lineage.to_owned(),
            generation,
            ..PodCollection::default()
        }
    }

    #[test]
    fn the_second_lineage_of_a_collection_is_the_other() {
        let name: CollectionName = "products".parse().expect("a name");
        let told = || vec![pod("wiki", "w", 3), pod("products", "a", 7), pod("products", "b", 6)];
        let ready = |generation| OtherSeen::Ready {
            lineage: "b".to_owned().into(),
            generation,
        };
        assert_eq!(seen(&name, told()).other, ready(6));
        let mut opening = told();
        opening[2].generation = 0;
        assert_eq!(seen(&name, opening).other, OtherSeen::NotOpen);
        let mut broken = told();
        broken[2].problem = "DATA_DAMAGED: a flipped bit".to_owned();
        assert!(matches!(seen(&name, broken).other, OtherSeen::Refused { .. }));
        assert_eq!(seen(&name, told()[..2].to_vec()).other, OtherSeen::NotOpen);
    }

    #[test]
    fn the_window_of_the_way_back_is_the_one_before() {
        let name: CollectionName = "products".parse().expect("a name");
        let mut told = vec![pod("products", "a", 7), pod("products", "b", 6)];
        told[0].window_answered = 5;
        let now = seen(&name, told.clone());
        assert_eq!(
            (now.window.map(|window| window.requests), now.window_before),
            (Some(5), None)
        );
        told[1].window_answered = 9;
        assert_eq!(seen(&name, told).window_before.map(|window| window.requests), Some(9));
    }
}
