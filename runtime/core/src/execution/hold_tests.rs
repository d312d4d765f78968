#![allow(clippy::unwrap_used)]

use serde_json::{Value as JsonValue, json};

use super::tests::Run;
use super::*;
use crate::control::{Clocks, ControlEntry, ControlKey, ControlSet, ControlsSeen, Scope, Setting};
use crate::definition::NodeKind;
use crate::id::Timestamp;

fn node(id: &str, kind: &str, data: JsonValue) -> JsonValue {
    json!({"id": id, "type": kind, "name": id, "data": data, "dependencies": [], "position": {"x": 0, "y": 0}})
}

fn delay(id: &str, ms: u64) -> JsonValue {
    node(id, "delay", json!({"delayType": "fixed", "delayValue": ms}))
}

fn workflow(nodes: &[JsonValue]) -> JsonValue {
    json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": []})
}

fn scope_of_node(id: &str) -> Scope {
    Scope::Node {
        workflow: "w".into(),
        node: id.into(),
    }
}

/// Controls as a shard has them, and an execution that is told when it wakes.
struct Told {
    run: Run,
    set: ControlSet,
}

impl Told {
    fn start(definition: JsonValue) -> Self {
        let (run, _) = Run::start(definition);
        let set = ControlSet::default();
        Self { run, set }
    }

    fn control(&mut self, scope: Scope, setting: Option<Clocks>) {
        let seq = self.set.seq().next();
        let entry = ControlEntry {
            seq,
            at: self.run.now,
            key: ControlKey::Pause(scope),
            setting: setting.map(|clocks| Setting::Paused { clocks }),
            command: format!("c{seq}").into(),
            principal: None,
            reason: None,
            only_id: false,
        };
        self.set.apply(&entry);
    }

    /// What an actor does before each step: it learns of the controls, and then of what is due.
    fn wake(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(seen) = self.set.news_for(&self.run.plan, &self.run.state, self.run.now) {
            effects = self.run.step(Event::ControlsChanged(Box::new(seen))).unwrap();
        }
        let again = self.set.news_for(&self.run.plan, &self.run.state, self.run.now);
        assert_eq!(again, None, "it knows already");
        while next_deadline(&self.run.state).is_some_and(|due| due <= self.run.now) {
            effects.extend(self.run.step(Event::DeadlineReached).unwrap());
        }
        effects
    }

    fn is_completed(&self, ix: usize) -> bool {
        self.run.state.nodes[ix].phase == Phase::Completed
    }
}

fn started(effects: &[Effect]) -> usize {
    let starts = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::StartAttempt(_)));
    starts.count()
}

#[test]
fn a_frozen_execution_goes_on_where_its_clock_stood() {
    let definition = workflow(&[
        delay("d", 100),
        node("f", "function", json!({"handlerId": "x", "totalTimeout": 500})),
    ]);
    let (mut run, _) = Run::start(definition);
    run.now = Timestamp(1_040);
    run.step(Event::Frozen).unwrap();
    assert_eq!((run.state.paused, next_deadline(&run.state)), (true, None));
    assert_eq!(run.step(Event::Frozen), Err(StepError::Unchanged));
    run.now = Timestamp(2_000);
    run.step(Event::Resumed).unwrap();
    assert_eq!(next_deadline(&run.state), Some(Timestamp(2_060)), "60 ms were left");
    let total = run.state.nodes[1].total_deadline;
    assert_eq!(total, Some(Timestamp(2_460)));

    // Whoever pauses what is frozen lets its clocks go on, and the other way round.
    run.step(Event::Frozen).unwrap();
    run.now = Timestamp(2_010);
    run.step(Event::Paused).unwrap();
    run.now = Timestamp(2_050);
    run.step(Event::Resumed).unwrap();
    assert_eq!(
        next_deadline(&run.state),
        Some(Timestamp(2_070)),
        "10 ms stood, 40 ms went on"
    );
    run.assert_replays();
}

#[test]
fn what_is_set_while_a_clock_stands_counts_from_where_it_stands() {
    let retry = json!({"maxAttempts": 2, "initialDelay": 100, "jitter": "none"});
    let definition = workflow(&[node("f", "function", json!({"handlerId": "x", "retryPolicy": retry}))]);
    let (mut run, effects) = Run::start(definition);
    let Some(Effect::StartAttempt(start)) = effects.first() else {
        panic!("{effects:?}")
    };
    run.step(Event::Frozen).unwrap();
    run.now = Timestamp(5_000);
    run.fail(start.token, true);
    run.now = Timestamp(9_000);
    assert_eq!(started(&run.step(Event::Resumed).unwrap()), 0);
    assert_eq!(next_deadline(&run.state), Some(Timestamp(9_100)));
    run.assert_replays();
}

