//! What a store on S3 is told: where it is, how it is written, and how long anything may take.
//!
//! Deliberately absent: where credentials come from. Unless keys are given here, it is the standard chain of AWS:
//! environment, profile, web identity, container, instance.

use std::fmt;
use std::time::Duration;

use super::error::S3Error;
use crate::keys;

/// How objects are encrypted where they lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    None,
    /// With keys of S3 (SSE-S3).
    Sse,
    /// With this key of KMS, by id, alias or ARN (SSE-KMS).
    Kms(String),
}

/// Fixed keys, for a server that knows nothing better.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Name of the pair.
    pub access: String,
    /// The secret.
    pub secret: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// What a store on S3 is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket, which is there already.
    pub bucket: String,
    /// Everything of the store lies under it; empty for the whole bucket.
    pub prefix: String,
    /// The region; none: as the environment says.
    pub region: Option<String>,
    /// Address of a server that is not AWS, `http://` or `https://`; none: as the environment says.
    pub endpoint: Option<String>,
    /// The bucket in the path of the address and not in its host, as most servers want it that are not AWS.
    pub path_style: bool,
    /// How objects are encrypted where they lie.
    pub encryption: Encryption,
    /// Fixed keys; none: the standard chain.
    pub keys: Option<Keys>,
    /// After this time without an answer an attempt is over; one that moves bytes has a second more for each 256 KiB.
    pub attempt_timeout: Duration,
    /// Attempts of one read, listing or part. A write that the store decides about is sent once: whoever swings repeats.
    pub attempts: u32,
    /// Files of more bytes go up in parts.
    pub multipart_above: u64,
    /// Bytes of a part, at least; S3 wants five MiB or more.
    pub part_bytes: u64,
    /// Ranges and parts under way at once, of all objects together.
    pub parallel: usize,
    /// Whether it is tried out at the start that the store keeps its promises. It needs the right to write.
    pub probe: bool,
}

impl S3Options {
    /// Least bytes of a part, as S3 says it.
    pub const PART_BYTES_MIN: u64 = 5 << 20;

    /// A store in this bucket, under this prefix, with the defaults of everything else.
    pub fn new(bucket: &str, prefix: &str) -> Result<Self, S3Error> {
        let prefix = prefix.trim_end_matches('/');
        if !is_bucket(bucket) {
            return Err(S3Error::Bucket(bucket.to_owned()));
        }
        if !prefix.is_empty() && !keys::is_key(prefix) {
            return Err(S3Error::Prefix(prefix.to_owned()));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region: None,
            endpoint: None,
            path_style: false,
            encryption: Encryption::None,
            keys: None,
            attempt_timeout: Duration::from_secs(10),
            attempts: 5,
            multipart_above: 16 << 20,
            part_bytes: 8 << 20,
            parallel: 8,
            probe: true,
        })
    }

    /// A store by its address, `s3://bucket/prefix`, with the defaults of everything else.
    ///
    /// ```
    /// let options = verdigris_store::s3::S3Options::parse("s3://catalog/search/eu")?;
    /// assert_eq!((options.bucket.as_str(), options.prefix.as_str()), ("catalog", "search/eu"));
    /// # Ok::<(), verdigris_store::s3::S3Error>(())
    /// ```
    pub fn parse(url: &str) -> Result<Self, S3Error> {
        let address = url.strip_prefix("s3://").ok_or_else(|| S3Error::Url(url.to_owned()))?;
        let (bucket, prefix) = address.split_once('/').unwrap_or((address, ""));
        Self::new(bucket, prefix)
    }

    /// What is wrong with them, all at once.
    pub fn mistakes(&self) -> Vec<&'static str> {
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        let checks = [
            (
                self.endpoint.as_ref().is_none_or(is_url),
                "the endpoint begins with http:// or https://",
            ),
            (
                self.region.as_ref().is_none_or(|region| !region.is_empty()),
                "the region has a name",
            ),
            (
                self.encryption != Encryption::Kms(String::new()),
                "the KMS key has a name",
            ),
            (!self.attempt_timeout.is_zero(), "the time of an attempt is not zero"),
            (self.attempts > 0, "there is at least one attempt"),
            (self.part_bytes >= Self::PART_BYTES_MIN, "a part has at least five MiB"),
            (self.parallel > 0, "at least one range is read at a time"),
        ];
        let wrong = checks.into_iter().filter(|(is_right, _)| !is_right);
        wrong.map(|(_, rule)| rule).collect()
    }
}

/// Names of buckets that S3 gives and other servers too: lower case, and nothing that leads elsewhere in an address.
fn is_bucket(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.chars().all(|c| is_letter(c) || c == '-' || c == '.')
        && name.starts_with(is_letter)
        && name.ends_with(is_letter)
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<(&str, &str)>) {
        let options = S3Options::parse(url).ok();
        let found = options.as_ref().map(|o| (o.bucket.as_str(), o.prefix.as_str()));
        assert_eq!(found, expected, "{url}");
    }

    #[test]
    fn an_address_is_a_bucket_and_a_prefix() {
        check("s3://catalog", Some(("catalog", "")));
        check("s3://catalog/", Some(("catalog", "")));
        check("s3://my.catalog-1/a/b/", Some(("my.catalog-1", "a/b")));
        for wrong in [
            "",
            "catalog",
            "s3:catalog",
            "http://catalog/a",
            "s3://",
            "s3:///a",
            "s3://Catalog/a",
            "s3://ab/a",
            "s3://a..b/a",
            "s3://-ab/a",
            "s3://catalog/../other",
            "s3://catalog/a//b",
            "s3://catalog/.hidden",
            "s3://catalog?x",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn all_mistakes_of_options_are_told_at_once() {
        let mut options = S3Options::parse("s3://catalog").unwrap();
        assert_eq!(options.mistakes(), Vec::<&str>::new());
        options.endpoint = Some("127.0.0.1:9000".to_owned());
        options.attempts = 0;
        options.part_bytes = 1;
        options.encryption = Encryption::Kms(String::new());
        assert_eq!(options.mistakes().len(), 4, "{:?}", options.mistakes());
    }

    #[test]
    fn a_secret_is_not_printed() {
        let mut options = S3Options::parse("s3://catalog").unwrap();
        let (access, secret) = ("AKIAEXAMPLE".to_owned(), "do-not-tell".to_owned());
        options.keys = Some(Keys { access, secret });
        let printed = format!("{options:?}");
        assert!(
            !printed.contains("do-not-tell") && !printed.contains("AKIA"),
            "{printed}"
        );
    }
}
