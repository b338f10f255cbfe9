//! The keys of a process that serves: addresses, tokens, load, logs, traces, shutdown. Roles have keys of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Key, Kind, Values};
use crate::authentication::Callers;
use crate::listening::{Drain, Farewell};
use crate::telemetry::{LogFormat, Telemetry};
use crate::tls::TlsFiles;

const NOTHING: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(3_600);

/// The keys.
pub const KEYS: &[Key] = &[
    Key {
        name: "grpc.address",
        kind: Kind::Address,
        default: Some("127.0.0.1:7700"),
        doc: "Where gRPC listens; port 0 takes a free one. Another address than loopback needs `grpc.token_file` or `grpc.insecure`.",
    },
    Key {
        name: "grpc.socket",
        kind: Kind::Path,
        default: None,
        doc: "A Unix domain socket that gRPC listens on as well, for programs of the same user on this machine (mode 0600, no TLS): a message costs less than over TCP.",
    },
    Key {
        name: "grpc.token_file",
        kind: Kind::Path,
        default: None,
        doc: "File with a line `scope token` for each token; scopes are read, ingest and admin.",
    },
    Key {
        name: "grpc.insecure",
        kind: Kind::Switch,
        default: Some("false"),
        doc: "Serves other addresses than loopback without tokens.",
    },
    Key {
        name: "grpc.concurrent_calls",
        kind: Kind::Count(1, 10_000),
        default: Some("256"),
        doc: "Calls of each scope answered at once; more are refused as OVERLOADED, with a hint when to try again.",
    },
    Key {
        name: "grpc.busy_poll",
        kind: Kind::Duration(NOTHING, Duration::from_millis(10)),
        default: Some("0 ns"),
        doc: "How long a thread looks for the next message after each, instead of sleeping: spares short searches the time that a sleeping processor takes to wake, and costs that processor. 0 is off; 200 us suits clients that ask one search after the other.",
    },
    Key {
        name: "grpc.tls_certificate",
        kind: Kind::Path,
        default: None,
        doc: "File with the certificate chain (PEM) that gRPC and administration are served with; read again when it changes. Needs `grpc.tls_key`.",
    },
    Key {
        name: "grpc.tls_key",
        kind: Kind::Path,
        default: None,
        doc: "File with the key (PEM) of `grpc.tls_certificate`.",
    },
    Key {
        name: "grpc.tls_client_ca",
        kind: Kind::Path,
        default: None,
        doc: "File with the authorities (PEM) of callers who may administer by a certificate, instead of a token of scope admin.",
    },
    Key {
        name: "admin.address",
        kind: Kind::Address,
        default: None,
        doc: "Where administration listens, apart from `grpc.address`. Without it `up` serves everything on `grpc.address`, and a role alone administers on 127.0.0.1:7702.",
    },
    Key {
        name: "http.address",
        kind: Kind::Address,
        default: Some("127.0.0.1:7701"),
        doc: "Where `/metrics`, `/healthz` and `/readyz` listen; port 0 takes a free one.",
    },
    Key {
        name: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: Some("text"),
        doc: "How logs are written, to standard error.",
    },
    Key {
        name: "log.filter",
        kind: Kind::Text,
        default: Some("info"),
        doc: "Which logs are written: a level, or levels by module such as `info,verdigris_search=debug`.",
    },
    Key {
        name: "trace.endpoint",
        kind: Kind::Text,
        default: None,
        doc: "OTLP collector (gRPC) that traces are sent to, such as `http://127.0.0.1:4317`; no traces without it.",
    },
    Key {
        name: "shutdown.notice",
        kind: Kind::Duration(NOTHING, HOUR),
        default: Some("0 ns"),
        doc: "From not ready until connections are told to go; behind a balancer, what it needs to hear of it.",
    },
    Key {
        name: "shutdown.limit",
        kind: Kind::Duration(NOTHING, HOUR),
        default: Some("30 s"),
        doc: "How long calls in flight may take after that; then they are cut.",
    },
];

/// Files of TLS of which a part is not said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given} is of no use without {missing}")]
pub struct IncompleteTls {
    given: &'static str,
    missing: &'static str,
}

/// The values of [`KEYS`].
#[derive(Debug, Clone)]
pub struct Process {
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// The Unix domain socket that gRPC listens on as well.
    pub socket: Option<PathBuf>,
    /// Where administration listens, where it has a port of its own.
    pub admin: Option<SocketAddr>,
    /// What TLS is served by.
    pub tls: Option<TlsFiles>,
    /// Where metrics and health listen.
    pub http: SocketAddr,
    /// File with tokens.
    pub token_file: Option<PathBuf>,
    /// Whether other addresses than loopback may be served without tokens.
    pub insecure: bool,
    /// Calls of each scope answered at once.
    pub concurrent_calls: usize,
    /// How long a thread looks for the next message; zero is off.
    pub busy_poll: Duration,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// How the server ends.
    pub drain: Drain,
}

impl Process {
    /// Reads the values of a configuration whose table has [`KEYS`] in it.
    ///
    /// # Errors
    /// Of what TLS needs, a part is missing.
    pub fn of(values: &Values) -> Result<Self, IncompleteTls> {
        const DEFAULT: &str = "the key has a default";
        Ok(Self {
            admin: values.address("admin.address"),
            tls: tls(values)?,
            grpc: values.address("grpc.address").expect(DEFAULT),
            socket: values.path("grpc.socket").map(PathBuf::from),
            http: values.address("http.address").expect(DEFAULT),
            token_file: values.path("grpc.token_file").map(PathBuf::from),
            insecure: values.switch("grpc.insecure").expect(DEFAULT),
            concurrent_calls: usize::try_from(values.count("grpc.concurrent_calls").expect(DEFAULT))
                .expect("the kind limits it"),
            busy_poll: values.duration("grpc.busy_poll").expect(DEFAULT),
            telemetry: Telemetry {
                format: if values.text("log.format") == Some("json") {
                    LogFormat::Json
                } else {
                    LogFormat::Text
                },
                filter: values.text("log.filter").expect(DEFAULT).to_owned(),
                otlp_endpoint: values.text("trace.endpoint").map(str::to_owned),
            },
            drain: Drain {
                notice: values.duration("shutdown.notice").expect(DEFAULT),
                limit: values.duration("shutdown.limit").expect(DEFAULT),
                farewell: Farewell::AtOnce,
            },
        })
    }

    /// Whether callers may show certificates.
    pub fn callers(&self) -> Callers {
        match &self.tls {
            Some(TlsFiles { client_ca: Some(_), .. }) => Callers::Certified,
            _ => Callers::Unknown,
        }
    }
}

fn tls(values: &Values) -> Result<Option<TlsFiles>, IncompleteTls> {
    const NAMES: [&str; 3] = ["grpc.tls_certificate", "grpc.tls_key", "grpc.tls_client_ca"];
    let [certificate, key, client_ca] = NAMES.map(|name| values.path(name).map(PathBuf::from));
    let incomplete = |given: usize, missing: usize| IncompleteTls {
        given: NAMES[given],
        missing: NAMES[missing],
    };
    match (certificate, key, client_ca) {
        (Some(certificate), Some(key), client_ca) => Ok(Some(TlsFiles {
            certificate,
            key,
            client_ca,
        })),
        (Some(_), None, _) => Err(incomplete(0, 1)),
        (None, Some(_), _) => Err(incomplete(1, 0)),
        (None, None, Some(_)) => Err(incomplete(2, 0)),
        (None, None, None) => Ok(None),
    }
}
