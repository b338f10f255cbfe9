//! The decisions of Verdigris, as total functions: data in, data out.
//!
//! Nothing here does I/O, waits, reads a clock, draws randomness, logs or uses `unsafe`. The roles carry out what this
//! crate decides, so that models, simulation and production run the same code.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod canonical;
pub mod checkpoint;
pub mod commit;
pub mod dead;
pub mod dead_letter;
pub mod digest;
pub mod document;
pub mod edit;
pub mod embedder;
pub mod erasure;
pub mod event;
pub mod garbage;
pub mod gates;
pub mod guards;
pub mod index_type;
mod json;
pub mod manifest;
pub mod merge;
pub mod names;
pub mod pointer;
pub mod position;
pub mod queries;
pub mod rebuild;
pub mod rejection;
pub mod resync;
pub mod retention;
pub mod revision;
pub mod rollout;
pub mod settings;
pub mod text;
pub mod timestamp;
