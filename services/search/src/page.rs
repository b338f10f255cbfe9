//! Page tokens: where a search goes on, and in which release, so that all its pages come from one (I-7).
//!
//! A token is `{generation}.{offset}.{fingerprint of the search}.{lineage}`: both lineages have a release of the same
//! generation, and a flip between two pages must not change the one that answers.

use tonic::Status;
use verdigris_core::manifest::Manifest;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::SearchRequest;

/// A token that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageToken {
    pub(crate) generation: u64,
    pub(crate) lineage: String,
    pub(crate) offset: u32,
}

impl PageToken {
    /// The token for the hits of this release after `offset`.
    pub(crate) fn of(manifest: &Manifest, offset: u32) -> Self {
        Self {
            generation: manifest.generation,
            lineage: manifest.lineage.to_string(),
            offset,
        }
    }

    /// As a client gets it.
    pub(crate) fn encode(&self, fingerprint: &str) -> String {
        format!("{}.{}.{fingerprint}.{}", self.generation, self.offset, self.lineage)
    }

    /// Reads the token of a search with this fingerprint.
    pub(crate) fn parse(token: &str, fingerprint: &str) -> Result<Self, Status> {
        let wrong = |message: &str| Reason::InvalidPageToken.status_for_field("page_token", message);
        // A lineage may hold any character.
        let mut parts = token.splitn(4, '.');
        let parsed = (|| {
            let generation = parts.next()?.parse().ok()?;
            let offset = parts.next()?.parse().ok()?;
            let of = parts.next()?;
            let lineage = parts.next()?.to_owned();
            let token = Self {
                generation,
                lineage,
                offset,
            };
            Some((token, of))
        })();
        let (token, of) = parsed.ok_or_else(|| wrong("this is no page token"))?;
        if of != fingerprint {
            return Err(wrong("this page token belongs to another search"));
        }
        Ok(token)
    }
}

/// What a page token must agree with: everything that decides the order of hits.
pub(crate) fn fingerprint(request: &SearchRequest) -> String {
    let mut same = request.clone();
    same.page_token = String::new();
    same.offset = 0;
    same.top_k = 0;
    same.fields = Vec::new();
    same.min_position = String::new();
    // Writing numbers as text would take as long as the search of a small catalog.
    let vector = std::mem::take(&mut same.vector);
    let mut bytes = format!("{same:?}").into_bytes();
    bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
    let digest = verdigris_core::digest::Digest::of(&bytes).to_string();
    digest[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_one_of_another_search_is_refused() {
        let token = PageToken {
            generation: 7,
            lineage: "01.l".to_owned(),
            offset: 20,
        };
        let encoded = token.encode("abc");
        assert_eq!(PageToken::parse(&encoded, "abc").unwrap(), token);
        assert!(
            PageToken::parse(&encoded, "abd")
                .unwrap_err()
                .message()
                .contains("another search")
        );
        for text in ["", "7", "7.20.abc", "x.20.abc.l", "7.-1.abc.l"] {
            assert!(
                PageToken::parse(text, "abc")
                    .unwrap_err()
                    .message()
                    .contains("no page token"),
                "{text}"
            );
        }
    }
}
