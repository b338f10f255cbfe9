//! A story: what a seed makes happen to a collection, step by step, each judged.

use std::sync::Arc;
use std::time::Duration;

use verdigris_bus::NewEvent;
use verdigris_core::revision::RevisionKind;
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_store::{chance, collection as objects, commit};

use super::dice::Dice;
use super::disk::Disk;
use super::events::{Drawn, Events};
use super::judge::{Counts, Judge};
use super::log::Log;
use super::model::Model;
use super::owner::{Owner, Reckless};
use super::process::Process;
use super::seat::{Seat, Weather};
use super::{Verdict, duties, hold, name};

const SECOND: i64 = 1_000_000_000;
/// When stories begin: in 2026.
const BEGIN: i64 = 1_780_000_000 * SECOND;
/// Time that is passed at once: the clocks follow behind.
const CHUNK: Duration = Duration::from_millis(250);
/// Processes at once.
const PROCESSES: usize = 3;

/// A collection and all that happens to it.
pub(crate) struct Story {
    pub(crate) dice: Dice,
    pub(crate) disk: Arc<Disk>,
    pub(crate) log: Arc<Log>,
    pub(crate) judge: Judge,
    pub(crate) model: Model,
    pub(crate) events: Events,
    pub(crate) processes: Vec<Process>,
    pub(crate) owners: Vec<Box<dyn Owner>>,
    pub(crate) settings: Settings,
    pub(crate) weather: Weather,
    named: u64,
    /// Whether an embedder panics at a word.
    pub(crate) is_poisoned: bool,
}

