//! What a shard decides of a control: whether it is news, and which entry says so.

use bytes::Bytes;
use minicbor::{Decode, Encode};
use troupe_core::control::{CONTROLS_MAX, ControlEntry, ControlKey, ControlSet, Setting};
use troupe_core::{CommandId, ErrorInfo, Principal, Timestamp};

use crate::error::EngineError;

/// When a command counts as given that changes nothing, where nobody knows of any on its control: before whatever is to come.
pub(super) const BEFORE_ALL: Timestamp = Timestamp(i64::MIN);

/// A command, the same for every shard.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ControlRequest {
    /// When it was given.
    #[n(0)]
    pub at: Timestamp,
    /// What is controlled.
    #[n(1)]
    pub key: ControlKey,
    /// What it is set to; none lifts it.
    #[n(2)]
    pub setting: Option<Setting>,
    /// Its id.
    #[n(3)]
    pub command: CommandId,
    /// Who gave it.
    #[n(4)]
    pub principal: Option<Principal>,
    /// Why, for people.
    #[n(5)]
    pub reason: Option<String>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody gives it, perhaps again: it counts from when it was first given.
    Command,
    /// Another shard has it so: all are to agree on the latest.
    Copy,
}

/// What a shard makes of a request.
#[derive(Debug)]
pub enum Decided {
    /// It knows of this command, or need not know of it.
    Unchanged,
    /// This entry is to be durable; whether it changes the control, or only keeps its id.
    Append(ControlEntry, bool),
    /// It cannot be.
    Refused(EngineError),
}

/// The controls of one shard, perhaps ahead of what is durable.
#[derive(Clone, Debug, Default)]
pub struct ControlsMachine {
    ahead: ControlSet,
}

impl ControlsMachine {
    /// Goes on from what is durable.
    #[must_use]
    pub fn new(durable: ControlSet) -> Self {
        Self { ahead: durable }
    }

    /// The controls with everything that was decided.
    #[must_use]
    pub fn set(&self) -> &ControlSet {
        &self.ahead
    }

