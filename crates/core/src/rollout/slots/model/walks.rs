//! The walks, what happens on them, and where each must end.

use super::*;

/// How many steps a walk has.
const STEPS: u32 = 800;

/// Numbers that look drawn, the same for each seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides.max(1) as u64) as usize
    }
}

/// What may go wrong on a walk, and how often beside what goes right.
#[derive(Clone, Copy)]
struct Trouble {
    crashes: bool,
    faults: bool,
    words: bool,
    changes: bool,
}

impl World {
    fn take(&mut self, event: Event) {
        match event {
            Event::Publish => {
                let active = self.active();
                self.publish(&active, None);
            }
            Event::Follow => {
                let (active, other) = (
                    self.active(),
                    self.pointer.other.as_ref().map(|other| other.lineage.to_string()),
                );
                let is_behind = self
                    .pointer
                    .other
                    .as_ref()
                    .is_some_and(|other| other.generation < self.pointer.generation);
                if is_behind {
                    self.publish(&active, other.as_deref());
                }
            }
            Event::Names(letter) => self.name(letter),
            Event::Settles(slot) => self.settle(slot),
            Event::Opens(slot) => self.open(slot),
            Event::Fails(slot) => self.fail(slot),
            Event::Endpoints => self.endpoints(),
            Event::Measured => {
                if let Some((lineage, generation)) = self.measuring.take() {
                    self.stored = Some((lineage, generation, self.now));
                }
            }
            Event::Errors => {
                let traffic = self.traffic.as_ref();
                let widened = traffic.and_then(|traffic| traffic.widened.as_ref());
                let widened = widened.map(|widened| widened.target.clone());
                self.failing = widened.or_else(|| traffic.and_then(|traffic| traffic.target.clone()));
            }
            Event::Plans => self.plans(),
            Event::Acts => {
                self.acts();
            }
            Event::Loses => self.in_hand = None,
            Event::DoneUnheard => {
                self.acts();
                self.in_hand = None;
            }
            Event::Crashes => self.crash(),
            Event::SleeperActs => {
                if let Some(mut hand) = self.sleeper.take().filter(|hand| !hand.actions.is_empty()) {
                    let action = hand.actions.remove(0);
                    if self.act(&mut hand, &action) {
                        self.sleeper = Some(hand);
                    }
                }
            }
            Event::NewTemplate(which) => self.template = ["one", "two", "three", BROKEN][which % 4].to_owned(),
            Event::ScalesTo(replicas) => self.replicas = replicas,
            Event::StepsBecome(which) => {
                // The last of each is as large as the model's check says.
                let all: [&[u32]; 3] = [&[], &[50], &[10, 60]];
                self.steps = Steps::new(all[which % 3].to_vec()).expect("they rise");
            }
            Event::Fit(pods) => self.fit = pods,
            Event::Ticks(wait) => self.now = self.now.plus(wait),
            Event::GivesUp => self.give_up(),
            word => self.word(word),
        }
        self.pointer.check().expect("consistent");
        self.check();
    }

    /// A candidate that gates speak against.
    fn give_up(&mut self) {
        let other = self.pointer.other.as_ref();
        let is_bad = |other: &&LineagePointer| other.role == LineageRole::Candidate && quality(&other.lineage) != 'g';
        if other.filter(is_bad).is_some() {
            self.word(Event::Aborts);
        }
    }

    fn active(&self) -> String {
        self.pointer
            .active
            .as_ref()
            .map(|active| active.lineage.to_string())
            .expect("something answers")
    }

    fn name(&mut self, letter: char) {
        if self.pointer.other.is_some() {
            return;
        }
        self.names += 1;
        let name = format!("{letter}{}", self.names);
        let begun = self
            .pointer
            .begin_build(1, build(&name, self.now), format!("b{name}"), self.now);
        self.pointer = begun.expect("there is a place");
        let active = self.active();
        self.publish(&active, Some(&name));
        self.memory = Observation::default();
        self.measuring = None;
    }

