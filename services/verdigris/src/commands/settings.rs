//! `settings`: what a collection declares.

use std::{fs, io};

use serde::Serialize;
use serde_json::value::RawValue;
use verdigris_proto::admin::{GetSettingsRequest, Settings as ProtoSettings, UpdateSettingsRequest};

use super::batches::STANDARD_INPUT;
use super::documents::pretty;
use super::{CommandError, raw};
use crate::arguments::Settings;
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Serialize)]
struct Shown {
    version: u64,
    settings: Box<RawValue>,
}

/// Runs a command about settings.
pub(crate) async fn run(
    command: &Settings,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    match command {
        Settings::Show => {
            let answer = client
                .admin()
                .get_settings(within(CALL, GetSettingsRequest { collection }))
                .await?;
            let shown = Shown::try_from(answer.into_inner())?;
            output.answer(&shown, |shown| pretty(&shown.settings))?;
            output.note(&format!("version {}", shown.version));
        }
        Settings::Set { file } => {
            let request = UpdateSettingsRequest {
                collection,
                settings_json: settings_text(file)?,
            };
            let answer = client.admin().update_settings(within(CALL, request)).await?;
            let shown = Shown::try_from(answer.into_inner())?;
            output.answer(&shown, |shown| {
                format!("version {} is set, and in force with the next publish", shown.version)
            })?;
        }
    }
    Ok(Exit::Done)
}

/// The text of a settings file; whether it is settings, the server says.
pub(crate) fn settings_text(file: &str) -> Result<String, CommandError> {
    let text = if file == STANDARD_INPUT {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(file)
    };
    text.map_err(|source| CommandError::Read {
        path: file.to_owned(),
        source,
    })
}

// === impl Shown ===

impl TryFrom<ProtoSettings> for Shown {
    type Error = CommandError;

    fn try_from(settings: ProtoSettings) -> Result<Self, CommandError> {
        let text = raw("the settings that the server sent", settings.settings_json)?;
        Ok(Self {
            version: settings.version,
            settings: text,
        })
    }
}
