//! The swing of the pointer as a pure machine: what to do next, and what a reply means.
//!
//! Three outcomes: committed, lost, unknown. A write whose answer was lost may land later, so the same body is sent with
//! the same tag until the sequence has moved; then our nonce is looked for in the pointer's history (I-5). The edit is
//! applied to each new state before anything is written, so that a writer whose epoch has ended is refused there (I-4).
//!
//! Deliberately absent: I/O, the bound on the number of steps, and the waits between them; they are the driver's.

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
    /// The pointer has our edit; this is what the edit made of it. Others may have swung since: a writer that took the
    /// epoch out of their pointer would take theirs for its own (I-4).
    Committed(Box<Pointer>),
    /// The edit does not apply to what the pointer has become, and was not made.
    Lost(EditRefused),
    /// Nobody can tell any more: more swings went by than nonces are kept, or the pointer began anew. Start again from
    /// the pointer.
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
    /// Whether it was sent without being told that it was written.
    is_unsettled: bool,
}

/// One swing under way. `E` makes the next pointer out of the present one, with the nonce of this swing.
#[derive(Clone)]
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

    /// Whether a write of ours may have landed, or may land yet, that nobody has told us about: to give up now is to
    /// leave the outcome unknown.
    pub fn is_unsettled(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.is_unsettled)
    }

    /// Takes what came of the step.
    pub fn reply(&mut self, reply: Reply) {
        self.step = match (reply, self.step.clone()) {
            (Reply::Pointer { pointer, tag }, Step::Read) => self.seen(*pointer, tag),
            (Reply::Written, Step::Write { .. }) => match self.attempt.take() {
                Some(attempt) => Step::Done(Outcome::Committed(Box::new(attempt.next))),
                None => Step::Read,
            },
            // A failed precondition may be our own success too: a client below us may have sent it twice.
            (Reply::PreconditionFailed | Reply::NoAnswer, Step::Write { .. }) => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.is_unsettled = true;
                }
                Step::Read
            }
            (_, step) => step,
        };
    }

    fn seen(&mut self, pointer: Pointer, tag: String) -> Step {
        if let Some(attempt) = &self.attempt {
            if pointer.remembers(&self.nonce) {
                return Step::Done(Outcome::Committed(Box::new(attempt.next.clone())));
            }
            if tag == attempt.tag {
                // It has not moved: what was sent may still land, so only the same body may be sent.
                return Step::Write {
                    body: attempt.body.clone(),
                    tag,
                };
            }
            // A history without us proves nothing once it is full of later swings. Neither does a pointer at or before
            // the one that we followed: it is of a new life of the collection.
            let swings_after = pointer.sequence.checked_sub(attempt.next.sequence);
            if swings_after.is_none_or(|swings| swings >= NONCES_KEPT as u64) {
                return Step::Done(Outcome::Unknown);
            }
            // It moved, and our nonce is not in its history: that body can never land any more, as no tag comes back.
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
                    is_unsettled: false,
                });
                Step::Write { body, tag }
            }
        }
    }
}

#[cfg(test)]
mod explorer;
#[cfg(test)]
mod tests;
