//! A connection to a server: the services of one channel, with the caller's token on each call.
//!
//! Where the server is, is decided by `main`. Deadlines are set for each call by who makes it, since a search and a
//! resync have little in common. TLS is spoken where the address says https.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use verdigris_proto::admin::admin_service_client::AdminServiceClient;
use verdigris_proto::ingest::ingest_service_client::IngestServiceClient;
use verdigris_proto::rollout::rollout_service_client::RolloutServiceClient;
use verdigris_proto::search::measurement_service_client::MeasurementServiceClient;
use verdigris_proto::search::pod_service_client::PodServiceClient;
use verdigris_proto::search::query_service_client::QueryServiceClient;
use verdigris_proto::search::search_service_client::SearchServiceClient;
use verdigris_runtime::gather;

use crate::commands::CommandError;

/// How long a connection may take to come about: an address that swallows packets must not hold a command for minutes.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a usual call may take.
pub(crate) const CALL: Duration = Duration::from_secs(60);
/// How long a call may take that reads or writes a whole collection.
pub(crate) const LONG_CALL: Duration = Duration::from_secs(6 * 60 * 60);
/// How often a server is asked whether it is still there, while a call waits for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The largest answer that is read: more than any server of ours sends.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a server on a Unix domain socket is called in requests.
const SOCKET_HOST: &str = "http://localhost";

/// A channel whose calls carry the token.
pub(crate) type Authorized = InterceptedService<Channel, Credentials>;

/// A connection to a server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    authorized: Authorized,
    /// To where administration listens.
    administration: Authorized,
}

/// How a server is talked to: by which token, and who vouches for whom.
#[derive(Clone, Default)]
pub(crate) struct Access {
    credentials: Credentials,
    authorities: Option<Certificate>,
    identity: Option<Identity>,
}

/// What a call says about who makes it.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
}

/// Never the token itself: it must not reach a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("token", &self.authorization.is_some())
            .finish()
    }
}

// === impl Client ===

impl Client {
    /// Connects to a server at `url`, such as `http://127.0.0.1:7700`; without a scheme it is http. `unix:PATH` is a Unix domain socket.
    pub(crate) async fn connect(url: &str, access: &Access) -> Result<Self, CommandError> {
        Ok(Self::over(connect(url, access).await?, access.credentials()))
    }

    /// The same, where administration listens elsewhere.
    pub(crate) async fn administered_at(self, url: &str, access: &Access) -> Result<Self, CommandError> {
        let administration = InterceptedService::new(connect(url, access).await?, access.credentials());
        Ok(Self { administration, ..self })
    }

    /// A channel to a server that need not be there yet, and comes back when it does.
    pub(crate) fn lazy(url: &str, access: &Access) -> Result<Channel, CommandError> {
        Ok(endpoint(url, access)?.connect_lazy())
    }

    /// A client over a channel that is there already.
    pub(crate) fn over(channel: Channel, credentials: Credentials) -> Self {
        let authorized = InterceptedService::new(channel, credentials);
        Self {
            administration: authorized.clone(),
            authorized,
        }
    }

