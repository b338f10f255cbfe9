//! Asking for a rebuild: by word or because the base is due; what it will take, and how far it has come.

use std::time::Instant;

use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use verdigris_core::digest::ContentSum;
use verdigris_core::index_type::IndexType;
use verdigris_core::manifest::{LineageId, SettingsReference};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{Build, EditRefused, LineageRole, ManifestReference};
use verdigris_core::settings::Settings;
use verdigris_core::text::embedded_text;
use verdigris_core::timestamp::Timestamp;
use verdigris_embed::TextKind;
use verdigris_proto::admin::*;
use verdigris_proto::reason::Reason;
use verdigris_store::{CommitError, collection as objects, commit};

use crate::admin::{AdminRpc, given};
use crate::beside::embedder_of;
use crate::error::{IndexerError, chain, reason_of_store};
use crate::ingest::{name_of, settings_of};
use crate::shown::parsed_settings;
use crate::turn::Turn;
use crate::{Command, fresh_name};

/// Texts whose embedding is timed to say how long all will take.
const SAMPLE: usize = 64;
/// Seconds that a row takes to be read, written and put into a graph on one thread: measured, and no more than a guess
/// on another machine.
const ROW_SECONDS_GRAPH: f64 = 0.000_8;
/// The same without a graph.
const ROW_SECONDS: f64 = 0.000_1;
/// Who asks for a rebuild that nobody asked for.
const BY_ITSELF: &str = "indexer";

/// A wish for a rebuild.
pub(crate) struct Wish {
    /// What its rows are written by; the settings in force without it.
    pub(crate) settings: Option<SettingsReference>,
    /// Who asks.
    pub(crate) actor: String,
    /// Why.
    pub(crate) words: String,
    /// Told when it has begun.
    pub(crate) done: oneshot::Sender<Result<Begun, IndexerError>>,
}

/// A rebuild that has begun.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Begun {
    pub(crate) lineage: String,
    pub(crate) rows: u64,
    pub(crate) embeds: bool,
    pub(crate) seconds: f64,
}

impl Turn<'_> {
    /// Names a build; its parts are written beside publishing.
    pub(crate) async fn begin_rebuild(&mut self, wish: &Wish) -> Result<Begun, IndexerError> {
        if let Some(why) = self.standing() {
            return Err(IndexerError::StandsStill(why));
        }
        let reference = wish.settings.clone().unwrap_or_else(|| self.wanted_settings.clone());
        let settings = objects::settings(&*self.deps.store, self.name, &reference).await?;
        self.settings.check_rebuildable(&settings)?;
        // A model that cannot be had is told now.
        self.deps.embedders.identity(&settings.embedder)?;
        let seconds = self.seconds_for(&settings).await?;
        let lineage = LineageId::from(fresh_name(&self.deps.clock));
        let source = self.head.manifest().clone();
        let live =
            |segment: &verdigris_core::manifest::SegmentEntry| u64::from(segment.live) + u64::from(segment.live_ghosts);
        let rows = source.segments.iter().map(live).sum();
        let (nonce, now, epoch) = (commit::nonce(), Timestamp(self.deps.clock.now_ns()), self.epoch);
        let build = |manifest: ManifestReference| Build {
            lineage: lineage.clone(),
            settings: reference.clone(),
            source: manifest,
            source_generation: source.generation,
            parts: Vec::new(),
            rows_done: 0,
            rows,
            content: ContentSum::default(),
            documents: 0,
            actor: wish.actor.clone(),
            reason: wish.words.clone(),
            since: now,
        };
        let pointer = commit::swing(&*self.deps.store, self.name, nonce.clone(), |pointer| {
            let active = pointer.active.as_ref().ok_or(EditRefused::NothingToBuildFrom)?;
            pointer.begin_build(epoch, build(active.manifest.clone()), nonce.clone(), now)
        })
        .await?;
        // One of a build that its owner gave up may still be under way.
        self.beside.stop_part().await;
        self.beside.build = pointer.builds.into_iter().next();
        self.beside.due_now();
        self.handle.building.begin(0, rows);
        tracing::info!(
            collection = %self.name, %lineage, rows, actor = wish.actor, reason = wish.words, seconds,
            "a rebuild begins"
        );
        Ok(Begun {
            lineage: lineage.to_string(),
            rows,
            embeds: !self.settings.same_vectors(&settings),
            seconds,
        })
    }

    /// Begins a rebuild where the base is due and there is a place for one.
    pub(crate) async fn begin_due_rebuild(&mut self) -> Result<(), IndexerError> {
        let is_free = self.beside.other.is_none() && self.beside.build.is_none();
        let Some(words) = self.beside.take_due() else {
            return Ok(());
        };
        if !is_free || !self.settings.rebuild.automatic {
            return Ok(());
        }
        let wish = Wish {
            settings: None,
            actor: BY_ITSELF.to_owned(),
            words,
            done: oneshot::channel().0,
        };
        match self.begin_rebuild(&wish).await {
            Err(IndexerError::Commit(CommitError::Refused(EditRefused::OtherTaken(_)))) | Ok(_) => Ok(()),
            Err(error @ (IndexerError::Commit(_) | IndexerError::Store(_))) => Err(error),
            Err(error) => {
                self.build_failed(&error);
                Ok(())
            }
        }
    }

    /// About how long writing all rows by these settings takes on one thread.
    async fn seconds_for(&self, settings: &Settings) -> Result<f64, IndexerError> {
        let documents = self.head.manifest().documents;
        let per_row = match settings.ann.index_type {
            IndexType::Hnsw(_) => ROW_SECONDS_GRAPH,
            _ => ROW_SECONDS,
        };
        let rows = documents as f64 * per_row;
        if self.settings.same_vectors(settings) || documents == 0 {
            return Ok(rows);
        }
        let Some(embedder) = embedder_of(self.deps, settings).await? else {
            return Ok(rows);
        };
        let texts = self.sampled_texts(settings)?;
        let began = Instant::now();
        embedder.embed(&texts, TextKind::Document).await?;
        let each = began.elapsed().as_secs_f64() / texts.len().max(1) as f64;
        Ok(rows + each * documents as f64)
    }

    /// Texts of documents spread over the head.
    fn sampled_texts(&self, settings: &Settings) -> Result<Vec<String>, IndexerError> {
        let step = (self.head.manifest().count as usize / SAMPLE).max(1);
        let places = self.head.live_rows().filter(|place| self.head.has_vector(*place));
        let mut texts = Vec::with_capacity(SAMPLE);
        for place in places.step_by(step).take(SAMPLE) {
            let (_, state) = self.head.state(place)?;
            if let Some(document) = state.document() {
                texts.push(embedded_text(&document, &settings.text.embed));
            }
        }
        Ok(texts)
    }
}