#[test]
fn a_held_workflow_dispatches_nothing_and_applies_what_fell_due_first() {
    let before = node("a", "function", json!({"handlerId": "x"}));
    let mut definition = workflow(&[
        before,
        node("b", "function", json!({"handlerId": "x", "totalTimeout": 60})),
    ]);
    definition["settings"] = json!({"maxParallelNodes": 1, "onFailure": "continue"});
    let (run, effects) = Run::start(definition);
    let mut told = Told {
        run,
        set: ControlSet::default(),
    };
    let Some(Effect::StartAttempt(start)) = effects.first() else {
        panic!("{effects:?}")
    };
    told.control(Scope::Workflow("w".into()), Some(Clocks::Run));
    told.wake();
    assert!(told.run.state.is_held() && !told.run.state.paused);
    assert_eq!(told.run.state.held_back(), Some(None), "b would start at once");
    assert_eq!(started(&told.run.complete(start.token, json!(1))), 0);
    told.run.now = Timestamp(1_100);
    assert_eq!(next_deadline(&told.run.state), None);
    // Another scope holds it too.
    told.control(Scope::All, Some(Clocks::Run));
    told.control(Scope::Workflow("w".into()), None);
    assert_eq!(started(&told.wake()), 0);
    told.control(Scope::All, None);
    assert_eq!(started(&told.wake()), 0, "b timed out before it could start");
    assert_eq!(told.run.state.nodes[1].phase, Phase::Failed);
    told.run.assert_replays();
}

#[test]
fn a_held_node_lets_the_others_go_on() {
    let data = || json!({"handlerId": "x"});
    let mut told = Told::start(workflow(&[
        delay("d", 10),
        delay("e", 10),
        node("a", "function", data()),
    ]));
    told.control(scope_of_node("d"), Some(Clocks::Run));
    told.control(Scope::node_type(NodeKind::Function), Some(Clocks::Run));
    told.run.now = Timestamp(1_020);
    told.wake();
    assert_eq!((told.is_completed(0), told.is_completed(1)), (false, true));
    assert_eq!(told.run.state.held_back(), Some(Some(Timestamp(1_010))));
    told.control(scope_of_node("d"), None);
    told.wake();
    assert!(told.is_completed(0));
    told.run.assert_replays();
}

#[test]
fn a_start_in_a_held_scope_waits() {
    let definition = workflow(&[node("a", "function", json!({"handlerId": "x"}))]);
    let (mut run, effects) = Run::start_under(
        definition,
        Some(ControlsSeen {
            whole: true,
            ..ControlsSeen::default()
        }),
    );
    assert_eq!(started(&effects), 0);
    assert_eq!(run.state.held_back(), Some(None));
    let effects = run.step(Event::ControlsChanged(Box::default())).unwrap();
    assert_eq!(started(&effects), 1);
    run.assert_replays();
}

#[test]
fn a_canceled_execution_is_held_by_nothing() {
    let mut told = Told::start(workflow(&[node("a", "function", json!({"handlerId": "x"}))]));
    told.control(Scope::All, Some(Clocks::Freeze));
    told.wake();
    told.run
        .step(Event::CancelRequested {
            reason: None,
            grace_ms: 10,
            at_once: false,
        })
        .unwrap();
    assert_eq!(next_deadline(&told.run.state), Some(Timestamp(1_010)));
    told.run.now = Timestamp(1_010);
    told.wake();
    assert!(told.run.state.status.is_terminal());
}

