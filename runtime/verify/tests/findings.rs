//! What is a finding and what is none, each on the smallest definition that shows it.

mod support;

use support::{lines, parsed, report, told};
use troupe_verify::Report;

/// A definition in YAML, `f` standing for a function without anything special.
fn of(nodes: &[&str], edges: &[&str], settings: &str) -> Report {
    let mut text = String::from("id: w\nname: w\nnodes:\n");
    for node in nodes {
        let node = match node.split_once(' ') {
            None => format!("id: {node}, type: function, data: {{ handlerId: echo }}"),
            Some((id, rest)) => format!("id: {id}, {rest}"),
        };
        text.push_str(&format!("  - {{ {node} }}\n"));
    }
    text.push_str("edges:\n");
    for (number, edge) in edges.iter().enumerate() {
        let (ends, rest) = edge.split_once(' ').unwrap_or((edge, ""));
        let (source, target) = ends.split_once('>').expect("an edge has two ends");
        let comma = if rest.is_empty() { "" } else { ", " };
        text.push_str(&format!(
            "  - {{ id: e{number}, source: {source}, target: {target}{comma}{rest} }}\n"
        ));
    }
    text.push_str(&format!("settings: {{ {settings} }}\n"));
    let definition = parsed(&text).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"));
    let (reduced, whole) = (report(&definition, true), report(&definition, false));
    assert_eq!(lines(&reduced), lines(&whole), "{}\n{}", told(&reduced), told(&whole));
    reduced
}

#[track_caller]
fn expect(report: &Report, expected: &[&str]) {
    assert_eq!(lines(report), expected, "{}", told(report));
}

const FAST: &str = "onFailure: failFast";

/// A decision with these conditions, named c0, c1, …
fn decision(id: &str, conditions: &[&str], rest: &str) -> String {
    let listed = conditions.iter().enumerate();
    let listed = listed.map(|(number, text)| format!("{{ id: c{number}, expression: \"{text}\" }}"));
    let listed = listed.collect::<Vec<_>>().join(", ");
    format!("{id} type: decision, data: {{ conditions: [{listed}]{rest} }}")
}

/// Whether `second` can be true where `first` is, of a decision behind a decision.
fn can_follow(first: &str, second: &str) -> bool {
    let (one, two) = (
        decision("one", &[first], ", defaultPath: no"),
        decision("two", &[second], ", defaultPath: no"),
    );
    let edges = ["one>two condition: c0", "one>no", "two>yes condition: c0", "two>no"];
    let report = of(&[&one, &two, "yes", "no"], &edges, FAST);
    !lines(&report).contains(&"NODE_NEVER_RUNS certain yes".to_owned())
}

#[test]
fn a_way_never_contradicts_itself() {
    for (first, second, expected) in [
        ("input.x > 5", "input.x <= 5", false),
        ("input.x > 5", "input.x > 3", true),
        ("input.x > 5", "5 >= input.x", false),
        ("input.x > 5 && input.x < 6", "input.x === 5.5", true),
        ("input.x > 5 && input.x < 6", "input.x === 7", false),
        ("input.x === 'a'", "input.x === 'b'", false),
        ("input.x === 'a'", "input.x !== 'a'", false),
        ("input.x !== 'a'", "input.x === 'b'", true),
        ("input.x", "!input.x", false),
        ("!input.x", "input.x === 1", false),
        ("input.x === input.y", "input.x !== input.y", false),
        ("input.x < input.y", "input.y < input.x", false),
        ("input.x < input.y", "input.x <= input.y", true),
        ("input.x + 1 > input.y", "input.x+1 > input.y", true),
        ("input.x + 1 > input.y", "!(input.x + 1 > input.y)", false),
        ("input.list.includes(3)", "!input.list.includes(3)", false),
        ("trigger.x > 5", "input.x < 5", false),
        ("input.x == null", "input.x === undefined", true),
        ("input.x == null", "input.x", false),
        ("(input.x ?? 0) === 3", "input.x === 3", true),
        ("input.x ? input.y : input.z", "input.x || input.z", true),
    ] {
        assert_eq!(can_follow(first, second), expected, "`{second}` behind `{first}`");
    }
}

