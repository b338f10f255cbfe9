//! The command line: what can be asked, with its help. What is done about it lies in `commands`.

mod erase;
mod rebuild;
mod rollout;
mod serve;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::erase::Erase;
pub(crate) use self::rebuild::Rebuild;
pub(crate) use self::rollout::Rollout;
pub(crate) use self::serve::{LogFormat, Serve};

/// Blue/green vector search for product catalogs.
#[derive(Debug, Parser)]
#[command(name = "verdigris", version, about, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of all commands.
#[derive(Debug, Args, Clone)]
pub(crate) struct Global {
    /// Address of a running server, such as http://127.0.0.1:7700 or unix:/run/verdigris.sock
    #[arg(long, global = true, env = "VERDIGRIS_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Data folder; a command without --server uses the server that runs on it, or works on the folder itself
    #[arg(
        long,
        global = true,
        env = "VERDIGRIS_DATA",
        value_name = "DIR",
        default_value = "verdigris-data"
    )]
    pub(crate) data: PathBuf,
    /// Collection; made on first ingest
    #[arg(
        long,
        global = true,
        env = "VERDIGRIS_COLLECTION",
        value_name = "NAME",
        default_value = "products"
    )]
    pub(crate) collection: String,
    /// Address of administration, where it is not that of --server
    #[arg(long, global = true, env = "VERDIGRIS_ADMIN_SERVER", value_name = "URL")]
    pub(crate) admin_server: Option<String>,
    /// Authorities (PEM) of https:// servers, instead of those of the system
    #[arg(long, global = true, env = "VERDIGRIS_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate (PEM) to administer with, instead of a token
    #[arg(long, global = true, env = "VERDIGRIS_CLIENT_CERTIFICATE", value_name = "FILE")]
    pub(crate) client_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, env = "VERDIGRIS_CLIENT_KEY", value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,
    /// File whose first line is the token to send
    #[arg(long, global = true, env = "VERDIGRIS_CLIENT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) client_token_file: Option<PathBuf>,
    /// Cache folder for the model
    #[arg(long, global = true, env = "VERDIGRIS_CACHE", value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all roles in one process: ingest, indexer, search, controller
    Up(Box<Serve>),
    /// Run the indexer alone: events in, releases out
    Indexer(Box<Serve>),
    /// Run the controller alone: the owner of rollouts, on a Kubernetes cluster of its Collections
    Controller(Box<crate::controller::Controller>),
    /// Send documents or events from JSON Lines files, or from standard input (-)
    Ingest(Ingest),
    /// Search by text, vector, or both; without either, run the search role alone
    Search(Box<Search>),
    /// Show a document
    Get {
        /// Document id
        id: String,
        /// Which lineage answers
        #[arg(long, value_enum, default_value = "active")]
        lineage: Lineage,
        /// Wait until the release holds at least this position
        #[arg(long)]
        min_position: Option<String>,
    },
    /// Where is my product: its last events, its row, and its rank for a query
    ExplainDocument {
        /// Document id
        id: String,
        /// Show the document's rank for this text as well
        #[arg(long, value_name = "TEXT")]
        query: Option<String>,
        /// Filter of that search
        #[arg(long, requires = "query")]
        filter: Option<String>,
    },
    /// Change some fields of a document; null removes a field
    Patch {
        /// Document id
        id: String,
        /// Fields as a JSON object
        fields: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete documents
    Delete {
        /// Document ids
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Collections
    #[command(subcommand)]
    Collections(Collections),
    /// Settings of a collection
    #[command(subcommand)]
    Settings(Settings),
    /// Repair a collection from a full feed: what the feed lacks is deleted as of the feed's time
    Resync {
        /// JSON Lines file with every document, or - for standard input
        file: String,
        /// Time of the feed (RFC 3339), by default now; what changed after it survives
        #[arg(long, value_name = "TIME")]
        time: Option<String>,
        /// Revision of the feed, for collections with numbered revisions
        #[arg(long, value_name = "NUMBER")]
        revision: Option<i64>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Releases of a collection
    #[command(subcommand)]
    Releases(Releases),
    /// Write all rows anew as another lineage, beside what is served: for new settings, a new model, a new index type
    Rebuild(Rebuild),
    /// Hide documents in every release at once and for ever, and remove their bytes; or show what is left of them
    Erase(Erase),
    /// Which lineage answers, and how another comes to answer
    #[command(subcommand)]
    Rollout(Rollout),
    /// The release that breached a guard and waits for a decision
    #[command(subcommand)]
    Staged(Staged),
    /// Events that were set aside
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// The embedding model
    #[command(subcommand)]
    Model(Model),
    /// Queries that releases are measured with
    #[command(subcommand)]
    Queries(Queries),
    /// Measure relevance: queries and judgements as TSV
    Evaluate(Evaluate),
    /// Look for trouble: processor, model, data folder, pointer, releases, log
    Doctor,
    /// Configuration
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

/// Whether to wait until events are searchable.
#[derive(Debug, Args, Clone)]
pub(crate) struct Wait {
    /// Wait until the events are searchable
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub(crate) timeout: u64,
}

/// `ingest`.
#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// JSON Lines files of documents or CloudEvents; - is standard input
    #[arg(required = true)]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// File for refused lines, by default NAME-TIME.jsonl in the data folder's rejected/
    #[arg(long, value_name = "FILE")]
    pub(crate) rejected: Option<PathBuf>,
}

/// Which lists a search asks.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum SearchMode {
    /// Words and vectors in one sum.
    Hybrid,
    /// Vectors alone.
    Vector,
    /// Words alone.
    Words,
}

/// Which of the two lineages answers.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Lineage {
    /// The one that answers everybody.
    Active,
    /// The candidate, or the way back.
    Other,
}

