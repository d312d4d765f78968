//! What a shard decides of a control: whether it is news, and which entry says so.

use bytes::Bytes;
use minicbor::{Decode, Encode};
use troupe_core::control::{CONTROLS_MAX, ControlEntry, ControlKey, ControlSet, Setting};
use troupe_core::{CommandId, ErrorInfo, Principal, Timestamp};

use crate::error::EngineError;

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

/// What a shard makes of a request.
#[derive(Debug)]
pub enum Decided {
    /// It knows of this command, or of a later one.
    Unchanged,
    /// This entry is to be durable.
    Append(ControlEntry),
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

    /// Decides a request.
    pub fn decide(&mut self, request: ControlRequest) -> Decided {
        let known = self.ahead.register(&request.key);
        let is_older = known.is_some_and(|known| (known.at, &known.command) >= (request.at, &request.command));
        if is_older || self.ahead.given_at(&request.command) == Some(request.at) {
            return Decided::Unchanged;
        }
        if request.setting.is_some() && !self.ahead.has_room_for(&request.key) {
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
        };
        self.ahead.apply(&entry);
        Decided::Append(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_core::control::{Clocks, Scope};

    fn request(at: i64, command: &str, setting: Option<Setting>) -> ControlRequest {
        ControlRequest {
            at: Timestamp(at),
            key: ControlKey::Pause(Scope::All),
            setting,
            command: command.into(),
            principal: None,
            reason: None,
        }
    }

    const PAUSED: Option<Setting> = Some(Setting::Paused { clocks: Clocks::Run });

    #[test]
    fn a_repeated_command_and_an_older_one_change_nothing() {
        let mut machine = ControlsMachine::default();
        assert!(matches!(machine.decide(request(5, "a", PAUSED)), Decided::Append(entry) if entry.seq.0 == 1));
        assert!(matches!(machine.decide(request(5, "a", PAUSED)), Decided::Unchanged));
        assert!(matches!(machine.decide(request(9, "c", None)), Decided::Append(entry) if entry.seq.0 == 2));
        assert!(
            matches!(machine.decide(request(7, "b", PAUSED)), Decided::Unchanged),
            "a later one was there first"
        );
        assert!(machine.set().holds_nothing());
    }
}