#[test]
fn data_that_has_changed_is_asked_again() {
    let write = "write type: function, data: { handlerId: echo, outputMapping: { v: output.v } }";
    let (one, two) = (
        decision("one", &["variables.v > 5"], ", defaultPath: no"),
        decision("two", &["variables.v < 5"], ", defaultPath: no"),
    );
    let edges = |write: &'static str| [write, "one>no", "two>yes condition: c0", "two>no", "write>two"];
    let between = of(
        &[&one, &two, write, "yes", "no"],
        &edges("one>write condition: c0"),
        FAST,
    );
    expect(&between, &[]);
    let before = of(
        &[&one, &two, "write", "yes", "no"],
        &edges("one>write condition: c0"),
        FAST,
    );
    expect(&before, &["NODE_NEVER_RUNS certain yes"]);
}

#[test]
fn data_on_its_way_is_remembered() {
    let (one, two) = (
        decision("one", &["input.x > 5"], ", defaultPath: no"),
        decision("two", &["input.x < 5"], ", defaultPath: no"),
    );
    let wait = "wait type: delay, data: { delayType: fixed, delayValue: 100 }";
    let edges = [
        "one>wait condition: c0",
        "one>no",
        "wait>two",
        "two>yes condition: c0",
        "two>no",
    ];
    expect(
        &of(&[&one, wait, &two, "yes", "no"], &edges, FAST),
        &["NODE_NEVER_RUNS certain yes"],
    );
    let mapped = "wait type: delay, data: { delayType: fixed, delayValue: 100, inputMapping: { x: input.x } }";
    expect(
        &of(&[&one, mapped, &two, "yes", "no"], &edges, FAST),
        &["NODE_NEVER_RUNS certain yes"],
    );
    // It lies at a join that waits for another branch.
    let joins = ", defaultPath: no, join: { mode: allSuccess }";
    let two = decision("two", &["input.one.x < 5"], joins);
    let edges = [
        "s>one",
        "s>b",
        "one>two condition: c0",
        "one>no",
        "b>two",
        "two>yes condition: c0",
        "two>no",
    ];
    let start = "s type: trigger, data: { triggerType: manual, config: {} }";
    let report = of(&[start, &one, "b", &two, "yes", "no"], &edges, FAST);
    let found = lines(&report);
    assert!(
        found.contains(&"NODE_NEVER_RUNS certain yes".to_owned()),
        "{}",
        told(&report)
    );
}

#[test]
fn conditions_that_leave_no_gap_need_no_default() {
    let edges = ["d>a condition: c0", "d>b condition: c1"];
    let whole = decision("d", &["input.x > 5", "input.x <= 5"], "");
    expect(&of(&[&whole, "a", "b"], &edges, FAST), &[]);
    let whole = decision("d", &["input.ok", "!input.ok"], "");
    expect(&of(&[&whole, "a", "b"], &edges, FAST), &[]);
    let gap = decision("d", &["input.x > 5", "input.x < 5"], "");
    expect(
        &of(&[&gap, "a", "b"], &edges, FAST),
        &["DECISION_WITHOUT_MATCH possible d"],
    );
    let handled = ["d>a condition: c0", "d>b condition: c1", "d>c type: failure"];
    expect(&of(&[&gap, "a", "b", "c"], &handled, FAST), &[]);
}

#[test]
fn a_default_that_only_odd_data_takes_is_no_fault() {
    let safe = decision("d", &["input.x > 5", "input.x <= 5"], ", defaultPath: c");
    let edges = ["d>a condition: c0", "d>b condition: c1", "d>c"];
    expect(&of(&[&safe, "a", "b", "c"], &edges, FAST), &[]);
    let dead = decision("d", &["input.x", "!input.x"], ", defaultPath: c");
    expect(
        &of(&[&dead, "a", "b", "c"], &edges, FAST),
        &["NODE_NEVER_RUNS certain c"],
    );
}

