//! The end of a story: nothing goes wrong any more, and everything comes to rest.

use std::time::Duration;

use verdigris_core::garbage::GRACE_NS;
use verdigris_core::manifest::SettingsReference;
use verdigris_core::pointer::{LineageRole, Pointer};
use verdigris_core::settings::Settings;
use verdigris_store::keys;

use super::log::Replaced;
use super::seat::Weather;
use super::story::Story;
use super::{Verdict, erasing, hold, name};

const SECOND: i64 = 1_000_000_000;
/// Time in which everything comes to rest, in halves of a second.
const PATIENCE: u32 = 1_200;

impl Story {
    pub(crate) fn settings_of(&self, reference: &SettingsReference) -> Option<Settings> {
        let key = keys::settings(&name(), reference.version, &reference.digest);
        Settings::parse(&self.disk.look(&key)?.bytes).ok()
    }

    pub(crate) async fn end(&mut self) -> Verdict<()> {
        self.disk.tell(|| "the end begins".to_owned());
        self.weather = Weather::default();
        // Sleepers wake late, and find another one in their place.
        for process in &self.processes {
            process.seat.set_weather(Weather::default());
        }
        self.pass(Duration::from_secs(31)).await;
        self.look()?;
        self.begin_process();
        self.rest().await?;
        self.level().await?;
        for process in &self.processes[..self.processes.len() - 1] {
            process.seat.kill();
        }
        self.give_up_other().await?;
        self.collected().await?;
        self.another_log().await
    }

    /// I-15: an indexer does not read on in a log that is another one.
    async fn another_log(&mut self) -> Verdict<()> {
        let before = self.judge.pointer()?.generation;
        self.processes.iter().for_each(|process| process.seat.kill());
        let how = *self.dice.one_of(&[Replaced::Anew, Replaced::Cut, Replaced::Regrown]);
        self.log.replace(how);
        self.disk.tell(|| format!("the log is another one: {how:?}"));
        self.begin_process();
        self.pass(Duration::from_secs(2)).await;
        let why = self
            .process()
            .and_then(|process| process.standstill())
            .unwrap_or_default();
        hold(why.starts_with("STREAM_MISMATCH"), || {
            format!("I-15: {how:?} is answered by {why:?}")
        })?;
        let after = self.judge.pointer()?.generation;
        hold(before == after, || format!("I-15: read on in another log: {how:?}"))
    }

    /// Until every event is in the release, and nothing is under way.
    async fn rest(&mut self) -> Verdict<()> {
        for n in 0..PATIENCE {
            let pointer = self.judge.pointer()?;
            if self.is_at_rest(&pointer) {
                return Ok(());
            }
            if n % 8 == 7 {
                self.goes_on(&pointer);
            }
            if n % 100 == 99 {
                // Those who do not see that they lost their turn never do anything again.
                self.owners.clear();
                self.begin_owner();
            }
            if n % 4 == 3 && self.awaits_promotion(&pointer) {
                self.owner_acts().await?;
            }
            self.pass(Duration::from_millis(500)).await;
            self.look()?;
        }
        let why = self.process().and_then(|process| process.standstill());
        let pointer = self.judge.pointer()?;
        Err(format!(
            "I-1: the last event is {}, the release ends with {:?}, builds {:?}, standstill {why:?}",
            self.log.last(),
            pointer.kept.last().map(|kept| kept.checkpoint),
            pointer
                .builds
                .iter()
                .map(|build| (build.rows_done, build.rows))
                .collect::<Vec<_>>(),
        ))
    }

    /// Whether a window waits as a candidate, or for the place of one: nothing is published until an owner decides.
    fn awaits_promotion(&self, pointer: &Pointer) -> bool {
        let newest = pointer.active.as_ref().map(|active| active.generation);
        let settings = self.settings_of(&pointer.settings);
        let tells = settings.is_some_and(|settings| settings.window.candidate_seconds > 0);
        let other = pointer.other.as_ref();
        other.map(|other| other.generation) > newest
            || tells && other.is_some_and(|other| other.role == LineageRole::Candidate)
    }

    fn is_at_rest(&self, pointer: &Pointer) -> bool {
        let known = pointer
            .active
            .as_ref()
            .and_then(|active| self.judge.known(&active.manifest));
        let has_all = known.is_some_and(|known| known.checkpoint == self.log.last());
        let stands = pointer.staged.is_some() || pointer.publish_hold().is_some();
        let is_removed = pointer.erased.as_ref().is_none_or(|erased| erased.removed);
        has_all && !stands && pointer.builds.is_empty() && is_removed
    }

    /// The other lineage follows by itself.
    async fn level(&mut self) -> Verdict<()> {
        for _ in 0..PATIENCE {
            let pointer = self.judge.pointer()?;
            let Some(other) = &pointer.other else { return Ok(()) };
            if other.generation == pointer.generation {
                self.judge.counts.count("level at the end");
                return Ok(());
            }
            self.pass(Duration::from_millis(500)).await;
            self.look()?;
        }
        Err("I-18: the other lineage does not come level".to_owned())
    }

    async fn give_up_other(&mut self) -> Verdict<()> {
        self.owners.clear();
        self.begin_owner();
        for _ in 0..PATIENCE {
            let pointer = self.judge.pointer()?;
            if pointer.other.is_none() {
                return Ok(());
            }
            if let Some(other) = pointer.other.filter(|other| other.role == LineageRole::Candidate) {
                self.disk.tell(|| format!("the candidate {} is left", other.lineage));
            }
            self.owner_acts().await?;
            self.pass(Duration::from_millis(500)).await;
            self.look()?;
            self.rest().await?;
        }
        Err("the other lineage is never given up".to_owned())
    }

    /// I-11: what nobody names goes, and the rest stays.
    async fn collected(&mut self) -> Verdict<()> {
        self.clocks(GRACE_NS + 120 * SECOND);
        self.send_some(3);
        self.pass(Duration::from_secs(3)).await;
        self.rest().await?;
        self.clocks(GRACE_NS + 120 * SECOND);
        for _ in 0..3 {
            self.clocks(61 * SECOND);
            self.pass(Duration::from_millis(300)).await;
            self.look()?;
        }
        let pointer = self.judge.pointer()?;
        self.judge.leftovers.nothing_else(&pointer, &self.disk)?;
        erasing::nothing_is_left(&self.disk, &pointer)?;
        hold(self.is_at_rest(&pointer), || {
            "I-1: the story goes on after its end".to_owned()
        })
    }
}
