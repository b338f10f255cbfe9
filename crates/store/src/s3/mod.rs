//! Objects on S3 and on servers that speak it: creates by `If-None-Match`, swings by `If-Match`, and an honest word about
//! what became of a write.
//!
//! A write that the store decides about is sent once, by us and by the client below us: a repeated one that had succeeded
//! would be told as failed. Reads, listings and parts are repeated with growing waits, within a budget.
//!
//! Deliberately absent: buckets are not made here, versions of objects are not looked at, and directory buckets (S3
//! Express) do not list in order and are not supported.

mod error;
mod multipart;
mod options;
mod probe;
pub(crate) mod retry;

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{Credentials, StalledStreamProtectionConfig};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use tokio::sync::Semaphore;
use verdigris_core::timestamp::Timestamp;

use crate::error::StoreError;
use crate::keys;
use crate::object::{Body, Get, ObjectMeta, Part, Precondition, Store, Tag};
pub use error::{Promise, S3Error};
use error::{Seen, chain};
pub use options::{Encryption, Keys, S3Options};
use retry::Budget;

/// Bytes that a connection moves in a second at least; a slower one is given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;
/// Objects that S3 lists at once.
const PAGE_MAX: usize = 1_000;
/// Where servers that are not AWS are said to be, when nobody says otherwise: they take any name.
const REGION_OF_SERVERS: &str = "us-east-1";

/// A store in a bucket. Its clones share connections, budget and limits.
#[derive(Debug, Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    options: S3Options,
    /// The prefix with its `/`, or nothing.
    prefix: String,
    budget: Budget,
    parallel: Semaphore,
}

impl S3Store {
    /// Connects, and tries out that the store keeps its promises unless the options say not to.
    pub async fn connect(options: S3Options) -> Result<Self, S3Error> {
        let mistakes = options.mistakes();
        if !mistakes.is_empty() {
            return Err(S3Error::Options(mistakes));
        }
        let prefix = match options.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let inner = Inner {
            client: client(&options).await?,
            prefix,
            budget: Budget::default(),
            parallel: Semaphore::new(options.parallel),
            options,
        };
        let store = Self { inner: Arc::new(inner) };
        if store.inner.options.probe {
            probe::probe(&store.inner).await?;
        }
        Ok(store)
    }
}