/// Small and repeatable; its quality does not matter.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Whatever is frozen, paused and resumed in whatever order, and whenever the execution learns of it: a delay ends once its clock
/// has gone for as long as it says, and not while something holds it.
#[test]
fn clocks_go_for_exactly_as_long_as_nothing_stops_them() {
    const DELAYS: [u64; 3] = [40, 60, 90];
    let names = ["d", "e", "f"];
    let mut ended = [0, 0];
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let nodes: Vec<JsonValue> = names.iter().zip(DELAYS).map(|(name, ms)| delay(name, ms)).collect();
        let mut told = Told::start(workflow(&nodes));
        let scopes = [
            Scope::All,
            Scope::Workflow("w".into()),
            scope_of_node("e"),
            scope_of_node("f"),
        ];
        let mut holding: [Option<Clocks>; 4] = [None; 4];
        let mut own: Option<Clocks> = None;
        let mut went = [0_u64; 3];
        for _ in 0..1_000 {
            if told.run.state.status.is_terminal() {
                break;
            }
            if dice.below(12) == 0 {
                let place = usize::try_from(dice.below(4)).unwrap();
                holding[place] = match (holding[place], dice.below(3)) {
                    (Some(_), 0 | 1) | (None, 1 | 2) if dice.below(4) > 0 => None,
                    (_, 0) => Some(Clocks::Run),
                    (_, _) => Some(Clocks::Freeze),
                };
                told.control(scopes[place].clone(), holding[place]);
            }
            let mut woken = dice.below(6) == 0;
            if dice.below(25) == 0 {
                // A command reaches it: it learns of the controls before that.
                told.wake();
                let event = match (own, dice.below(2)) {
                    (None, 0) => Event::Frozen,
                    (None, _) => Event::Paused,
                    (Some(_), _) => Event::Resumed,
                };
                own = match &event {
                    Event::Frozen => Some(Clocks::Freeze),
                    Event::Paused => Some(Clocks::Run),
                    _ => None,
                };
                if told.run.step(event) == Err(StepError::Ended) {
                    break;
                }
                woken = true;
            }
            let covers = |place: usize, node: usize| place < 2 || place - 1 == node;
            let holds =
                |node: usize| own.is_some() || (0..4).any(|place| holding[place].is_some() && covers(place, node));
            if woken {
                told.wake();
                for node in 0..3 {
                    let due = went[node] >= DELAYS[node] && !holds(node);
                    let was = told.is_completed(node);
                    assert!(!due || was, "seed {seed}: {} is late at {}", names[node], told.run.now);
                    assert!(
                        !was || went[node] >= DELAYS[node],
                        "seed {seed}: {} is early",
                        names[node]
                    );
                }
            }
            told.run.now = Timestamp(told.run.now.0 + 1);
            for (node, went) in went.iter_mut().enumerate() {
                let stops = |place: usize| holding[place] == Some(Clocks::Freeze) && covers(place, node);
                let stands = own == Some(Clocks::Freeze) || (0..4).any(stops);
                *went += u64::from(!stands);
            }
        }
        ended[usize::from(told.run.state.status.is_terminal())] += 1;
        told.run.assert_replays();
    }
    assert!(ended[1] > 100, "most of them end: {ended:?}");
}

/// A delay that would end at 1,100, in an execution that freezes by itself and with its workflow.
fn frozen_twice(own: (i64, i64), wide: (i64, i64), hears: [i64; 2]) -> Option<Timestamp> {
    let mut told = Told::start(workflow(&[delay("d", 100)]));
    let mut moments = vec![own.0, own.1, wide.0, wide.1, hears[0], hears[1]];
    moments.sort_unstable();
    moments.dedup();
    for moment in moments {
        told.run.now = Timestamp(moment);
        if moment == wide.0 {
            told.control(Scope::Workflow("w".into()), Some(Clocks::Freeze));
        }
        if moment == wide.1 {
            told.control(Scope::Workflow("w".into()), None);
        }
        if hears.contains(&moment) {
            told.wake();
        }
        if moment == own.0 {
            told.run.step(Event::Frozen).unwrap();
        }
        if moment == own.1 {
            told.run.step(Event::Resumed).unwrap();
        }
    }
    told.run.assert_replays();
    next_deadline(&told.run.state)
}

#[test]
fn what_stood_for_two_reasons_counts_once_whenever_it_was_heard() {
    let due = |stood: i64| Some(Timestamp(1_100 + stood));
    // The wider freeze began before its own and was heard during it.
    assert_eq!(frozen_twice((1_020, 1_050), (1_010, 1_070), [1_030, 1_070]), due(60));
    // It began during its own and was heard after that.
    assert_eq!(frozen_twice((1_000, 1_040), (1_030, 1_060), [1_050, 1_060]), due(60));
    // It was lifted during its own, and that was heard after that.
    assert_eq!(frozen_twice((1_020, 1_050), (1_010, 1_030), [1_015, 1_060]), due(40));
    // It was lifted before its own, and that was heard during it: in between the clock went.
    assert_eq!(frozen_twice((1_040, 1_060), (1_010, 1_030), [1_015, 1_050]), due(40));
    // Nothing of it was heard in time.
    assert_eq!(frozen_twice((1_030, 1_040), (1_010, 1_020), [1_050, 1_051]), due(20));
}
