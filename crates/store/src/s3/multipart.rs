//! A large file, in parts: each may be sent again, and nothing is there before the last call puts them together.
//!
//! Where that call is not answered, the object tells whose it is by a mark that the upload gave it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::error::Seen;
use super::{Inner, headers, retry};
use crate::commit::nonce;
use crate::error::StoreError;
use crate::object::{Precondition, Tag};

/// Parts that S3 takes of one object.
const PARTS_MAX: u64 = 10_000;
/// Name of the mark, `x-amz-meta-…`.
const MARK: &str = "verdigris-upload";

/// The file to be sent.
pub(super) struct Source<'a> {
    pub(super) file: Arc<File>,
    pub(super) path: &'a Path,
    pub(super) length: u64,
}

/// One upload under way.
struct Upload<'a> {
    inner: &'a Inner,
    key: &'a str,
    object: &'a str,
    id: String,
    mark: String,
}

/// Sends a file. After an error other than [`StoreError::NoAnswer`] nothing was written.
pub(super) async fn put(
    inner: &Inner,
    key: &str,
    object: &str,
    source: Source<'_>,
    precondition: &Precondition,
) -> Result<Tag, StoreError> {
    let upload = begin(inner, key, object).await?;
    let put = match upload.send(&source).await {
        Ok(parts) => upload.complete(parts, precondition).await,
        Err(error) => Err(error),
    };
    if put.is_err() {
        // What this does not reach goes by the bucket's rule for uploads that were never completed.
        upload.abort().await;
    }
    put
}

async fn begin<'a>(inner: &'a Inner, key: &'a str, object: &'a str) -> Result<Upload<'a>, StoreError> {
    let mark = nonce();
    let call = || async {
        let (encryption, kms_key) = inner.encryption();
        let request = inner
            .client
            .create_multipart_upload()
            .bucket(&inner.options.bucket)
            .key(object);
        let request = request
            .metadata(MARK, &mark)
            // That of the parts. Where nothing is said here, a server may expect another, and refuse them in the end.
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key);
        inner.attempt(0, async { request.send().await.map_err(Seen::of) }).await
    };
    let begun = inner
        .repeated(Seen::may_pass, call)
        .await
        .map_err(|seen| seen.not_done(key))?;
    let id = begun
        .upload_id
        .ok_or_else(|| Seen::nothing("the store gave the upload no id").not_done(key))?;
    Ok(Upload {
        inner,
        key,
        object,
        id,
        mark,
    })
}

impl Upload<'_> {
    /// Sends all parts, several at once; memory is bounded by their number.
    async fn send(&self, source: &Source<'_>) -> Result<Vec<CompletedPart>, StoreError> {
        let least = source.length.div_ceil(PARTS_MAX);
        let part_bytes = self.inner.options.part_bytes.max(least);
        let starts = (0..source.length).step_by(part_bytes as usize).zip(1..);
        let mut parts = Vec::new();
        for (start, number) in starts {
            let end = (start + part_bytes).min(source.length);
            parts.push(self.send_part(source, number, start, end));
        }
        futures::stream::iter(parts)
            .buffered(self.inner.options.parallel)
            .try_collect()
            .await
    }

    async fn send_part(
        &self,
        source: &Source<'_>,
        number: i32,
        start: u64,
        end: u64,
    ) -> Result<CompletedPart, StoreError> {
        let inner = self.inner;
        let _turn = inner.parallel.acquire().await.expect("it is never closed");
        let bytes = read(source, start, end).await.map_err(|error| StoreError::Body {
            key: self.key.to_owned(),
            path: source.path.display().to_string(),
            source: error,
        })?;
        let call = || async {
            let request = inner
                .client
                .upload_part()
                .bucket(&inner.options.bucket)
                .key(self.object);
            let request = request
                .upload_id(&self.id)
                .part_number(number)
                .body(ByteStream::from(bytes.clone()));
            inner
                .attempt(end - start, async { request.send().await.map_err(Seen::of) })
                .await
        };
        let sent = inner
            .repeated(Seen::may_pass, call)
            .await
            .map_err(|seen| seen.not_done(self.key))?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
        Ok(part.set_checksum_crc32(sent.checksum_crc32).build())
    }

    /// Puts the parts together. Sent again only after a look at the object says that it is not there yet.
    async fn complete(&self, parts: Vec<CompletedPart>, precondition: &Precondition) -> Result<Tag, StoreError> {
        let inner = self.inner;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let (if_match, if_none_match) = headers(precondition);
        let mut is_unknown = false;
        let mut failures = 0;
        loop {
            let request = inner
                .client
                .complete_multipart_upload()
                .bucket(&inner.options.bucket)
                .key(self.object);
            let request = request
                .upload_id(&self.id)
                .multipart_upload(parts.clone())
                .set_if_match(if_match.clone())
                .set_if_none_match(if_none_match.clone());
            let sent = inner.attempt(0, async { request.send().await.map_err(Seen::of) }).await;
            let seen = match sent {
                Ok(output) if output.e_tag.is_some() => return super::tag(self.key, output.e_tag),
                Ok(_) => Seen::nothing("the store gave no ETag"),
                Err(seen) => seen,
            };
            let error = seen.of_write(self.key, precondition);
            is_unknown |= matches!(error, StoreError::NoAnswer { .. });
            if !is_unknown {
                return Err(error);
            }
            // An earlier send may have been made: then every later one fails, and only the object tells.
            if let Some(tag) = self.own().await {
                return Ok(tag);
            }
            failures += 1;
            let is_settled = !matches!(error, StoreError::NoAnswer { .. } | StoreError::Conflict { .. });
            if is_settled || failures >= inner.options.attempts || !inner.budget.take() {
                return Err(StoreError::no_answer(self.key));
            }
            tokio::time::sleep(retry::wait(failures - 1)).await;
        }
    }

    /// The object's tag, if it came from this upload.
    async fn own(&self) -> Option<Tag> {
        let inner = self.inner;
        let call = || async {
            let request = inner
                .client
                .head_object()
                .bucket(&inner.options.bucket)
                .key(self.object);
            inner.attempt(0, async { request.send().await.map_err(Seen::of) }).await
        };
        let seen = inner.repeated(Seen::may_pass, call).await.ok()?;
        let is_own = seen.metadata.as_ref()?.get(MARK) == Some(&self.mark);
        seen.e_tag.filter(|_| is_own).map(Tag)
    }

    async fn abort(&self) {
        let inner = self.inner;
        let call = || async {
            let request = inner
                .client
                .abort_multipart_upload()
                .bucket(&inner.options.bucket)
                .key(self.object);
            let request = request.upload_id(&self.id);
            inner.attempt(0, async { request.send().await.map_err(Seen::of) }).await
        };
        if let Err(seen) = inner.repeated(Seen::may_pass, call).await
            && !seen.is(404)
        {
            let error = seen.not_done(self.key);
            tracing::warn!(key = self.key, upload = self.id, %error, "an upload in parts was left incomplete");
        }
    }
}

async fn read(source: &Source<'_>, start: u64, end: u64) -> io::Result<Bytes> {
    let file = source.file.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        Ok(Bytes::from(bytes))
    });
    work.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
