//! Tests of several roles together live beside this file in `tests/`; here is only what they share.
#![forbid(unsafe_code)]

pub mod process;
pub mod servers;
pub mod watch;
