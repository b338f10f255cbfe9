//! Two that meet: indexers that take over from one another, merges and publishes, garbage collection beside both, and
//! events that end whoever reads them. The real roles on a real folder, with one call of the store kept waiting.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod roles;

#[path = "races/collecting.rs"]
mod collecting;
#[path = "races/holding.rs"]
mod holding;
#[path = "races/merging.rs"]
mod merging;
#[path = "races/poison.rs"]
mod poison;
#[path = "races/sleepers.rs"]
mod sleepers;
#[path = "races/streams.rs"]
mod streams;