/// `search`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("asked").args(["text", "vector_file"]).multiple(true)))]
pub(crate) struct Search {
    /// Text to search for
    pub(crate) text: Option<String>,
    /// File with a JSON array of numbers: the query's vector
    #[arg(long, value_name = "FILE")]
    pub(crate) vector_file: Option<PathBuf>,
    /// Hits to show, at most 1000
    #[arg(long, value_name = "N", default_value_t = 10, requires = "asked")]
    pub(crate) top_k: u32,
    /// Hits to skip
    #[arg(long, value_name = "N", default_value_t = 0, requires = "asked")]
    pub(crate) offset: u32,
    /// Go on where an answer ended, in the same release
    #[arg(long, value_name = "TOKEN", conflicts_with = "offset")]
    pub(crate) page_token: Option<String>,
    /// Which lineage answers; the other one for a preview
    #[arg(long, value_enum, default_value = "active", requires = "asked")]
    pub(crate) lineage: Lineage,
    /// Show what both lineages answer, side by side
    #[arg(long, conflicts_with_all = ["lineage", "page_token", "offset"])]
    pub(crate) compare: bool,
    /// Which lists to ask
    #[arg(long, value_enum, requires = "asked")]
    pub(crate) mode: Option<SearchMode>,
    /// AIP-160 filter, such as: price < 20 AND brand = "Bosch"
    #[arg(long, value_name = "FILTER", requires = "asked")]
    pub(crate) filter: Option<String>,
    /// Fields to return, separated by commas; all without it
    #[arg(long, value_name = "FIELDS", value_delimiter = ',', requires = "asked")]
    pub(crate) fields: Vec<String>,
    /// Candidates a graph search keeps
    #[arg(long, value_name = "N")]
    pub(crate) ef_search: Option<u32>,
    /// Lists that an inverted file visits
    #[arg(long, value_name = "N")]
    pub(crate) nprobe: Option<u32>,
    /// Leave out hits below this score
    #[arg(long, value_name = "SCORE", requires = "asked")]
    pub(crate) min_score: Option<f32>,
    /// Wait until the release holds at least this position
    #[arg(long, value_name = "POSITION", requires = "asked")]
    pub(crate) min_position: Option<String>,
    #[command(flatten, next_help_heading = "Options of the search role, without a text")]
    pub(crate) role: Serve,
}

impl Search {
    /// Whether something is searched for; otherwise the search role is to run.
    pub(crate) fn is_asked(&self) -> bool {
        self.text.is_some() || self.vector_file.is_some()
    }
}

/// `collections`.
#[derive(Debug, Subcommand)]
pub(crate) enum Collections {
    /// List collections
    List,
    /// Make an empty collection
    Create {
        /// Its name
        name: String,
        /// Settings file (JSON)
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
    },
    /// Show a collection
    Show {
        /// Its name; --collection without it
        name: Option<String>,
    },
    /// Delete a collection; its name is free after the grace
    Delete {
        /// Its name
        name: String,
    },
}

/// `settings`.
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    /// Show the settings in force
    Show,
    /// Set settings from a JSON file
    Set {
        /// The file, or - for standard input
        file: String,
    },
}

