//! What parents and children are to each other: ids, first events, what one is told of the other. No I/O but a plan's.

use std::sync::Arc;

use serde_json::Value as JsonValue;
use troupe_core::control::ControlsSeen;
use troupe_core::definition::NodeKind;
use troupe_core::execution::{
    ChildCommand, ChildId, ChildOutcome, ChildReport, Event, ExecutionState, Parent, StartChild, Started,
};
use troupe_core::plan::Plan;
use troupe_core::{ErrorInfo, ExecutionId, Timestamp, Value};

use super::machine::{Action, CommandInput, Draft, ExecutionMachine, Input, MachineOptions, Wanted};
use crate::error::EngineError;
use crate::evaluation::{BODY_OF, CompiledPlan, PlanCache};

/// Grace of a child whose parent no longer waits for it, in milliseconds.
const CANCEL_GRACE_MS: u64 = 10_000;

/// The id that a child always has.
#[must_use]
pub fn child_id(parent: ExecutionId, plan: &Plan, child: ChildId) -> ExecutionId {
    let ChildId {
        run,
        node,
        visit,
        index,
    } = child;
    let name = format!("{run}/{}/{visit}", plan.node(node).key);
    ExecutionId::of_child(parent, &name, index)
}

/// What a child hears of its parent's command.
#[must_use]
pub fn command_to_child(command: ChildCommand) -> CommandInput {
    let event = match command {
        ChildCommand::Pause => Event::PausedWithParent,
        ChildCommand::Freeze => Event::FrozenWithParent,
        ChildCommand::Resume => Event::ResumedWithParent,
        ChildCommand::Cancel => Event::CancelRequested {
            reason: Some("its parent no longer waits for it".into()),
            grace_ms: CANCEL_GRACE_MS,
            at_once: false,
        },
    };
    CommandInput {
        wanted: Wanted::Event(event),
        principal: None,
        command: None,
    }
}

/// What a parent hears of a child that cannot be started.
#[must_use]
pub fn never_began(child: ChildId, error: &EngineError) -> ChildReport {
    let info = match error {
        EngineError::Refused(info) => (**info).clone(),
        _ => ErrorInfo::new(error.code(), error.to_string()),
    };
    ChildReport {
        child,
        outcome: ChildOutcome::Failed(info),
    }
}

/// A machine that has taken its first step beside its parent's: that entry, and what follows once it is durable.
#[derive(Debug)]
pub struct Born<R> {
    /// The machine.
    pub machine: Box<ExecutionMachine<R>>,
    /// Its first entry.
    pub first: Box<Draft>,
    /// The rest of what it wants.
    pub actions: Vec<Action<R>>,
}

/// A child to start.
#[derive(Clone, Debug)]
pub struct NewChild {
    /// Its id.
    pub id: ExecutionId,
    /// Whose it is.
    pub parent: Parent,
    /// Where the large values of its input are kept.
    pub blobs_from: Option<ExecutionId>,
    /// The workflow that it runs, and in which version; a body is in the parent's.
    workflow: String,
    version: Option<u32>,
    /// Its start payload.
    pub input: Value,
    /// If it differs from what the parent's definition says.
    priority: Option<u8>,
    /// As its parent's.
    handles_failure_of: Option<ExecutionId>,
    trace_parent: Option<String>,
}