    /// The platform makes and ends pods as asked.
    fn settle(&mut self, slot: Slot) {
        let free = usize::try_from(self.free().max(0)).unwrap_or(usize::MAX);
        let place = self.place(slot);
        let Some(target) = place.seen.target.clone() else {
            return;
        };
        let there = place.seen.pods.len();
        let wanted = (place.seen.replicas as usize).min(there.saturating_add(free));
        if place.seen.pods.len() == wanted && place.seen.is_settled {
            return;
        }
        // Pods that are not ready end first, as the platform does it.
        place.seen.pods.sort_by_key(|pod| !pod.is_ready);
        place.seen.pods.truncate(wanted);
        for number in place.seen.pods.len()..wanted {
            place.seen.pods.push(PodSeen {
                name: format!("{slot}-{number}-{}", place.version),
                target: target.id(),
                is_ready: false,
                unplaced: None,
                report: None,
            });
        }
        (place.seen.pods_left, place.seen.is_settled) = (wanted as u32, true);
        place.version += 1;
    }

    fn open(&mut self, slot: Slot) {
        let Some(target) = self.at(slot).seen.target.clone() else {
            return;
        };
        let generation = self.generation(&target.lineage);
        let Some(generation) = generation.filter(|_| target.template.as_str() != BROKEN) else {
            return;
        };
        let place = self.place(slot);
        let mut is_whole = !place.seen.pods.is_empty();
        for pod in &mut place.seen.pods {
            is_whole &= pod.target == target.id();
            pod.is_ready = true;
            pod.report = Some(PodReport {
                lineage: target.lineage.clone(),
                generation,
                is_warm: true,
                problem: None,
                is_demoted: false,
                requests: 0,
                errors: 0,
                p50_ms: 1.0,
                p99_ms: 1.0,
            });
        }
        place.is_faulted &= !is_whole;
    }

    fn fail(&mut self, slot: Slot) {
        let place = self.place(slot);
        for pod in &mut place.seen.pods {
            (pod.is_ready, pod.report) = (false, None);
        }
        place.is_faulted = true;
    }

    fn endpoints(&mut self) {
        let traffic = self.traffic.as_ref();
        let target = traffic.and_then(|traffic| traffic.target.clone());
        let widened = traffic.and_then(|traffic| traffic.widened.clone());
        let widened = widened.map(|widened| widened.target);
        let pods = [&self.blue, &self.green]
            .into_iter()
            .flat_map(|place| place.seen.pods.clone());
        let names = pods
            .filter(|pod| pod.is_ready)
            .filter(|pod| [&target, &widened].contains(&&Some(pod.target.clone())))
            .map(|pod| pod.name);
        let names: BTreeSet<String> = names.collect();
        if let Some(traffic) = &mut self.traffic {
            traffic.endpoints = names;
        }
    }

    fn crash(&mut self) {
        self.sleeper = self.in_hand.take();
        (self.memory, self.measuring, self.demoted_at) = (Observation::default(), None, None);
        let nonce = format!("o{}", self.pointer.sequence);
        let claimed = self.pointer.claim_rollouts("controller/1", false, nonce, self.now);
        self.pointer = claimed.expect("the same controller");
        self.epoch += 1;
    }

    fn word(&mut self, word: Event) {
        let (nonce, epoch, now) = (format!("w{}", self.pointer.sequence), self.epoch, self.now);
        let other = self.pointer.other.clone();
        let next = match word {
            Event::Approves => {
                let Some(other) = other.filter(|other| other.role == LineageRole::Candidate) else {
                    return;
                };
                let Some((_, judged, _)) = self.stored.clone().filter(|stored| stored.0 == other.lineage) else {
                    return;
                };
                self.approved.insert(format!("{} {judged}", other.lineage));
                self.pointer.approve(epoch, &other.lineage, judged, "ada", nonce, now)
            }
            Event::ApprovesTemplate => {
                let Some(idle) = self.selected().map(Slot::other) else {
                    return;
                };
                let place = self.place(idle);
                place.seen.approved_by = Some("ada".to_owned());
                place.version += 1;
                return;
            }
            Event::Aborts => {
                let Some(other) = other else { return };
                self.way_back = None;
                self.pointer.drop_other(epoch, &other.lineage, nonce, now)
            }
            Event::GoesBack => {
                self.wish = Some(Wish {
                    actor: "ada".to_owned(),
                    reason: "odd".to_owned(),
                });
                return;
            }
            // What is in hand was planned before the word.
            Event::Holds => self.pointer.hold_promotion(epoch, "late", "wait", nonce, now),
            _ => {
                if self.pointer.promotion_hold.is_none() {
                    return;
                }
                self.returned = false;
                self.pointer.resume_promotion(epoch, nonce, now)
            }
        };
        self.pointer = next.expect("a word that applies");
        self.wish = None;
    }

