//! Who may do what: tokens from a file, and scopes. Tokens are never logged and compared in constant time.
//! A verified certificate of the caller is worth the scope of administration, beside tokens or without them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tonic::codegen::http::HeaderMap;

use crate::tls::VerifiedCaller;

/// Tokens in one file at most.
const TOKENS_MAX: usize = 1_000;
/// The shortest token that is accepted: shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// What a token allows. Each scope is separate; a token may be listed with several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Search and read.
    Read,
    /// Send events.
    Ingest,
    /// Everything about collections, settings, releases and dead letters.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Ingest, Self::Admin];

    /// Its name in token files and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Ingest => "ingest",
            Self::Admin => "admin",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("token file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line that is not `scope token`.
    #[error("token file {}, line {line}: expected `read TOKEN`, `ingest TOKEN` or `admin TOKEN`, with a token of at least {TOKEN_BYTES_MIN} bytes", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// No token at all, or too many.
    #[error("token file {} has {found} tokens; 1 to {TOKENS_MAX} are needed", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Tokens in it.
        found: usize,
    },
    /// An address that others reach, without tokens.
    #[error("{address} is reachable from other machines: give --token-file, or say --insecure")]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or none that is known.
    Unauthenticated,
    /// A known token without the scope.
    PermissionDenied,
}

/// The tokens that are known; without a file, every call is allowed.
#[derive(Clone, Default)]
pub struct Tokens {
    /// Digests, so that comparing takes the same time whatever differs.
    known: Option<Vec<(Scope, blake3::Hash)>>,
    /// Whether certificates of callers are verified: then nobody administers without one or a token.
    certificates: bool,
}

/// Whether connections show certificates of callers that are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Callers have no certificates.
    Unknown,
    /// Callers may have one that an authority of ours signed.
    Certified,
}

impl Tokens {
    /// Everybody may do everything: for loopback, or where a person said so.
    pub fn open() -> Self {
        Self::default()
    }

