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

/// What a page token must agree with: everything that decides the order of hits. Written as bytes and not as text, which
/// would take as long as the search of a small catalog.
pub(crate) fn fingerprint(request: &SearchRequest) -> String {
    // Named one by one, so that a new field is not forgotten.
    let SearchRequest {
        collection,
        text,
        vector,
        mode,
        top_k: _,
        offset: _,
        page_token: _,
        filter,
        fields: _,
        ef_search,
        nprobe,
        min_score,
        min_position: _,
        lineage,
    } = request;
    let mut bytes = Vec::with_capacity(256 + collection.len() + text.len() + filter.len() + 4 * vector.len());
    for part in [collection, text, filter] {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.extend([*mode, *lineage].into_iter().flat_map(i32::to_le_bytes));
    bytes.extend([*ef_search, *nprobe].into_iter().flat_map(u32::to_le_bytes));
    bytes.push(u8::from(min_score.is_some()));
    bytes.extend(min_score.unwrap_or_default().to_le_bytes());
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
