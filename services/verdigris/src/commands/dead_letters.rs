//! `dead-letters`: events that were set aside, and what a person does about them.

use std::io::Read;
use std::{fs, io};

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use verdigris_proto::admin::{
    DeadLetter, DropDeadLettersRequest, EditDeadLetterRequest, GetDeadLetterRequest, ListDeadLettersRequest,
    ReplayDeadLettersRequest,
};

use super::CommandError;
use super::batches::STANDARD_INPUT;
use super::lines::LINE_BYTES_MAX;
use crate::arguments::DeadLetters;
use crate::client::{CALL, Client, within};
use crate::exit::Exit;
use crate::output::{Output, pairs, table, to_the_second};

/// Letters of one page.
const PAGE: u32 = 1_000;
/// Letters that a list shows: a person reads no more, and a program that needs them all asks over gRPC.
const LETTERS_MAX: usize = 10_000;

#[derive(Serialize)]
struct Shown {
    position: String,
    accepted_at: String,
    set_aside_at: String,
    reason: String,
    message: String,
    /// The event, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
    /// The event as text, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Runs a command about dead letters.
pub(crate) async fn run(
    command: &DeadLetters,
    collection: &str,
    client: &Client,
    output: &Output,
) -> Result<Exit, CommandError> {
    let collection = collection.to_owned();
    let mut admin = client.admin();
    match command {
        DeadLetters::List => return list(collection, client, output).await,
        DeadLetters::Show { position } => {
            let request = GetDeadLetterRequest {
                collection,
                position: position.clone(),
            };
            let letter = admin.get_dead_letter(within(CALL, request)).await?.into_inner();
            output.answer(&Shown::from(letter), one)?;
        }
        DeadLetters::Edit { position, file } => {
            let request = EditDeadLetterRequest {
                collection,
                position: position.clone(),
                event: event(file)?,
            };
            let answer = admin.edit_dead_letter(within(CALL, request)).await?.into_inner();
            output.answer(&json!({"position": answer.position}), |_| {
                format!("the corrected event is accepted at {}", answer.position)
            })?;
        }
        DeadLetters::Replay { positions } => {
            let request = ReplayDeadLettersRequest {
                collection,
                positions: positions.clone(),
            };
            let answer = admin.replay_dead_letters(within(CALL, request)).await?.into_inner();
            let json = json!({
                "replayed": answer.replayed,
                "first_position": answer.first_position,
                "last_position": answer.last_position,
            });
            output.answer(&json, |_| {
                format!("{} sent again, up to {}", answer.replayed, answer.last_position)
            })?;
        }
        DeadLetters::Drop { positions } => {
            let request = DropDeadLettersRequest {
                collection,
                positions: positions.clone(),
            };
            let answer = admin.drop_dead_letters(within(CALL, request)).await?.into_inner();
            output.answer(&json!({"dropped": answer.dropped}), |_| {
                format!("{} removed", answer.dropped)
            })?;
        }
    }
    Ok(Exit::Done)
}

async fn list(collection: String, client: &Client, output: &Output) -> Result<Exit, CommandError> {
    let mut letters: Vec<Shown> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDeadLettersRequest {
            collection: collection.clone(),
            page_size: PAGE,
            page_token,
        };
        let answer = client
            .admin()
            .list_dead_letters(within(CALL, request))
            .await?
            .into_inner();
        letters.extend(answer.dead_letters.into_iter().map(Shown::from));
        page_token = answer.next_page_token;
        if page_token.is_empty() || letters.len() >= LETTERS_MAX {
            break;
        }
    }
    let more = !page_token.is_empty();
    output.answer(&json!({"dead_letters": letters, "more": more}), |_| many(&letters))?;
    match (letters.is_empty(), more) {
        (true, _) => output.note("no event is set aside"),
        (_, true) => output.note("there are more"),
        _ => {}
    }
    Ok(Exit::Done)
}

fn many(letters: &[Shown]) -> String {
    let rows = letters.iter().map(|letter| {
        vec![
            letter.position.clone(),
            to_the_second(&letter.set_aside_at),
            letter.reason.clone(),
            letter.message.clone(),
        ]
    });
    table(&["position", "set aside at", "reason", "message"], &[], rows)
}

fn one(letter: &Shown) -> String {
    let facts = pairs(&[
        ("position", letter.position.clone()),
        ("accepted at", letter.accepted_at.clone()),
        ("set aside at", letter.set_aside_at.clone()),
        ("reason", letter.reason.clone()),
        ("message", letter.message.clone()),
    ]);
    let event = letter
        .event
        .as_ref()
        .map(|event| event.get())
        .or(letter.text.as_deref())
        .unwrap_or_default();
    // Escapes of an event that is not JSON may be what is wrong with it: they are shown, not obeyed.
    let event: String = event
        .chars()
        .flat_map(|character| {
            let plain = !character.is_control() || character == '\n';
            let escaped = (!plain).then(|| character.escape_default());
            escaped.into_iter().flatten().chain(plain.then_some(character))
        })
        .collect();
    format!("{facts}\n\n{event}")
}

/// The corrected event. No more is read than the largest that a server takes, and one byte for it to refuse.
fn event(file: &str) -> Result<Bytes, CommandError> {
    let unreadable = |source| CommandError::Read {
        path: file.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    let read = if file == STANDARD_INPUT {
        io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        fs::File::open(file)
            .map_err(unreadable)?
            .take(limit)
            .read_to_end(&mut bytes)
    };
    read.map_err(unreadable)?;
    Ok(bytes.trim_ascii().to_vec().into())
}

// === impl Shown ===

impl From<DeadLetter> for Shown {
    fn from(letter: DeadLetter) -> Self {
        let event: Option<Box<RawValue>> = serde_json::from_slice(&letter.payload).ok();
        let text = (event.is_none() && !letter.payload.is_empty())
            .then(|| String::from_utf8_lossy(&letter.payload).into_owned());
        Self {
            position: letter.position,
            accepted_at: letter.accepted_at,
            set_aside_at: letter.set_aside_at,
            reason: letter.reason,
            message: letter.message,
            event,
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &'static [u8]) -> Shown {
        let payload = Bytes::from_static(payload);
        Shown::from(DeadLetter {
            position: "p-1".into(),
            reason: "AHEAD_OF_TIME".into(),
            payload,
            ..Default::default()
        })
    }

    #[test]
    fn a_letter_shows_its_event_as_json_or_as_text() {
        let json = serde_json::to_string(&letter(b"{\"price\": 1.10}")).expect("JSON");
        assert!(json.ends_with(r#""event":{"price": 1.10}}"#), "{json}");
        let json = serde_json::to_string(&letter(b"{\x1b\xff")).expect("JSON");
        assert!(json.ends_with("\"text\":\"{\\u001b\u{fffd}\"}"), "{json}");
        assert_eq!(
            one(&letter(b"{\x1b[2J")),
            "position  p-1\nreason    AHEAD_OF_TIME\n\n{\\u{1b}[2J"
                .replace("position  ", "position      ")
                .replace("reason    ", "reason        ")
        );
    }
}
