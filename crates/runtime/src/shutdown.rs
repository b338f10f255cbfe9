//! Ending a process: one token that all tasks watch, and tasks with names whose unexpected end is the process's end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks of a process, by name.
#[derive(Clone)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    // Without a limit, because each task sends once at most.
    ended: mpsc::UnboundedSender<Ended>,
    /// How many tasks of a name run.
    running: Arc<Mutex<BTreeMap<String, usize>>>,
    /// What these tasks wait for before they begin.
    after: Option<CancellationToken>,
}

/// What the end of a task means that was not told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Reported,
    Expected,
}

/// A task that ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("task {name} ended unexpectedly{}", cause.as_ref().map(|cause| format!(": {cause:#}")).unwrap_or_default())]
pub struct Ended {
    /// The task's name.
    pub name: String,
    /// What it said.
    pub cause: Option<anyhow::Error>,
}

impl Tasks {
    /// No tasks yet. The receiver tells of tasks that ended unexpectedly.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Ended>) {
        let (ended, receiver) = mpsc::unbounded_channel();
        (
            Self {
                token: CancellationToken::new(),
                tracker: TaskTracker::new(),
                ended,
                running: Arc::default(),
                after: None,
            },
            receiver,
        )
    }

    /// The same tasks of the process, and a token: those that are spawned through them begin when it is cancelled, as it
    /// is when the process ends.
    pub fn later(&self) -> (Self, CancellationToken) {
        let begun = self.token.child_token();
        let later = Self {
            after: Some(begun.clone()),
            ..self.clone()
        };
        (later, begun)
    }

    /// The token that is cancelled when the process ends.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a task that runs until the token is cancelled; an earlier end, a panic among them, is reported.
    pub fn spawn(&self, name: impl Into<String>, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawn_as(name.into(), End::Reported, task);
    }

    /// Starts a task that may have no more to do before the token is cancelled; only an error or a panic is reported.
    pub fn spawn_passing(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.spawn_as(name.into(), End::Expected, task);
    }

    fn spawn_as(&self, name: String, end: End, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let (name, token, ended) = (name, self.token.clone(), self.ended.clone());
        let running = Running::begin(self.running.clone(), name.clone());
        let after = self.after.clone();
        let work = tokio::spawn(async move {
            if let Some(begun) = after {
                begun.cancelled().await;
            }
            task.await
        });
        self.tracker.spawn(async move {
            let _running = running;
            let cause = match work.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(panic) => Some(anyhow::Error::new(panic)),
            };
            let is_early = end == End::Reported && !token.is_cancelled();
            if is_early || cause.is_some() {
                // The receiver is gone only when the process ends anyway.
                let _ = ended.send(Ended { name, cause });
            }
        });
    }

    /// Names of tasks that run; after [`Tasks::end`], of those that did not end in time.
    pub fn running(&self) -> Vec<String> {
        lock(&self.running).keys().cloned().collect()
    }

    /// Tells all tasks to end and waits for them, at most `limit`; false when some did not.
    pub async fn end(&self, limit: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Has its name in the list of running tasks while it lives.
struct Running {
    names: Arc<Mutex<BTreeMap<String, usize>>>,
    name: String,
}

impl Running {
    fn begin(names: Arc<Mutex<BTreeMap<String, usize>>>, name: String) -> Self {
        *lock(&names).entry(name.clone()).or_default() += 1;
        Self { names, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut names = lock(&self.names);
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
    }
}

fn lock(names: &Mutex<BTreeMap<String, usize>>) -> MutexGuard<'_, BTreeMap<String, usize>> {
    names.lock().expect("no code panics while it holds this lock")
}

/// Waits for SIGTERM or SIGINT. Only a `main` calls this.
pub async fn terminated() -> std::io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_unexpectedly_is_reported_by_name() {
        let (tasks, mut ended) = Tasks::new();
        tasks.spawn("reader", async { anyhow::bail!("the file is gone") });
        let ended = ended.recv().await.expect("reported");
        assert_eq!(ended.to_string(), "task reader ended unexpectedly: the file is gone");
    }

    #[tokio::test]
    async fn a_panic_is_reported_by_name_too() {
        let (tasks, mut ended) = Tasks::new();
        tasks.spawn("reader", async { panic!("planted") });
        assert!(
            ended
                .recv()
                .await
                .expect("reported")
                .to_string()
                .starts_with("task reader ended unexpectedly")
        );
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_named() {
        let (tasks, _ended) = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        assert!(!tasks.end(Duration::ZERO).await);
        assert_eq!(tasks.running(), ["stuck"]);
    }

    #[tokio::test]
    async fn tasks_wait_for_what_they_come_after_or_for_the_end() {
        let (tasks, mut ended) = Tasks::new();
        let (later, begun) = tasks.later();
        later.spawn("publishing", async { anyhow::bail!("begun") });
        tasks.spawn("search", async { anyhow::bail!("not held") });
        assert_eq!(ended.recv().await.expect("reported").name, "search");
        assert_eq!(tasks.running(), ["publishing"], "it waits, and is known");
        begun.cancel();
        assert_eq!(ended.recv().await.expect("reported").name, "publishing");

        let (tasks, _ended) = Tasks::new();
        let ((later, _begun), token) = (tasks.later(), tasks.token());
        later.spawn("publishing", async move {
            token.cancelled().await;
            Ok(())
        });
        assert!(tasks.end(Duration::from_secs(60)).await, "what never began ends too");
    }

    #[tokio::test]
    async fn tasks_end_when_they_are_told_and_are_not_reported() {
        let (tasks, mut ended) = Tasks::new();
        let token = tasks.token();
        tasks.spawn("reader", async move {
            token.cancelled().await;
            Ok(())
        });
        assert!(tasks.end(Duration::from_secs(60)).await);
        assert!(ended.try_recv().is_err());
        assert!(tasks.running().is_empty());
    }
}
