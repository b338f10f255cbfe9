//! The directory store: the conformance suite, several processes, kill -9, full and read-only disks, foreign folders.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use verdigris_store::conformance::{CASES, Fixture};
use verdigris_store::directory::DirectoryStore;
use verdigris_store::memory::MemoryStore;
use verdigris_store::{Body, Get, Precondition, Store, StoreError};

fn open(root: &Path) -> Result<DirectoryStore, StoreError> {
    DirectoryStore::open(root)
}

async fn read(store: &dyn Store, key: &str) -> Bytes {
    match store.get(key, None).await.expect("read") {
        Get::Found { bytes, .. } => bytes,
        Get::NotModified => panic!("no tag was given"),
    }
}

// === Conformance ===

struct Folder(tempfile::TempDir);

#[async_trait]
impl Fixture for Folder {
    async fn handle(&self) -> Arc<dyn Store> {
        Arc::new(open(&self.0.path().join("store")).expect("opened"))
    }

    fn scratch(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

struct Memory(Arc<MemoryStore>, tempfile::TempDir);

#[async_trait]
impl Fixture for Memory {
    async fn handle(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    fn scratch(&self) -> PathBuf {
        self.1.path().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_directory_store_passes_the_conformance_suite() {
    for (name, case) in CASES {
        println!("case: {name}");
        case(&Folder(tempfile::tempdir().expect("temporary folder"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_memory_passes_the_conformance_suite() {
    for (name, case) in CASES {
        println!("case: {name}");
        case(&Memory(Arc::default(), tempfile::tempdir().expect("temporary folder"))).await;
    }
}

// === Folders ===

fn check_refused(root: &Path, expected: &str) {
    let error = open(root).expect_err("refused").to_string();
    assert!(
        error.contains(expected) && error.contains(&root.display().to_string()),
        "{error}"
    );
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::write(folder.path().join("thesis.txt"), "x").expect("written");
    check_refused(folder.path(), "holds no Verdigris store");
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    check_refused(&folder.path().join("thesis.txt"), "holds no Verdigris store");
}

#[test]
fn a_store_of_another_format_is_refused_by_that_word() {
    let folder = tempfile::tempdir().expect("temporary folder");
    drop(open(folder.path()).expect("a new store"));
    fs::write(folder.path().join(".verdigris-store"), "verdigris store 2\n").expect("written");
    check_refused(folder.path(), "store format \"verdigris store 2\"");
}

#[test]
fn a_crash_while_a_store_was_made_is_no_foreign_folder() {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::create_dir(folder.path().join(".tmp")).expect("made");
    fs::write(folder.path().join(".lock"), "").expect("written");
    fs::write(folder.path().join(".verdigris-store.0a1b"), "verd").expect("written");
    open(folder.path()).expect("it goes on");
}

#[tokio::test]
async fn temporary_files_of_the_dead_are_swept_and_those_of_the_living_kept() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let living = open(folder.path()).expect("opened");
    living
        .put("a", Body::Bytes("x".into()), Precondition::Any)
        .await
        .expect("written");
    let temporary = folder.path().join(".tmp");
    let mine: Vec<PathBuf> = fs::read_dir(&temporary)
        .expect("listed")
        .map(|e| e.expect("entry").path())
        .collect();
    assert_eq!(mine.len(), 1);
    fs::write(mine[0].join("half"), "half").expect("written");
    fs::create_dir(temporary.join("dead")).expect("made");
    fs::write(temporary.join("dead/half"), "half").expect("written");
    fs::write(temporary.join("loose"), "half").expect("written");
    // The same process opens it again: the handle is another one, the living one goes on.
    drop(open(folder.path()).expect("opened"));
    assert!(mine[0].join("half").exists(), "a living process writes it");
    assert_eq!(
        fs::read_dir(&temporary).expect("listed").count(),
        1,
        "the dead write no more"
    );
    living
        .put("b", Body::Bytes("x".into()), Precondition::Any)
        .await
        .expect("it was not disturbed");
    drop(living);
    assert_eq!(
        fs::read_dir(&temporary).expect("listed").count(),
        0,
        "a handle that ends leaves nothing"
    );
}

#[tokio::test]
async fn stored_files_have_the_mode_of_the_store_and_a_time_of_their_own() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = open(&folder.path().join("store")).expect("opened");
    let private = folder.path().join("private");
    fs::write(&private, "x").expect("written");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).expect("set");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    fs::File::options()
        .write(true)
        .open(&private)
        .expect("open")
        .set_modified(long_ago)
        .expect("set");
    store
        .put("a", Body::File(private), Precondition::Absent)
        .await
        .expect("created");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let stored = store.local_path("a").expect("local");
    assert_eq!(mode(&stored), mode(&folder.path().join("store/.verdigris-store")));
    let modified = fs::metadata(&stored).expect("there").modified().expect("a time");
    assert!(
        modified > long_ago + std::time::Duration::from_secs(1_000_000),
        "it is young: garbage collection waits"
    );
}

#[tokio::test]
async fn a_file_on_the_same_disk_is_moved_and_not_copied() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = open(&folder.path().join("store")).expect("opened");
    let path = folder.path().join("file");
    fs::write(&path, "x").expect("written");
    let inode = fs::metadata(&path).expect("there").ino();
    store
        .put("a", Body::File(path), Precondition::Absent)
        .await
        .expect("created");
    let meta = fs::metadata(store.local_path("a").expect("local")).expect("there");
    assert_eq!((meta.ino(), meta.nlink()), (inode, 1));
}

#[tokio::test]
async fn a_lock_file_that_somebody_removed_still_excludes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = open(folder.path()).expect("opened");
    let mut tag = store
        .put("a", Body::Bytes("0".into()), Precondition::Any)
        .await
        .expect("written");
    for n in 0..50 {
        fs::remove_file(folder.path().join(".lock")).expect("removed");
        let swaps = (0..4).map(|racer| {
            let (store, tag) = (store.clone(), tag.clone());
            tokio::spawn(async move {
                store
                    .put(
                        "a",
                        Body::Bytes(format!("{n} {racer}").into()),
                        Precondition::Matches(tag),
                    )
                    .await
            })
        });
        let mut winners = Vec::new();
        for swap in swaps.collect::<Vec<_>>() {
            winners.extend(swap.await.expect("no panic").ok());
        }
        assert_eq!(winners.len(), 1, "round {n}");
        tag = winners.remove(0);
    }
}

// === Processes ===

const CHILD: &str = "VERDIGRIS_TEST_STORE_CHILD";

fn child(work: &str, root: &Path, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args([
            "a_child_process_does_what_it_is_told",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, format!("{work}|{}|{argument}", root.display()))
        .stdout(Stdio::piped());
    command
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines
        .map_while(Result::ok)
        .filter_map(|line| Some(line.split_once("says ")?.1.to_owned()))
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "says {text}").expect("the parent listens");
    out.flush().expect("the parent listens");
}

/// Not a test of its own: the process that other tests start, and kill.
#[test]
fn a_child_process_does_what_it_is_told() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let mut parts = told.splitn(3, '|');
    let mut part = || parts.next().expect("work, root, argument").to_owned();
    let (work, root, argument) = (part(), PathBuf::from(part()), part());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        match work.as_str() {
            "count" => count(&root, argument.parse().expect("a number")).await,
            "fill" => fill(&root, &argument).await,
            "full" => full_disk(&root).await,
            "read-only" => read_only_disk(&root).await,
            other => panic!("{other}"),
        }
    });
}

/// Adds one to a number by compare-and-swap until it has won `wins` times.
async fn count(root: &Path, wins: u64) {
    let store = open(root).expect("opened");
    let mut won = 0;
    while won < wins {
        let Get::Found { bytes, tag, .. } = store.get("counter/latest", None).await.expect("read") else {
            panic!("no tag was given")
        };
        let n: u64 = std::str::from_utf8(&bytes).expect("text").parse().expect("a number");
        let next = Body::Bytes((n + 1).to_string().into());
        match store.put("counter/latest", next, Precondition::Matches(tag)).await {
            Ok(_) => {
                won += 1;
                say(&(n + 1).to_string());
            }
            Err(StoreError::PreconditionFailed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

const WINS: u64 = 200;

/// Goal: no swap is lost between processes. Method: four count together; every number is won once and none is left out.
#[tokio::test]
async fn four_processes_that_swap_together_lose_no_swap() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().join("store");
    let store = open(&root).expect("opened");
    store
        .put("counter/latest", Body::Bytes("0".into()), Precondition::Absent)
        .await
        .expect("created");
    let mut children: Vec<_> = (0..4)
        .map(|_| child("count", &root, &WINS.to_string()).spawn().expect("started"))
        .collect();
    let said: Vec<_> = children.iter_mut().map(lines).collect();
    let mut won: Vec<u64> = said
        .into_iter()
        .flatten()
        .map(|text| text.parse().expect("a number"))
        .collect();
    children
        .iter_mut()
        .for_each(|child| assert!(child.wait().expect("ended").success()));
    won.sort_unstable();
    assert_eq!(won, (1..=4 * WINS).collect::<Vec<_>>());
    assert_eq!(read(&store, "counter/latest").await, (4 * WINS).to_string());
}

/// Content that says whether it is whole: a digest, and what it is of.
fn content(name: &str, n: u64) -> Vec<u8> {
    let body: Vec<u8> = (0..1 + (n * 7_919) % 300_000)
        .map(|byte| (byte * 31 + n) as u8)
        .collect();
    let text = format!("{name} {n} ");
    let mut content = blake3::hash(&[text.as_bytes(), &body].concat()).as_bytes().to_vec();
    content.extend_from_slice(text.as_bytes());
    content.extend_from_slice(&body);
    content
}

fn is_whole(content: &[u8]) -> bool {
    content.len() > 32 && blake3::hash(&content[32..]).as_bytes() == &content[..32]
}

/// Creates objects, from bytes and from files, and replaces one of them again and again.
async fn fill(root: &Path, name: &str) {
    let store = open(root).expect("opened");
    for n in 0.. {
        let bytes = content(name, n);
        let key = format!("fill/{name}/{n}");
        if n % 2 == 0 {
            store
                .put(&key, Body::Bytes(bytes.clone().into()), Precondition::Absent)
                .await
                .expect("created");
        } else {
            let path = root.with_extension(format!("{name}-{n}"));
            fs::write(&path, &bytes).expect("written");
            store
                .put(&key, Body::File(path), Precondition::Absent)
                .await
                .expect("created");
        }
        store
            .put("fill/latest", Body::Bytes(bytes.into()), Precondition::Any)
            .await
            .expect("written");
        say(&n.to_string());
    }
}

/// Goal: kill -9 loses nothing that was acknowledged and leaves no torn object. Method: a child writes and prints what
/// was acknowledged; it is killed after another number of lines each round, and everything is read back.
#[tokio::test]
async fn after_kill_9_every_object_is_whole_and_every_acknowledged_one_there() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().join("store");
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..12usize {
        let name = format!("round{round}");
        let mut child = child("fill", &root, &name).spawn().expect("started");
        let mut said = lines(&mut child);
        let last = said.by_ref().take(1 + round * 3).last();
        child.kill().expect("killed");
        child.wait().expect("ended");
        // What it said before it died counts too.
        let last = said.last().or(last).expect("it wrote something");
        acknowledged.insert(name, last.parse().expect("a number"));

        let store = open(&root).expect("opened");
        let temporary = fs::read_dir(root.join(".tmp")).map_or(0, Iterator::count);
        assert_eq!(temporary, 0, "round {round}: temporary files stayed");
        let listing = store.list("", None, 100_000).await.expect("listed");
        for object in &listing {
            assert!(
                is_whole(&read(&store, &object.key).await),
                "round {round}: {} is torn",
                object.key
            );
        }
        for (name, last) in &acknowledged {
            for n in 0..=*last {
                let key = format!("fill/{name}/{n}");
                assert!(
                    listing.iter().any(|object| object.key == key),
                    "round {round}: {key} is gone"
                );
            }
        }
        assert_eq!(store.list("fill/latest", None, 2).await.expect("listed").len(), 1);
    }
    let all: u64 = acknowledged.values().map(|last| last + 1).sum();
    println!("{all} acknowledged objects over {} kills", acknowledged.len());
}

// === Disks ===

/// Runs a child with a small disk of its own at `root`; false where this machine does not allow it.
fn with_own_disk(work: &str, root: &Path) -> bool {
    fs::create_dir(root).expect("made");
    let inner = child(work, root, "");
    let program = inner.get_program().to_owned();
    let script = format!(
        "mount -t tmpfs -o size=1m none '{}' || exit 77; exec \"$0\" \"$@\"",
        root.display()
    );
    let mut outer = Command::new("unshare");
    outer
        .args(["-rm", "sh", "-c", &script])
        .arg(program)
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        outer.env(name, value.expect("set"));
    }
    match outer.output() {
        Ok(output) if output.status.code() != Some(77) && !output.stderr.starts_with(b"unshare") => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{said}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(said.contains("says done"), "{said}");
            true
        }
        _ => false,
    }
}

async fn full_disk(root: &Path) {
    let store = open(root).expect("opened");
    let small = || Body::Bytes("small".into());
    store
        .put("c/latest", small(), Precondition::Absent)
        .await
        .expect("there is room");
    let much = Bytes::from(vec![7u8; 2 << 20]);
    let full = store
        .put("c/much", Body::Bytes(much.clone()), Precondition::Absent)
        .await;
    assert!(
        matches!(&full, Err(StoreError::OutOfSpace { key, .. }) if key == "c/much"),
        "{full:?}"
    );
    // A file from another disk is copied, and there is no room for it either; it stays where it is.
    let path = root.parent().expect("a folder").join("much");
    fs::write(&path, &much).expect("written");
    let full = store
        .put("c/much", Body::File(path.clone()), Precondition::Absent)
        .await;
    assert!(matches!(&full, Err(StoreError::OutOfSpace { .. })), "{full:?}");
    assert!(path.exists(), "it was not taken");
    let objects = store.list("", None, 10).await.expect("listed");
    assert_eq!(objects.len(), 1, "nothing came of it: {objects:?}");
    // What was begun gave its room back: once there is some, writing goes on.
    store
        .put("c/more", small(), Precondition::Absent)
        .await
        .expect("there is room again");
    // A folder without any room left is opened and read.
    let mut filler = fs::File::create(root.join(".tmp/filler")).expect("created");
    while filler.write_all(&[0; 4_096]).is_ok() {}
    let full = store.put("c/other", small(), Precondition::Any).await;
    assert!(matches!(&full, Err(StoreError::OutOfSpace { .. })), "{full:?}");
    assert_eq!(read(&store, "c/latest").await, "small");
    drop(filler);
    let reader = open(root).expect("a full store is opened");
    store
        .put("c/other", small(), Precondition::Any)
        .await
        .expect("opening swept what nobody writes: there is room");
    let store = reader;
    assert_eq!(read(&store, "c/latest").await, "small");
    say("done");
}

async fn read_only_disk(root: &Path) {
    let store = open(root).expect("opened");
    store
        .put("c/latest", Body::Bytes("small".into()), Precondition::Absent)
        .await
        .expect("written");
    let remount = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(root)
        .status()
        .expect("mount");
    assert!(remount.success());
    let opened = open(root).expect("a read-only store is opened");
    for store in [&store, &opened] {
        assert_eq!(read(store, "c/latest").await, "small");
        let put = store.put("c/new", Body::Bytes("x".into()), Precondition::Any).await;
        assert!(
            matches!(&put, Err(StoreError::ReadOnly { key, .. }) if key == "c/new"),
            "{put:?}"
        );
        let delete = store.delete("c/latest").await;
        assert!(matches!(&delete, Err(StoreError::ReadOnly { .. })), "{delete:?}");
    }
    let new = open(&root.join("new"));
    assert!(matches!(&new, Err(StoreError::ReadOnly { .. })), "{new:?}");
    say("done");
}

#[test]
fn a_full_disk_is_named_and_costs_nothing_that_was_there() {
    let folder = tempfile::tempdir().expect("temporary folder");
    if !with_own_disk("full", &folder.path().join("disk")) {
        println!("skipped: a_full_disk_is_named_and_costs_nothing_that_was_there: no own disk allowed here");
    }
}

#[test]
fn a_read_only_disk_is_named_and_can_be_read() {
    let folder = tempfile::tempdir().expect("temporary folder");
    if !with_own_disk("read-only", &folder.path().join("disk")) {
        println!("skipped: a_read_only_disk_is_named_and_can_be_read: no own disk allowed here");
    }
}
