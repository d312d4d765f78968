//! The command line as scripts meet it: the real binary, its exit status, and what goes to which stream.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn troupe(arguments: &[&str]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .current_dir(scratch.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn help_is_data_and_usage_errors_are_talk() {
    let help = troupe(&["--help"]);
    assert_eq!(code(&help), 0);
    assert!(text(&help.stdout).contains("Exit status"));
    let wrong = troupe(&["validate", "--nope"]);
    assert_eq!(code(&wrong), 2);
    assert!(wrong.stdout.is_empty());
    assert!(text(&wrong.stderr).contains("--nope"));
}

#[test]
fn a_login_in_the_address_of_a_server_is_not_in_the_help() {
    let help = Command::new(env!("CARGO_BIN_EXE_troupe"))
        .args(["ls", "--help"])
        .env("TROUPE_SERVER", "http://u:Left@h:1")
        .output()
        .unwrap();
    assert_eq!(code(&help), 0);
    let shown = text(&help.stdout);
    assert!(shown.contains("TROUPE_SERVER") && !shown.contains("Left"), "{shown}");
}

#[test]
fn every_example_is_valid() {
    let output = troupe(&["validate", examples().to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let invalid: Vec<_> = report["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|file| file["valid"] != true)
        .collect();
    assert_eq!(code(&output), 0, "{invalid:#?}");
    assert!(report["files"].as_array().unwrap().len() >= 6);
}

#[test]
fn an_invalid_definition_names_every_problem_in_its_place() {
    let definition = br#"{
  "id": "broken", "name": "broken",
  "nodes": [
    {"id": "charge", "type": "function", "data": {"handlerId": "noop"}},
    {"id": "ship", "type": "functoin", "data": {}}
  ],
  "edges": [
    {"id": "e", "source": "chrage", "target": "ship"}
  ]
}"#;
    let (_directory, path) = file("broken.json", definition);
    for command in ["validate", "run"] {
        let output = troupe(&[command, &path]);
        assert_eq!(code(&output), 5, "{command}");
        assert!(output.stdout.is_empty(), "{command}: problems are talk");
        let shown = text(&output.stderr);
        for part in [
            "UNKNOWN_NODE_TYPE",
            "UNKNOWN_NODE",
            "broken.json:5:",
            "broken.json:8:",
            "did you mean `function`?",
            "did you mean `charge`?",
        ] {
            assert!(shown.contains(part), "{command}: {part} is not in\n{shown}");
        }
    }
    let output = troupe(&["validate", "--json", &path]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], false);
    assert_eq!(report["files"][0]["problems"][0]["line"], 5);
}

/// `run` is its own engine, so it knows every handler; what a server has is the server's to say.
#[test]
fn a_handler_that_the_engine_does_not_have_is_refused_before_anything_runs() {
    let definition = b"id: misspelt\nnodes: [{ id: a, type: function, data: { handlerId: nop } }]";
    let (_directory, path) = file("misspelt.yaml", definition);
    let output = troupe(&["run", &path]);
    assert_eq!(code(&output), 5);
    let shown = text(&output.stderr);
    for part in ["UNKNOWN_HANDLER", "misspelt.yaml:2:", "did you mean `noop`?"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert_eq!(code(&troupe(&["validate", &path])), 0);
}

#[test]
fn what_is_no_text_at_all_is_named_too() {
    for (content, named) in [
        (&b"{\"nodes\": ["[..], "INVALID_JSON"),
        (&b"\xff\xfe"[..], "INVALID_UTF8"),
        (&[b'['; 10_000][..], "NESTING_TOO_DEEP"),
    ] {
        let (_directory, path) = file("bad.json", content);
        let output = troupe(&["validate", &path]);
        assert_eq!(code(&output), 5, "{named}");
        assert!(
            text(&output.stderr).contains(named),
            "{named}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn files_that_are_not_there_are_not_found() {
    for arguments in [
        &["validate", "nowhere.json"][..],
        &["analyze", "nowhere.json"],
        &["run", "nowhere.json"],
    ] {
        let output = troupe(arguments);
        assert_eq!(code(&output), 3, "{arguments:?}");
        assert!(text(&output.stderr).contains("nowhere.json"));
    }
}

const CHECKED: &str = "
id: checked
name: Checked
settings: { onFailure: failFast, inputSchema: { properties: { items: { minItems: 1 } } } }
nodes: [{ id: a, type: function, data: { handlerId: echo } }]
edges: []
";

#[test]
fn what_the_caller_got_wrong_is_a_usage_error() {
    let (directory, path) = file("checked.yaml", CHECKED.as_bytes());
    let directory = directory.path().to_str().unwrap();
    for (arguments, named) in [
        (&["run", &path, "--trigger", "zz"][..], "UNKNOWN_TRIGGER"),
        (&["run", &path, "-i", "items=[]"], "SCHEMA_VIOLATION /input/items"),
        (&["run", directory], directory),
        (&["analyze", directory], directory),
        (&["run", &path, "-i", "@."], "."),
        (&["run", &path, "--input-json", r#"{"a": 1, "a": 2}"#], "DUPLICATE_KEY"),
    ] {
        let output = troupe(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains(named), "{}", text(&output.stderr));
    }
}

#[test]
fn a_definition_without_an_id_is_invalid_in_every_command() {
    let (_directory, path) = file("nameless.yaml", CHECKED.replace("id: checked\n", "").as_bytes());
    for command in ["validate", "run", "apply"] {
        let output = troupe(&[command, &path]);
        assert_eq!(code(&output), 5, "{command}: {}", text(&output.stderr));
        let shown = text(&output.stderr);
        for part in ["MISSING_FIELD", "nameless.yaml:2:"] {
            assert!(shown.contains(part), "{command}: {part} is not in\n{shown}");
        }
    }
}

#[test]
fn quiet_validation_is_silent_about_warnings() {
    let (_directory, path) = file("warned.yaml", CHECKED.replace("onFailure: failFast, ", "").as_bytes());
    let loud = troupe(&["validate", &path]);
    assert_eq!(code(&loud), 0);
    assert!(
        text(&loud.stderr).contains("UNHANDLED_FAILURE"),
        "{}",
        text(&loud.stderr)
    );
    let quiet = troupe(&["validate", "-q", &path]);
    assert_eq!((code(&quiet), text(&quiet.stderr), text(&quiet.stdout)), (0, "", ""));
    // Here the warning is what is wrong.
    let strict = troupe(&["validate", "-q", "--strict", &path]);
    assert_eq!(code(&strict), 5);
    assert!(text(&strict.stderr).contains("UNHANDLED_FAILURE"));
}

#[test]
fn analyze_prints_one_json_object() {
    let output = troupe(&["analyze", examples().join("etl.yaml").to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    let analysis: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(analysis["execution"]["branchPoints"], serde_json::json!(["start"]));
    assert_eq!(analysis["execution"]["convergencePoints"], serde_json::json!(["load"]));
    assert_eq!(analysis["paths"].as_array().unwrap().len(), 3);
}

#[test]
fn a_server_that_is_not_there_cannot_be_reached() {
    // A port that was free a moment ago and is nobody's.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = format!("http://127.0.0.1:{port}");
    for arguments in [
        &["ls"][..],
        &["show", "abc"],
        &["start", "order"],
        &["cancel", "0123"],
        &["top", "--once"],
    ] {
        let output = troupe(&[arguments, &["--server", &server]].concat());
        assert_eq!(code(&output), 6, "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains("troupe dev"), "{}", text(&output.stderr));
    }
    let output = troupe(&["ls", "--json", "--server", &server]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "CANNOT_CONNECT");
    assert_eq!(code(&troupe(&["ls", "--server", "nonsense"])), 2);
}

#[test]
fn a_wrong_configuration_is_a_usage_error_with_a_hint() {
    let (_directory, path) = file("troupe.toml", b"listn = 'x'\n");
    let output = troupe(&["validate", "x.json", "--config", &path]);
    assert_eq!(code(&output), 2);
    assert!(
        text(&output.stderr).contains("did you mean `listen`?"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn completions_are_data() {
    let output = troupe(&["completions", "bash"]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("_troupe"));
    assert!(output.stderr.is_empty());
}
