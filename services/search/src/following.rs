//! What a process follows: every collection or some, the pointer or one lineage.
//!
//! Deliberately absent: how it is opened, which `follow` and `open` do.

use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{LineagePointer, Pointer};

use crate::tenants::OpenLimits;

/// What a process follows.
#[derive(Debug, Clone, Default)]
pub struct Following {
    /// The one lineage that it follows, whatever it is for; none for what the pointer names.
    pub lineage: Option<LineageId>,
    /// Collections.
    pub collections: Collections,
    /// When collections are opened.
    pub start: Start,
    /// When collections of a prefix are closed.
    pub limits: OpenLimits,
}

/// Which collections a process opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Collections {
    /// All of the store.
    #[default]
    All,
    /// These.
    Named(Vec<CollectionName>),
    /// Those whose names begin so, each on its first use.
    Prefix(String),
}

/// When collections are opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// From the start of the role on, all at once; [`Search::opened`](crate::Search::opened) waits for them.
    #[default]
    First,
    /// While it answers whether it is ready, as a pod must; each is warmed before.
    Beside,
}

/// Names that none of them can be read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither names of collections with commas between them nor a prefix with * behind it")]
pub struct CollectionsError {
    text: String,
}

/// What a process follows of a pointer.
pub(crate) struct Named {
    /// What answers who asks for nothing else.
    pub(crate) first: Option<LineagePointer>,
    /// The other lineage, for a preview.
    pub(crate) other: Option<LineagePointer>,
}

// === impl Following ===

impl Following {
    pub(crate) fn of(&self, pointer: &Pointer) -> Named {
        let Some(lineage) = &self.lineage else {
            return Named {
                first: pointer.active.clone(),
                other: pointer.other.clone(),
            };
        };
        let is_it = |named: &&LineagePointer| named.lineage == *lineage;
        Named {
            first: pointer.active.iter().chain(&pointer.other).find(is_it).cloned(),
            other: None,
        }
    }
}

// === impl Collections ===

impl Collections {
    /// Reads `a,b` or `tenant-*`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, CollectionsError> {
        let wrong = || CollectionsError { text: text.to_owned() };
        match text.strip_suffix('*') {
            Some("") => Ok(Self::All),
            // A prefix of a name is one itself, but for its end.
            Some(prefix) if format!("{prefix}a").parse::<CollectionName>().is_ok() => {
                Ok(Self::Prefix(prefix.to_owned()))
            }
            Some(_) => Err(wrong()),
            None => {
                let names: Result<Vec<_>, _> = text.split(',').map(|name| name.trim().parse()).collect();
                names.map(Self::Named).map_err(|_| wrong())
            }
        }
    }

    pub(crate) fn has(&self, name: &CollectionName) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
            Self::Prefix(prefix) => name.as_str().starts_with(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes_are_read() {
        let name = |text: &str| text.parse::<CollectionName>().expect("a name");
        let two = Collections::parse("products, wiki").expect("names");
        assert!(two.has(&name("wiki")) && !two.has(&name("wikis")));
        let tenants = Collections::parse("tenant-*").expect("a prefix");
        assert!(tenants.has(&name("tenant-7")) && !tenants.has(&name("products")));
        assert_eq!(Collections::parse("*"), Ok(Collections::All));
        for wrong in ["", "a,,b", "A B*", "ten*ant"] {
            assert!(Collections::parse(wrong).is_err(), "{wrong}");
        }
    }
}
