//! What people ask a process for: rebuilds, going back and on, decisions about staged releases, pins, settings.

use tonic::{Request, Status};
use verdigris_core::pointer::Pointer;
use verdigris_core::settings::Settings;
use verdigris_proto::admin::admin_service_server::AdminService;
use verdigris_proto::admin::{
    AcceptStagedReleaseRequest, EraseDocumentsRequest, PinReleaseRequest, RebuildRequest, RejectStagedReleaseRequest,
    ResumePublishingRequest, RetryStagedReleaseRequest, RollBackReleaseRequest, UpdateSettingsRequest,
};

use super::judge::BACK_TO;
use super::story::Story;
use super::{DIMENSION, name};

const ACTOR: &str = "ada";

fn told<T>(what: impl FnOnce(T) -> String, answer: Result<tonic::Response<T>, Status>) -> Result<String, Status> {
    answer.map(|answer| what(answer.into_inner()))
}

impl Story {
    /// Somebody asks for something that fits what the pointer says.
    pub(crate) async fn person(&mut self) {
        let Ok(pointer) = self.judge.pointer() else { return };
        if self.dice.once_in(6) {
            return self.erase();
        }
        let is_standing = pointer.publish_hold().is_some() || pointer.staged.is_some();
        if is_standing && !self.dice.once_in(4) {
            return self.goes_on(&pointer);
        }
        match self.dice.within(0..14) {
            0..7 => self.rebuild(),
            7..9 => self.roll_back(&pointer),
            9 | 10 => self.pin(&pointer),
            11 => self.resume(&pointer),
            _ => self.update_settings(),
        }
    }

    /// Whatever stands still goes on.
    pub(crate) fn goes_on(&mut self, pointer: &Pointer) {
        if pointer.publish_hold().is_some() {
            self.resume(pointer);
        } else if let Some(staged) = &pointer.staged {
            self.decide(staged.release.generation, staged.release.checkpoint, staged.judged_to);
        }
    }

    fn decide(&mut self, generation: u64, checkpoint: u64, judged_to: u64) {
        let (collection, actor) = (name().to_string(), ACTOR.to_owned());
        let stream = self.log.identity();
        let from = checkpoint.min(judged_to);
        let positions = match self.dice.within(0..3) {
            0 => vec![stream.position(self.dice.within(from..judged_to + 1)).to_string()],
            _ => Vec::new(),
        };
        let choice = self.dice.within(0..6);
        let Some(process) = self.process() else { return };
        match choice {
            0 | 1 => process.ask(format!("accept {generation}"), async move |admin| {
                let request = AcceptStagedReleaseRequest {
                    collection,
                    generation,
                    actor,
                };
                told(
                    |_| String::new(),
                    admin.accept_staged_release(Request::new(request)).await,
                )
            }),
            2 => process.ask(format!("retry {generation}"), async move |admin| {
                let request = RetryStagedReleaseRequest {
                    collection,
                    generation,
                    actor,
                };
                told(
                    |_| String::new(),
                    admin.retry_staged_release(Request::new(request)).await,
                )
            }),
            _ => process.ask(format!("reject {generation} {positions:?}"), async move |admin| {
                let request = RejectStagedReleaseRequest {
                    collection,
                    generation,
                    actor,
                    reason: "a bad feed".to_owned(),
                    ids: Vec::new(),
                    positions,
                };
                told(
                    |done| format!("{} rejected", done.rejected),
                    admin.reject_staged_release(Request::new(request)).await,
                )
            }),
        }
    }

    fn roll_back(&mut self, pointer: &Pointer) {
        if pointer.kept.is_empty() {
            return;
        }
        let generation = self.dice.one_of(&pointer.kept).generation;
        let Some(process) = self.process() else { return };
        process.ask(format!("roll back to {generation}"), async move |admin| {
            let request = RollBackReleaseRequest {
                collection: name().to_string(),
                generation,
                actor: ACTOR.to_owned(),
                reason: format!("{BACK_TO}{generation}"),
                without_replay: false,
            };
            told(|_| String::new(), admin.roll_back_release(Request::new(request)).await)
        });
    }

