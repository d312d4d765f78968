//! Workflows that use what may break: retries, joins, quorums, delays, error paths, clean-up, children, calls, large values.

use serde_json::{Value, json};
use troupe_core::definition::{NodeKind, WorkflowDefinition};
use troupe_core::plan::Plan;
use troupe_core::{Json, Timestamp};

/// Delay of the waiting workflows' delay nodes, in milliseconds: shorter and longer than passivation takes.
pub const DELAYS_MS: [u64; 2] = [60, 400];
/// A workflow that nobody starts by chance, and its delay: time enough to start many of them that are due together.
pub const LATE: &str = "wait-late";
/// See [`LATE`].
pub const LATE_MS: u64 = 1_500;
/// A workflow that nobody starts by chance: from its first entry on it waits for the instant that its start names.
pub const LATER: &str = "wait-later";
/// What an execution of [`LATER`] does when that has come.
pub(crate) const WOKEN: &str = "woken";
/// Between a request key of [`LATER`] and the instant, in epoch milliseconds.
const DUE: char = '@';
/// Workflows that nobody starts by chance, the actors of whose executions panic where that is switched on: again and again, or now
/// and then.
pub(crate) const POISONED: &str = "poisoned";
/// See [`POISONED`].
pub(crate) const STUMBLING: &str = "stumbling";
/// The node at whose end they do.
pub(crate) const POISON: &str = "poison";
/// What that node gives, as engines are asked for it: only a sandbox can tell.
pub(crate) const SANDBOXED: &str = "(() => (output))()";
/// Of this workflow only so many executions run at once.
pub(crate) const FEW: &str = "few";
/// Attempts of this workflow keep their slots until they have to renew them.
pub(crate) const HELD_LONG: &str = "held-long";
/// Workflows that operators have: more than there are ever processes in one trial that could be at odds.
const RULED: u32 = 12;
/// Variables that keys of limits are made of.
const KEYS: [&str; 3] = ["one", "two", "long"];
/// How long an attempt keeps its slot that has to renew it, in milliseconds: longer than a fifth of a lease.
const HELD_LONG_MS: u64 = 500;
/// How long nodes wait for a call, in milliseconds.
const CALLED_WITHIN_MS: u64 = 700;
/// Bytes of an output that is kept apart, and of one that is only together with others like it.
const LARGE_BYTES: [usize; 2] = [66_000, 30_000];

/// Bytes that a start payload is padded with where large values are wanted.
const PADDING_BYTES: usize = 66_000;

/// Every workflow of the load.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn definitions() -> Vec<WorkflowDefinition> {
    let all = [
        chain(),
        fan(),
        quorum(),
        waiting("wait-short", DELAYS_MS[0]),
        waiting("wait-long", DELAYS_MS[1]),
        rescue(),
        slow(),
        rounds(),
        race(),
        early_end(),
    ];
    all.into_iter()
        .map(|definition| serde_json::from_value(definition).expect("a constant definition"))
        .collect()
}

/// Workflows with child executions and with nodes that wait for a call.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn families() -> Vec<WorkflowDefinition> {
    let all = [each(), spin(), nested(), loose(), called(), asked(), broken()];
    all.into_iter()
        .map(|definition| serde_json::from_value(definition).expect("a constant definition"))
        .collect()
}

/// Workflows with values past 64 KiB: given at the start, in a call, from node to node, to children and from them.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn large() -> Vec<WorkflowDefinition> {
    let all = [bulky(), bulky_each(), bulky_loose()];
    all.into_iter()
        .map(|definition| serde_json::from_value(definition).expect("a constant definition"))
        .collect()
}

/// Workflows of which only so many attempts, or executions, run at once. Nobody starts them but where members count together.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn limited() -> Vec<WorkflowDefinition> {
    let all = [mutex(), shared(), held_long(), few()];
    all.into_iter()
        .map(|definition| serde_json::from_value(definition).expect("a constant definition"))
        .collect()
}

/// Workflows that operators pause and stop, each its own. Nobody starts them but where there are members.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn ruled() -> Vec<WorkflowDefinition> {
    let all = (0..RULED).map(ruled_by).map(|id| ruled_workflow(&id));
    all.map(|definition| serde_json::from_value(definition).expect("a constant definition"))
        .collect()
}

