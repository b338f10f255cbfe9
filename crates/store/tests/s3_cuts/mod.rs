//! The commit protocol on S3: with faults at every call, with connections cut at every place, with writes that arrive
//! long after their writer gave them up, and with names that others took meanwhile.

use std::sync::Arc;
use std::time::Duration;

use verdigris_core::manifest::Manifest;
use verdigris_core::pointer::Pointer;
use verdigris_store::commit::Patience;
use verdigris_store::faults::{self, FaultyStore};
use verdigris_store::fetch::verify_release;
use verdigris_store::s3::S3Store;
use verdigris_store::{Body, CommitError, Get, Precondition, Store, StoreError, collection};

use crate::ministack::{Ministack, options, shared};
use crate::proxy::{Deed, Fault, Proxy, Side};
use crate::world::{claim, create, draft, head, name, publish, publish_patiently};
use crate::{InParts, connect, content};

async fn pointer(store: &dyn Store) -> Pointer {
    collection::pointer(store, &name()).await.expect("whole").pointer
}

/// I-2: what is active is all there.
async fn check_active(store: &dyn Store, pointer: &Pointer, what: &str) -> Option<Manifest> {
    let active = pointer.active.as_ref()?;
    let manifest = collection::manifest(store, &name(), &active.manifest)
        .await
        .expect("whole");
    let problems = verify_release(store, &manifest).await.problems;
    assert!(problems.is_empty(), "I-2: {what}: {problems:?}");
    Some(manifest)
}

/// I-5: what a writer was told is what became of it.
fn check_told(told: &Result<Pointer, CommitError>, nonce: &str, now: &Pointer, what: &str) -> &'static str {
    let landed = now.remembers(nonce);
    match told {
        Ok(_) => {
            assert!(
                landed,
                "I-5: {what}: {nonce} is told committed, but is not in the history"
            );
            "committed"
        }
        Err(CommitError::Unknown(_)) => "unknown",
        Err(error) => {
            assert!(
                !landed,
                "I-5: {what}: {nonce} is told not made ({error}), but is in the history"
            );
            "not made"
        }
    }
}

/// Claims and publishes through `store`; what was told of both is checked against `truth`. `id` is used once.
async fn one_writer(store: &dyn Store, truth: &dyn Store, id: &str, what: &str) -> Vec<&'static str> {
    let scratch = tempfile::tempdir().expect("temporary folder");
    let (claiming, publishing) = (format!("{id}-claim"), format!("{id}-publish"));
    let claimed = claim(store, id, &claiming).await;
    let mut told = vec![check_told(&claimed, &claiming, &pointer(truth).await, what)];
    let Ok(claimed) = claimed else { return told };
    let epoch = claimed.writer.as_ref().expect("it claimed").epoch;
    // The release before is read past the faults: this is about writing.
    let draft = draft(&head(truth, &claimed).await, id, &publishing);
    let published = publish(store, &draft, epoch, scratch.path(), None).await;
    let now = pointer(truth).await;
    told.push(check_told(&published, &publishing, &now, what));
    check_active(truth, &now, what).await;
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_fault_at_every_call_on_s3_leaves_a_store_that_goes_on() {
    let Some(server) = shared("every_fault_at_every_call_on_s3_leaves_a_store_that_goes_on").await else {
        return;
    };
    const FAULTS: [faults::Fault; 5] = [
        faults::Fault::LostAnswer,
        faults::Fault::ErrorBefore,
        faults::Fault::Conflict,
        faults::Fault::Crash,
        faults::Fault::CrashAfter,
    ];
    let mut runs = 0;
    for (n, fault) in (0..9).flat_map(|n| FAULTS.map(|fault| (n, fault))) {
        let what = format!("{n} {fault:?}");
        let inner = Arc::new(connect(server.options(&format!("faults/{n}-{fault:?}"))).await);
        create(&*inner).await;
        let faulty = FaultyStore::new(inner.clone(), faults::at(n, fault));
        one_writer(&faulty, &*inner, "first", &what).await;
        let before = pointer(&*inner).await.generation;
        let told = one_writer(&*inner, &*inner, "second", &what).await;
        assert_eq!(told, ["committed", "committed"], "{what}: the next writer publishes");
        assert_eq!(pointer(&*inner).await.generation, before + 1, "I-3: {what}");
        runs += 1;
    }
    println!("{runs} runs");
}

