//! Search in memory, synchronous: files in, hits out. The only crate with unsafe code.
#![warn(missing_docs)]

pub mod ann;
pub mod error;
pub mod filter;
pub mod mapped;
pub mod memory;
pub mod processor;
pub mod release;
pub mod rows;
pub mod segment;
pub mod words;
