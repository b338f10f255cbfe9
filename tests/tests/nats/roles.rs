//! The processes that take events from a NATS server: one that does everything, or an indexer and a search process.

use std::time::{Duration, Instant};

use serde_json::Value;
use verdigris_tests::process::{Answer, Folder, HASH_SETTINGS, Server};
use verdigris_tests::servers;

const PATIENCE: Duration = Duration::from_secs(120);

/// Which processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `up`.
    Up,
    /// `indexer` and `search`.
    Separate,
}

impl Layout {
    fn writer(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Separate => "indexer",
        }
    }
}

fn begin(folder: &Folder, role: &str, environment: &[(&'static str, String)]) -> Server {
    let mut command = folder.command();
    command
        .args([role, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .envs(environment.iter().map(|(name, value)| (*name, value)));
    if role != "up" {
        command.args(["--admin", "127.0.0.1:0"]);
    }
    let server = folder.try_up_by(&mut command);
    server.unwrap_or_else(|said| panic!("{role} ended: {said}"))
}

/// The processes, over one store.
pub(crate) struct Roles {
    writer: (Folder, Server),
    reader: Option<(Folder, Server)>,
    layout: Layout,
    environment: Vec<(&'static str, String)>,
    _store: Folder,
}

impl Roles {
    /// Starts them, with an empty collection `products`.
    pub(crate) fn start(layout: Layout, nats: &servers::Server) -> Self {
        let store = Folder::new();
        let mut environment = nats.environment();
        let url = format!("file:{}", store.data().join("shared").display());
        environment.push(("VERDIGRIS_STORE_URL", url));
        let start = |role: &str| {
            let folder = Folder::new();
            let server = begin(&folder, role, &environment);
            (folder, server)
        };
        let writer = start(layout.writer());
        let settings = writer.0.file("settings.json", HASH_SETTINGS);
        let create = ["collections", "create", "products", "--settings", &settings];
        let _made = writer.0.run(&create).with_code(0);
        let reader = (layout == Layout::Separate).then(|| start("search"));
        Self {
            writer,
            reader,
            layout,
            environment,
            _store: store,
        }
    }

    /// Kills the process that writes.
    pub(crate) fn kill_writer(&mut self) {
        self.writer.1.kill();
    }

    /// Starts it again.
    pub(crate) fn begin_writer(&mut self) {
        self.writer.1 = begin(&self.writer.0, self.layout.writer(), &self.environment);
    }

    pub(crate) fn reader(&self) -> &(Folder, Server) {
        self.reader.as_ref().unwrap_or(&self.writer)
    }

    /// Sends documents by the command line, and waits until they are searchable, or cannot be.
    pub(crate) fn try_ingest(&self, documents: &[Value]) -> Answer {
        let file = self.writer.0.file("catalog.jsonl", lines(documents));
        self.writer.0.run(&["ingest", &file, "--wait"])
    }

    pub(crate) fn ingest(&self, documents: &[Value]) -> Value {
        self.try_ingest(documents).with_code(0)
    }

    pub(crate) fn resync(&self, documents: &[Value], moment: &str) -> Value {
        let file = self.writer.0.file("feed.jsonl", lines(documents));
        let resync = ["resync", &file, "--time", moment, "--wait"];
        self.writer.0.run(&resync).with_code(0)
    }

    /// A document as it is answered from a release that holds this position; nothing where there is none.
    pub(crate) fn document(&self, id: &str, position: &str) -> Option<Value> {
        let mut get = vec!["get", id];
        if !position.is_empty() {
            get.extend(["--min-position", position]);
        }
        let mut answer = self.reader().0.run(&get);
        if answer.reason() == "DOCUMENT_NOT_FOUND" {
            return None;
        }
        assert_eq!(answer.code, 0, "{}\n{}", answer.text, self.log());
        Some(answer.json["document"].take())
    }

    /// Waits until a document is answered.
    pub(crate) fn finds(&self, id: &str) {
        self.wait(&format!("{id} is searchable"), || self.document(id, "").is_some());
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ids of the hits.
    pub(crate) fn hits(&self, text: &str) -> Vec<String> {
        let answer = self.reader().0.run(&["search", text, "--mode", "words"]).with_code(0);
        let hits = answer["hits"].as_array().unwrap();
        hits.iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
    }

    fn collection(&self) -> Value {
        self.writer.0.run(&["collections", "show"]).with_code(0)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.collection()["generation"].as_u64().unwrap()
    }

    /// Why publishing stands still: the reason, and the words about it.
    pub(crate) fn standstill(&self) -> Option<(String, String)> {
        let standstill = &self.collection()["standstill"];
        let text = |key: &str| standstill[key].as_str().map(str::to_owned);
        text("reason").zip(text("message"))
    }

    /// Waits until publishing stands still for this reason, and with these words.
    pub(crate) fn stands_still_for(&self, reason: &str, words: &str) {
        self.wait(&format!("{reason}, {words}"), || {
            let told = self.standstill();
            told.is_some_and(|(told, message)| told == reason && message.contains(words))
        });
    }

    /// A figure of the process that writes.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.writer.1.metric(name).unwrap()
    }

    /// What is wrong, but for a model that this machine may lack.
    pub(crate) fn doctor(&self) -> Vec<String> {
        let told = self.writer.0.run(&["doctor"]).json;
        let findings = told.as_array().unwrap().iter();
        let wrong = findings.filter(|finding| finding["ok"] == false && finding["what"] != "model");
        wrong.map(Value::to_string).collect()
    }

    /// Reasons of what was set aside.
    pub(crate) fn set_aside(&self) -> Vec<String> {
        let told = self.writer.0.run(&["dead-letters", "list"]).with_code(0);
        let letters = told["dead_letters"].as_array().unwrap();
        let mut reasons: Vec<_> = letters
            .iter()
            .map(|letter| letter["reason"].as_str().unwrap().to_owned())
            .collect();
        reasons.sort();
        reasons
    }

    fn log(&self) -> String {
        let log = self.writer.0.log();
        match &self.reader {
            Some((folder, _)) => format!("{log}\n{}", folder.log()),
            None => log,
        }
    }
}

fn lines(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("{document}\n")).collect()
}