/// Goal: wherever a connection ends, each swing ends as committed, lost or unknown, as the pointer says too. Method: one
/// request of each kind that a publish makes is cut, once and for good, at bytes of its head, its body and its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_cut_at_any_byte_never_make_a_writer_believe_what_is_not() {
    let Some(server) = shared("connections_cut_at_any_byte_never_make_a_writer_believe_what_is_not").await else {
        return;
    };
    let truth = connect(server.options("cuts")).await;
    create(&truth).await;
    let proxy = Proxy::start(server.address).await;
    let mut options = options(proxy.address, "cuts");
    options.attempts = 1;
    let store = connect(options).await;
    let mut told = std::collections::BTreeMap::<&str, u32>::new();
    let (mut runs, mut hits) = (0, 0);
    for (method, path) in [
        ("PUT", "/latest"),
        ("GET", "/latest"),
        ("PUT", ".json"),
        ("PUT", ".roaring"),
        ("PUT", "vectors.faiss"),
    ] {
        for (side, at) in [0, 1, 60, 300, 900, 1_500, 100_000]
            .map(|at| (Side::Request, at))
            .into_iter()
            .chain([0, 1, 14, 100, 400, 1_500].map(|at| (Side::Answer, at)))
        {
            let times = if (runs + at) % 3 == 0 { 1_000 } else { 1 };
            let deed = Deed::Cut;
            let fault = Fault {
                method,
                path,
                side,
                at,
                deed,
                times,
            };
            proxy.arm(fault);
            let what = format!("{fault:?}");
            for outcome in one_writer(&store, &truth, &format!("w{runs}"), &what).await {
                *told.entry(outcome).or_default() += 1;
            }
            hits += proxy.disarm().min(1);
            runs += 1;
        }
    }
    // Whatever happened, the next writer goes on.
    let outcomes = one_writer(&store, &truth, "last", "at the end").await;
    assert_eq!(outcomes, ["committed", "committed"]);
    println!("{runs} runs, {hits} with a cut, {told:?}");
    assert!(hits > runs as u32 / 2, "most faults met something");
    assert!(told.contains_key("unknown"), "{told:?}");
}

/// A writer whose swing is held on its way: its store, the pointer before, and what is needed to go on.
struct Paused {
    proxy: Proxy,
    store: S3Store,
    truth: S3Store,
    epoch: u64,
}

impl Paused {
    /// Claims; the next swing of this writer will be held.
    async fn begin(server: &Ministack, prefix: &str) -> Self {
        let truth = connect(server.options(prefix)).await;
        create(&truth).await;
        let proxy = Proxy::start(server.address).await;
        let mut options = options(proxy.address, prefix);
        options.attempt_timeout = Duration::from_secs(1);
        let store = connect(options).await;
        let claimed = claim(&store, "sleeper", "sleeper-claim").await.expect("claimed");
        let epoch = claimed.writer.expect("it claimed").epoch;
        Self {
            proxy,
            store,
            truth,
            epoch,
        }
    }

    fn hold(&self, times: u32) {
        self.proxy.arm(Fault {
            method: "PUT",
            path: "/latest",
            side: Side::Request,
            at: 40,
            deed: Deed::Hold,
            times,
        });
    }

