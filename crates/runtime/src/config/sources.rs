//! The layers of a configuration as they come: a TOML file, variables of the environment, flags.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::{Key, Mistake, Origin};

/// What every variable of ours begins with.
const PREFIX: &str = "VERDIGRIS_";
/// A suggestion is made up to this many wrong letters: more, and it would be a guess.
const LETTERS_WRONG_MAX: usize = 3;

/// A configuration file that was read.
#[derive(Debug, Clone)]
pub struct FileText {
    /// Its path, for messages.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// A flag of the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// How it is written, such as `--grpc`.
    pub flag: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// What was said.
    pub text: String,
}

/// Everything that was said, by layer; the later ones win.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, where one is given.
    pub file: Option<FileText>,
    /// The environment, whole: what does not begin with `VERDIGRIS_` is passed over.
    pub environment: Vec<(String, String)>,
    /// Variables with our prefix that are no keys (such as those of client commands).
    pub other_variables: &'static [&'static str],
    /// Flags that were given.
    pub flags: Vec<Flag>,
}

/// One value that somebody said.
pub(super) struct Said {
    pub(super) key: &'static Key,
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// The variable of a key: `grpc.address` is `VERDIGRIS_GRPC_ADDRESS`.
pub fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

impl Sources {
    /// All that was said, the weakest layer first.
    pub(super) fn layers(self, keys: &'static [Key], mistakes: &mut Vec<Mistake>) -> Vec<Said> {
        let mut said = Vec::new();
        if let Some(file) = &self.file {
            read_file(file, keys, &mut said, mistakes);
        }
        for (variable, text) in self.environment {
            if !variable.starts_with(PREFIX) || self.other_variables.contains(&variable.as_str()) {
                continue;
            }
            let origin = Origin::Environment(variable.clone());
            if let Some(key) = keys.iter().find(|key| variable_of(key.name) == variable) {
                said.push(Said { key, text, origin });
            } else if !is_service_link(&variable, &text) {
                let known = keys.iter().map(|key| variable_of(key.name));
                let known = known.chain(self.other_variables.iter().map(|&variable| variable.to_owned()));
                let suggestion = nearest(&variable, known);
                mistakes.push(Mistake::UnknownKey {
                    origin,
                    key: variable,
                    suggestion,
                });
            }
        }
        for flag in self.flags {
            let key = keys
                .iter()
                .find(|key| key.name == flag.key)
                .expect("flags name keys of the table");
            said.push(Said {
                key,
                text: flag.text,
                origin: Origin::Flag(flag.flag),
            });
        }
        said
    }
}

fn read_file(file: &FileText, keys: &'static [Key], said: &mut Vec<Said>, mistakes: &mut Vec<Mistake>) {
    let line_of = |at: usize| file.text[..at.min(file.text.len())].matches('\n').count() + 1;
    let table = match DeTable::parse(&file.text) {
        Ok(table) => table,
        Err(error) => {
            let line = line_of(error.span().map_or(0, |span| span.start));
            mistakes.push(Mistake::Syntax {
                path: file.path.clone(),
                line,
                what: error.message().to_owned(),
            });
            return;
        }
    };
    // Tables that are still to be looked at, with the name before their keys.
    let mut tables = vec![(String::new(), table.get_ref())];
    while let Some((prefix, table)) = tables.pop() {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let origin = Origin::File {
                path: file.path.clone(),
                line: line_of(name.span().start),
            };
            let key = keys.iter().find(|key| key.name == full);
            match (key, value.get_ref()) {
                (None, DeValue::Table(inner)) if keys.iter().any(|key| key.name.starts_with(&format!("{full}."))) => {
                    tables.push((format!("{full}."), inner));
                }
                (None, _) => {
                    let suggestion = nearest(&full, keys.iter().map(|key| key.name.to_owned()));
                    mistakes.push(Mistake::UnknownKey {
                        origin,
                        key: full,
                        suggestion,
                    });
                }
                (Some(key), value) => match plain(value) {
                    Ok(text) => said.push(Said { key, text, origin }),
                    Err(found) => mistakes.push(Mistake::NotOneValue {
                        origin,
                        key: full,
                        found,
                    }),
                },
            }
        }
    }
}

/// A single TOML value as text; the error says what else it is.
fn plain(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        DeValue::Datetime(time) => Ok(time.to_string()),
        DeValue::Array(_) => Err("a list"),
        DeValue::Table(_) => Err("a table"),
    }
}

/// Kubernetes tells every pod of the services of its namespace by variables, and a service of ours is named so that
/// they look like keys: `VERDIGRIS_SERVICE_HOST`, `VERDIGRIS_PORT=tcp://…`, `VERDIGRIS_PREVIEW_PORT_7700_TCP_ADDR`.
fn is_service_link(variable: &str, text: &str) -> bool {
    let port_of_protocol = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        variable.split_once(protocol).is_some_and(|(before, _)| {
            let (service, port) = before.rsplit_once('_').unwrap_or_default();
            service.ends_with("_PORT") && port.bytes().all(|digit| digit.is_ascii_digit())
        })
    });
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || port_of_protocol
        || (variable.ends_with("_PORT") && text.contains("://"))
}

/// The known name that was probably meant: one with few wrong letters, or the same name in another section.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let rated = known.map(|known| {
        let whole = strsim::damerau_levenshtein(name, &known);
        let section_wrong = known.contains('.') && last(name) == last(&known);
        (if section_wrong { 0 } else { whole }, known)
    });
    rated
        .min()
        .filter(|(wrong, _)| *wrong <= LETTERS_WRONG_MAX)
        .map(|(_, known)| known)
}