/// The workflow of the operator in a process.
#[must_use]
pub(crate) fn ruled_by(incarnation: u32) -> String {
    format!("ruled{:02}", incarnation % RULED)
}

/// The workflow of a node, if an operator has it.
pub(crate) fn ruled_of(node: &str) -> Option<&str> {
    let (workflow, _) = node.split_once('-')?;
    workflow.starts_with("ruled").then_some(workflow)
}

/// Everything that an engine of the crash test knows.
///
/// # Panics
/// Never: the definitions are constants.
#[must_use]
pub fn all() -> Vec<WorkflowDefinition> {
    let alone = [
        waiting(LATE, LATE_MS),
        later(),
        poisonous(POISONED),
        poisonous(STUMBLING),
    ];
    let alone = alone
        .into_iter()
        .map(|definition| serde_json::from_value(definition).expect("a constant definition"));
    let others = definitions().into_iter().chain(families()).chain(large());
    others.chain(limited()).chain(ruled()).chain(alone).collect()
}

/// A definition as an engine with a sandbox is given it: what executions that may be poisoned give is asked of that.
pub(crate) fn asking(mut definition: WorkflowDefinition) -> WorkflowDefinition {
    if may_be_poisoned(&definition.id) {
        for node in &mut definition.nodes {
            if let Some(output) = node.data.get_mut("output") {
                *output = SANDBOXED.into();
            }
        }
    }
    definition
}

/// Whether the actors of its executions may be made to panic.
#[must_use]
pub(crate) fn may_be_poisoned(workflow: &str) -> bool {
    [POISONED, STUMBLING].contains(&workflow)
}

/// The request key of an execution of [`LATER`] that is due then.
pub(crate) fn later_key(incarnation: u32, number: u64, due: Timestamp) -> String {
    format!("{LATER}/{incarnation}-{number}{DUE}{}", due.0)
}

/// Whether a request key is that of an execution of [`LATER`].
pub(crate) fn is_later(key: &str) -> bool {
    key.split('/').next() == Some(LATER)
}

/// How long executions of a workflow wait at their delay node, in milliseconds.
#[must_use]
pub fn delay_ms(workflow: &str) -> u64 {
    match workflow {
        "wait-short" => DELAYS_MS[0],
        LATE => LATE_MS,
        _ => DELAYS_MS[1],
    }
}

/// What the execution of a request key is started with.
#[must_use]
pub(crate) fn input_of_key(workflow: &str, key: &str) -> Json {
    let due: Option<i64> = key.split_once(DUE).and_then(|(_, due)| due.parse().ok());
    match due.filter(|_| workflow == LATER) {
        Some(due) => Json::from_trusted(format!("{{\"n\":1,\"due\":{due}}}")),
        None => input_of(workflow),
    }
}

/// What executions of a workflow are started with: the same whenever a start is repeated.
#[must_use]
pub(crate) fn input_of(workflow: &str) -> Json {
    if is_large(workflow) {
        let padding = ".".repeat(PADDING_BYTES);
        return Json::from_trusted(format!("{{\"n\":1,\"padding\":\"{padding}\"}}"));
    }
    Json::from_trusted("{\"n\":1}")
}

/// Whether executions of a workflow are given large values.
#[must_use]
pub fn is_large(workflow: &str) -> bool {
    workflow.starts_with("bulky")
}

/// Whether executions of a workflow fail whatever happens, unless an operator helps.
#[must_use]
pub fn always_fails(workflow: &str) -> bool {
    workflow == "broken"
}

/// Whether only so many executions of a workflow run at once.
#[must_use]
pub fn is_limited(workflow: &str) -> bool {
    workflow == FEW
}

/// The nodes of a workflow that wait for a call.
pub fn waits(plan: &Plan) -> impl Iterator<Item = &str> {
    let waits = plan.nodes.iter().filter(|node| node.kind == NodeKind::Webhook);
    waits.map(|node| node.key.as_str())
}

