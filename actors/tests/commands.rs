//! Commands that change nothing: their ids are kept, so that a copy that comes late changes nothing either.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use serde_json::json;
use support::{PATIENCE, World, builtins, chain, on_store, store, world};
use tokio::sync::Semaphore;
use troupe_actors::evaluation::CompiledPlan;
use troupe_actors::execution::machine::{
    Action, CommandInput, ExecutionMachine, Input, MachineOptions, NodeCommand, Reply, Wanted,
};
use troupe_actors::{Command, CommandOutcome, EngineOptions, Mutants, ReopenRequest};
use troupe_core::execution::{Decision, Entry, Event, Remedy, Started, Status};
use troupe_core::plan::Plan;
use troupe_core::{CommandId, ExecutionId, Json, Seq, ShardId, Timestamp};
use troupe_executors::{ExecutorsBuilder, HandlerCall};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// What a command brings.
#[derive(Debug, Default)]
struct Asked {
    entries: Vec<Entry>,
    /// Its answer, and whether that came before anything more was durable.
    outcome: Option<CommandOutcome>,
    at_once: bool,
    refused: Option<String>,
}

impl Asked {
    fn hear(&mut self, actions: &mut Vec<Action<()>>, at_once: bool) {
        for action in actions.drain(..) {
            match action {
                Action::Commit(draft) => self.entries.push(draft.entry),
                Action::Reply((), Reply::Commanded(outcome)) => (self.outcome, self.at_once) = (Some(outcome), at_once),
                Action::Reply((), Reply::Refused(error)) => self.refused = Some(error.code().to_owned()),
                Action::Evaluate(jobs) => panic!("nothing is to be evaluated: {jobs:?}"),
                _ => {}
            }
        }
    }

    fn is_unchanged(&self) -> bool {
        self.outcome.is_some_and(|outcome| outcome.unchanged)
    }
}

/// Gives a command, and then says that everything is durable.
fn ask(machine: &mut ExecutionMachine<()>, wanted: Wanted, id: Option<&str>) -> Asked {
    let input = CommandInput {
        wanted,
        principal: None,
        command: id.map(CommandId::from),
    };
    let (mut asked, mut actions) = (Asked::default(), Vec::new());
    machine.handle(Input::Command(Box::new(input), ()), NOW, &mut actions);
    asked.hear(&mut actions, true);
    let seq = machine.state().seq;
    machine.handle(Input::Durable(seq), NOW, &mut actions);
    asked.hear(&mut actions, false);
    asked
}

/// An attempt of `a` runs, and `h` waits for a call.
fn started() -> ExecutionMachine<()> {
    let definition = json!({
        "id": "w", "version": 1,
        "nodes": [
            {"id": "a", "type": "function", "data": {"handlerId": "echo"}},
            {"id": "t", "type": "trigger", "data": {"triggerType": "api"}},
            {"id": "h", "type": "webhook", "data": {}},
        ],
        "edges": [{"id": "e", "source": "t", "target": "h"}],
    });
    let plan = Arc::new(Plan::build(&serde_json::from_value(definition).unwrap()).unwrap());
    let id = ExecutionId::fresh(ShardId(0), NOW, 1);
    let options = MachineOptions {
        passivate_after_ms: 1_000,
        retention_ms: 1_000,
        evaluation_rounds_max: 8,
        mutants: Mutants::default(),
    };
    let started = Started::of(id, &plan, Json::null().into());
    let compiled = CompiledPlan::compile(plan, 1).unwrap();
    let mut machine = ExecutionMachine::new(Arc::new(compiled), id, options);
    let mut actions = Vec::new();
    machine.handle(Input::Start(Box::new(started), None, ()), NOW, &mut actions);
    machine.handle(Input::Durable(Seq(1)), NOW, &mut actions);
    assert_eq!(machine.state().seq, Seq(1));
    machine
}

fn cancel() -> Wanted {
    Wanted::Event(Event::CancelRequested {
        reason: None,
        grace_ms: 1_000,
        at_once: false,
    })
}

fn of_node(node: &str, command: NodeCommand) -> Wanted {
    Wanted::OfNode(node.to_owned(), command)
}

