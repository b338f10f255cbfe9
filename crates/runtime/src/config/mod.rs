//! Configuration in layers: defaults, then a TOML file, then the environment, then flags.
//!
//! Keys are data (a table of [`Key`]), so that checking, `config show --origin` and the reference page come from one
//! place. Every mistake of every layer is told at once. Nothing is read here: `main` hands over the texts.
//! Settings of a collection are no configuration: they live with its data.

mod mistake;
pub mod process;
mod sources;
pub mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use mistake::{Mistake, Mistakes};
pub use sources::{FileText, Flag, Sources, variable_of};
use units::ByteSize;

/// One thing that can be configured.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name, with a dot after its section: `grpc.address`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its value where nobody says another; none for keys that may be absent.
    pub default: Option<&'static str>,
    /// What it does, for the reference page.
    pub doc: &'static str,
}

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path of a file or folder.
    Path,
    /// An address such as `127.0.0.1:7700`.
    Address,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number between two others, both included.
    Count(u64, u64),
    /// A duration with a unit, between two others, both included.
    Duration(Duration, Duration),
    /// A number of bytes with a unit, between two others, both included.
    Bytes(ByteSize, ByteSize),
}

/// A value that was checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of [`Kind::Text`] and [`Kind::Choice`].
    Text(String),
    /// Of [`Kind::Path`].
    Path(PathBuf),
    /// Of [`Kind::Address`].
    Address(SocketAddr),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Count`].
    Count(u64),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Bytes`].
    Bytes(ByteSize),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The table of keys.
    Default,
    /// A line of the configuration file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "{variable}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Values {
    values: BTreeMap<&'static str, (Option<Value>, Origin)>,
}

/// Puts the layers together; a later one wins. The error has every mistake of every layer.
pub fn load(keys: &'static [Key], sources: Sources) -> Result<Values, Mistakes> {
    let mut mistakes = Vec::new();
    let mut values: BTreeMap<_, _> = keys
        .iter()
        .map(|key| {
            let default = key
                .default
                .map(|text| key.kind.parse(text).expect("defaults are tested with their keys"));
            (key.name, (default, Origin::Default))
        })
        .collect();
    for said in sources.layers(keys, &mut mistakes) {
        match said.key.kind.parse(&said.text) {
            Ok(value) => {
                values.insert(said.key.name, (Some(value), said.origin));
            }
            Err(expected) => {
                mistakes.push(Mistake::Wrong {
                    key: said.key.name,
                    origin: said.origin,
                    text: said.text,
                    expected,
                });
            }
        }
    }
    if mistakes.is_empty() {
        Ok(Values { values })
    } else {
        Err(Mistakes(mistakes))
    }
}

// === impl Values ===

impl Values {
    /// Every key in order of its name, its value (none where it is absent), and where that comes from.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, Option<&Value>, &Origin)> {
        self.values
            .iter()
            .map(|(name, (value, origin))| (*name, value.as_ref(), origin))
    }

    /// Where a key's value comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        &self.entry(name).1
    }

    /// Of [`Kind::Text`] and [`Kind::Choice`]. As below, a key that is not in the table as this kind is a mistake of
    /// the code and panics; none is for keys without a default that nobody set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name, |value| {
            if let Value::Text(text) = value {
                Some(text.as_str())
            } else {
                None
            }
        })
    }

    /// Of [`Kind::Path`].
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.get(name, |value| {
            if let Value::Path(path) = value {
                Some(path.as_path())
            } else {
                None
            }
        })
    }

    /// Of [`Kind::Address`].
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.get(name, |value| {
            if let Value::Address(address) = value {
                Some(*address)
            } else {
                None
            }
        })
    }

    /// Of [`Kind::Switch`].
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.get(
            name,
            |value| if let Value::Switch(on) = value { Some(*on) } else { None },
        )
    }

    /// Of [`Kind::Count`].
    pub fn count(&self, name: &str) -> Option<u64> {
        self.get(name, |value| {
            if let Value::Count(count) = value {
                Some(*count)
            } else {
                None
            }
        })
    }

    /// Of [`Kind::Duration`].
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.get(name, |value| {
            if let Value::Duration(duration) = value {
                Some(*duration)
            } else {
                None
            }
        })
    }

    /// Of [`Kind::Bytes`].
    pub fn bytes(&self, name: &str) -> Option<ByteSize> {
        self.get(name, |value| {
            if let Value::Bytes(bytes) = value {
                Some(*bytes)
            } else {
                None
            }
        })
    }

    fn get<'a, T>(&'a self, name: &str, of_kind: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.entry(name).0.as_ref()?;
        Some(of_kind(value).unwrap_or_else(|| panic!("key {name} is of another kind: {value:?}")))
    }

    fn entry(&self, name: &str) -> &(Option<Value>, Origin) {
        self.values
            .get(name)
            .unwrap_or_else(|| panic!("key {name} is not in the table"))
    }
}

