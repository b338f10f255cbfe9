//! How a command ended, as the process says it. `docs/cli.md` is the contract.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done; with `--wait`, all of it is searchable.
    Done,
    /// An error, told on standard error.
    Error,
    /// The command line was wrong.
    Usage,
    /// Some events were refused or set aside.
    Refused,
    /// Events were accepted, but are not searchable: publishing stands still, or the time was up.
    NotSearchable,
}

impl Exit {
    /// The number that scripts see.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NotSearchable => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let exits = [Exit::Done, Exit::Error, Exit::Usage, Exit::Refused, Exit::NotSearchable];
        assert_eq!(exits.map(Exit::code), [0, 1, 2, 3, 4]);
        let documented = include_str!("../../../docs/cli.md");
        for exit in exits {
            assert!(
                documented.contains(&format!("\n| {} | ", exit.code())),
                "{exit:?} is not in docs/cli.md"
            );
        }
    }
}
