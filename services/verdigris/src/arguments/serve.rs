//! `up`, and each role alone: flags of a process that serves.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flags of a process that serves; the rest of its configuration comes from a file and from the environment.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address of gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc: Option<SocketAddr>,
    /// Unix domain socket of gRPC beside its address, for programs of this user
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Address of metrics and health; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<SocketAddr>,
    /// Address of administration, apart from gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<SocketAddr>,
    /// File with a line `scope token` for each token; scopes are read, ingest, admin
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Serve an address beyond loopback without tokens
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Configuration file (TOML)
    #[arg(long, env = "VERDIGRIS_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Log format
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log: Option<LogFormat>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}
