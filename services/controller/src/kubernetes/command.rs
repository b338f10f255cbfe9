//! What people ask for: one annotation on the Collection, answered in its status under the same id.
//!
//! An annotation outlasts the controller, needs no way to it, and who may write one is a matter of RBAC. Each command
//! names what it is about, so that one which comes late, or twice, finds that it is done or not so any more.

use serde::{Deserialize, Serialize};
use verdigris_core::manifest::LineageId;
use verdigris_core::pointer::{LineageRole, Pointer};
use verdigris_core::rollout::slots::{Role, Seen, Slot, TargetId, Wish, role, slot_of};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Let the candidate answer.
    Promote,
    /// Give up the candidate, or the way back.
    Abort,
    /// Let the way back answer again.
    Rollback,
    /// Promote nothing until resumed.
    Hold,
    /// Go on.
    Resume,
    /// Say how a tenant stands.
    Show,
}

impl Verb {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Rollback => "rollback",
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Show => "show",
        }
    }
}

/// A command, as the annotation `verdigris.dev/command` has it in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Drawn anew for each.
    pub id: String,
    /// What is asked for.
    pub verb: Verb,
    /// The target that is promoted, given up, or gone back to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The collection of a prefix that is meant; `target` is a lineage of it then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Whether image and settings of the pods of a prefix are meant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pods: bool,
    /// At which generation the candidate was judged when that person looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Who asks.
    pub actor: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What is said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(String),
    Refused(String),
    Pending(String),
}

/// What is to be done for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    Approve { lineage: LineageId, generation: u64 },
    ApproveTarget { slot: Slot, target: TargetId },
    Drop { lineage: LineageId },
    GiveUpPrevious,
    Hold,
    Resume,
    GoBack(Wish),
}

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judged {
    Says(Answer),
    Asks(Deed),
}

/// The nonce of a swing that carries a command out: one that is in the history was done.
pub(crate) fn nonce(command: &Command) -> String {
    format!("command-{}", command.id)
}

/// What a command comes to, as things stand. `judged` is the generation of the newest verdict of the candidate.
pub(crate) fn judge(command: &Command, pointer: &Pointer, seen: &Seen, judged: Option<u64>) -> Judged {
    if pointer.remembers(&nonce(command)) {
        return done("it is done");
    }
    match command.verb {
        Verb::Show => refused("its status says how it stands"),
        Verb::Hold => Judged::Asks(Deed::Hold),
        Verb::Resume if pointer.promotion_hold.is_none() => refused("promotion is not held"),
        Verb::Resume => Judged::Asks(Deed::Resume),
        verb => match (slot_of(seen, &command.target), verb) {
            (None, _) => refused(format!("no slot holds target {:?}", command.target)),
            (Some(slot), Verb::Promote) => promote(command, pointer, seen, slot, judged),
            (Some(slot), Verb::Abort) => abort(command, pointer, seen, slot),
            (Some(slot), _) => roll_back(command, pointer, seen, slot),
        },
    }
}

fn promote(command: &Command, pointer: &Pointer, seen: &Seen, slot: Slot, judged: Option<u64>) -> Judged {
    if seen.widened() == Some(slot) {
        return done("it takes over, step by step");
    }
    match role(pointer, seen, slot) {
        Role::Active => return done("it answers"),
        Role::Candidate => {}
        Role::WayBack | Role::Idle => return refused(format!("slot {slot} holds no candidate")),
    }
    if let Some(hold) = pointer.publish_hold().or(pointer.promotion_hold.as_ref()) {
        return refused(format!("promotion is held by {}: {}", hold.actor, hold.reason));
    }
    let target = seen.slot(slot).target.clone();
    let Some(target) = target else {
        return refused("it is gone");
    };
    let named = pointer.other.as_ref().filter(|other| other.lineage == target.lineage);
    let Some(named) = named else {
        let target = target.id();
        return Judged::Asks(Deed::ApproveTarget { slot, target });
    };
    match (judged, command.generation) {
        (None, _) => refused(format!("lineage {} was not judged yet", named.lineage)),
        (Some(judged), Some(asked)) if judged != asked => {
            refused(format!("it was judged at generation {judged}, not {asked}"))
        }
        (Some(generation), _) => Judged::Asks(Deed::Approve {
            lineage: named.lineage.clone(),
            generation,
        }),
    }
}

fn abort(command: &Command, pointer: &Pointer, seen: &Seen, slot: Slot) -> Judged {
    if seen.widened() == Some(slot) {
        return back(command);
    }
    let target = seen.slot(slot).target.as_ref();
    let named = pointer.other.as_ref();
    let named = named.filter(|other| target.is_some_and(|target| target.lineage == other.lineage));
    let left = seen.traffic.as_ref().and_then(|traffic| traffic.returned_from.as_ref());
    let is_left = left.is_some() && left == target.map(|target| &target.template);
    match (role(pointer, seen, slot), named) {
        (Role::Active, _) => refused("it answers: roll back instead"),
        (_, Some(named)) => Judged::Asks(Deed::Drop {
            lineage: named.lineage.clone(),
        }),
        (Role::WayBack, None) => Judged::Asks(Deed::GiveUpPrevious),
        (Role::Candidate, None) if is_left => done("traffic went back, and only a person promotes it again"),
        (Role::Candidate, None) => refused("a new image or new settings are given up by taking them back in the spec"),
        (Role::Idle, None) => done("it is given up"),
    }
}

/// Traffic leaves what answers, or the step that it is at.
fn back(command: &Command) -> Judged {
    Judged::Asks(Deed::GoBack(Wish {
        actor: command.actor.clone(),
        reason: command.reason.clone(),
    }))
}

fn roll_back(command: &Command, pointer: &Pointer, seen: &Seen, slot: Slot) -> Judged {
    let is_returning = pointer.active.as_ref().zip(seen.slot(slot).target.as_ref());
    let is_returning = is_returning.is_some_and(|(active, target)| active.lineage == target.lineage);
    let named = pointer
        .other
        .as_ref()
        .is_some_and(|other| other.role == LineageRole::Candidate);
    match role(pointer, seen, slot) {
        Role::Active if !is_returning || seen.widened().is_some() => back(command),
        Role::Active => done("it answers again; nothing is promoted until resumed"),
        Role::WayBack => back(command),
        // The pointer went back, and traffic follows.
        Role::Candidate | Role::Idle if is_returning && named => {
            Judged::Says(Answer::Pending("traffic is going back".to_owned()))
        }
        Role::Candidate | Role::Idle => refused(format!("slot {slot} is no way back")),
    }
}

fn done(text: impl Into<String>) -> Judged {
    Judged::Says(Answer::Done(text.into()))
}

fn refused(text: impl Into<String>) -> Judged {
    Judged::Says(Answer::Refused(text.into()))
}
