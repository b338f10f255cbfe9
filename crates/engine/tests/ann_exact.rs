//! What every structure promises: row n in is row n out, vectors and scores are exact, arguments are checked.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use support::{TYPES, build, exact, little_effort, made_vectors, rows_of};
use verdigris_engine::ann::{self, Ann, AnnExpectation, AnnSearch, DenseBitmap};
use verdigris_engine::error::EngineError;
use verdigris_engine::mapped::MappedBytes;

const D: usize = 40;

#[test]
fn every_structure_gives_back_each_row_bit_for_bit() {
    let mut vectors = made_vectors(3_000, D, 1);
    // Values that a conversion on the way would change.
    vectors[..6].copy_from_slice(&[f32::MIN_POSITIVE, -0.0, 1e-45, 1e15, -1e15, 1.000_000_1]);
    for index_type in TYPES {
        let built = build(index_type, D as u32, &vectors);
        for (row, vector) in (0..).zip(rows_of(&vectors, D)) {
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&built.ann.vector(row)), bits(vector), "{index_type} row {row}");
        }
    }
}

// The scores of search and of `scores` must agree to the bit whatever found the row, or pages overlap.
#[test]
fn a_row_has_one_score_whatever_finds_it() {
    for dimension in [1, 7, 8, 31, 40, 100] {
        let vectors = made_vectors(2_500, dimension, 2);
        let queries = made_vectors(5, dimension, 3);
        let types = TYPES.map(|t| {
            if dimension % 8 == 0 {
                t.to_owned()
            } else {
                t.replace("PQ8", "PQ1")
            }
        });
        let all: Vec<_> = types.iter().map(|t| build(t, dimension as u32, &vectors)).collect();
        for query in rows_of(&queries, dimension) {
            let rows: Vec<u32> = (0..2_500).collect();
            let scores = all[0].ann.scores(query, &rows).unwrap();
            for (row, score) in exact(&vectors, query, |_| true) {
                assert!(
                    (f64::from(scores[row as usize]) - score).abs() < 1e-5,
                    "dimension {dimension} row {row}"
                );
            }
            for built in &all {
                let name = built.expected.index_type;
                assert_eq!(built.ann.scores(query, &rows).unwrap(), scores, "{name}");
                for (row, score) in built.ann.search(query, &little_effort(20), None).unwrap() {
                    assert_eq!(score.to_bits(), scores[row as usize].to_bits(), "{name} row {row}");
                }
            }
        }
    }
}

#[test]
fn a_scan_is_exact_and_equal_scores_come_by_row() {
    let mut vectors = made_vectors(500, D, 4);
    let twin: Vec<f32> = vectors[7 * D..8 * D].to_vec();
    for copy in [3, 100, 499] {
        vectors[copy * D..(copy + 1) * D].copy_from_slice(&twin);
    }
    let built = build("Flat", D as u32, &vectors);
    let hits = built.ann.search(&twin, &AnnSearch::new(600), None).unwrap();
    assert_eq!(hits.len(), 500);
    assert_eq!(hits[..4].iter().map(|hit| hit.0).collect::<Vec<_>>(), [3, 7, 100, 499]);
    let truth = exact(&vectors, &twin, |_| true);
    for (hit, truth) in hits.iter().zip(truth) {
        assert!((f64::from(hit.1) - truth.1).abs() < 1e-5);
    }
}

#[test]
fn an_empty_segment_opens_and_finds_nothing() {
    for index_type in ["Flat", "HNSW32"] {
        let built = build(index_type, D as u32, &[]);
        assert_eq!(built.ann.rows(), 0);
        assert_eq!(built.ann.search(&[1.0; D], &AnnSearch::new(10), None).unwrap(), []);
        let none = DenseBitmap::empty(0);
        assert_eq!(
            built.ann.search(&[1.0; D], &AnnSearch::new(10), Some(&none)).unwrap(),
            []
        );
    }
}