#[test]
fn whatever_changes_nothing_leaves_its_id_before_it_is_answered() {
    let (pause, freeze) = (Wanted::Event(Event::Paused), Wanted::Event(Event::Frozen));
    for (what, before, wanted) in [
        ("a pause of what is paused", Some(pause.clone()), pause.clone()),
        ("a freeze of what is frozen", Some(freeze.clone()), freeze),
        ("a resume of what runs", None, Wanted::Event(Event::Resumed)),
        ("a cancel of what is being canceled", Some(cancel()), cancel()),
        ("a pause of what is being canceled", Some(cancel()), pause),
    ] {
        let mut machine = started();
        if let Some(before) = before {
            assert!(!ask(&mut machine, before, None).is_unchanged(), "{what}");
        }
        let stands = machine.state().clone();

        let nameless = ask(&mut machine, wanted.clone(), None);
        assert!(nameless.is_unchanged() && nameless.at_once, "{what}: {nameless:?}");
        assert!(nameless.entries.is_empty(), "{what}: without an id it costs nothing");

        let first = ask(&mut machine, wanted.clone(), Some("x"));
        assert!(first.is_unchanged() && !first.at_once, "{what}: {first:?}");
        let [entry] = first.entries.as_slice() else {
            panic!("{what}: {first:?}")
        };
        assert_eq!(
            (&entry.event, &entry.command),
            (&Event::nothing(), &Some("x".into())),
            "{what}"
        );
        let mut expected = stands;
        expected.seq = expected.seq.next();
        expected.note_command("x".into());
        assert_eq!(*machine.state(), expected, "{what}");

        let again = ask(&mut machine, wanted, Some("x"));
        assert!(again.is_unchanged() && again.entries.is_empty(), "{what}: {again:?}");
        assert_eq!(*machine.state(), expected, "{what}");
    }
}

#[test]
fn a_copy_of_what_changed_nothing_changes_nothing_later() {
    let (pause, resume) = (Wanted::Event(Event::Paused), Wanted::Event(Event::Resumed));
    let mut machine = started();
    assert!(!ask(&mut machine, pause.clone(), Some("a")).is_unchanged());
    assert!(ask(&mut machine, pause.clone(), Some("b")).is_unchanged());
    assert!(!ask(&mut machine, resume.clone(), Some("c")).is_unchanged());
    for copy in ["a", "b"] {
        assert!(ask(&mut machine, pause.clone(), Some(copy)).is_unchanged());
        assert!(!machine.state().paused, "{copy}");
    }
    // The other way round: what ran already is not resumed later.
    assert!(ask(&mut machine, resume.clone(), Some("d")).is_unchanged());
    assert!(!ask(&mut machine, pause, Some("e")).is_unchanged());
    assert!(ask(&mut machine, resume, Some("d")).is_unchanged());
    assert!(machine.state().paused);
}

#[test]
fn heartbeats_that_nobody_times_leave_nothing_and_drive_out_no_id() {
    let (pause, resume) = (Wanted::Event(Event::Paused), Wanted::Event(Event::Resumed));
    let mut machine = started();
    assert!(!ask(&mut machine, pause.clone(), Some("p")).is_unchanged());
    assert!(!ask(&mut machine, resume, Some("r")).is_unchanged());
    let stands = machine.state().clone();
    // More than are remembered.
    for n in 0..40 {
        let beat = of_node("h", NodeCommand::Heartbeat);
        let asked = ask(&mut machine, beat, Some(&format!("h{n}")));
        assert!(asked.is_unchanged() && asked.at_once, "{n}: {asked:?}");
        assert!(asked.entries.is_empty(), "{n}: {asked:?}");
    }
    assert_eq!(*machine.state(), stands);
    assert!(ask(&mut machine, pause, Some("p")).is_unchanged());
    assert!(!machine.state().paused, "the copy of what was resumed meanwhile");
}

#[test]
fn what_is_refused_leaves_nothing() {
    let mut machine = started();
    let complete = of_node("a", NodeCommand::Decide(Decision::Complete(Json::null().into())));
    let asked = ask(&mut machine, complete, Some("x"));
    assert_eq!(asked.refused.as_deref(), Some("NODE_NOT_WAITING"));
    assert!(asked.entries.is_empty() && machine.state().recent_commands.is_empty());
}

