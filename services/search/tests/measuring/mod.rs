//! A search role that has seen a day, what it measures of a lineage, and what gates say against it.

pub(crate) mod graph;

use serde_json::Value;
use tonic::{Request, Status};
use verdigris_core::gates::{Gate, Measurements, Verdict};
use verdigris_core::settings::Settings;
use verdigris_proto::search::measurement_service_server::MeasurementService;
use verdigris_proto::search::query_service_server::QueryService;
use verdigris_proto::search::{Lineage, MeasureRequest, SetGoldenQueriesRequest};
use verdigris_search::{MeasurementRpc, QueryRpc};

use super::world::{Server, hash_settings, name};

pub(crate) fn settings() -> Settings {
    let mut settings = hash_settings(16);
    // With 64 an exact scan of a few thousand rows is cheaper than a walk, and no graph is asked.
    settings.ann.ef_search = 24;
    settings
}

pub(crate) fn text(document: &Value) -> String {
    let document = document.as_object().expect("a document is an object");
    verdigris_core::text::embedded_text(document, &settings().text.embed)
}

/// Keeps these golden queries, and asks what a sample is drawn from.
pub(crate) async fn sees_a_day(server: &Server, golden: &'static str) {
    let golden = SetGoldenQueriesRequest {
        collection: name().to_string(),
        content: golden.into(),
    };
    let queries = QueryRpc::new(server.search.clone());
    let kept = queries.set_golden_queries(Request::new(golden)).await;
    kept.expect("golden queries are kept");
    for text in [
        "copper drill",
        "oak saw Borwin",
        "lamp",
        "steel valve size 42",
        "number 77",
    ] {
        let found = server.search(text, Lineage::Active).await;
        found.expect("the active lineage answers");
    }
}

pub(crate) async fn measured(server: &Server, lineage: &str, generation: u64) -> Result<Measurements, Status> {
    let rpc = MeasurementRpc::new(server.search.clone());
    let request = MeasureRequest {
        collection: name().to_string(),
        lineage: lineage.to_owned(),
        generation,
    };
    let answer = rpc.measure(Request::new(request)).await?.into_inner();
    Ok(serde_json::from_str(&answer.measurements_json).expect("measurements are JSON"))
}

pub(crate) fn against(verdict: &Verdict) -> Vec<(Gate, String)> {
    verdict
        .against()
        .map(|found| (found.gate, found.text.clone()))
        .collect()
}