#[test]
fn variables_race_only_where_the_order_tells() {
    let writer = |id: &str, value: &str| {
        format!("{id} type: function, data: {{ handlerId: echo, outputMapping: {{ v: \"{value}\" }} }}")
    };
    let edges = ["a>b", "a>c", "b>d", "c>d"];
    let race = |one: &str, two: &str| of(&["a", &writer("b", one), &writer("c", two), "d"], &edges, FAST);
    expect(&race("output.x", "output.x"), &["VARIABLE_RACE certain b,c"]);
    expect(&race("output.x", "variables.v + 1"), &["VARIABLE_RACE certain b,c"]);
    expect(&race("1", "1"), &[]);
    expect(&race("variables.v + 1", "variables.v + output.x"), &[]);
    // Where one ends the other, its value is the last one in either order.
    let wins = "b type: function, data: { handlerId: echo, cancels: [c], outputMapping: { v: output.x } }";
    expect(&of(&["a", wins, &writer("c", "output.y"), "d"], &edges, FAST), &[]);
    let in_turn = ["a>b", "b>c", "c>d"];
    let nodes = ["a", &writer("b", "output.x"), &writer("c", "output.x"), "d"];
    expect(&of(&nodes, &in_turn, FAST), &[]);
    let choice = decision("a", &["input.x"], ", defaultPath: c");
    let nodes = [choice.as_str(), &writer("b", "1"), &writer("c", "2"), "d"];
    expect(&of(&nodes, &["a>b condition: c0", "a>c", "b>d", "c>d"], FAST), &[]);
    // Behind a choice of data it is possible only.
    let fork = decision("p", &["input.x"], ", defaultPath: q");
    let nodes = [&fork, "a", &writer("b", "1"), &writer("c", "2"), "d", "q"];
    let edges = ["p>a condition: c0", "p>q", "a>b", "a>c", "b>d", "c>d"];
    expect(&of(&nodes, &edges, FAST), &["VARIABLE_RACE possible b,c"]);
}

#[test]
fn what_runs_beside_is_seen_whatever_comes_first() {
    let writer =
        |id: &str| format!("{id} type: function, data: {{ handlerId: echo, outputMapping: {{ v: output.x }} }}");
    // The choice of `a` is no condition of the race.
    let nodes = ["a", "x", &writer("b"), &writer("c")];
    expect(
        &of(&nodes, &["a>x condition: output.x"], FAST),
        &["VARIABLE_RACE certain b,c"],
    );
    // `a` ends everything when it ends, but what runs beside it may be faster.
    let edges = ["a>x condition: nodes.b.output.x.y", "b>n", "n>m"];
    let report = of(&["a", "x", "b", "n", "m"], &edges, FAST);
    expect(&report, &["READ_OF_NOTHING certain a"]);
    let edges = ["a>x condition: nodes.x.output.y", "b>n", "n>m"];
    let report = of(&["a", "x", "b", "n", "m"], &edges, FAST);
    expect(&report, &["NODE_NEVER_RUNS certain x", "READ_OF_NOTHING certain a"]);
}

#[test]
fn timers_keep_their_order() {
    let delay = |id: &str, ms: u64| format!("{id} type: delay, data: {{ delayType: fixed, delayValue: {ms} }}");
    let first = |long: &str| {
        let join = "j type: function, data: { handlerId: echo, join: { mode: any } }";
        of(
            &["a", &delay("short", 100), long, "b", join],
            &["a>short", "a>b", "b>long", "short>j", "long>j"],
            FAST,
        )
    };
    // However long `b` takes the longer delay begins no earlier, and the join has fired by then.
    let report = first(&delay("long", 200));
    expect(&report, &[]);
    // The one that ends first cancels the other.
    let canceling = "short type: delay, data: { delayType: fixed, delayValue: 100, cancels: [long] }";
    let race = |ms: u64| of(&[canceling, &delay("long", ms), "late"], &["long>late"], FAST);
    expect(&race(200), &["NODE_NEVER_RUNS certain late"]);
    expect(&race(100), &[]);
}

