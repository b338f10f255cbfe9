//! A runtime whose every choice follows from the seed: one thread, time that moves only when nothing else can, and
//! blocking work in the order in which it was asked for.
//!
//! Blocking work is held back until the runtime has nothing else to do, then done to its end while the runtime waits.
//! So no task ever sees a difference between a quick and a slow machine.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// The one thread for blocking work: it comes when there is work, and goes when there is none.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    asked_for: u64,
    gone: u64,
    is_open: bool,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("nobody panics with it"));
        self.moved.notify_all();
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let state = self.state.lock().expect("nobody panics with it");
        let reached = self.moved.wait_while(state, |state| !until(state));
        drop(reached.expect("nobody panics with it"));
    }

    /// Lets all blocking work be done.
    fn pass(&self) {
        let asked_for = self.state.lock().expect("nobody panics with it").asked_for;
        self.change(|state| state.is_open = true);
        self.wait(|state| state.gone >= asked_for);
        self.change(|state| state.is_open = false);
    }
}

/// The runtime of one story.
pub(crate) struct Turns {
    runtime: Option<Runtime>,
    gate: Arc<Gate>,
}

impl Turns {
    /// `name` is that of the threads for blocking work.
    pub(crate) fn new(name: String) -> Self {
        let gate = Arc::new(Gate::default());
        let (named, started, stopped, parked) = (gate.clone(), gate.clone(), gate.clone(), gate.clone());
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .max_blocking_threads(1)
            .thread_keep_alive(Duration::ZERO)
            // Called by whoever asks for the thread, before there is one.
            .thread_name_fn(move || {
                named.change(|state| state.asked_for += 1);
                name.clone()
            })
            .on_thread_start(move || started.wait(|state| state.is_open))
            .on_thread_stop(move || stopped.change(|state| state.gone += 1))
            .on_thread_park(move || parked.pass())
            .build()
            .expect("the system gives a runtime");
        Self {
            runtime: Some(runtime),
            gate,
        }
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("it is there until the end").block_on(work)
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // What still waits for its thread is let through.
        self.gate.change(|state| state.is_open = true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}
