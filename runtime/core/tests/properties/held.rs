//! What random executions meet of pauses of wider scopes, and of clocks that stand still.

use troupe_core::execution::{Effect, Event, Verb};

use super::reopened::state_before;
use crate::reference::Control;
use crate::support::duo::Duo;

/// Every kind must be met.
pub const WANTED: [&str; 15] = [
    "begun under a control",
    "held as a whole",
    "node held by itself",
    "stopped in an emergency",
    "clock stood",
    "clock of a node stood apart",
    "clock stood for two reasons",
    "own pause froze",
    "own freeze became a pause",
    "frozen with the parent",
    "told to freeze",
    "attempt started when let go",
    "due when let go",
    "child begun when let go",
    "undoing held",
];

pub fn met(duo: &Duo) -> Vec<String> {
    let mut met: Vec<String> = Vec::new();
    let mut see = |what: &str, is_seen: bool| met.extend(is_seen.then(|| what.to_owned()));
    let stops = |(_, _, control): &(i64, _, Option<Control>)| *control == Some(Control::Stop);
    for (place, (entry, effects)) in duo.log.iter().enumerate() {
        let tells = |effect: &Effect| {
            matches!(
                effect,
                Effect::TellChild(_, troupe_core::execution::ChildCommand::Freeze)
            )
        };
        see("told to freeze", effects.iter().any(tells));
        match &entry.event {
            Event::Started(started) => see("begun under a control", started.controls.is_some()),
            Event::Frozen => see("own pause froze", true),
            Event::FrozenWithParent => see("frozen with the parent", true),
            Event::Paused => {
                let own = |holds: &troupe_core::execution::Holds| holds.own_freeze;
                let before = state_before(duo, place);
                see("own freeze became a pause", before.holds.as_deref().is_some_and(own));
            }
            Event::ControlsChanged(seen) => {
                see("held as a whole", seen.whole);
                see("stopped in an emergency", seen.whole && duo.commands.iter().any(stops));
                see("node held by itself", !seen.nodes.is_empty());
                see("clock stood", !seen.spans.is_empty());
                let apart = seen.node_spans.iter().any(|(_, spans)| !spans.is_empty());
                see("clock of a node stood apart", apart && seen.spans.is_empty());
                let before = state_before(duo, place);
                let own = before.holds.as_deref().is_some_and(|holds| holds.own_freeze);
                see("clock stood for two reasons", own && !seen.spans.is_empty());
                let undoes = matches!(before.status, troupe_core::execution::Status::Compensating(_));
                see("undoing held", undoes && seen.whole);
                let starts = |effect: &Effect| matches!(effect, Effect::StartAttempt(_));
                see("attempt started when let go", effects.iter().any(starts));
                let begins = |effect: &Effect| matches!(effect, Effect::StartChild(_));
                see("child begun when let go", effects.iter().any(begins));
                let ends = |verb| matches!(verb, Some(Verb::NodeCompleted | Verb::NodeFailed));
                let due = entry.transitions.iter().any(|transition| ends(transition.verb()));
                see("due when let go", due);
            }
            _ => {}
        }
    }
    met
}
