//! The sample of asked queries, kept on this machine for measuring: text and filter, nothing else, bounded, and off by
//! a setting, which also takes away what is there.
//!
//! A search never waits for it: where somebody holds the sample at that moment, the query is left out. The sample is
//! written to its file now and then; what a person or `erase` takes away is gone from the file before they are told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use verdigris_core::names::CollectionName;
use verdigris_core::queries::{LoggedQuery, QuerySample, QuerySettings};

/// How often what came is written: a process that is killed forgets so much.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// The samples of all collections.
pub(crate) struct QueryLog {
    /// Where files are; none keeps samples in memory alone.
    folder: Option<PathBuf>,
    samples: Mutex<BTreeMap<CollectionName, Kept>>,
    /// Held while files are written, so that an older sample never takes the place of a newer one.
    writing: tokio::sync::Mutex<()>,
}

struct Kept {
    sample: QuerySample,
    settings: QuerySettings,
    is_unwritten: bool,
}

/// What there is to say of a sample.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LogFacts {
    pub(crate) kept: u32,
    pub(crate) settings: QuerySettings,
}

impl QueryLog {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            samples: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// A query was asked. Takes no time: false where it was left out because somebody holds the sample.
    pub(crate) fn asked(&self, name: &CollectionName, text: &str, filter: &str) -> bool {
        let query = LoggedQuery {
            text: text.trim().to_owned(),
            filter: filter.trim().to_owned(),
        };
        if query.text.is_empty() || !query.is_kept() {
            return true;
        }
        let Ok(mut samples) = self.samples.try_lock() else {
            return false;
        };
        if let Some(kept) = samples.get_mut(name).filter(|kept| kept.settings.log) {
            kept.is_unwritten |= kept.sample.offer(query, kept.settings.kept, rand::random());
        }
        true
    }

    /// What the settings of the release that answers say. The first word about a collection reads its file.
    pub(crate) async fn settings(self: &Arc<Self>, name: &CollectionName, settings: &QuerySettings) {
        let is_known = self.lock().get(name).map(|kept| kept.settings == *settings);
        if is_known == Some(true) {
            return;
        }
        if !settings.log {
            self.lock().remove(name);
            self.write(name, QuerySample::default()).await;
        }
        let stored = match is_known {
            None if settings.log => self.read(name).await,
            _ => QuerySample::default(),
        };
        let mut samples = self.lock();
        let kept = samples.entry(name.clone()).or_insert(Kept {
            sample: stored,
            settings: settings.clone(),
            is_unwritten: false,
        });
        kept.settings = settings.clone();
        kept.sample.limit(settings.kept);
    }

    /// Whether the sample of a collection was read.
    pub(crate) fn knows(&self, name: &CollectionName) -> bool {
        self.lock().contains_key(name)
    }

    /// The collection is gone, and so is its sample.
    pub(crate) async fn forget(self: &Arc<Self>, name: &CollectionName) {
        self.lock().remove(name);
        self.write(name, QuerySample::default()).await;
    }

    /// Writes what came since, before the collection is closed.
    pub(crate) async fn write_out(self: &Arc<Self>, name: &CollectionName) {
        if let Err(error) = self.write_unwritten(name).await {
            tracing::warn!(collection = %name, "the sample of asked queries was not written: {error}");
        }
    }

    /// Keeps the sample in its file alone.
    pub(crate) fn close(&self, name: &CollectionName) {
        self.lock().remove(name);
    }

    /// All queries that are kept, in the order of their texts: the same sample in the same order on each call.
    pub(crate) fn all(&self, name: &CollectionName) -> Vec<LoggedQuery> {
        let samples = self.lock();
        let mut queries = samples.get(name).map(|kept| kept.sample.queries().to_vec());
        drop(samples);
        let mut queries = queries.take().unwrap_or_default();
        queries.sort_unstable();
        queries
    }

