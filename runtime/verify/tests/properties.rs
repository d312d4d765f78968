//! What is explored in one order only gives the findings of everything explored in every order.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::concrete::{Chance, run};
use support::{line, report, told};
use troupe_core::definition::{Limits, WorkflowDefinition, validate};
use troupe_core::plan::Plan;
use troupe_lang::checker::Checker;
use troupe_verify::{Certainty, Report};

const KINDS: [&str; 8] = [
    "function", "function", "function", "decision", "delay", "function", "decision", "end",
];
const CONDITIONS: [&str; 8] = [
    "input.ok",
    "trigger.n > 5",
    "trigger.n <= 5",
    "variables.v === 1",
    "trigger.n > 3",
    "nodes.n1.status === 'completed'",
    "nodes.n2.output.ok",
    "nodes.n0.status === 'failed'",
];

trait Draws {
    fn one_in(&mut self, n: usize) -> bool;
    fn pick<'b>(&mut self, from: &'b [&'b str]) -> &'b str;
}

impl Draws for Chance<'_> {
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn pick<'b>(&mut self, from: &'b [&'b str]) -> &'b str {
        from[self.below(from.len())]
    }
}

fn definition(nodes: &[Vec<u8>], edges: &[Vec<u8>], backs: &[Vec<u8>], settings: &[u8]) -> Value {
    let count = nodes.len();
    let mut kinds: Vec<&str> = nodes
        .iter()
        .map(|tape| KINDS[usize::from(tape[0]) % KINDS.len()])
        .collect();
    kinds[0] = "function";
    let mut ways: Vec<(usize, usize, Map<String, Value>)> = Vec::new();
    for tape in edges {
        let mut tape = Chance(tape.iter());
        let source = tape.below(count);
        let target = source + 1 + tape.below(3);
        if target >= count || kinds[source] == "end" {
            continue;
        }
        let mut fields = Map::new();
        let kind = *["default", "default", "failure", "default", "always", "default"]
            .get(tape.below(6))
            .unwrap_or(&"default");
        fields.insert("type".into(), json!(kind));
        if kinds[source] != "decision" && tape.one_in(3) {
            fields.insert("condition".into(), json!(tape.pick(&CONDITIONS)));
        }
        if kind == "failure" && tape.one_in(3) {
            fields.insert("errors".into(), json!(["E1"]));
        }
        if !ways
            .iter()
            .any(|(one, two, other)| (*one, *two) == (source, target) && other["type"] == kind)
        {
            ways.push((source, target, fields));
        }
    }
    for tape in backs {
        let mut tape = Chance(tape.iter());
        let (one, two) = (1 + tape.below(count - 1), 1 + tape.below(count - 1));
        let (target, source) = (one.min(two), one.max(two));
        if kinds[source] == "function" && kinds[target] != "end" {
            let condition = [
                "execution.iteration < 3",
                "output.ok",
                "trigger.n > 3",
                "execution.iteration !== 2",
            ];
            let fields = json!({"type": "default", "condition": tape.pick(&condition)});
            ways.push((source, target, fields.as_object().cloned().unwrap_or_default()));
        }
    }
    let mut written = Vec::new();
    for (place, tape) in nodes.iter().enumerate() {
        let mut tape = Chance(tape[1..].iter());
        let mut data = Map::new();
        let mut kind = kinds[place];
        let entries = ways.iter().filter(|(_, target, _)| *target == place).count();
        if kind == "end" && entries == 0 {
            kind = "function";
        }
        match kind {
            "delay" => {
                data.insert("delayType".into(), json!("fixed"));
                data.insert("delayValue".into(), json!([100, 200, 1000][tape.below(3)]));
            }
            "decision" => {
                let mut conditions = Vec::new();
                let own = ways.iter_mut().filter(|(source, _, fields)| {
                    *source == place && matches!(fields["type"].as_str(), Some("default"))
                });
                for (number, (_, target, fields)) in own.enumerate() {
                    if number > 0 && tape.one_in(3) && !data.contains_key("defaultPath") {
                        data.insert("defaultPath".into(), json!(format!("n{target}")));
                        continue;
                    }
                    let id = format!("c{number}");
                    conditions.push(json!({"id": id, "expression": tape.pick(&CONDITIONS)}));
                    fields.insert("condition".into(), json!(id));
                }
                data.insert("conditions".into(), Value::Array(conditions));
                if tape.one_in(3) {
                    data.insert("mode".into(), json!("all"));
                }
            }
            "function" => {
                data.insert("handlerId".into(), json!("noop"));
                data.insert("maxIterations".into(), json!(4));
                if tape.one_in(4) {
                    let value = ["1", "output.x", "2", "variables.v + 1"][tape.below(4)];
                    data.insert("outputMapping".into(), json!({"v": value}));
                }
                if tape.one_in(5) && place > 0 {
                    data.insert("cancels".into(), json!([format!("n{}", tape.below(count))]));
                }
            }
            _ => {}
        }
        if entries > 1 && tape.one_in(2) {
            let mut join = Map::new();
            let mode = ["any", "allSuccess", "quorum", "all"][tape.below(4)];
            join.insert("mode".into(), json!(mode));
            if mode == "quorum" {
                join.insert("count".into(), json!(2));
            }
            if tape.one_in(3) {
                join.insert("lateArrivals".into(), json!("cancel"));
            }
            if tape.one_in(3) {
                join.insert("onUnsatisfied".into(), json!("fail"));
            }
            if tape.one_in(4) {
                join.insert("timeout".into(), json!([150, 500][tape.below(2)]));
                join.insert("onTimeout".into(), json!(["fail", "skip", "proceed"][tape.below(3)]));
            }
            data.insert("join".into(), Value::Object(join));
        }
        written.push(json!({"id": format!("n{place}"), "type": kind, "data": data}));
    }
    let edges: Vec<Value> = ways
        .into_iter()
        .enumerate()
        .map(|(number, (source, target, mut fields))| {
            fields.insert("id".into(), json!(format!("e{number}")));
            fields.insert("source".into(), json!(format!("n{source}")));
            fields.insert("target".into(), json!(format!("n{target}")));
            Value::Object(fields)
        })
        .collect();
    let mut tape = Chance(settings.iter());
    let mut settings = Map::new();
    if tape.one_in(3) {
        settings.insert("onFailure".into(), json!("continue"));
    }
    if tape.one_in(5) {
        settings.insert("timeout".into(), json!(250));
    }
    if tape.one_in(8) {
        settings.insert("maxParallelNodes".into(), json!(1));
    }
    json!({"id": "w", "nodes": written, "edges": edges, "settings": settings})
}

fn cases() -> impl Strategy<Value = Value> {
    (
        prop::collection::vec(prop::collection::vec(any::<u8>(), 16), 3..=7),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 8), 3..=11),
        prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 4), 1..=2)
        ],
        prop::collection::vec(any::<u8>(), 4),
    )
        .prop_map(|(nodes, edges, backs, settings)| definition(&nodes, &edges, &backs, &settings))
}

