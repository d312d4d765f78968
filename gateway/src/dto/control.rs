//! Controls of a wider scope: pauses, emergency stops, what operators say of breakers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use troupe_actors::{Command, ControlOutcome, ControlView, Held};
use troupe_core::control::{BreakerOverride, Clocks, ControlKey, Scope, Setting};
use troupe_core::definition::{NodeKind, Path};
use troupe_core::{CommandId, Principal};

use super::start::{CLOCKS, Reader, present};
use super::time::date;
use crate::error::ApiError;

/// Where a control applies: one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeDto {
    /// Everything.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub all: bool,
    /// A workflow; with `node` a node of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workflow: Option<String>,
    /// See `workflow`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Every node of a type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_type: Option<String>,
}

/// A control in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlDto {
    /// `pause`, `stop` or `breaker`.
    pub kind: String,
    /// Where it applies, unless it is of a breaker.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<ScopeDto>,
    /// The breaker's target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// `run` or `freeze`, of a pause.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clocks: Option<String>,
    /// Whether executions are canceled too, of a stop.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cancel_running: Option<bool>,
    /// `open` or `closed`, of a breaker.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<String>,
    /// Since when.
    pub since: String,
    /// Who said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<String>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Attempts in the scope that still run.
    pub draining: u32,
    /// In how many shards it is, of `shardsAll`: fewer means that a command broke off, or that a shard is halted.
    pub shards: u16,
    /// See `shards`.
    pub shards_all: u16,
}

impl ControlDto {
    /// Whether both are of the same scope or target.
    #[must_use]
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        (&self.kind, &self.scope, &self.target) == (&other.kind, &other.scope, &other.target)
    }
}

/// What holds an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldDto {
    /// `pause` or `stop`.
    pub kind: String,
    /// Where it applies.
    pub scope: ScopeDto,
    /// Since when.
    pub since: String,
    /// Who said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<String>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// A command that is durable and in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlledDto {
    /// `pause`, `stop` or `breaker`.
    pub kind: String,
    /// Where it applies, unless it is of a breaker.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<ScopeDto>,
    /// The breaker's target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// Whether the control is in force now.
    pub in_force: bool,
    /// Whether it stood there already.
    pub unchanged: bool,
    /// Attempts in the scope that still run.
    pub draining: u32,
    /// In how many shards the command is, of `shardsAll`; those that are halted learn of it when they are served again.
    pub shards: u16,
    /// See `shards`.
    pub shards_all: u16,
}

impl ScopeDto {
    fn of(scope: &Scope) -> Self {
        match scope {
            Scope::All => Self {
                all: true,
                ..Self::default()
            },
            Scope::Workflow(workflow) => Self {
                workflow: Some(workflow.to_string()),
                ..Self::default()
            },
            Scope::Node { workflow, node } => Self {
                workflow: Some(workflow.to_string()),
                node: Some(node.to_string()),
                ..Self::default()
            },
            Scope::NodeType(kind) => Self {
                node_type: Some(kind.clone()),
                ..Self::default()
            },
        }
    }

    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match (&self.workflow, &self.node, &self.node_type) {
            (Some(workflow), Some(node), _) => format!("node {workflow}/{node}"),
            (Some(workflow), None, _) => format!("workflow {workflow}"),
            (None, _, Some(kind)) => format!("node type {kind}"),
            (None, _, None) => "everything".to_owned(),
        }
    }

    /// As options of the command line.
    #[must_use]
    pub fn options(&self) -> String {
        match (&self.workflow, &self.node, &self.node_type) {
            (Some(workflow), Some(node), _) => format!("--node {workflow}/{node}"),
            (Some(workflow), None, _) => format!("--workflow {workflow}"),
            (None, _, Some(kind)) => format!("--node-type {kind}"),
            (None, _, None) => "--all".to_owned(),
        }
    }
}

/// Kind, scope and target of a key.
fn named(key: &ControlKey) -> (&'static str, Option<ScopeDto>, Option<String>) {
    match key {
        ControlKey::Pause(scope) => ("pause", Some(ScopeDto::of(scope)), None),
        ControlKey::Stop(scope) => ("stop", Some(ScopeDto::of(scope)), None),
        ControlKey::Breaker(target) => ("breaker", None, Some(target.clone())),
    }
}

impl From<&ControlView> for ControlDto {
    fn from(view: &ControlView) -> Self {
        let (kind, scope, target) = named(&view.key);
        let (mut clocks, mut cancel_running, mut state) = (None, None, None);
        match view.setting {
            Setting::Paused { clocks: Clocks::Run } => clocks = Some("run"),
            Setting::Paused { clocks: Clocks::Freeze } => clocks = Some("freeze"),
            Setting::Stopped {
                cancel_running: cancels,
            } => cancel_running = Some(cancels),
            Setting::Breaker(BreakerOverride::Open) => state = Some("open"),
            Setting::Breaker(BreakerOverride::Closed) => state = Some("closed"),
        }
        Self {
            kind: kind.to_owned(),
            scope,
            target,
            clocks: clocks.map(str::to_owned),
            cancel_running,
            state: state.map(str::to_owned),
            since: date(view.at),
            by: view.principal.as_ref().map(ToString::to_string),
            reason: view.reason.clone(),
            draining: view.draining,
            shards: view.shards,
            shards_all: view.shards_all,
        }
    }
}

impl From<&Held> for HeldDto {
    fn from(held: &Held) -> Self {
        Self {
            kind: if held.is_stop { "stop" } else { "pause" }.to_owned(),
            scope: ScopeDto::of(&held.scope),
            since: date(held.at),
            by: held.principal.as_ref().map(ToString::to_string),
            reason: held.reason.clone(),
        }
    }
}