async fn client(options: &S3Options) -> Result<Client, S3Error> {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let http = aws_smithy_http_client::Builder::new().tls_provider(tls).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(keys) = &options.keys {
        loader = loader.credentials_provider(Credentials::new(&keys.access, &keys.secret, None, None, "options"));
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(options.path_style)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if shared.region().is_none() {
        if shared.endpoint_url().is_none() {
            return Err(S3Error::Region);
        }
        config = config.region(Region::new(REGION_OF_SERVERS));
    }
    Ok(Client::from_conf(config.build()))
}

// === Attempts ===

impl Inner {
    /// The key in the bucket.
    fn object(&self, key: &str) -> Result<String, StoreError> {
        if keys::is_key(key) {
            return Ok(format!("{}{key}", self.prefix));
        }
        Err(StoreError::Key { key: key.to_owned() })
    }

    /// One attempt, which ends when it took too long for these bytes.
    async fn attempt<T>(&self, bytes: u64, call: impl Future<Output = Result<T, Seen>>) -> Result<T, Seen> {
        let limit = self.options.attempt_timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let ended = tokio::time::timeout(limit, call).await;
        ended.unwrap_or_else(|_| Err(Seen::nothing(format!("no answer within {limit:?}"))))
    }

    /// A call that may be made any number of times.
    async fn repeated<T, F: Future<Output = Result<T, Seen>>>(
        &self,
        may_repeat: impl Fn(&Seen) -> bool,
        call: impl Fn() -> F,
    ) -> Result<T, Seen> {
        let mut failures = 0;
        loop {
            match call().await {
                Ok(value) => {
                    self.budget.earn();
                    return Ok(value);
                }
                Err(seen) if may_repeat(&seen) && failures + 1 < self.options.attempts && self.budget.take() => {
                    tokio::time::sleep(retry::wait(failures)).await;
                    failures += 1;
                }
                Err(seen) => return Err(seen),
            }
        }
    }

    /// Reads as `request` says; none when it has not changed.
    async fn read(
        &self,
        request: GetObjectFluentBuilder,
        bytes: u64,
    ) -> Result<Option<(GetObjectOutput, Bytes)>, Seen> {
        let sent = self.attempt(0, async { request.send().await.map_err(Seen::of) }).await;
        let mut output = match sent {
            Err(seen) if seen.is(304) => return Ok(None),
            sent => sent?,
        };
        let body = std::mem::take(&mut output.body);
        let bytes = bytes.max(output.content_length.and_then(|n| u64::try_from(n).ok()).unwrap_or(0));
        let collected = async { body.collect().await.map_err(|error| Seen::nothing(chain(&error))) };
        let content = self.attempt(bytes, collected).await?.into_bytes();
        Ok(Some((output, content)))
    }

    async fn get(&self, key: &str, object: &str, known: Option<&Tag>) -> Result<Get, StoreError> {
        let call = || async move {
            let request = self.client.get_object().bucket(&self.options.bucket).key(object);
            self.read(request.set_if_none_match(known.map(|tag| tag.0.clone())), 0)
                .await
        };
        let Some((output, bytes)) = self
            .repeated(Seen::may_pass, call)
            .await
            .map_err(|seen| seen.of_read(key))?
        else {
            return Ok(Get::NotModified);
        };
        let tag = tag(key, output.e_tag)?;
        // A server may not know the condition.
        if known == Some(&tag) {
            return Ok(Get::NotModified);
        }
        let modified = timestamp(output.last_modified.as_ref());
        Ok(Get::Found { bytes, tag, modified })
    }

    async fn get_part(
        &self,
        key: &str,
        object: &str,
        range: &Range<u64>,
        of: Option<&Tag>,
    ) -> Result<Part, StoreError> {
        // HTTP knows no empty range; whether there is an object is asked with one byte.
        let end = range.end.max(range.start + 1);
        let (start, length) = (range.start, end - range.start);
        let call = || async move {
            let _turn = self.parallel.acquire().await.expect("it is never closed");
            let request = self.client.get_object().bucket(&self.options.bucket).key(object);
            let request = request.range(format!("bytes={start}-{}", end - 1));
            self.read(request.set_if_match(of.map(|tag| tag.0.clone())), length)
                .await
        };
        let (output, bytes) = match self.repeated(Seen::may_pass, call).await {
            Ok(Some(read)) => read,
            // It ends before the range begins.
            Err(seen) if seen.is(416) => (GetObjectOutput::builder().build(), Bytes::new()),
            Ok(None) => return Err(StoreError::no_answer(key)),
            Err(seen) => return Err(seen.of_read(key)),
        };
        let is_asked = output
            .content_range
            .as_ref()
            .is_some_and(|range| begins_at(range, start));
        if bytes.len() as u64 > length || !(bytes.is_empty() || is_asked) {
            let source = io::Error::other("the store answered with another range than the one asked for");
            let key = key.to_owned();
            return Err(StoreError::Refused { key, source });
        }
        let asked = bytes.len().min((range.end.saturating_sub(start)) as usize);
        Ok(Part {
            bytes: bytes.slice(..asked),
            tag: output.e_tag.map(Tag),
        })
    }

    /// Sends an object, once.
    async fn put(&self, key: &str, object: &str, bytes: Bytes, precondition: &Precondition) -> Result<Tag, StoreError> {
        let (if_match, if_none_match) = headers(precondition);
        let (encryption, kms_key) = self.encryption();
        let length = bytes.len() as u64;
        let request = self.client.put_object().bucket(&self.options.bucket).key(object);
        let request = request
            .body(ByteStream::from(bytes))
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key);
        let sent = self
            .attempt(length, async { request.send().await.map_err(Seen::of) })
            .await;
        let output = sent.map_err(|seen| seen.of_write(key, precondition))?;
        self.budget.earn();
        tag(key, output.e_tag)
    }

    async fn put_file(
        &self,
        key: &str,
        object: &str,
        path: &Path,
        precondition: &Precondition,
    ) -> Result<Tag, StoreError> {
        let unreadable = |source| StoreError::Body {
            key: key.to_owned(),
            path: path.display().to_string(),
            source,
        };
        let length = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
        let tag = if length > self.options.multipart_above {
            let file = multipart::Source {
                file: Arc::new(std::fs::File::open(path).map_err(unreadable)?),
                path,
                length,
            };
            multipart::put(self, key, object, file, precondition).await?
        } else {
            let bytes = tokio::fs::read(path).await.map_err(unreadable)?;
            self.put(key, object, bytes.into(), precondition).await?
        };
        // It is stored; what cannot be removed stays with its owner.
        let _ = tokio::fs::remove_file(path).await;
        Ok(tag)
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.options.encryption {
            Encryption::None => (None, None),
            Encryption::Sse => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms(key) => (Some(ServerSideEncryption::AwsKms), Some(key.clone())),
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut objects: Vec<ObjectMeta> = Vec::new();
        let mut after = start_after.map(|key| format!("{}{key}", self.prefix));
        while objects.len() < limit {
            let asked = (limit - objects.len()).min(PAGE_MAX) as i32;
            // Each page is asked for by the last key of the one before, so that a page can be asked for again.
            let call = || async {
                let request = self
                    .client
                    .list_objects_v2()
                    .bucket(&self.options.bucket)
                    .max_keys(asked);
                let request = request
                    .prefix(format!("{}{prefix}", self.prefix))
                    .set_start_after(after.clone());
                self.attempt(0, async { request.send().await.map_err(Seen::of) }).await
            };
            let page = self
                .repeated(Seen::may_pass, call)
                .await
                .map_err(|seen| seen.of_read(prefix))?;
            let listed = page.contents.unwrap_or_default();
            let Some(last) = listed.last().and_then(|object| object.key.clone()) else {
                break;
            };
            after = Some(last);
            objects.extend(listed.iter().filter_map(|object| {
                // Objects of others, such as the empty ones that stand for folders in a console, are not ours.
                let key = object.key.as_ref()?.strip_prefix(&self.prefix)?;
                keys::is_key(key).then(|| ObjectMeta {
                    key: key.to_owned(),
                    bytes: object.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
                    modified: timestamp(object.last_modified.as_ref()),
                })
            }));
            if page.is_truncated != Some(true) {
                break;
            }
        }
        Ok(objects)
    }

    async fn delete(&self, key: &str, object: &str) -> Result<(), StoreError> {
        let call = || async move {
            let request = self.client.delete_object().bucket(&self.options.bucket).key(object);
            self.attempt(0, async { request.send().await.map_err(Seen::of) }).await
        };
        // One that was not answered may have been made, and the key may be another object's by now: nobody but the
        // caller can tell, so only one that was turned away is sent again.
        match self.repeated(Seen::is_busy, call).await {
            Ok(_) => Ok(()),
            Err(seen) if seen.is_missing() => Ok(()),
            Err(seen) => Err(seen.of_write(key, &Precondition::Any)),
        }
    }
}

/// `If-Match` and `If-None-Match`.
fn headers(precondition: &Precondition) -> (Option<String>, Option<String>) {
    match precondition {
        Precondition::Any => (None, None),
        Precondition::Absent => (None, Some("*".to_owned())),
        Precondition::Matches(tag) => (Some(tag.0.clone()), None),
    }
}

/// Without a tag nobody could say what was written or read.
fn tag(key: &str, e_tag: Option<String>) -> Result<Tag, StoreError> {
    e_tag.map(Tag).ok_or_else(|| StoreError::NoAnswer {
        key: key.to_owned(),
        source: Some(io::Error::other("the store gave no ETag")),
    })
}

/// In whole seconds: a read tells no more, and a listing may.
fn timestamp(time: Option<&DateTime>) -> Timestamp {
    Timestamp(time.map_or(0, |time| time.secs().saturating_mul(1_000_000_000)))
}

/// Whether a `Content-Range` begins there.
fn begins_at(range: &str, start: u64) -> bool {
    let first = range.strip_prefix("bytes ").and_then(|range| range.split_once('-'));
    first.is_some_and(|(first, _)| first.parse() == Ok(start))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for S3Store {
    async fn get(&self, key: &str, if_none_match: Option<&Tag>) -> Result<Get, StoreError> {
        let object = self.inner.object(key)?;
        self.inner.get(key, &object, if_none_match).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.get_part(key, range, None).await?.bytes)
    }

    async fn get_part(&self, key: &str, range: Range<u64>, of: Option<&Tag>) -> Result<Part, StoreError> {
        let object = self.inner.object(key)?;
        self.inner.get_part(key, &object, &range, of).await
    }

    async fn put(&self, key: &str, body: Body, precondition: Precondition) -> Result<Tag, StoreError> {
        let object = self.inner.object(key)?;
        match body {
            Body::Bytes(bytes) => self.inner.put(key, &object, bytes, &precondition).await,
            Body::File(path) => self.inner.put_file(key, &object, &path, &precondition).await,
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let object = self.inner.object(key)?;
        self.inner.delete(key, &object).await
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

impl Inner {
    fn describe(&self) -> String {
        let S3Options { bucket, prefix, .. } = &self.options;
        let at = self.options.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}"));
        format!("s3://{bucket}/{prefix}{}", at.unwrap_or_default())
    }
}
