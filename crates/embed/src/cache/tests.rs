//! The cache outlives its process, forgets the oldest, and never makes trouble of its own.

use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::*;

fn identity(revision: &str) -> EmbedderIdentity {
    EmbedderIdentity {
        provider: "test".to_owned(),
        revision: revision.to_owned(),
        ..EmbedderIdentity::none(4)
    }
}

fn keys() -> CacheKeys {
    CacheKeys::new(&identity("1"), TextKind::Document)
}

fn key(n: usize) -> CacheKey {
    keys().key(&n.to_string())
}

fn vector(n: usize) -> Vec<f32> {
    (0..4).map(|i| (n * 4 + i) as f32 + 0.25).collect()
}

fn open(dir: &TempDir, vectors_max: u64) -> EmbeddingCache {
    EmbeddingCache::open(&dir.path().join("cache/embeddings.sqlite"), vectors_max).unwrap()
}

fn put(cache: &EmbeddingCache, range: std::ops::Range<usize>) {
    let vectors: Vec<(CacheKey, Vec<f32>)> = range.map(|n| (key(n), vector(n))).collect();
    cache.put_many(vectors.iter().map(|(key, vector)| (*key, vector.as_slice())));
}

fn get(cache: &EmbeddingCache, range: std::ops::Range<usize>) -> Vec<Option<Vec<f32>>> {
    cache.get_many(&range.map(key).collect::<Vec<_>>())
}

fn count(found: &[Option<Vec<f32>>]) -> usize {
    found.iter().flatten().count()
}

#[test]
fn vectors_survive_a_reopen_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    put(&open(&dir, 10_000), 0..2500);
    let cache = open(&dir, 10_000);
    let found = get(&cache, 0..2501);
    assert!((0..2500).all(|n| found[n] == Some(vector(n))));
    assert_eq!(found[2500], None);
    assert_eq!((cache.len(), cache.failures()), (2500, 0));
}

#[test]
fn a_forgotten_vector_leaves_no_byte_in_any_file_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir, 10_000);
    put(&cache, 0..500);
    let has_bytes = |n: usize| {
        let bytes: Vec<u8> = vector(n).iter().flat_map(|x| x.to_le_bytes()).collect();
        let files = fs::read_dir(dir.path().join("cache")).unwrap();
        files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .any(|file| file.windows(bytes.len()).any(|part| part == bytes))
    };
    assert!(has_bytes(7) && has_bytes(300), "before");
    cache.forget(&[key(7), key(300), key(9_999)]).unwrap();
    assert!(!has_bytes(7), "7");
    assert!(!has_bytes(300), "300");
    assert!(has_bytes(8), "8");
    let found = get(&cache, 0..500);
    assert_eq!((count(&found), &found[7], &found[300]), (498, &None, &None));
    put(&cache, 7..8);
    assert_eq!(get(&cache, 7..8), [Some(vector(7))], "it may be made again");
}

#[test]
fn another_identity_kind_or_text_never_meets_the_same_key() {
    let all = [
        CacheKeys::new(&identity("1"), TextKind::Document).key("a"),
        CacheKeys::new(&identity("2"), TextKind::Document).key("a"),
        CacheKeys::new(&identity("1"), TextKind::Query).key("a"),
        CacheKeys::new(
            &EmbedderIdentity {
                dimension: 5,
                ..identity("1")
            },
            TextKind::Document,
        )
        .key("a"),
        CacheKeys::new(
            &EmbedderIdentity {
                max_tokens: 1,
                ..identity("1")
            },
            TextKind::Document,
        )
        .key("a"),
        CacheKeys::new(
            &EmbedderIdentity {
                normalised: true,
                ..identity("1")
            },
            TextKind::Document,
        )
        .key("a"),
        CacheKeys::new(
            &EmbedderIdentity {
                model: "a".to_owned(),
                ..identity("1")
            },
            TextKind::Document,
        )
        .key("a"),
        keys().key("A"),
        keys().key("a "),
        keys().key(""),
    ];
    for (n, key) in all.iter().enumerate() {
        assert!(!all[..n].contains(key), "key {n} is not its own");
    }
    assert_eq!(all[0], keys().key("a"));
}

