//! TLS by files: a certificate chain and its key, and certificates of those who may administer. Files that change are
//! read again; what does not fit together is told and the one before stays in force.
//!
//! Deliberately absent: making certificates, and choosing by the name that a client asks for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// How often files are looked at: certificates change some times a year, and a secret takes a minute to arrive.
pub const LOOK: Duration = Duration::from_secs(1);

/// Files that TLS goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those between it and its authority, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Authorities of those who may administer by a certificate, in PEM.
    pub client_ca: Option<PathBuf>,
}

/// Files that TLS cannot go by.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("{} holds no usable PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// They do not fit together.
    #[error("certificate {} and key {} do not fit together", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// A certificate of an authority that cannot be used.
    #[error("{} holds an authority that cannot be used", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// No verifier can be made of the authorities.
    #[error("client certificates cannot be verified")]
    Verifier(#[source] VerifierBuilderError),
}

/// That the caller's certificate was verified; an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub struct VerifiedCaller;

/// TLS by files, as they are now. Clones share it.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    current: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, or do not fit together.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let config = config(&files)?;
        Ok(Self {
            files: Arc::new(files),
            current: Arc::new(Mutex::new(config)),
        })
    }

    /// Accepts a connection by what is in force now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.lock().clone())
    }

    /// Looks at the files for as long as it is polled, and reads them when they have changed.
    pub async fn follow(&self, every: Duration) {
        let mut known = self.stamps();
        loop {
            tokio::time::sleep(every).await;
            let seen = self.stamps();
            if seen == known {
                continue;
            }
            match config(&self.files) {
                Ok(config) => {
                    *self.lock() = config;
                    tracing::info!(certificate = %self.files.certificate.display(), "another certificate is in force");
                }
                // Two files change one after the other: the second change is seen as well.
                Err(error) => tracing::warn!(
                    certificate = %self.files.certificate.display(),
                    "the certificate before stays in force: {error}"
                ),
            }
            known = seen;
        }
    }

    /// What tells one state of the files from another.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let files = [
            Some(&self.files.certificate),
            Some(&self.files.key),
            self.files.client_ca.as_ref(),
        ];
        let stamp = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&meta)))
        };
        files.into_iter().flatten().map(stamp).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<ServerConfig>> {
        self.current.lock().expect("held for a moment only")
    }
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has what every version of TLS needs");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            // Who shows none may still call what needs none, or bring a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
            builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Verifier)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect();
    let found = found.map_err(pem)?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(found)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Authority {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}