    async fn publish(&self, nonce: &str) -> Result<Pointer, CommitError> {
        let scratch = tempfile::tempdir().expect("temporary folder");
        let draft = draft(&head(&self.truth, &pointer(&self.truth).await).await, "sleeper", nonce);
        let patience = Patience {
            steps: 8,
            ..Patience::AT_ONCE
        };
        publish_patiently(&self.store, &draft, self.epoch, scratch.path(), None, patience).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_swing_that_arrives_twice_is_made_once() {
    let Some(server) = shared("a_swing_that_arrives_twice_is_made_once").await else {
        return;
    };
    let paused = Paused::begin(&server, "twice").await;
    paused.hold(1);
    // The first send is held and given up, the second is made.
    paused.publish("sleeper-publish").await.expect("committed");
    let before = pointer(&paused.truth).await;
    paused.proxy.release();
    let late = paused.proxy.late_answers(1).await;
    assert!(late[0].contains(" 412"), "{late:?}");
    assert_eq!(pointer(&paused.truth).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_that_slept_through_the_claim_of_another_changes_nothing() {
    let Some(server) = shared("a_writer_that_slept_through_the_claim_of_another_changes_nothing").await else {
        return;
    };
    let paused = Paused::begin(&server, "sleeper").await;
    // Every swing of the sleeper is under way and stays there.
    paused.hold(1_000);
    let told = paused.publish("sleeper-publish").await;
    assert!(matches!(told, Err(CommitError::Unknown(_))), "{told:?}");
    let held = paused.proxy.disarm();
    assert!(held > 1, "{held}");
    let told = one_writer(&paused.truth, &paused.truth, "other", "I-4").await;
    assert_eq!(told, ["committed", "committed"]);
    let before = pointer(&paused.truth).await;
    // All that was sent arrives now, long after the other one's publish.
    paused.proxy.release();
    let late = paused.proxy.late_answers(held as usize).await;
    assert!(late.iter().all(|line| line.contains(" 412")), "I-4: {late:?}");
    // And the sleeper itself goes on as if nothing had been.
    let woken = paused.publish("sleeper-again").await;
    assert!(matches!(woken, Err(CommitError::Refused(_))), "I-4: {woken:?}");
    assert_eq!(pointer(&paused.truth).await, before, "I-4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_swing_told_as_unknown_may_land_later_and_is_found_then() {
    let Some(server) = shared("a_swing_told_as_unknown_may_land_later_and_is_found_then").await else {
        return;
    };
    let paused = Paused::begin(&server, "later").await;
    paused.hold(1_000);
    let told = paused.publish("sleeper-publish").await;
    assert!(matches!(told, Err(CommitError::Unknown(_))), "{told:?}");
    let held = paused.proxy.disarm();
    paused.proxy.release();
    let late = paused.proxy.late_answers(held as usize).await;
    let made = late.iter().filter(|line| line.contains(" 200")).count();
    assert_eq!(made, 1, "the same body with the same tag lands once: {late:?}");
    let now = pointer(&paused.truth).await;
    assert!(now.remembers("sleeper-publish") && now.generation == 1);
    check_active(&paused.truth, &now, "landed later").await;
}

/// Goal: an object of another is never taken for ours. Method: another has taken the name; the call that puts our parts
/// together is lost on its way, and what is sent then is refused, as it would be if the lost one had been made.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_is_not_taken_for_an_upload_of_ours_that_was_lost() {
    let test = "an_object_of_another_is_not_taken_for_an_upload_of_ours_that_was_lost";
    let Some(world) = InParts::begin(test, "anothers").await else {
        return;
    };
    let whole = |length: usize| content().into_iter().take(length).collect::<Vec<u8>>();
    for (n, before) in [b"small".to_vec(), whole(3_000_000)].into_iter().enumerate() {
        // One that went up in one piece has no mark, one in parts has another's.
        let (key, theirs) = (format!("large/{n}"), world.file(&before));
        let put = world.store.put(&key, Body::File(theirs), Precondition::Absent).await;
        put.expect("written");
        world.proxy.arm(Fault {
            method: "POST",
            path: "uploadId",
            side: Side::Request,
            at: 30,
            deed: Deed::Cut,
            times: 1,
        });
        let ours = world.file(&whole(2_000_000));
        let put = world.store.put(&key, Body::File(ours.clone()), Precondition::Absent);
        let error = put.await.expect_err("it is not ours");
        assert_eq!(world.proxy.disarm(), 1, "it was met");
        assert!(matches!(error, StoreError::NoAnswer { .. }), "{error:?}");
        assert!(ours.exists(), "it was not taken");
        let Get::Found { bytes, .. } = world.store.get(&key, None).await.expect("read") else {
            panic!("no tag was given")
        };
        assert!(bytes == before, "what was there stays");
    }
}