/// So many child executions that do nothing but wait, every other one for a call, the rest for an hour.
///
/// # Panics
/// Never: the definition is a constant but for the number.
#[must_use]
pub fn parked(children: u32) -> WorkflowDefinition {
    let decide = json!({"conditions": [{"id": "even", "expression": "input.item.kind == 0"}], "defaultPath": "odd"});
    let mut even = edge("kind", "call", "default");
    even["label"] = "even".into();
    let mut odd = edge("kind", "long", "default");
    odd["id"] = "odd".into();
    let body = json!({"nodes": [
        {"id": "kind", "type": "decision", "data": decide},
        {"id": "call", "type": "webhook", "data": {"webhookId": "call"}},
        {"id": "long", "type": "delay", "data": {"delayType": "fixed", "delayValue": 3_600_000}},
    ], "edges": [even, odd]});
    let items: Vec<Value> = (0..children).map(|item| json!({"kind": item % 2})).collect();
    let all = json!({"items": "variables.items", "maxConcurrency": children, "body": body});
    let definition = json!({"id": "parked", "settings": {"variables": {"items": items}},
        "nodes": [{"id": "all", "type": "forEach", "data": all}], "edges": []});
    serde_json::from_value(definition).expect("a constant definition")
}

fn work(id: &str, data: Value) -> Value {
    let mut data = data;
    data["handlerId"] = "work".into();
    data["retryPolicy"] = json!({"maxAttempts": 4, "initialDelay": 15, "jitter": "full"});
    json!({"id": id, "type": "function", "data": data})
}

fn edge(source: &str, target: &str, kind: &str) -> Value {
    json!({"source": source, "target": target, "type": kind})
}

fn chain() -> Value {
    json!({"id": "chain", "nodes": [
        work("a", json!({})), work("b", json!({"failFirst": 2})), work("c", json!({})), work("d", json!({"failFirst": 1})),
    ], "edges": [edge("a", "b", "default"), edge("b", "c", "default"), edge("c", "d", "default")]})
}

fn fan() -> Value {
    let mut nodes = vec![work("s", json!({})), work("join", json!({})), work("tail", json!({}))];
    let mut edges = vec![edge("join", "tail", "default")];
    for branch in ["f1", "f2", "f3", "f4", "f5", "f6"] {
        nodes.push(work(
            branch,
            json!({"sleepMs": 2, "failFirst": u32::from(branch == "f3")}),
        ));
        edges.push(edge("s", branch, "default"));
        edges.push(edge(branch, "join", "default"));
    }
    json!({"id": "fan", "nodes": nodes, "edges": edges})
}

fn quorum() -> Value {
    let mut nodes = vec![
        work("s", json!({})),
        work("join", json!({"join": {"mode": "quorum", "count": 2}})),
        work("tail", json!({})),
    ];
    let mut edges = vec![edge("join", "tail", "default")];
    for (branch, sleep_ms) in [("q1", 1), ("q2", 5), ("q3", 20)] {
        nodes.push(work(branch, json!({"sleepMs": sleep_ms})));
        edges.push(edge("s", branch, "default"));
        edges.push(edge(branch, "join", "default"));
    }
    json!({"id": "quorum", "nodes": nodes, "edges": edges})
}

fn waiting(id: &str, delay_ms: u64) -> Value {
    let delay = json!({"id": "wait", "type": "delay", "data": {"delayType": "fixed", "delayValue": delay_ms}});
    json!({"id": id, "nodes": [work("before", json!({})), delay, work("after", json!({}))],
        "edges": [edge("before", "wait", "default"), edge("wait", "after", "default")]})
}

fn later() -> Value {
    let delay = json!({"id": "wait", "type": "delay", "data": {"delayType": "expression", "delayValue": "input.due"}});
    json!({"id": LATER, "nodes": [delay, work(WOKEN, json!({}))], "edges": [edge("wait", WOKEN, "default")]})
}

/// What its first node gives is what that gave; see [`asking`].
fn poisonous(id: &str) -> Value {
    json!({"id": id, "nodes": [work(POISON, json!({"output": "output"})), work("cured", json!({}))],
        "edges": [edge(POISON, "cured", "default")]})
}

fn rescue() -> Value {
    json!({"id": "rescue", "nodes": [
        work("risky", json!({"failFirst": 1_000})), work("saved", json!({})), work("tidy", json!({})),
    ], "edges": [edge("risky", "saved", "failure"), edge("risky", "tidy", "always")]})
}

fn slow() -> Value {
    json!({"id": "slow", "nodes": [
        work("a", json!({"sleepMs": 25})), work("b", json!({"sleepMs": 25})), work("c", json!({"sleepMs": 25})),
    ], "edges": [edge("a", "b", "default"), edge("b", "c", "default")]})
}

