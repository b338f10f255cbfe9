//! Long work that must not take a processor from answers and publishes: a thread of its own, of low priority.
//!
//! A thread that lowered its priority may not raise it again, so that none of the runtime's pool is used for the work.

use std::panic::resume_unwind;

use rustix::process::setpriority_process;
use tokio::task::{JoinHandle, spawn_blocking};

/// How nice background work is to everything else of this machine: about a tenth of a busy processor is left to it.
const NICE: i32 = 10;

/// Runs work on a thread of low priority. A panic of it is the handle's error, as of any task.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_blocking(move || {
        let lowered = move || {
            // On Linux the calling thread alone is meant. Without it the work is only less polite.
            if let Err(error) = setpriority_process(None, NICE) {
                tracing::debug!("the priority of background work cannot be lowered: {error}");
            }
            work()
        };
        let thread = std::thread::Builder::new().name("background".to_owned());
        match thread.spawn(lowered).map(std::thread::JoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(error) => panic!("no thread is to be had: {error}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_of_low_priority_and_leaves_that_of_others_as_it_is() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        assert_eq!(run(priority).await.unwrap(), NICE.max(before));
        assert_eq!(spawn_blocking(priority).await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_panic_is_the_error_of_the_handle() {
        let panicked = run(|| panic!("on purpose")).await;
        assert!(panicked.unwrap_err().is_panic());
    }
}
