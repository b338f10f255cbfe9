//! The process around the roles: clock, shutdown, telemetry, metrics, health, tokens, gRPC serving.
//!
//! Nothing of a role is known here, and nothing here reads the environment or catches a signal unless a `main` asks.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod authentication;
pub mod background;
pub mod backoff;
pub mod busy_poll;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod demotion;
pub mod gather;
pub mod http;
mod lazily;
pub mod listening;
pub mod metrics;
pub mod serving;
pub mod shutdown;
pub mod socket;
pub mod telemetry;
pub mod tls;
pub mod traces;
