//! What a collection answers from: the active lineage and the other one, in one handle that is swapped as a whole.
//!
//! A request takes the handle once and keeps what it got, so that a flip is one swap between two requests (I-6, I-7).
//! Nothing here waits or opens anything; `follow` and `open` do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use verdigris_core::manifest::LineageId;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{LineagePointer, LineageRole, ManifestReference};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::QueryCache;
use verdigris_engine::release::Release;
use verdigris_proto::reason::Reason;
use verdigris_proto::search::Lineage;
use verdigris_store::Tag;

use crate::Standstill;
use crate::forgetting::Forgetting;
use crate::hiding::Hidden;
use crate::usage::Usage;
use crate::window::Window;

/// Releases that stay open for page tokens after a swap, and for how long.
const PAGED_RELEASES_MAX: usize = 32;
const PAGED_FOR: Duration = Duration::from_secs(60);

/// A release that answers, and what answering needs beside it.
pub(crate) struct Served {
    pub(crate) release: Arc<Release>,
    pub(crate) settings: Arc<Settings>,
    /// Embeds queries by the model that embedded this release's documents (I-17); none where vectors come with them.
    pub(crate) embedder: Option<Arc<QueryCache>>,
    /// How the pointer named it.
    pub(crate) reference: ManifestReference,
    /// From the first look at its lineage until that was warm.
    pub(crate) ready: Duration,
    /// By which list erased documents are hidden in it.
    pub(crate) hidden: Option<ManifestReference>,
}

/// What went wrong with a release, for a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Whether a file is damaged, or was embedded by another model.
    pub(crate) reason: Reason,
    /// What happened.
    pub(crate) message: String,
}

/// Why a lineage does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotServed {
    /// Nothing was published yet.
    Empty,
    /// The collection was deleted, or is not there.
    Gone,
    /// There is one lineage, and the other one was asked for.
    NoOther,
    /// The release is being opened, and there is none before it.
    Opening(LineageId),
    /// Its newest release cannot be opened, and there is none before it.
    Broken(Problem),
}

/// The other lineage: the candidate, or the way back.
#[derive(Clone)]
pub(crate) struct Other {
    /// What the pointer names.
    pub(crate) named: LineagePointer,
    /// What is open of it; older than what is named while that is being opened.
    pub(crate) served: Option<Arc<Served>>,
    /// Why what is named could not be opened.
    pub(crate) problem: Option<Problem>,
}

/// Both lineages at one moment.
#[derive(Clone)]
pub(crate) struct Lineages {
    active: Result<Arc<Served>, NotServed>,
    /// What the pointer names as active, which may be newer than what answers.
    named: Option<LineagePointer>,
    /// Why that could not be opened.
    problem: Option<Problem>,
    other: Option<Other>,
    window: Option<Arc<Window>>,
    window_before: Option<Arc<Window>>,
}

/// A collection that is followed.
pub(crate) struct Followed {
    pub(crate) name: CollectionName,
    pub(crate) usage: Usage,
    lineages: ArcSwap<Lineages>,
    /// Held by whoever makes the next handle of the one before.
    making: Mutex<()>,
    pub(crate) seen: Mutex<Option<Tag>>,
    swaps: watch::Sender<u64>,
    /// What the pointer names as the other lineage: whoever opens it waits for a change here.
    other_named: watch::Sender<Option<LineagePointer>>,
    paged: Mutex<VecDeque<(Instant, Arc<Served>)>>,
    /// Erased documents, which nothing that is open shows.
    hidden: Mutex<Hidden>,
    /// When the pointer was last asked for and read without an error.
    read_at: Mutex<Instant>,
    /// Why publishing stands still, as far as the pointer tells.
    standstill: Mutex<Option<Standstill>>,
    /// Queries about erased documents that are still in the sample.
    pub(crate) forgetting: Forgetting,
}

/// What a swap changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Swapped {
    /// Another release answers.
    pub(crate) is_new: bool,
    /// Another lineage answers.
    pub(crate) is_flip: bool,
}

/// How far a lineage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineageState {
    Opening,
    Warm,
    Broken,
}

