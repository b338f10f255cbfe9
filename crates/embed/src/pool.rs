//! A lane: threads of its own for processor work, so that it neither stalls the async runtime nor waits behind other
//! work of another kind.
//!
//! Owned, not detached: dropping a lane ends its threads after the jobs they are in. No priorities; who wants to go
//! ahead has a lane of its own, and the operating system shares the cores out.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use tokio::sync::{Semaphore, oneshot};

use crate::EmbedError;

/// Jobs per thread that are under way or next. Further callers wait in their own futures, where giving up is free, so
/// memory is bounded by what callers hold.
const JOBS_PER_THREAD: usize = 2;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

struct Queue<S> {
    jobs: VecDeque<Job<S>>,
    closed: bool,
}

struct Shared<S> {
    queue: Mutex<Queue<S>>,
    wake: Condvar,
    scratch: fn() -> S,
}

impl<S> Shared<S> {
    /// A panic cannot happen between two changes to the queue, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Queue<S>> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job<S>> {
        let waits = |queue: &mut Queue<S>| queue.jobs.is_empty() && !queue.closed;
        let queue = self.wake.wait_while(self.lock(), waits);
        queue
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .jobs
            .pop_front()
    }

    fn work(&self) {
        let mut scratch = (self.scratch)();
        while let Some(job) = self.next() {
            // The job's sender dies with a panic, which tells the caller; the buffers may be half written.
            if catch_unwind(AssertUnwindSafe(|| job(&mut scratch))).is_err() {
                tracing::error!("an embedding job panicked");
                scratch = (self.scratch)();
            }
        }
    }
}

/// Threads that take jobs in order, each with buffers `S` of its own.
pub(crate) struct Lane<S> {
    shared: Arc<Shared<S>>,
    permits: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

impl<S: 'static> Lane<S> {
    /// Starts `threads` threads (at least one) called `name`.
    pub(crate) fn start(name: &str, threads: usize, scratch: fn() -> S) -> Result<Self, EmbedError> {
        let threads = threads.max(1);
        let queue = Mutex::new(Queue {
            jobs: VecDeque::new(),
            closed: false,
        });
        let shared = Arc::new(Shared {
            queue,
            wake: Condvar::new(),
            scratch,
        });
        let permits = Arc::new(Semaphore::new(threads * JOBS_PER_THREAD));
        let mut lane = Self {
            shared,
            permits,
            threads: Vec::with_capacity(threads),
        };
        for n in 0..threads {
            let shared = Arc::clone(&lane.shared);
            let thread = thread::Builder::new().name(format!("{name}-{n}"));
            lane.threads
                .push(thread.spawn(move || shared.work()).map_err(EmbedError::Thread)?);
        }
        Ok(lane)
    }

    /// Waits for a place and hands the work over. The receiver gives its result; when it is dropped before the work
    /// began, the work is not done. Cancel-safe.
    pub(crate) async fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, EmbedError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| EmbedError::GivenUp)?;
        let (sender, receiver) = oneshot::channel();
        let job = move |scratch: &mut S| {
            if !sender.is_closed() {
                // Nobody left to hear the answer is no error.
                let _ = sender.send(work(scratch));
            }
            drop(permit);
        };
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.wake.notify_one();
        Ok(receiver)
    }
}

impl<S> Drop for Lane<S> {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(waiting);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of jobs are caught, and the loop around them does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_the_lane_goes_on() {
        let lane: Lane<usize> = Lane::start("test", 1, || 7).unwrap();
        let broken = lane.submit(|_| -> usize { panic!("planned") }).await.unwrap();
        assert!(broken.await.is_err());
        assert_eq!(lane.submit(|scratch| *scratch).await.unwrap().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_not_done() {
        let lane: Lane<()> = Lane::start("test", 1, || ()).unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let (open, gate) = mpsc::channel::<()>();
        let first = lane.submit(move |()| gate.recv()).await.unwrap();
        let count = Arc::clone(&done);
        drop(
            lane.submit(move |()| count.fetch_add(1, Ordering::SeqCst))
                .await
                .unwrap(),
        );
        open.send(()).unwrap();
        first.await.unwrap().unwrap();
        lane.submit(|()| ()).await.unwrap().await.unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_dropped_wait_gives_its_place_back() {
        let lane: Lane<()> = Lane::start("test", 1, || ()).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let running = lane.submit(move |()| gate.recv()).await.unwrap();
        let next = lane.submit(|()| ()).await.unwrap();
        {
            let third = lane.submit(|()| ());
            tokio::pin!(third);
            assert!(
                futures_poll_once(third.as_mut()).await.is_none(),
                "a third job found a place"
            );
        }
        open.send(()).unwrap();
        running.await.unwrap().unwrap();
        next.await.unwrap();
        lane.submit(|()| ()).await.unwrap().await.unwrap();
    }

    #[tokio::test]
    async fn dropping_a_lane_ends_its_threads_and_answers_those_who_wait() {
        let lane: Lane<()> = Lane::start("test", 1, || ()).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel::<()>();
        let running = lane
            .submit(move |()| begin.send(()).map(|()| gate.recv()))
            .await
            .unwrap();
        begun.recv().unwrap();
        let waiting = lane.submit(|()| ()).await.unwrap();
        let dropper = thread::spawn(move || drop(lane));
        assert!(waiting.await.is_err(), "a job ran after its lane was dropped");
        open.send(()).unwrap();
        running.await.unwrap().unwrap().unwrap();
        dropper.join().unwrap();
    }

    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