    /// The same as a snapshot.
    ///
    /// # Panics
    /// Never: writing to a vector cannot fail.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        minicbor::to_vec(&self.ahead)
            .expect("writing to a vector cannot fail")
            .into()
    }

    /// Decides a request. A command that changes nothing leaves its id all the same: when it comes again, planned by somebody who did
    /// not know of it, it must not undo what was said meanwhile.
    pub fn decide(&mut self, request: ControlRequest, origin: Origin) -> Decided {
        let known = self.ahead.register(&request.key);
        let is_older = known.is_some_and(|known| (known.at, &known.command) >= (request.at, &request.command));
        let is_known = match (self.ahead.given_at(&request.command), origin) {
            // Whoever planned it under another time did not know of the first.
            (Some(_), Origin::Command) => true,
            (Some(given), Origin::Copy) => is_older || given == request.at,
            (None, Origin::Command) => false,
            (None, Origin::Copy) => is_older,
        };
        if is_known {
            return Decided::Unchanged;
        }
        let only_id = is_older || request.at == BEFORE_ALL;
        // Where there was nothing to lift, that it is lifted is no news; it is kept for an older command that comes late.
        let is_news = !only_id && (known.is_some() || request.setting.is_some());
        if !only_id && request.setting.is_some() && !self.ahead.has_room_for(&request.key) {
            let message = format!("{CONTROLS_MAX} controls are in force already");
            return Decided::Refused(EngineError::Refused(Box::new(ErrorInfo::new(
                "TOO_MANY_CONTROLS",
                message,
            ))));
        }
        let entry = ControlEntry {
            seq: self.ahead.seq().next(),
            at: request.at,
            key: request.key,
            setting: request.setting,
            command: request.command,
            principal: request.principal,
            reason: request.reason,
            only_id,
        };
        self.ahead.apply(&entry);
        Decided::Append(entry, is_news)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    use troupe_core::control::{Clocks, Scope};

    use crate::controls::given_at;

    fn key() -> ControlKey {
        ControlKey::Pause(Scope::All)
    }

    fn request(at: i64, command: &str, setting: Option<Setting>) -> ControlRequest {
        ControlRequest {
            at: Timestamp(at),
            key: key(),
            setting,
            command: command.into(),
            principal: None,
            reason: None,
        }
    }

    /// When a command counts as given, by what one shard knows.
    fn planned(machine: &ControlsMachine, command: &str, setting: Option<Setting>, now: i64) -> Timestamp {
        let sets = [Arc::new(machine.set().clone())];
        given_at(&sets, &key(), setting, Some(&command.into()), Timestamp(now)).unwrap()
    }

    const PAUSED: Option<Setting> = Some(Setting::Paused { clocks: Clocks::Run });

    #[test]
    fn a_repeated_command_and_an_older_one_change_nothing() {
        let mut machine = ControlsMachine::default();
        let first = machine.decide(request(5, "a", PAUSED), Origin::Command);
        assert!(matches!(first, Decided::Append(entry, true) if entry.seq.0 == 1));
        let again = machine.decide(request(5, "a", PAUSED), Origin::Command);
        assert!(matches!(again, Decided::Unchanged));
        let lifted = machine.decide(request(9, "c", None), Origin::Command);
        assert!(matches!(lifted, Decided::Append(entry, true) if entry.seq.0 == 2));
        let late = machine.decide(request(7, "b", PAUSED), Origin::Command);
        assert!(
            matches!(late, Decided::Append(entry, false) if entry.only_id),
            "a later one was there first: its id alone is kept"
        );
        let copied = machine.decide(request(8, "d", PAUSED), Origin::Copy);
        assert!(
            matches!(copied, Decided::Unchanged),
            "whoever has it so learns the later"
        );
        assert!(machine.set().holds_nothing());
    }

    #[test]
    fn a_command_counts_from_when_it_was_first_given() {
        let mut machine = ControlsMachine::default();
        machine.decide(request(1, "x", None), Origin::Command);
        machine.decide(request(2, "y", PAUSED), Origin::Command);
        // Whoever was first asked for x had looked before it was given to another one, and tells of it only now.
        let late = machine.decide(request(3, "x", None), Origin::Command);
        assert!(matches!(late, Decided::Unchanged));
        assert!(!machine.set().holds_nothing());
        // A shard that had it under the later time wins over all: they agree.
        let copied = machine.decide(request(3, "x", None), Origin::Copy);
        assert!(matches!(copied, Decided::Append(_, true)));
        assert!(machine.set().holds_nothing());
    }

    #[test]
    fn a_command_that_changed_nothing_changes_nothing_when_it_comes_again() {
        let mut machine = ControlsMachine::default();
        machine.decide(request(5, "p", PAUSED), Origin::Command);
        let at = planned(&machine, "x", PAUSED, 9);
        let kept = machine.decide(request(at.0, "x", PAUSED), Origin::Command);
        assert!(matches!(kept, Decided::Append(entry, false) if entry.only_id));
        assert_eq!(machine.set().register(&key()).unwrap().command.as_str(), "p");
        machine.decide(request(10, "y", None), Origin::Command);
        assert_eq!(planned(&machine, "x", PAUSED, 20), at);
        let again = machine.decide(request(20, "x", PAUSED), Origin::Command);
        assert!(matches!(again, Decided::Unchanged));
        assert!(machine.set().holds_nothing());
    }

    #[test]
    fn what_lifts_nothing_where_nothing_ever_was_leaves_its_id_and_no_register() {
        let mut machine = ControlsMachine::default();
        let at = planned(&machine, "x", None, 9);
        let kept = machine.decide(request(at.0, "x", None), Origin::Command);
        let Decided::Append(entry, false) = kept else {
            panic!("its id is kept");
        };
        assert_eq!(machine.set().registers().count(), 0);
        machine.decide(request(10, "y", PAUSED), Origin::Command);
        assert_eq!(planned(&machine, "x", None, 20), at);
        let again = machine.decide(request(20, "x", None), Origin::Command);
        assert!(matches!(again, Decided::Unchanged));
        assert!(!machine.set().holds_nothing());
        // As it is saved and read again.
        let read: ControlEntry = minicbor::decode(&minicbor::to_vec(&entry).unwrap()).unwrap();
        assert_eq!(read, entry);
        let set: ControlSet = minicbor::decode(&machine.encoded()).unwrap();
        assert_eq!(set, *machine.set());
    }
}
