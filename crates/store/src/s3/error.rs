//! What S3 said, and what that means for a caller.
//!
//! The rule: an answer that says why nothing was done is an error of its own; everything else (no answer, a broken one,
//! an error of the server, which may have come after the write) leaves a write unknown.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::error::StoreError;
use crate::object::Precondition;

/// What a store has to promise, and what goes wrong without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// A write with `If-None-Match: *` fails when the object is there.
    CreateOnly,
    /// A write with `If-Match` fails when the object has another ETag.
    Swap,
    /// A write with the object's own ETag in `If-Match` is made.
    SwapByOwnTag,
    /// A write with `If-Match` fails when there is no object.
    SwapOfNothing,
    /// Each write is answered with an ETag, and another content has another one.
    Tags,
    /// What was written is what the next read gives.
    ReadAfterWrite,
    /// A range is answered with these bytes and no others.
    Ranges,
    /// What was written is in the next listing.
    ListAfterWrite,
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CreateOnly => "create-only writes (If-None-Match: * on PUT)",
            Self::Swap => "compare-and-swap (If-Match on PUT)",
            Self::SwapByOwnTag => "compare-and-swap by the ETag that it gave (If-Match on PUT)",
            Self::SwapOfNothing => "compare-and-swap of an object that is gone (If-Match on PUT)",
            Self::Tags => "an ETag for each content",
            Self::ReadAfterWrite => "to read what was just written",
            Self::Ranges => "to read a range of an object",
            Self::ListAfterWrite => "to list what was just written",
        })
    }
}

/// A store on S3 that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// No address of a bucket.
    #[error("{0:?} is no address of a bucket: write s3://bucket/prefix")]
    Url(String),
    /// A name that no bucket has.
    #[error("{0:?} is no name of a bucket")]
    Bucket(String),
    /// A prefix that no key has.
    #[error("{0:?} is no prefix: its parts are not empty and begin with no dot")]
    Prefix(String),
    /// Options that contradict themselves.
    #[error("the options of the store are wrong: {}", .0.join("; "))]
    Options(Vec<&'static str>),
    /// Neither the options nor the environment name a region.
    #[error("no region is known: set it in the options or as AWS_REGION")]
    Region,
    /// The store does not do what the commit protocol stands on.
    #[error("{store} does not promise {promise}; nothing can be published there safely")]
    Promise {
        /// The store.
        store: String,
        /// What it does not do.
        promise: Promise,
    },
    /// It could not be found out whether it does.
    #[error("{store} cannot be tried out")]
    Probe {
        /// The store.
        store: String,
        /// What it said.
        #[source]
        source: StoreError,
    },
}

/// What was seen instead of success.
#[derive(Debug)]
pub(super) struct Seen {
    /// Status of an answer that could be read.
    status: Option<u16>,
    /// The word of S3 for it.
    code: String,
    /// For a person.
    text: String,
}

