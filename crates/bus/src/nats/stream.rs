//! The stream: made where there is none, and judged where there is one.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;
use serde_json::json;

use super::error::NatsError;
use super::link::Link;
use super::options::NatsOptions;

/// What a stream is, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    subjects: Vec<String>,
    retention: String,
    storage: String,
    #[serde(default)]
    discard: String,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_bytes: i64,
    /// Nanoseconds; 0 for none.
    #[serde(default)]
    max_age: u64,
    #[serde(default)]
    max_msgs_per_subject: i64,
    num_replicas: usize,
    #[serde(default)]
    no_ack: bool,
    #[serde(default)]
    sealed: bool,
    #[serde(default)]
    deny_purge: bool,
    #[serde(default)]
    allow_rollup_hdrs: bool,
    #[serde(default)]
    allow_msg_ttl: bool,
    #[serde(default)]
    allow_atomic: bool,
    #[serde(default)]
    mirror: Option<serde_json::Value>,
}

/// Where a stream begins and ends.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct State {
    first_seq: u64,
    #[serde(rename = "last_seq")]
    pub(super) end: u64,
}

/// What the broker says of the stream.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Info {
    pub(super) config: Config,
    pub(super) state: State,
}

impl Info {
    /// What is before this sequence may have been removed by the broker itself. Where it removes nothing, what is gone went
    /// by our own hand, and the marks tell of it.
    pub(super) fn first(&self) -> u64 {
        if self.broker_trims() {
            self.state.first_seq.max(1)
        } else {
            1
        }
    }

    /// Whether the broker itself removes events, read or not.
    pub(super) fn broker_trims(&self) -> bool {
        let config = &self.config;
        config.max_age > 0 || (config.discard == "old" && (config.max_bytes > 0 || config.max_msgs > 0))
    }

    pub(super) fn max_age(&self) -> Option<Duration> {
        (self.config.max_age > 0).then(|| Duration::from_nanos(self.config.max_age))
    }

    pub(super) fn may_purge(&self) -> bool {
        !self.config.deny_purge
    }

    pub(super) fn takes_batches(&self) -> bool {
        self.config.allow_atomic
    }
}

/// Why events would be lost in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Not a log: events go when somebody has read them.
    Retention(String),
    /// In memory: a restart loses accepted events.
    Storage(String),
    /// Events go before a reader that was away for long has read them.
    TooShort {
        /// The stream's age limit.
        age: Duration,
        /// What is needed.
        needed: Duration,
    },
    /// Older events of a collection go when newer ones come.
    PerSubject(i64),
    /// Publishers are not told that an event is durable.
    NoAck,
    /// Nothing can be added.
    Sealed,
    /// A copy of another stream: nothing can be published to it.
    Mirror,
    /// A publisher can remove the events before its own.
    Rollup,
    /// A publisher can let its events end unread.
    MessageTtl,
    /// Events would go elsewhere.
    Subjects(String),
    /// Fewer copies than asked for.
    Replicas {
        /// How many it has.
        has: usize,
        /// How many were asked for.
        wanted: usize,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retention(found) => write!(f, "its retention is {found}, where a log needs limits"),
            Self::Storage(found) => write!(f, "its storage is {found}, where accepted events need file"),
            Self::TooShort { age, needed } => {
                let hours = |span: &Duration| span.as_secs_f64() / 3_600.0;
                let (age, needed) = (hours(age), hours(needed));
                write!(f, "its max_age is {age} hours, {needed} are needed")
            }
            Self::PerSubject(most) => write!(f, "its max_msgs_per_subject is {most}, which removes unread events"),
            Self::NoAck => f.write_str("its no_ack keeps publishers from knowing what was accepted"),
            Self::Sealed => f.write_str("it is sealed"),
            Self::Mirror => f.write_str("it is a mirror; name the stream that it copies"),
            Self::Rollup => f.write_str("its allow_rollup_hdrs lets a publisher remove the events of others"),
            Self::MessageTtl => f.write_str("its allow_msg_ttl lets events end before they are read"),
            Self::Subjects(missing) => write!(f, "its subjects do not take {missing}"),
            Self::Replicas { has, wanted } => write!(f, "it has {has} replicas, {wanted} are asked for"),
        }
    }
}

/// Finds the stream, or makes it, and judges it.
pub(super) async fn find_or_make(link: &Link, options: &NatsOptions) -> Result<(), NatsError> {
    let info = match link.info().await {
        Err(NatsError::NoStream { .. }) if options.create => make(link, options).await?,
        found => found?,
    };
    match unfit(&info.config, options) {
        None => Ok(()),
        Some(unfit) => Err(NatsError::Unfit {
            stream: options.stream.clone(),
            unfit,
        }),
    }
}