impl ControlledDto {
    /// What a command came to.
    #[must_use]
    pub fn of(key: &ControlKey, outcome: ControlOutcome) -> Self {
        let (kind, scope, target) = named(key);
        Self {
            kind: kind.to_owned(),
            scope,
            target,
            in_force: outcome.in_force,
            unchanged: outcome.unchanged,
            draining: outcome.draining,
            shards: outcome.shards,
            shards_all: outcome.shards_all,
        }
    }
}

/// What a command on a wider scope takes. Which fields it may have depends on the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlBody {
    /// Where it applies, if the address does not tell.
    pub scope: Option<Scope>,
    /// Why, for people.
    pub reason: Option<String>,
    /// What timers do meanwhile, of a pause.
    pub clocks: Clocks,
    /// Whether executions are canceled too, of a stop.
    pub cancel_running: bool,
}

/// What a body may say beside a scope and a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlOption {
    /// Nothing.
    None,
    /// `clocks`.
    Clocks,
    /// `cancelRunning`.
    CancelRunning,
}

const SCOPE_FIELDS: [&str; 4] = ["all", "workflow", "node", "nodeType"];

impl ControlBody {
    /// Reads a body. `scoped`: it must say where the command applies.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every wrong field.
    pub fn read(body: Option<Value>, scoped: bool, option: ControlOption) -> Result<Self, ApiError> {
        let mut reader = Reader::default();
        let root = Path::root();
        let mut known: Vec<&str> = if scoped { SCOPE_FIELDS.to_vec() } else { Vec::new() };
        known.push("reason");
        match option {
            ControlOption::None => {}
            ControlOption::Clocks => known.push("clocks"),
            ControlOption::CancelRunning => known.push("cancelRunning"),
        }
        let body = body.unwrap_or_else(|| Value::Object(Map::new()));
        let mut read = Self::default();
        if let Some(mut fields) = reader.object(body, &root, &known) {
            let reason = present(&mut fields, "reason");
            read.reason = reason.and_then(|value| reader.text(value, &root.key("reason")));
            if let Some(value) = present(&mut fields, "clocks") {
                read.clocks = reader.word(value, &root.key("clocks"), &CLOCKS).unwrap_or_default();
            }
            if let Some(value) = present(&mut fields, "cancelRunning") {
                read.cancel_running = reader.truth(&value, &root.key("cancelRunning"));
            }
            if scoped {
                read.scope = scope(&mut reader, &mut fields);
            }
        }
        reader.finish(read)
    }

    /// The engine's command.
    #[must_use]
    pub fn into_command(self, id: Option<String>, principal: &str) -> Command {
        Command {
            principal: Some(Principal::from(principal)),
            command: id.map(CommandId::from),
            reason: self.reason,
            ..Command::default()
        }
    }
}

/// Exactly one of `all`, `workflow` (perhaps with `node`) and `nodeType`.
fn scope(reader: &mut Reader, fields: &mut Map<String, Value>) -> Option<Scope> {
    let root = Path::root();
    let all = present(fields, "all").is_some_and(|value| reader.truth(&value, &root.key("all")));
    let mut text = |name: &'static str| {
        let value = present(fields, name)?;
        reader.text(value, &root.key(name))
    };
    let (workflow, node, kind) = (text("workflow"), text("node"), text("nodeType"));
    match (all, workflow, node, kind) {
        (true, None, None, None) => Some(Scope::All),
        (false, Some(workflow), None, None) => Some(Scope::Workflow(workflow.into())),
        (false, Some(workflow), Some(node), None) => Some(Scope::Node {
            workflow: workflow.into(),
            node: node.into(),
        }),
        (false, None, None, Some(kind)) => {
            let known = NodeKind::parse(&kind);
            if known.is_none() {
                let list = NodeKind::WORDS.join(", ");
                reader.wrong(&root.key("nodeType"), &format!("a node type ({list})"));
            }
            known.map(Scope::node_type)
        }
        _ => {
            let one = "one scope: `{\"all\": true}`, `workflow`, `workflow` with `node`, or `nodeType`";
            reader.wrong(&root, one);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<ControlBody, ApiError> {
        ControlBody::read(Some(body), true, ControlOption::Clocks)
    }

    #[test]
    fn a_body_names_one_scope() {
        assert_eq!(read(json!({"all": true})).unwrap().scope, Some(Scope::All));
        let node = read(json!({"workflow": "w", "node": "n", "clocks": "freeze", "reason": "r"})).unwrap();
        assert_eq!(node.clocks, Clocks::Freeze);
        assert_eq!(node.reason.as_deref(), Some("r"));
        let scope = ScopeDto::of(&node.scope.unwrap());
        assert_eq!(
            (scope.words().as_str(), scope.options().as_str()),
            ("node w/n", "--node w/n")
        );
        assert!(read(json!({"nodeType": "http"})).is_ok());
        for wrong in [
            json!({}),
            json!({"all": false}),
            json!({"all": true, "workflow": "w"}),
            json!({"node": "n"}),
            json!({"nodeType": "htpp"}),
            json!({"workflow": 1}),
            json!({"all": true, "cancelRunning": true}),
            json!({"all": true, "clocks": "stop"}),
        ] {
            let error = read(wrong.clone()).unwrap_err();
            assert_eq!(error.code(), "INVALID_REQUEST", "{wrong}");
        }
        let in_address = ControlBody::read(Some(json!({"all": true})), false, ControlOption::None);
        assert_eq!(in_address.unwrap_err().code(), "INVALID_REQUEST");
    }
}
