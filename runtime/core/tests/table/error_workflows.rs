//! §6: `settings.errorWorkflow`, see ADR 0020.

use serde_json::{Value, json};
use troupe_core::execution::{ErrorWorkflow, Event, Status, StepError};
use troupe_core::{ErrorInfo, ExecutionId, ShardId, Timestamp};

use crate::support::solo::Solo;

fn reporting(settings: &Value) -> Solo {
    let undo = json!({"type": "function", "data": {"retryPolicy": {"maxAttempts": 1}}});
    let mut definition = json!({
        "id": "w", "version": 3,
        "nodes": [
            {"id": "a", "type": "function", "data": {"compensation": undo}},
            {"id": "b", "type": "function", "data": {"retryPolicy": {"maxAttempts": 2, "jitter": "none"}}},
        ],
        "edges": [{"id": "e", "source": "a", "target": "b"}],
        "settings": {"errorWorkflow": "alarm"},
    });
    definition["settings"]
        .as_object_mut()
        .unwrap()
        .extend(settings.as_object().unwrap().clone());
    Solo::new(&definition)
}

fn another() -> ExecutionId {
    ExecutionId::fresh(ShardId(0), Timestamp(1), 9)
}

fn failed(settings: &Value) -> Solo {
    let mut run = reporting(settings);
    run.start(None);
    run.complete("a", json!({"id": 7})).fail("b", "E1").due();
    run.fail("b", "E2");
    run
}

#[test]
fn a_failed_execution_ends_when_its_error_workflow_has_begun() {
    let mut run = failed(&json!({}));
    assert_eq!((run.status(), run.done().as_str()), ("running", "report to alarm"));
    let id = run.state.id.to_string();
    let started = run.report.as_ref().unwrap()["execution"]["startTime"].clone();
    assert!(started.as_str().unwrap().ends_with('Z'));
    let expected = json!({
        "execution": {"id": id, "workflowId": "w", "version": 3, "run": 1, "startTime": started},
        "error": {"code": "E2", "message": "it broke"},
        "node": {"id": "b", "type": "function", "visit": 1, "attempts": 2, "input": {"id": 7}},
        "input": {"ok": true},
    });
    assert_eq!(run.report.as_ref().unwrap(), &expected);
    run.apply(&Event::ErrorWorkflow(ErrorWorkflow::Began(another())));
    assert_eq!(
        (run.status(), run.done().as_str(), run.error()),
        ("failed", "finish", "E2")
    );
    assert_eq!(
        run.state.error_workflow.as_deref(),
        Some(&ErrorWorkflow::Began(another()))
    );
    assert_eq!(
        run.try_apply(&Event::ErrorWorkflow(ErrorWorkflow::Began(another()))),
        Err(StepError::Ended)
    );
}

#[test]
fn after_a_crash_the_same_start_is_known() {
    let run = failed(&json!({}));
    let again = run.state.error_workflow_to_start(&run.plan).unwrap();
    assert_eq!(again.workflow.as_str(), "alarm");
    assert_eq!(crate::support::evaluator::parsed(&again.input), run.report.unwrap());
}

#[test]
fn one_that_cannot_be_started_is_recorded() {
    let mut run = failed(&json!({}));
    let refused = ErrorWorkflow::Refused(ErrorInfo::new("WORKFLOW_NOT_FOUND", "there is no workflow `alarm`"));
    run.apply(&Event::ErrorWorkflow(refused.clone()));
    assert_eq!((run.status(), run.error()), ("failed", "E2"));
    assert_eq!(run.state.error_workflow.as_deref(), Some(&refused));
}

#[test]
fn it_hears_what_was_undone_before() {
    let mut run = failed(&json!({"compensate": true}));
    assert_eq!(run.done(), "a^1");
    run.fail("a^", "E3");
    assert_eq!(run.done(), "report to alarm");
    let error = json!({"code": "E3", "message": "it broke"});
    let expected = json!([{"nodeId": "a", "visit": 1, "status": "failed", "error": error}]);
    assert_eq!(run.report.as_ref().unwrap()["compensations"], expected);
    assert_eq!(run.report.as_ref().unwrap()["error"]["code"], "E2");
}

