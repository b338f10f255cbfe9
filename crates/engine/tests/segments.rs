//! Segments: shared by whoever has them open, and opened from what was checked.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use std::path::Path;
use std::sync::{Arc, Barrier};

use serde_json::Map;
use support::unchecked_files;
use verdigris_core::manifest::SegmentEntry;
use verdigris_core::settings::Settings;
use verdigris_engine::mapped::MappedBytes;
use verdigris_engine::segment::write::{NewRow, SegmentShape, SegmentWriter};
use verdigris_engine::segment::{Segment, SegmentCache, SegmentPaths, SegmentSource};

fn segment(folder: &Path) -> (SegmentEntry, SegmentPaths) {
    let settings = Settings::default();
    let shape = SegmentShape {
        index_type: settings.ann.index_type,
        dimension: 4,
        text: &settings.text,
        threads: 1,
    };
    let row = NewRow {
        id: "1".to_owned(),
        generation: 1,
        state: Vec::new(),
        document: Some(Map::new()),
    };
    let mut writer = SegmentWriter::new(folder, shape).unwrap();
    writer.add(&row, &[1.0, 0.0, 0.0, 0.0]).unwrap();
    let written = writer.finish().unwrap();
    (written.entry("1".to_owned().into(), unchecked_files()), written.paths)
}

#[test]
fn releases_that_are_opened_at_the_same_time_share_a_segment() {
    const READERS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let (entry, paths) = segment(folder.path());
    let (cache, start) = (SegmentCache::default(), Barrier::new(READERS));
    let open = || {
        start.wait();
        cache.open(&entry, 4, paths.clone().into()).unwrap()
    };
    let opened: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(open)).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(
        opened.iter().all(|segment| Arc::ptr_eq(segment, &opened[0])),
        "it was opened twice"
    );
    assert_eq!(cache.count(), 1);
    drop(opened);
    assert_eq!(cache.count(), 0, "the cache itself holds it open");
}

#[test]
fn what_is_mapped_already_is_opened_whatever_became_of_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let (entry, paths) = segment(folder.path());
    let source = SegmentSource {
        vectors: Some(MappedBytes::open(&paths.vectors).unwrap()),
        rows: Some(MappedBytes::open(&paths.rows).unwrap()),
        paths: paths.clone(),
    };
    std::fs::remove_dir_all(folder.path()).unwrap();
    let segment = Segment::open(&entry, 4, source).unwrap();
    assert_eq!(segment.rows().find("1"), vec![0]);
    assert!(Segment::open(&entry, 4, paths.into()).is_err(), "there is no file");
}