#[test]
fn a_loop_may_end_by_its_limit_where_that_is_handled() {
    let header = "poll type: function, data: { handlerId: echo, maxIterations: 3 }";
    let asks = |condition: &str| decision("d", &[condition], ", defaultPath: poll");
    let edges = [
        "a>poll",
        "poll>d",
        "d>out condition: c0",
        "d>poll",
        "poll>give-up type: failure, errors: [LOOP_LIMIT]",
    ];
    expect(
        &of(&["a", header, &asks("input.done"), "out", "give-up"], &edges, FAST),
        &[],
    );
    let counted = of(
        &["a", header, &asks("execution.iteration >= 3"), "out", "give-up"],
        &edges,
        FAST,
    );
    expect(&counted, &["NODE_NEVER_RUNS certain give-up"]);
    let never = of(
        &["a", header, &asks("execution.iteration >= 4"), "out", "give-up"],
        &edges,
        FAST,
    );
    expect(&never, &["NODE_NEVER_RUNS certain out"]);
    let counter = "poll type: function, data: { handlerId: echo, outputMapping: { n: variables.n + 1 } }";
    let edges = ["a>poll", "poll>d", "d>out condition: c0", "d>poll"];
    let long = "poll type: function, data: { handlerId: echo, maxIterations: 10 }";
    let in_the_third = of(&["a", long, &asks("execution.iteration === 3"), "out"], &edges, FAST);
    expect(&in_the_third, &[]);
    let by_counter = of(&["a", counter, &asks("variables.n > 3"), "out"], &edges, FAST);
    expect(&by_counter, &[]);
}

#[test]
fn a_wait_for_a_call_needs_a_deadline_somewhere() {
    let wait = |more: &str| format!("wait type: webhook, data: {{ webhookId: w{more} }}");
    let edges = ["a>wait", "wait>b"];
    let open = of(&["a", &wait(""), "b"], &edges, FAST);
    expect(&open, &["WAIT_WITHOUT_DEADLINE possible wait"]);
    expect(&of(&["a", &wait(", timeout: 1000"), "b"], &edges, FAST), &[]);
    let beside = of(&["a", &wait(""), "b", "c"], &["a>wait", "a>c", "wait>b"], FAST);
    expect(&beside, &["WAIT_WITHOUT_DEADLINE possible wait"]);
    expect(
        &of(&["a", &wait(""), "b"], &edges, "onFailure: failFast, timeout: 1000"),
        &[],
    );
    let late = ["a>wait", "wait>b", "wait>c type: failure, errors: [TIMEOUT]"];
    expect(&of(&["a", &wait(", timeout: 1000"), "b", "c"], &late, FAST), &[]);
}

#[test]
fn a_failure_is_handled_or_chosen_or_found() {
    let nodes = ["a", "b", "c"];
    expect(&of(&nodes, &["a>b"], ""), &["UNHANDLED_FAILURE possible a,b,c"]);
    expect(&of(&nodes, &["a>b"], "onFailure: continue"), &[]);
    let handled = ["a>b", "a>c type: failure, errors: [E1]"];
    let report = of(
        &["a", "b type: delay, data: { delayType: fixed, delayValue: 1 }", "c"],
        &handled,
        "",
    );
    expect(&report, &["UNHANDLED_FAILURE possible a,c"]);
    assert!(
        report.findings[0]
            .message
            .contains("`a` (any code that its failure edges do not name)")
    );
}

#[test]
fn an_expression_that_always_throws_lets_nothing_complete() {
    let report = of(&["a"], &[], "onFailure: failFast, output: \"JSON.parse('no')\"");
    expect(&report, &["NEVER_COMPLETES certain "]);
    let report = of(&["a", "b"], &["a>b condition: \"nodes.b.output.x\""], FAST);
    expect(&report, &["NODE_NEVER_RUNS certain b", "READ_OF_NOTHING certain a"]);
    let asked = of(&["a", "b"], &["a>b condition: \"nodes.b?.output?.x || input.x\""], FAST);
    expect(&asked, &["NOTHING_COMPLETED possible b"]);
}

#[test]
fn cancels_that_can_come_in_time_are_no_fault() {
    let (wait, paid) = (
        "wait type: delay, data: { delayType: fixed, delayValue: 100 }",
        "paid type: function, data: { handlerId: echo, cancels: [wait] }",
    );
    expect(&of(&["a", wait, paid], &["a>wait", "a>paid"], FAST), &[]);
    expect(
        &of(&["a", wait, paid], &["a>wait", "wait>paid"], FAST),
        &["CANCEL_WITHOUT_EFFECT certain paid,wait"],
    );
}

