//! What each reply means to a swing, one case at a time. All orders of all replies are `explorer`'s.

use super::*;
use crate::digest::Digest;
use crate::manifest::SettingsReference;
use crate::timestamp::Timestamp;

fn first() -> Pointer {
    let settings = SettingsReference {
        version: 1,
        digest: Digest::of(b"s"),
    };
    Pointer::first(
        "products".parse().expect("valid"),
        settings,
        "first".to_owned(),
        Timestamp(0),
    )
}

fn commit() -> Commit<impl FnMut(&Pointer) -> Result<Pointer, EditRefused>> {
    Commit::new("ours".to_owned(), |p: &Pointer| {
        Ok(p.next("ours".to_owned(), Timestamp(1)))
    })
}

fn read(pointer: &Pointer) -> Reply {
    Reply::Pointer {
        pointer: Box::new(pointer.clone()),
        tag: format!("tag{}", pointer.sequence),
    }
}

fn is_committed(step: &Step) -> bool {
    matches!(step, Step::Done(Outcome::Committed(_)))
}

/// The pointer after this many swings of others.
fn others(from: Pointer, swings: usize) -> Pointer {
    (0..swings).fold(from, |p, n| p.next(format!("theirs{n}"), Timestamp(2)))
}

#[test]
fn an_undisturbed_swing_reads_and_writes_once() {
    let mut commit = commit();
    commit.reply(read(&first()));
    assert!(matches!(commit.step(), Step::Write { tag, .. } if tag == "tag1"));
    assert!(!commit.is_unsettled());
    commit.reply(Reply::Written);
    assert!(is_committed(&commit.step()));
}

#[test]
fn a_swing_of_another_makes_the_edit_apply_again() {
    let mut commit = commit();
    commit.reply(read(&first()));
    commit.reply(Reply::PreconditionFailed);
    assert!(commit.is_unsettled(), "a client below may have sent it twice");
    commit.reply(read(&others(first(), 1)));
    assert!(!commit.is_unsettled());
    let Step::Write { body, tag } = commit.step() else {
        panic!("writes again")
    };
    assert_eq!(
        (Pointer::decode(&body).expect("whole").sequence, tag.as_str()),
        (3, "tag2")
    );
}

#[test]
fn an_edit_that_is_refused_writes_nothing() {
    let refused = EditRefused::LostTurn {
        ours: 1,
        theirs: 2,
        holder: "another".to_owned(),
    };
    let answer = refused.clone();
    let mut commit = Commit::new("ours".to_owned(), move |_: &Pointer| Err(answer.clone()));
    commit.reply(read(&first()));
    assert_eq!(commit.step(), Step::Done(Outcome::Lost(refused)));
}

#[test]
fn a_lost_answer_is_settled_by_our_nonce_in_the_history() {
    for reply in [Reply::NoAnswer, Reply::PreconditionFailed] {
        let mut commit = commit();
        commit.reply(read(&first()));
        commit.reply(reply);
        commit.reply(read(&others(first().next("ours".to_owned(), Timestamp(1)), 1)));
        let Step::Done(Outcome::Committed(pointer)) = commit.step() else {
            panic!("it is in the history")
        };
        assert_eq!(
            (pointer.sequence, pointer.nonce.as_str()),
            (2, "ours"),
            "what we made, not what others made of it"
        );
    }
}

#[test]
fn without_an_answer_the_same_body_is_sent_until_the_sequence_moves() {
    let mut commit = commit();
    commit.reply(read(&first()));
    let Step::Write { body, .. } = commit.step() else {
        panic!("writes")
    };
    for _ in 0..3 {
        commit.reply(Reply::NoAnswer);
        assert!(commit.is_unsettled());
        commit.reply(read(&first()));
        assert_eq!(
            commit.step(),
            Step::Write {
                body: body.clone(),
                tag: "tag1".to_owned()
            }
        );
        assert!(commit.is_unsettled(), "the first send may land yet");
    }
    // One of them landed late; the last send meets a moved tag.
    commit.reply(Reply::PreconditionFailed);
    commit.reply(read(&first().next("ours".to_owned(), Timestamp(1))));
    assert!(is_committed(&commit.step()));
}

#[test]
fn when_more_swings_went_by_than_nonces_are_kept_nobody_can_tell() {
    let lost_answer = |pointer: &Pointer| {
        let mut commit = commit();
        commit.reply(read(&first()));
        commit.reply(Reply::NoAnswer);
        commit.reply(read(pointer));
        commit.step()
    };
    let landed = first().next("ours".to_owned(), Timestamp(1));
    assert!(is_committed(&lost_answer(&others(landed.clone(), NONCES_KEPT - 1))));
    assert_eq!(lost_answer(&others(landed, NONCES_KEPT)), Step::Done(Outcome::Unknown));
    // As many swings, none of them ours: while the history reaches back far enough, ours is known not to be there.
    assert!(matches!(lost_answer(&others(first(), NONCES_KEPT)), Step::Write { .. }));
    assert_eq!(
        lost_answer(&others(first(), NONCES_KEPT + 1)),
        Step::Done(Outcome::Unknown)
    );
}

#[test]
fn a_collection_that_began_anew_says_nothing_about_its_old_life() {
    let mut commit = commit();
    commit.reply(read(&others(first(), 5)));
    commit.reply(Reply::NoAnswer);
    commit.reply(read(&others(first(), 1)));
    assert_eq!(commit.step(), Step::Done(Outcome::Unknown));
}
