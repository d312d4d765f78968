//! Typed view of a definition's `settings`.

use serde_json::Value;

use super::events::EventSettings;
use super::kind::words;
use super::view::View;
use super::{Diagnostic, Object, Path, Problems, WorkflowDefinition};

/// Priority of executions whose definition and start name none.
pub const PRIORITY_DEFAULT: u8 = 5;
/// The highest priority.
pub const PRIORITY_MAX: u8 = 9;

words! {
    /// What an unhandled failure does to the rest of the execution.
    OnFailure {
        /// Cancel what runs and fail.
        FailFast = "failFast",
        /// Let other branches finish, then fail.
        Continue = "continue",
    }
}

/// Workflow-wide settings, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Longest an execution may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Default priority of executions, 0 to 9.
    pub priority: u8,
    /// Bound on executions running at once.
    pub concurrency: Option<ConcurrencySettings>,
    /// What an unhandled failure does.
    pub on_failure: OnFailure,
    /// Workflow started with the failure as payload.
    pub error_workflow: Option<String>,
    /// Whether completed nodes are compensated after a failure or cancel.
    pub compensate: bool,
    /// Expression that gives the execution's output.
    pub output: Option<String>,
    /// JSON Schema of the start payload.
    pub input_schema: Option<Value>,
    /// Initial variables.
    pub variables: Object,
    /// What brokers publish of its executions.
    pub events: EventSettings,
    /// How long ended executions are kept.
    pub retention: RetentionSettings,
    /// Most nodes of one execution running at once.
    pub max_parallel_nodes: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout_ms: None,
            priority: PRIORITY_DEFAULT,
            concurrency: None,
            on_failure: OnFailure::FailFast,
            error_workflow: None,
            compensate: false,
            output: None,
            input_schema: None,
            variables: Object::new(),
            events: EventSettings::default(),
            retention: RetentionSettings::default(),
            max_parallel_nodes: None,
        }
    }
}

/// Bound on executions running at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencySettings {
    /// Most executions at once.
    pub limit: u32,
    /// Expression whose value groups the executions that share the limit.
    pub key: Option<String>,
}

/// How long ended executions are kept, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Completed ones.
    pub completed_ms: Option<u64>,
    /// Failed and canceled ones.
    pub failed_ms: Option<u64>,
}

const KNOWN: &[&str] = &[
    "timeout",
    "priority",
    "concurrency",
    "onFailure",
    "errorWorkflow",
    "compensate",
    "output",
    "inputSchema",
    "variables",
    "events",
    "retention",
    "maxParallelNodes",
];

impl WorkflowDefinition {
    /// The typed settings.
    ///
    /// # Errors
    ///
    /// Every setting of the wrong shape or out of range.
    pub fn settings(&self) -> Result<Settings, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let settings = Settings::read(&self.settings, &mut problems);
        errors_or(settings, problems)
    }
}

impl Settings {
    /// Reads settings, with the default in place of what is wrong.
    pub fn read(object: &Object, problems: &mut Problems) -> Self {
        let root = Path::root();
        let view = View::new(object, root.key("settings"));
        view.warn_of_slips(KNOWN, problems);
        let priority = view.whole("priority", 0, u64::from(PRIORITY_MAX), problems);
        let input_schema = view.value("inputSchema").cloned();
        Self {
            timeout_ms: view.duration_ms("timeout", 1, problems),
            priority: priority.map_or(PRIORITY_DEFAULT, |priority| priority as u8),
            concurrency: read_concurrency(&view, problems),
            on_failure: view
                .word("onFailure", OnFailure::WORDS, OnFailure::parse, problems)
                .unwrap_or(OnFailure::FailFast),
            error_workflow: view.text("errorWorkflow", problems).map(str::to_owned),
            compensate: view.boolean("compensate", problems).unwrap_or(false),
            output: view.text("output", problems).map(str::to_owned),
            input_schema,
            variables: view.object("variables", problems).cloned().unwrap_or_default(),
            events: EventSettings::read(&view, problems),
            retention: read_retention(&view, problems),
            max_parallel_nodes: view
                .whole("maxParallelNodes", 1, u64::from(u32::MAX), problems)
                .map(|most| most as u32),
        }
    }
}

fn read_concurrency(settings: &View<'_>, problems: &mut Problems) -> Option<ConcurrencySettings> {
    let view = View::of(settings.value("concurrency")?, settings.path("concurrency"), problems)?;
    view.warn_of_slips(&["limit", "key"], problems);
    Some(ConcurrencySettings {
        limit: view.whole("limit", 1, u64::from(u32::MAX), problems).unwrap_or(1) as u32,
        key: view.text("key", problems).map(str::to_owned),
    })
}

fn read_retention(settings: &View<'_>, problems: &mut Problems) -> RetentionSettings {
    let Some(value) = settings.value("retention") else {
        return RetentionSettings::default();
    };
    let Some(view) = View::of(value, settings.path("retention"), problems) else {
        return RetentionSettings::default();
    };
    view.warn_of_slips(&["completedMs", "failedMs"], problems);
    RetentionSettings {
        completed_ms: view.duration_ms("completedMs", 0, problems),
        failed_ms: view.duration_ms("failedMs", 0, problems),
    }
}

/// The view, or every error met while reading it; warnings do not count.
pub(crate) fn errors_or<T>(view: T, problems: Problems) -> Result<T, Vec<Diagnostic>> {
    let mut diagnostics = problems.into_diagnostics();
    diagnostics.retain(Diagnostic::is_error);
    if diagnostics.is_empty() {
        Ok(view)
    } else {
        Err(diagnostics)
    }
}
