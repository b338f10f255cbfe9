//! What a release holds, read from its files row by row, beside what it must hold.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use verdigris_core::digest::{ContentSum, Digest};
use verdigris_core::garbage::keys_of;
use verdigris_core::manifest::{Manifest, SegmentEntry, SegmentId};
use verdigris_core::pointer::ManifestReference;
use verdigris_embed::HashEmbedder;
use verdigris_engine::segment::{Segment, SegmentPaths};
use verdigris_store::keys;

use super::disk::Disk;
use super::model::{Documents, Model};
use super::{Verdict, hold, name};

/// A row as it is stored.
struct Row {
    id: String,
    generation: u64,
    digest: Digest,
    /// Fields and vector, where the document exists.
    shown: Option<(BTreeMap<String, Value>, Vec<f32>)>,
}

/// A manifest that was read, and each file that it needs, with digest and length where the manifest says them.
struct Named {
    own: ManifestReference,
    manifest: Arc<Manifest>,
    files: Vec<(String, Option<(Digest, u64)>)>,
}

/// Reads releases; each segment once.
pub(crate) struct Reading {
    disk: Arc<Disk>,
    named: RefCell<BTreeMap<String, Arc<Named>>>,
    segments: BTreeMap<SegmentId, Arc<Vec<Row>>>,
    embedders: BTreeMap<u32, HashEmbedder>,
}

impl Reading {
    pub(crate) fn new(disk: &Arc<Disk>) -> Self {
        Self {
            disk: disk.clone(),
            named: RefCell::default(),
            segments: BTreeMap::new(),
            embedders: BTreeMap::new(),
        }
    }

    /// A manifest that is there, or was. Each is read once: what a key names never changes.
    pub(crate) fn manifest(&self, reference: &ManifestReference) -> Verdict<Arc<Manifest>> {
        Ok(self.named(reference)?.manifest.clone())
    }

    fn named(&self, reference: &ManifestReference) -> Verdict<Arc<Named>> {
        if let Some(known) = self.named.borrow().get(&reference.path)
            && known.own.digest == reference.digest
        {
            return Ok(known.clone());
        }
        let key = keys::object(&name(), &reference.path);
        let object = self.disk.look_back(&key).ok_or(format!("I-2: {key} never was"))?;
        hold(object.digest == reference.digest, || {
            format!("I-2: {key} has another digest")
        })?;
        let manifest = Manifest::decode(&object.bytes).map_err(|error| format!("I-2: {key}: {error}"))?;
        let mut files: BTreeMap<String, Option<(Digest, u64)>> = keys_of(&manifest)
            .map(|path| (keys::object(&name(), path), None))
            .collect();
        for segment in &manifest.segments {
            for file in [&segment.files.vectors, &segment.files.rows] {
                files.insert(keys::object(&name(), &file.path), Some((file.digest, file.bytes)));
            }
        }
        files.insert(key, Some((object.digest, object.bytes.len() as u64)));
        let named = Arc::new(Named {
            own: reference.clone(),
            manifest: Arc::new(manifest),
            files: files.into_iter().collect(),
        });
        self.named.borrow_mut().insert(reference.path.clone(), named.clone());
        Ok(named)
    }

    /// I-2: everything that a release names is there with the right digest.
    pub(crate) fn whole(&self, reference: &ManifestReference) -> Verdict<()> {
        match self.disk.missing(&self.named(reference)?.files) {
            Some(key) => Err(format!("I-2: {key} of {} is not there, or another", reference.path)),
            None => Ok(()),
        }
    }

    /// I-13, I-14, I-17: the release holds these documents, each once, their ghosts, their vectors and nothing else.
    pub(crate) fn check(&mut self, manifest: &Manifest, expected: &Documents) -> Verdict<()> {
        let shown = format!("release {} of {}", manifest.generation, manifest.lineage);
        let (mut content, mut seen) = (ContentSum::default(), BTreeSet::new());
        let mut exist = 0;
        for entry in &manifest.segments {
            let dead = self.dead_rows(entry)?;
            let rows = self.segment(entry, manifest.dimension)?;
            for (_, row) in (0u32..).zip(rows.iter()).filter(|(n, _)| !dead.contains(n)) {
                content.add(&row.digest);
                hold(seen.insert(row.id.clone()), || {
                    format!("I-13: {shown}: two rows of {} live", row.id)
                })?;
                hold(row.generation <= manifest.generation, || {
                    format!("I-13: {shown}: {} is of later", row.id)
                })?;
                let wanted = expected.exist.get(&row.id);
                let Some((fields, vector)) = &row.shown else {
                    hold(expected.ghosts.contains(&row.id), || match wanted {
                        Some(_) => format!("I-13: {shown}: {} is gone and should be there", row.id),
                        None => format!("I-13: {shown}: a ghost of {} that never was", row.id),
                    })?;
                    continue;
                };
                exist += 1;
                hold(wanted == Some(fields), || {
                    format!("I-13, I-14: {shown}: {} is {fields:?} and should be {wanted:?}", row.id)
                })?;
                self.check_vector(manifest.dimension, &shown, row, fields, vector)?;
            }
        }
        let missing = expected
            .exist
            .keys()
            .chain(&expected.ghosts)
            .find(|id| !seen.contains(*id));
        hold(missing.is_none(), || format!("I-13: {shown}: nothing of {missing:?}"))?;
        hold(content == manifest.content, || {
            format!("I-18: {shown}: content is not the sum of its documents")
        })?;
        hold(manifest.documents == exist, || {
            format!("I-13: {shown}: {} documents are said to be {exist}", manifest.documents)
        })
    }