    /// Everything that goes right goes right, and nothing else happens, until nothing is left to do.
    fn comes_to_rest(&mut self) -> Phase {
        (self.sleeper, self.wish, self.failing) = (None, None, None);
        self.fit = u32::MAX;
        for _ in 0..600 {
            for slot in Slot::ALL {
                self.take(Event::Settles(slot));
                self.take(Event::Opens(slot));
            }
            self.take(Event::Endpoints);
            self.take(Event::Measured);
            if self.pointer.leveling.is_some() {
                self.take(Event::Follow);
            }
            let plan = plan(&self.spec(), &self.pointer, &self.seen(), self.now);
            let is_busy = plan
                .actions
                .iter()
                .any(|action| !matches!(action, Action::Demote(_) | Action::Shed { .. }));
            self.take(Event::Plans);
            while self.acts() {
                self.check();
            }
            if is_busy {
                continue;
            }
            match plan.wake_at {
                // What is left to do then is to tell a slot that it is demoted.
                Some(_) if matches!(plan.phase, Phase::Refused | Phase::Held) => return plan.phase,
                Some(wake) if wake > self.now => self.now = wake,
                _ if self.pointer.other.is_some() && plan.phase == Phase::KeepingWayBack => return plan.phase,
                _ => return plan.phase,
            }
            let is_kept = plan.phase == Phase::KeepingWayBack && self.pointer.promotion_hold.is_some();
            if is_kept
                && self
                    .now
                    .since(self.traffic.as_ref().map_or(self.now, |traffic| traffic.since))
                    > 8_000 * SECOND
            {
                return plan.phase;
            }
        }
        panic!(
            "it never ends: {:?}",
            plan(&self.spec(), &self.pointer, &self.seen(), self.now)
        );
    }

    fn check_rest(&self, phase: Phase) {
        let selected = self.selected().expect("something answers at the end");
        let answers = self.at(selected).seen.target.clone().expect("it has a target");
        let is_held = self.pointer.promotion_hold.is_some();
        let is_broken = self.template == BROKEN;
        let is_right = match phase {
            Phase::Steady => self.pointer.other.is_none() && answers.template.as_str() == self.template,
            Phase::Held => is_held,
            Phase::KeepingWayBack => is_held,
            Phase::Refused => true,
            Phase::AwaitingApproval => true,
            // Pods that never get ready: it waits, and says so.
            Phase::Warming => is_broken,
            Phase::Promoting | Phase::Returning => is_broken,
            _ => false,
        };
        assert!(is_right, "it ends as {phase:?}");
        assert_eq!(self.pointer.leveling, None, "nobody pauses for nothing");
        let claimed = self.pointer.active.as_ref().map(|active| &active.lineage);
        assert!(
            claimed == Some(&answers.lineage) || is_broken || (is_held && self.steps != Steps::default()),
            "traffic is where the pointer says"
        );
    }
}

