//! Arguments of `rollout`.

use clap::{Args, Subcommand};

/// `rollout`.
#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Show where the rollout stands: lineages, gates, holds, the way back
    Status {
        /// Go on showing it as it changes, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Let the candidate pass as it was judged, whatever the gates say
    Promote {
        /// The candidate that you looked at; the one there is without it
        lineage: Option<String>,
        /// The generation at which it was judged; the newest verdict's without it
        #[arg(long, value_name = "GENERATION")]
        generation: Option<u64>,
        /// Do not wait until it answers
        #[arg(long)]
        no_wait: bool,
        /// Give up waiting after this many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
        #[command(flatten)]
        actor: Actor,
    },
    /// Give up the candidate or a build; or the way back, where it is named
    Abort {
        /// Its lineage; the candidate or the build without it
        lineage: Option<String>,
        /// Why
        #[arg(long, value_name = "WORDS")]
        reason: String,
        #[command(flatten)]
        actor: Actor,
    },
    /// Have the way back answer again, and hold promotion until resumed
    Rollback {
        /// Why; it is kept in the history
        #[arg(long, value_name = "WORDS")]
        reason: String,
        #[command(flatten)]
        actor: Actor,
    },
    /// Promote nothing until resumed
    Hold {
        /// Why; it is shown as long as promotion is held
        #[arg(long, value_name = "WORDS")]
        reason: String,
        #[command(flatten)]
        actor: Actor,
    },
    /// Let promotion go on
    Resume(Actor),
    /// Measure the candidate again, and judge it by that
    Measure,
    /// List what answered since when, why, and by whom
    History,
    /// Take the rollouts over from another owner that is gone
    TakeOver(Actor),
}

/// Who asks.
#[derive(Debug, Args)]
pub(crate) struct Actor {
    /// Who asks, by default the user of this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
}