impl Story {
    pub(crate) fn new(seed: u64) -> Self {
        chance::seed(seed);
        let mut dice = Dice::new(seed);
        let disk = Disk::new(BEGIN);
        let log = Log::new(u128::from(dice.next()) << 64 | u128::from(seed), &disk);
        let mut settings = Settings::parse(br#"{"embedder":{"provider":"hash","dimension":8}}"#).expect("valid");
        settings.revision = *dice.one_of(&[RevisionKind::EventTime, RevisionKind::Number]);
        settings.window.milliseconds = *dice.one_of(&[1, 50, 200]);
        settings.window.events = *dice.one_of(&[3, 10, 1_000]);
        settings.window.backlog_events = *dice.one_of(&[5, 1_000]);
        settings.guards.documents_min = *dice.one_of(&[4, 8, 100, 100]);
        settings.rebuild.part_rows = *dice.one_of(&[3, 7, 1_000]);
        settings.rebuild.automatic = dice.once_in(2);
        settings.bus.days = 1;
        settings.window.candidate_seconds = *dice.one_of(&[0, 0, 0, 0, 2]);
        let (ids, stormy) = (*dice.one_of(&[6, 12, 30]), dice.once_in(2));
        let is_poisoned = dice.once_in(8);
        let mut events = Events::new(dice.split(), ids, settings.revision);
        events.is_poisoned = is_poisoned;
        let weather = Weather {
            fault: if stormy { 25 } else { 300 },
            delay: 40,
            crash: if stormy { 600 } else { 0 },
            sleep: if stormy { 400 } else { 3_000 },
        };
        let judge = Judge::new(&disk, &log);
        Self {
            dice,
            judge,
            model: Model::default(),
            events,
            processes: Vec::new(),
            owners: Vec::new(),
            settings,
            weather,
            named: 0,
            is_poisoned,
            disk,
            log,
        }
    }

    /// The whole story.
    pub(crate) async fn run(&mut self, steps: u64) -> Verdict<()> {
        let birth = Seat::new("birth", &self.disk, self.dice.split(), Weather::default());
        let made = objects::create(&*birth, &name(), &self.settings, commit::nonce(), Timestamp(BEGIN)).await;
        made.map_err(|error| format!("no collection: {error}"))?;
        self.begin_process();
        self.send_some(12);
        for _ in 0..steps {
            self.step().await?;
            self.look()?;
        }
        self.end().await
    }

    pub(crate) fn look(&mut self) -> Verdict<()> {
        self.judge.processes = self.named;
        self.judge.look(&self.model)?;
        for process in &self.processes {
            if let Some(said) = process.published() {
                self.judge.progress(said, &process.seat.name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.judge.counts
    }

    fn name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    pub(crate) fn begin_process(&mut self) {
        let (name, dice) = (self.name("p"), self.dice.split());
        let seat = Seat::new(&name, &self.disk, dice, self.weather);
        self.disk.tell(|| format!("{name} begins"));
        self.processes
            .push(Process::start(seat, &self.log, &self.disk, self.is_poisoned));
        self.judge.counts.count("processes");
    }

    pub(crate) fn begin_owner(&mut self) {
        let name = self.name(duties::OWNER);
        let seat = Seat::new(&name, &self.disk, self.dice.split(), self.weather);
        self.owners.push(Box::new(Reckless::new(seat)));
    }

    /// The process that came last and lives.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.processes.iter().rev().find(|process| process.is_alive())
    }

    pub(crate) fn send(&mut self, drawn: Vec<Drawn>) {
        for drawn in drawn {
            let payload = drawn.payload.clone();
            let appended = self.log.append(vec![NewEvent { payload }]);
            let accepted_at = appended.accepted_at_ns.expect("the log of the simulation knows");
            self.model.events.push(drawn.told(self.settings.revision, accepted_at));
            self.judge.counts.count("events");
        }
        let last = self.log.last();
        self.disk.tell(|| format!("events up to {last} are accepted"));
    }

    pub(crate) fn send_some(&mut self, most: u64) {
        let count = self.dice.within(1..most + 1);
        let now = self.disk.now();
        let drawn = (0..count).map(|_| self.events.draw(now)).collect();
        self.send(drawn);
    }

    /// Time passes for everybody.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let part = left.min(CHUNK);
            tokio::time::sleep(part).await;
            self.clocks(part.as_nanos() as i64);
            left -= part;
        }
    }

    /// Only the clocks move: nobody had anything to do meanwhile.
    pub(crate) fn clocks(&self, nanoseconds: i64) {
        self.disk.set_now(self.disk.now() + nanoseconds);
        for process in &self.processes {
            process.clock.advance(nanoseconds);
        }
    }

    /// Lets an owner act, at most so long.
    pub(crate) async fn owner_acts(&mut self) -> Verdict<()> {
        self.owners.retain(|owner| !owner.seat().is_dead());
        if self.owners.is_empty() || (self.owners.len() < 2 && self.dice.once_in(12)) {
            self.begin_owner();
        }
        let at = self.dice.within(0..self.owners.len() as u64) as usize;
        let mut dice = self.dice.split();
        let mut wanted = std::mem::take(&mut self.judge.wanted);
        let acting = self.owners[at].act(&mut dice, &mut wanted);
        let account = tokio::time::timeout(Duration::from_secs(30), acting).await;
        self.judge.wanted = wanted;
        self.judge.look(&self.model)?;
        let Ok(account) = account else {
            self.disk.tell(|| "an owner was given up".to_owned());
            return Ok(());
        };
        let lost = account.swung.iter().find(|nonce| !self.judge.was_swung(nonce));
        hold(lost.is_none(), || format!("I-5: {lost:?} was told as swung"))?;
        let made = account.refused.iter().find(|nonce| self.judge.was_swung(nonce));
        hold(made.is_none(), || format!("I-5: {made:?} was told as refused"))
    }

    async fn step(&mut self) -> Verdict<()> {
        match self.dice.within(0..100) {
            0..40 => self.send_some(10),
            40..43 => self.purge(),
            43..50 => self.kill_or_begin(),
            50..53 => {
                let calls = self.dice.within(1..40);
                if let Some(process) = self.process() {
                    process.seat.crash_in(calls);
                }
            }
            53..57 => {
                let (calls, time) = (
                    self.dice.within(1..40),
                    Duration::from_millis(self.dice.within(100..30_000)),
                );
                if let Some(process) = self.process() {
                    process.seat.sleep_in(calls, time);
                }
            }
            57..78 => self.person().await,
            78..92 => self.owner_acts().await?,
            92..95 => {
                let limit = Duration::from_secs(20);
                if let Some(at) = self.processes.iter().rposition(Process::is_alive) {
                    self.processes.remove(at).stop(limit).await;
                }
            }
            _ => {
                let minutes = *self.dice.one_of(&[1, 2, 11, 25, 70, 400, 1_500]);
                self.clocks(minutes * 60 * SECOND);
                self.disk.tell(|| format!("{minutes} minutes pass"));
            }
        }
        if self.process().is_none() && self.dice.once_in(2) {
            self.begin_process();
        }
        let time = match self.dice.within(0..10) {
            0..3 => self.dice.within(0..20),
            3..8 => self.dice.within(20..2_500),
            _ => self.dice.within(2_500..14_000),
        };
        self.pass(Duration::from_millis(time)).await;
        Ok(())
    }

    /// A feed that deletes most of what there is.
    fn purge(&mut self) {
        let now = self.disk.now();
        let ids: Vec<u64> = (0..self.events.ids).filter(|_| !self.dice.once_in(3)).collect();
        let drawn = ids.into_iter().map(|id| self.events.delete(id, now)).collect();
        self.send(drawn);
    }

    fn kill_or_begin(&mut self) {
        let alive = self.processes.iter().filter(|process| process.is_alive()).count();
        if alive < PROCESSES && self.dice.once_in(2) {
            return self.begin_process();
        }
        let living: Vec<&Process> = self.processes.iter().filter(|process| process.is_alive()).collect();
        if !living.is_empty() {
            let which = self.dice.within(0..living.len() as u64) as usize;
            living[which].seat.kill();
            self.disk.tell(|| format!("{} is killed", living[which].seat.name));
        }
    }
}