    /// Reads a file with a line `scope token` for each token; `#` begins a comment.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut known = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(char::is_whitespace).and_then(|(scope, token)| {
                let scope = Scope::parse(scope)?;
                let token = token.trim();
                (token.len() >= TOKEN_BYTES_MIN && !token.contains(char::is_whitespace)).then_some((scope, token))
            });
            let (scope, token) = parsed.ok_or_else(|| TokenFileError::Line {
                path: path.to_owned(),
                line: n + 1,
            })?;
            known.push((scope, blake3::hash(token.as_bytes())));
        }
        if !(1..=TOKENS_MAX).contains(&known.len()) {
            return Err(TokenFileError::Count {
                path: path.to_owned(),
                found: known.len(),
            });
        }
        Ok(Self {
            known: Some(known),
            certificates: false,
        })
    }

    /// The same, where callers may have certificates.
    pub fn beside(self, callers: Callers) -> Self {
        Self {
            certificates: callers == Callers::Certified,
            ..self
        }
    }

    /// The tokens to serve `addresses` with: loopback needs none, other addresses need a file or a person's word.
    pub fn for_addresses(
        addresses: &[SocketAddr],
        file: Option<&Path>,
        insecure: bool,
    ) -> Result<Self, TokenFileError> {
        match (file, addresses.iter().find(|address| !address.ip().is_loopback())) {
            (Some(file), _) => Self::read(file),
            (None, Some(address)) if !insecure => Err(TokenFileError::Exposed { address: *address }),
            (None, _) => Ok(Self::open()),
        }
    }

    /// Whether a call with these headers, by a caller whose certificate was verified or not, may do what `scope` allows.
    pub fn check(&self, headers: &HeaderMap, caller: Option<VerifiedCaller>, scope: Scope) -> Result<(), Refusal> {
        if caller.is_some() && scope == Scope::Admin {
            return Ok(());
        }
        let Some(known) = &self.known else {
            // Whoever gave an authority for certificates did not mean that everybody administers.
            let is_closed = self.certificates && scope == Scope::Admin;
            return if is_closed {
                Err(Refusal::Unauthenticated)
            } else {
                Ok(())
            };
        };
        let header = headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|header| header.strip_prefix("Bearer "))
            .ok_or(Refusal::Unauthenticated)?;
        let digest = blake3::hash(token.trim().as_bytes());
        // `blake3::Hash` compares in constant time, and every token is compared.
        let scopes: Vec<Scope> = known
            .iter()
            .filter(|(_, known)| *known == digest)
            .map(|(scope, _)| *scope)
            .collect();
        match (scopes.contains(&scope), scopes.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err(Refusal::Unauthenticated),
            (false, false) => Err(Refusal::PermissionDenied),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Tokens, TokenFileError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("tokens");
        std::fs::write(&path, text).expect("writable");
        Tokens::read(&path)
    }

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
        headers
    }

    #[test]
    fn scopes_are_separate() {
        let tokens = tokens("# ours\nread 0123456789abcdef\n\ningest  fedcba9876543210\n").expect("valid");
        let refused = |headers: &HeaderMap, scope| tokens.check(headers, None, scope).err();
        let reader = bearer("0123456789abcdef");
        assert_eq!(refused(&reader, Scope::Read), None);
        assert_eq!(refused(&reader, Scope::Ingest), Some(Refusal::PermissionDenied));
        assert_eq!(refused(&reader, Scope::Admin), Some(Refusal::PermissionDenied));
        assert_eq!(refused(&bearer("fedcba9876543210"), Scope::Ingest), None);
        assert_eq!(
            refused(&bearer("0123456789abcdeX"), Scope::Read),
            Some(Refusal::Unauthenticated)
        );
        assert_eq!(refused(&HeaderMap::new(), Scope::Read), Some(Refusal::Unauthenticated));
    }

    #[test]
    fn a_verified_certificate_administers_and_does_nothing_else() {
        let tokens = tokens("read 0123456789abcdef\n").expect("valid");
        let refused = |tokens: &Tokens, caller, scope| tokens.check(&HeaderMap::new(), caller, scope).err();
        let caller = Some(VerifiedCaller);
        assert_eq!(refused(&tokens, caller, Scope::Admin), None);
        assert_eq!(refused(&tokens, caller, Scope::Read), Some(Refusal::Unauthenticated));
        assert_eq!(refused(&tokens, None, Scope::Admin), Some(Refusal::Unauthenticated));
        let without = Tokens::open().beside(Callers::Certified);
        assert_eq!(refused(&without, caller, Scope::Admin), None);
        assert_eq!(refused(&without, None, Scope::Read), None);
        assert_eq!(refused(&without, None, Scope::Admin), Some(Refusal::Unauthenticated));
    }

    #[test]
    fn wrong_files_are_refused_without_showing_a_token() {
        for (text, wanted) in [
            ("write 0123456789abcdef\n", "line 1"),
            ("read short\n", "line 1"),
            ("read 0123456789abcdef\nadmin\n", "line 2"),
            ("", "has 0 tokens"),
        ] {
            let error = tokens(text).err().expect("refused").to_string();
            assert!(error.contains(wanted) && !error.contains("0123456789abcdef"), "{error}");
        }
    }

    #[test]
    fn other_addresses_than_loopback_need_tokens_or_a_word() {
        let address = |text: &str| [text.parse().expect("an address")];
        assert!(Tokens::for_addresses(&address("127.0.0.1:1"), None, false).is_ok());
        assert!(Tokens::for_addresses(&address("[::1]:1"), None, false).is_ok());
        let error = Tokens::for_addresses(&address("0.0.0.0:1"), None, false)
            .err()
            .expect("refused");
        assert_eq!(
            error.to_string(),
            "0.0.0.0:1 is reachable from other machines: give --token-file, or say --insecure"
        );
        assert!(Tokens::for_addresses(&address("0.0.0.0:1"), None, true).is_ok());
    }
}
