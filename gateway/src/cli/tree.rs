//! An execution as a tree of its nodes.

use owo_colors::Style;
use troupe_actors::ExecutionView;
use troupe_core::execution::{NodeState, Phase};
use troupe_core::plan::Plan;
use troupe_core::{NodeIx, Timestamp};

use super::output::{duration, paint, status_style};

/// Rows of the tree: each node once, below the source of its first incoming edge, in definition order.
#[derive(Debug)]
pub(super) struct Tree {
    rows: Vec<(NodeIx, String)>,
    name_width: usize,
}

impl Tree {
    pub(super) fn new(plan: &Plan) -> Self {
        let count = plan.nodes.len();
        let mut children: Vec<Vec<NodeIx>> = vec![Vec::new(); count];
        let mut tops: Vec<NodeIx> = Vec::new();
        for (at, node) in plan.nodes.iter().enumerate() {
            let ix = NodeIx(u32::try_from(at).unwrap_or(u32::MAX));
            // A back edge would put a node below its own descendant: only earlier nodes hold later ones.
            let parent = node
                .incoming
                .iter()
                .map(|edge| plan.edge(*edge).source)
                .find(|source| source.at() < at);
            match parent {
                Some(parent) => children[parent.at()].push(ix),
                None => tops.push(ix),
            }
        }
        let mut rows = Vec::with_capacity(count);
        let mut open: Vec<(NodeIx, String, String)> = tops
            .into_iter()
            .rev()
            .map(|top| (top, String::new(), String::new()))
            .collect();
        while let Some((ix, lead, below)) = open.pop() {
            let own = &children[ix.at()];
            // A single child goes on straight down: chains stay flat.
            let straight = own.len() == 1;
            for (place, child) in own.iter().enumerate().rev() {
                let last = place + 1 == own.len();
                let (lead, next) = match (straight, last) {
                    (true, _) => (below.clone(), below.clone()),
                    (false, true) => (format!("{below}└─ "), format!("{below}   ")),
                    (false, false) => (format!("{below}├─ "), format!("{below}│  ")),
                };
                open.push((*child, lead, next));
            }
            rows.push((ix, lead));
        }
        let width = |(ix, lead): &(NodeIx, String)| lead.chars().count() + plan.node(*ix).key.as_str().chars().count();
        let name_width = rows.iter().map(width).max().unwrap_or(0).min(48);
        Self { rows, name_width }
    }

    /// The tree as it stands, at most `rows_max` rows: beyond that, nodes that run or failed come first.
    pub(super) fn render(&self, view: &ExecutionView, now: Timestamp, rows_max: usize, spinner: &str) -> Vec<String> {
        let line = |(ix, lead): &(NodeIx, String)| {
            let (planned, node) = (view.plan.node(*ix), &view.state.nodes[ix.at()]);
            let name = format!("{lead}{}", planned.key);
            let pad = " ".repeat(self.name_width.saturating_sub(name.chars().count()));
            let style = status_style(node.phase.name());
            let mark = paint(mark(&node.phase, spinner), style);
            let kind = paint(&format!("{:<14}", planned.kind.as_str()), Style::new().dimmed());
            let undo = undoing(view, *ix);
            format!(
                "{mark} {name}{pad}  {kind} {}{undo}",
                note(node, view.state.paused, now)
            )
        };
        if self.rows.len() <= rows_max {
            return self.rows.iter().map(line).collect();
        }
        let rank = |(ix, _): &&(NodeIx, String)| match view.state.nodes[ix.at()].phase {
            Phase::Running { .. } | Phase::Backoff { .. } | Phase::Canceling { .. } => 0,
            Phase::Failed => 1,
            Phase::Ready
            | Phase::Delaying { .. }
            | Phase::Turning { .. }
            | Phase::Waiting { .. }
            | Phase::Parenting => 2,
            Phase::Completed | Phase::Canceled => 3,
            Phase::Pending => 4,
            Phase::Skipped => 5,
        };
        let mut order: Vec<&(NodeIx, String)> = self.rows.iter().collect();
        order.sort_by_key(rank);
        order.truncate(rows_max.saturating_sub(1));
        let mut lines: Vec<String> = order.into_iter().map(line).collect();
        lines.push(paint(
            &format!("… and {} more nodes", self.rows.len() - lines.len()),
            Style::new().dimmed(),
        ));
        lines
    }
}

