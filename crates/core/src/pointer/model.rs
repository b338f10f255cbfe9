//! Every order in which two indexers, an owner of rollouts, a collection of garbage and a store with faults can act on a
//! pointer, tried once.
//!
//! Goal: I-2 to I-5 and I-10 hold in each state that they can reach. Method: a world of real [`Commit`] machines around
//! a modelled store, with the real edits and the real decisions about garbage; states are searched breadth first and
//! found again by their digest, so that the first order that breaks something is also the shortest. One that sleeps is
//! one that is not chosen for long; one that was killed is one that is never chosen again, or begins anew under another
//! name. What must hold is judged by the store, which sees each swing and each removal and nothing else.
//!
//! Deliberately absent: staged releases, holds on promotion and gates (`rollout::model` has them), reads that fail
//! (nothing happens then), and retention, which needs more releases than can be explored.

mod actors;
mod collector;
mod explored;
mod purpose;
mod store;

use std::sync::Arc;

use self::actors::{Indexer, Owner, Work};
use self::purpose::Swing;
use self::store::{Disk, Landing};
use crate::commit::{Outcome, Reply, Step};
use crate::digest::Digest;
use crate::garbage::{GRACE_NS, may_collect};

/// Holds, or says which invariant does not.
type Verdict<T> = Result<T, String>;

fn hold(is_so: bool, otherwise: impl FnOnce() -> String) -> Verdict<()> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

/// How time passes: at once beyond the grace.
const TICK_NS: i64 = GRACE_NS + 1_000_000_000;

/// How many of each are left, whoever does them.
#[derive(Debug, Clone, Copy, Default)]
struct Budget {
    /// Claims of indexers, the first ones included.
    claims: u32,
    publishes: u32,
    /// Publishes that carry the other lineage.
    follows: u32,
    builds: u32,
    rollbacks: u32,
    /// Kept releases that are let go.
    forgotten: u32,
    collections: u32,
    /// Flips and returns.
    flips: u32,
    /// Candidates, builds and ways back that are given up.
    drops: u32,
    crashes: u32,
    /// Writes whose answer is lost, made or still under way.
    faults: u32,
    ticks: u32,
}

/// What an idle actor may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Claim,
    Publish,
    Follow,
    Build,
    Part,
    RollBack,
    Resume,
    Forget,
    Flip,
    Drop,
}

/// What the store does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It is done, and nobody is told.
    AnswerLost,
    /// It is under way, and may be done at any later time, or never.
    UnderWay,
}

/// An indexer by its number, or the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Indexer(usize),
    Owner,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Begins(Who, Wish),
    /// The next objects of what is to be published are written.
    Writes(usize),
    /// The next step of a swing; a write meets this fate.
    Swings(Who, Fate),
    /// A write that was under way arrives.
    Arrives(usize),
    BeginsToCollect(usize),
    Collects(usize),
    Crashes(Who),
    Ticks,
}

#[derive(Clone)]
struct World {
    disk: Disk,
    indexers: Vec<Indexer>,
    owner: Option<Owner>,
    budget: Budget,
    /// Swings that may be made yet by a write that nobody waits for.
    under_way: Vec<Landing>,
}

