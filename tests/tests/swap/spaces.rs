//! I-17: a release that another model embedded never meets a query of ours, and no document of ours is added to it.

use std::sync::Arc;

use async_trait::async_trait;
use tonic::{Request, Status};
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_embed::{EmbedError, Embedder, HashEmbedder, TextKind};
use verdigris_proto::admin::UpdateSettingsRequest;
use verdigris_proto::admin::admin_service_server::AdminService;
use verdigris_proto::reason::{Reason, reason_of};
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{SearchMode, SearchRequest, SearchResponse};

use super::model::{Told, batch, check};
use super::roles::{Process, Start, World, name, settings};

/// The same coordinates by another recipe.
struct Another {
    inner: HashEmbedder,
    identity: EmbedderIdentity,
}

impl Another {
    fn new() -> Self {
        let inner = HashEmbedder::new(16).expect("a dimension");
        let revision = "another recipe".to_owned();
        let identity = EmbedderIdentity {
            revision,
            ..inner.identity().clone()
        };
        Self { inner, identity }
    }
}

#[async_trait]
impl Embedder for Another {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], kind: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.inner.embed(texts, kind).await
    }
}

fn search(process: &Process, mode: SearchMode) -> Result<SearchResponse, Status> {
    let request = SearchRequest {
        collection: name().to_string(),
        text: "moving".to_owned(),
        mode: mode.into(),
        top_k: 100,
        ..SearchRequest::default()
    };
    let answer = process.block_on(process.search.search(Request::new(request)));
    answer.map(tonic::Response::into_inner)
}

#[test]
fn a_release_of_another_model_is_neither_served_nor_added_to() {
    let world = World::new();
    world.create(&settings());
    let process = world.process("a");
    process.serve(batch(1));
    process.stop();
    let before = world.pointer().generation;
    let process = Process::start(&world, Start::new("b").with_embedder(Arc::new(Another::new())));
    for mode in [SearchMode::Hybrid, SearchMode::Vector, SearchMode::Words] {
        let refused = search(&process, mode).expect_err("I-17: two vector spaces met");
        assert_eq!(reason_of(&refused).as_deref(), Some("EMBEDDER_MISMATCH"), "{refused}");
    }
    assert!(!process.readiness.reasons().is_empty(), "it is not ready, and says so");
    let position = process.send(batch(2));
    assert_eq!(process.wait_for_standstill().reason, Reason::EmbedderMismatch);
    let told = process.searchable(&position).unwrap_err();
    assert_eq!(reason_of(&told).as_deref(), Some("EMBEDDER_MISMATCH"), "{told}");
    assert_eq!(world.pointer().generation, before, "nothing is added to it");
    process.stop();
    // With its own model all is well, and nothing that was accepted is lost.
    let process = world.process("c");
    process.searchable(&position).unwrap();
    process.serve(batch(3));
    let answer = search(&process, SearchMode::Hybrid).expect("its own model");
    check(&Told::default(), &answer, |_| true);
    process.stop();
}

#[test]
fn settings_of_another_vector_space_are_refused_while_there_are_documents() {
    let world = World::new();
    world.create(&settings());
    let process = world.process("a");
    process.serve(batch(1));
    for embedder in [
        r#"{"provider":"hash","dimension":32}"#,
        r#"{"provider":"none","dimension":16}"#,
    ] {
        let request = UpdateSettingsRequest {
            collection: name().to_string(),
            settings_json: format!(r#"{{"embedder":{embedder}}}"#),
        };
        let refused = process.block_on(process.admin.update_settings(Request::new(request)));
        let refused = refused.expect_err("I-17: it would need a rebuild");
        assert_eq!(reason_of(&refused).as_deref(), Some("NEEDS_REBUILD"), "{refused}");
    }
    process.serve(batch(2));
    let answer = search(&process, SearchMode::Vector).expect("as before");
    check(&Told::default(), &answer, |_| true);
    process.stop();
}
