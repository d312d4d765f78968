//! `troupe verify` as scripts meet it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn verify(arguments: &[&str]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
        command.env_remove(name);
    }
    let command = command.arg("verify").args(arguments).current_dir(scratch.path());
    command.env("NO_COLOR", "1").output().unwrap()
}

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").canonicalize();
    folder.unwrap().join(name).display().to_string()
}

#[test]
fn the_exit_status_tells_what_is_certain() {
    for (name, status, word) in [
        ("order.yaml", 0, "no fault"),
        ("broken/decision-gap.yaml", 0, "possible  DECISION_WITHOUT_MATCH"),
        ("broken/silent-nothing.yaml", 5, "certain  NOTHING_COMPLETED"),
    ] {
        let output = verify(&[&example(name)]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{name}: {text}");
        assert!(text.contains(word) && text.contains("complete"), "{name}: {text}");
    }
    assert_eq!(verify(&["nowhere.yaml"]).status.code(), Some(3));
    assert_eq!(
        verify(&[&example("order.yaml"), "--timeout", "0"]).status.code(),
        Some(2)
    );
}

#[test]
fn machines_get_one_object() {
    let output = verify(&[
        "--json",
        &example("broken/reads-what-failed.yaml"),
        &example("quotes.yaml"),
    ]);
    assert_eq!(output.status.code(), Some(5));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let finding = &report["files"][0]["findings"][0];
    assert_eq!(
        (&finding["code"], &finding["certainty"]),
        (&"READ_OF_NOTHING".into(), &"certain".into())
    );
    assert_eq!(finding["example"][1]["step"], "`charge` fails");
    assert_eq!(report["files"][1]["seen"]["complete"], true);
    let bounded = verify(&["--json", "--max-states", "5", &example("quotes.yaml")]);
    let report: Value = serde_json::from_slice(&bounded.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &report["files"][0]["seen"]["bound"]),
        (&true.into(), &"states".into())
    );
}

#[test]
fn what_the_validator_refuses_is_not_verified() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.json");
    std::fs::write(
        &file,
        r#"{"id": "w", "nodes": [{"id": "a", "type": "functoin"}], "edges": []}"#,
    )
    .unwrap();
    let output = verify(&[&file.display().to_string()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8(output.stderr).unwrap().contains("UNKNOWN_NODE_TYPE") && output.stdout.is_empty());
}