/// Three passes of a loop, with a retry in each.
fn rounds() -> Value {
    let again =
        json!({"conditions": [{"id": "again", "expression": "execution.iteration != 3"}], "defaultPath": "done"});
    let mut back = edge("d", "h", "default");
    back["label"] = "again".into();
    let mut done = edge("d", "t", "default");
    done["id"] = "done".into();
    json!({"id": "rounds", "nodes": [
        work("s", json!({})), work("h", json!({})), work("b", json!({"failFirst": 1})),
        {"id": "d", "type": "decision", "data": again}, work("t", json!({})),
    ], "edges": [edge("s", "h", "default"), edge("h", "b", "default"), edge("b", "d", "default"), back, done]})
}

/// One node cancels a wait and what follows it; a join cancels the branch that comes too late.
fn race() -> Value {
    let delay =
        |id: &str| json!({"id": id, "type": "delay", "data": {"delayType": "fixed", "delayValue": DELAYS_MS[1]}});
    json!({"id": "race", "nodes": [
        work("s", json!({})), work("quick", json!({"cancels": ["slow", "after"]})), delay("slow"), work("after", json!({})),
        work("q1", json!({})), delay("q2"), work("first", json!({"join": {"mode": "any", "lateArrivals": "cancel"}})),
    ], "edges": [
        edge("s", "quick", "default"), edge("s", "slow", "default"), edge("slow", "after", "default"),
        edge("s", "q1", "default"), edge("s", "q2", "default"), edge("q1", "first", "default"), edge("q2", "first", "default"),
    ]})
}

/// An `end` while a delay waits.
fn early_end() -> Value {
    json!({"id": "early-end", "nodes": [
        work("s", json!({})), work("q", json!({})), {"id": "over", "type": "end", "data": {}},
        {"id": "long", "type": "delay", "data": {"delayType": "fixed", "delayValue": 3_600_000}},
    ], "edges": [edge("s", "q", "default"), edge("s", "long", "default"), edge("q", "over", "default")]})
}

/// Child executions of some items, with retries in them, three at once.
fn each() -> Value {
    let body = json!({"nodes": [work("w", json!({"failFirst": 1})), work("v", json!({"sleepMs": 1}))], "edges": [edge("w", "v", "default")]});
    json!({"id": "each", "settings": {"variables": {"items": [1, 2, 3, 4, 5, 6, 7]}}, "nodes": [
        work("s", json!({})),
        {"id": "all", "type": "forEach", "data": {"items": "variables.items", "maxConcurrency": 3, "body": body}},
        work("t", json!({})),
    ], "edges": [edge("s", "all", "default"), edge("all", "t", "default")]})
}

/// Three iterations, each a child execution.
fn spin() -> Value {
    let body = json!({"nodes": [work("w", json!({"output": "input.iteration"}))], "edges": []});
    json!({"id": "spin", "nodes": [
        {"id": "round", "type": "loop", "data": {"while": "output != 3", "maxIterations": 9, "body": body}}, work("t", json!({})),
    ], "edges": [edge("round", "t", "default")]})
}

/// Children of children: a list of workflows of the load, one of which fails for good and is tolerated; the last ones are canceled.
fn nested() -> Value {
    let fails = json!({"maxAttempts": 1});
    let mut risky = work("risky", json!({"failFirst": 1_000}));
    risky["data"]["retryPolicy"] = fails;
    let pick = json!({"conditions": [{"id": "bad", "expression": "input.item == 2"}], "defaultPath": "good"});
    let mut bad = edge("d", "risky", "default");
    bad["label"] = "bad".into();
    let mut good = edge("d", "sub", "default");
    good["id"] = "good".into();
    let body = json!({"nodes": [
        {"id": "d", "type": "decision", "data": pick}, risky,
        {"id": "sub", "type": "subworkflow", "data": {"workflowId": "chain"}},
    ], "edges": [bad, good]});
    json!({"id": "nested", "settings": {"variables": {"items": [1, 2, 3, 4, 5]}}, "nodes": [
        {"id": "all", "type": "forEach", "data": {"items": "variables.items", "toleratedFailures": 1, "succeedAfter": 3, "body": body}},
        work("t", json!({})),
    ], "edges": [edge("all", "t", "default")]})
}

