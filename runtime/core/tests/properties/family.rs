//! What random executions meet of child executions.

use troupe_core::NodeIx;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{ChildCommand, ChildReport, Children, Effect, Event};

use crate::support::duo::{Duo, Stimulus};

/// Every kind must be met.
pub const WANTED: [&str; 24] = [
    "child begun: subworkflow",
    "child begun: forEach",
    "child begun: loop",
    "child begun: detached",
    "child begun when another ended",
    "several reports at once",
    "report of what is over beside news",
    "refused report",
    "all children of a list completed",
    "failure of a child tolerated",
    "enough children completed",
    "error CHILD_FAILED",
    "error NODE_DATA_INVALID",
    "third iteration",
    "parent in a later visit",
    "parent decided by hand",
    "told to pause",
    "told to go on",
    "told to cancel",
    "child begun by a resume",
    "child begun while failing",
    "report while paused",
    "paused with the parent",
    "two parents at once",
];

pub fn met(duo: &Duo) -> Vec<String> {
    let mut met: Vec<String> = Vec::new();
    let mut see = |what: &str, is_seen: bool| met.extend(is_seen.then(|| what.to_owned()));
    for start in &duo.begun {
        let kind = duo.plan.node(start.child.node).kind.as_str();
        see(&format!("child begun: {kind}"), true);
        see("child begun: detached", !start.attached);
        see("third iteration", kind == "loop" && start.child.index == 2);
        see("parent in a later visit", start.child.visit.0 > 1);
    }
    let is_stale = |(stimulus, _): &(Stimulus, String)| matches!(stimulus, Stimulus::Children(_));
    see("refused report", duo.refused.iter().any(is_stale));
    see("child begun while failing", duo.begun_while_failing);
    let (mut over, mut paused) = (Vec::new(), false);
    for (entry, effects) in &duo.log {
        let begins = effects.iter().any(|effect| matches!(effect, Effect::StartChild(_)));
        if let Event::Children(reports) = &entry.event {
            see("several reports at once", reports.len() > 1);
            see("child begun when another ended", begins);
            see("report while paused", paused);
            let again = |report: &ChildReport| over.contains(&report.child);
            see("report of what is over beside news", reports.iter().any(again));
            over.extend(reports.iter().map(|report| report.child));
        }
        if let Event::Decided { node, .. } = &entry.event {
            see(
                "parent decided by hand",
                duo.begun.iter().any(|start| start.child.node == *node),
            );
        }
        match &entry.event {
            Event::Paused => paused = true,
            Event::PausedWithParent => {
                paused = true;
                see("paused with the parent", true);
            }
            Event::Resumed | Event::ResumedWithParent => {
                paused = false;
                see("child begun by a resume", begins);
            }
            _ => {}
        }
        for effect in effects {
            if let Effect::TellChild(_, command) = effect {
                see(
                    match command {
                        ChildCommand::Pause | ChildCommand::Freeze => "told to pause",
                        ChildCommand::Resume => "told to go on",
                        ChildCommand::Cancel => "told to cancel",
                    },
                    true,
                );
            }
        }
    }
    let ended = |what: &dyn Fn(NodeKind, &Children) -> bool| {
        let completed = |ix: &NodeIx| duo.state.nodes[ix.at()].phase.name() == "completed";
        duo.state
            .children
            .iter()
            .any(|(ix, children)| completed(ix) && what(duo.plan.node(*ix).kind, children))
    };
    see(
        "all children of a list completed",
        ended(&|kind, of| kind == NodeKind::ForEach && of.total > 1 && of.completed == of.total),
    );
    let tolerates = |of: &Children| of.failed > 0 && of.failed <= of.tolerated;
    see(
        "failure of a child tolerated",
        duo.state.children.values().any(tolerates),
    );
    see(
        "enough children completed",
        ended(&|_, of| {
            of.succeed_after
                .is_some_and(|enough| enough == of.completed && of.completed < of.total)
        }),
    );
    see("two parents at once", duo.state.children.len() > 1);
    met
}
