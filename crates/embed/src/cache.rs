//! Vectors on disk, so that no text is embedded twice: not after a kill, not in a rebuild, not on re-delivery.
//!
//! One SQLite file. It is a cache: whatever is wrong with it costs time, never an error, and a damaged file is made
//! anew. Each vector carries a checksum of its own, because SQLite's pages have none and a flipped bit would otherwise
//! reach a release.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::ffi::SQLITE_IOERR_SHORT_READ;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use verdigris_core::embedder::EmbedderIdentity;

use crate::{EmbedError, TextKind};

/// Vectors kept by default; the oldest go first. At 384 coordinates about 1.7 GB, and two hours of embedding saved.
pub const CACHE_VECTORS_MAX: u64 = 1_000_000;
/// Vectors per write transaction: a kill loses at most these, and readers of the same file wait for no longer.
const TRANSACTION_VECTORS: usize = 1_000;
/// How long to wait for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The layout of the file, in SQLite's `user_version`. A file of another layout is made anew.
const LAYOUT: i64 = 1;
/// Bytes of BLAKE3 behind each vector.
const CHECK_BYTES: usize = 8;

/// Which vector: a digest of everything that decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

/// Makes keys for one embedder and one kind of text. Two embedders, or two kinds, never share a key.
///
/// The chunker is left out: it decides which texts there are, not what vector a text gets.
#[derive(Debug, Clone)]
pub struct CacheKeys(blake3::Hasher);

impl CacheKeys {
    /// Keys for texts of `kind` under `identity`.
    pub fn new(identity: &EmbedderIdentity, kind: TextKind) -> Self {
        let EmbedderIdentity {
            provider,
            model,
            revision,
            dimension,
            max_tokens,
            normalised,
            chunker: _,
        } = identity;
        let mut hasher = blake3::Hasher::new();
        for part in [provider, model, revision] {
            hasher
                .update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        }
        hasher
            .update(&dimension.to_le_bytes())
            .update(&max_tokens.to_le_bytes());
        hasher.update(&[u8::from(*normalised), u8::from(kind == TextKind::Query)]);
        Self(hasher)
    }

    /// The key of exactly this text.
    pub fn key(&self, text: &str) -> CacheKey {
        CacheKey(*self.0.clone().update(text.as_bytes()).finalize().as_bytes())
    }
}

/// The cache file, open. All methods block.
#[derive(Debug)]
pub struct EmbeddingCache {
    path: PathBuf,
    vectors_max: u64,
    connection: Mutex<Connection>,
    failures: AtomicU64,
}

impl EmbeddingCache {
    /// Opens or makes the file at `path` (and its folder), to hold at most `vectors_max` vectors.
    ///
    /// A damaged file is replaced by an empty one, with a warning. An error means that no cache can be had there.
    pub fn open(path: &Path, vectors_max: u64) -> Result<Self, EmbedError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(file_error("create", folder))?;
        let connection = match connect(path) {
            Ok(connection) => connection,
            Err(error) if is_damage(&error) => make_anew(path, &error)?,
            Err(source) => {
                return Err(EmbedError::Cache {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            path: path.to_owned(),
            vectors_max: vectors_max.max(1),
            connection: Mutex::new(connection),
            failures: AtomicU64::new(0),
        })
    }

    /// The vectors that are there, in the order of `keys`. Trouble with the file is a warning and no vectors.
    pub fn get_many(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>> {
        let mut connection = self.lock();
        let found = read(&mut connection, keys);
        found.unwrap_or_else(|error| {
            self.recover(&mut connection, "read", &error);
            vec![None; keys.len()]
        })
    }

    /// Stores vectors, in transactions of limited size, and drops the oldest beyond the limit. Trouble with the file
    /// is a warning, and the vectors are not stored.
    pub fn put_many<'a>(&self, vectors: impl IntoIterator<Item = (CacheKey, &'a [f32])>) {
        let mut vectors = vectors.into_iter().peekable();
        while vectors.peek().is_some() {
            let batch = vectors.by_ref().take(TRANSACTION_VECTORS);
            // Taken anew for each transaction, so that a reader comes in between.
            let mut connection = self.lock();
            if let Err(error) = write(&mut connection, batch, self.vectors_max) {
                self.recover(&mut connection, "write", &error);
            }
        }
    }

    /// Removes vectors so that not a byte of them is left in the file or its log. An error means that some may be there.
    pub fn forget(&self, keys: &[CacheKey]) -> Result<(), EmbedError> {
        let mut connection = self.lock();
        forget(&mut connection, keys).map_err(cache_error(&self.path))
    }

    /// Vectors held.
    pub fn len(&self) -> u64 {
        count(&self.lock()).unwrap_or(0)
    }

