//! The roles in this process, with time moved by hand: no file of the store has a byte of an erased document after the
//! grace, and searches meanwhile neither fail nor show it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Request;
use verdigris_core::digest::ContentSum;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_engine::release::open::OpenRelease;
use verdigris_proto::admin::admin_service_server::AdminService;
use verdigris_proto::admin::{EraseDocumentsRequest, GetErasureRequest, RebuildRequest};
use verdigris_proto::ingest::IngestRequest;
use verdigris_proto::ingest::ingest_service_server::IngestService;
use verdigris_proto::search::search_service_server::SearchService;
use verdigris_proto::search::{SearchRequest, SearchResponse};
use verdigris_runtime::clock::Clock;
use verdigris_search::SearchRpc;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::{Store, collection as objects};

use super::roles::events::{delete, patch, upsert};
use super::roles::opener::Opener;
use super::roles::turnstile::Turnstile;
use super::roles::{Process, Start, World, name, settings};

/// A word of the erased document's title alone, with letters that nothing else here has side by side.
const WORD: &str = "qxzvjkwyq";

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// Files of the store that have the word.
fn with_word(world: &World) -> Vec<PathBuf> {
    let has = |path: &PathBuf| {
        // One that the collector takes meanwhile has no byte any more.
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(WORD.len()).any(|part| part == WORD.as_bytes())
    };
    files(&world.folder.path().join("store"))
        .into_iter()
        .filter(has)
        .collect()
}

