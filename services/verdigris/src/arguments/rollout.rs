//! Arguments of `rollout`.

use clap::{Args, Subcommand};

/// `rollout`.
#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Show where the rollout stands, and why
    Status {
        /// Go on showing it until stopped
        #[arg(long)]
        watch: bool,
        /// Wait until nothing more happens by itself: promoted, refused, waiting for approval, held, or nothing to do
        #[arg(long, conflicts_with = "watch")]
        wait: bool,
        /// Give up waiting after this many seconds
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<u64>,
    },
    /// Promote the candidate, as it was judged, and wait until it answers
    Promote {
        #[command(flatten)]
        lineage: Named,
        /// Generation at which it was judged; the newest verdict without it
        #[arg(long)]
        generation: Option<u64>,
        /// Give up waiting after this many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Give up the candidate, also while it is being built, or the way back
    Abort {
        #[command(flatten)]
        lineage: Named,
        /// Why
        #[arg(long, value_name = "WORDS", default_value = "given up by hand")]
        reason: String,
    },
    /// Let the way back answer again; nothing is promoted until resumed
    Rollback {
        /// Why; it is kept in the history
        #[arg(long, value_name = "WORDS")]
        reason: String,
        /// Who goes back, by default the user of this machine
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Hold promotion: candidates wait until resumed
    Hold {
        /// Why; it is shown as long as promotion is held
        #[arg(long, value_name = "WORDS")]
        reason: String,
        /// Who holds, by default the user of this machine
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Let promotion go on
    Resume {
        /// Who goes on, by default the user of this machine
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Show what answered since when, why, by whom
    History,
}

/// The lineage that is meant, and who asks.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name; the other lineage of now without it
    #[arg(long, value_name = "NAME")]
    pub(crate) lineage: Option<String>,
    /// Who asks, by default the user of this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
}