async fn make(link: &Link, options: &NatsOptions) -> Result<Info, NatsError> {
    let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let age = options.max_age.unwrap_or_default();
    let mut config = json!({
        "name": options.stream,
        "description": "events of verdigris collections",
        "subjects": needed_subjects(&options.prefix),
        "retention": "limits",
        "storage": "file",
        // A full stream refuses what comes; it must not remove what nobody has read.
        "discard": "new",
        "num_replicas": options.replicas,
        "max_age": nanoseconds(age),
        "max_bytes": options.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": nanoseconds(options.max_age.map_or(options.duplicate_window, |age| age.min(options.duplicate_window))),
        // A hole in the middle of a log cannot be told from events of other collections.
        "deny_delete": true,
    });
    if link.client.is_server_compatible(2, 12, 0) {
        config["allow_atomic"] = true.into();
    }
    match link.call(format!("STREAM.CREATE.{}", options.stream), &config).await {
        // Another process was first, with other options: what there is will be judged.
        Err(NatsError::Refused { code, .. }) if code == ErrorCode::STREAM_NAME_EXIST.0 => link.info().await,
        made => {
            let made = made?;
            tracing::info!(stream = options.stream, "made the stream of events");
            Ok(made)
        }
    }
}

fn needed_subjects(prefix: &str) -> [String; 2] {
    [format!("{prefix}events.*"), format!("{prefix}marks.*")]
}

fn unfit(config: &Config, options: &NatsOptions) -> Option<Unfit> {
    let age = Duration::from_nanos(config.max_age);
    let subjects = needed_subjects(&options.prefix);
    let missing = subjects
        .iter()
        .find(|wanted| !config.subjects.iter().any(|pattern| takes(pattern, wanted)));
    let rules = [
        (config.mirror.is_some(), Unfit::Mirror),
        (config.sealed, Unfit::Sealed),
        (config.retention != "limits", Unfit::Retention(config.retention.clone())),
        (config.storage != "file", Unfit::Storage(config.storage.clone())),
        (
            // What is asked for here is known to be wanted.
            config.max_age > 0 && age < options.max_age.unwrap_or(options.age_at_least),
            Unfit::TooShort {
                age,
                needed: options.max_age.unwrap_or(options.age_at_least),
            },
        ),
        (
            config.max_msgs_per_subject > 0,
            Unfit::PerSubject(config.max_msgs_per_subject),
        ),
        (config.no_ack, Unfit::NoAck),
        (config.allow_rollup_hdrs, Unfit::Rollup),
        (config.allow_msg_ttl, Unfit::MessageTtl),
        (
            config.num_replicas < options.replicas,
            Unfit::Replicas {
                has: config.num_replicas,
                wanted: options.replicas,
            },
        ),
    ];
    let broken = rules
        .into_iter()
        .find(|(is_broken, _)| *is_broken)
        .map(|(_, unfit)| unfit);
    broken.or_else(|| missing.map(|missing| Unfit::Subjects(missing.clone())))
}

/// Whether a stream's subject takes all that another stands for.
fn takes(pattern: &str, wanted: &str) -> bool {
    let (mut pattern, mut wanted) = (pattern.split('.'), wanted.split('.'));
    loop {
        match (pattern.next(), wanted.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: serde_json::Value) -> Config {
        let mut config = json!({
            "subjects": ["v.events.*", "v.marks.*"], "retention": "limits", "storage": "file", "num_replicas": 1,
        });
        for (key, value) in change.as_object().expect("an object") {
            config[key] = value.clone();
        }
        serde_json::from_value(config).expect("a configuration")
    }

    #[track_caller]
    fn check(change: serde_json::Value, expect: Option<&str>) {
        let options = NatsOptions {
            prefix: "v.".to_owned(),
            ..NatsOptions::new("")
        };
        let found = unfit(&config(change), &options).map(|unfit| unfit.to_string());
        assert_eq!(found.as_deref(), expect);
    }

    #[test]
    fn a_stream_that_would_lose_events_is_refused_with_the_reason() {
        check(json!({}), None);
        check(json!({"subjects": ["v.>"], "max_age": 604_800_000_000_000_u64}), None);
        check(
            json!({"retention": "workqueue"}),
            Some("its retention is workqueue, where a log needs limits"),
        );
        check(
            json!({"storage": "memory"}),
            Some("its storage is memory, where accepted events need file"),
        );
        check(
            json!({"max_age": 3_600_000_000_000_u64}),
            Some("its max_age is 1 hours, 168 are needed"),
        );
        check(
            json!({"max_msgs_per_subject": 5}),
            Some("its max_msgs_per_subject is 5, which removes unread events"),
        );
        check(
            json!({"subjects": ["v.events.*"]}),
            Some("its subjects do not take v.marks.*"),
        );
        check(
            json!({"subjects": ["v.events.shoes", "v.marks.>"]}),
            Some("its subjects do not take v.events.*"),
        );
        for flag in ["no_ack", "sealed", "allow_rollup_hdrs", "allow_msg_ttl"] {
            assert!(
                unfit(&config(json!({flag: true})), &NatsOptions::new("")).is_some(),
                "{flag}"
            );
        }
        check(
            json!({"mirror": {"name": "A"}}),
            Some("it is a mirror; name the stream that it copies"),
        );
    }
}
