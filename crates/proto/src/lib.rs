//! The gRPC interface: generated code, and the stable reasons of errors.
//!
//! The code under `generated` comes from `proto/` by `make proto`; a test holds it current. Conversions to and from
//! domain types live with the roles, which know both.
#![forbid(unsafe_code)]

/// Searches: `verdigris.search.v1`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the .proto files say what things are"
)]
pub mod search {
    include!("generated/verdigris.search.v1.rs");
}

/// Events in: `verdigris.ingest.v1`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the .proto files say what things are"
)]
pub mod ingest {
    include!("generated/verdigris.ingest.v1.rs");
}

/// Collections, settings, releases, dead letters: `verdigris.admin.v1`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the .proto files say what things are"
)]
pub mod admin {
    include!("generated/verdigris.admin.v1.rs");
}

/// Rollouts: `verdigris.rollout.v1`.
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the .proto files say what things are"
)]
pub mod rollout {
    include!("generated/verdigris.rollout.v1.rs");
}

/// All of `proto/`, for server reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

pub mod reason;