// === impl Kind ===

impl Kind {
    /// Reads a text of this kind; the error says what was expected.
    fn parse(self, text: &str) -> Result<Value, String> {
        let expected = || self.expected();
        let value = match self {
            Self::Text if !text.is_empty() => Value::Text(text.to_owned()),
            Self::Path if !text.is_empty() => Value::Path(PathBuf::from(text)),
            Self::Text | Self::Path => return Err(expected()),
            Self::Address => Value::Address(text.parse().map_err(|_| expected())?),
            Self::Switch => Value::Switch(text.parse().map_err(|_| expected())?),
            Self::Choice(words) if words.contains(&text) => Value::Text(text.to_owned()),
            Self::Choice(_) => return Err(expected()),
            Self::Count(min, max) => Value::Count(within(text.parse().ok(), min, max).ok_or_else(expected)?),
            Self::Duration(min, max) => {
                Value::Duration(within(units::parse_duration(text), min, max).ok_or_else(expected)?)
            }
            Self::Bytes(min, max) => Value::Bytes(within(ByteSize::parse(text), min, max).ok_or_else(expected)?),
        };
        Ok(value)
    }

    /// What a key of this kind takes, in words.
    pub fn expected(self) -> String {
        match self {
            Self::Text => "a text that is not empty".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Address => "an address and port, such as 127.0.0.1:7700".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Count(min, max) => format!("a whole number from {min} to {max}"),
            Self::Duration(min, max) => format!(
                "a duration with its unit (us, ms, s, min, h, d) from {} to {}",
                units::show_duration(min),
                units::show_duration(max)
            ),
            Self::Bytes(min, max) => format!("a size with its unit (B, KiB, MiB, GiB, kB, MB, GB) from {min} to {max}"),
        }
    }
}

fn within<T: PartialOrd>(value: Option<T>, min: T, max: T) -> Option<T> {
    value.filter(|value| (min..=max).contains(value))
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Address(address) => write!(f, "{address}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Duration(duration) => write!(f, "{}", units::show_duration(*duration)),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

/// The reference page of a table of keys, in Markdown.
pub fn reference(keys: &[Key]) -> String {
    let mut page = String::from("| key | variable | default | takes | meaning |\n|---|---|---|---|---|\n");
    for key in keys {
        let default = key.default.map(|default| format!("`{default}`")).unwrap_or_default();
        let (name, variable, takes) = (key.name, variable_of(key.name), key.kind.expected());
        page.push_str(&format!(
            "| `{name}` | `{variable}` | {default} | {takes} | {} |\n",
            key.doc
        ));
    }
    page
}

/// What is wrong with a table of keys; a test of each table calls it and expects nothing.
pub fn table_mistakes(keys: &[Key]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut variables = BTreeMap::new();
    for key in keys {
        if let Some(default) = key.default
            && let Err(expected) = key.kind.parse(default)
        {
            mistakes.push(format!("{}: the default {default} is not {expected}", key.name));
        }
        if let Some(other) = variables.insert(variable_of(key.name), key.name) {
            mistakes.push(format!("{}: has the variable of {other}", key.name));
        }
        if key.doc.is_empty() || key.doc.contains('|') {
            mistakes.push(format!(
                "{}: has no text for the reference page, or one with a bar",
                key.name
            ));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests;