fn event(dice: &mut Dice, trouble: Trouble) -> Event {
    let slot = Slot::ALL[dice.throw(2)];
    let wait = [1, 20, 700, 4_000][dice.throw(4)] * SECOND;
    let right = [
        Event::Plans,
        Event::Acts,
        Event::Acts,
        Event::Acts,
        Event::Settles(slot),
        Event::Opens(slot),
        Event::Endpoints,
        Event::Measured,
        Event::Follow,
        Event::Publish,
    ];
    let crashes = [
        Event::Crashes,
        Event::SleeperActs,
        Event::SleeperActs,
        Event::Loses,
        Event::DoneUnheard,
    ];
    let faults = [Event::Fails(slot), Event::Errors];
    let words = [
        Event::Approves,
        Event::ApprovesTemplate,
        Event::Aborts,
        Event::GoesBack,
        Event::Holds,
        Event::Resumes,
        Event::Resumes,
    ];
    let changes = [
        Event::Names('g'),
        Event::Names('g'),
        Event::Names('b'),
        Event::Names('d'),
        Event::GivesUp,
        Event::GivesUp,
        Event::NewTemplate(dice.throw(8)),
        Event::ScalesTo(1 + dice.throw(3) as u32),
        Event::StepsBecome(dice.throw(3)),
        Event::Fit([2, 3, 5, u32::MAX, u32::MAX, u32::MAX][dice.throw(6)]),
        Event::Ticks(wait),
    ];
    let unlikely = dice.throw(12);
    let of = |all: &[Event], dice: &mut Dice| all[dice.throw(all.len())];
    match unlikely {
        0 if trouble.crashes => of(&crashes, dice),
        1 if trouble.faults => of(&faults, dice),
        2 if trouble.words => of(&words, dice),
        3 if trouble.changes => of(&changes, dice),
        4 => Event::Ticks(wait),
        _ => of(&right, dice),
    }
}

fn walk(seed: u64, trouble: Trouble) -> (World, Phase) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut world = World::new();
    let _ = world.comes_to_rest();
    world.take(Event::StepsBecome(seed as usize));
    for step in 0..STEPS {
        let next = event(&mut dice, trouble);
        if std::env::var_os("WALK").is_some() {
            eprintln!(
                "{seed} {step}: {next:?}, in hand {:?}",
                world.in_hand.as_ref().map(|hand| &hand.actions)
            );
        }
        world.take(next);
    }
    // No pod is away for ever, and room comes again.
    world.take(Event::Fit(u32::MAX));
    for slot in Slot::ALL {
        world.take(Event::Settles(slot));
        world.take(Event::Opens(slot));
    }
    let phase = world.comes_to_rest();
    world.check_rest(phase);
    (world, phase)
}

fn walks(name: &str, trouble: Trouble) {
    let (mut moves, mut steps, mut narrowed) = (0, 0, 0);
    let mut ends = std::collections::BTreeMap::<&str, u64>::new();
    for seed in 0..WALKS {
        let walked = std::panic::catch_unwind(|| walk(seed, trouble));
        let (world, phase) = walked.unwrap_or_else(|_| panic!("{name}: seed {seed}"));
        moves += world.moves;
        steps += world.steps_taken;
        narrowed += world.narrowed;
        *ends.entry(phase.name()).or_default() += 1;
    }
    println!("{name}: {WALKS} walks, {moves} moves of traffic, {steps} steps, {narrowed} back from one, ends {ends:?}");
    assert!(moves > WALKS + WALKS / 4 && steps > WALKS / 4, "traffic was moved");
    assert!(
        narrowed > 0 || !(trouble.words || trouble.faults),
        "it went back from steps"
    );
}

/// How many walks of each kind.
const WALKS: u64 = 600;

const QUIET: Trouble = Trouble {
    crashes: false,
    faults: false,
    words: false,
    changes: true,
};

#[test]
fn changes_at_any_moment_come_to_their_end_without_a_gap() {
    walks("changes", QUIET);
}

#[test]
fn a_controller_that_ends_or_sleeps_between_any_two_writes_breaks_nothing() {
    walks("crashes", Trouble { crashes: true, ..QUIET });
}

#[test]
fn people_may_say_anything_at_any_moment() {
    walks("words", Trouble { words: true, ..QUIET });
}

#[test]
fn pods_that_end_and_requests_that_fail_move_traffic_to_nothing_worse() {
    walks(
        "faults",
        Trouble {
            faults: true,
            words: true,
            ..QUIET
        },
    );
}

#[test]
fn all_of_it_together() {
    let all = Trouble {
        crashes: true,
        faults: true,
        words: true,
        changes: true,
    };
    walks("all", all);
}