/// `releases`.
#[derive(Debug, Subcommand)]
pub(crate) enum Releases {
    /// List kept releases
    List,
    /// Show a release's manifest
    Show {
        /// Generation; the newest without it
        generation: Option<u64>,
    },
    /// Read every file of a release and compare it with its digest
    Verify {
        /// Generation; the newest without it
        generation: Option<u64>,
    },
    /// Show what differs between two kept releases: documents added, removed, changed by field
    Diff {
        /// Generation before
        before: u64,
        /// Generation after; the newest without it
        after: Option<u64>,
        /// Documents that are shown one by one
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Go back to an older release's content, and hold publishing until resumed
    Rollback {
        /// Generation of a kept release
        generation: u64,
        /// Why; it is kept with the release and shown as long as publishing is held
        #[arg(long, value_name = "WORDS")]
        reason: String,
        /// Go back although the log does not keep every event since
        #[arg(long)]
        without_replay: bool,
        /// Who goes back, by default the user of this machine
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Go on after a rollback: the events since are read again
    Resume {
        /// Set these events aside when they are read again: a file with a position a line
        #[arg(long, value_name = "FILE", requires = "reason")]
        set_aside: Option<PathBuf>,
        /// Why they are set aside; it is kept with each dead letter
        #[arg(long, value_name = "WORDS")]
        reason: Option<String>,
        /// Who goes on, by default the user of this machine
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Keep a release until it is let go by word
    Pin {
        /// Generation of a kept release
        generation: u64,
        /// Let it go instead
        #[arg(long)]
        remove: bool,
    },
    /// Write a release as one stock FAISS index with its documents
    Export {
        /// Generation; the newest without it
        #[arg(long)]
        generation: Option<u64>,
        /// Layout
        #[arg(long, value_enum, default_value = "faiss")]
        layout: ExportLayout,
        /// Folder, made when it is not there
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

/// `staged`.
#[derive(Debug, Subcommand)]
pub(crate) enum Staged {
    /// Show what was breached, and by which events
    Show,
    /// Serve it, and let pass what was judged with it
    Accept(Decision),
    /// Judge its events anew, by the settings of now
    Retry(Decision),
    /// Set its events aside and apply the rest: all that the verdict counted, or those chosen
    Reject {
        #[command(flatten)]
        decision: Decision,
        /// Why; it is kept with each dead letter
        #[arg(long, value_name = "WORDS")]
        reason: String,
        /// Only the counted events of these documents
        #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "events")]
        ids: Vec<String>,
        /// Only these events: a file with a position a line
        #[arg(long, value_name = "FILE")]
        events: Option<PathBuf>,
    },
}

/// A decision about a staged release.
#[derive(Debug, Args)]
pub(crate) struct Decision {
    /// Generation that was shown; the one that waits without it
    pub(crate) generation: Option<u64>,
    /// Who decides, by default the user of this machine
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
}

/// How an export is laid out.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum ExportLayout {
    /// `index.faiss`, `meta.jsonl` and `manifest.json`.
    Faiss,
}

/// `dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List events that were set aside
    List,
    /// Show one, payload included
    Show {
        /// Its position
        position: String,
    },
    /// Put a corrected event in its place: a new event with a new stamp
    Edit {
        /// Its position
        position: String,
        /// File with the corrected event, or - for standard input
        file: String,
    },
    /// Send events again with their old stamp
    Replay {
        /// Their positions
        #[arg(required = true)]
        positions: Vec<String>,
    },
    /// Remove letters for good
    Drop {
        /// Their positions
        #[arg(required = true)]
        positions: Vec<String>,
    },
}

/// `queries`.
#[derive(Debug, Subcommand)]
pub(crate) enum Queries {
    /// Queries with what must be found: a release that misses it is not promoted by itself
    #[command(subcommand)]
    Golden(Golden),
    /// The sample of asked queries that the server keeps on its machine
    #[command(subcommand)]
    Log(QueryLog),
}

/// `queries golden`.
#[derive(Debug, Subcommand)]
pub(crate) enum Golden {
    /// Put a file of golden queries in the place of all earlier ones: JSON Lines, or TSV
    Set {
        /// The file, or - for standard input
        file: String,
    },
    /// Show the golden queries, in a form that can be set again
    Show,
    /// Take all golden queries away
    Clear,
}

/// `queries log`.
#[derive(Debug, Subcommand)]
pub(crate) enum QueryLog {
    /// Show some of the kept queries, drawn at random
    Show {
        /// Queries to show
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Empty the sample
    Clear,
}

/// `model`.
#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Fetch the model into the cache folder, checked by sha256
    Fetch,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Show the configuration of `up`
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        /// Configuration file (TOML)
        #[arg(long, env = "VERDIGRIS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// `evaluate`.
#[derive(Debug, Args)]
pub(crate) struct Evaluate {
    /// Queries: query id, tab, text
    #[arg(long, value_name = "TSV")]
    pub(crate) queries: PathBuf,
    /// Judgements: query id, product id, ..., gain in the last column
    #[arg(long, value_name = "TSV")]
    pub(crate) judgements: PathBuf,
    /// Which lists to ask
    #[arg(long, value_enum, default_value = "hybrid")]
    pub(crate) mode: SearchMode,
    /// Write the ranking as query, product, rank
    #[arg(long, value_name = "TSV")]
    pub(crate) run_file: Option<PathBuf>,
    /// AIP-160 filter for every query
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
}