fn mark<'a>(phase: &Phase, spinner: &'a str) -> &'a str {
    match phase {
        Phase::Pending => "·",
        Phase::Ready
        | Phase::Delaying { .. }
        | Phase::Backoff { .. }
        | Phase::Turning { .. }
        | Phase::Waiting { .. }
        | Phase::Parenting => "◷",
        Phase::Running { .. } | Phase::Canceling { .. } => spinner,
        Phase::Completed => "✔",
        Phase::Failed => "✘",
        Phase::Skipped => "↷",
        Phase::Canceled => "⊘",
    }
}

/// What there is to say of the compensation of a node's latest visit, once that has begun.
fn undoing(view: &ExecutionView, ix: NodeIx) -> String {
    let visit = view.state.compensations.as_ref().and_then(|all| all.of_node(ix));
    let Some(undo) = visit.and_then(|visit| visit.compensation.as_deref()) else {
        return String::new();
    };
    let text = match (&undo.phase, &undo.failure) {
        (Phase::Completed, _) => paint("undone", Style::new().yellow()),
        (_, Some(failure)) => {
            let text = format!("not undone: {} {}", failure.error.code, failure.error.message);
            paint(&text.chars().take(80).collect::<String>(), Style::new().red())
        }
        (Phase::Canceled, None) => paint("not undone", Style::new().red()),
        (_, None) => "is being undone".to_owned(),
    };
    format!("  {text}")
}

/// What there is to say of a node.
fn note(node: &NodeState, paused: bool, now: Timestamp) -> String {
    let stands = standing(node, paused, now);
    if node.visit.0 > 1 {
        format!("{stands}  visit {}", node.visit)
    } else {
        stands
    }
}

fn standing(node: &NodeState, paused: bool, now: Timestamp) -> String {
    let took = || {
        let took = node
            .ended_at
            .zip(node.scheduled_at)
            .map(|(end, begin)| duration(end.since_ms(begin)));
        let attempts = node.attempts.len();
        let tries = if attempts > 1 {
            format!("  {attempts} attempts")
        } else {
            String::new()
        };
        took.map(|took| format!("{took}{tries}")).unwrap_or_default()
    };
    let left = |until: &Timestamp| duration(until.since_ms(now));
    match &node.phase {
        Phase::Pending => String::new(),
        Phase::Ready if paused => "paused".into(),
        Phase::Ready | Phase::Turning { .. } => "waits for its turn".into(),
        Phase::Running { token } if token.attempt.0 > 1 => format!("attempt {}", token.attempt),
        Phase::Running { .. } => "running".into(),
        Phase::Backoff { until, next } => {
            let last = node.attempts.last().and_then(|attempt| attempt.error.as_ref());
            let why = last.map(|error| format!("{}, ", error.code)).unwrap_or_default();
            format!("{why}attempt {next} in {}", left(until))
        }
        Phase::Delaying { until } => format!("waits {}", left(until)),
        Phase::Waiting { until: Some(until), .. } => format!("waits for a call, {} left", left(until)),
        Phase::Waiting { .. } => "waits for a call".into(),
        Phase::Parenting => "waits for its children".into(),
        Phase::Canceling { .. } => "stopping".into(),
        Phase::Completed => took(),
        Phase::Failed => {
            let why = node
                .failure
                .as_ref()
                .map(|failure| format!("{} {}", failure.error.code, failure.error.message));
            let why = why.unwrap_or_default();
            let short: String = why.chars().take(80).collect();
            format!("{}  {}", took(), paint(&short, Style::new().red()))
        }
        Phase::Skipped => paint("skipped", Style::new().dimmed()),
        Phase::Canceled => paint("canceled", Style::new().dimmed()),
    }
}
