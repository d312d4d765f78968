//! What a shard's log keeps of controls, with every kind of them.

use troupe_core::control::{BreakerOverride, Clocks, ControlEntry, ControlKey, ControlSet, Scope, Setting};
use troupe_core::{Seq, Timestamp};

use crate::values::AT;

pub(crate) fn entries() -> Vec<ControlEntry> {
    let workflow = || Scope::Workflow("orders".into());
    let node = Scope::Node {
        workflow: "orders".into(),
        node: "pay".into(),
    };
    let paused = |clocks| Some(Setting::Paused { clocks });
    let stopped = |cancel_running| Some(Setting::Stopped { cancel_running });
    let breaker = |stands| Some(Setting::Breaker(stands));
    let commands = [
        (ControlKey::Pause(Scope::All), paused(Clocks::Freeze)),
        (ControlKey::Pause(Scope::All), None),
        (ControlKey::Pause(workflow()), paused(Clocks::Freeze)),
        (ControlKey::Pause(node), paused(Clocks::Run)),
        (
            ControlKey::Pause(Scope::NodeType("http".to_owned())),
            paused(Clocks::Run),
        ),
        (ControlKey::Stop(Scope::All), stopped(true)),
        (ControlKey::Stop(workflow()), stopped(false)),
        (
            ControlKey::Breaker("a.test:443".to_owned()),
            breaker(BreakerOverride::Open),
        ),
        (
            ControlKey::Breaker("b.test:443".to_owned()),
            breaker(BreakerOverride::Closed),
        ),
    ];
    let mut entries: Vec<ControlEntry> = commands
        .into_iter()
        .zip(1..)
        .map(|((key, setting), seq)| ControlEntry {
            seq: Seq(seq),
            at: AT.plus_ms(10 * seq),
            key,
            setting,
            command: format!("command-{seq}").into(),
            principal: Some("ada".into()),
            reason: Some("a test".to_owned()),
            only_id: false,
        })
        .collect();
    // As a command stands there that changed nothing.
    entries.push(ControlEntry {
        seq: Seq(10),
        at: Timestamp(i64::MIN),
        key: ControlKey::Breaker("c.test:443".to_owned()),
        setting: None,
        command: "command-10".into(),
        principal: None,
        reason: None,
        only_id: true,
    });
    entries
}

pub(crate) fn set() -> ControlSet {
    let mut set = ControlSet::default();
    entries().iter().for_each(|entry| set.apply(entry));
    set
}