/// A lineage as an owner of rollouts wants to know it.
pub(crate) struct LineageView<'a> {
    pub(crate) named: &'a LineagePointer,
    pub(crate) served: Option<&'a Arc<Served>>,
    pub(crate) problem: Option<&'a Problem>,
    pub(crate) state: LineageState,
}

// === impl Served ===

impl Served {
    /// Whether it is the release that the pointer names; one object may be named in different roles.
    pub(crate) fn is(&self, named: &LineagePointer) -> bool {
        self.reference == named.manifest
    }

    pub(crate) fn lineage(&self) -> &LineageId {
        &self.release.manifest().lineage
    }
}

// === impl Lineages ===

impl Lineages {
    fn none(why: NotServed) -> Self {
        Self {
            active: Err(why),
            named: None,
            problem: None,
            other: None,
            window: None,
            window_before: None,
        }
    }

    /// What answers a request for this lineage.
    pub(crate) fn served(&self, lineage: Lineage) -> Result<Arc<Served>, NotServed> {
        if lineage != Lineage::Other {
            return self.active.clone();
        }
        let Some(other) = &self.other else {
            // Where nothing answers at all, that is what there is to say.
            return Err(self.active.as_ref().err().cloned().unwrap_or(NotServed::NoOther));
        };
        match (&other.served, &other.problem) {
            (Some(served), _) => Ok(served.clone()),
            (None, Some(problem)) => Err(NotServed::Broken(problem.clone())),
            (None, None) => Err(NotServed::Opening(other.named.lineage.clone())),
        }
    }

    /// The active lineage and the other one, as far as they are named.
    pub(crate) fn views(&self) -> Vec<LineageView<'_>> {
        let active = self.named.as_ref().map(|named| {
            let served = self.active.as_ref().ok();
            LineageView::new(named, served, self.problem.as_ref())
        });
        let other = self.other.as_ref();
        let other = other.map(|other| LineageView::new(&other.named, other.served.as_ref(), other.problem.as_ref()));
        active.into_iter().chain(other).collect()
    }

    /// The lineage that answers.
    pub(crate) fn answering(&self) -> Option<&LineageId> {
        self.window.as_ref().map(|window| window.lineage())
    }

    /// Bytes of the files of what is open.
    pub(crate) fn bytes(&self) -> u64 {
        self.open().map(|served| served.release.manifest().bytes()).sum()
    }

    /// What is open of a lineage.
    pub(crate) fn open_of(&self, lineage: &LineageId) -> Option<&Arc<Served>> {
        self.open().find(|served| served.lineage() == lineage)
    }

    /// How the active lineage answers, and how the one before it did.
    pub(crate) fn windows(&self) -> (Option<&Arc<Window>>, Option<&Arc<Window>>) {
        (self.window.as_ref(), self.window_before.as_ref())
    }

    /// The other lineage as it is named now: what is open already of it goes on answering.
    fn as_other(&self, named: LineagePointer) -> Other {
        let of_lineage = || self.open_of(&named.lineage).cloned();
        let served = self
            .open()
            .find(|served| served.is(&named))
            .cloned()
            .or_else(of_lineage);
        // What could not be opened is tried again by whoever follows the other lineage.
        let still = self
            .other
            .as_ref()
            .filter(|other| other.named.manifest == named.manifest);
        let problem = still.and_then(|other| other.problem.clone());
        Other { named, served, problem }
    }

    fn broken(&self, problem: &Problem) -> Self {
        let mut next = self.clone();
        if next.active.is_err() {
            next.active = Err(NotServed::Broken(problem.clone()));
        }
        next.problem = Some(problem.clone());
        next
    }

    fn hide(&mut self, hidden: &Hidden) {
        let other = self.other.as_mut().and_then(|other| other.served.as_mut());
        for served in self.active.as_mut().ok().into_iter().chain(other) {
            *served = hidden.of(served);
        }
    }

    fn open(&self) -> impl Iterator<Item = &Arc<Served>> {
        let other = self.other.as_ref().and_then(|other| other.served.as_ref());
        self.active.as_ref().ok().into_iter().chain(other)
    }
}

impl<'a> LineageView<'a> {
    fn new(named: &'a LineagePointer, served: Option<&'a Arc<Served>>, problem: Option<&'a Problem>) -> Self {
        let is_there = served.is_some_and(|served| served.is(named));
        let state = match problem {
            _ if is_there => LineageState::Warm,
            Some(_) => LineageState::Broken,
            None => LineageState::Opening,
        };
        Self {
            named,
            served,
            problem: problem.filter(|_| !is_there),
            state,
        }
    }

