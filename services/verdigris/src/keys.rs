//! The keys of roles: where releases and events are, what a search process follows, whom the controller asks.
//! Keys of any process that serves are the runtime's; `docs/configuration.md` has both.

use std::sync::LazyLock;
use std::time::Duration;

use verdigris_runtime::config::process::KEYS as PROCESS;
use verdigris_runtime::config::units::ByteSize;
use verdigris_runtime::config::{Key, Kind};

/// All keys of a process.
pub(crate) fn keys() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| PROCESS.iter().chain(ROLES).copied().collect());
    &KEYS
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        default: None,
        doc,
    }
}

/// Keys of roles.
const ROLES: &[Key] = &[
    key(
        "store.url",
        Kind::Text,
        "Where releases are: `file:DIR`, or `s3://bucket/prefix`. Without it the folder `store` of the data folder.",
    ),
    key(
        "store.region",
        Kind::Text,
        "Region of the bucket, where the environment does not say it.",
    ),
    key(
        "store.endpoint",
        Kind::Text,
        "Address of an S3 server that is not AWS, such as `http://127.0.0.1:9000`.",
    ),
    Key {
        name: "store.path_style",
        kind: Kind::Switch,
        default: Some("false"),
        doc: "Names the bucket in the path and not in the host, as most S3 servers that are not AWS want it.",
    },
    Key {
        name: "store.encryption",
        kind: Kind::Choice(&["none", "sse", "kms"]),
        default: Some("none"),
        doc: "Encryption that is asked of the bucket: what it does by itself, SSE-S3, or SSE-KMS with `store.kms_key`.",
    },
    key(
        "store.kms_key",
        Kind::Text,
        "Key of SSE-KMS, where `store.encryption` is kms.",
    ),
    key(
        "bus.url",
        Kind::Text,
        "Where events are: `sqlite:FILE`, or `nats://host:port`. Without it the file `bus.sqlite` of the data folder.",
    ),
    Key {
        name: "bus.stream",
        kind: Kind::Text,
        default: Some("VERDIGRIS"),
        doc: "Name of the JetStream stream; its subjects begin with the same word in small letters.",
    },
    key(
        "bus.credentials_file",
        Kind::Path,
        "Credentials for NATS, a `.creds` file.",
    ),
    key(
        "bus.ca_file",
        Kind::Path,
        "Authorities (PEM) of the NATS server, beside those of the system.",
    ),
    key(
        "cache.folder",
        Kind::Path,
        "Where files of a remote store are kept, for one process alone. Without it `cache/objects` in the data folder.",
    ),
    key(
        "cache.limit",
        Kind::Bytes(ByteSize(1 << 20), ByteSize(1 << 50)),
        "Bytes that these files may take. Two releases must fit: the one that answers and the next. Without it all that the disk has free, less 64 MiB.",
    ),
    key(
        "search.lineage",
        Kind::Text,
        "The only lineage that this process follows, active or not; ready when it is loaded and warm. Without it the pointer.",
    ),
    key(
        "search.collections",
        Kind::Text,
        "What a search process opens: names with commas between them, or a prefix with `*` behind it, opened on first use. Without it all.",
    ),
    Key {
        name: "search.idle",
        kind: Kind::Duration(Duration::from_secs(1), Duration::from_secs(30 * 24 * 3_600)),
        default: Some("15 min"),
        doc: "A collection of a prefix that nobody has asked for so long is closed; the next request opens it again.",
    },
    Key {
        name: "search.open_max",
        kind: Kind::Count(1, 10_000),
        default: Some("1000"),
        doc: "Collections of a prefix that are open at once: the one that is unused longest is closed before another is opened.",
    },
    key(
        "search.log",
        Kind::Switch,
        "Logs a line for each search. Without it a search process does and `up` does not.",
    ),
    key(
        "controller.search",
        Kind::Text,
        "Address of administration of the search process that a controller asks, where it runs without Kubernetes.",
    ),
    key(
        "controller.token_file",
        Kind::Path,
        "File whose first line is the token that a controller brings to search processes.",
    ),
    key(
        "controller.ca_file",
        Kind::Path,
        "Authorities (PEM) of search processes that a controller asks, beside those of the system.",
    ),
];
