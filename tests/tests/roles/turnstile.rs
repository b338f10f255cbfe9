//! A store at which one call can be made to wait: the writer that made it sleeps until the test wakes it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use verdigris_runtime::clock::Clock;
use verdigris_store::faults::Operation;
use verdigris_store::{Body, Get, ObjectMeta, Part, Precondition, Store, StoreError, Tag};

use super::PATIENCE;

type Rule = Box<dyn FnMut(Operation, &str) -> bool + Send>;

tokio::task_local! {
    /// Set where garbage is collected.
    static COLLECTS: ();
}

/// Marks all calls of this work as the collector's.
pub(crate) async fn collecting(work: impl Future<Output = ()>) {
    COLLECTS.scope((), work).await;
}

fn is_collector() -> bool {
    COLLECTS.try_with(|()| ()).is_ok()
}

/// More than the collector waits between two rounds, in nanoseconds.
pub(crate) const ROUND_NS: i64 = 61 * 1_000_000_000;

/// How long a look for the call takes before the test does its part to bring it about once more.
const TICK: Duration = Duration::from_millis(20);

/// A store in front of another.
pub(crate) struct Turnstile {
    inner: Arc<dyn Store>,
    armed: Mutex<Option<(Rule, Sender<Asleep>)>>,
}

/// Where a call will wait.
pub(crate) struct Stop {
    arrived: Receiver<Asleep>,
}

/// A call that waits; it goes on when this is dropped or told to.
#[derive(Debug)]
pub(crate) struct Asleep {
    pub(crate) operation: Operation,
    pub(crate) key: String,
    wake: oneshot::Sender<()>,
}

impl Turnstile {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let armed = Mutex::new(None);
        Arc::new(Self { inner, armed })
    }

    /// The next call for which the rule says so waits before it is made; only that one.
    pub(crate) fn stop_at(&self, rule: impl FnMut(Operation, &str) -> bool + Send + 'static) -> Stop {
        let (sender, arrived) = channel();
        *self.armed.lock().expect("nobody panics with it") = Some((Box::new(rule), sender));
        Stop { arrived }
    }

    /// The next swing waits, whoever of this process makes it.
    pub(crate) fn stop_at_swing(&self) -> Stop {
        self.stop_at(|operation, key| operation == Operation::Put && key.ends_with("/latest"))
    }

    /// The same for calls of the collector alone; the rule is asked of no other.
    pub(crate) fn stop_collector_at(&self, mut rule: impl FnMut(Operation, &str) -> bool + Send + 'static) -> Stop {
        self.stop_at(move |operation, key| is_collector() && rule(operation, key))
    }

    /// The same for all calls but the collector's.
    pub(crate) fn stop_others_at(&self, mut rule: impl FnMut(Operation, &str) -> bool + Send + 'static) -> Stop {
        self.stop_at(move |operation, key| !is_collector() && rule(operation, key))
    }

    /// Lets the collector list this often, whatever else sleeps: a round that lists once has ended when the next begins.
    pub(crate) fn let_collect(&self, clock: &Clock, lists: u32) {
        for _ in 0..lists {
            let stop = self.stop_collector_at(|operation, _| operation == Operation::List);
            stop.wait_while(|| clock.advance(ROUND_NS)).wake();
        }
    }

    async fn pass(&self, operation: Operation, key: &str) {
        let (wake, asleep) = oneshot::channel();
        {
            let mut armed = self.armed.lock().expect("nobody panics with it");
            if !armed.as_mut().is_some_and(|(rule, _)| rule(operation, key)) {
                return;
            }
            let (_, arrived) = armed.take().expect("it was there just now");
            let key = key.to_owned();
            if arrived.send(Asleep { operation, key, wake }).is_err() {
                return;
            }
        }
        // The test has gone when this fails, and nobody is left to be kept waiting for.
        let _ = asleep.await;
    }
}

impl Stop {
    /// Waits until a call has come.
    pub(crate) fn wait(self) -> Asleep {
        self.arrived.recv_timeout(PATIENCE).expect("a call comes by")
    }

    /// Does something again and again until a call has come.
    pub(crate) fn wait_while(self, mut act: impl FnMut()) -> Asleep {
        for _ in 0..PATIENCE.as_millis() / TICK.as_millis() {
            act();
            if let Ok(asleep) = self.arrived.recv_timeout(TICK) {
                return asleep;
            }
        }
        panic!("no call comes by");
    }
}

impl Asleep {
    /// Lets the call go on.
    pub(crate) fn wake(self) {
        // A writer that was killed in its sleep does not wake.
        let _ = self.wake.send(());
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Turnstile {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        self.pass(Operation::Get, key).await;
        self.inner.get(key, if_none_match).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.pass(Operation::GetRange, key).await;
        self.inner.get_range(key, range).await
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        self.pass(Operation::GetRange, key).await;
        self.inner.get_part(key, range, of).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        self.pass(Operation::Put, key).await;
        self.inner.put(key, body, precondition).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.pass(Operation::List, prefix).await;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.pass(Operation::Delete, key).await;
        self.inner.delete(key).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
