//! The fields each node type needs.

use serde_json::Value;

use super::{Context, NODES};
use crate::definition::problems::{did_you_mean, did_you_mean_or_list};
use crate::definition::read::describe;
use crate::definition::view::{DURATION_MAX_MS, View, is_template};
use crate::definition::{EventTrigger, Node, NodeKind, Path, Problems, RetrySettings, code};

/// Methods of an `http` node.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
const AUTHENTICATIONS: [&str; 4] = ["basic", "bearer", "oauth2", "apiKey"];
const TRIGGERS: [&str; 4] = ["manual", "api", "scheduled", "event"];
const TRANSFORMATIONS: [&str; 4] = ["map", "filter", "reduce", "enrichment"];
const DELAYS: [&str; 3] = ["fixed", "until", "expression"];

pub(super) fn check(context: &mut Context<'_>) {
    let handlers = context.checker.and_then(super::LanguageChecker::known_handlers);
    for (at, node) in context.nodes() {
        let path = NODES.index(at);
        let is_entered = context.entries(at).next().is_some();
        if node.kind() == Some(NodeKind::Trigger) && is_entered {
            let message = "a trigger starts a workflow, but edges lead into this one";
            context.problems.warning(code::INVALID_VALUE, &path, message);
        }
        check_node(node, &path, handlers.as_deref(), &mut context.problems);
    }
}

/// Checks one node, or what undoes one, by its type.
pub(super) fn check_node(node: &Node, path: &Path<'_>, handlers: Option<&[String]>, problems: &mut Problems) {
    check_nested(node, path, problems);
    check_shared(node, path, problems);
    check_cache(node, path, problems);
    match node.kind() {
        Some(NodeKind::Trigger) => {
            word(node, path, "triggerType", &TRIGGERS, problems);
            check_trigger(node, path, problems);
        }
        Some(NodeKind::Function) => check_function(node, path, handlers, problems),
        Some(NodeKind::Custom) => check_handler(node, "handlerId", path, handlers, problems),
        Some(NodeKind::Http) => check_http(node, path, problems),
        Some(NodeKind::Delay) => check_delay(node, path, problems),
        Some(NodeKind::Transformation) => check_transformation(node, path, problems),
        // Decisions, webhooks and ends have files of their own; the rest is refused as a whole until it can run.
        Some(
            NodeKind::Decision
            | NodeKind::Webhook
            | NodeKind::Subworkflow
            | NodeKind::ForEach
            | NodeKind::Loop
            | NodeKind::Database
            | NodeKind::Publish
            | NodeKind::End,
        )
        | None => {}
    }
}

fn check_nested(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    if let Some(task) = node
        .data
        .get("taskDefinition")
        .filter(|task| !task.is_null() && !task.is_object())
    {
        let message = format!("`taskDefinition` must be an object, this is {}", describe(task));
        let data = path.key("data");
        problems.error(code::FIELD_TYPE, &data.key("taskDefinition"), message);
    }
}

fn check_shared(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    RetrySettings::read(node, path, problems);
    word(node, path, "errorMode", &["first", "all"], problems);
    node.with_holder("breaker", path, |view| view.boolean("breaker", problems).map(|_| ()));
    for name in ["functionCode", "functionName", "handlerId", "defaultPath"] {
        node.with_holder(name, path, |view| view.text(name, problems).map(|_| ()));
    }
    for name in ["inputMapping", "outputMapping"] {
        node.with_holder(name, path, |view| view.object(name, problems).map(|_| ()));
    }
}

/// Types of nodes whose outputs may be reused: they run attempts, and these do what they do for their output.
const REUSED: [NodeKind; 5] = [
    NodeKind::Function,
    NodeKind::Http,
    NodeKind::Transformation,
    NodeKind::Custom,
    NodeKind::Database,
];

fn check_cache(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    let Some(value) = node.field("cache").filter(|value| !value.is_null()) else {
        return;
    };
    let data = path.key("data");
    let place = data.key("cache");
    if let Some(kind) = node.kind().filter(|kind| !REUSED.contains(kind)) {
        let message = format!("a node of type `{}` gives nothing that could be reused", kind.as_str());
        problems.error(code::INVALID_VALUE, &place, message);
        return;
    }
    let Some(view) = View::of(value, place, problems) else {
        return;
    };
    let has_key = match view.value("key") {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(_) => true,
    };
    if !has_key {
        let message = "`cache` needs `key`, an expression: where it gives the same, the output is reused";
        problems.error(code::MISSING_FIELD, &data.key("cache"), message);
    }
    view.whole("ttl", 1, DURATION_MAX_MS, problems);
    view.warn_of_slips(&["key", "ttl"], problems);
}

