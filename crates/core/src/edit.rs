//! One publish as a pure edit of a manifest: segments come and go, rows die, the checkpoint moves.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::dead::{self, DeadRange};
use crate::digest::ContentSum;
use crate::manifest::{
    Checkpoint, Manifest, ManifestError, PublishReason, SegmentEntry, SegmentId, SettingsReference, Stats,
};
use crate::timestamp::Timestamp;

/// What a publish changes. Dead rows are whole, not only the new ones: a release reads one range a segment.
#[derive(Debug, Clone)]
pub struct PublishEdit {
    /// The generation of the publish.
    pub generation: u64,
    /// When it is written.
    pub created_at: Timestamp,
    /// Which indexer writes it.
    pub writer: String,
    /// Told apart from other tries at the same generation.
    pub nonce: String,
    /// Segments that come; `live`, `live_ghosts` and `dead` are filled in here.
    pub add: Vec<SegmentEntry>,
    /// Segments that leave, because a merge holds their rows now.
    pub remove: Vec<SegmentId>,
    /// All dead rows of each segment, old or new, in which a row died.
    pub dead: BTreeMap<SegmentId, RoaringBitmap>,
    /// Sum of all documents after it.
    pub content: ContentSum,
    /// Documents that exist after it.
    pub documents: u64,
    /// Up to where the bus was read.
    pub checkpoint: Checkpoint,
    /// Newest event time.
    pub watermark: Option<Timestamp>,
    /// The settings in force from it on.
    pub settings: SettingsReference,
    /// Counts after it.
    pub stats: Stats,
    /// Why.
    pub reason: PublishReason,
}

/// A manifest to be written, and the object of dead rows that it names, if any.
#[derive(Debug, Clone)]
pub struct Edited {
    /// The manifest.
    pub manifest: Manifest,
    /// Key and bytes of the dead rows object.
    pub dead: Option<(String, Vec<u8>)>,
}

impl Manifest {
    /// The manifest after `edit`, checked. Segments without live rows leave it.
    pub fn apply(&self, edit: PublishEdit) -> Result<Edited, ManifestError> {
        let mut manifest = self.clone();
        manifest.parent = (self.generation > 0).then_some(self.generation);
        manifest.generation = edit.generation;
        manifest.created_at = edit.created_at;
        manifest.writer = edit.writer;
        manifest.content = edit.content;
        manifest.documents = edit.documents;
        manifest.checkpoint = edit.checkpoint;
        manifest.watermark = edit.watermark;
        manifest.settings = edit.settings;
        manifest.stats = edit.stats;
        manifest.reason = edit.reason;
        manifest.segments.retain(|segment| !edit.remove.contains(&segment.id));
        manifest.segments.extend(edit.add);
        for segment in &mut manifest.segments {
            if let Some(rows) = edit.dead.get(&segment.id) {
                let (vectors, ghosts) = count_dead(rows, segment.rows);
                segment.live = segment.rows.saturating_sub(vectors);
                segment.live_ghosts = segment.ghosts.saturating_sub(ghosts);
            }
        }
        manifest.segments.retain(|segment| !segment.is_empty());
        let dead = name_dead_rows(&mut manifest, edit.dead, &edit.nonce);
        manifest
            .segments
            .sort_by(|a, b| b.live.cmp(&a.live).then_with(|| a.id.cmp(&b.id)));
        manifest.count = manifest.segments.iter().map(|segment| u64::from(segment.live)).sum();
        manifest.check()?;
        Ok(Edited { manifest, dead })
    }
}

fn count_dead(rows: &RoaringBitmap, vector_rows: u32) -> (u32, u32) {
    let vectors = if vector_rows == 0 {
        0
    } else {
        rows.rank(vector_rows - 1)
    };
    (vectors as u32, (rows.len() - vectors) as u32)
}

