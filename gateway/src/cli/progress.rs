//! Shows an execution of this process while it runs: a live tree on a terminal, a line a change elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::Style;
use troupe_actors::{EndWatch, ExecutionView};
use troupe_core::{ExecutionId, Seq};

use super::failure::Failure;
use super::output::{Output, paint, status_style};
use super::tree::Tree;
use crate::app::App;
use crate::dto::entry;
use crate::exit::Exit;
use crate::wiring::EventFilter;

/// How often the tree is drawn.
const FRAME: Duration = Duration::from_millis(80);
/// Rows of the tree; terminals are not much higher.
const ROWS_MAX: usize = 30;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Entries read at once.
const ENTRIES_MAX: usize = 500;

/// Shows `id` until it has ended and returns its last state.
pub(super) async fn until_ended(
    app: &App,
    id: ExecutionId,
    watch: EndWatch,
    out: &Output,
) -> Result<ExecutionView, Failure> {
    let mut ended = Box::pin(watch.ended());
    let seen = if out.quiet {
        ended.await
    } else if out.json {
        lines(app, id, &mut ended, &mut |entry| out.value(entry)).await?
    } else if std::io::stderr().is_terminal() {
        tree(app, id, &mut ended).await?
    } else {
        lines(app, id, &mut ended, &mut |entry| {
            changes(entry).iter().for_each(|line| out.say(line));
            Ok(())
        })
        .await?
    };
    if seen.is_none() {
        return Err(Failure::new(
            Exit::Failed,
            "the engine stopped before the execution ended",
        ));
    }
    Ok(app.engine.get(id).await?)
}

type Ended = Option<troupe_actors::Ended>;

async fn tree(app: &App, id: ExecutionId, ended: &mut (impl Future<Output = Ended> + Unpin)) -> Result<Ended, Failure> {
    let first = app.engine.get(id).await?;
    let tree = Tree::new(&first.plan);
    let bar = ProgressBar::with_draw_target(Some(first.plan.nodes.len() as u64), ProgressDrawTarget::stderr());
    let template = "{msg}\n{bar:32} {pos}/{len} nodes  {elapsed}";
    bar.set_style(
        ProgressStyle::with_template(template).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
    );
    let mut frames = tokio::time::interval(FRAME);
    let mut frame = 0_usize;
    let seen = loop {
        tokio::select! {
            seen = &mut *ended => break seen,
            _ = frames.tick() => {}
        }
        frame += 1;
        draw(
            &bar,
            &tree,
            &app.engine.get(id).await?,
            app,
            SPINNER[frame % SPINNER.len()],
        );
    };
    let last = app.engine.get(id).await?;
    draw(&bar, &tree, &last, app, "·");
    bar.abandon();
    Ok(seen)
}

fn draw(bar: &ProgressBar, tree: &Tree, view: &ExecutionView, app: &App, spinner: &str) {
    let done = view.state.nodes.iter().filter(|node| node.phase.is_terminal()).count();
    bar.set_position(done as u64);
    bar.set_message(tree.render(view, app.now(), ROWS_MAX, spinner).join("\n"));
}

async fn lines(
    app: &App,
    id: ExecutionId,
    ended: &mut (impl Future<Output = Ended> + Unpin),
    show: &mut dyn FnMut(&crate::dto::HistoryEntryDto) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let mut bell = app.live.subscribe(EventFilter::Execution(id));
    let mut shown = Seq(0);
    let mut over = None;
    loop {
        let view = app.engine.get(id).await?;
        while shown < view.state.seq {
            let entries = app.engine.history(id, shown, ENTRIES_MAX).await?;
            let Some(last) = entries.last() else { break };
            shown = last.seq;
            for found in &entries {
                show(&entry(found, &view.plan))?;
            }
        }
        if let Some(seen) = over {
            return Ok(seen);
        }
        tokio::select! {
            seen = &mut *ended => over = Some(seen),
            // Lagging is no matter: the history tells what was missed.
            _ = bell.next() => {}
        }
    }
}

/// A node, or what undoes it.
fn named(node: &str, undoes: bool) -> String {
    let undo = if undoes { " (undo)" } else { "" };
    format!("{node}{undo}")
}

/// The changes of one entry, for people.
fn changes(entry: &crate::dto::HistoryEntryDto) -> Vec<String> {
    let clock = entry.time.get(11..23).unwrap_or(&entry.time);
    let mut lines = Vec::new();
    for log in &entry.logs {
        let node = named(entry.node_id.as_deref().unwrap_or_default(), entry.compensation);
        lines.push(format!("{clock}  {node:<24} [{}] {}", log.level, log.message));
    }
    for change in &entry.changes {
        let verb = change.kind.rsplit('.').next().unwrap_or(&change.kind);
        let undoes = change.kind.starts_with("compensation.");
        let who = named(change.node_id.as_deref().unwrap_or("execution"), undoes);
        let own = change.node_id.is_some() && change.node_id == entry.node_id;
        let why = entry
            .error
            .as_ref()
            .filter(|_| own)
            .map(|error| format!("  {} {}", error.code, error.message));
        let clock = paint(clock, Style::new().dimmed());
        lines.push(format!(
            "{clock}  {who:<24} {}{}",
            paint(verb, status_style(verb)),
            why.unwrap_or_default()
        ));
    }
    lines
}
