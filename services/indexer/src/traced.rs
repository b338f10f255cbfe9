//! Which traces events belong to, from accepting them until a release holds them: that of the call that brought them,
//! and that which a CloudEvent names itself. Kept in memory alone, a bounded number.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde::Deserialize;
use verdigris_bus::BusEvent;
use verdigris_runtime::traces::{self, Trace};

/// Calls that are remembered: more than wait for a release at any time.
const CALLS_MAX: usize = 1_024;
/// The extension by which a CloudEvent names its trace.
const EXTENSION: &str = "traceparent";

/// Calls whose events may not be published yet.
#[derive(Default)]
pub(crate) struct Traced(Mutex<VecDeque<Call>>);

struct Call {
    first: u64,
    last: u64,
    trace: Trace,
}

impl Traced {
    /// Notes that the call which is being answered brought these events.
    pub(crate) fn accepted(&self, first: u64, last: u64) {
        let Some(trace) = Trace::current() else { return };
        let mut calls = self.lock();
        if calls.len() == CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back(Call { first, last, trace });
    }

    /// Traces of the events of a window, as far as they are known. Calls whose events are published are forgotten.
    pub(crate) fn of(&self, window: &[BusEvent]) -> Vec<Trace> {
        let (Some(first), Some(last), true) = (window.first(), window.last(), traces::is_exporting()) else {
            return Vec::new();
        };
        let (first, last) = (first.sequence, last.sequence);
        let mut calls = self.lock();
        let in_window = |call: &&Call| call.first <= last && call.last >= first;
        let mut found: Vec<Trace> = calls.iter().filter(in_window).map(|call| call.trace.clone()).collect();
        calls.retain(|call| call.last > last);
        drop(calls);
        found.extend(
            window
                .iter()
                .filter_map(|event| named(&event.payload))
                .take(traces::EVENTS_MAX),
        );
        found
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Call>> {
        self.0.lock().expect("held for a moment only")
    }
}

/// The trace that a CloudEvent names.
pub(crate) fn named(payload: &[u8]) -> Option<Trace> {
    #[derive(Deserialize)]
    struct Envelope {
        specversion: Option<String>,
        traceparent: Option<String>,
    }
    // Most events have none, and are not read twice for it.
    let has = payload
        .windows(EXTENSION.len())
        .any(|bytes| bytes == EXTENSION.as_bytes());
    let envelope: Envelope = has.then(|| serde_json::from_slice(payload).ok())??;
    envelope.specversion?;
    Trace::parse(&envelope.traceparent?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_cloudevent_names_its_trace_and_a_document_does_not() {
        let event = format!(r#"{{"specversion":"1.0","traceparent":"{PARENT}","data":{{}}}}"#);
        assert_eq!(named(event.as_bytes()), Trace::parse(PARENT));
        let document = format!(r#"{{"id":"1","traceparent":"{PARENT}"}}"#);
        assert_eq!(named(document.as_bytes()), None);
        assert_eq!(named(br#"{"specversion":"1.0","data":{"traceparent":7}}"#), None);
    }
}
