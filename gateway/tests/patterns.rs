//! The control-flow patterns of van der Aalst and others, each run by the real binary.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/patterns")
}

/// Runs a pattern; its exit code and the whole execution as it ended.
fn ended(pattern: &str, input: &Value) -> (i32, Value) {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
        command.env_remove(name);
    }
    let file = folder().join(format!("{pattern}.yaml")).canonicalize().unwrap();
    let output = command
        .arg("run")
        .arg(file)
        .args(["--json", "--input-json", &input.to_string()])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    let last = output
        .stdout
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    let last = last.unwrap_or_else(|| panic!("{pattern}: {talk}"));
    (output.status.code().unwrap(), serde_json::from_slice(last).unwrap())
}

/// What a pattern must come to: its input, its output, and how nodes ended where the output does not show it.
fn outcomes() -> Vec<(&'static str, Value, Value, Value)> {
    vec![
        ("01-sequence", json!({}), json!(["a", "b", "c"]), json!({})),
        (
            "02-parallel-split",
            json!({"item": "tea"}),
            json!({"pack": "packed tea", "bill": "billed tea"}),
            json!({}),
        ),
        (
            "03-synchronization",
            json!({}),
            json!({"pack": "packed", "bill": "billed"}),
            json!({}),
        ),
        (
            "04-exclusive-choice",
            json!({"amount": 5000}),
            json!("manager"),
            json!({"clerk": "skipped", "nobody": "skipped"}),
        ),
        (
            "04-exclusive-choice",
            json!({"amount": 500}),
            json!("clerk"),
            json!({"manager": "skipped"}),
        ),
        (
            "04-exclusive-choice",
            json!({"amount": 5}),
            json!("nobody"),
            json!({"clerk": "skipped"}),
        ),
        (
            "05-simple-merge",
            json!({"pay": "card"}),
            json!("charged"),
            json!({"bill": "skipped"}),
        ),
        (
            "05-simple-merge",
            json!({"pay": "later"}),
            json!("billed"),
            json!({"charge": "skipped"}),
        ),
        (
            "06-multi-choice",
            json!({"smoke": true, "glass": true}),
            json!({"brigade": "brigade", "police": "police"}),
            json!({"note": "skipped"}),
        ),
        (
            "06-multi-choice",
            json!({}),
            json!("note"),
            json!({"brigade": "skipped", "police": "skipped"}),
        ),
        (
            "07-structured-synchronizing-merge",
            json!({"smoke": true, "glass": true}),
            json!({"came": "completed completed"}),
            json!({}),
        ),
        (
            "07-structured-synchronizing-merge",
            json!({"smoke": true}),
            json!({"came": "completed skipped"}),
            json!({}),
        ),
        (
            "09-structured-discriminator",
            json!({}),
            json!("near"),
            json!({"far": "completed"}),
        ),
        (
            "11-implicit-termination",
            json!({}),
            json!({"short": "short", "last": "long"}),
            json!({}),
        ),
        (
            "16-deferred-choice",
            json!({}),
            json!("too late"),
            json!({"call": "canceled"}),
        ),
        (
            "12-instances-without-synchronization",
            json!({"people": ["ada", "bob"]}),
            json!({"started": 2}),
            json!({}),
        ),
        (
            "13-instances-known-at-design-time",
            json!({}),
            json!(["style is fine", "facts is fine", "law is fine"]),
            json!({}),
        ),
        (
            "14-instances-known-at-run-time",
            json!({"lines": [{"price": 2, "count": 3}, {"price": 5, "count": 1}]}),
            json!(11),
            json!({}),
        ),
        (
            "19-cancel-activity",
            json!({}),
            json!("canceled"),
            json!({"reminder": "canceled"}),
        ),
        (
            "20-cancel-case",
            json!({}),
            Value::Null,
            json!({"work": "canceled", "withdrawn": "completed"}),
        ),
        (
            "21-structured-loop",
            json!({}),
            json!({"text": "xxx", "passes": 3}),
            json!({}),
        ),
        ("22-recursion", json!({"n": 5}), json!(120), json!({})),
        (
            "25-cancel-region",
            json!({}),
            json!(["canceled", "canceled"]),
            json!({}),
        ),
        (
            "29-cancelling-discriminator",
            json!({}),
            json!(["near", "canceled"]),
            json!({}),
        ),
        (
            "30-structured-partial-join",
            json!({}),
            json!({"a": 1, "b": 2}),
            json!({"c": "completed"}),
        ),
        (
            "32-cancelling-partial-join",
            json!({}),
            json!([{"a": 1, "b": 2}, "canceled"]),
            json!({}),
        ),
        (
            "34-static-partial-join-of-instances",
            json!({"wait": [1, 3_600_000, 2]}),
            json!([1, null, 2]),
            json!({}),
        ),
        (
            "37-local-synchronizing-merge",
            json!({"a": true, "b": true, "more": true}),
            json!({"left": "completed", "extra": "completed"}),
            json!({}),
        ),
        (
            "37-local-synchronizing-merge",
            json!({"a": true}),
            json!({"left": "completed", "extra": "skipped"}),
            json!({"right": "skipped"}),
        ),
        (
            "43-explicit-termination",
            json!({}),
            json!({"answer": "from the cache"}),
            json!({"search": "canceled"}),
        ),
    ]
}

#[test]
fn each_pattern_comes_to_its_outcome() {
    for (pattern, input, output, nodes) in outcomes() {
        let (exit, ended) = ended(pattern, &input);
        let expected = if pattern == "20-cancel-case" {
            ("canceled", 1)
        } else {
            ("completed", 0)
        };
        assert_eq!(
            (ended["status"].as_str().unwrap(), exit),
            expected,
            "{pattern} {input}: {ended}"
        );
        assert_eq!(ended["output"], output, "{pattern} {input}: {ended}");
        for (node, status) in nodes.as_object().unwrap() {
            assert_eq!(
                ended["nodeResults"][node]["status"], *status,
                "{pattern} {input}, node {node}: {ended}"
            );
        }
    }
}

#[test]
fn every_pattern_has_an_outcome() {
    let tested: BTreeSet<String> = outcomes().iter().map(|(name, ..)| (*name).to_owned()).collect();
    let files = std::fs::read_dir(folder()).unwrap();
    let name = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.unwrap().path();
        (path.extension()? == "yaml").then(|| path.file_stem().unwrap().to_string_lossy().into_owned())
    };
    assert_eq!(files.filter_map(name).collect::<BTreeSet<_>>(), tested);
}