#[test]
fn the_oldest_vectors_go_first_and_the_limit_holds() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir, 100);
    put(&cache, 0..150);
    // What is stored again stays as old as it was.
    put(&cache, 50..60);
    put(&cache, 150..160);
    assert_eq!(cache.len(), 100);
    assert_eq!(count(&get(&cache, 0..60)), 0);
    assert_eq!(count(&get(&cache, 60..160)), 100);
    assert_eq!(open(&dir, 10).len(), 100);
}

#[test]
fn a_damaged_file_is_made_anew_and_serves_again() {
    let garbage: [(&str, &[u8]); 3] = [
        ("noise", &[0x5a; 9000]),
        ("a text", b"hello"),
        ("a header alone", b"SQLite format 3\0"),
    ];
    for (what, content) in garbage {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("cache/embeddings.sqlite"), content).unwrap();
        let cache = open(&dir, 100);
        put(&cache, 0..10);
        assert_eq!(count(&get(&cache, 0..10)), 10, "{what}");
    }
}

#[test]
fn a_file_of_another_layout_is_made_anew() {
    for sql in [
        "PRAGMA user_version = 7",
        "CREATE TABLE other (x); PRAGMA user_version = 1",
        "CREATE TABLE vectors (y)",
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        let other = Connection::open(dir.path().join("cache/embeddings.sqlite")).unwrap();
        other.execute_batch(sql).unwrap();
        drop(other);
        let cache = open(&dir, 100);
        put(&cache, 0..10);
        assert_eq!(count(&get(&cache, 0..10)), 10, "{sql}");
    }
}

#[test]
fn damage_under_an_open_cache_gives_misses_and_never_a_wrong_vector() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache/embeddings.sqlite");
    put(&open(&dir, 10_000), 0..2000);
    let size = fs::metadata(&path).unwrap().len();
    // Every page class: header, tables, inner pages, leaves. Each damaged once, a reopened cache each time.
    let good = fs::read(&path).unwrap();
    for step in 0..64 {
        fs::write(&path, &good).unwrap();
        let cache = open(&dir, 10_000);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Narrow damage stays within a vector, wide damage reaches the tables' own structure.
        let width = if step % 2 == 0 { 64 } else { 2 };
        file.write_at(&[0xff; 64][..width], step * (size / 64)).unwrap();
        let found = get(&cache, 0..2000);
        for (n, got) in found.into_iter().enumerate() {
            assert!(got.is_none() || got == Some(vector(n)), "a wrong vector at step {step}");
        }
        put(&cache, 0..10);
        drop(cache);
        let cache = open(&dir, 10_000);
        put(&cache, 0..10);
        assert_eq!(count(&get(&cache, 0..10)), 10, "step {step}");
        drop(cache);
        ["-wal", "-shm"]
            .iter()
            .for_each(|ending| drop(fs::remove_file(path.with_extension(format!("sqlite{ending}")))));
    }
}

#[test]
fn a_flipped_bit_of_a_vector_is_a_miss() {
    let bytes = encode(&key(1), &vector(1));
    assert_eq!(decode(&key(1), &bytes), Some(vector(1)));
    assert_eq!(decode(&key(2), &bytes), None);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&key(1), &bytes), None, "bit {bit}");
    }
    (0..bytes.len()).for_each(|len| assert_eq!(decode(&key(1), &bytes[..len]), None));
}

#[test]
fn two_caches_share_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(&dir, 1000), open(&dir, 1000));
    put(&one, 0..5);
    put(&two, 5..10);
    assert_eq!(count(&get(&one, 0..10)), 10);
    assert_eq!(count(&get(&two, 0..10)), 10);
}

#[test]
fn a_place_where_no_cache_can_be_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = EmbeddingCache::open(&dir.path().join("file/cache.sqlite"), 1).unwrap_err();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
    let error = EmbeddingCache::open(dir.path(), 1).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot open the embedding cache "),
        "{error}"
    );
}