#[test]
fn an_execution_that_fails_without_a_node_reports_none() {
    let mut run = reporting(&json!({"timeout": 100}));
    run.start(None);
    run.due();
    assert_eq!(run.done(), "-a report to alarm");
    let report = run.report.as_ref().unwrap();
    assert_eq!(
        (&report["node"], &report["error"]["code"]),
        (&Value::Null, &json!("EXECUTION_TIMEOUT"))
    );
}

#[test]
fn only_failures_are_reported() {
    let mut run = reporting(&json!({}));
    run.start(None);
    run.complete("a", json!(1)).complete("b", json!(1));
    assert_eq!((run.status(), run.done().as_str()), ("completed", "finish"));
    let mut run = reporting(&json!({}));
    run.start(None);
    run.cancel(0, true).unwrap();
    assert_eq!((run.status(), run.done().as_str()), ("canceled", "-a finish"));
}

#[test]
fn what_handles_a_failure_reports_none_of_its_own() {
    let mut run = reporting(&json!({}));
    run.start(Some(another()));
    run.complete("a", json!(1)).fail("b", "E1").due();
    run.fail("b", "E2");
    assert_eq!((run.status(), run.done().as_str()), ("failed", "finish"));
    assert_eq!(run.state.handles_failure_of, Some(another()));
}

#[test]
fn while_it_reports_it_is_not_canceled_nor_paused() {
    let mut run = failed(&json!({}));
    assert_eq!(run.cancel(0, false), Err(StepError::Unchanged));
    assert_eq!(run.try_apply(&Event::Paused), Err(StepError::Unchanged));
    run.apply(&Event::nothing());
    assert_eq!(run.done(), "");
    run.cancel(0, true).unwrap();
    assert_eq!(
        (run.state.status.clone(), run.done().as_str()),
        (Status::Failed, "finish")
    );
}

#[test]
fn an_outcome_that_nobody_waits_for_is_stale() {
    let mut run = reporting(&json!({}));
    run.start(None);
    let began = Event::ErrorWorkflow(ErrorWorkflow::Began(another()));
    assert_eq!(run.try_apply(&began), Err(StepError::Stale));
}

#[test]
fn it_hears_that_there_was_nothing_to_undo() {
    let mut run = reporting(&json!({"compensate": true}));
    run.start(None);
    run.fail("a", "E1");
    run.due();
    run.fail("a", "E1");
    run.due();
    run.fail("a", "E1");
    assert_eq!(run.done(), "report to alarm");
    assert_eq!(run.report.as_ref().unwrap()["compensations"], json!([]));
}

#[test]
fn it_hears_of_the_visit_that_failed_though_others_followed() {
    let mut run = Solo::new(&json!({
        "id": "w", "version": 1,
        "nodes": [
            {"id": "r", "type": "function", "data": {}},
            {"id": "h", "type": "function", "data": {"retryPolicy": {"maxAttempts": 1}}},
        ],
        "edges": [
            {"id": "in", "source": "r", "target": "h"},
            {"id": "back", "source": "h", "target": "h", "type": "always", "condition": "execution.iteration == 1"},
        ],
        "settings": {"errorWorkflow": "alarm", "onFailure": "continue"},
    }));
    run.start(None);
    run.complete("r", json!("first")).fail("h", "E1");
    run.complete("h", json!("second"));
    assert_eq!(run.done(), "report to alarm");
    let report = run.report.as_ref().unwrap();
    assert_eq!(report["error"]["code"], "E1");
    let expected = json!({"id": "h", "type": "function", "visit": 1, "attempts": 1, "input": "first"});
    assert_eq!(report["node"], expected);
}
