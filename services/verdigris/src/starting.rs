//! Why a process could not start, as a stable reason: what a person can mend is never called a mistake of the software.

use std::io;

use verdigris_bus::BusError;
use verdigris_bus::nats::NatsError;
use verdigris_embed::EmbedError;
use verdigris_indexer::error::{reason_of_read, reason_of_store};
use verdigris_proto::reason::Reason;
use verdigris_runtime::authentication::TokenFileError;
use verdigris_runtime::config::Mistakes;
use verdigris_runtime::config::process::IncompleteTls;
use verdigris_runtime::http::BindError;
use verdigris_runtime::socket::SocketError;
use verdigris_runtime::tls::TlsError;
use verdigris_search::CollectionsError;
use verdigris_store::s3::S3Error;
use verdigris_store::{ReadError, StoreError};

use crate::folder::InUse;
use crate::parts::Unusable;

/// The data folder is another process's.
const FOLDER_IN_USE: &str = "FOLDER_IN_USE";
/// The configuration has mistakes.
const INVALID_CONFIGURATION: &str = "INVALID_CONFIGURATION";
/// A path that nothing can be written to.
const FILE_UNWRITABLE: &str = "FILE_UNWRITABLE";
/// An address cannot be listened on.
const ADDRESS_UNAVAILABLE: &str = "ADDRESS_UNAVAILABLE";

/// The reason of whatever in the chain has one.
pub(crate) fn reason(error: &anyhow::Error) -> &'static str {
    error.chain().find_map(reason_of).unwrap_or(Reason::Internal.as_str())
}

fn reason_of(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if error.is::<InUse>() {
        return Some(FOLDER_IN_USE);
    }
    if error.is::<Mistakes>()
        || error.is::<TokenFileError>()
        || error.is::<IncompleteTls>()
        || error.is::<TlsError>()
        || error.is::<Unusable>()
        || error.is::<CollectionsError>()
    {
        return Some(INVALID_CONFIGURATION);
    }
    if error.is::<BindError>() || error.is::<SocketError>() {
        return Some(ADDRESS_UNAVAILABLE);
    }
    if let Some(error) = error.downcast_ref::<S3Error>() {
        return Some(match error {
            S3Error::Probe { .. } => Reason::StoreUnavailable.as_str(),
            _ => INVALID_CONFIGURATION,
        });
    }
    if let Some(error) = error.downcast_ref::<NatsError>() {
        return Some(match error {
            NatsError::Unavailable { .. } => Reason::StoreUnavailable.as_str(),
            NatsError::Full { .. } => Reason::DiskFull.as_str(),
            _ => INVALID_CONFIGURATION,
        });
    }
    let reason = if let Some(error) = error.downcast_ref::<StoreError>() {
        reason_of_store(error)
    } else if let Some(error) = error.downcast_ref::<ReadError>() {
        reason_of_read(error)
    } else if let Some(error) = error.downcast_ref::<BusError>() {
        match error {
            BusError::Full { .. } => Reason::DiskFull,
            BusError::ReadOnly { .. } => Reason::ReadOnly,
            BusError::UnknownVersion { .. } => Reason::UnknownFormat,
            BusError::Damaged { .. } | BusError::Foreign { .. } => Reason::DataDamaged,
            _ => Reason::StoreUnavailable,
        }
    } else if error.is::<EmbedError>() {
        Reason::EmbedderUnavailable
    } else {
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Reason::ReadOnly,
            // No place of this name can be made, as below a file.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Some(FILE_UNWRITABLE),
            _ => return None,
        }
    };
    Some(reason.as_str())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_reason_is_found_wherever_in_the_chain_it_lies() {
        let of = |error: io::ErrorKind| {
            let error = Err::<(), _>(io::Error::from(error)).context("the folder cannot be made");
            reason(&error.expect_err("an error"))
        };
        assert_eq!(of(io::ErrorKind::StorageFull), "DISK_FULL");
        assert_eq!(of(io::ErrorKind::ReadOnlyFilesystem), "READ_ONLY");
        assert_eq!(of(io::ErrorKind::BrokenPipe), "INTERNAL");
    }
}
