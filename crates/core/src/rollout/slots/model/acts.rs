//! What controller and platform do in the model, and what must hold of each step.

use super::*;
use crate::rollout::{self, BY_ITSELF};

impl World {
    pub(super) fn plans(&mut self) {
        let seen = self.seen();
        let plan = plan(&self.spec(), &self.pointer, &seen, self.now);
        self.planned_ready.clear();
        for action in &plan.actions {
            if let Action::Scale { slot, replicas } = action {
                self.check_fits(&seen, *slot, *replicas);
            }
            let target = match action {
                Action::Select(selection) => {
                    self.check_whole(selection);
                    &selection.target
                }
                Action::Widen { target, .. } => target,
                _ => continue,
            };
            assert!(self.ready(target) > 0, "I-8: traffic moves only to what is ready");
            self.planned_ready.insert(target.clone());
        }
        self.in_hand = Some(InHand {
            epoch: self.epoch,
            versions: self.versions(),
            was_held: self.pointer.promotion_hold.is_some(),
            actions: plan.actions,
        });
    }

    /// Nothing new answers alone before its last step, and with all of its pods.
    fn check_whole(&self, selection: &Selection) {
        let Some(traffic) = self.traffic.as_ref().filter(|traffic| traffic.target.is_some()) else {
            return;
        };
        let other = self.pointer.other.as_ref();
        let is_return = other.is_some_and(|other| other.role == LineageRole::Candidate)
            || (other.is_none() && selection.returned_from.is_some())
            || traffic.target.as_ref() == Some(&selection.target);
        if is_return || self.steps == Steps::default() {
            return;
        }
        let widened = traffic.widened.as_ref().expect("it had its steps");
        assert_eq!(widened.target, selection.target, "it had its steps");
        assert!(widened.percent >= 50, "it had its last step: {widened:?}");
        let ready = self.ready(&selection.target);
        assert!(ready >= self.replicas as usize, "all of its pods are ready");
    }

    /// Pods beside those that answer are asked for all or not at all.
    fn check_fits(&self, seen: &Seen, slot: Slot, replicas: u32) {
        let (has, traffic) = (seen.slot(slot), seen.traffic.as_ref());
        let is_previous = has.target.as_ref().map(Target::id) == traffic.and_then(|traffic| traffic.previous.clone());
        let is_surge = seen.selected().is_some_and(|active| active != slot) && !is_previous;
        let more = replicas.saturating_sub(has.pods_left);
        assert!(
            !is_surge || more == 0 || i128::from(more) <= self.free(),
            "a surge is asked for that does not fit"
        );
    }

    /// Does the first thing in hand; false where nothing is left.
    pub(super) fn acts(&mut self) -> bool {
        let Some(mut hand) = self.in_hand.take().filter(|hand| !hand.actions.is_empty()) else {
            return false;
        };
        let action = hand.actions.remove(0);
        if self.act(&mut hand, &action) {
            self.in_hand = Some(hand);
        }
        true
    }

    /// Whether it was done; what was not ends the list.
    pub(super) fn act(&mut self, hand: &mut InHand, action: &Action) -> bool {
        match action {
            Action::CreateServices => {
                if self.traffic.is_some() {
                    return false;
                }
                self.traffic = Some(Traffic {
                    epoch: hand.epoch,
                    ..Traffic::default()
                });
                self.traffic_version += 1;
                hand.versions[2] = self.traffic_version;
                true
            }
            Action::Fence => self.fence(hand),
            Action::Scale { slot, replicas } => self.scale(hand, *slot, *replicas),
            Action::SetTarget { slot, target } => self.set_target(hand, *slot, target),
            Action::Select(selection) => self.select(hand, selection),
            Action::Widen { slot, target, percent } => self.widen(hand, *slot, target, *percent),
            Action::Preview(target) => {
                // A Service of its own, of no consequence for traffic.
                if let Some(traffic) = &mut self.traffic {
                    traffic.preview = target.clone();
                }
                true
            }
            Action::Demote(_) | Action::Shed { .. } => {
                self.demoted_at = Some(self.now);
                true
            }
            Action::EndDemotion(_) => true,
            Action::HoldPromotion(wish) => {
                let (nonce, now) = (format!("h{}", self.pointer.sequence), self.now);
                let held = self
                    .pointer
                    .hold_promotion(hand.epoch, &wish.actor, &wish.reason, nonce, now);
                hand.was_held = true;
                held.map(|next| self.pointer = next).is_ok()
            }
            Action::Pointer(action) => self.edit(hand.epoch, action),
        }
    }

    fn fence(&mut self, hand: &mut InHand) -> bool {
        for (slot, at) in [(Slot::Blue, 0), (Slot::Green, 1)] {
            let place = self.place(slot);
            if place.seen.target.is_none() {
                continue;
            }
            if place.version != hand.versions[at] {
                return false;
            }
            place.seen.epoch = hand.epoch;
            place.version += 1;
            hand.versions[at] = place.version;
        }
        let Some(traffic) = self
            .traffic
            .as_mut()
            .filter(|_| self.traffic_version == hand.versions[2])
        else {
            return false;
        };
        traffic.epoch = hand.epoch;
        self.traffic_version += 1;
        hand.versions[2] = self.traffic_version;
        true
    }