fn name_dead_rows(
    manifest: &mut Manifest,
    mut dead: BTreeMap<SegmentId, RoaringBitmap>,
    nonce: &str,
) -> Option<(String, Vec<u8>)> {
    dead.retain(|id, rows| !rows.is_empty() && manifest.segment(id).is_some());
    if dead.is_empty() {
        return None;
    }
    let path = format!("dead/{:010}-{}-{nonce}.roaring", manifest.generation, manifest.lineage);
    let (object, ranges): (Vec<u8>, BTreeMap<SegmentId, DeadRange>) = dead::encode(&path, &dead);
    for segment in &mut manifest.segments {
        if let Some(range) = ranges.get(&segment.id) {
            segment.dead = Some(range.clone());
        }
    }
    Some((path, object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::embedder::EmbedderIdentity;
    use crate::index_type::IndexType;
    use crate::manifest::{FileEntry, Genesis, Metric, SegmentFiles};
    use crate::position::StreamIdentity;

    fn segment(name: &str, rows: u32, ghosts: u32) -> SegmentEntry {
        let file = || FileEntry {
            path: name.to_owned(),
            bytes: 1,
            digest: Digest::of(b""),
        };
        SegmentEntry {
            id: name.to_owned().into(),
            index_type: IndexType::Flat,
            rows,
            ghosts,
            live: rows,
            live_ghosts: ghosts,
            newest_generation: 1,
            state_bytes: 0,
            files: SegmentFiles {
                vectors: file(),
                rows: file(),
            },
            dead: None,
            unknown: serde_json::Map::new(),
        }
    }

    fn manifest(segments: Vec<SegmentEntry>) -> Manifest {
        let mut manifest = Manifest::genesis(Genesis {
            collection: "products".parse().expect("valid"),
            lineage: "l".to_owned().into(),
            metric: Metric::Cosine,
            embedder: EmbedderIdentity::none(4),
            settings: SettingsReference {
                version: 1,
                digest: Digest::of(b""),
            },
            stream: StreamIdentity(0),
        });
        manifest.generation = 1;
        manifest.count = segments.iter().map(|segment| u64::from(segment.live)).sum();
        manifest.segments = segments;
        manifest
    }

    fn edit(before: &Manifest) -> PublishEdit {
        PublishEdit {
            generation: before.generation + 1,
            created_at: Timestamp(1),
            writer: "w".to_owned(),
            nonce: "n".to_owned(),
            add: Vec::new(),
            remove: Vec::new(),
            dead: BTreeMap::new(),
            content: ContentSum::default(),
            documents: 0,
            checkpoint: before.checkpoint.clone(),
            watermark: None,
            settings: before.settings.clone(),
            stats: Stats::default(),
            reason: PublishReason::Publish,
        }
    }

    fn dead(rows: &[(&str, &[u32])]) -> BTreeMap<SegmentId, RoaringBitmap> {
        rows.iter()
            .map(|(id, rows)| ((*id).to_owned().into(), rows.iter().copied().collect()))
            .collect()
    }

    #[test]
    fn dead_rows_are_counted_as_vectors_and_ghosts_and_found_again() {
        let before = manifest(vec![segment("a", 10, 2), segment("b", 3, 0)]);
        let after = before
            .apply(PublishEdit {
                dead: dead(&[("a", &[0, 9, 10])]),
                ..edit(&before)
            })
            .expect("consistent");
        let a = after.manifest.segment(&"a".to_owned().into()).expect("still there");
        assert_eq!((a.live, a.live_ghosts, after.manifest.count), (8, 1, 11));
        let (path, object) = after.dead.expect("rows died");
        let range = a.dead.as_ref().expect("named");
        assert_eq!(range.path, path);
        assert_eq!(
            dead::decode(&object, range).expect("whole").iter().collect::<Vec<_>>(),
            [0, 9, 10]
        );
    }

    #[test]
    fn a_segment_without_live_rows_leaves() {
        let before = manifest(vec![segment("a", 2, 0), segment("b", 3, 0)]);
        let after = before
            .apply(PublishEdit {
                dead: dead(&[("a", &[0, 1])]),
                ..edit(&before)
            })
            .expect("consistent");
        assert_eq!(after.manifest.segments.len(), 1);
        assert!(after.dead.is_none(), "nobody would read them");
    }

    #[test]
    fn a_merge_puts_one_segment_in_the_place_of_many() {
        let before = manifest(vec![segment("a", 2, 0), segment("b", 3, 0), segment("c", 9, 0)]);
        let change = PublishEdit {
            add: vec![segment("m", 5, 0)],
            remove: vec!["a".to_owned().into(), "b".to_owned().into()],
            dead: dead(&[("m", &[4])]),
            ..edit(&before)
        };
        let after = before.apply(change).expect("consistent").manifest;
        assert_eq!(
            after.segments.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
            ["c", "m"]
        );
        assert_eq!((after.count, after.parent), (13, Some(1)));
    }

    #[test]
    fn more_documents_than_chunks_are_refused() {
        let before = manifest(vec![segment("a", 2, 0)]);
        assert!(
            before
                .apply(PublishEdit {
                    documents: 3,
                    ..edit(&before)
                })
                .is_err()
        );
    }
}