/// `hold` tells that it runs, and ends when it is let go, whoever aborts it.
#[derive(Clone)]
struct Held {
    runs: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        Self {
            runs: Arc::new(Semaphore::new(0)),
            go: Arc::new(Semaphore::new(0)),
        }
    }

    fn executors(&self) -> ExecutorsBuilder {
        let held = self.clone();
        builtins().handler("hold", move |call: HandlerCall| {
            let held = held.clone();
            async move {
                held.runs.add_permits(1);
                held.go.acquire().await.expect("never closed").forget();
                call.input_json().cloned()
            }
        })
    }

    /// Waits until an attempt runs.
    async fn entered(&self) {
        let entered = tokio::time::timeout(PATIENCE, self.runs.acquire());
        entered.await.expect("it runs").unwrap().forget();
    }
}

fn under(id: &str) -> Command {
    Command {
        command: Some(id.into()),
        grace_ms: Some(60_000),
        ..Command::default()
    }
}

async fn pause(world: &World, id: ExecutionId, key: &str) -> CommandOutcome {
    world.engine.pause(id, under(key)).await.unwrap()
}

async fn cancel_of(world: &World, id: ExecutionId, key: &str) -> CommandOutcome {
    world.engine.cancel(id, under(key)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_pause_that_changed_nothing_comes_after_a_crash_and_a_resume() {
    let directory = tempfile::tempdir().unwrap();
    let (store, held) = (store(directory.path(), 4), Held::new());
    let world = on_store(store.clone(), held.executors(), EngineOptions::default()).await;
    world.apply(chain("w", 1, "hold")).await;
    let id = world.start("w", json!(1)).await;
    held.entered().await;
    let (first, second) = (pause(&world, id, "a").await, pause(&world, id, "b").await);
    assert_eq!((first.unchanged, second.unchanged), (false, true));
    assert_eq!(second.seq, first.seq.next(), "it has an entry");
    world.engine.crash().await;

    let world = on_store(store, held.executors(), EngineOptions::default()).await;
    assert!(!world.engine.resume(id, under("c")).await.unwrap().unchanged);
    held.entered().await;
    for copy in ["b", "a"] {
        assert!(pause(&world, id, copy).await.unchanged);
        assert!(!world.engine.get(id).await.unwrap().state.paused, "{copy}");
    }
    held.go.add_permits(2);
    assert_eq!(world.ended(id).await.state.status.name(), "completed");
    let history = world.engine.history(id, Seq(0), 100).await.unwrap();
    let named = history.iter().filter_map(|entry| entry.command.as_ref());
    let named: Vec<&str> = named.map(CommandId::as_str).collect();
    assert_eq!(named, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_cancel_that_changed_nothing_ends_no_later_run() {
    let directory = tempfile::tempdir().unwrap();
    let held = Held::new();
    let options = EngineOptions {
        abort_grace_ms: 60_000,
        ..EngineOptions::default()
    };
    let world = world(directory.path(), held.executors(), options).await;
    world.apply(chain("w", 1, "hold")).await;
    let id = world.start("w", json!(1)).await;
    held.entered().await;
    let (first, second) = (cancel_of(&world, id, "a").await, cancel_of(&world, id, "b").await);
    assert_eq!((first.unchanged, second.unchanged), (false, true));
    held.go.add_permits(1);
    assert_eq!(world.ended(id).await.state.status.name(), "canceled");

    let retry = ReopenRequest {
        nodes: Vec::new(),
        remedy: Remedy::Retry,
        dry_run: false,
    };
    world.engine.reopen(id, retry, under("c")).await.unwrap();
    held.entered().await;
    for copy in ["b", "a"] {
        assert!(cancel_of(&world, id, copy).await.unchanged);
    }
    held.go.add_permits(1);
    let view = world.ended(id).await;
    let Status::Completed { output } = &view.state.status else {
        panic!("{:?}", view.state.status)
    };
    assert_eq!(*output, json!(1).into());
}
