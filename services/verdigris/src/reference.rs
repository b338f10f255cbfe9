//! `docs/configuration.md` holds what the tables of keys and the registered metrics say; tests hold it current.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use verdigris_controller::metrics::ControllerMetrics;
use verdigris_core::settings::Settings;
use verdigris_embed::Embedders;
use verdigris_indexer::metrics::IndexerMetrics;
use verdigris_runtime::config::{reference, table_mistakes};
use verdigris_runtime::demotion::Demotion;
use verdigris_runtime::metrics::{self, RpcMetrics};
use verdigris_search::metrics::SearchMetrics;

use crate::figures;
use crate::keys::keys;
use crate::measured::StoreMetrics;

/// Compares a page with what it should say; `UPDATE_DOCS=1` writes it.
fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).expect("writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{file} is not current: run `UPDATE_DOCS=1 cargo test -p verdigris reference`"
    );
}

#[test]
fn the_configuration_page_is_current() {
    assert!(table_mistakes(keys()).is_empty());
    let settings = serde_json::to_string_pretty(&Settings::default()).expect("settings are JSON");
    let page = format!(
        "# Configuration\n\n\
         ## Of the process\n\n\
         `verdigris up`, `verdigris indexer`, `verdigris search` (without a text) and `verdigris controller` take these from a TOML file (`--config`), from the environment, and from flags; the later wins.\n\
         `verdigris config show --origin` says where each value comes from.\n\
         A key that is not known is an error, with a suggestion; all mistakes are told at once.\n\n\
         {}\n\
         ## Of a collection: settings\n\n\
         `verdigris settings show` prints them, `verdigris settings set FILE` puts others into force with the next publish.\n\
         Absent keys have their defaults, which are these:\n\n\
         ```json\n{settings}\n```\n\n\
         Weights, windows, `ann.ef_search`, `ann.nprobe`, `bus` and [guards](guards.md) act in place.\n\
         The kind of revision, the embedder, the metric, the text fields and the index type are baked into stored rows: \
         on a collection that holds documents, changing them is refused as NEEDS_REBUILD.\n\n\
         `revision` is `event_time` or `number`; `embedder.provider` is `minilm`, `hash` or `none`; `metric` is `cosine` or `inner_product`.\n\
         `ann.index_type` is one of `Flat`, `HNSW32`, `HNSW32,SQ8,RFlat`, `IVF<lists>,Flat`, `IVF<lists>,SQ8,RFlat`, \
         `IVF<lists>,PQ<parts>x4fs,RFlat`; every one keeps exact vectors, and segments below 2,048 rows are exact whatever it says.\n",
        reference(keys())
    );
    check("configuration.md", &page);
}

#[test]
fn the_metrics_page_is_current_and_names_are_in_order() {
    let registry = metrics::registry().expect("a registry");
    RpcMetrics::register(&registry).expect("registered");
    IndexerMetrics::register(&registry).expect("registered").touch();
    SearchMetrics::register(&registry).expect("registered").touch();
    ControllerMetrics::register(&registry).expect("registered").touch();
    StoreMetrics::register(&registry).expect("registered").touch();
    figures::of_models(&registry, Arc::new(Embedders::new(PathBuf::new(), 1, None))).expect("registered");
    figures::of_cache(&registry, Arc::default()).expect("registered");
    figures::of_demotion(&registry, &Demotion::default()).expect("registered");
    assert_eq!(metrics::naming_mistakes(&registry), Vec::<String>::new());
    let page = format!(
        "# Metrics\n\nWhat `/metrics` says. Labels are bounded.\n\n{}",
        metrics::reference(&registry)
    );
    check("metrics.md", &page);
}
