//! Many threads on one structure, and one thread on many: the same answers as alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use std::sync::Barrier;
use std::thread;

use support::{Built, TYPES, build, little_effort, made_vectors, random_rows, rows_of};
use verdigris_engine::ann::DenseBitmap;

const D: usize = 32;

type Answers = Vec<Vec<(u32, f32)>>;

fn answers(built: &Built, queries: &[f32], allowed: Option<&DenseBitmap>) -> Answers {
    let search = |query| built.ann.search(query, &little_effort(10), allowed).unwrap();
    rows_of(queries, D).map(search).collect()
}

// Eight threads take the structures in different orders, so that each thread's scratch memory serves structures of
// different sizes one after the other while others search the same ones.
#[test]
fn many_threads_get_the_answers_that_one_gets() {
    let queries = made_vectors(30, D, 31);
    let built: Vec<(Built, DenseBitmap)> = TYPES
        .iter()
        .zip([3_000, 9_000, 5_000, 4_000, 7_000, 6_000])
        .map(|(index_type, rows)| {
            let built = build(index_type, D as u32, &made_vectors(rows, D, rows as u64));
            (built, random_rows(rows as u32, 0.5, 32))
        })
        .collect();
    let alone: Vec<(Answers, Answers)> = built
        .iter()
        .map(|(b, half)| (answers(b, &queries, None), answers(b, &queries, Some(half))))
        .collect();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for offset in 0..8 {
            let (built, alone, queries, start) = (&built, &alone, &queries, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..18 {
                    let which = (turn * 5 + offset) % built.len();
                    let (b, half) = &built[which];
                    assert_eq!(answers(b, queries, None), alone[which].0, "{}", b.expected.index_type);
                    assert_eq!(
                        answers(b, queries, Some(half)),
                        alone[which].1,
                        "{}",
                        b.expected.index_type
                    );
                }
            });
        }
    });
}

// The marks of visited rows are numbers of one byte, which come round: rows that the searches before never saw must
// not be taken for seen then. Each thread begins with marks of its own.
#[test]
fn a_search_after_hundreds_on_the_same_thread_is_as_good_as_the_first() {
    let vectors = made_vectors(3_000, D, 33);
    let built = build("HNSW32", D as u32, &vectors);
    let far = &vectors[D..2 * D];
    let opposite: Vec<f32> = far.iter().map(|x| -x).collect();
    let after = |searches: usize| {
        let search = || {
            for _ in 0..searches {
                answers(&built, &opposite, None);
            }
            answers(&built, far, None)
        };
        thread::scope(|scope| scope.spawn(search).join().unwrap())
    };
    let first = after(0);
    for searches in [1, 253, 254, 255, 256, 257, 510, 511] {
        assert_eq!(after(searches), first, "after {searches} searches");
    }
}

#[test]
fn a_structure_outlives_the_name_of_its_file() {
    let vectors = made_vectors(3_000, D, 34);
    for index_type in TYPES {
        let built = build(index_type, D as u32, &vectors);
        let before = answers(&built, &vectors[..8 * D], None);
        std::fs::remove_file(&built.path).unwrap();
        assert_eq!(answers(&built, &vectors[..8 * D], None), before, "{index_type}");
    }
}

#[test]
fn building_on_one_thread_gives_the_same_file_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = made_vectors(2_500, D, 35);
    for index_type in TYPES {
        let file = |name: &str| {
            let path = folder.path().join(name);
            verdigris_engine::ann::build(&index_type.parse().unwrap(), D as u32, &vectors, 1, &path).unwrap();
            std::fs::read(path).unwrap()
        };
        assert!(file("a") == file("b"), "{index_type}");
    }
}
