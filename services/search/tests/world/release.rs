//! Releases that are written by hand: rows, vectors and manifest as a test wants them.

use std::collections::BTreeMap;

use bytes::Bytes;
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use verdigris_core::digest::{ContentSum, Digest};
use verdigris_core::document::DocumentState;
use verdigris_core::edit::PublishEdit;
use verdigris_core::embedder::EmbedderIdentity;
use verdigris_core::event::{Event, JudgeContext, VectorRule};
use verdigris_core::manifest::{
    Checkpoint, FileEntry, Genesis, Manifest, Metric, PublishReason, SegmentEntry, SegmentFiles, SegmentId, Stats,
};
use verdigris_core::pointer::ManifestReference;
use verdigris_core::position::StreamIdentity;
use verdigris_core::revision::RevisionKind;
use verdigris_core::settings::{Provider, Settings};
use verdigris_core::text::embedded_text;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::HashEmbedder;
use verdigris_engine::segment::write::{NewRow, SegmentShape, SegmentWriter};
use verdigris_store::{Body, Precondition, Store, digest_of_file, keys};

use super::{World, Written, name};

/// Settings with hashes of words for vectors.
pub(crate) fn hash_settings(dimension: u32) -> Settings {
    let json = format!(r#"{{"revision":"number","embedder":{{"provider":"hash","dimension":{dimension}}}}}"#);
    Settings::parse(json.as_bytes()).expect("valid")
}

/// Words of a small world of products.
const KINDS: [&str; 8] = ["drill", "saw", "hammer", "pipe", "valve", "cable", "lamp", "clamp"];
const MATERIALS: [&str; 7] = ["copper", "steel", "oak", "brass", "rubber", "glass", "nylon"];
const MAKERS: [&str; 5] = ["Kestrel", "Borwin", "Halden", "Ostrava", "Merlin"];

/// So many documents with texts of their own.
pub(crate) fn catalog(count: usize) -> Vec<Value> {
    let document = |n: usize| {
        let (kind, material) = (KINDS[n % 8], MATERIALS[n / 8 % 7]);
        let title = format!("{material} {kind} number {n} size {}", n * 7 % 101);
        json!({"id": format!("p-{n}"), "title": title, "brand": MAKERS[n / 56 % 5], "price": n % 50})
    };
    (0..count).map(document).collect()
}

/// The vector of the n-th row that is written, given its embedded text.
type VectorOf = Box<dyn Fn(usize, &str) -> Vec<f32>>;

/// Changes the bytes of a vector file.
type Bend = Box<dyn Fn(&mut Vec<u8>)>;

/// A release to be written.
pub(crate) struct Draft {
    pub(crate) lineage: String,
    pub(crate) generation: u64,
    pub(crate) settings: Settings,
    pub(crate) settings_version: u64,
    /// Rows with vectors, in their order: documents at revision 1.
    pub(crate) documents: Vec<Value>,
    /// Rows of these that are dead.
    pub(crate) dead: Vec<u32>,
    /// Ids of documents that were deleted at revision 2.
    pub(crate) ghosts: Vec<String>,
    /// What stands in the place of each row's vector.
    pub(crate) vector: Option<VectorOf>,
    /// The model that the manifest names, in the place of the settings'.
    pub(crate) embedder: Option<EmbedderIdentity>,
    /// Up to where it has read.
    pub(crate) checkpoint: u64,
    /// Changes the vector file before its digest is taken.
    pub(crate) bend: Option<Bend>,
    /// What the manifest says of content and documents, in the place of what is right.
    pub(crate) claims: Option<(ContentSum, u64)>,
    /// The generation that wrote its rows.
    pub(crate) rows_of: u64,
    /// Rows of a segment; all in one by default.
    pub(crate) segment_rows: usize,
}

impl Draft {
    pub(crate) fn new(lineage: &str, generation: u64, documents: Vec<Value>) -> Self {
        Self {
            lineage: lineage.to_owned(),
            generation,
            settings: hash_settings(16),
            settings_version: 1,
            documents,
            dead: Vec::new(),
            ghosts: Vec::new(),
            vector: None,
            embedder: None,
            checkpoint: 100 + generation,
            bend: None,
            claims: None,
            rows_of: 1,
            segment_rows: usize::MAX,
        }
    }

    fn identity(&self) -> EmbedderIdentity {
        let dimension = self.settings.embedder.dimension;
        match self.settings.embedder.provider {
            Provider::None => EmbedderIdentity::none(dimension),
            Provider::Hash | Provider::Minilm => {
                use verdigris_embed::Embedder;
                HashEmbedder::new(dimension).expect("a dimension").identity().clone()
            }
        }
    }

    fn vector(&self, n: usize, document: &Value) -> Vec<f32> {
        let map = document.as_object().expect("a document");
        if self.settings.embedder.provider == Provider::None {
            let given = document["_vector"].as_array().expect("vectors are given");
            return given.iter().map(|x| x.as_f64().expect("a number") as f32).collect();
        }
        let text = embedded_text(map, &self.settings.text.embed);
        match &self.vector {
            Some(vector) => vector(n, &text),
            None => HashEmbedder::new(self.settings.embedder.dimension)
                .expect("a dimension")
                .vector(&text),
        }
    }

    /// The state of a document after its events.
    fn state(&self, events: &[Value]) -> DocumentState {
        let vectors = match self.settings.embedder.provider {
            Provider::None => VectorRule::Required {
                dimension: self.settings.embedder.dimension,
                cosine: true,
            },
            Provider::Hash | Provider::Minilm => VectorRule::Forbidden,
        };
        let collection = name();
        let context = JudgeContext {
            collection: &collection,
            revision_kind: RevisionKind::Number,
            vectors,
            accepted_at_ns: 0,
        };
        let id = events[0]["id"].as_str().expect("an id");
        let mut state = DocumentState::new(id.parse().expect("valid"));
        for event in events {
            let text = event.to_string();
            let judged = Event::parse(text.as_bytes()).and_then(|event| event.judge(&context));
            state.fold(&judged.expect("a sound event"));
        }
        state
    }

    fn upserted(&self, document: &Value) -> DocumentState {
        let mut event = document.clone();
        event["_revision"] = json!(1);
        self.state(&[event])
    }

    fn deleted(&self, id: &str) -> DocumentState {
        self.state(&[json!({"id": id, "_op": "delete", "_revision": 2})])
    }
}

impl World {
    /// Writes a release; no pointer names it yet.
    pub(crate) async fn write(&self, draft: &Draft) -> Written {
        let settings = self.settings(draft.settings_version, &draft.settings).await;
        let genesis = Manifest::genesis(Genesis {
            collection: self.collection.clone(),
            lineage: draft.lineage.clone().into(),
            metric: Metric::Cosine,
            embedder: draft.embedder.clone().unwrap_or_else(|| draft.identity()),
            settings: settings.clone(),
            stream: StreamIdentity(7),
        });
        let (mut content, mut documents) = (ContentSum::default(), 0);
        let mut add = Vec::new();
        let mut dead = BTreeMap::new();
        let rows = draft.segment_rows.min(draft.documents.len().max(1));
        for (n, part) in draft.documents.chunks(rows).enumerate() {
            let first = n * rows;
            let is_last = first + part.len() == draft.documents.len();
            let ghosts = if is_last { &draft.ghosts[..] } else { &[] };
            let (entry, gone) = self.segment(draft, n, part, ghosts).await;
            for (at, document) in part.iter().enumerate() {
                if !gone.contains(at as u32) {
                    content.add(&draft.upserted(document).digest());
                    documents += 1;
                }
            }
            for id in ghosts {
                content.add(&draft.deleted(id).digest());
            }
            if !gone.is_empty() {
                dead.insert(entry.id.clone(), gone);
            }
            add.push(entry);
        }
        if let Some(claims) = draft.claims {
            (content, documents) = claims;
        }
        let checkpoint = Checkpoint {
            stream: StreamIdentity(7),
            sequence: draft.checkpoint,
            digest: Some(Digest::of(b"event")),
        };
        let edited = genesis.apply(PublishEdit {
            generation: draft.generation,
            created_at: Timestamp(draft.generation as i64),
            writer: "by hand".to_owned(),
            nonce: "n".to_owned(),
            add,
            remove: Vec::new(),
            dead,
            content,
            documents,
            checkpoint,
            watermark: None,
            settings,
            stats: Stats::default(),
            reason: PublishReason::Publish,
        });
        let edited = edited.expect("consistent");
        if let Some((path, bytes)) = edited.dead {
            self.put(&path, Body::Bytes(bytes.into())).await;
        }
        let (path, bytes) = (edited.manifest.path("n"), Bytes::from(edited.manifest.encode()));
        let digest = Digest::of(&bytes);
        self.put(&path, Body::Bytes(bytes)).await;
        Written {
            manifest: edited.manifest,
            reference: ManifestReference { path, digest },
        }
    }

    async fn segment(
        &self,
        draft: &Draft,
        n: usize,
        documents: &[Value],
        ghosts: &[String],
    ) -> (SegmentEntry, RoaringBitmap) {
        let id = SegmentId::from(format!("{}-{}-{n}", draft.lineage, draft.generation));
        let folder = self.path(&format!("scratch-{}-{id}", self.collection));
        std::fs::create_dir_all(&folder).expect("an empty folder");
        let shape = SegmentShape {
            index_type: draft.settings.ann.index_type,
            dimension: draft.settings.embedder.dimension,
            text: &draft.settings.text,
            threads: 1,
        };
        let mut writer = SegmentWriter::new(&folder, shape).expect("an empty folder");
        let first = n * draft.segment_rows.min(draft.documents.len());
        for (at, document) in documents.iter().enumerate() {
            let state = draft.upserted(document);
            let row = NewRow {
                id: state.id().as_str().to_owned(),
                generation: draft.rows_of,
                state: state.encode().expect("encodes"),
                document: state.document(),
            };
            writer.add(&row, &draft.vector(first + at, document)).expect("written");
        }
        for id in ghosts {
            let state = draft.deleted(id);
            let row = NewRow {
                id: id.clone(),
                generation: draft.rows_of,
                state: state.encode().expect("encodes"),
                document: None,
            };
            writer.add_ghost(&row).expect("written");
        }
        let written = writer.finish().expect("built");
        if let Some(bend) = &draft.bend {
            let mut bytes = std::fs::read(&written.paths.vectors).expect("just written");
            bend(&mut bytes);
            std::fs::write(&written.paths.vectors, bytes).expect("written");
        }
        let file = |path: String, file: &std::path::Path| FileEntry {
            path,
            bytes: std::fs::metadata(file).expect("just written").len(),
            digest: digest_of_file(file).expect("just written"),
        };
        let files = SegmentFiles {
            vectors: file(keys::vectors_path(&id), &written.paths.vectors),
            rows: file(keys::rows_path(&id), &written.paths.rows),
        };
        self.put(&files.vectors.path, Body::File(written.paths.vectors.clone()))
            .await;
        self.put(&files.rows.path, Body::File(written.paths.rows.clone())).await;
        let last = first + documents.len();
        let gone = draft.dead.iter().map(|row| *row as usize);
        let gone = gone
            .filter(|row| (first..last).contains(row))
            .map(|row| (row - first) as u32);
        let entry = SegmentEntry {
            newest_generation: draft.rows_of,
            ..written.entry(id, files)
        };
        (entry, gone.collect())
    }

    async fn put(&self, path: &str, body: Body) {
        let put = self
            .store
            .put(&keys::object(&self.collection, path), body, Precondition::Absent)
            .await;
        put.expect("written");
    }
}