    /// What it is for, in a word.
    pub(crate) fn role(&self) -> &'static str {
        match self.named.role {
            LineageRole::Active => "active",
            LineageRole::Candidate => "candidate",
            LineageRole::WayBack => "way_back",
        }
    }
}

// === impl Followed ===

impl Followed {
    pub(crate) fn new(name: CollectionName) -> Self {
        Self {
            name,
            usage: Usage::default(),
            lineages: ArcSwap::from_pointee(Lineages::none(NotServed::Gone)),
            making: Mutex::new(()),
            seen: Mutex::new(None),
            swaps: watch::channel(0).0,
            other_named: watch::channel(None).0,
            paged: Mutex::default(),
            hidden: Mutex::default(),
            read_at: Mutex::new(Instant::now()),
            standstill: Mutex::default(),
            forgetting: Forgetting::default(),
        }
    }

    pub(crate) fn pointer_was_read(&self, asked: Instant) {
        *self.read_at.lock().expect("held for a moment only") = asked;
    }

    /// The pointer says so of publishing.
    pub(crate) fn publishing(&self, standstill: Option<Standstill>) {
        *self.standstill.lock().expect("held for a moment only") = standstill;
    }

    /// Why publishing stands still, by a pointer that was asked for after `since`: what stood still before may go on.
    pub(crate) fn standstill(&self, since: Instant) -> Option<Standstill> {
        if *self.read_at.lock().expect("held for a moment only") < since {
            return None;
        }
        self.standstill.lock().expect("held for a moment only").clone()
    }

    /// Since when nobody knows whether something newer was published.
    pub(crate) fn stale(&self) -> Duration {
        self.read_at.lock().expect("held for a moment only").elapsed()
    }

    /// Both lineages as they are now. A request takes them once.
    pub(crate) fn lineages(&self) -> Arc<Lineages> {
        self.lineages.load_full()
    }

    /// The release of a page token, if it is still open. A generation is one release in each lineage.
    pub(crate) fn paged(&self, generation: u64, lineage: &str) -> Option<Arc<Served>> {
        let is_meant = |served: &&Arc<Served>| {
            let manifest = served.release.manifest();
            manifest.generation == generation && manifest.lineage.as_str() == lineage
        };
        let open = self.lineages();
        let current = open.open().find(is_meant).cloned();
        current.or_else(|| {
            let paged = self.paged.lock().expect("held for a moment only");
            paged.iter().map(|(_, served)| served).find(is_meant).cloned()
        })
    }

    /// Told at each swap.
    pub(crate) fn swaps(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }

    /// Told when the pointer names another release as the other lineage's.
    pub(crate) fn other_named(&self) -> watch::Receiver<Option<LineagePointer>> {
        self.other_named.subscribe()
    }

    /// The pointer names these; `active` is open. What else is open already of either goes on answering. A flip is this
    /// one swap.
    pub(crate) fn swap(
        &self,
        active: &Arc<Served>,
        named: &LineagePointer,
        other: Option<LineagePointer>,
        now: Timestamp,
    ) -> Swapped {
        let mut swapped = Swapped::default();
        self.make(|before| {
            let window = match &before.window {
                Some(window) if window.lineage() == active.lineage() => window.clone(),
                _ => Arc::new(Window::new(active.lineage().clone(), now)),
            };
            let is_flip = before
                .window
                .as_ref()
                .is_some_and(|before| !Arc::ptr_eq(before, &window));
            swapped = Swapped {
                is_flip,
                is_new: before
                    .active
                    .as_ref()
                    .map_or(true, |before| !Arc::ptr_eq(before, active)),
            };
            let other = other.clone().map(|named| before.as_other(named));
            Lineages {
                active: Ok(active.clone()),
                named: Some(named.clone()),
                problem: None,
                other,
                window_before: if is_flip {
                    before.window.clone()
                } else {
                    before.window_before.clone()
                },
                window: Some(window),
            }
        });
        self.tell_other(other);
        self.swaps.send_replace(active.release.manifest().generation);
        swapped
    }

