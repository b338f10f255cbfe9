//! Arguments of `rebuild`.

use clap::Args;

/// `rebuild`.
#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    /// Settings (JSON) by which all rows are written, or - for standard input; those in force without it
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<String>,
    /// Why; it is kept in the history
    #[arg(long, value_name = "WORDS", default_value = "asked for by hand")]
    pub(crate) reason: String,
    /// Who asks, by default the user of this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Show how far it has come instead of beginning one
    #[arg(long, conflicts_with = "settings")]
    pub(crate) status: bool,
    /// Wait until the rebuilt lineage is level and is the candidate
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(crate) timeout: Option<u64>,
}
