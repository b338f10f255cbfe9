//! The kind that the chart installs is the kind that this code reads.
//! Deliberately absent: the copies of it in k8s/, which `scripts/check-deploy` holds equal to the chart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::path::Path;

use verdigris_controller::kubernetes::crd_yaml;

/// Every field that is not there is taken out of what people write, without a word.
#[test]
fn the_chart_installs_the_definition_that_is_printed() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/verdigris/crds/collections.verdigris.dev.yaml");
    let installed = std::fs::read_to_string(file).unwrap();
    assert!(
        installed == crd_yaml(),
        "deploy/helm/verdigris/crds is not current: run `cargo build` and `scripts/check-deploy --update`"
    );
}