    /// Some of the queries that are kept, drawn at random.
    pub(crate) fn some(&self, name: &CollectionName, count: usize) -> Vec<LoggedQuery> {
        let mut queries = self.all(name);
        for n in 0..count.min(queries.len()) {
            let left = queries.len() - n;
            queries.swap(n, n + rand::random_range(0..left));
        }
        queries.truncate(count);
        queries
    }

    pub(crate) fn facts(&self, name: &CollectionName) -> LogFacts {
        let samples = self.lock();
        let facts = samples.get(name).map(|kept| LogFacts {
            kept: kept.sample.queries().len() as u32,
            settings: kept.settings.clone(),
        });
        facts.unwrap_or_default()
    }

    /// Takes queries away, from the file as well; how many.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        name: &CollectionName,
        gone: impl Fn(&LoggedQuery) -> bool,
    ) -> io::Result<usize> {
        let mut removed = 0;
        if let Some(kept) = self.lock().get_mut(name) {
            removed = kept.sample.delete(gone);
            kept.is_unwritten = true;
        }
        self.write_unwritten(name).await?;
        Ok(removed)
    }

    /// Writes what came, now and then, until the token is cancelled, and once more then.
    pub(crate) async fn keep(self: Arc<Self>, token: CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => break self.write_all().await,
                () = tokio::time::sleep(WRITE_EVERY) => self.write_all().await,
            }
        }
    }

    async fn write_all(self: &Arc<Self>) {
        let names: Vec<CollectionName> = self.lock().keys().cloned().collect();
        for name in names {
            self.write_out(&name).await;
        }
    }

    async fn write_unwritten(self: &Arc<Self>, name: &CollectionName) -> io::Result<()> {
        let (log, name) = (self.clone(), name.clone());
        let writing = self.writing.lock().await;
        let work = tokio::task::spawn_blocking(move || {
            let unwritten = {
                let mut samples = log.lock();
                let kept = samples.get_mut(&name).filter(|kept| kept.is_unwritten);
                kept.map(|kept| {
                    kept.is_unwritten = false;
                    kept.sample.clone()
                })
            };
            let Some(sample) = unwritten else { return Ok(()) };
            let written = log.put(&name, &sample);
            if written.is_err()
                && let Some(kept) = log.lock().get_mut(&name)
            {
                kept.is_unwritten = true;
            }
            written
        });
        let written = work.await.map_err(io::Error::other)?;
        drop(writing);
        written
    }

    async fn write(self: &Arc<Self>, name: &CollectionName, sample: QuerySample) {
        let writing = self.writing.lock().await;
        let (log, owned) = (self.clone(), name.clone());
        let work = tokio::task::spawn_blocking(move || log.put(&owned, &sample)).await;
        drop(writing);
        if let Err(error) = work.map_err(io::Error::other).and_then(|written| written) {
            tracing::warn!(collection = %name, "the sample of asked queries was not written: {error}");
        }
    }

    async fn read(self: &Arc<Self>, name: &CollectionName) -> QuerySample {
        let Some(path) = self.path(name) else {
            return QuerySample::default();
        };
        let work = tokio::task::spawn_blocking(move || read(&path)).await;
        match work.map_err(io::Error::other).and_then(|read| read) {
            Ok(sample) => sample,
            Err(error) => {
                // A sample is worth no more than a note: another one grows.
                tracing::warn!(collection = %name, "the sample of asked queries is begun anew: {error}");
                QuerySample::default()
            }
        }
    }

    fn path(&self, name: &CollectionName) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{name}.jsonl")))
    }

    fn put(&self, name: &CollectionName, sample: &QuerySample) -> io::Result<()> {
        let Some(path) = self.path(name) else { return Ok(()) };
        if sample.queries().is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        replace(&path, sample.encode().as_bytes())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CollectionName, Kept>> {
        self.samples.lock().expect("no code panics while it holds this lock")
    }
}