fn found(report: &Report) -> BTreeSet<String> {
    let edges = |finding: &troupe_verify::Finding| finding.edges.join(",");
    report
        .findings
        .iter()
        .map(|finding| format!("{} {}", line(finding), edges(finding)))
        .collect()
}

/// Enough for every kind of dependence between nodes to come up. `PROPTEST_CASES` raises their number.
const CASES: u32 = 300;

fn config() -> ProptestConfig {
    let set = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let cases = set.unwrap_or(CASES);
    ProptestConfig {
        cases,
        max_global_rejects: cases.saturating_mul(100),
        ..ProptestConfig::default()
    }
}

/// A definition that the validator accepts.
fn valid(definition: &Value) -> Option<WorkflowDefinition> {
    let parsed: WorkflowDefinition = serde_json::from_value(definition.clone()).expect("it has the right shape");
    let problems = validate(&parsed, Some(&Checker::new()), &Limits::default());
    let is_valid = !problems.iter().any(troupe_core::definition::Diagnostic::is_error);
    is_valid.then_some(parsed)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_reduced_search_finds_what_the_whole_one_finds(definition in cases()) {
        let parsed = valid(&definition);
        prop_assume!(parsed.is_some());
        let parsed = parsed.expect("it was looked at");
        let (reduced, whole) = (report(&parsed, true), report(&parsed, false));
        prop_assume!(whole.bound.is_none());
        prop_assert!(reduced.states <= whole.states);
        prop_assert_eq!(
            found(&reduced), found(&whole),
            "{}\nreduced: {}\nwhole: {}", definition, told(&reduced), told(&whole)
        );
    }

    #[test]
    fn what_never_happens_does_not_happen(
        definition in cases(),
        tapes in prop::collection::vec(prop::collection::vec(any::<u8>(), 80), 12),
    ) {
        let parsed = valid(&definition);
        prop_assume!(parsed.is_some());
        let parsed = parsed.expect("it was looked at");
        let report = report(&parsed, true);
        prop_assume!(report.bound.is_none());
        let plan = Plan::build(&parsed).expect("a valid definition has a plan");
        for tape in &tapes {
            let happened = run(&plan, &mut Chance(tape.iter()));
            for finding in report.findings.iter().filter(|finding| finding.certainty == Certainty::Certain) {
                let first = finding.nodes.first().cloned().unwrap_or_default();
                let is_false = match finding.code {
                    troupe_verify::NODE_NEVER_RUNS | troupe_verify::JOIN_NEVER_FIRES => happened.started.contains(&first),
                    troupe_verify::EDGE_NEVER_TAKEN => happened.taken.contains(&finding.edges[0]),
                    troupe_verify::WAIT_NEVER_ENDS => happened.waits_ended.contains(&first),
                    troupe_verify::NEVER_COMPLETES => happened.completed,
                    _ => false,
                };
                prop_assert!(!is_false, "{definition}\n{}\n{happened:?}", told(&report));
            }
        }
    }
}
