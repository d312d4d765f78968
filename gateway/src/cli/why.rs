//! `troupe why`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::{Context, Failure};
use crate::dto::{NodeResultDto, WaitingDto, WorkflowContextDto};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Why {
    /// Id of the execution, or a beginning that only one id has.
    execution: String,
}

impl Why {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let id = client.execution_id(&self.execution).await?;
        let request = client.get(&["executions", &id]).query(&[("include", "resumeUrls")]);
        let shown: WorkflowContextDto = client.fetch(request).await?;
        if out.json {
            let waiting = shown.node_results.iter().filter_map(|(node, result)| {
                let waiting = result.waiting.as_ref()?;
                Some((node.as_str(), waiting))
            });
            let waiting: BTreeMap<&str, &WaitingDto> = waiting.collect();
            out.value(&json!({
                "id": shown.id, "status": shown.status, "paused": shown.paused, "heldBy": shown.held_by, "quarantined": shown.quarantined,
                "currentNodes": shown.current_nodes, "waiting": waiting,
            }))?;
            return Ok(Exit::Ok);
        }
        if out.quiet {
            shown.current_nodes.iter().for_each(|node| out.line(node));
            return Ok(Exit::Ok);
        }
        reasons(&shown).iter().for_each(|line| out.line(line));
        Ok(Exit::Ok)
    }
}

/// Why the execution goes on no further, a line a reason.
fn reasons(shown: &WorkflowContextDto) -> Vec<String> {
    let mut lines = Vec::new();
    if shown.end_time.is_some() {
        let error = shown.error.as_ref();
        let why = error.map_or_else(String::new, |error| {
            let node = error
                .node_id
                .as_ref()
                .map(|node| format!(" at {node}"))
                .unwrap_or_default();
            format!(": {}{node}: {}", error.code, error.message)
        });
        return vec![format!("it {}{why}", shown.status)];
    }
    if let Some(reason) = &shown.quarantined {
        lines.push(format!(
            "it is set aside: {reason}; `troupe resume {}` tries it again",
            shown.id
        ));
    }
    if shown.status == "pending" {
        lines.push("it has not begun: as many executions of its workflow as may run at once do".to_owned());
    }
    if shown.paused {
        lines.push(format!("it is paused; `troupe resume {}` lets it go on", shown.id));
    }
    for held in &shown.held_by {
        let (is, verb) = if held.kind == "stop" {
            ("stopped", "release")
        } else {
            ("paused", "resume")
        };
        let by = held.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let why = held.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        lines.push(format!(
            "{} is {is}{by} since {}{why}; `troupe {verb} {}` lets it go on",
            held.scope.words(),
            held.since,
            held.scope.options()
        ));
    }
    for (node, result) in &shown.node_results {
        let undo = result.compensation.iter().filter(|undo| undo.end_time.is_none());
        for undo in undo {
            lines.extend(reasons_of(&shown.id, &format!("{node} (undo)"), undo));
        }
    }
    let current = shown.current_nodes.iter();
    for (node, result) in current.filter_map(|node| Some((node, shown.node_results.get(node)?))) {
        lines.extend(reasons_of(&shown.id, node, result));
    }
    lines
}

fn reasons_of(id: &str, node: &str, result: &NodeResultDto) -> Vec<String> {
    let Some(wait) = &result.waiting else {
        let attempt = result.retry_count + 1;
        return vec![format!("{node}: attempt {attempt} runs")];
    };
    let until = wait
        .until
        .as_ref()
        .map(|until| format!(" until {until}"))
        .unwrap_or_default();
    let mut lines = vec![format!("{node}: waits ({}){until}: {}", wait.reason, wait.hint)];
    if let Some(url) = &wait.resume_url {
        lines.push(format!("  call it:       curl -X POST {url}"));
        lines.push(format!("  or by hand:    troupe complete {id} {node} -i key=value"));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn context(more: serde_json::Value) -> WorkflowContextDto {
        let mut whole = json!({
            "id": "ab", "workflowId": "w", "version": 1, "status": "running", "paused": false,
            "startTime": "2026-11-26T00:00:00.000Z", "sequence": 1, "run": 1, "priority": 5, "input": null,
            "variables": {}, "nodeResults": {}, "currentNodes": [], "completedNodes": [], "failedNodes": [],
            "activePaths": [], "metadata": {},
        });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn each_reason_says_what_helps() {
        let waits = json!({"status": "running", "retryCount": 0, "attempts": [], "waiting":
            {"reason": "call", "until": "2026-11-27T00:00:00.000Z", "hint": "no call yet", "resumeUrl": "http://x/t"}});
        let runs = json!({"status": "running", "retryCount": 1, "attempts": []});
        let shown = context(
            json!({"paused": true, "currentNodes": ["ask", "work"], "nodeResults": {"ask": waits, "work": runs}}),
        );
        assert_eq!(
            reasons(&shown),
            [
                "it is paused; `troupe resume ab` lets it go on",
                "ask: waits (call) until 2026-11-27T00:00:00.000Z: no call yet",
                "  call it:       curl -X POST http://x/t",
                "  or by hand:    troupe complete ab ask -i key=value",
                "work: attempt 2 runs",
            ]
        );
        let ended = context(json!({"status": "failed", "endTime": "2026-11-26T00:00:01.000Z",
            "error": {"code": "NO", "message": "gone", "nodeId": "ask"}}));
        assert_eq!(reasons(&ended), ["it failed: NO at ask: gone"]);
    }
}