fn read(path: &Path) -> io::Result<QuerySample> {
    match fs::read_to_string(path) {
        Ok(text) => QuerySample::decode(&text).map_err(io::Error::other),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(QuerySample::default()),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, and for nobody else to read: people type all kinds of things into a search box.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> CollectionName {
        "products".parse().unwrap()
    }

    fn on() -> QuerySettings {
        QuerySettings::default()
    }

    async fn log(folder: &Path) -> Arc<QueryLog> {
        let log = Arc::new(QueryLog::new(Some(folder.to_owned())));
        log.settings(&name(), &on()).await;
        log
    }

    fn texts(log: &QueryLog) -> Vec<String> {
        log.all(&name()).into_iter().map(|query| query.text).collect()
    }

    #[tokio::test]
    async fn asked_queries_outlive_the_process_as_texts_and_filters_that_others_cannot_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = log(folder.path()).await;
        assert!(first.asked(&name(), " copper pipe ", "price < 5"));
        assert!(
            first.asked(&name(), "  ", "price < 5"),
            "a search by vector has no text"
        );
        assert!(first.asked(&name(), &"x".repeat(5_000), ""), "too long to be kept");
        first.write_all().await;
        let path = folder.path().join("products.jsonl");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"offered\":1}\n{\"text\":\"copper pipe\",\"filter\":\"price < 5\"}\n"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(texts(&*log(folder.path()).await), ["copper pipe"]);
    }

    #[tokio::test]
    async fn nothing_is_kept_when_the_setting_is_off_and_what_was_kept_goes() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path()).await;
        log.asked(&name(), "pipe", "");
        log.write_all().await;
        let off = QuerySettings { log: false, ..on() };
        log.settings(&name(), &off).await;
        assert!(!folder.path().join("products.jsonl").exists());
        log.asked(&name(), "pipe", "");
        log.write_all().await;
        assert_eq!(texts(&log), Vec::<String>::new());
        assert_eq!(log.facts(&name()).settings, off);
        assert!(!folder.path().join("products.jsonl").exists());
    }

    #[tokio::test]
    async fn what_is_deleted_is_gone_from_the_file_before_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path()).await;
        for text in ["pipe", "DW-745", "saw"] {
            log.asked(&name(), text, "");
        }
        log.write_all().await;
        let removed = log
            .delete(&name(), |query| query.text.contains("DW-745"))
            .await
            .unwrap();
        assert_eq!(removed, 1);
        let stored = fs::read_to_string(folder.path().join("products.jsonl")).unwrap();
        assert!(!stored.contains("DW-745"), "{stored}");
        assert_eq!(log.delete(&name(), |_| true).await.unwrap(), 2);
        assert!(!folder.path().join("products.jsonl").exists());
    }

    #[tokio::test]
    async fn a_damaged_file_is_begun_anew_and_a_collection_that_is_gone_leaves_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("products.jsonl"), "{\"offered\":1}\n{").unwrap();
        let log = log(folder.path()).await;
        assert_eq!(texts(&log), Vec::<String>::new());
        log.asked(&name(), "pipe", "");
        log.write_all().await;
        assert!(folder.path().join("products.jsonl").exists());
        log.forget(&name()).await;
        assert!(!folder.path().join("products.jsonl").exists());
    }

    #[tokio::test]
    async fn a_search_does_not_wait_for_whoever_holds_the_sample() {
        let log = Arc::new(QueryLog::new(None));
        log.settings(&name(), &on()).await;
        let held = log.lock();
        assert!(!log.asked(&name(), "pipe", ""), "left out");
        drop(held);
        assert!(log.asked(&name(), "pipe", ""));
        assert_eq!(texts(&log), ["pipe"]);
    }

    #[tokio::test]
    async fn some_queries_are_drawn_from_all_of_them() {
        let log = Arc::new(QueryLog::new(None));
        log.settings(&name(), &on()).await;
        for n in 0..50 {
            log.asked(&name(), &format!("query {n}"), "");
        }
        let mut some = log.some(&name(), 20);
        some.sort();
        some.dedup();
        assert_eq!(some.len(), 20);
        assert_eq!(log.some(&name(), 100).len(), 50);
    }
}