    fn scale(&mut self, hand: &mut InHand, slot: Slot, replicas: u32) -> bool {
        let at = slot as usize;
        if self.at(slot).version != hand.versions[at] {
            return false;
        }
        if replicas == 0 {
            self.check_taken_away(slot);
        }
        let place = self.place(slot);
        (place.seen.replicas, place.seen.is_settled) = (replicas, false);
        place.version += 1;
        hand.versions[at] = place.version;
        true
    }

    fn set_target(&mut self, hand: &mut InHand, slot: Slot, target: &Target) -> bool {
        let (at, now) = (slot as usize, self.now);
        if self.at(slot).version != hand.versions[at] {
            return false;
        }
        self.check_taken_away(slot);
        let place = self.place(slot);
        assert!(
            place.seen.pods.is_empty(),
            "a slot has no pods when its template changes"
        );
        place.seen = SlotSeen {
            target: Some(target.clone()),
            since: now,
            epoch: hand.epoch,
            ..SlotSeen::default()
        };
        place.version += 1;
        hand.versions[at] = place.version;
        true
    }

    /// Pods are to go: not those that answer, and not a way back before its time.
    fn check_taken_away(&self, slot: Slot) {
        assert_ne!(self.selected(), Some(slot), "I-6: what is selected stays");
        assert_ne!(self.seen().widened(), Some(slot), "I-6: what is selected beside stays");
        let id = self.at(slot).seen.target.as_ref().map(Target::id);
        if let Some((_, since)) = self.way_back.as_ref().filter(|(target, _)| Some(target) == id.as_ref()) {
            assert!(
                self.now.since(*since) >= 3_600 * SECOND,
                "I-9: the way back is warm for keep"
            );
        }
    }

    fn widen(&mut self, hand: &mut InHand, slot: Slot, target: &TargetId, percent: u32) -> bool {
        if self.traffic_version != hand.versions[2] || self.traffic.is_none() {
            return false;
        }
        let holds = self.at(slot).seen.target.clone().expect("it has a target");
        assert_eq!(holds.id(), *target, "I-6: the slot holds what is selected beside");
        assert_ne!(self.selected(), Some(slot), "two slots share traffic");
        assert!(!hand.was_held, "I-9: traffic takes no step while it is held");
        assert_ne!(holds.template.as_str(), BROKEN, "nothing that is never ready answers");
        if hand.epoch == self.epoch {
            let claimed = self.pointer.active.as_ref().map(|active| &active.lineage);
            assert_eq!(Some(&holds.lineage), claimed, "traffic goes where the pointer says");
        }
        let Some(traffic) = &mut self.traffic else { return false };
        let before = traffic.widened.as_ref().filter(|widened| widened.target == *target);
        assert!(before.is_none_or(|before| before.percent < percent), "a step goes on");
        traffic.widened = Some(Widened {
            target: target.clone(),
            percent,
            since: self.now,
        });
        traffic.epoch = hand.epoch;
        self.traffic_version += 1;
        hand.versions[2] = self.traffic_version;
        (self.demoted_at, self.steps_taken) = (None, self.steps_taken + 1);
        true
    }

    /// What is selected answers alone again.
    fn narrow(&mut self, hand: &mut InHand, selection: &Selection) -> bool {
        let Some(traffic) = &mut self.traffic else { return false };
        let widened = traffic.widened.take().expect("something was selected beside");
        let is_new = selection.returned_from.is_some() && selection.returned_from != traffic.returned_from;
        let is_left = |target: &&Target| target.id() == widened.target;
        let places = [&self.blue, &self.green].into_iter();
        let left = places.filter_map(|place| place.seen.target.as_ref()).find(is_left);
        let candidate = self.pointer.other.as_ref();
        let candidate = candidate.filter(|other| other.role == LineageRole::Candidate);
        let candidate = candidate.map(|other| &other.lineage);
        let is_return = is_new || (candidate.is_some() && candidate == left.map(|target| &target.lineage));
        if is_return {
            // Somebody may have resumed since.
            let is_held = self.pointer.promotion_hold.is_some() || hand.was_held;
            assert!(
                is_held || hand.epoch != self.epoch,
                "I-9: after a return nothing is promoted"
            );
            (self.returned, self.narrowed) = (self.pointer.promotion_hold.is_some(), self.narrowed + 1);
        }
        (traffic.previous, traffic.returned_from) = (selection.previous.clone(), selection.returned_from.clone());
        (traffic.since, traffic.epoch) = (self.now, hand.epoch);
        self.traffic_version += 1;
        hand.versions[2] = self.traffic_version;
        (self.demoted_at, self.failing, self.wish) = (None, None, None);
        true
    }

