//! Where the broker is, who we are to it, and what the stream must be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use tokio::sync::watch;

use super::error::NatsError;

/// The longest wait between two attempts to connect again.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// The first wait between two attempts to connect again.
const RECONNECT_MIN: Duration = Duration::from_millis(20);
/// How often a silent connection is tried, so that a dead one is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How a JetStream is used.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Servers, separated by commas: `nats://host:port`, or `tls://host:port` to insist on TLS.
    pub url: String,
    /// Name of the stream: one per store prefix.
    pub stream: String,
    /// What subjects begin with, with a dot at its end; events of a collection are at `{prefix}events.{collection}`.
    pub prefix: String,
    /// Whether the stream is made where there is none.
    pub create: bool,
    /// Copies of a stream that is made, on as many servers; an existing one must have as many at least.
    pub replicas: usize,
    /// The age at which the broker removes events of a stream that is made, read or not. Without one only
    /// [`crate::Bus::retain`] removes events, which never passes a checkpoint.
    pub max_age: Option<Duration>,
    /// The most bytes of a stream that is made: a full one refuses events.
    pub max_bytes: Option<u64>,
    /// How long a stream that is made remembers message ids.
    pub duplicate_window: Duration,
    /// The shortest age limit that an existing stream may have.
    pub age_at_least: Duration,
    /// The file with user JWT and seed, as `nsc` writes it.
    pub credentials_file: Option<PathBuf>,
    /// Certificates of authorities, as PEM, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key that this client shows, as PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long the broker may take for one answer.
    pub request_timeout: Duration,
    /// How long an append goes on trying before it says that the broker is away.
    pub append_timeout: Duration,
}

impl NatsOptions {
    /// The stream `VERDIGRIS` of this server, with the subjects `verdigris.events.{collection}`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            stream: "VERDIGRIS".to_owned(),
            prefix: "verdigris.".to_owned(),
            create: true,
            replicas: 1,
            max_age: None,
            max_bytes: None,
            duplicate_window: Duration::from_secs(120),
            age_at_least: Duration::from_secs(7 * 24 * 3_600),
            credentials_file: None,
            ca_file: None,
            client_certificate: None,
            request_timeout: Duration::from_secs(5),
            append_timeout: Duration::from_secs(10),
        }
    }

    /// What would fail later, said at once.
    pub(super) fn check(&self) -> Result<(), NatsError> {
        let is_token = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if !is_token(&self.stream) {
            return Err(NatsError::Option {
                name: "stream",
                value: self.stream.clone(),
                want: "letters, digits, - and _",
            });
        }
        let whole = self.prefix.strip_suffix('.');
        if !self.prefix.is_empty() && !whole.is_some_and(|prefix| prefix.split('.').all(is_token)) {
            return Err(NatsError::Option {
                name: "prefix",
                value: self.prefix.clone(),
                want: "words of letters, digits, - and _, each with a dot after it",
            });
        }
        if self.replicas == 0 || self.replicas > 5 {
            return Err(NatsError::Option {
                name: "replicas",
                value: self.replicas.to_string(),
                want: "1 to 5",
            });
        }
        Ok(())
    }

    /// The servers without what is secret in their addresses.
    pub(super) fn shown(&self) -> String {
        let hide = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            _ => url.to_owned(),
        };
        self.url
            .split(',')
            .map(|url| hide(url.trim()))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Connects; `connected` counts how often there was a connection.
    pub(super) async fn connect(&self, connected: Arc<watch::Sender<u64>>) -> Result<async_nats::Client, NatsError> {
        let mut options = ConnectOptions::new()
            .name("verdigris")
            .connection_timeout(self.request_timeout)
            .request_timeout(Some(self.request_timeout))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempts| {
                let doubled = RECONNECT_MIN.saturating_mul(1 << attempts.min(10));
                // Jitter: a restarted broker should not meet all its clients in the same millisecond.
                doubled.min(RECONNECT_MAX).mul_f64(rand::random_range(0.5..1.0))
            })
            .event_callback(move |event| {
                let connected = connected.clone();
                async move { told(&event, &connected) }
            });
        if let Some(path) = &self.credentials_file {
            let text = std::fs::read_to_string(path);
            options = text
                .and_then(|text| options.credentials(&text))
                .map_err(|source| NatsError::Credentials {
                    path: path.clone(),
                    source: Arc::new(source),
                })?;
        }
        if let Some(path) = &self.ca_file {
            std::fs::metadata(path).map_err(|source| NatsError::CaFile {
                path: path.clone(),
                source: Arc::new(source),
            })?;
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &self.client_certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let servers: Vec<async_nats::ServerAddr> = self
            .url
            .split(',')
            .map(|url| url.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| NatsError::Option {
                name: "url",
                value: self.shown(),
                want: "nats://host:port or tls://host:port",
            })?;
        options
            .connect(servers)
            .await
            .map_err(|error| NatsError::of_connect(self.shown(), error))
    }
}

fn told(event: &async_nats::Event, connected: &watch::Sender<u64>) {
    match event {
        async_nats::Event::Connected => {
            connected.send_modify(|count| *count += 1);
            tracing::info!("connected to the event broker");
        }
        async_nats::Event::Disconnected => tracing::warn!("the event broker is away; connecting again"),
        async_nats::Event::ServerError(error) => tracing::warn!(%error, "the event broker reports an error"),
        event => tracing::debug!(%event, "event broker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        let options = NatsOptions::new("nats://user:secret@a:4222, tls://token@b:4222,c:1");
        assert_eq!(options.shown(), "nats://a:4222,tls://b:4222,c:1");
    }

    #[test]
    fn names_that_a_broker_would_refuse_are_refused_at_once() {
        let with = |prefix: &str| NatsOptions {
            prefix: prefix.to_owned(),
            ..NatsOptions::new("")
        };
        for good in ["", "a.", "a.b-c.D_e."] {
            assert!(with(good).check().is_ok(), "{good}");
        }
        for bad in [".", "a", "a..b.", "*.", "a.>.", "a b."] {
            assert!(with(bad).check().is_err(), "{bad}");
        }
        let dotted = NatsOptions {
            stream: "a.b".to_owned(),
            ..NatsOptions::new("")
        };
        assert_eq!(
            dotted.check().map_err(|error| error.to_string()),
            Err("the option stream is \"a.b\"; it must be letters, digits, - and _".to_owned())
        );
    }
}