    /// Whether no vectors are held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads and writes that went wrong since the cache was opened.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic rolls its transaction back; the connection stays whole.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recover(&self, connection: &mut Connection, action: &str, error: &rusqlite::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !is_damage(error) {
            tracing::warn!(path = %self.path.display(), %error, "cannot {action} the embedding cache; going on without");
            return;
        }
        // A file in memory stands in, so that the damaged one is closed before it is removed.
        let stand_in = Connection::open_in_memory().map(|memory| drop(std::mem::replace(connection, memory)));
        let fresh = stand_in
            .map_err(cache_error(&self.path))
            .and_then(|()| make_anew(&self.path, error));
        match fresh {
            Ok(fresh) => *connection = fresh,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot make the embedding cache anew; going on without");
            }
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A power cut may lose the last transactions, a kill loses none: enough for a cache.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // What is forgotten must not lie on in a page that was split before; nothing but that and the oldest is freed.
    connection.pragma_update(None, "secure_delete", "ON")?;
    let layout: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if layout == 0 && tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
             PRAGMA user_version = {LAYOUT};
             COMMIT;"
        ))?;
    } else if layout != LAYOUT {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, layout));
    }
    connection
        .prepare("SELECT vector FROM vectors WHERE key = ?1")?
        .query_row([[0u8; 32]], |_| Ok(()))
        .optional()?;
    Ok(connection)
}

/// Errors that another attempt will meet again for as long as the file is there.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                || failure.extended_code == SQLITE_IOERR_SHORT_READ
                || failure.code == ErrorCode::Unknown
        }
        // A statement that does not fit the tables, or a value of another type: another layout.
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

fn make_anew(path: &Path, error: &rusqlite::Error) -> Result<Connection, EmbedError> {
    tracing::warn!(path = %path.display(), %error, "the embedding cache is damaged and is made anew; texts are embedded again");
    for ending in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        match fs::remove_file(&name) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", Path::new(&name))(source));
            }
            _ => {}
        }
    }
    connect(path).map_err(cache_error(path))
}

fn read(connection: &mut Connection, keys: &[CacheKey]) -> rusqlite::Result<Vec<Option<Vec<f32>>>> {
    let transaction = connection.transaction()?;
    let mut found = Vec::with_capacity(keys.len());
    {
        let mut statement = transaction.prepare_cached("SELECT vector FROM vectors WHERE key = ?1")?;
        for key in keys {
            let stored = statement
                .query_row([key.0], |row| Ok(decode(key, row.get_ref(0)?.as_blob()?)))
                .optional()?;
            found.push(stored.flatten());
        }
    }
    transaction.commit()?;
    Ok(found)
}

fn write<'a>(
    connection: &mut Connection,
    vectors: impl Iterator<Item = (CacheKey, &'a [f32])>,
    vectors_max: u64,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO vectors (key, vector) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET vector = excluded.vector",
        )?;
        for (key, vector) in vectors {
            statement.execute(params![key.0, encode(&key, vector)])?;
        }
    }
    // Ids rise by one, and only the lowest are ever removed: their distance is the count.
    let delete = "DELETE FROM vectors WHERE id <= (SELECT max(id) FROM vectors) - ?1";
    transaction.execute(delete, [i64::try_from(vectors_max).unwrap_or(i64::MAX)])?;
    transaction.commit()
}

/// Overwrites key and vector in place and keeps the row, since counting goes by the distance of ids. The log, which has
/// earlier pages, is written back and cut.
fn forget(connection: &mut Connection, keys: &[CacheKey]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare_cached(
            "UPDATE vectors SET key = randomblob(32), vector = zeroblob(length(vector)) WHERE key = ?1",
        )?;
        for key in keys {
            statement.execute([key.0])?;
        }
    }
    transaction.commit()?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT ifnull((SELECT max(id) FROM vectors) - (SELECT min(id) FROM vectors) + 1, 0)";
    connection
        .query_row(sql, [], |row| row.get::<_, i64>(0))
        .map(|count| count.unsigned_abs())
}

/// Little-endian floats, then the beginning of BLAKE3 over key and floats.
fn encode(key: &CacheKey, vector: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(vector.len() * 4 + CHECK_BYTES);
    vector.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    let check = check(key, &bytes);
    bytes.extend_from_slice(&check);
    bytes
}

/// The floats, unless a bit of them has changed; then the text is embedded again.
fn decode(key: &CacheKey, bytes: &[u8]) -> Option<Vec<f32>> {
    let (floats, stored) = bytes.split_last_chunk::<CHECK_BYTES>()?;
    let (words, []) = floats.as_chunks::<4>() else {
        return None;
    };
    (*stored == check(key, floats)).then(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

fn check(key: &CacheKey, floats: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = *blake3::Hasher::new()
        .update(&key.0)
        .update(floats)
        .finalize()
        .as_bytes();
    let (checks, _) = hash.as_chunks::<CHECK_BYTES>();
    checks[0]
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbedError {
    move |source| EmbedError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn cache_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> EmbedError {
    move |source| EmbedError::Cache {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