    fn resume(&mut self, pointer: &Pointer) {
        let checkpoint = pointer.active.as_ref().and_then(|active| {
            let known = self.judge.known(&active.manifest)?;
            Some(known.checkpoint)
        });
        let (from, last) = (checkpoint.unwrap_or(0) + 1, self.log.last());
        let mut set_aside = Vec::new();
        if from <= last && self.dice.once_in(2) {
            for _ in 0..self.dice.within(1..4) {
                set_aside.push(
                    self.log
                        .identity()
                        .position(self.dice.within(from..last + 1))
                        .to_string(),
                );
            }
        }
        let Some(process) = self.process() else { return };
        process.ask(format!("resume without {set_aside:?}"), async move |admin| {
            let request = ResumePublishingRequest {
                collection: name().to_string(),
                actor: ACTOR.to_owned(),
                set_aside,
                reason: "bad ones".to_owned(),
            };
            told(
                |done| format!("{} to read", done.unread_events),
                admin.resume_publishing(Request::new(request)).await,
            )
        });
    }

    /// A few documents, whether they exist or not.
    fn erase(&mut self) {
        let ids: Vec<String> = (0..self.dice.within(1..3)).map(|_| self.events.id()).collect();
        let Some(process) = self.process() else { return };
        process.ask(format!("erase {ids:?}"), async move |admin| {
            let request = EraseDocumentsRequest {
                collection: name().to_string(),
                ids,
                actor: ACTOR.to_owned(),
                reason: "by letter".to_owned(),
            };
            told(
                |done| format!("{} hidden", done.hidden),
                admin.erase_documents(Request::new(request)).await,
            )
        });
    }

    fn pin(&mut self, pointer: &Pointer) {
        if pointer.kept.is_empty() {
            return;
        }
        let (generation, pinned) = (self.dice.one_of(&pointer.kept).generation, !self.dice.once_in(3));
        let Some(process) = self.process() else { return };
        process.ask(format!("pin {generation}: {pinned}"), async move |admin| {
            let collection = name().to_string();
            let request = PinReleaseRequest {
                collection,
                generation,
                pinned,
            };
            told(|_| String::new(), admin.pin_release(Request::new(request)).await)
        });
    }

    fn rebuild(&mut self) {
        let mut settings: Settings = self.settings.clone();
        if !self.is_poisoned {
            settings.embedder.dimension = *self.dice.one_of(&[DIMENSION, DIMENSION, 12, 16]);
        }
        if self.dice.once_in(2) {
            settings.ann.index_type = "Flat".parse().expect("allowed");
        }
        let mut settings_json = String::from_utf8_lossy(&settings.encode()).into_owned();
        if self.dice.once_in(3) {
            settings_json.clear();
        }
        let Some(process) = self.process() else { return };
        process.ask(
            format!("rebuild to {}", settings.embedder.dimension),
            async move |admin| {
                let request = RebuildRequest {
                    collection: name().to_string(),
                    settings_json,
                    actor: ACTOR.to_owned(),
                    reason: "another model".to_owned(),
                };
                told(|begun| begun.lineage, admin.rebuild(Request::new(request)).await)
            },
        );
    }

    /// Settings that act in place, those of the active lineage kept otherwise.
    fn update_settings(&mut self) {
        let Ok(pointer) = self.judge.pointer() else { return };
        let Some(current) = self.settings_of(&pointer.settings) else {
            return;
        };
        let mut settings = current;
        settings.weights.words = self.dice.within(1..9) as f32;
        settings.guards.documents_min = *self.dice.one_of(&[4, 8, 100]);
        let settings_json = String::from_utf8_lossy(&settings.encode()).into_owned();
        let Some(process) = self.process() else { return };
        process.ask("change settings".to_owned(), async move |admin| {
            let collection = name().to_string();
            let request = UpdateSettingsRequest {
                collection,
                settings_json,
            };
            told(
                |done| format!("version {}", done.version),
                admin.update_settings(Request::new(request)).await,
            )
        });
    }
}