impl AdminRpc {
    pub(crate) async fn begin_rebuild(
        &self,
        request: Request<RebuildRequest>,
    ) -> Result<Response<RebuildResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(&request.collection)?;
        self.pointer(&name).await?;
        let actor = given("actor", request.actor, "say who asks")?;
        let words = given("reason", request.reason, "say why, for those who read the history")?;
        let settings = match request.settings_json.as_str() {
            "" => None,
            json => Some(self.put_settings(&name, json).await?),
        };
        let (done, ended) = oneshot::channel();
        let wish = Wish {
            settings,
            actor,
            words,
            done,
        };
        let begun = self.tell(&name, Command::Rebuild(wish), ended).await?;
        Ok(Response::new(RebuildResponse {
            lineage: begun.lineage,
            rows: begun.rows,
            embeds: begun.embeds,
            estimated_seconds: begun.seconds,
        }))
    }

    /// Writes settings for a rebuild; nothing names them before it begins.
    async fn put_settings(&self, name: &CollectionName, json: &str) -> Result<SettingsReference, Status> {
        let settings = parsed_settings(json)?;
        let current = settings_of(&self.indexer, name).await?;
        let checked = current.check_rebuildable(&settings);
        checked.map_err(|error| Reason::NeedsRebuild.status(chain(&error)))?;
        let version = self.pointer(name).await?.newest_settings_version() + 1;
        let put = objects::put_settings(&*self.indexer.deps().store, name, version, &settings).await;
        put.map_err(|error| reason_of_store(&error).status(chain(&error)))
    }

    pub(crate) async fn shown_rebuild(
        &self,
        request: Request<GetRebuildRequest>,
    ) -> Result<Response<GetRebuildResponse>, Status> {
        let name = name_of(&request.into_inner().collection)?;
        let pointer = self.pointer(&name).await?;
        let mut answer = GetRebuildResponse::default();
        if let Some(build) = pointer.builds.first() {
            let progress = self.indexer.handle(&name).map(|handle| handle.building.clone());
            let in_work = progress.as_ref().map_or(0, |progress| progress.rows().0);
            answer.phase = if build.rows_done < build.rows {
                "building"
            } else {
                "leveling"
            }
            .to_owned();
            answer.lineage = build.lineage.to_string();
            answer.rows_done = build.rows_done.max(in_work.min(build.rows));
            answer.rows = build.rows;
            answer.source_generation = build.source_generation;
            answer.actor = build.actor.clone();
            answer.reason = build.reason.clone();
            answer.since = build.since.to_string();
            answer.embedded = progress.as_ref().map_or(0, |progress| progress.embedded());
            answer.seconds_left = progress.and_then(|progress| progress.seconds_left());
        } else if let Some(other) = &pointer.other {
            answer.phase = match other.role {
                LineageRole::WayBack => "way_back",
                LineageRole::Candidate | LineageRole::Active => "candidate",
            }
            .to_owned();
            answer.lineage = other.lineage.to_string();
            answer.since = other.since.to_string();
        }
        Ok(Response::new(answer))
    }
}
