//! §5: which roots fire, webhooks among them, and delay nodes.

use serde_json::{Value, json};

use super::flow::{Flow, Run, flow};
use crate::support::duo::{EPOCH, Stimulus};

fn roots() -> Flow {
    flow("m/trigger p/trigger s/trigger e/trigger h/webhook f", "")
        .data("m", json!({"triggerType": "manual"}))
        .data("p", json!({"triggerType": "api"}))
        .data("s", json!({"triggerType": "scheduled"}))
        .data("e", json!({"triggerType": "event"}))
}

fn started_by(trigger: Option<&str>) -> String {
    let mut run = roots().create();
    run.apply(Stimulus::Start {
        trigger: trigger.map(str::to_owned),
        input: json!(1),
        variables: Vec::new(),
    });
    run.nodes()
}

#[test]
fn a_start_that_names_a_trigger_fires_it_and_every_root_that_is_none() {
    assert_eq!(
        started_by(Some("s")),
        "m:skipped p:skipped s:completed e:skipped h:skipped f:running"
    );
    assert_eq!(
        started_by(Some("m")),
        "m:completed p:skipped s:skipped e:skipped h:skipped f:running"
    );
}

#[test]
fn a_start_that_names_none_fires_all_but_scheduled_event_and_webhook() {
    assert_eq!(
        started_by(None),
        "m:completed p:completed s:skipped e:skipped h:skipped f:running"
    );
}

#[test]
fn where_that_leaves_nothing_all_fire() {
    let run = flow("s/trigger e/trigger a", "s>a e>a")
        .data("s", json!({"triggerType": "scheduled"}))
        .data("e", json!({"triggerType": "event"}))
        .start();
    assert_eq!(run.nodes(), "s:completed e:completed a:running");
}

#[test]
fn an_unknown_trigger_is_refused() {
    for name in ["nobody", "f"] {
        let mut run = roots().create();
        let start = Stimulus::Start {
            trigger: Some(name.into()),
            input: json!(1),
            variables: Vec::new(),
        };
        assert!(run.try_apply(start).is_err());
        assert_eq!(run.status(), "pending");
    }
}

fn called(flow: Flow, trigger: Option<&str>) -> Run {
    let mut run = flow.create();
    run.apply(Stimulus::Start {
        trigger: trigger.map(str::to_owned),
        input: json!({"body": 5}),
        variables: Vec::new(),
    });
    run
}

#[test]
fn a_webhook_is_fired_by_a_start_that_names_it() {
    let two = || flow("h/webhook i/webhook a b", "h>a i>b");
    let run = called(two(), Some("h"));
    assert_eq!(
        (run.nodes().as_str(), run.given("a").as_str()),
        ("h:completed i:skipped a:running b:skipped", r#"{"body":5}"#)
    );
}

#[test]
fn a_webhook_is_fired_by_a_start_that_names_none_only_where_nothing_else_is_left() {
    let run = called(flow("h/webhook a b", "h>a"), None);
    assert_eq!(run.nodes(), "h:skipped a:skipped b:running");
    let run = called(flow("h/webhook a", "h>a"), None);
    assert_eq!(
        (run.nodes().as_str(), run.given("a").as_str()),
        ("h:completed a:running", r#"{"body":5}"#)
    );
}

#[test]
fn a_webhook_makes_its_output_of_the_start_by_its_template() {
    let flow = flow("h/webhook a", "h>a").data("h", json!({"transformationTemplate": "{{output.body}}"}));
    assert_eq!(called(flow, Some("h")).given("a"), "5");
}

#[test]
fn a_start_cannot_name_a_webhook_that_waits() {
    let mut run = flow("a h/webhook", "a>h").create();
    let start = Stimulus::Start {
        trigger: Some("h".into()),
        input: json!(1),
        variables: Vec::new(),
    };
    assert_eq!(run.refusal(start), "UNKNOWN_TRIGGER");
}

#[test]
fn a_back_edge_makes_no_other_node_of_a_webhook() {
    let run = called(flow("h/webhook a", "h>a h>h?false"), Some("h"));
    assert_eq!(run.nodes(), "h:completed a:running");
}

fn delay(kind: &str, value: Value, input: Value) -> Run {
    flow("w/delay a", "w>a")
        .data("w", json!({"delayType": kind, "delayValue": value}))
        .start_with(input)
}

#[test]
fn a_delay_waits_and_passes_its_input_through() {
    for (kind, value, due) in [
        ("fixed", json!(1_500), 1_500),
        ("until", json!(EPOCH + 2_000), 2_000),
        ("until", json!("2026-09-21T15:00:00.000Z"), 0),
        ("expression", json!("input"), 300),
        ("expression", json!(format!("const:{}", EPOCH + 700)), 700),
        ("fixed", json!(31_536_000_000_i64 * 20), 31_536_000_000_i64 * 20),
    ] {
        let mut run = delay(kind, value.clone(), json!(300));
        let expected = if value.is_string() && kind == "until" {
            chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap())
                .unwrap()
                .timestamp_millis()
                - EPOCH
        } else {
            due
        };
        if expected > 0 {
            assert_eq!(
                (run.node("w"), run.next_due()),
                ("running", Some(expected)),
                "{kind} {value}"
            );
            run.wait(expected - 1);
            assert!(run.try_apply(Stimulus::Deadline).is_err(), "never early");
            run.wait(1).due();
        }
        assert_eq!(
            (run.node("w"), run.given("a").as_str()),
            ("completed", "300"),
            "{kind} {value}"
        );
    }
}

#[test]
fn a_delay_that_is_due_completes_in_the_same_step() {
    for (kind, value) in [
        ("fixed", json!(0)),
        ("until", json!("1999-12-31T23:59:59Z")),
        ("until", json!(EPOCH - 1)),
        ("expression", json!("const:-50")),
    ] {
        let run = delay(kind, value.clone(), json!(1));
        assert_eq!(
            (run.node("w"), run.started().as_str()),
            ("completed", "a1"),
            "{kind} {value}"
        );
    }
}

#[test]
fn a_delay_that_makes_no_sense_fails() {
    for (kind, value) in [
        ("expression", json!("throw")),
        ("expression", json!("const:null")),
        ("expression", json!("const:\"soon\"")),
        ("expression", json!("const:{}")),
    ] {
        let run = delay(kind, value.clone(), json!(1));
        assert_eq!(
            (run.error_of("w"), run.status()),
            ("EXPRESSION_ERROR", "failed"),
            "{kind} {value}"
        );
    }
}