    /// One of these documents of which a segment of the release has a row, dead or alive.
    pub(crate) fn holds(&mut self, reference: &ManifestReference, ids: &BTreeSet<String>) -> Verdict<Option<String>> {
        let manifest = self.manifest(reference)?;
        for entry in &manifest.segments {
            let held = self.held_by(entry, manifest.dimension, ids)?;
            if held.is_some() {
                return Ok(held);
            }
        }
        Ok(None)
    }

    pub(crate) fn held_by(
        &mut self,
        entry: &SegmentEntry,
        dimension: u32,
        ids: &BTreeSet<String>,
    ) -> Verdict<Option<String>> {
        let rows = self.segment(entry, dimension)?;
        Ok(rows.iter().find(|row| ids.contains(&row.id)).map(|row| row.id.clone()))
    }

    fn check_vector(
        &mut self,
        dimension: u32,
        shown: &str,
        row: &Row,
        fields: &BTreeMap<String, Value>,
        vector: &[f32],
    ) -> Verdict<()> {
        let embedder = self.embedders.entry(dimension);
        let embedder = embedder.or_insert_with(|| HashEmbedder::new(dimension).expect("a dimension"));
        let wanted = embedder.vector(&Model::text(fields));
        let is_near = wanted.len() == vector.len() && wanted.iter().zip(vector).all(|(a, b)| (a - b).abs() < 1e-6);
        hold(is_near, || {
            format!("I-18: {shown}: {} has the vector of another text", row.id)
        })
    }

    fn dead_rows(&self, entry: &SegmentEntry) -> Verdict<BTreeSet<u32>> {
        let Some(range) = &entry.dead else {
            return Ok(BTreeSet::new());
        };
        let key = keys::object(&name(), &range.path);
        let object = self.disk.look_back(&key).ok_or(format!("I-2: {key} never was"))?;
        let rows =
            verdigris_core::dead::decode(&object.bytes, range).map_err(|error| format!("I-2: {key}: {error}"))?;
        Ok(rows.iter().collect())
    }

    fn segment(&mut self, entry: &SegmentEntry, dimension: u32) -> Verdict<Arc<Vec<Row>>> {
        if let Some(rows) = self.segments.get(&entry.id) {
            return Ok(rows.clone());
        }
        let path = |path: &str| self.disk.path_back(&keys::object(&name(), path));
        let paths = SegmentPaths {
            vectors: path(&entry.files.vectors.path),
            rows: path(&entry.files.rows.path),
        };
        let segment =
            Segment::open(entry, dimension, paths.into()).map_err(|error| format!("I-2: {}: {error}", entry.id))?;
        let mut rows = Vec::new();
        for n in 0..segment.rows().rows() {
            let stored = segment
                .rows()
                .stored(n)
                .map_err(|error| format!("I-2: {}: {error}", entry.id))?;
            let state = verdigris_core::document::DocumentState::decode(&stored.state);
            let state = state.map_err(|error| format!("I-2: {}: {error}", entry.id))?;
            let has_vector = n < segment.rows().vector_rows();
            let fields = state.document().map(|mut document| {
                document.remove("id");
                document.into_iter().collect()
            });
            hold(has_vector == fields.is_some(), || {
                format!("I-13: row {n} of {} is neither ghost nor document", entry.id)
            })?;
            rows.push(Row {
                id: stored.id,
                generation: stored.generation,
                digest: state.digest(),
                shown: fields.map(|fields| (fields, segment.ann().vector(n))),
            });
        }
        let rows = Arc::new(rows);
        self.segments.insert(entry.id.clone(), rows.clone());
        Ok(rows)
    }
}
