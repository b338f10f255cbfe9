//! Knowing that a collection has new events: one consumer of headers for all of them, begun by the first who waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::NatsError;
use super::link::Link;
use super::pull::{Begin, Consumer, Request, Selection};

/// How long one request for new messages stays with the broker.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// Headers that are asked for at once.
const PULL_MESSAGES: u64 = 1_000;
/// The first and the longest wait after an error.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Where each subject ends, as far as is known here.
pub(super) struct Watcher {
    known: Arc<Known>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Known {
    lasts: Mutex<BTreeMap<String, watch::Sender<u64>>>,
    /// How often it was begun anew: what there is may have changed in between.
    begun: watch::Sender<u64>,
}

impl Watcher {
    pub(super) fn new() -> Self {
        let known = Known {
            lasts: Mutex::default(),
            begun: watch::Sender::new(0),
        };
        Self {
            known: Arc::new(known),
            task: Mutex::default(),
        }
    }

    /// The last sequence of a subject, and how often the watching was begun.
    pub(super) fn subscribe(&self, link: &Arc<Link>, subject: &str) -> (watch::Receiver<u64>, watch::Receiver<u64>) {
        let mut task = self.task.lock().expect("nothing panics with it");
        if task.is_none() {
            *task = Some(tokio::spawn(watch_for_ever(link.clone(), self.known.clone())));
        }
        (self.known.sender(subject).subscribe(), self.known.begun.subscribe())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().expect("nothing panics with it").take() {
            task.abort();
        }
    }
}

impl Known {
    fn sender(&self, subject: &str) -> watch::Sender<u64> {
        let mut lasts = self.lasts.lock().expect("nothing panics with it");
        match lasts.get(subject) {
            Some(sender) => sender.clone(),
            None => lasts
                .entry(subject.to_owned())
                .or_insert_with(|| watch::Sender::new(0))
                .clone(),
        }
    }
}

async fn watch_for_ever(link: Arc<Link>, known: Arc<Known>) {
    let mut wait = RETRY.0;
    loop {
        let begun = *known.begun.borrow();
        let Err(error) = watch(&link, &known).await;
        if *known.begun.borrow() > begun {
            wait = RETRY.0;
        }
        tracing::debug!(%error, "watching for events begins anew");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn watch(link: &Link, known: &Known) -> Result<std::convert::Infallible, NatsError> {
    let selection = Selection {
        subject: link.all_events(),
        begin: Begin::LastOfEach,
        headers_only: true,
    };
    let mut consumer = Consumer::make(link, &selection).await?;
    known.begun.send_modify(|count| *count += 1);
    loop {
        let request = Request {
            messages: PULL_MESSAGES,
            bytes: 0,
            wait: Some(PULL_WAIT),
        };
        let mut pull = consumer.pull(link, request).await?;
        while let Some(delivered) = pull.next().await? {
            // Set, not raised: a log that was made anew begins below where the old one ended.
            known
                .sender(&delivered.message.subject)
                .send_replace(delivered.sequence);
        }
    }
}
