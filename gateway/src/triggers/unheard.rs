//! Event triggers in a deployment without a broker: nothing comes, and somebody must say so.

use troupe_core::WorkflowId;
use troupe_core::definition::{Diagnostic, WorkflowDefinition};
use troupe_ports::{DefinitionError, DefinitionStore};

/// Warning: no message ever reaches an event trigger of this deployment; see `docs/errors`.
pub(crate) const EVENT_TRIGGER_UNHEARD: &str = "EVENT_TRIGGER_UNHEARD";

const WHY: &str = "messages start nothing here: this deployment has no `store.events`";
/// Definitions read at once.
const PAGE: usize = 200;
/// Workflows that the log names.
const NAMED_MAX: usize = 20;

/// A warning for each event trigger of a definition.
pub(crate) fn unheard(definition: &WorkflowDefinition) -> Vec<Diagnostic> {
    let triggers = definition
        .nodes
        .iter()
        .enumerate()
        // What is wrong with one, the validator says.
        .filter(|(_, node)| matches!(node.event_trigger(), Ok(Some(_))));
    let warning = |(place, _)| {
        let pointer = format!("/nodes/{place}/data/triggerType");
        let hint = "set `store.events` of the server, or start the workflow otherwise".to_owned();
        Diagnostic::warning(EVENT_TRIGGER_UNHEARD, pointer, WHY).with_hint(hint)
    };
    triggers.map(warning).collect()
}

/// Says in one line of the log which workflows that are stored have event triggers; call it where there is no broker.
pub(crate) async fn tell_unheard(definitions: &dyn DefinitionStore) {
    match with_triggers(definitions).await {
        Ok(workflows) if workflows.is_empty() => {}
        Ok(workflows) => {
            let named: Vec<&str> = workflows.iter().take(NAMED_MAX).map(WorkflowId::as_str).collect();
            let (code, count) = (EVENT_TRIGGER_UNHEARD, workflows.len());
            tracing::warn!(code, count, workflows = named.join(" "), "{WHY}");
        }
        Err(error) => tracing::warn!(%error, "whether event triggers hear nothing cannot be read"),
    }
}

async fn with_triggers(definitions: &dyn DefinitionStore) -> Result<Vec<WorkflowId>, DefinitionError> {
    let mut found = Vec::new();
    let mut after: Option<WorkflowId> = None;
    loop {
        let page = definitions.list(after.as_ref().map(WorkflowId::as_str), PAGE).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.workflow.clone());
        let heard = page
            .iter()
            .filter(|stored| !stored.archived && !unheard(&stored.definition).is_empty());
        found.extend(heard.map(|stored| stored.workflow.clone()));
    }
}