impl NewChild {
    /// The child that a node of an execution wants.
    #[must_use]
    pub fn of(state: &ExecutionState, compiled: &CompiledPlan, start: &StartChild) -> Self {
        let StartChild {
            child,
            input,
            attached,
            data,
        } = start;
        let (child, attached) = (*child, *attached);
        let (execution, priority) = (state.id, state.priority);
        let depth = state.parent.map_or(0, |parent| parent.depth) + 1;
        let root = state.blob_root();
        let plan = &compiled.plan;
        let node = plan.node(child.node);
        // What names the workflow is small.
        let resolved = data.as_ref().and_then(|data| data.shown().to_value().ok());
        let field = |name: &str| {
            let value = resolved.as_ref().and_then(|resolved| resolved.get(name));
            value.or_else(|| node.data.get(name)).filter(|value| !value.is_null())
        };
        let named = field("workflowId").and_then(JsonValue::as_str);
        let has_body = node.kind != NodeKind::Subworkflow && node.data.get("body").is_some_and(JsonValue::is_object);
        let (workflow, version) = match named {
            Some(named) if !has_body => {
                let version = field("version").and_then(JsonValue::as_u64);
                (
                    named.to_owned(),
                    version.and_then(|version| u32::try_from(version).ok()),
                )
            }
            _ => (format!("{}{BODY_OF}{}", plan.workflow, node.key), Some(plan.version)),
        };
        Self {
            id: child_id(execution, plan, child),
            parent: Parent {
                execution,
                child,
                attached,
                depth,
                root: root.filter(|_| attached),
            },
            blobs_from: root,
            workflow,
            version,
            input: input.clone(),
            priority: (priority != plan.settings.priority).then_some(priority),
            handles_failure_of: state.handles_failure_of,
            trace_parent: state.trace_parent.clone(),
        }
    }

    /// What it runs.
    ///
    /// # Errors
    /// As [`PlanCache::to_start`].
    pub async fn plan(&self, plans: &PlanCache) -> Result<Arc<CompiledPlan>, EngineError> {
        match self.version {
            Some(version) if self.workflow.contains(BODY_OF) => plans.version(&self.workflow, version).await,
            version => plans.to_start(&self.workflow, version).await,
        }
    }

    /// Its first event.
    #[must_use]
    pub fn started(&self, compiled: &CompiledPlan) -> Started {
        Started {
            priority: self.priority,
            parent: Some(self.parent),
            handles_failure_of: self.handles_failure_of,
            trace_parent: self.trace_parent.clone(),
            ..Started::of(self.id, &compiled.plan, self.input.clone())
        }
    }

    /// Takes its first step so that its entry can be durable with its parent's. None where nobody waits for its end, where
    /// the sandbox must be asked first or where one entry is not all: then it begins after its parent's entry.
    #[must_use]
    pub fn born<R>(
        &self,
        compiled: &Arc<CompiledPlan>,
        controls: Option<Box<ControlsSeen>>,
        options: MachineOptions,
        now: Timestamp,
        reply: R,
    ) -> Option<Born<R>> {
        if !self.parent.attached {
            return None;
        }
        let started = Started {
            controls,
            ..self.started(compiled)
        };
        Born::begin(compiled, started, options, now, reply)
    }
}

impl<R> Born<R> {
    /// Takes the first step of an execution; none where it needs answers for that, or as [`Self::of`].
    #[must_use]
    pub fn begin(
        compiled: &Arc<CompiledPlan>,
        started: Started,
        options: MachineOptions,
        now: Timestamp,
        reply: R,
    ) -> Option<Self> {
        let mut machine = Box::new(ExecutionMachine::new(Arc::clone(compiled), started.id, options));
        let mut actions = Vec::new();
        machine.handle(Input::Start(Box::new(started), None, reply), now, &mut actions);
        if actions.iter().any(|action| matches!(action, Action::Evaluate(_))) {
            return None;
        }
        Self::of(machine, actions)
    }

    /// One entry alone, and nothing that must happen before it is handed over; else none.
    #[must_use]
    pub fn of(machine: Box<ExecutionMachine<R>>, mut actions: Vec<Action<R>>) -> Option<Self> {
        let is_commit = |action: &Action<R>| matches!(action, Action::Commit(_));
        let commits = actions.iter().filter(|action| is_commit(action)).count();
        let waits = actions
            .iter()
            .any(|action| matches!(action, Action::Bear(_) | Action::BearErrorWorkflow(_)));
        if commits != 1 || waits {
            return None;
        }
        let place = actions.iter().position(is_commit)?;
        let Action::Commit(first) = actions.remove(place) else {
            return None;
        };
        Some(Self {
            machine,
            first,
            actions,
        })
    }
}
