//! The indexer of one collection, as far as its pointer shows it.

use std::sync::Arc;

use verdigris_core::digest::{ContentSum, Digest};
use verdigris_core::guards::Facts;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{Build, EditRefused, KeptRelease, ManifestReference, Pointer, Published};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_runtime::clock::Clock;
use verdigris_store::memory::MemoryStore;
use verdigris_store::{collection as objects, commit};

pub(crate) struct Indexer {
    store: Arc<MemoryStore>,
    name: CollectionName,
    clock: Clock,
}

impl Indexer {
    pub(crate) fn new(store: Arc<MemoryStore>, name: &str) -> Self {
        let (name, clock) = (name.parse().unwrap(), Clock::system());
        Self { store, name, clock }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.now_ns())
    }

    pub(crate) async fn pointer(&self) -> Pointer {
        objects::pointer(&*self.store, &self.name).await.unwrap().pointer
    }

    /// The lineage that its pointer claims to answer.
    pub(crate) async fn active(&self) -> String {
        self.pointer().await.active.unwrap().lineage.to_string()
    }

    async fn swing(&self, edit: impl Fn(&Pointer, String) -> Result<Pointer, EditRefused> + Send + Sync) -> Pointer {
        let nonce = commit::nonce();
        let swung = commit::swing(&*self.store, &self.name, nonce.clone(), |pointer| {
            edit(pointer, nonce.clone())
        });
        swung.await.unwrap()
    }

    fn release(lineage: &str, generation: u64) -> KeptRelease {
        KeptRelease {
            generation,
            lineage: lineage.to_owned().into(),
            manifest: reference(&format!("releases/{generation}-{lineage}")),
            created_at: Timestamp(1),
            checkpoint: generation,
            pinned: false,
            facts: Some(Facts {
                documents: 3_000,
                live_bytes: 3_000,
                deleted: 0,
                erased_bytes: 0,
            }),
        }
    }

    pub(crate) async fn publish_first(&self, lineage: &str) {
        let settings = Settings::default();
        objects::create(&*self.store, &self.name, &settings, commit::nonce(), self.now())
            .await
            .unwrap();
        self.swing(|pointer, nonce| pointer.claim("indexer", nonce, self.now()))
            .await;
        self.publish(lineage, None).await;
    }

    async fn publish(&self, lineage: &str, other: Option<&str>) {
        self.swing(|pointer, nonce| {
            let generation = pointer.generation + 1;
            let published = Published {
                release: Self::release(lineage, generation),
                settings: pointer.settings.clone(),
                grace_ns: 0,
                other: other.map(|other| Self::release(other, generation)),
            };
            pointer.publish(1, &published, nonce, self.now())
        })
        .await;
    }

    /// A build is begun and named, level with what answers.
    pub(crate) async fn publish_candidate(&self, lineage: &str) {
        self.swing(|pointer, nonce| {
            let build = Build {
                lineage: lineage.to_owned().into(),
                settings: pointer.settings.clone(),
                source: reference("source"),
                source_generation: 1,
                parts: Vec::new(),
                rows_done: 0,
                rows: 1,
                content: ContentSum::default(),
                documents: 0,
                actor: "ada".to_owned(),
                reason: "a new index".to_owned(),
                since: self.now(),
            };
            pointer.begin_build(1, build, nonce, self.now())
        })
        .await;
        let active = self.pointer().await.active.unwrap().lineage;
        self.publish(active.as_str(), Some(lineage)).await;
    }
}

fn reference(path: &str) -> ManifestReference {
    ManifestReference {
        path: path.to_owned(),
        digest: Digest::of(path.as_bytes()),
    }
}