/// Checks a word of a closed vocabulary; a template is left to run time.
fn word(node: &Node, path: &Path<'_>, name: &'static str, words: &[&str], problems: &mut Problems) -> bool {
    let read = node.with_holder(name, path, |view| {
        if view.value(name).and_then(Value::as_str).is_some_and(is_template) {
            return Some(());
        }
        view.word(name, words, |text| words.contains(&text).then_some(()), problems)
    });
    read.is_some() || node.field(name).is_some()
}

fn require(node: &Node, path: &Path<'_>, name: &str, problems: &mut Problems) -> bool {
    let present = node
        .field(name)
        .is_some_and(|value| value.as_str().is_none_or(|text| !text.trim().is_empty()));
    if !present {
        let message = format!("a node of type `{}` needs `data.{name}`", node.node_type);
        problems.error(code::MISSING_FIELD, &path.key("data"), message);
    }
    present
}

fn check_trigger(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    let config = node.with_holder("config", path, |view| view.object("config", problems).map(|_| ()));
    EventTrigger::read(node, path, problems);
    if node.text_field("triggerType") != Some("scheduled") {
        return;
    }
    let cron = node.field("config").and_then(|config| config.get("cron"));
    if config.is_none() || cron.and_then(Value::as_str).is_none() {
        let message = "a scheduled trigger needs `data.config.cron`, a string";
        problems.error(code::MISSING_FIELD, &path.key("data"), message);
    }
}

fn check_function(node: &Node, path: &Path<'_>, handlers: Option<&[String]>, problems: &mut Problems) {
    let given = |name: &str| node.text_field(name).is_some_and(|text| !text.trim().is_empty());
    if given("functionCode") {
        require(node, path, "functionName", problems);
    } else if given("handlerId") {
        check_handler(node, "handlerId", path, handlers, problems);
    } else if given("functionName") {
        check_handler(node, "functionName", path, handlers, problems);
    } else {
        let message = "a function node needs `functionCode` and `functionName`, or the `handlerId` of a handler";
        problems.error(code::MISSING_FIELD, &path.key("data"), message);
    }
}

fn check_handler(node: &Node, name: &str, path: &Path<'_>, handlers: Option<&[String]>, problems: &mut Problems) {
    let (Some(handlers), Some(wanted)) = (handlers, node.text_field(name)) else {
        return;
    };
    if is_template(wanted) || handlers.iter().any(|known| known == wanted) {
        return;
    }
    let hint = did_you_mean(wanted, handlers.iter().map(String::as_str));
    let message = format!("no handler `{wanted}` is registered");
    let data = path.key("data");
    problems.error_hint(code::UNKNOWN_HANDLER, &data.key(name), message, hint);
}

fn check_http(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    let data = path.key("data");
    if require(node, path, "url", problems) {
        let url = node.with_holder("url", path, |view| view.text("url", problems).map(str::to_owned));
        if let Some(url) = url.filter(|url| !is_absolute(url) && !url.contains("{{")) {
            let message = format!("`{url}` is no absolute http or https address");
            problems.error(code::INVALID_VALUE, &data.key("url"), message);
        }
    }
    word(node, path, "method", &METHODS, problems);
    node.with_holder("headers", path, |view| view.object("headers", problems).map(|_| ()));
    node.with_holder("authentication", path, |view| {
        let place = view.path("authentication");
        let authentication = View::of(view.value("authentication")?, place, problems)?;
        if authentication.value("type").is_none() {
            problems.error(code::MISSING_FIELD, &place, "`authentication` needs a `type`");
        }
        authentication.word(
            "type",
            &AUTHENTICATIONS,
            |text| AUTHENTICATIONS.contains(&text).then_some(()),
            problems,
        );
        let config = authentication.value("config");
        if config.is_some() {
            authentication.object("config", problems)?;
        }
        let kind = authentication.value("type").and_then(Value::as_str)?;
        check_credentials(kind, config, &authentication.path("config"), problems);
        Some(())
    });
}

