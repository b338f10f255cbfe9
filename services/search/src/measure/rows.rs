//! What the stored rows say: whether they add up to the manifest, whether deleted documents are gone, and whether
//! documents have their texts.

use std::collections::BTreeSet;
use std::sync::Arc;

use verdigris_core::digest::ContentSum;
use verdigris_core::gates::{DeletesChecked, Measured, RowsCounted, TextsChecked};
use verdigris_core::settings::{Provider, Settings};
use verdigris_core::text::embedded_text;
use verdigris_engine::error::EngineError;
use verdigris_engine::release::{Release, RowPlace};

use super::ask::{Ask, Question};
use super::{Measuring, Unmeasured, is_common};
use crate::answer::chain;

/// Rows that are read in one piece of work: some milliseconds.
const ROWS_AT_ONCE: usize = 500;
/// Deleted documents that are looked up; a look costs microseconds.
const GHOSTS_MAX: usize = 10_000;
/// Deleted documents that are searched for, by the text that a dead row still has.
const PROBES_MAX: usize = 50;
/// Hits among which a deleted document must not be.
const PROBE_TOP: usize = 100;
/// Names that are told.
const NAMES_MAX: usize = 10;

/// What an engine says, as words.
pub(super) fn words(error: EngineError) -> Unmeasured {
    chain(&error)
}

/// A document's text as a lineage's settings have it: what is embedded, or, where vectors are given, what is searched.
pub(super) fn text_of(release: &Release, settings: &Settings, place: RowPlace) -> Result<String, EngineError> {
    let Some(document) = release.state(place)?.1.document() else {
        return Ok(String::new());
    };
    if settings.embedder.provider != Provider::None {
        return Ok(embedded_text(&document, &settings.text.embed));
    }
    let fields = settings.text.words.iter().filter_map(|field| document.get(field));
    let texts: Vec<&str> = fields.filter_map(|value| value.as_str()).collect();
    Ok(texts.join(" "))
}

impl Measuring {
    /// Counts the candidate's live rows, and adds up their content.
    pub(super) async fn rows(&self) -> Result<Measured<RowsCounted>, Unmeasured> {
        let release = self.candidate.release.clone();
        let listed = self.work(move || release.live_rows().collect::<Vec<RowPlace>>());
        let places: Arc<[RowPlace]> = listed.await?.into();
        let (mut documents, mut content) = (0, ContentSum::default());
        for from in (0..places.len()).step_by(ROWS_AT_ONCE) {
            let (release, places) = (self.candidate.release.clone(), places.clone());
            let counted = self.work(move || {
                let to = places.len().min(from + ROWS_AT_ONCE);
                count(&release, &places[from..to], content)
            });
            let (counted_documents, sum) = counted.await?.map_err(words)?;
            documents += counted_documents;
            content = sum;
        }
        let release = self.candidate.release.clone();
        let repeated = self.work(move || release.repeated_ids()).await?.map_err(words)?;
        Ok(Measured::Value(RowsCounted {
            documents: documents - (repeated.len() as u64).min(documents),
            duplicates: repeated.len() as u64,
            content,
        }))
    }

    /// Looks for deleted documents in the candidate: by id, and by the text that they had.
    pub(super) async fn deletes(&self) -> Result<Measured<DeletesChecked>, Unmeasured> {
        let sides = self.sides();
        let gone = self.work(move || {
            let mut gone = BTreeSet::new();
            for served in &sides {
                for place in served.release.ghosts() {
                    gone.insert(served.release.id(place)?);
                }
            }
            // What one was told of before the other may rightly be there in the one and not in the other.
            Ok::<_, EngineError>(
                gone.into_iter()
                    .filter(|id| is_common(&sides, id))
                    .collect::<Vec<String>>(),
            )
        });
        let gone = gone.await?.map_err(words)?;
        if gone.is_empty() {
            return Ok(Measured::NotApplicable("nothing was ever deleted".to_owned()));
        }
        let chosen = self.draws.some("ghosts", gone.len(), GHOSTS_MAX);
        let looked_for: Vec<String> = chosen.into_iter().map(|n| gone[n].clone()).collect();
        let (release, ids) = (self.candidate.release.clone(), looked_for.clone());
        let found = self.work(move || {
            let is_there = |id: &&String| {
                let places = release.live_rows_of(id);
                places.iter().any(|place| release.has_vector(*place))
            };
            ids.iter().filter(is_there).cloned().collect::<BTreeSet<String>>()
        });
        let mut leaked = found.await?;
        leaked.extend(self.searched_for(&gone.into_iter().collect()).await?);
        Ok(Measured::Value(DeletesChecked {
            sampled: looked_for.len() as u64,
            leaked: leaked.into_iter().take(NAMES_MAX).collect(),
        }))
    }

