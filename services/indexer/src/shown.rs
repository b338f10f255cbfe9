//! What administration shows and reads: releases, letters, settings, statuses.

use bytes::Bytes;
use tonic::Status;
use verdigris_core::dead_letter::DeadLetter as Letter;
use verdigris_core::event::Event;
use verdigris_core::manifest::{Manifest, PublishReason};
use verdigris_core::pointer::EditRefused;
use verdigris_core::revision::RevisionKind;
use verdigris_core::settings::Settings as CollectionSettings;
use verdigris_proto::admin::DeadLetter;
use verdigris_proto::reason::Reason;
use verdigris_store::CommitError;

use crate::error::{chain, reason_of_read, reason_of_store};

pub(crate) fn position_of(manifest: &Manifest) -> String {
    manifest
        .checkpoint
        .stream
        .position(manifest.checkpoint.sequence)
        .to_string()
}

pub(crate) fn reason_word(reason: &PublishReason) -> &'static str {
    match reason {
        PublishReason::Publish => "publish",
        PublishReason::Merge => "merge",
        PublishReason::Rebuild => "rebuild",
        PublishReason::Follow => "follow",
        PublishReason::Settings => "settings",
        PublishReason::Erase => "erase",
        PublishReason::Resync { .. } => "resync",
        PublishReason::Rollback { .. } => "rollback",
    }
}

pub(crate) fn parsed_settings(json: &str) -> Result<CollectionSettings, Status> {
    CollectionSettings::parse(json.as_bytes()).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        Reason::InvalidSettings.status(lines.join("; "))
    })
}

pub(crate) fn status_of_commit(error: &CommitError) -> Status {
    let reason = match error {
        CommitError::Store(error) => reason_of_store(error),
        CommitError::Read(error) => reason_of_read(error),
        CommitError::Refused(EditRefused::NotHeld) => Reason::NotHeld,
        CommitError::Refused(EditRefused::NotStaged) => Reason::NotStaged,
        CommitError::Refused(EditRefused::Staged(_)) => Reason::PublishingStaged,
        CommitError::Refused(EditRefused::NotKept(_)) => Reason::ReleaseNotFound,
        CommitError::Refused(EditRefused::Held { .. }) => Reason::PublishingHeld,
        CommitError::Refused(EditRefused::LostTurn { .. }) => Reason::LostTurn,
        CommitError::Refused(EditRefused::SettingsMoved) => Reason::RolloutInProgress,
        CommitError::Refused(_) => Reason::CollectionDeleted,
        CommitError::Unknown(_) => Reason::StoreUnavailable,
    };
    reason.status(chain(error))
}

pub(crate) fn shown_letter(letter: &Letter, payload: Vec<u8>) -> DeadLetter {
    DeadLetter {
        position: letter.position.to_string(),
        accepted_at: letter.accepted_at.to_string(),
        set_aside_at: letter.set_aside_at.to_string(),
        reason: letter.reason.clone(),
        message: letter.message.clone(),
        payload: payload.into(),
    }
}

/// The event of a letter with the stamp that it had; one that cannot be read goes as it came.
pub(crate) fn replayed(letter: &Letter, kind: RevisionKind) -> Bytes {
    let payload = letter.payload_bytes();
    match Event::parse(&payload) {
        Ok(event) => event.pinned(kind, letter.accepted_at).to_payload().into(),
        Err(_) => payload.into(),
    }
}