#[test]
fn the_cut_off_wait_names_what_follows() {
    let delay = |id: &str, ms: u64| format!("{id} type: delay, data: {{ delayType: fixed, delayValue: {ms} }}");
    let nodes = [delay("one", 60), delay("two", 60)];
    let nodes = [nodes[0].as_str(), &nodes[1], "b"];
    let report = of(&nodes, &["one>two", "two>b"], "onFailure: failFast, timeout: 100");
    expect(&report, &["WAIT_NEVER_ENDS certain two"]);
    assert!(report.findings[0].why.contains("`b`"), "{}", told(&report));
    expect(
        &of(&nodes, &["one>two", "two>b"], "onFailure: failFast, timeout: 200"),
        &[],
    );
}

#[test]
fn behind_the_limit_of_a_loop_data_decides_anew() {
    let header = "poll type: function, data: { handlerId: echo, maxIterations: 10 }";
    let choice = decision("which", &["trigger.strict"], ", defaultPath: other");
    let edges = [
        "a>poll",
        "poll>out condition: \"!output.more\"",
        "poll>poll condition: output.more",
        "poll>which type: failure, errors: [LOOP_LIMIT]",
        "which>one condition: c0",
        "which>other",
    ];
    let nodes = ["a", header, "out", &choice, "one", "other"];
    expect(&of(&nodes, &edges, FAST), &[]);
}

#[test]
fn a_loop_that_asks_anew_in_each_pass_can_be_left_whatever_the_last_one_answers() {
    let counted = |most: u64| format!("poll type: function, data: {{ handlerId: echo, maxIterations: {most} }}");
    let edges = [
        "a>poll",
        "poll>b",
        "poll>out",
        "poll>poll condition: output.more",
        "b>poll condition: execution.iteration < 3",
    ];
    // `b` still runs when the last pass has answered that it goes on: nothing leaves the loop from there.
    let wait = "b type: delay, data: { delayType: fixed, delayValue: 1 }";
    for most in [4, 10] {
        for body in ["b", wait] {
            expect(&of(&["a", &counted(most), body, "out"], &edges, FAST), &[]);
        }
    }
    // In the second pass this one asks what it has asked in the first.
    let edges = ["a>poll", "poll>b", "b>out", "b>poll condition: trigger.more"];
    for most in [2, 10] {
        for body in ["b", wait] {
            expect(
                &of(&["a", &counted(most), body, "out"], &edges, FAST),
                &["LOOP_NEVER_LEFT possible poll"],
            );
        }
    }
}

#[test]
fn a_failure_that_ends_everything_leaves_no_loop() {
    // The exit is decided before `b` fails, and resolved by that: `out` does not run.
    let edges = ["a>poll", "poll>b", "poll>out", "b>poll"];
    let report = of(
        &[
            "a",
            "poll type: function, data: { handlerId: echo, maxIterations: 3 }",
            "b",
            "out",
        ],
        &edges,
        FAST,
    );
    expect(
        &report,
        &["NODE_NEVER_RUNS certain out", "LOOP_NEVER_LEFT certain poll"],
    );
    // It is left in the step in which what follows fails.
    let edges = [
        "a>poll",
        "poll>poll condition: output.more",
        "poll>out",
        "out>end condition: c0",
    ];
    let poll = "poll type: function, data: { handlerId: echo, maxIterations: 3 }";
    let out = decision("out", &["nodes.end.output.x"], "");
    expect(
        &of(&["a", poll, &out, "end"], &edges, FAST),
        &["NODE_NEVER_RUNS certain end", "READ_OF_NOTHING possible out"],
    );
}

#[test]
fn what_a_failing_join_cuts_short_has_begun_where_another_branch_is_the_last() {
    let wait = "wait type: delay, data: { delayType: fixed, delayValue: 100 }";
    let join = decision("j", &[], ", join: { mode: allSuccess, onUnsatisfied: fail }");
    let edges = ["wait>j type: failure", "b>j", "wait>n"];
    let report = of(&["a", wait, "b", &join, "n"], &edges, FAST);
    expect(&report, &["JOIN_NEVER_FIRES certain j"]);
    // The same of a join that fires, and throws.
    let join = decision("j", &["nodes.n.output.x.y", "!nodes.n.output.x.y"], "");
    let edges = ["b>j", "c>j", "b>n", "c>m", "j>k condition: c0", "j>k condition: c1"];
    let report = of(&["a", "b", "c", "n", "m", &join, "k"], &edges, FAST);
    assert!(
        !lines(&report)
            .iter()
            .any(|line| line.ends_with("certain n") || line.ends_with("certain m")),
        "{}",
        told(&report)
    );
}

