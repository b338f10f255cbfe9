//! Events in, as a log: each collection has a stream of events, with numbers that only grow.
//!
//! A bus keeps what was accepted and hands it out in order; what an event means is core's, and where a reader is, the
//! manifest's: nothing is acknowledged singly. [`SqliteBus`] is the embedded one, [`nats::NatsBus`] the one that processes
//! on several machines share. Each bus passes [`conformance`].
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bus;
mod error;
pub mod nats;
mod sqlite;

#[doc(hidden)]
pub mod conformance;

pub use self::bus::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, Appended, Bus, BusEvent, Clock, NewEvent, PAYLOAD_BYTES_MAX, ReadLimits,
    Retention, StreamState, facts,
};
pub use self::error::BusError;
pub use self::sqlite::{SqliteBus, SqliteOptions};
