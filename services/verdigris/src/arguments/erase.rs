//! Arguments of `erase`.

use clap::Args;

/// `erase`.
#[derive(Debug, Args)]
pub(crate) struct Erase {
    /// Document ids; with --status those to show, by default the last erased
    #[arg(value_name = "ID", required_unless_present = "status")]
    pub(crate) ids: Vec<String>,
    /// Why; it is kept with the ids for ever
    #[arg(long, value_name = "WORDS", required_unless_present = "status")]
    pub(crate) reason: Option<String>,
    /// Who asks, by default the user of this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Show what is left of erased documents instead of erasing
    #[arg(long, conflicts_with_all = ["reason", "actor"])]
    pub(crate) status: bool,
}
