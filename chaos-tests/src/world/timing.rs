//! The timers' shell.

use troupe_core::{ShardId, Timestamp};
use troupe_ports::StateStore;

use super::process::{ProcessNo, ShardMessage, TimersMessage};
use super::schedule::{Caller, Timed};
use super::{World, at_once};

/// Longest sleep.
const SLEEP_MAX_MS: u64 = 1_000;
/// Pause before the store is asked again after it failed.
const RETRY_MS: u64 = 200;
/// Most timers that fire at once.
const FIRED_MAX: usize = 4;
/// Pause before more are fired.
const CROWDED_MS: u64 = 10;

impl World {
    pub(super) fn timers_step(&mut self, process: ProcessNo, shard: ShardId) {
        let now = self.now;
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let timers = &mut serving.timers;
        match timers.inbox.pop_front() {
            None => return,
            Some(TimersMessage::Set(id, at)) => timers.machine.set(id, at),
            Some(TimersMessage::Park(id, at)) => timers.machine.park(id, at),
            Some(TimersMessage::HeldBack(id, workflow, at, seen)) => {
                let is_current = serving.controls.in_force.version() == seen;
                timers.machine.hold_back(id, workflow, at, is_current);
            }
            Some(TimersMessage::Lifted(scope)) => timers.machine.lifted(&scope, now),
            Some(TimersMessage::Recovered(parked)) => {
                parked.into_iter().for_each(|(at, id)| timers.machine.park(id, at));
            }
            Some(TimersMessage::Checkpointed) => timers.machine.checkpointed(),
            Some(TimersMessage::Tick) => timers.armed = None,
        }
        let wait = self.refill(caller);
        let wait = self.fire(caller).or(wait);
        self.arm(caller, wait);
    }

    /// Reads the store when the window runs low; the pause before another try if that failed.
    fn refill(&mut self, caller: Caller) -> Option<u64> {
        let reachable = self.reaches(caller.process);
        let mut factor = 1;
        loop {
            let serving = self.serving(caller)?;
            let asked = serving.timers.machine.wants()? * factor;
            if !reachable {
                return Some(RETRY_MS);
            }
            let rows = at_once(self.store.timers_due(caller.shard, Timestamp(i64::MAX), asked));
            match rows {
                Ok(rows) => {
                    if self.serving(caller)?.timers.machine.refill(&rows, asked) {
                        return None;
                    }
                    factor *= 2;
                }
                Err(error) => {
                    self.trouble(format!("timers cannot be read: {error}"));
                    return Some(RETRY_MS);
                }
            }
        }
    }

    /// Hands what is due to the shard; a pause if more is due than may fire.
    fn fire(&mut self, caller: Caller) -> Option<u64> {
        let now = self.now;
        let serving = self.serving(caller)?;
        let everything = serving.controls.in_force.hold_everything();
        serving.timers.machine.hold_everything(everything);
        serving.timers.machine.next().filter(|first| *first <= now)?;
        let due = serving.timers.machine.due(now, FIRED_MAX);
        let more = serving
            .timers
            .machine
            .next()
            .filter(|next| *next <= now)
            .map(|_| CROWDED_MS);
        serving
            .inbox
            .push_back(ShardMessage::Due(due.iter().map(|(_, id)| *id).collect()));
        *self.counts.entry("timers fired").or_default() += due.len() as u64;
        more
    }

    fn arm(&mut self, caller: Caller, wait_ms: Option<u64>) {
        let now = self.now;
        let Some(serving) = self.serving(caller) else { return };
        let timers = &mut serving.timers;
        let Some(at) = wait_ms.map(|wait| now.plus_ms(wait)).or(timers.machine.next()) else {
            return;
        };
        if timers.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        let sleep_ms = at.since_ms(now).min(SLEEP_MAX_MS);
        timers.armed = Some(now.plus_ms(sleep_ms));
        self.after(sleep_ms, Timed::TimersTick(caller));
    }

    pub(super) fn timers_tick(&mut self, caller: Caller) {
        let now = self.now;
        if let Some(serving) = self.serving(caller)
            // A tick that an earlier one replaced never comes.
            && serving.timers.armed.is_some_and(|armed| armed <= now)
        {
            serving.timers.inbox.push_back(TimersMessage::Tick);
        }
    }
}
