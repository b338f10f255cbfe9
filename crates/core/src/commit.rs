//! The swing of the pointer as a pure machine: what to do next, and what a reply means.
//!
//! Three outcomes: committed, lost, unknown. A write whose answer was lost may land later, so the same body is sent with
//! the same tag until the sequence has moved; then our nonce is looked for in the pointer's history (I-5). The driver
//! does the I/O, bounds the number of steps and waits between them.

use crate::pointer::{EditRefused, NONCES_KEPT, Pointer};

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read the pointer and its tag.
    Read,
    /// Write this body if the pointer still has this tag.
    Write {
        /// The whole pointer.
        body: Vec<u8>,
        /// Tag of the pointer that it follows.
        tag: String,
    },
    /// It is over.
    Done(Outcome),
}

/// How a swing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The pointer has our edit; this is how it was when we saw it.
    Committed(Box<Pointer>),
    /// The edit does not apply to what the pointer has become, and was not made.
    Lost(EditRefused),
    /// Nobody can tell any more: more swings went by than nonces are kept. Start again from the pointer.
    Unknown,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The pointer as it is.
    Pointer {
        /// Decoded and checked.
        pointer: Box<Pointer>,
        /// Its tag.
        tag: String,
    },
    /// The write was made.
    Written,
    /// The store says that the tag does not match.
    PreconditionFailed,
    /// The store said nothing, or something that may mean either.
    NoAnswer,
}

#[derive(Debug, Clone)]
struct Attempt {
    body: Vec<u8>,
    tag: String,
    next: Pointer,
    /// Whether a send of this body may yet land.
    may_land: bool,
}

/// One swing under way. `E` makes the next pointer out of the present one, with the nonce of this swing.
pub struct Commit<E> {
    edit: E,
    nonce: String,
    attempt: Option<Attempt>,
    step: Step,
}

impl<E: FnMut(&Pointer) -> Result<Pointer, EditRefused>> Commit<E> {
    /// A swing by `edit`, whose results all carry `nonce`.
    pub fn new(nonce: String, edit: E) -> Self {
        Self {
            edit,
            nonce,
            attempt: None,
            step: Step::Read,
        }
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        self.step.clone()
    }

    /// Takes what came of the step.
    pub fn reply(&mut self, reply: Reply) {
        self.step = match (reply, self.step.clone()) {
            (Reply::Pointer { pointer, tag }, Step::Read) => self.seen(*pointer, tag),
            (Reply::Written, Step::Write { .. }) => match self.attempt.take() {
                Some(attempt) => Step::Done(Outcome::Committed(Box::new(attempt.next))),
                None => Step::Read,
            },
            // After a send without an answer, a failed precondition may be our own success.
            (Reply::PreconditionFailed, Step::Write { .. }) => Step::Read,
            (Reply::NoAnswer, Step::Write { .. }) => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.may_land = true;
                }
                Step::Read
            }
            (_, step) => step,
        };
    }

    fn seen(&mut self, pointer: Pointer, tag: String) -> Step {
        if let Some(attempt) = &self.attempt {
            if pointer.remembers(&self.nonce) {
                return Step::Done(Outcome::Committed(Box::new(pointer)));
            }
            if tag == attempt.tag {
                // It has not moved: what was sent may still land, so only the same body may be sent.
                return Step::Write {
                    body: attempt.body.clone(),
                    tag,
                };
            }
            let swings = pointer.sequence.saturating_sub(attempt.next.sequence) + 1;
            if attempt.may_land && swings >= NONCES_KEPT as u64 {
                return Step::Done(Outcome::Unknown);
            }
            // It moved, and our nonce is not in its history: that body can never land any more.
            self.attempt = None;
        }
        match (self.edit)(&pointer) {
            Err(refused) => Step::Done(Outcome::Lost(refused)),
            Ok(next) => {
                debug_assert_eq!(next.nonce, self.nonce, "an edit carries the nonce of its swing");
                let body = next.encode();
                self.attempt = Some(Attempt {
                    body: body.clone(),
                    tag: tag.clone(),
                    next,
                    may_land: false,
                });
                Step::Write { body, tag }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn an_undisturbed_swing_reads_and_writes_once() {
        let mut commit = commit();
        commit.reply(read(&first()));
        assert!(matches!(commit.step(), Step::Write { tag, .. } if tag == "tag1"));
        commit.reply(Reply::Written);
        assert!(is_committed(&commit.step()));
    }

    #[test]
    fn a_swing_of_another_makes_the_edit_apply_again() {
        let mut commit = commit();
        commit.reply(read(&first()));
        commit.reply(Reply::PreconditionFailed);
        commit.reply(read(&first().next("theirs".to_owned(), Timestamp(1))));
        let Step::Write { body, tag } = commit.step() else {
            panic!("writes again")
        };
        assert_eq!(
            (Pointer::decode(&body).expect("whole").sequence, tag.as_str()),
            (3, "tag2")
        );
    }

    #[test]
    fn a_lost_answer_is_settled_by_our_nonce_in_the_history() {
        let mut commit = commit();
        commit.reply(read(&first()));
        commit.reply(Reply::NoAnswer);
        let landed = first().next("ours".to_owned(), Timestamp(1));
        commit.reply(read(&landed.next("theirs".to_owned(), Timestamp(2))));
        assert!(is_committed(&commit.step()));
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
            commit.reply(read(&first()));
            assert_eq!(
                commit.step(),
                Step::Write {
                    body: body.clone(),
                    tag: "tag1".to_owned()
                }
            );
        }
        // One of them landed late; the last send meets a moved tag.
        commit.reply(Reply::PreconditionFailed);
        commit.reply(read(&first().next("ours".to_owned(), Timestamp(1))));
        assert!(is_committed(&commit.step()));
    }

    #[test]
    fn when_more_swings_went_by_than_nonces_are_kept_nobody_can_tell() {
        let mut commit = commit();
        commit.reply(read(&first()));
        commit.reply(Reply::NoAnswer);
        let far = (0..NONCES_KEPT as i64 + 1).fold(first(), |p, n| p.next(format!("t{n}"), Timestamp(n)));
        commit.reply(read(&far));
        assert_eq!(commit.step(), Step::Done(Outcome::Unknown));
    }
}