#[test]
fn data_that_a_delay_passes_on_is_remembered_where_its_output_is_read() {
    let choice = decision("one", &["input.x > 5"], ", defaultPath: no");
    let wait = "wait type: delay, data: { delayType: fixed, delayValue: 100 }";
    let edges = [
        "one>wait condition: c0",
        "one>no",
        "wait>two condition: nodes.wait.output.x < 5",
    ];
    let report = of(&[&choice, wait, "two", "no"], &edges, FAST);
    expect(
        &report,
        &["NODE_NEVER_RUNS certain two", "NOTHING_COMPLETED possible two,no"],
    );
}

#[test]
fn what_shows_whatever_data_decides_in_its_step_is_certain() {
    let wait = "wait type: delay, data: { delayType: fixed, delayValue: 100 }";
    let join = decision("j", &["input.ok"], "");
    let edges = ["a>j condition: nodes.b.output.ok", "wait>j", "j>k condition: c0"];
    let nodes = ["a", wait, "b", &join, "k", "c", "d"];
    let report = of(&nodes, &edges, "onFailure: continue");
    let found = lines(&report);
    assert!(
        found.contains(&"READ_OF_NOTHING certain a".to_owned()),
        "{}",
        told(&report)
    );
}

#[test]
fn a_write_races_whatever_the_join_behind_it_asks() {
    let writer = |id: &str, value: &str| {
        format!("{id} type: function, data: {{ handlerId: echo, outputMapping: {{ v: \"{value}\" }} }}")
    };
    let edges = ["one>j", "b>j", "j>k condition: c0"];
    for asks in ["trigger.n > 5", "nodes.k.output.x"] {
        let nodes = [
            &writer("one", "1"),
            "b",
            &decision("j", &[asks], ""),
            "k",
            &writer("two", "output.x"),
        ];
        let report = of(&nodes, &edges, FAST);
        let found = lines(&report);
        assert!(
            found.contains(&"VARIABLE_RACE certain one,two".to_owned()),
            "{}",
            told(&report)
        );
    }
}

#[test]
fn a_loop_that_ends_without_an_exit_is_no_trap_whatever_fails_beside_it() {
    let edges = ["a>poll", "poll>b condition: execution.iteration < 3", "b>poll", "b>out"];
    let poll = "poll type: function, data: { handlerId: echo, maxIterations: 4 }";
    let canceling = "beside type: function, data: { handlerId: echo, cancels: [wait] }";
    let wait = "wait type: delay, data: { delayType: fixed, delayValue: 100 }";
    expect(
        &of(&["a", poll, "b", "out", canceling, wait], &edges, "onFailure: continue"),
        &["NODE_NEVER_RUNS certain out"],
    );
}

#[test]
fn a_failure_in_a_loop_takes_what_the_loop_holds() {
    let edges = [
        "a>poll",
        "poll>b",
        "poll>b type: failure",
        "poll>out condition: trigger.n > 5",
        "b>poll condition: trigger.n > 3",
        "b>out",
    ];
    let poll = "poll type: function, data: { handlerId: echo, maxIterations: 4 }";
    expect(
        &of(&["a", poll, "b", "out"], &edges, FAST),
        &["LOOP_NEVER_LEFT possible poll"],
    );
}

#[test]
fn a_loop_has_ended_before_what_follows_it_fails_in_the_same_step() {
    let edges = [
        "poll>poll condition: execution.iteration < 3",
        "poll>j condition: execution.iteration < 3",
        "b>j",
        "j>k condition: c0",
    ];
    let poll = "poll type: function, data: { handlerId: echo, maxIterations: 4 }";
    let join = decision("j", &["nodes.c.status === 'failed'"], "");
    let report = of(&[poll, "b", "c", &join, "k"], &edges, FAST);
    assert!(
        report.findings.iter().all(|finding| finding.code != "LOOP_NEVER_LEFT"),
        "{}",
        told(&report)
    );
}