impl World {
    fn new(indexers: &[&'static str], has_owner: bool, budget: Budget) -> Self {
        Self {
            disk: Disk::with_two_releases(),
            indexers: indexers.iter().map(|name| Indexer::new(name)).collect(),
            owner: has_owner.then(Owner::default),
            budget,
            under_way: Vec::new(),
        }
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<Choice> = (0..self.under_way.len()).map(Choice::Arrives).collect();
        for (n, indexer) in self.indexers.iter().enumerate() {
            let who = Who::Indexer(n);
            match &indexer.work {
                Work::Over => continue,
                Work::Idle => {
                    let wishes = indexer.wishes(&self.disk.pointer, &self.budget);
                    choices.extend(wishes.into_iter().map(|wish| Choice::Begins(who, wish)));
                }
                Work::Writing(_) => choices.push(Choice::Writes(n)),
                Work::Swinging(swing) => choices.extend(self.fates(swing).map(|fate| Choice::Swings(who, fate))),
            }
            if indexer.collecting.is_some() {
                choices.push(Choice::Collects(n));
            } else if self.budget.collections > 0 && may_collect(&self.disk.pointer, &indexer.id()) {
                choices.push(Choice::BeginsToCollect(n));
            }
            if self.budget.crashes > 0 && indexer.is_busy() {
                choices.push(Choice::Crashes(who));
            }
        }
        if let Some(owner) = &self.owner {
            match &owner.swing {
                Some(swing) => choices.extend(self.fates(swing).map(|fate| Choice::Swings(Who::Owner, fate))),
                None => {
                    let wishes = owner.wishes(&self.disk.pointer, &self.budget);
                    choices.extend(wishes.into_iter().map(|wish| Choice::Begins(Who::Owner, wish)));
                }
            }
            if self.budget.crashes > 0 && owner.swing.is_some() {
                choices.push(Choice::Crashes(Who::Owner));
            }
        }
        if self.budget.ticks > 0 {
            choices.push(Choice::Ticks);
        }
        choices
    }

    fn fates(&self, swing: &Swing) -> impl Iterator<Item = Fate> + use<> {
        let may_fail = self.budget.faults > 0 && matches!(swing.commit.step(), Step::Write { .. });
        let others = [Fate::AnswerLost, Fate::UnderWay].into_iter().filter(move |_| may_fail);
        [Fate::Answered].into_iter().chain(others)
    }

    fn take(&mut self, choice: Choice) -> Verdict<()> {
        match choice {
            Choice::Begins(who, wish) => self.begins(who, wish),
            Choice::Writes(n) => self.writes(n),
            Choice::Swings(who, fate) => return self.swings(who, fate),
            Choice::Arrives(n) => {
                let landing = self.under_way.remove(n);
                return self.lands(&landing).map(|_| ());
            }
            Choice::BeginsToCollect(n) => self.begins_to_collect(n),
            Choice::Collects(n) => return self.collects(n),
            Choice::Crashes(who) => {
                self.budget.crashes -= 1;
                match who {
                    Who::Indexer(n) => self.indexers[n].begin_anew(),
                    Who::Owner => self.owner.as_mut().expect("chosen").begin_anew(),
                }
            }
            Choice::Ticks => {
                self.budget.ticks -= 1;
                self.disk.now.0 += TICK_NS;
            }
        }
        Ok(())
    }

    fn begins(&mut self, who: Who, wish: Wish) {
        let budget = &mut self.budget;
        let spent = match wish {
            Wish::Claim if who == Who::Owner => None,
            Wish::Claim => Some(&mut budget.claims),
            Wish::Publish => Some(&mut budget.publishes),
            Wish::Follow => Some(&mut budget.follows),
            Wish::Build => Some(&mut budget.builds),
            Wish::RollBack => Some(&mut budget.rollbacks),
            Wish::Forget => Some(&mut budget.forgotten),
            Wish::Flip => Some(&mut budget.flips),
            Wish::Drop => Some(&mut budget.drops),
            Wish::Part | Wish::Resume => None,
        };
        if let Some(left) = spent {
            *left -= 1;
        }
        match who {
            Who::Indexer(n) => {
                let is_seen = self.budget.collections > 0 || self.indexers.iter().any(|i| i.collecting.is_some());
                self.indexers[n].begin(wish, &self.disk, is_seen);
            }
            Who::Owner => self.owner.as_mut().expect("chosen").begin(wish, &self.disk),
        }
    }

    fn writes(&mut self, n: usize) {
        let Work::Writing(draft) = &mut self.indexers[n].work else {
            unreachable!("only one that writes is chosen");
        };
        let draft = Arc::make_mut(draft);
        for (key, body) in draft.groups.remove(0) {
            self.disk.create(key, body);
        }
        if draft.groups.is_empty() {
            let swing = Swing::new(draft.purpose.clone(), &draft.nonce);
            self.indexers[n].work = Work::Swinging(swing);
        }
    }

    fn swing_of(&mut self, who: Who) -> &mut Swing {
        let swing = match who {
            Who::Indexer(n) => match &mut self.indexers[n].work {
                Work::Swinging(swing) => Some(swing),
                _ => None,
            },
            Who::Owner => self.owner.as_mut().and_then(|owner| owner.swing.as_mut()),
        };
        swing.expect("only one that swings is chosen")
    }

    fn swings(&mut self, who: Who, fate: Fate) -> Verdict<()> {
        purpose::set_now(self.disk.now);
        let by = match who {
            Who::Indexer(n) => self.indexers[n].id(),
            Who::Owner => self.owner.as_ref().expect("chosen").id(),
        };
        let reply = match self.swing_of(who).commit.step() {
            Step::Done(_) => unreachable!("a swing that is over was taken away"),
            Step::Read => Reply::Pointer {
                pointer: Box::new((*self.disk.pointer).clone()),
                tag: self.disk.tag.to_string(),
            },
            Step::Write { body, tag } => {
                let swing = self.swing_of(who);
                let landing = Landing {
                    by,
                    nonce: swing.nonce.clone(),
                    purpose: swing.purpose.clone(),
                    body: body.into(),
                    tag: tag.parse().expect("a number"),
                };
                self.write(landing, fate)?
            }
        };
        let swing = self.swing_of(who);
        std::rc::Rc::make_mut(&mut swing.commit).reply(reply);
        match swing.commit.step() {
            Step::Done(outcome) => {
                let nonce = swing.nonce.clone();
                self.told(who, &nonce, &outcome)
            }
            Step::Write { body, tag } => {
                swing.sent = Some((Digest::of(&body), tag.parse().expect("a number")));
                Ok(())
            }
            Step::Read => Ok(()),
        }
    }

    fn write(&mut self, landing: Landing, fate: Fate) -> Verdict<Reply> {
        if fate != Fate::Answered {
            self.budget.faults -= 1;
        }
        Ok(match fate {
            Fate::Answered if self.lands(&landing)? => Reply::Written,
            Fate::Answered => Reply::PreconditionFailed,
            Fate::AnswerLost => {
                self.lands(&landing)?;
                Reply::NoAnswer
            }
            Fate::UnderWay => {
                // What follows another pointer can never be made.
                if landing.tag == self.disk.tag {
                    self.under_way.push(landing);
                }
                Reply::NoAnswer
            }
        })
    }

    fn lands(&mut self, landing: &Landing) -> Verdict<bool> {
        let is_made = self.disk.compare_and_swap(landing)?;
        let tag = self.disk.tag;
        self.under_way.retain(|landing| landing.tag == tag);
        Ok(is_made)
    }

    /// I-5: what is told is what happened.
    fn told(&mut self, who: Who, nonce: &str, outcome: &Outcome) -> Verdict<()> {
        let is_made = self.disk.made.contains(nonce);
        match outcome {
            Outcome::Committed(pointer) => {
                hold(is_made && pointer.nonce == nonce, || {
                    format!("I-5: {nonce} is told as committed and was not made")
                })?;
            }
            Outcome::Lost(_) => {
                hold(!is_made, || format!("I-5: {nonce} is told as lost and was made"))?;
                self.disk.lost.insert(nonce.to_owned());
            }
            Outcome::Unknown => return Err(format!("{nonce}: nobody can tell after so few swings")),
        }
        match who {
            Who::Indexer(n) => self.indexers[n].go_on(outcome),
            Who::Owner => self.owner.as_mut().expect("it swung").go_on(outcome),
        }
        Ok(())
    }
}
