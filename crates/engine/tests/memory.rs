//! Memory that large work took comes back to the system. A test program of its own, because it looks at the process.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

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