#[test]
fn a_query_that_cannot_be_compared_is_refused() {
    let built = build("HNSW32", D as u32, &made_vectors(300, D, 5));
    let search = |query: &[f32]| built.ann.search(query, &AnnSearch::new(3), None);
    for found in [0, D - 1, D + 1, 2 * D] {
        let error = search(&vec![0.5; found]).unwrap_err();
        assert!(matches!(error, EngineError::Dimension { expected, found: f } if expected == D as u32 && f == found));
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut query = vec![0.5; D];
        query[9] = value;
        assert!(
            matches!(search(&query).unwrap_err(), EngineError::Coordinate { position: 9, .. }),
            "{value}"
        );
        assert!(matches!(
            built.ann.scores(&query, &[0]).unwrap_err(),
            EngineError::Coordinate { position: 9, .. }
        ));
    }
    let rows = built.ann.scores(&[0.5; D], &[0, 300]).unwrap_err();
    assert!(matches!(rows, EngineError::RowOutOfRange { row: 300, rows: 300 }));
    let other = DenseBitmap::full(301);
    let bitmap = built
        .ann
        .search(&[0.5; D], &AnnSearch::new(3), Some(&other))
        .unwrap_err();
    assert!(matches!(
        bitmap,
        EngineError::BitmapRows {
            expected: 300,
            found: 301
        }
    ));
    assert_eq!(
        search(&[0.0; D]).unwrap().len(),
        3,
        "the zero vector is a query like any other"
    );
}

#[test]
fn what_cannot_be_built_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("v");
    let vectors = made_vectors(100, D, 6);
    let attempt = |index_type: &str, dimension: u32, vectors: &[f32]| {
        ann::build(&index_type.parse().unwrap(), dimension, vectors, 1, &out).unwrap_err()
    };
    for (index_type, rows) in [
        ("IVF101,Flat", 100),
        ("IVF4,PQ7x4fs,RFlat", 100),
        ("IVF4,PQ8x4fs,RFlat", 15),
        ("IVF1,Flat", 0),
    ] {
        let error = attempt(index_type, D as u32, &vectors[..rows * D]);
        assert!(
            matches!(error, EngineError::IndexTypeUnfit { .. }),
            "{index_type}: {error}"
        );
    }
    assert!(matches!(attempt("Flat", 0, &vectors), EngineError::Dimension { .. }));
    assert!(matches!(
        attempt("Flat", 3, &vectors[..4]),
        EngineError::Dimension { expected: 3, found: 1 }
    ));
    let mut odd = vectors.clone();
    odd[81] = f32::NAN;
    assert!(matches!(
        attempt("Flat", D as u32, &odd),
        EngineError::Coordinate { position: 81, .. }
    ));
    assert!(!out.exists());
}

#[test]
fn a_full_disk_is_an_error_of_the_build() {
    // Small enough to lie in the writer's buffer until the end: the last flush must be heard too.
    for rows in [1, 3_000] {
        let vectors = made_vectors(rows, D, 7);
        let error = ann::build(&"Flat".parse().unwrap(), D as u32, &vectors, 1, "/dev/full".as_ref()).unwrap_err();
        let EngineError::Build { source, .. } = error else {
            panic!("{error}")
        };
        assert!(source.to_string().contains("No space left"), "{source}");
    }
    let nowhere = ann::build(&"Flat".parse().unwrap(), 1, &[1.0], 1, "/no/such/folder/v".as_ref()).unwrap_err();
    assert!(matches!(nowhere, EngineError::Build { .. }), "{nowhere}");
}

#[test]
fn a_file_of_another_shape_than_the_manifest_says_is_refused() {
    let vectors = made_vectors(2_100, D, 8);
    let built = build("HNSW32", D as u32, &vectors);
    let expected = built.expected;
    for wrong in [
        AnnExpectation {
            index_type: "Flat".parse().unwrap(),
            ..expected
        },
        AnnExpectation {
            index_type: "HNSW32,SQ8,RFlat".parse().unwrap(),
            ..expected
        },
        AnnExpectation {
            dimension: expected.dimension + 1,
            ..expected
        },
        AnnExpectation {
            rows: expected.rows - 1,
            ..expected
        },
    ] {
        let error = Ann::open(MappedBytes::open(&built.path).unwrap(), &wrong).unwrap_err();
        let EngineError::VectorFileMismatch { expected, found } = error else {
            panic!("{error}")
        };
        assert_eq!((expected, found), (wrong, built.expected));
    }
}
