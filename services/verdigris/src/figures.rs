//! Figures that are read when somebody asks for them: tokens of models, the cache of a remote store, demotion.
//!
//! Deliberately absent: what is counted where it happens, which is most.

use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};
use verdigris_embed::Embedders;
use verdigris_runtime::demotion::Demotion;
use verdigris_store::fetch::VerifiedFiles;

type Read = Box<dyn Fn() -> u64 + Send + Sync>;

/// A figure that only grows.
struct Count(IntCounter, Mutex<Read>);

/// One that rises and falls.
struct Level(IntGauge, Read);

impl Collector for Count {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Two who ask at once must not both add what is new.
        let read = self.1.lock().expect("reading a figure does not panic");
        self.0.inc_by(read().saturating_sub(self.0.get()));
        self.0.collect()
    }
}

impl Collector for Level {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.set((self.1)() as i64);
        self.0.collect()
    }
}

fn count(registry: &Registry, name: &str, help: &str, read: Read) -> Result<(), prometheus::Error> {
    registry.register(Box::new(Count(IntCounter::new(name, help)?, Mutex::new(read))))
}

fn level(registry: &Registry, name: &str, help: &str, read: Read) -> Result<(), prometheus::Error> {
    registry.register(Box::new(Level(IntGauge::new(name, help)?, read)))
}

/// What models did.
pub(crate) fn of_models(registry: &Registry, embedders: Arc<Embedders>) -> Result<(), prometheus::Error> {
    count(
        registry,
        "verdigris_embed_tokens_total",
        "Tokens that models read, of queries and of documents; what a cache remembered is not among them",
        Box::new(move || embedders.tokens()),
    )
}

/// What is in the cache of a remote store.
pub(crate) fn of_cache(registry: &Registry, files: Arc<VerifiedFiles>) -> Result<(), prometheus::Error> {
    let removing = files.clone();
    level(
        registry,
        "verdigris_cache_bytes",
        "Bytes of whole files in the cache of a remote store",
        Box::new(move || files.cached().bytes),
    )?;
    count(
        registry,
        "verdigris_cache_removed_files_total",
        "Files that left the cache of a remote store to make room for others",
        Box::new(move || removing.cached().removed),
    )
}

/// Whether this process is demoted, and what that does.
pub(crate) fn of_demotion(registry: &Registry, demotion: &Demotion) -> Result<(), prometheus::Error> {
    let (is, told) = (demotion.clone(), demotion.clone());
    level(
        registry,
        "verdigris_rpc_demoted",
        "1 while connections are told to go because traffic belongs elsewhere",
        Box::new(move || u64::from(is.is_demoted())),
    )?;
    count(
        registry,
        "verdigris_rpc_told_to_go_total",
        "Connections that were told to go",
        Box::new(move || told.told_to_go()),
    )
}