    /// Searches.
    pub(crate) fn search(&self) -> SearchServiceClient<Authorized> {
        SearchServiceClient::new(self.authorized.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Golden and asked queries.
    pub(crate) fn queries(&self) -> QueryServiceClient<Authorized> {
        QueryServiceClient::new(self.administration.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Events in.
    pub(crate) fn ingest(&self) -> IngestServiceClient<Authorized> {
        IngestServiceClient::new(self.authorized.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Rollouts.
    pub(crate) fn rollout(&self) -> RolloutServiceClient<Authorized> {
        RolloutServiceClient::new(self.administration.clone())
    }

    /// A search process.
    pub(crate) fn pods(&self) -> PodServiceClient<Authorized> {
        PodServiceClient::new(self.administration.clone())
    }

    /// Measuring.
    pub(crate) fn measurements(&self) -> MeasurementServiceClient<Authorized> {
        MeasurementServiceClient::new(self.administration.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Collections and what belongs to them.
    pub(crate) fn admin(&self) -> AdminServiceClient<Authorized> {
        AdminServiceClient::new(self.administration.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// A request with a deadline.
pub(crate) fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

async fn connect(url: &str, access: &Access) -> Result<Channel, CommandError> {
    let socket = url
        .strip_prefix("unix:")
        .map(|path| path.strip_prefix("//").unwrap_or(path));
    let endpoint = endpoint(if socket.is_some() { SOCKET_HOST } else { url }, access)?;
    let connected = match (socket, endpoint.uri().scheme_str()) {
        (Some(path), _) => gather::connect_socket(&endpoint, Path::new(path)).await,
        (None, Some("https")) => endpoint.connect().await,
        (None, _) => gather::connect(&endpoint).await,
    };
    connected.map_err(|source| CommandError::Unreachable {
        url: url.to_owned(),
        source,
    })
}

fn endpoint(url: &str, access: &Access) -> Result<Endpoint, CommandError> {
    let address = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let endpoint = Endpoint::from_shared(address);
    let endpoint = endpoint.map_err(|source| CommandError::Address {
        url: url.to_owned(),
        source,
    })?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("https") => endpoint
            .tls_config(access.tls())
            .map_err(|source| CommandError::Address {
                url: url.to_owned(),
                source,
            })?,
        _ => endpoint,
    };
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .user_agent(concat!("verdigris/", env!("CARGO_PKG_VERSION")))
        .expect("a name and a version are a header's value"))
}

// === impl Access ===

impl Access {
    /// A token in the first line of a file, authorities instead of those of the system, and a certificate with its key;
    /// each where it is given.
    pub(crate) fn read(
        token_file: Option<&Path>,
        ca_file: Option<&Path>,
        identity: Option<(&Path, &Path)>,
    ) -> Result<Self, CommandError> {
        let pem = |path: &Path| {
            fs::read(path).map_err(|source| CommandError::Read {
                path: path.display().to_string(),
                source,
            })
        };
        let identity = match identity {
            Some((certificate, key)) => Some(Identity::from_pem(pem(certificate)?, pem(key)?)),
            None => None,
        };
        Ok(Self {
            credentials: Credentials::read(token_file)?,
            authorities: ca_file.map(pem).transpose()?.map(Certificate::from_pem),
            identity,
        })
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    fn tls(&self) -> ClientTlsConfig {
        let config = match &self.authorities {
            Some(authorities) => ClientTlsConfig::new().ca_certificate(authorities.clone()),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some(identity) => config.identity(identity.clone()),
            None => config,
        }
    }
}

// === impl Credentials ===

impl Credentials {
    /// Calls with this token.
    pub(crate) fn bearer(token: &str) -> Option<Self> {
        let authorization = Some(token).filter(|token| !token.is_empty())?;
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {authorization}").parse().ok()?;
        authorization.set_sensitive(true);
        Some(Self {
            authorization: Some(authorization),
        })
    }

    /// Calls with the token in the first line of a file; without one when there is no file.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path else { return Ok(Self::default()) };
        Self::bearer(&token(path)?).ok_or_else(|| CommandError::Token { path: path.to_owned() })
    }
}

/// The token in the first line of a file.
pub(crate) fn token(path: &Path) -> Result<String, CommandError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| CommandError::Read {
        path: path.display().to_string(),
        source,
    })?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_but_never_shown() {
        let mut credentials = Credentials::bearer("s3cret").expect("a token");
        let request = credentials.call(Request::new(())).expect("passes");
        assert_eq!(request.metadata().get("authorization").expect("set"), "Bearer s3cret");
        assert!(!format!("{credentials:?} {request:?}").contains("s3cret"));
    }

    #[test]
    fn a_token_file_without_a_token_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        fs::write(&path, "\nsecond line\n").expect("written");
        let error = Credentials::read(Some(&path)).expect_err("no token");
        assert!(error.to_string().contains("token"), "{error}");
        fs::write(&path, "abc\r\n").expect("written");
        assert!(Credentials::read(Some(&path)).expect("a token").authorization.is_some());
    }

    #[tokio::test]
    async fn an_address_that_is_none_and_a_server_that_is_not_there_are_told_apart() {
        let error = Client::connect("http://[", &Access::default())
            .await
            .expect_err("no address");
        assert_eq!(error.reason(), "INVALID_ARGUMENT");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound").to_string();
        drop(free);
        let error = Client::connect(&address, &Access::default()).await.expect_err("nobody");
        assert_eq!(error.reason(), "SERVER_UNREACHABLE");
        assert!(error.message().contains("no server answers at"), "{}", error.message());
    }
}
