//! The second step of an event: which events go into the next release.
//!
//! A window closes after so many events or so many milliseconds. A backlog, or a collection without a release, widens
//! it, so that a first build makes one good base. After an unclean end windows begin at a single event and double, so
//! that an event that ends the process is found by name (I-12).

use std::time::Duration;

use verdigris_bus::{Bus, BusError, BusEvent, ReadLimits};
use verdigris_core::names::CollectionName;
use verdigris_core::settings::WindowSettings;
use verdigris_runtime::clock::Clock;

/// Events that go singly after an unclean end, each named in the pointer before it is touched.
pub(crate) const TRIAL_EVENTS: u64 = 64;
/// Bytes of payloads in one window: bounds memory, since an event may have a mebibyte.
const WINDOW_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Events per read of the bus, so that a long read can be cut off by its time.
const READ_EVENTS: u64 = 5_000;
/// How long a first build waits for another event before it takes what came.
const BUILD_QUIET: Duration = Duration::from_millis(750);

/// How careful windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caution {
    /// The last end was clean.
    None,
    /// Events left that go singly.
    Singly(u64),
    /// Windows of at most this many events.
    AtMost(u64),
}

impl Caution {
    /// Events that the next window may have.
    fn limit(self) -> u64 {
        match self {
            Self::None => u64::MAX,
            Self::Singly(_) => 1,
            Self::AtMost(events) => events,
        }
    }

    /// Where windows are published as candidates: events are not published singly, but rehearsed so.
    pub(crate) fn of_candidates(self) -> Self {
        match self {
            Self::Singly(_) => Self::AtMost(TRIAL_EVENTS),
            other => other,
        }
    }

    /// After a window of `events` was published.
    pub(crate) fn after(self, events: u64) -> Self {
        match self {
            Self::None => Self::None,
            Self::Singly(left) if left > events => Self::Singly(left - events),
            Self::Singly(_) => Self::AtMost(TRIAL_EVENTS),
            Self::AtMost(limit) if limit >= 100_000 => Self::None,
            Self::AtMost(limit) => Self::AtMost(limit * 2),
        }
    }
}

/// What decides how wide a window is.
pub(crate) struct WindowContext<'a> {
    pub(crate) collection: &'a CollectionName,
    pub(crate) settings: &'a WindowSettings,
    /// Sequence that the newest release ends with.
    pub(crate) after: u64,
    /// Whether there is no release yet.
    pub(crate) first_build: bool,
    pub(crate) caution: Caution,
}

/// Waits for events after the checkpoint and gathers a window of them; never empty. Cancel safe: it only reads.
pub(crate) async fn next_window(
    bus: &dyn Bus,
    clock: &Clock,
    context: &WindowContext<'_>,
) -> Result<Vec<BusEvent>, BusError> {
    bus.wait(context.collection, context.after).await?;
    let began = clock.now_ns();
    let backlog = bus.unread(context.collection, context.after).await?;
    let wide = context.first_build || backlog > u64::from(context.settings.backlog_events);
    let normal = Duration::from_millis(u64::from(context.settings.milliseconds));
    let (events_max, time_max) = if wide {
        (
            context.settings.build_events,
            Duration::from_secs(u64::from(context.settings.build_seconds)),
        )
    } else {
        (context.settings.events, normal)
    };
    let events_max = u64::from(events_max).min(context.caution.limit());
    let quiet = if context.first_build {
        BUILD_QUIET.max(normal)
    } else {
        normal
    };
    let mut window: Vec<BusEvent> = Vec::new();
    let mut bytes = 0;
    while (window.len() as u64) < events_max && bytes < WINDOW_BYTES_MAX {
        let after = window.last().map_or(context.after, |event| event.sequence);
        let left = time_max.saturating_sub(Duration::from_nanos((clock.now_ns() - began).max(0) as u64));
        if !window.is_empty() && left.is_zero() {
            break;
        }
        let limits = ReadLimits {
            events: READ_EVENTS.min(events_max - window.len() as u64),
            bytes: WINDOW_BYTES_MAX - bytes,
        };
        let read = bus.read(context.collection, after, limits).await?;
        if read.is_empty() {
            let wait = if wide { left.min(quiet) } else { left };
            if tokio::time::timeout(wait, bus.wait(context.collection, after))
                .await
                .is_err()
            {
                break;
            }
        }
        bytes += read.iter().map(|event| event.payload.len() as u64).sum::<u64>();
        window.extend(read);
    }
    Ok(window)
}
