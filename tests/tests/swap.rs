//! Releases go by under load: no request fails, each answer is of one release, and old releases leave nothing behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod roles;

#[path = "swap/in_flight.rs"]
mod in_flight;
#[path = "swap/load.rs"]
mod load;
#[path = "swap/model.rs"]
mod model;
#[path = "swap/spaces.rs"]
mod spaces;