impl Seen {
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(answer) = &error {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().unwrap_or_default().to_owned();
            let message = answer.err().message().unwrap_or_default();
            return Self {
                status: Some(status),
                text: format!("{status} {code} {message}").trim_end().to_owned(),
                code,
            };
        }
        // An answer that cannot be understood: its status may still say that nothing was done.
        let status = error.raw_response().map(|raw| raw.status().as_u16());
        Self {
            status,
            code: String::new(),
            text: chain(&error),
        }
    }

    /// No answer that could be read, for this reason.
    pub(super) fn nothing(text: impl Into<String>) -> Self {
        Self {
            status: None,
            code: String::new(),
            text: text.into(),
        }
    }

    pub(super) fn is(&self, status: u16) -> bool {
        self.status == Some(status)
    }

    /// Whether there is no such object (and not: no such bucket).
    pub(super) fn is_missing(&self) -> bool {
        self.is(404) && self.code != "NoSuchBucket" && self.code != "NoSuchUpload"
    }

    /// Whether the store answered that it does not want to now.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.status, Some(429 | 503))
    }

    /// Whether the store said why nothing was done, and would say so again.
    fn is_refusal(&self) -> bool {
        // Of the connection, the clock or a token that is being renewed, and not of the request.
        let passing = ["RequestTimeout", "RequestTimeTooSkewed", "ExpiredToken"];
        let is_passing = passing.contains(&self.code.as_str());
        let is_final = |status: u16| (300..500).contains(&status) && !matches!(status, 307 | 408 | 425 | 429);
        self.status.is_some_and(is_final) && !is_passing
    }

    /// Whether the same request may be answered otherwise a little later.
    pub(super) fn may_pass(&self) -> bool {
        !self.is_refusal() || self.is(409)
    }

    /// What it means for a reader.
    pub(super) fn of_read(self, key: &str) -> StoreError {
        let key = key.to_owned();
        match self.status {
            Some(404) if self.is_missing() => StoreError::NotFound { key },
            Some(412) => StoreError::PreconditionFailed { key },
            _ if self.is_refusal() => self.refused(key),
            _ => self.no_answer(key),
        }
    }

    /// What it means for a writer.
    pub(super) fn of_write(self, key: &str, precondition: &Precondition) -> StoreError {
        let key = key.to_owned();
        let is_conditional = *precondition != Precondition::Any;
        match self.status {
            Some(412) if is_conditional => StoreError::PreconditionFailed { key },
            Some(409) => StoreError::Conflict { key },
            Some(404) if self.is_missing() && matches!(precondition, Precondition::Matches(_)) => {
                StoreError::NotFound { key }
            }
            _ if self.is_refusal() => self.refused(key),
            _ => self.no_answer(key),
        }
    }

    /// For a call after which nothing was written, whatever was seen: it may be made again.
    pub(super) fn not_done(self, key: &str) -> StoreError {
        let key = key.to_owned();
        if self.is_refusal() {
            return self.refused(key);
        }
        StoreError::Io {
            key,
            source: io::Error::other(self.text),
        }
    }

    fn refused(self, key: String) -> StoreError {
        StoreError::Refused {
            key,
            source: io::Error::other(self.text),
        }
    }

    fn no_answer(self, key: String) -> StoreError {
        StoreError::NoAnswer {
            key,
            source: Some(io::Error::other(self.text)),
        }
    }
}

/// An error and its causes, in a line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Tag;

    fn seen(status: impl Into<Option<u16>>, code: &str) -> Seen {
        Seen {
            status: status.into(),
            code: code.to_owned(),
            text: String::new(),
        }
    }

    fn check(status: impl Into<Option<u16>>, code: &str, absent: &str, matches: &str, read: &str) {
        let status = status.into();
        let word = |error: StoreError| format!("{error:?}").split(' ').next().map(str::to_owned);
        let of = |precondition| word(seen(status, code).of_write("a", &precondition));
        let label = format!("{status:?} {code}");
        assert_eq!(of(Precondition::Absent).as_deref(), Some(absent), "{label}");
        assert_eq!(
            of(Precondition::Matches(Tag("t".to_owned()))).as_deref(),
            Some(matches),
            "{label}"
        );
        assert_eq!(word(seen(status, code).of_read("a")).as_deref(), Some(read), "{label}");
    }

    #[test]
    fn an_answer_means_not_made_only_where_it_says_so() {
        let (failed, unknown, refused) = ("PreconditionFailed", "NoAnswer", "Refused");
        check(412, "PreconditionFailed", failed, failed, failed);
        check(409, "ConditionalRequestConflict", "Conflict", "Conflict", refused);
        check(404, "NoSuchKey", refused, "NotFound", "NotFound");
        check(404, "", refused, "NotFound", "NotFound");
        check(404, "NoSuchBucket", refused, refused, refused);
        check(403, "AccessDenied", refused, refused, refused);
        check(400, "InvalidRequest", refused, refused, refused);
        check(301, "PermanentRedirect", refused, refused, refused);
        check(400, "RequestTimeout", unknown, unknown, unknown);
        check(408, "", unknown, unknown, unknown);
        check(429, "", unknown, unknown, unknown);
        check(500, "InternalError", unknown, unknown, unknown);
        check(503, "SlowDown", unknown, unknown, unknown);
        // An error in the body of an answer that had begun well.
        check(200, "InternalError", unknown, unknown, unknown);
        check(None, "", unknown, unknown, unknown);
    }
}