    /// Deleted documents that a search for their own text finds in the candidate.
    async fn searched_for(&self, gone: &BTreeSet<String>) -> Result<Vec<String>, Unmeasured> {
        let (sides, gone) = (self.sides(), gone.clone());
        let (draws, wanted) = (self.draws.clone(), PROBES_MAX);
        let probes = self.work(move || {
            let mut probes = Vec::new();
            for served in &sides {
                let dead: Vec<RowPlace> = served.release.dead_rows().collect();
                for n in draws.some("dead rows", dead.len(), 20 * wanted) {
                    let id = served.release.id(dead[n])?;
                    let text = text_of(&served.release, &served.settings, dead[n])?;
                    if gone.contains(&id) && !text.is_empty() && probes.len() < wanted {
                        probes.push((id, text));
                    }
                }
            }
            Ok::<_, EngineError>(probes)
        });
        let probes = probes.await?.map_err(words)?;
        let questions = probes.iter().map(|(_, text)| Question::text(text)).collect();
        let asks = self.embedded(questions).await?;
        let mut leaked = Vec::new();
        for ((id, _), ask) in probes.into_iter().zip(asks) {
            let hits = self.ask_candidate(ask, PROBE_TOP).await?;
            if hits.contains(&id) {
                leaked.push(id);
            }
        }
        Ok(leaked)
    }

    /// Looks documents of the active up in the candidate: whether they are there, and have a text.
    pub(super) async fn texts(&self) -> Result<Measured<TextsChecked>, Unmeasured> {
        let Some(active) = self.active.clone() else {
            return Ok(Measured::NotApplicable("it is the lineage that answers".to_owned()));
        };
        let places = self.sampled_of_active("texts").await?;
        if places.is_empty() {
            return Ok(Measured::NotApplicable("the active has no documents".to_owned()));
        }
        let candidate = self.candidate.clone();
        let checked = self.work(move || {
            let mut checked = TextsChecked::default();
            for place in places {
                checked.sampled += 1;
                let text = text_of(&active.release, &active.settings, place)?;
                checked.empty_active += u64::from(text.is_empty());
                let id = active.release.id(place)?;
                let there = candidate.release.find(&id);
                match there.filter(|place| candidate.release.has_vector(*place)) {
                    None => checked.absent += 1,
                    Some(place) => {
                        let text = text_of(&candidate.release, &candidate.settings, place)?;
                        checked.empty += u64::from(text.is_empty());
                    }
                }
            }
            Ok::<_, EngineError>(checked)
        });
        Ok(Measured::Value(checked.await?.map_err(words)?))
    }

    /// Some documents of the active that the candidate should have: what one was told of before the other is left out.
    pub(super) async fn sampled_of_active(&self, purpose: &'static str) -> Result<Vec<RowPlace>, Unmeasured> {
        let Some(active) = self.active.clone() else {
            return Ok(Vec::new());
        };
        let until = self.candidate.release.manifest().generation;
        let (draws, wanted, sides) = (self.draws.clone(), self.samples, self.sides());
        let sampled = self.work(move || {
            let release = &active.release;
            let is_old = |place: &RowPlace| release.has_vector(*place) && release.generation(*place) <= until;
            let places: Vec<RowPlace> = release.live_rows().filter(is_old).collect();
            let mut sampled = Vec::with_capacity(wanted);
            for n in draws.some(purpose, places.len(), wanted) {
                if is_common(&sides, &release.id(places[n])?) {
                    sampled.push(places[n]);
                }
            }
            Ok::<_, EngineError>(sampled)
        });
        sampled.await?.map_err(words)
    }

    /// The ids that the candidate's best hits for a question have.
    async fn ask_candidate(&self, ask: Ask, top: usize) -> Result<Vec<String>, Unmeasured> {
        let (search, served) = (self.search.clone(), self.candidate.clone());
        let hits = self.work(move || ask.hits(&search, &served, 0, top)).await?;
        hits.map_err(words)
    }
}

/// Documents among these rows, and the content sum with them.
fn count(release: &Release, places: &[RowPlace], mut content: ContentSum) -> Result<(u64, ContentSum), EngineError> {
    let mut documents = 0;
    for place in places {
        let (stored, state) = release.state(*place)?;
        if stored.chunk == 0 {
            documents += u64::from(release.has_vector(*place));
            content.add(&state.digest());
        }
    }
    Ok((documents, content))
}