fn erase(process: &Process, ids: &[&str]) {
    let request = EraseDocumentsRequest {
        collection: name().to_string(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        actor: "ada".to_owned(),
        reason: "asked to be forgotten".to_owned(),
    };
    let told = process.block_on(process.admin.erase_documents(Request::new(request)));
    told.expect("hidden");
}

fn until(world: &World, what: &str, is_so: impl Fn(&Pointer) -> bool) -> Pointer {
    let began = Instant::now();
    loop {
        let pointer = world.pointer();
        if is_so(&pointer) {
            return pointer;
        }
        assert!(
            began.elapsed() < super::PATIENCE,
            "this never happened: {what}: {pointer:#?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_removed(pointer: &Pointer) -> bool {
    pointer.erased.as_ref().is_some_and(|erased| erased.removed)
}

async fn search(search: &SearchRpc, text: &str, top_k: u32, page_token: &str) -> SearchResponse {
    let request = SearchRequest {
        collection: name().to_string(),
        text: text.to_owned(),
        top_k,
        page_token: page_token.to_owned(),
        ..SearchRequest::default()
    };
    let answer = search.search(Request::new(request)).await;
    answer.expect("no search fails because of an erase").into_inner()
}

fn shows(answer: &SearchResponse) -> bool {
    answer.hits.iter().any(|hit| hit.id == "secret")
}

/// Documents in many windows, so that rows of the secret one die, are merged, and lie in many kept releases.
fn fill(process: &Process) {
    for batch in 0..12 {
        let mut events: Vec<_> = (0..20)
            .map(|n| upsert(&format!("d{}", batch * 20 + n), &format!("thing {n}"), batch))
            .collect();
        events.push(match batch % 4 {
            3 => delete("secret"),
            2 => patch("secret", batch),
            _ => upsert("secret", &format!("{WORD} thing {batch}"), batch),
        });
        process.publish(events);
    }
    process.publish(vec![upsert("secret", &format!("{WORD} at last"), 99)]);
}

#[test]
fn after_the_grace_no_file_of_the_store_has_a_byte_of_it() {
    let clock = Clock::manual(Clock::system().now_ns());
    let world = World::with_clock(clock.clone());
    world.create(&settings());
    let inner: Arc<dyn Store> = world.store.clone();
    let store = Turnstile::new(inner);
    let process = Process::start(&world, Start::new("a").with_store(store.clone()));
    fill(&process);
    // Another lineage has its own files with it.
    let request = RebuildRequest {
        collection: name().to_string(),
        settings_json: r#"{"embedder":{"provider":"hash","dimension":24}}"#.to_owned(),
        actor: "ada".to_owned(),
        reason: "a new model".to_owned(),
    };
    let told = process.block_on(process.admin.rebuild(Request::new(request)));
    told.expect("a rebuild begins");
    let named = until(&world, "the rebuild is level", |pointer| pointer.other.is_some());
    let before = with_word(&world);
    assert!(before.len() > 3, "there is something to be found: {before:?}");

    erase(&process, &["secret"]);
    let done = until(&world, "its bytes are removed", is_removed);
    assert_eq!(
        done.other.map(|other| other.lineage),
        named.other.map(|other| other.lineage),
        "the other lineage stays"
    );
    assert!(
        !with_word(&world).is_empty(),
        "files that were named wait for the grace (I-10)"
    );
    clock.advance(GRACE_NS);
    process.publish(vec![upsert("d1", "another thing", 100)]);
    // A round may list dead letters too.
    store.let_collect(&clock, 3);
    let left = with_word(&world);
    assert!(left.is_empty(), "{left:?} of {} files before", before.len());
    let request = GetErasureRequest {
        collection: name().to_string(),
        ..GetErasureRequest::default()
    };
    let status = process.block_on(process.admin.get_erasure(Request::new(request)));
    let status = status.expect("erased").into_inner();
    let one = &status.erasures[0];
    assert!(status.removed && one.segments.is_empty() && one.releases.is_empty() && one.files_until.is_empty());
    for lineage in [&world.pointer().active, &world.pointer().other].into_iter().flatten() {
        assert_sums(&world, &lineage.manifest);
    }
    process.stop();

    // The list outlives every collection and every process.
    clock.advance(GRACE_NS);
    let process = world.process("b");
    process.publish(vec![upsert("d2", "another thing", 101)]);
    let request = IngestRequest {
        collection: name().to_string(),
        events: vec![upsert("secret", WORD, 102)],
    };
    let told = process.block_on(process.ingest.ingest(Request::new(request)));
    let refused = told.expect("an answer").into_inner().rejections;
    assert_eq!(refused[0].reason, "ERASED");
    process.stop();
}

/// A manifest says of its documents what its rows say.
fn assert_sums(world: &World, reference: &ManifestReference) {
    let manifest = world
        .block_on(objects::manifest(&*world.store, &name(), reference))
        .unwrap();
    let store: Arc<dyn Store> = world.store.clone();
    let release = world.block_on(Opener::new(store, VerifiedFiles::default()).open(Arc::new(manifest.clone()), None));
    let release = release.unwrap();
    let (mut content, mut documents) = (ContentSum::default(), 0);
    for place in release.live_rows() {
        content.add(&release.state(place).unwrap().1.digest());
        documents += u64::from(release.has_vector(place));
    }
    assert_eq!((content, documents), (manifest.content, manifest.documents));
}

#[test]
fn searches_meanwhile_do_not_fail_and_never_show_it_again_nor_does_a_further_page() {
    let world = World::new();
    world.create(&settings());
    let process = world.process("a");
    fill(&process);
    process.serve(vec![upsert("d1", "one more thing", 100)]);
    let first = process.block_on(search(&process.search, "thing", 200, ""));
    assert!(!first.next_page_token.is_empty());
    let all = process.block_on(search(&process.search, WORD, 1, ""));
    assert!(shows(&all), "{all:?}");

    let (stop, searches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = {
        let (stop, searches, rpc) = (stop.clone(), searches.clone(), process.search.clone());
        process.runtime().spawn(async move {
            let mut was_hidden = false;
            while !stop.load(Ordering::Relaxed) {
                let is_shown = shows(&search(&rpc, WORD, 3, "").await);
                assert!(!(was_hidden && is_shown), "it was shown again");
                was_hidden |= !is_shown;
                searches.fetch_add(1, Ordering::Relaxed);
            }
            was_hidden
        })
    };
    erase(&process, &["secret"]);
    until(&world, "its bytes are removed", is_removed);
    let many = searches.load(Ordering::Relaxed) + 200;
    until(&world, "searches go on", |_| {
        searches.load(Ordering::Relaxed) > many || asking.is_finished()
    });
    stop.store(true, Ordering::Relaxed);
    assert!(process.block_on(asking).expect("no search failed"), "it was hidden");
    let second = process.block_on(search(&process.search, "thing", 200, &first.next_page_token));
    assert!(!shows(&second), "a page of the release before");
    process.stop();
}
