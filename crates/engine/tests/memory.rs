//! Memory that large work took comes back to the system, and a mapped file takes none. A test program of its own, because
//! it looks at the process, and one test at a time.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use std::sync::Mutex;

use support::{build, made_vectors};
use verdigris_engine::ann::Ann;
use verdigris_engine::mapped::MappedBytes;

/// Held by a test while it looks at the process.
static ALONE: Mutex<()> = Mutex::new(());

/// KiB of memory that are no mapped file.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Method: a thread takes 128 MiB in small pieces and frees all but the last, which holds the C library's heap open.
#[test]
fn what_large_work_took_in_small_pieces_comes_back() {
    const PIECES: usize = 128 << 10;
    let _alone = ALONE.lock();
    let before = anonymous();
    let last = std::thread::spawn(|| {
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; 1 << 10]).collect();
        pieces.pop()
    });
    let last = last.join().unwrap();
    let kept = anonymous() - before;
    verdigris_engine::memory::give_back();
    let after = anonymous().saturating_sub(before);
    assert!(
        kept > 64 << 10,
        "the C library gave back by itself: {kept} KiB are left"
    );
    assert!(after < 16 << 10, "{after} of {kept} KiB are left");
    assert_eq!(last.unwrap().len(), 1 << 10);
}

/// Method: each structure whose file is searched as it lies is opened many times at once, so that a copy of the smallest
/// of its arrays, which has four bytes a row, would be seen beside what the system gives in large pages.
#[test]
fn what_is_opened_stays_in_its_file() {
    const ROWS: usize = 20_000;
    const TIMES: usize = 100;
    let _alone = ALONE.lock();
    for index_type in ["Flat", "HNSW32", "HNSW32,SQ8,RFlat"] {
        let built = build(index_type, 4, &made_vectors(ROWS, 4, 31));
        let open = || Ann::open(MappedBytes::open(&built.path).unwrap(), &built.expected).unwrap();
        // What the first opening of a process takes once is no part of it.
        drop(open());
        let before = anonymous();
        let opened: Vec<Ann> = (0..TIMES).map(|_| open()).collect();
        let taken = anonymous().saturating_sub(before);
        assert!(
            taken < (3 * ROWS * TIMES / 1024) as u64,
            "{index_type}: {TIMES} of them have {taken} KiB of their own"
        );
        drop(opened);
    }
}