    fn select(&mut self, hand: &mut InHand, selection: &Selection) -> bool {
        if self.traffic_version != hand.versions[2] || self.traffic.is_none() {
            return false;
        }
        let target = self.at(selection.slot).seen.target.clone().expect("it has a target");
        assert_eq!(target.id(), selection.target, "I-6: the slot holds what is selected");
        let active = self.pointer.active.as_ref().expect("something is published");
        let before = self.traffic.as_ref().and_then(|traffic| traffic.target.clone());
        if before.as_ref() == Some(&selection.target) {
            return self.narrow(hand, selection);
        }
        let other = self.pointer.other.as_ref();
        let left = self.selected().and_then(|slot| self.at(slot).seen.target.clone());
        let named = other.filter(|other| left.as_ref().is_some_and(|left| left.lineage == other.lineage));
        let is_of_lineage = named.is_some_and(|other| other.role == LineageRole::Candidate);
        let is_return = is_of_lineage || (named.is_none() && selection.returned_from.is_some());
        if hand.epoch == self.epoch {
            assert_eq!(target.lineage, active.lineage, "traffic goes where the pointer says");
        }
        let is_template = left.as_ref().is_some_and(|left| left.lineage == target.lineage);
        if !is_return && before.is_some() && is_template {
            // A hold that came between plan and act is obeyed by the next plan.
            assert!(!hand.was_held, "I-9: nothing is promoted while it is held");
            assert_ne!(target.template.as_str(), BROKEN, "nothing that is never ready answers");
        }
        if is_return {
            // Somebody may have resumed since.
            let is_held = self.pointer.promotion_hold.is_some();
            assert!(is_held || hand.was_held, "I-9: after a return nothing is promoted");
            self.returned = is_held;
        }
        let Some(traffic) = &mut self.traffic else { return false };
        // A lineage that a person gave up before traffic left it is no way back.
        let is_given_up = named.is_none() && left.is_some_and(|left| left.lineage != target.lineage);
        let way_back = before.filter(|_| !is_return && !is_given_up);
        self.way_back = way_back.map(|before| (before, self.now));
        (traffic.target, traffic.widened) = (Some(selection.target.clone()), None);
        (traffic.previous, traffic.returned_from) = (selection.previous.clone(), selection.returned_from.clone());
        (traffic.since, traffic.epoch) = (self.now, hand.epoch);
        self.traffic_version += 1;
        hand.versions[2] = self.traffic_version;
        self.demoted_at = None;
        self.failing = None;
        self.moves += 1;
        self.wish = None;
        true
    }

    fn edit(&mut self, epoch: u64, action: &rollout::Action) -> bool {
        use rollout::Action as Edit;
        let (nonce, now, before) = (format!("x{}", self.pointer.sequence), self.now, self.pointer.clone());
        let next = match action {
            Edit::Level { lineage } => before.want_level(epoch, lineage, nonce, now),
            Edit::StopLeveling | Edit::LevelLater => before.stop_leveling(epoch, nonce, now),
            Edit::Flip(flip) => before.flip(epoch, flip, nonce, now),
            Edit::Return(flip) => before.return_to_way_back(epoch, flip, nonce, now),
            Edit::Retire { lineage } => before.drop_other(epoch, lineage, nonce, now),
            Edit::Measure { lineage, generation } => {
                if epoch == self.epoch {
                    self.measuring = Some((lineage.clone(), *generation));
                }
                return true;
            }
        };
        let Ok(next) = next else { return false };
        assert_eq!(epoch, self.epoch, "a controller that was succeeded moves nothing");
        match action {
            Edit::Level { .. } => self.memory.leveling_since = Some(now),
            Edit::StopLeveling => self.memory.leveling_since = None,
            Edit::LevelLater => {
                self.memory.leveling_since = None;
                self.memory.leveling.fail(now);
            }
            Edit::Flip(flip) => self.check_flip(flip),
            Edit::Return(_) => {
                self.memory = Observation::default();
                self.returned = true;
            }
            Edit::Retire { lineage } => {
                let is_of = |slot: &Slot| {
                    let seen = &self.at(*slot).seen;
                    let has = seen.target.as_ref().is_some_and(|target| target.lineage == *lineage);
                    has && !seen.pods.is_empty()
                };
                assert!(!Slot::ALL.iter().any(is_of), "a lineage is un-named after its last pod");
            }
            Edit::Measure { .. } => {}
        }
        self.pointer = next;
        true
    }

    fn check_flip(&mut self, flip: &crate::pointer::Flip) {
        assert!(!self.returned, "I-9: nothing is promoted after a return until resumed");
        let stored = self.stored.as_ref().filter(|stored| stored.0 == flip.lineage);
        let (_, judged, _) = stored.expect("I-19: nothing is promoted unseen");
        if flip.actor == BY_ITSELF {
            assert_eq!(
                quality(&flip.lineage),
                'g',
                "I-19: {} is promoted by itself",
                flip.lineage
            );
        } else {
            let word = format!("{} {judged}", flip.lineage);
            assert!(self.approved.contains(&word), "nobody said so of what was judged");
        }
        self.memory = Observation::default();
        self.memory.measuring = Tries::default();
    }
}
