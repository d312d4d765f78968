//! Hand-checked cases for every rule, and random graphs against a slow, literal reading of the rules.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::dominators::simple_fast;
use petgraph::graph::DiGraph;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn nodes(ids: &[&str]) -> Vec<Node> {
    ids.iter()
        .map(|id| serde_json::from_value(json!({"id": id, "type": "function"})).unwrap())
        .collect()
}

fn edges(pairs: &[(&str, &str)]) -> Vec<WorkflowEdge> {
    pairs
        .iter()
        .enumerate()
        .map(|(at, (source, target))| {
            serde_json::from_value(json!({"id": format!("e{at}"), "source": source, "target": target})).unwrap()
        })
        .collect()
}

fn analyzed(ids: &[&str], pairs: &[(&str, &str)]) -> Value {
    let (nodes, edges) = (nodes(ids), edges(pairs));
    let result = analyze_graph(&nodes, &edges, &AnalyzeOptions::default());
    serde_json::to_value(result).unwrap()
}

fn sequences(result: &Value) -> Vec<String> {
    let text = |path: &Value| {
        path["nodeSequence"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    };
    result["paths"].as_array().unwrap().iter().map(text).collect()
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// k diamonds in a row: 2^k paths.
fn diamonds(count: usize) -> (Vec<Node>, Vec<WorkflowEdge>) {
    let mut ids = vec!["j0".to_owned()];
    let mut pairs = Vec::new();
    for at in 0..count {
        let (from, to) = (format!("j{at}"), format!("j{}", at + 1));
        for side in ["a", "b"] {
            let middle = format!("{side}{at}");
            pairs.push((from.clone(), middle.clone()));
            pairs.push((middle.clone(), to.clone()));
            ids.push(middle);
        }
        ids.push(to);
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    (nodes(&ids), edges(&pairs))
}

#[test]
fn a_diamond_with_every_part_of_the_result() {
    let result = analyzed(&["a", "b", "c", "d"], &[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]);
    assert_eq!(result["forest"]["roots"], json!(["a"]));
    assert_eq!(
        result["forest"]["adjacencyList"]["d"],
        json!({"children": [], "parents": ["b", "c"], "depth": 2, "pathIndices": [0, 1]})
    );
    assert_eq!(
        result["paths"],
        json!([
            {"id": "path-a-0", "name": "Path 1.1", "rootId": "a", "nodeSequence": ["a", "b", "d"]},
            {"id": "path-a-1", "name": "Path 1.2", "rootId": "a", "nodeSequence": ["a", "c", "d"]},
        ])
    );
    let execution = &result["execution"];
    assert_eq!(execution["branchPoints"], json!(["a"]));
    assert_eq!(execution["leafNodes"], json!(["d"]));
    assert_eq!(execution["convergencePoints"], json!(["d"]));
    assert_eq!(execution["parallelExecutionGroups"], json!([["b", "c"]]));
    let metadata = &execution["metadata"];
    assert_eq!(metadata["executionOrder"], json!(["a", "c", "b", "d"]));
    assert_eq!(metadata["executionGroups"]["synchronization"], json!({"d": ["b", "c"]}));
    assert_eq!(
        metadata["executionGroups"]["sequential"],
        json!([["a"], ["b"], ["d"], ["c"]])
    );
    assert_eq!(metadata["executionGroups"]["parallel"], json!([["b", "c"]]));
    assert_eq!(
        metadata["conditionalBranches"],
        json!({"a": {"nodeId": "a", "outgoingEdges": ["e0", "e1"], "conditionHandler": "defaultConditionHandler"}})
    );
    assert_eq!(metadata["taskMapping"]["a"], "executeFunctionNode");
    assert_eq!(
        (&result["truncated"], &result["pathCount"]),
        (&json!(false), &json!("2"))
    );
    let analysis = &result["analysis"];
    assert_eq!(analysis["cycles"], json!([]));
    assert_eq!(analysis["topologicalRank"], json!({"a": 0, "b": 1, "c": 1, "d": 2}));
    assert_eq!(
        analysis["criticalPath"],
        json!({"nodeSequence": ["a", "b", "d"], "weight": 3.0})
    );
    assert_eq!(analysis["postDominators"], json!({"a": "d"}));
    assert_eq!(analysis["maxParallelWidth"], 2);
}

#[test]
fn integer_like_ids_come_first_and_proto_is_an_id_like_any_other() {
    let ids = ["constructor", "10", "__proto__", "9", "toString", "01"];
    let result = analyzed(&ids, &[("__proto__", "constructor"), ("10", "constructor")]);
    let expected = ["9", "10", "constructor", "__proto__", "toString", "01"];
    assert_eq!(keys(&result["nodes"]), expected);
    assert_eq!(keys(&result["forest"]["adjacencyList"]), expected);
    assert_eq!(keys(&result["execution"]["metadata"]["taskMapping"]), expected);
    assert_eq!(
        result["forest"]["roots"],
        json!(["9", "10", "__proto__", "toString", "01"])
    );
    assert_eq!(
        result["forest"]["adjacencyList"]["constructor"]["parents"],
        json!(["__proto__", "10"])
    );
}

#[test]
fn unknown_endpoints_are_neighbours_and_ends_of_paths_but_no_nodes() {
    let result = analyzed(
        &["a", "b"],
        &[("a", "ghost"), ("a", "b"), ("phantom", "b"), ("phantom", "ghost")],
    );
    let list = &result["forest"]["adjacencyList"];
    assert_eq!(keys(list), ["a", "b"]);
    assert_eq!(list["a"]["children"], json!(["ghost", "b"]));
    assert_eq!(list["b"]["parents"], json!(["a", "phantom"]));
    assert_eq!(result["execution"]["convergencePoints"], json!(["b"]));
    // An id that is no node counts as depth 0, so it is tried before `b` of depth 1.
    assert_eq!(sequences(&result), ["a ghost", "a b"]);
    assert_eq!(result["execution"]["parallelExecutionGroups"], json!([]));
    assert_eq!(result["pathCount"], "2");
}

#[test]
fn no_root_means_the_first_node_and_cycles_are_listed() {
    let result = analyzed(&["b", "a", "c"], &[("a", "b"), ("b", "a"), ("c", "c")]);
    assert_eq!(result["forest"]["roots"], json!(["b"]));
    assert_eq!(result["analysis"]["cycles"], json!([["b", "a"], ["c"]]));
    assert_eq!(result["forest"]["adjacencyList"]["c"]["children"], json!(["c"]));
    assert_eq!(result["forest"]["adjacencyList"]["c"]["parents"], json!(["c"]));
    assert_eq!(result["forest"]["adjacencyList"]["c"]["depth"], -1);
    // Every walk vanishes, so all nodes are orphans.
    assert_eq!(sequences(&result), ["b a c"]);
    assert_eq!(result["paths"][0]["id"], "path-orphaned");
    assert_eq!(result["paths"][0]["rootId"], "b");
    assert_eq!(result["pathCount"], "0");
}

#[test]
fn a_self_loop_counts_both_ways() {
    let result = analyzed(&["a", "b"], &[("a", "a"), ("a", "b"), ("a", "a")]);
    assert_eq!(result["forest"]["adjacencyList"]["a"]["children"], json!(["a", "b"]));
    assert_eq!(result["forest"]["adjacencyList"]["a"]["parents"], json!(["a"]));
    assert_eq!(result["execution"]["branchPoints"], json!(["a"]));
    assert_eq!(result["forest"]["roots"], json!(["a"]), "no node is without a parent");
    assert_eq!(sequences(&result), ["a b"]);
}

#[test]
fn children_are_tried_branch_points_first_then_by_depth_then_in_edge_order() {
    let pairs = [
        ("r", "x"),
        ("r", "y"),
        ("r", "far"),
        ("r", "b"),
        ("b", "p"),
        ("b", "q"),
        ("s", "far"),
    ];
    let result = analyzed(&["r", "x", "y", "far", "b", "p", "q", "s"], &pairs);
    assert_eq!(sequences(&result), ["r b p", "r b q", "r x", "r y", "r far", "s far"]);
    assert_eq!(result["paths"][5]["name"], "Path 2.1");
    assert_eq!(result["paths"][5]["id"], "path-s-0");
}

#[test]
fn orphans_make_one_more_path_outside_the_indices() {
    let result = analyzed(&["a", "x", "b", "y"], &[("a", "b"), ("x", "y"), ("y", "x")]);
    assert_eq!(sequences(&result), ["a b", "x y"]);
    assert_eq!(result["paths"][1]["name"], "Orphaned Nodes");
    assert_eq!(result["forest"]["adjacencyList"]["x"]["pathIndices"], json!([]));
    assert_eq!(result["pathCount"], "1");
}

#[test]
fn a_join_that_is_itself_a_child_needs_a_convergence_further_down() {
    // b is a child of a and where the branches meet: it is no strict descendant of itself.
    let alone = analyzed(&["a", "b", "c"], &[("a", "b"), ("a", "c"), ("c", "b")]);
    assert_eq!(alone["execution"]["parallelExecutionGroups"], json!([]));
    let pairs = [
        ("a", "b"),
        ("a", "c"),
        ("c", "b"),
        ("b", "x"),
        ("b", "y"),
        ("x", "z"),
        ("y", "z"),
    ];
    let below = analyzed(&["a", "b", "c", "x", "y", "z"], &pairs);
    assert_eq!(
        below["execution"]["parallelExecutionGroups"],
        json!([["b", "c"], ["x", "y"]])
    );
}

#[test]
fn the_last_duplicate_wins_and_empty_names_types_and_labels_get_defaults() {
    let definition: WorkflowDefinition = serde_json::from_value(json!({
        "nodes": [
            {"id": "a", "type": "http", "name": "first", "data": {"taskDefinition": {"handlerId": "decide"}}},
            {"id": "b"},
            {"id": "c", "type": "delay"},
            {"id": "a", "type": "éa", "name": "", "data": {"taskDefinition": {"functionName": "run"}}},
        ],
        "edges": [
            {"id": "e", "source": "a", "target": "b", "label": "x"},
            {"id": "7", "source": "a", "target": "c", "sourceHandle": "out"},
            {"id": "e", "source": "a", "target": "b", "label": {"not": "text"}, "type": "failure", "data": 1},
        ],
    }))
    .unwrap();
    let options = AnalyzeOptions {
        now: Some("2026-01-01T00:00:00Z".to_owned()),
        ..AnalyzeOptions::default()
    };
    let result = serde_json::to_value(analyze(&definition, &options)).unwrap();
    assert_eq!(result["nodes"]["a"]["name"], "éa Node");
    assert_eq!(result["nodes"]["b"]["name"], " Node");
    assert_eq!(result["nodes"]["a"]["version"], 1);
    let metadata = json!({"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
        "createdBy": "system", "status": "draft"});
    assert_eq!(result["nodes"]["a"]["metadata"], metadata);
    assert_eq!(keys(&result["edges"]), ["7", "e"]);
    assert_eq!(
        result["edges"]["e"],
        json!({"id": "e", "source": "a", "target": "b", "type": "failure", "data": 1})
    );
    assert_eq!(result["edges"]["7"]["type"], "default");
    assert_eq!(result["edges"]["7"]["sourceHandle"], "out");
    let metadata = &result["execution"]["metadata"];
    assert_eq!(
        metadata["taskMapping"],
        json!({"a": "run", "b": "executeNode", "c": "executeDelayNode"})
    );
    assert_eq!(
        metadata["conditionalBranches"]["a"]["outgoingEdges"],
        json!(["e", "7", "e"])
    );
    assert_eq!(metadata["conditionalBranches"]["a"]["conditionHandler"], "decide");
}

#[test]
fn diamonds_are_counted_exactly_and_listed_up_to_the_limit() {
    for (count, expected) in [(10, "1024"), (20, "1048576"), (100, "1267650600228229401496703205376")] {
        let (nodes, edges) = diamonds(count);
        let result = analyze_graph(&nodes, &edges, &AnalyzeOptions::default());
        assert_eq!(result.path_count.as_deref(), Some(expected));
        assert!(result.truncated);
        assert_eq!(result.paths.len(), 1_000);
        assert_eq!(result.execution.parallel_execution_groups.len(), count);
    }
    let (nodes, edges) = diamonds(3);
    let options = AnalyzeOptions {
        max_paths: 8,
        ..AnalyzeOptions::default()
    };
    let result = analyze_graph(&nodes, &edges, &options);
    assert_eq!((result.paths.len(), result.truncated), (8, false));
}

#[test]
fn simple_paths_of_a_cyclic_graph_beyond_any_counting_are_given_up_on() {
    let ids: Vec<String> = (0..30).map(|at| format!("n{at}")).chain(["end".to_owned()]).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for from in &ids[..30] {
        pairs.extend(ids.iter().map(|to| (*from, *to)));
    }
    let options = AnalyzeOptions {
        path_steps_max: 100_000,
        ..AnalyzeOptions::default()
    };
    let (nodes, edges) = (nodes(&ids), edges(&pairs));
    let result = analyze_graph(&nodes, &edges, &options);
    assert_eq!(result.path_count, None);
    assert!(result.truncated);
    assert_eq!(result.paths.len(), 1_000);
}

#[test]
fn an_empty_graph_has_an_empty_analysis() {
    let result = analyzed(&[], &[("x", "y")]);
    assert_eq!(result["forest"], json!({"roots": [], "adjacencyList": {}}));
    assert_eq!((&result["paths"], &result["pathCount"]), (&json!([]), &json!("0")));
}

#[test]
fn a_long_chain_needs_no_stack() {
    let count = 150_000;
    let ids: Vec<String> = (0..count).map(|at| format!("n{at}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let pairs: Vec<(&str, &str)> = ids.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let (nodes, edges) = (nodes(&ids), edges(&pairs));
    let result = analyze_graph(&nodes, &edges, &AnalyzeOptions::default());
    assert_eq!(result.paths.len(), 1);
    assert_eq!(result.paths[0].node_sequence.len(), count);
    assert_eq!(result.path_count.as_deref(), Some("1"));
    assert_eq!(
        result.analysis.topological_rank.entries()[count - 1].1,
        count as i64 - 1
    );
}

/// The specification's limits, measured by hand: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
fn measure_large_graphs() {
    let time = |name: &str, nodes: Vec<Node>, edges: Vec<WorkflowEdge>| {
        let start = std::time::Instant::now();
        let result = analyze_graph(&nodes, &edges, &AnalyzeOptions::default());
        println!(
            "{name}: {} nodes, {} edges, {} ms, {} paths listed, {} digits",
            nodes.len(),
            edges.len(),
            start.elapsed().as_millis(),
            result.paths.len(),
            result.path_count.map_or(0, |count| count.len()),
        );
    };
    let (nodes_of, edges_of) = diamonds(33_333);
    time("diamonds", nodes_of, edges_of);
    let ids: Vec<String> = (0..1_000_000).map(|at| format!("n{at}")).collect();
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    let pairs: Vec<(&str, &str)> = all.windows(2).map(|pair| (pair[0], pair[1])).collect();
    time("chain", nodes(&all), edges(&pairs));
    for window in [10_u64, 300, 99_999] {
        let mut seed = 7_u64;
        let mut pairs = Vec::new();
        while pairs.len() < 300_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let from = (seed >> 33) % 99_999;
            let to = from + 1 + (seed >> 13) % window.min(99_999 - from);
            pairs.push((all[from as usize], all[to as usize]));
        }
        time(
            &format!("random forward {window}"),
            nodes(&all[..100_000]),
            edges(&pairs),
        );
        let back: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(at, &(a, b))| if at % 50 == 0 { (b, a) } else { (a, b) })
            .collect();
        time(
            &format!("random with back edges {window}"),
            nodes(&all[..100_000]),
            edges(&back),
        );
    }
    let mut layered = Vec::new();
    for at in 0..99_996 {
        let layer = at / 4 * 4 + 4;
        layered.extend((0..3).map(|k| (all[at], all[layer + (at + k) % 4])));
    }
    time("layers of four", nodes(&all[..100_000]), edges(&layered));
}

// The rules of workflow-graph.md read literally, by name and by search, exponential where they are.
struct Reference {
    order: Vec<String>,
    children: BTreeMap<String, Vec<String>>,
    parents: BTreeMap<String, Vec<String>>,
    roots: Vec<String>,
    depth: BTreeMap<String, i64>,
}

impl Reference {
    fn new(ids: &[String], pairs: &[(String, String)]) -> Self {
        let mut order: Vec<String> = Vec::new();
        for id in ids {
            if !order.contains(id) {
                order.push(id.clone());
            }
        }
        let number = |id: &String| id.parse::<u64>().ok().filter(|number| number.to_string() == *id);
        order.sort_by_key(|id| number(id).unwrap_or(u64::MAX));
        let mut children: BTreeMap<String, Vec<String>> = order.iter().map(|id| (id.clone(), vec![])).collect();
        let mut parents = children.clone();
        for (source, target) in pairs {
            if let Some(list) = children.get_mut(source).filter(|list| !list.contains(target)) {
                list.push(target.clone());
            }
            if let Some(list) = parents.get_mut(target).filter(|list| !list.contains(source)) {
                list.push(source.clone());
            }
        }
        let mut roots: Vec<String> = order.iter().filter(|id| parents[*id].is_empty()).cloned().collect();
        if roots.is_empty() {
            roots.extend(ids.first().cloned());
        }
        let mut depth: BTreeMap<String, i64> = order.iter().map(|id| (id.clone(), -1)).collect();
        let mut layer = roots.clone();
        for distance in 0.. {
            let mut next = Vec::new();
            for id in layer {
                if depth.get(&id) == Some(&-1) {
                    depth.insert(id.clone(), distance);
                    next.extend(children[&id].iter().cloned());
                }
            }
            if next.is_empty() {
                break;
            }
            layer = next;
        }
        Self {
            order,
            children,
            parents,
            roots,
            depth,
        }
    }

    fn sorted_children(&self, at: &str) -> Vec<String> {
        let mut sorted = self.children[at].clone();
        sorted.sort_by_key(|id| {
            let branch = self.children.get(id).is_some_and(|list| list.len() > 1);
            (!branch, self.depth.get(id).copied().unwrap_or(0))
        });
        sorted
    }

    fn walk(&self, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        let at = path.last().unwrap().clone();
        if self.children.get(&at).is_none_or(Vec::is_empty) {
            found.push(path.clone());
            return;
        }
        for child in self.sorted_children(&at) {
            if !path.contains(&child) {
                path.push(child);
                self.walk(path, found);
                path.pop();
            }
        }
    }

    fn descendants(&self, at: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = self.children.get(at).cloned().unwrap_or_default();
        while let Some(id) = open.pop() {
            if found.insert(id.clone()) {
                open.extend(self.children.get(&id).cloned().unwrap_or_default());
            }
        }
        found
    }

    fn groups(&self) -> Vec<Vec<String>> {
        let meets = |branch: &&String| {
            self.order.iter().filter(|id| self.parents[*id].len() > 1).any(|id| {
                self.children[*branch]
                    .iter()
                    .all(|child| self.descendants(child).contains(id))
            })
        };
        let branches = self.order.iter().filter(|id| self.children[*id].len() > 1);
        branches
            .filter(meets)
            .map(|branch| self.children[branch].clone())
            .collect()
    }

    fn visit(&self, at: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if !seen.insert(at.to_owned()) {
            return;
        }
        if let Some(children) = self.children.get(at) {
            for child in children {
                self.visit(child, seen, order);
            }
            order.insert(0, at.to_owned());
        }
    }

    fn reaches_end(&self, at: &str, without: Option<&str>) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![at.to_owned()];
        while let Some(id) = open.pop() {
            if Some(id.as_str()) == without || !seen.insert(id.clone()) {
                continue;
            }
            match self.children.get(&id) {
                Some(children) if !children.is_empty() => open.extend(children.iter().cloned()),
                _ => return true,
            }
        }
        false
    }

    /// The nearest id without which `at` reaches no end.
    fn post_dominator(&self, at: &str) -> Option<String> {
        if !self.reaches_end(at, None) {
            return None;
        }
        let all = self.descendants(at);
        let strict: Vec<&String> = all
            .iter()
            .filter(|id| id.as_str() != at && !self.reaches_end(at, Some(id)))
            .collect();
        strict
            .iter()
            .find(|id| {
                strict
                    .iter()
                    .all(|other| other == *id || !self.reaches_end(id, Some(other)))
            })
            .map(|id| (*id).clone())
    }
}

fn texts(ids: &[Id]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn small_graphs() -> impl Strategy<Value = (Vec<String>, Vec<(String, String)>)> {
    let id = prop_oneof![
        6 => (0..6_u8).prop_map(|at| char::from(b'a' + at).to_string()),
        2 => (0..3_u8).prop_map(|at| at.to_string()),
        1 => Just("__proto__".to_owned()),
    ];
    (
        prop::collection::vec(id.clone(), 0..9),
        prop::collection::vec((id.clone(), id), 0..16),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn random_graphs_match_a_literal_reading_of_the_rules((ids, pairs) in small_graphs()) {
        let reference = Reference::new(&ids, &pairs);
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let ends: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let (nodes, edges) = (nodes(&names), edges(&ends));
        let result = analyze_graph(&nodes, &edges, &AnalyzeOptions {
            max_paths: usize::MAX, path_ids_max: usize::MAX, ..AnalyzeOptions::default()
        });

        prop_assert_eq!(texts(&result.forest.roots), reference.roots.clone());
        let mut expected: Vec<(String, Vec<String>)> = Vec::new();
        for root in &reference.roots {
            let mut found = Vec::new();
            reference.walk(&mut vec![root.clone()], &mut found);
            expected.extend(found.into_iter().map(|path| (root.clone(), path)));
        }
        prop_assert_eq!(result.path_count.clone(), Some(expected.len().to_string()));
        prop_assert!(!result.truncated);
        for (id, relation) in result.forest.adjacency_list.entries() {
            let id = id.to_string();
            prop_assert_eq!(texts(&relation.children), reference.children[&id].clone());
            prop_assert_eq!(texts(&relation.parents), reference.parents[&id].clone());
            prop_assert_eq!(relation.depth, reference.depth[&id]);
            let on: Vec<usize> = (0..expected.len()).filter(|&at| expected[at].1.contains(&id)).collect();
            prop_assert_eq!(&relation.path_indices, &on);
        }
        let orphans: Vec<String> =
            ids.iter().filter(|id| !expected.iter().any(|(_, path)| path.contains(id))).cloned().collect();
        if !orphans.is_empty() {
            expected.push((orphans[0].clone(), orphans));
        }
        let listed: Vec<(String, Vec<String>)> =
            result.paths.iter().map(|path| (path.root_id.to_string(), texts(&path.node_sequence))).collect();
        prop_assert_eq!(listed, expected);
        let order: Vec<String> = result.nodes.entries().iter().map(|(id, _)| id.to_string()).collect();
        prop_assert_eq!(order, reference.order.clone());
        let groups: Vec<Vec<String>> =
            result.execution.parallel_execution_groups.iter().map(|group| texts(group)).collect();
        prop_assert_eq!(groups, reference.groups());
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for root in &reference.roots {
            reference.visit(root, &mut seen, &mut order);
        }
        prop_assert_eq!(texts(&result.execution.metadata.execution_order), order);
        for (id, found) in result.analysis.post_dominators.entries() {
            prop_assert_eq!(found.as_ref().map(ToString::to_string), reference.post_dominator(id), "of {}", id);
        }
        let cyclic: BTreeSet<String> = result.analysis.cycles.iter().flatten().map(ToString::to_string).collect();
        let expected: BTreeSet<String> =
            reference.order.iter().filter(|id| reference.descendants(id).contains(*id)).cloned().collect();
        prop_assert_eq!(cyclic, expected);
    }

    #[test]
    fn a_truncated_listing_is_a_prefix_of_the_whole((ids, pairs) in small_graphs(), max_paths in 0..5_usize) {
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let ends: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let (nodes, edges) = (nodes(&names), edges(&ends));
        let real = |result: &ProcessedWorkflow<'_>| -> Vec<WorkflowPath> {
            result.paths.iter().filter(|path| path.id != "path-orphaned").cloned().collect()
        };
        let whole = analyze_graph(&nodes, &edges, &AnalyzeOptions::default());
        let part = analyze_graph(&nodes, &edges, &AnalyzeOptions { max_paths, ..AnalyzeOptions::default() });
        let (whole_paths, part_paths) = (real(&whole), real(&part));
        prop_assert_eq!(&part_paths[..], &whole_paths[..whole_paths.len().min(max_paths)]);
        prop_assert_eq!(part.truncated, whole_paths.len() > max_paths);
        prop_assert_eq!(part.path_count, whole.path_count);
    }

    #[test]
    fn post_dominators_are_those_that_petgraph_finds_in_the_reversed_graph(
        count in 1..60_u32, ends in prop::collection::vec((0..60_u32, 0..60_u32), 0..150)
    ) {
        let ids: Vec<String> = (0..count).map(|at| format!("n{at}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let ends: Vec<(&str, &str)> =
            ends.iter().map(|(from, to)| (ids[(from % count) as usize], ids[(to % count) as usize])).collect();
        let graph = Graph::new(&nodes(&ids), &edges(&ends));
        let mut reversed: DiGraph<(), ()> = DiGraph::new();
        for _ in 0..=count {
            reversed.add_node(());
        }
        for at in graph.nodes() {
            for &child in graph.children.of(at) {
                reversed.add_edge(child.into(), at.into(), ());
            }
            if graph.children.of(at).is_empty() {
                reversed.add_edge(count.into(), at.into(), ());
            }
        }
        let library = simple_fast(&reversed, count.into());
        let expected: Vec<Option<u32>> = (0..count)
            .map(|at| library.immediate_dominator(at.into()).map(|found| found.index() as u32))
            .map(|found| found.filter(|&found| found != count))
            .collect();
        prop_assert_eq!(dominators::immediate_post_dominators(&graph), expected);
    }
}