/// What a kind of authentication needs in its `config`; of several names any.
fn check_credentials(kind: &str, config: Option<&Value>, path: &Path<'_>, problems: &mut Problems) {
    let needed: &[&[&str]] = match kind {
        "basic" => &[&["username"]],
        "bearer" => &[&["token"]],
        "apiKey" => &[&["key", "value", "apiKey"]],
        "oauth2" => &[&["tokenUrl"], &["clientId"], &["clientSecret"]],
        _ => return,
    };
    let given = |name: &str| config?.get(name).filter(|value| !value.is_null());
    for names in needed {
        let [name, ..] = names else { continue };
        let Some((name, value)) = names.iter().find_map(|name| Some((name, given(name)?))) else {
            let message = format!("`{kind}` authentication needs `config.{name}`");
            problems.error(code::MISSING_FIELD, path, message);
            continue;
        };
        match value.as_str() {
            None => problems.error(
                code::FIELD_TYPE,
                &path.key(name),
                format!("`{name}` must be a string, this is {}", describe(value)),
            ),
            Some("") => problems.error(code::MISSING_FIELD, &path.key(name), format!("`{name}` is empty")),
            Some(_) => {}
        }
    }
    let text = |name: &str| given(name).and_then(Value::as_str).filter(|text| !is_template(text));
    if let Some(url) = text("tokenUrl").filter(|url| kind == "oauth2" && !url.is_empty() && !is_absolute(url)) {
        let message = format!("`{url}` is no absolute http or https address");
        problems.error(code::INVALID_VALUE, &path.key("tokenUrl"), message);
    }
    if let Some(place) = text("in").filter(|place| kind == "apiKey" && !["header", "query", ""].contains(place)) {
        let message = format!("`{place}` is not a value of `in`");
        let hint = did_you_mean_or_list(place, &["header", "query"]);
        problems.error_hint(code::INVALID_VALUE, &path.key("in"), message, hint);
    }
}

fn is_absolute(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    lower
        .strip_prefix("http://")
        .or_else(|| lower.strip_prefix("https://"))
        .is_some_and(|rest| !rest.is_empty())
}

fn check_delay(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    let data = path.key("data");
    let has_type = require(node, path, "delayType", problems) && word(node, path, "delayType", &DELAYS, problems);
    if !require(node, path, "delayValue", problems) || !has_type {
        return;
    }
    let Some(value) = node.field("delayValue") else { return };
    let text = value.as_str();
    if text.is_some_and(is_template) {
        return;
    }
    let most = DURATION_MAX_MS as f64;
    let number = value
        .as_f64()
        .or_else(|| text?.trim().parse().ok())
        .filter(|number| (0.0..=most).contains(number));
    let problem = match node.text_field("delayType") {
        Some("fixed") if number.is_none() => "a fixed delay is a number of milliseconds from 0",
        Some("until") if number.is_none() && !text.is_some_and(is_instant) => {
            "the end of a delay is an RFC 3339 time such as `2026-12-31T23:59:59Z`, or milliseconds since 1970"
        }
        Some("expression") if text.is_none() && number.is_none() => "a delay expression is a string",
        _ => return,
    };
    problems.error(code::INVALID_VALUE, &data.key("delayValue"), problem);
}

fn is_instant(text: &str) -> bool {
    chrono::DateTime::parse_from_rfc3339(text.trim()).is_ok()
}

fn check_transformation(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    node.with_holder("template", path, |view| view.text("template", problems).map(|_| ()));
    if node.field("template").is_some() {
        word(node, path, "transformationType", &TRANSFORMATIONS, problems);
        return;
    }
    if !require(node, path, "transformationType", problems) {
        return;
    }
    word(node, path, "transformationType", &TRANSFORMATIONS, problems);
    if !require(node, path, "transformationConfig", problems) {
        return;
    }
    let config = node.with_holder("transformationConfig", path, |view| {
        view.object("transformationConfig", problems).cloned()
    });
    let needed = match node.text_field("transformationType") {
        Some("map" | "filter" | "reduce") => "expression",
        Some("enrichment") => "fields",
        _ => return,
    };
    if let Some(config) = config.filter(|config| config.get(needed).is_none_or(Value::is_null)) {
        let near = did_you_mean(needed, config.keys().map(String::as_str))
            .map(|_| format!("is one of its fields `{needed}` misspelt?"));
        let data = path.key("data");
        let message = format!("this transformation needs `transformationConfig.{needed}`");
        problems.error_hint(code::MISSING_FIELD, &data.key("transformationConfig"), message, near);
    }
}
