//! What lists show of an execution.

use troupe_core::execution::{Entry, ExecutionState, Verb};
use troupe_core::plan::Plan;
use troupe_ports::ExecutionSummary;

/// Bytes that lists show of a name or of an error's message.
const SHOWN_BYTES_MAX: usize = 1_024;
/// Tags that an execution is found by; a definition may have more.
const TAGS_MAX: usize = 50;

/// Whether an entry changed what lists show.
#[must_use]
pub fn changes_summary(entry: &Entry) -> bool {
    entry.transitions.iter().any(|transition| match transition.verb() {
        Some(
            Verb::ExecutionCreated
            | Verb::ExecutionStarted
            | Verb::ExecutionPaused
            | Verb::ExecutionResumed
            | Verb::ExecutionCompleted
            | Verb::ExecutionFailed
            | Verb::ExecutionCanceled,
        ) => true,
        Some(
            Verb::ExecutionCompensating
            | Verb::NodeScheduled
            | Verb::NodeStarted
            | Verb::NodeWaiting
            | Verb::NodeRetrying
            | Verb::NodeCompleted
            | Verb::NodeFailed
            | Verb::NodeSkipped
            | Verb::NodeCanceled
            | Verb::NodeInterrupted,
        )
        | None => false,
    })
}

/// What lists show of a state that follows `plan`.
#[must_use]
pub fn summary(state: &ExecutionState, plan: &Plan) -> ExecutionSummary {
    let error = state.failure.as_ref().map(|failure| &failure.error);
    ExecutionSummary {
        id: state.id,
        workflow_id: state.workflow.as_str().to_owned(),
        version: state.version,
        status: state.status.name().to_owned(),
        paused: state.paused,
        started_at: state.started_at,
        ended_at: state.ended_at,
        error_code: error.map(|error| error.code.clone()),
        error_message: error.map(|error| beginning(&error.message)),
        execution_key: state.execution_key.clone(),
        workflow_name: beginning(&plan.name),
        tags: tags(plan),
        parent: state.parent.map(|parent| parent.execution),
        seq: state.seq,
    }
}

fn beginning(text: &str) -> String {
    text[..text.floor_char_boundary(SHOWN_BYTES_MAX)].to_owned()
}

/// The first ones of the definition, each once.
fn tags(plan: &Plan) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for tag in plan.tags.iter().filter(|tag| !tag.is_empty()) {
        if tags.len() == TAGS_MAX {
            break;
        }
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use troupe_core::ExecutionId;

    use super::*;

    #[test]
    fn a_summary_has_the_labels_of_its_workflow_version_within_bounds() {
        let many: Vec<String> = (0..200).map(|number| format!("tag {}", number / 2)).collect();
        let listed = |name: &str, tags: &[String]| {
            let definition = json!({
                "id": "w", "name": name, "metadata": {"tags": tags}, "edges": [],
                "nodes": [{"id": "n", "type": "delay", "data": {"delayType": "fixed", "delayValue": 1}}],
            });
            let plan = Plan::build(&serde_json::from_value(definition).unwrap()).unwrap();
            summary(&ExecutionState::new(&plan, ExecutionId([7; 16])), &plan)
        };
        let few = ["b".to_owned(), String::new(), "a".to_owned(), "b".to_owned()];
        let short = listed("Orders", &few);
        assert_eq!(
            (short.workflow_name.as_str(), short.tags),
            ("Orders", vec!["b".to_owned(), "a".to_owned()])
        );
        let long = listed(&"é".repeat(1_000), &many);
        assert_eq!(long.workflow_name, "é".repeat(512));
        let expected: Vec<String> = (0..TAGS_MAX).map(|number| format!("tag {number}")).collect();
        assert_eq!(long.tags, expected);
    }
}
