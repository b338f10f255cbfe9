//! What a swing of the model is for: the real edit behind each, and the machine that carries it out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::commit::Commit;
use crate::digest::Digest;
use crate::garbage::GRACE_NS;
use crate::manifest::LineageId;
use crate::pointer::{Build, EditRefused, Flip, Hold, KeptRelease, Part, Pointer, Published};
use crate::timestamp::Timestamp;

/// What a swing is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Purpose {
    Claim {
        id: String,
    },
    Publish {
        epoch: u64,
        published: Box<Releases>,
    },
    Build {
        epoch: u64,
        build: Box<Build>,
    },
    Part {
        epoch: u64,
        lineage: LineageId,
        part: Box<BuiltPart>,
    },
    RollBack {
        epoch: u64,
        published: Box<Releases>,
        hold: Hold,
    },
    Resume {
        epoch: u64,
    },
    Forget {
        epoch: u64,
        path: String,
    },
    Own {
        id: String,
    },
    Flip {
        epoch: u64,
        flip: Flip,
    },
    Return {
        epoch: u64,
        flip: Flip,
    },
    Drop {
        epoch: u64,
        lineage: LineageId,
    },
}

/// What a publish tells the pointer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Releases {
    pub(super) release: KeptRelease,
    pub(super) other: Option<KeptRelease>,
}

/// A part of a build, and what the build comes to with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BuiltPart {
    pub(super) segment: crate::manifest::SegmentEntry,
    pub(super) rows_done: u64,
    pub(super) content: crate::digest::ContentSum,
}

impl Releases {
    fn published(&self) -> Published {
        Published {
            release: self.release.clone(),
            settings: super::store::settings(),
            grace_ns: GRACE_NS,
            other: self.other.clone(),
        }
    }
}

thread_local! {
    static NOW: Cell<Timestamp> = const { Cell::new(Timestamp(0)) };
    static EDITS: RefCell<BTreeMap<Digest, Edit>> = const { RefCell::new(BTreeMap::new()) };
}

/// The time by which the next edit is made.
pub(super) fn set_now(now: Timestamp) {
    NOW.set(now);
}

impl Purpose {
    /// The turn of an indexer that it must be at the moment of the swing (I-4).
    pub(super) fn turn(&self) -> Option<u64> {
        match self {
            Self::Publish { epoch, .. }
            | Self::Build { epoch, .. }
            | Self::Part { epoch, .. }
            | Self::RollBack { epoch, .. }
            | Self::Resume { epoch }
            | Self::Forget { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    /// The same for an owner.
    pub(super) fn ownership(&self) -> Option<u64> {
        match self {
            Self::Flip { epoch, .. } | Self::Return { epoch, .. } | Self::Drop { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    pub(super) fn is_of_owner(&self) -> bool {
        self.ownership().is_some() || matches!(self, Self::Own { .. })
    }

    fn edit(&self, pointer: &Pointer, nonce: &str) -> Result<Pointer, EditRefused> {
        let (nonce, now) = (nonce.to_owned(), NOW.get());
        match self {
            Self::Claim { id } => pointer.claim(id, nonce, now),
            Self::Publish { epoch, published } => pointer.publish(*epoch, &published.published(), nonce, now),
            Self::Build { epoch, build } => pointer.begin_build(*epoch, (**build).clone(), nonce, now),
            Self::Part { epoch, lineage, part } => {
                let part = Part {
                    segment: part.segment.clone(),
                    rows_done: part.rows_done,
                    content: part.content,
                    documents: part.rows_done,
                };
                pointer.add_part(*epoch, lineage, part, nonce, now)
            }
            Self::RollBack { epoch, published, hold } => {
                pointer.roll_back(*epoch, &published.published(), hold.clone(), nonce, now)
            }
            Self::Resume { epoch } => pointer.resume(*epoch, None, nonce, now),
            Self::Forget { epoch, path } => pointer.drop_kept(*epoch, &[path.clone()].into(), nonce, now),
            Self::Own { id } => pointer.claim_rollouts(id, false, nonce, now),
            Self::Flip { epoch, flip } => pointer.flip(*epoch, flip, nonce, now),
            Self::Return { epoch, flip } => pointer.return_to_way_back(*epoch, flip, nonce, now),
            Self::Drop { epoch, lineage } => pointer.drop_other(*epoch, lineage, nonce, now),
        }
    }
}

type Edit = &'static dyn Fn(&Pointer) -> Result<Pointer, EditRefused>;

/// A swing under way. Worlds are copied more often than swings move on.
#[derive(Clone)]
pub(super) struct Swing {
    pub(super) nonce: String,
    pub(super) purpose: Arc<Purpose>,
    pub(super) commit: Rc<Commit<Edit>>,
    /// Of purpose and nonce.
    pub(super) digest: Digest,
    /// What was sent last, and which pointer it follows.
    pub(super) sent: Option<(Digest, u64)>,
}

impl Swing {
    pub(super) fn new(purpose: Purpose, nonce: &str) -> Self {
        let digest = Digest::of(format!("{nonce} {purpose:?}").as_bytes());
        let purpose = Arc::new(purpose);
        // Worlds share the edit of a purpose, so that their machines can be copied: it is made once, and kept.
        let edit = EDITS.with_borrow_mut(|edits| {
            let (purpose, nonce) = (purpose.clone(), nonce.to_owned());
            *edits
                .entry(digest)
                .or_insert_with(|| Box::leak(Box::new(move |pointer: &Pointer| purpose.edit(pointer, &nonce))))
        });
        Self {
            commit: Rc::new(Commit::new(nonce.to_owned(), edit)),
            nonce: nonce.to_owned(),
            purpose,
            digest,
            sent: None,
        }
    }
}