/// Children that nobody waits for.
fn loose() -> Value {
    json!({"id": "loose", "settings": {"variables": {"items": [1, 2, 3]}}, "nodes": [
        {"id": "off", "type": "subworkflow", "data": {"workflowId": "rescue", "mode": "detached", "outputMapping": {"off": "output"}}},
        {"id": "many", "type": "forEach", "data": {"items": "variables.items", "wait": false, "workflowId": "chain"}},
    ], "edges": [edge("off", "many", "default")]})
}

/// Waits for a call, once before work and once in each of two children, and gives up after a while where none comes.
fn called() -> Value {
    let wait = |id: &str| json!({"id": id, "type": "webhook", "data": {"webhookId": id, "timeout": CALLED_WITHIN_MS}});
    let body = json!({"nodes": [work("v", json!({})), wait("inner"), work("w", json!({}))],
        "edges": [edge("v", "inner", "default"), edge("inner", "w", "always")]});
    json!({"id": "called", "settings": {"variables": {"items": [1, 2]}, "onFailure": "continue"}, "nodes": [
        work("s", json!({})), wait("call"), work("a", json!({})),
        {"id": "all", "type": "forEach", "data": {"items": "variables.items", "toleratedFailures": 2, "body": body}},
    ], "edges": [edge("s", "call", "default"), edge("call", "a", "always"), edge("s", "all", "default")]})
}

/// As [`called`], but nobody gives up: only a call, or the decision of an operator, lets it go on.
fn asked() -> Value {
    let wait = |id: &str| json!({"id": id, "type": "webhook", "data": {"webhookId": id}});
    let body = json!({"nodes": [wait("answer"), work("w", json!({}))], "edges": [edge("answer", "w", "default")]});
    json!({"id": "asked", "settings": {"variables": {"items": [1, 2]}}, "nodes": [
        work("s", json!({})), wait("ask"), work("a", json!({"failFirst": 1})),
        {"id": "all", "type": "forEach", "data": {"items": "variables.items", "toleratedFailures": 2, "body": body}},
        work("t", json!({})),
    ], "edges": [
        edge("s", "ask", "default"), edge("ask", "a", "default"), edge("s", "all", "default"), edge("a", "t", "default"),
        edge("all", "t", "default"),
    ]})
}

/// Fails whenever it runs, with its children: only a retry that skips lets it come to its end.
fn broken() -> Value {
    let mut fails = work("w", json!({"failFirst": 1_000}));
    fails["data"]["retryPolicy"] = json!({"maxAttempts": 1});
    let body = json!({"nodes": [fails], "edges": []});
    json!({"id": "broken", "settings": {"variables": {"items": [1, 2]}}, "nodes": [
        work("s", json!({})),
        {"id": "all", "type": "forEach", "data": {"items": "variables.items", "body": body}},
        work("t", json!({})),
    ], "edges": [edge("s", "all", "default"), edge("all", "t", "default")]})
}

/// A large output is kept in a variable, and is the input of a retry and of a join; a call may be large too.
fn bulky() -> Value {
    let call = json!({"id": "call", "type": "webhook", "data": {"webhookId": "call", "timeout": CALLED_WITHIN_MS}});
    json!({"id": "bulky", "settings": {"onFailure": "continue"}, "nodes": [
        work("s", json!({})), work("a", json!({"outputBytes": LARGE_BYTES[0], "outputMapping": {"kept": "output"}})), work("b", json!({"failFirst": 1})),
        call, work("join", json!({"outputBytes": LARGE_BYTES[0]})),
    ], "edges": [
        edge("s", "a", "default"), edge("a", "b", "default"), edge("b", "join", "default"),
        edge("s", "call", "default"), edge("call", "join", "always"),
    ]})
}

/// Children are given a large value, and what they give is large together.
fn bulky_each() -> Value {
    let body = json!({"nodes": [work("w", json!({"outputBytes": LARGE_BYTES[1]}))], "edges": []});
    json!({"id": "bulky-each", "settings": {"variables": {"items": [1, 2, 3]}}, "nodes": [
        work("s", json!({"outputBytes": LARGE_BYTES[0]})),
        {"id": "all", "type": "forEach", "data": {"items": "variables.items", "maxConcurrency": 2, "body": body}},
        work("t", json!({})),
    ], "edges": [edge("s", "all", "default"), edge("all", "t", "default")]})
}

