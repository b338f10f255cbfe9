//! TLS by files: certificates that change under a server, and callers who show one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use verdigris_runtime::authentication::{Callers, Tokens};
use verdigris_runtime::tls::{Tls, TlsError, TlsFiles};

use super::message;
use super::pair::{Pair, Setup, call};

/// A certificate for `localhost` that signs itself, and its key.
struct Own {
    certificate: String,
    key: String,
}

fn own() -> Own {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed");
    Own {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

fn write(folder: &Path, own: &Own) -> TlsFiles {
    let files = TlsFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        client_ca: None,
    };
    std::fs::write(&files.certificate, &own.certificate).expect("writable");
    std::fs::write(&files.key, &own.key).expect("writable");
    files
}

async fn pair(tls: Tls, tokens: Tokens) -> Pair {
    let tls = Some(tls);
    Pair::new(Setup {
        tls,
        tokens,
        ..Setup::default()
    })
    .await
}

async fn channel(pair: &Pair, roots: &[&Own], identity: Option<Identity>) -> Result<Channel, tonic::transport::Error> {
    let mut config = ClientTlsConfig::new().domain_name("localhost");
    for root in roots {
        config = config.ca_certificate(Certificate::from_pem(&root.certificate));
    }
    if let Some(identity) = identity {
        config = config.identity(identity);
    }
    let endpoint = Channel::from_shared(format!("https://{}", pair.address)).expect("a URL");
    endpoint.tls_config(config).expect("valid").connect().await
}

/// What the server shows to who comes now.
async fn shown(pair: &Pair, roots: &[&Own]) -> CertificateDer<'static> {
    let mut store = RootCertStore::empty();
    for root in roots {
        let root = CertificateDer::from_pem_slice(root.certificate.as_bytes()).expect("PEM");
        store.add(root).expect("usable");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(pair.address).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.expect("one of the certificates");
    let chain = stream.get_ref().1.peer_certificates().expect("shown");
    chain[0].clone().into_owned()
}

// Goal: an old certificate becomes a new one without a failed call; half of a change changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_exchanged_under_a_running_server() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (old, new) = (own(), own());
    let files = write(folder.path(), &old);
    let pair = pair(Tls::read(files.clone()).expect("a pair"), Tokens::open()).await;
    let both = [&old, &new];
    let before = channel(&pair, &both, None).await.expect("the old one");
    let calling = before.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let load = tokio::spawn(async move {
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            let answer = call(calling.clone(), "Echo".to_owned(), message("x")).await;
            assert_eq!(answer, Ok("x".to_owned()));
        }
    });
    // The new certificate with the old key is no pair: the server must not take it, nor end.
    std::fs::write(&files.certificate, &new.certificate).expect("writable");
    let is_old = CertificateDer::from_pem_slice(old.certificate.as_bytes()).expect("PEM");
    let until = tokio::time::Instant::now() + 2 * verdigris_runtime::tls::LOOK;
    while tokio::time::Instant::now() < until {
        assert_eq!(shown(&pair, &both).await, is_old);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::write(&files.key, &new.key).expect("writable");
    while shown(&pair, &both).await == is_old {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = channel(&pair, &[&new], None).await.expect("the new one");
    assert_eq!(
        call(after, "Echo".to_owned(), message("new")).await,
        Ok("new".to_owned())
    );
    assert_eq!(
        call(before, "Echo".to_owned(), message("old")).await,
        Ok("old".to_owned())
    );
    drop(stop);
    load.await.expect("no call failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_a_certificate_administers_without_a_token() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = own();
    let mut files = write(folder.path(), &server);
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no name");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).expect("signed");
    let issuer = Issuer::from_params(&authority, &authority_key);
    let caller_key = KeyPair::generate().expect("a key");
    let mut caller = CertificateParams::new(vec!["controller".to_owned()]).expect("a name");
    caller.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let caller = caller.signed_by(&caller_key, &issuer).expect("signed");
    let authority = folder.path().join("ca.crt");
    std::fs::write(&authority, authority_certificate.pem()).expect("writable");
    files.client_ca = Some(authority);
    let tls = Tls::read(files).expect("usable");
    let pair = pair(tls, Tokens::open().beside(Callers::Certified)).await;
    let ask = |channel, method: &str| call(channel, method.to_owned(), message("x"));
    let known = Identity::from_pem(caller.pem(), caller_key.serialize_pem());
    let known = channel(&pair, &[&server], Some(known)).await.expect("verified");
    assert_eq!(ask(known, "Administer").await, Ok("x".to_owned()));
    let unknown = channel(&pair, &[&server], None).await.expect("without one");
    assert_eq!(ask(unknown.clone(), "Echo").await, Ok("x".to_owned()));
    let refused = ask(unknown, "Administer").await.expect_err("nobody vouches");
    assert_eq!(refused.0, Code::Unauthenticated);
    // Signed by nobody that the server knows: not even a connection comes about.
    let stranger = own();
    let identity = Identity::from_pem(&stranger.certificate, &stranger.key);
    let answer = match channel(&pair, &[&server], Some(identity)).await {
        Ok(channel) => ask(channel, "Echo").await,
        Err(error) => Err((Code::Unavailable, error.to_string())),
    };
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_tls_is_hung_up_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pair = pair(Tls::read(write(folder.path(), &own())).expect("a pair"), Tokens::open()).await;
    let plain = Channel::from_shared(format!("http://{}", pair.address)).expect("a URL");
    let answer = match plain.connect().await {
        Ok(channel) => call(channel, "Echo".to_owned(), message("x")).await,
        Err(error) => Err((Code::Unavailable, error.to_string())),
    };
    assert!(answer.is_err());
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (one, other) = (own(), own());
    let files = write(folder.path(), &one);
    std::fs::write(&files.key, &other.key).expect("writable");
    let refused = |files: &TlsFiles| Tls::read(files.clone()).err().expect("refused");
    assert!(matches!(refused(&files), TlsError::Pair { .. }), "{}", refused(&files));
    std::fs::write(&files.certificate, "no PEM\n").expect("writable");
    assert!(refused(&files).to_string().contains("tls.crt"), "{}", refused(&files));
    std::fs::remove_file(&files.key).expect("there");
    write(folder.path(), &one);
    std::fs::remove_file(&files.key).expect("there");
    assert!(refused(&files).to_string().contains("tls.key"), "{}", refused(&files));
}