    /// A release of the other lineage is open and warm, if that is still the other one.
    pub(crate) fn put_other(&self, opened: &Arc<Served>) {
        self.change_other(opened.lineage(), |other| {
            other.served = Some(opened.clone());
            other.problem = None;
        });
        self.swaps.send_modify(|_| {});
    }

    /// The named release of the other lineage cannot be opened. The active one has no part in it.
    pub(crate) fn other_broken(&self, named: &LineagePointer, problem: Problem) {
        self.change_other(&named.lineage, |other| {
            if other.named.manifest == named.manifest {
                other.problem = Some(problem.clone());
            }
        });
    }

    fn change_other(&self, lineage: &LineageId, change: impl Fn(&mut Other)) {
        self.make(|before| {
            let mut next = before.clone();
            let other = next.other.as_mut().filter(|other| other.named.lineage == *lineage);
            other.into_iter().for_each(&change);
            next
        });
    }

    /// The named release of the active lineage cannot be opened: what is open goes on answering, and the other lineage
    /// is followed all the same, since it may be what is gone back to. True where nothing answers.
    pub(crate) fn active_broken(
        &self,
        active: Option<LineagePointer>,
        other: Option<LineagePointer>,
        problem: &Problem,
    ) -> bool {
        self.make(|before| Lineages {
            named: active.clone(),
            other: other.clone().map(|named| before.as_other(named)),
            ..before.broken(problem)
        });
        self.tell_other(other);
        self.lineages().active.is_err()
    }

    /// The pointer itself is damaged. True where nothing answers.
    pub(crate) fn pointer_broken(&self, problem: &Problem) -> bool {
        self.make(|before| before.broken(problem));
        self.lineages().active.is_err()
    }

    fn tell_other(&self, other: Option<LineagePointer>) {
        self.other_named.send_if_modified(|named| {
            let is_changed = *named != other;
            *named = other;
            is_changed
        });
    }

    /// Nothing answers any more.
    pub(crate) fn stop(&self, why: NotServed) {
        self.make(|_| Lineages::none(why.clone()));
        self.paged.lock().expect("held for a moment only").clear();
        self.other_named.send_replace(None);
        self.swaps.send_modify(|_| {});
    }

    /// What is hidden now.
    pub(crate) fn hidden(&self) -> Hidden {
        self.hidden.lock().expect("held for a moment only").clone()
    }

    /// Hides erased documents in all that is open: one swap, as any other.
    pub(crate) fn hide(&self, hidden: Hidden) {
        *self.hidden.lock().expect("held for a moment only") = hidden;
        self.make(Lineages::clone);
        self.swaps.send_modify(|_| {});
    }

    /// Makes the next handle. What it does not hold any more stays open for page tokens.
    fn make(&self, mut next: impl FnMut(&Lineages) -> Lineages) {
        let made = self.making.lock().expect("held for a moment only");
        let before = self.lineages();
        let hidden = self.hidden();
        let mut after = next(&before);
        // Whatever was opened before the erase, or while it was made.
        after.hide(&hidden);
        let after = Arc::new(after);
        self.lineages.store(after.clone());
        drop(made);
        let now = Instant::now();
        let stays = |served: &&Arc<Served>| !after.open().any(|open| Arc::ptr_eq(&open.release, &served.release));
        let mut paged = self.paged.lock().expect("held for a moment only");
        paged.extend(before.open().filter(stays).map(|served| (now, served.clone())));
        for (_, served) in paged.iter_mut() {
            *served = hidden.of(served);
        }
        while paged
            .front()
            .is_some_and(|(at, _)| paged.len() > PAGED_RELEASES_MAX || now - *at > PAGED_FOR)
        {
            paged.pop_front();
        }
    }

    /// Releases kept for page tokens go after a while, also when nothing is published.
    pub(crate) fn forget_paged(&self) {
        let now = Instant::now();
        self.paged
            .lock()
            .expect("held for a moment only")
            .retain(|(at, _)| now - *at <= PAGED_FOR);
    }

    /// Releases kept for page tokens go at once; false where there is none.
    pub(crate) fn give_up_paged(&self) -> bool {
        let paged = std::mem::take(&mut *self.paged.lock().expect("held for a moment only"));
        !paged.is_empty()
    }
}