/// Children that nobody waits for are given a large value: it is theirs from then on.
fn bulky_loose() -> Value {
    let many = json!({"items": "variables.items", "wait": false, "workflowId": "chain"});
    json!({"id": "bulky-loose", "settings": {"variables": {"items": [1, 2]}}, "nodes": [
        work("s", json!({"outputBytes": LARGE_BYTES[0]})),
        {"id": "off", "type": "subworkflow", "data": {"workflowId": "fan", "mode": "detached"}},
        {"id": "many", "type": "forEach", "data": many},
    ], "edges": [edge("s", "off", "default"), edge("s", "many", "default")]})
}

/// A node of which, with all that have this key, only so many attempts run at once.
fn slotted(id: &str, key: &str, limit: u32, sleep_ms: u64) -> Value {
    let limit = json!({"key": format!("variables.{key}"), "limit": limit, "scope": "global"});
    work(id, json!({"sleepMs": sleep_ms, "concurrency": limit}))
}

/// The settings of a workflow whose limits have keys.
fn keyed() -> Value {
    let keys: serde_json::Map<String, Value> = KEYS.iter().map(|key| ((*key).to_owned(), json!(key))).collect();
    json!({"variables": keys})
}

/// Two nodes that never run at once, in whichever execution and at whichever member, one of which fails at first.
fn mutex() -> Value {
    let mut left = slotted("left", KEYS[0], 1, 8);
    left["data"]["failFirst"] = json!(1);
    json!({"id": "mutex", "settings": keyed(), "nodes": [
        work("s", json!({})), left, slotted("right", KEYS[0], 1, 4), work("t", json!({})),
    ], "edges": [
        edge("s", "left", "default"), edge("s", "right", "default"), edge("left", "t", "default"), edge("right", "t", "default"),
    ]})
}

/// Shares its keys with the other workflows.
fn shared() -> Value {
    json!({"id": "shared", "settings": keyed(), "nodes": [
        slotted("a", KEYS[1], 2, 15), slotted("b", KEYS[0], 1, 4), slotted("c", KEYS[1], 2, 10),
    ], "edges": [edge("a", "b", "default"), edge("b", "c", "default")]})
}

/// An attempt that has to renew its slot.
fn held_long() -> Value {
    json!({"id": HELD_LONG, "settings": keyed(), "nodes": [
        slotted("a", KEYS[2], 4, HELD_LONG_MS), work("b", json!({})),
    ], "edges": [edge("a", "b", "default")]})
}

/// Of its executions only so many run at once.
fn few() -> Value {
    let mut settings = keyed();
    settings["concurrency"] = json!({"limit": 2, "key": "variables.one"});
    json!({"id": FEW, "settings": settings, "nodes": [
        work("a", json!({"sleepMs": 5})), work("b", json!({"failFirst": 1})), work("c", json!({"sleepMs": 5})),
    ], "edges": [edge("a", "b", "default"), edge("b", "c", "default")]})
}

/// Attempts begin in it all the time.
fn ruled_workflow(id: &str) -> Value {
    let name = |place: u32| format!("{id}-{place}");
    let nodes: Vec<Value> = (0..4).map(|place| work(&name(place), json!({"sleepMs": 20}))).collect();
    let edges: Vec<Value> = (1..4)
        .map(|place| edge(&name(place - 1), &name(place), "default"))
        .collect();
    json!({"id": id, "nodes": nodes, "edges": edges})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_when_its_execution_is_due_however_often_it_is_asked_for() {
        let key = later_key(3, 17, Timestamp(1_790_000_000_123));
        assert!(is_later(&key) && !is_later("wait-late/3-17"), "{key}");
        let input = input_of_key(LATER, &key);
        assert_eq!(input.as_str(), "{\"n\":1,\"due\":1790000000123}");
        assert_eq!(input_of_key("chain", "chain/3-17").as_str(), "{\"n\":1}");
    }

    #[test]
    fn only_what_may_be_poisoned_asks_the_sandbox() {
        for definition in all() {
            let asked = asking(definition.clone());
            let changed = serde_json::to_value(&asked).ok() != serde_json::to_value(&definition).ok();
            assert_eq!(changed, may_be_poisoned(&definition.id), "{}", definition.id);
        }
    }
}
