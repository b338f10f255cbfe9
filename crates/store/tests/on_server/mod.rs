//! The conformance suite on a server, by several clients of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use verdigris_store::Store;
use verdigris_store::conformance::{CASES, Fixture};

/// Clients that act at the same time.
const CLIENTS: usize = 3;

/// Handles of several clients, taken in turn.
struct OnServer {
    handles: Vec<Arc<dyn Store>>,
    next: AtomicUsize,
    folder: tempfile::TempDir,
}

#[async_trait]
impl Fixture for OnServer {
    async fn handle(&self) -> Arc<dyn Store> {
        self.handles[self.next.fetch_add(1, Ordering::SeqCst) % self.handles.len()].clone()
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn rounds(&self) -> u64 {
        32
    }

    fn tells_rewrites_apart(&self) -> bool {
        false
    }
}

/// Every case, each under a prefix of its own; `connect` makes a client for one.
pub(crate) async fn conforms(connect: impl AsyncFn(&str) -> Arc<dyn Store>) {
    for (n, (name, case)) in CASES.iter().enumerate() {
        println!("case: {name}");
        let mut handles = Vec::new();
        for _ in 0..CLIENTS {
            handles.push(connect(&format!("conformance/{n}")).await);
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        case(&OnServer {
            handles,
            next: AtomicUsize::new(0),
            folder,
        })
        .await;
    }
}
