//! Which manifests and segments hold rows of erased documents, dead or alive: found by opening segments, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use verdigris_core::document::DocumentState;
use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::{Manifest, SegmentId, SettingsReference};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::Release;
use verdigris_engine::release::hiding::rows_of;
use verdigris_engine::release::open::{OpenError, OpenRelease};
use verdigris_store::{ReadError, StoreError, collection as objects};

use crate::IndexerDeps;
use crate::error::{IndexerError, chain};
use crate::turn::blocking;

/// What is known of manifests and segments. Neither ever changes.
#[derive(Default)]
pub(crate) struct Holders {
    /// Segments that were looked into, and whether their files hold a row.
    segments: BTreeMap<SegmentId, bool>,
    /// Segments of each manifest that was read; none of one that cannot be used.
    manifests: BTreeMap<String, Option<Vec<SegmentId>>>,
    /// Settings by which the rows of these were written.
    settings: Vec<SettingsReference>,
}

/// What one segment has of them.
struct Look {
    segment: SegmentId,
    holds: bool,
    documents: Vec<Map<String, Value>>,
}

impl Holders {
    /// Looks into whatever the pointer names and was not looked into yet, and into what it named within the grace. The
    /// documents that were found, old ones of dead rows too.
    pub(crate) async fn look(
        &mut self,
        deps: &IndexerDeps,
        name: &CollectionName,
        pointer: &Pointer,
        ids: &Arc<BTreeSet<String>>,
    ) -> Result<Vec<Map<String, Value>>, IndexerError> {
        let mut documents = Vec::new();
        let named: Vec<&ManifestReference> = pointer.manifests_that_may_answer().collect();
        for reference in named {
            documents.extend(self.look_into(deps, name, reference, ids).await?);
        }
        let now = Timestamp(deps.clock.now_ns());
        let lately = pointer
            .unnamed
            .iter()
            .filter(|unnamed| now.since(unnamed.since) < GRACE_NS);
        for unnamed in lately {
            // Nobody goes back to these: what they say matters for cached vectors alone, and they may be gone.
            if let Ok(found) = self.look_into(deps, name, &unnamed.manifest, ids).await {
                documents.extend(found);
            }
        }
        Ok(documents)
    }

    async fn look_into(
        &mut self,
        deps: &IndexerDeps,
        name: &CollectionName,
        reference: &ManifestReference,
        ids: &Arc<BTreeSet<String>>,
    ) -> Result<Vec<Map<String, Value>>, IndexerError> {
        if self.manifests.contains_key(&reference.path) {
            return Ok(Vec::new());
        }
        let unusable = |holders: &mut Self, error: &dyn std::error::Error| {
            tracing::warn!(
                collection = %name, manifest = reference.path,
                "a release cannot be looked into for erased documents and is taken to hold them: {}", chain(error)
            );
            holders.manifests.insert(reference.path.clone(), None);
        };
        let manifest = match objects::manifest(&*deps.store, name, reference).await {
            Ok(manifest) => manifest,
            Err(ReadError::Store(error)) if !error.is_not_found() => return Err(error.into()),
            Err(error) => {
                unusable(self, &error);
                return Ok(Vec::new());
            }
        };
        if !self.settings.contains(&manifest.settings) {
            self.settings.push(manifest.settings.clone());
        }
        let segments = manifest.segments.iter().map(|segment| segment.id.clone()).collect();
        let unknown = |id: &SegmentId| !self.segments.contains_key(id);
        let release = match open_some(&*deps.opener, &manifest, unknown).await {
            Ok(release) => release,
            Err(error @ OpenError::Unavailable(_)) => return Err(error.into()),
            Err(error) => {
                unusable(self, &error);
                return Ok(Vec::new());
            }
        };
        let ids = ids.clone();
        let looks = blocking(move || looks(&release, &ids)).await??;
        let mut documents = Vec::new();
        for look in looks {
            self.segments.insert(look.segment, look.holds);
            documents.extend(look.documents);
        }
        self.manifests.insert(reference.path.clone(), Some(segments));
        Ok(documents)
    }

    /// The settings of all manifests that were read, and those that wait in the pointer.
    pub(crate) async fn settings(
        &self,
        deps: &IndexerDeps,
        name: &CollectionName,
        pointer: &Pointer,
    ) -> Result<Vec<Settings>, IndexerError> {
        let builds = pointer.builds.iter().map(|build| &build.settings);
        let of_pointer = [&pointer.settings]
            .into_iter()
            .chain(&pointer.other_settings)
            .chain(builds);
        let mut references = self.settings.clone();
        references.extend(of_pointer.filter(|one| !self.settings.contains(one)).cloned());
        let mut all = Vec::new();
        for reference in references {
            match objects::settings(&*deps.store, name, &reference).await {
                Ok(settings) => all.push(settings),
                Err(ReadError::Store(error @ StoreError::NoAnswer { .. })) => return Err(error.into()),
                Err(error) => tracing::warn!(
                    collection = %name, version = reference.version,
                    "settings cannot be read; vectors made by them may be left in the cache: {}", chain(&error)
                ),
            }
        }
        Ok(all)
    }

    /// Whether the files of this segment hold a row; one that was not looked into may.
    pub(crate) fn holds(&self, segment: &SegmentId) -> bool {
        *self.segments.get(segment).unwrap_or(&true)
    }

    /// Whether no segment of this manifest holds a row.
    pub(crate) fn is_clean(&self, reference: &ManifestReference) -> bool {
        let segments = self.manifests.get(&reference.path).and_then(Option::as_ref);
        segments.is_some_and(|segments| !segments.iter().any(|segment| self.holds(segment)))
    }

    /// Those of these manifests that are not clean, by path.
    pub(crate) fn holding<'a>(&self, references: impl Iterator<Item = &'a ManifestReference>) -> BTreeSet<String> {
        let holding = references.filter(|reference| !self.is_clean(reference));
        holding.map(|reference| reference.path.clone()).collect()
    }

    /// All manifests that are clean, by path.
    pub(crate) fn clean(&self) -> BTreeSet<String> {
        let is_clean = |segments: &Option<Vec<SegmentId>>| {
            let segments = segments.as_ref();
            segments.is_some_and(|segments| !segments.iter().any(|segment| self.holds(segment)))
        };
        let clean = self.manifests.iter().filter(|(_, segments)| is_clean(segments));
        clean.map(|(path, _)| path.clone()).collect()
    }
}

/// Opens some segments of a manifest, all their rows alive.
pub(crate) async fn open_some(
    opener: &dyn OpenRelease,
    manifest: &Manifest,
    wanted: impl Fn(&SegmentId) -> bool,
) -> Result<Arc<Release>, OpenError> {
    let mut some = manifest.clone();
    some.segments.retain(|segment| wanted(&segment.id));
    for segment in &mut some.segments {
        segment.dead = None;
    }
    opener.open(Arc::new(some), None).await
}

fn looks(release: &Release, ids: &BTreeSet<String>) -> Result<Vec<Look>, EngineError> {
    let mut looks = Vec::new();
    for part in release.segments() {
        let rows = rows_of(part.segment.rows(), ids.iter().map(String::as_str));
        let mut documents = Vec::new();
        for row in &rows {
            let stored = part.segment.rows().stored(row)?;
            // One that cannot be decoded has no text that was embedded by what is stored.
            if let Ok(state) = DocumentState::decode(&stored.state) {
                documents.extend(state.document());
            }
        }
        looks.push(Look {
            segment: part.segment.id().clone(),
            holds: !rows.is_empty(),
            documents,
        });
    }
    Ok(looks)
}
