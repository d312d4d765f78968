//! `troupe serve` and its keys, by the real binary.
#![allow(clippy::unwrap_used)]

mod server;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{Server, troupe};

const BOOTSTRAP: &str = "a-bootstrap-key-of-this-test-0123456789";
/// Two seconds, by the documentation, and what starting a process takes.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

const ECHO: &str = "
id: echo
name: Echo
settings: { onFailure: failFast }
nodes: [{ id: a, type: function, data: { handlerId: echo } }]
edges: []
";

fn serve(state: &Path) -> Server {
    Server::of("serve", state, &[], &[("BOOTSTRAP_KEY".to_owned(), BOOTSTRAP)])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command prints that must succeed.
fn line(server: &Server, key: &str, arguments: &[&str]) -> String {
    let output = server.call_as(key, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A command that must be refused with that code and the exit status of a wrong option.
fn refused(output: &Output, code: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        output.stdout.is_empty() && said.contains(code) && said.contains("hint"),
        "{said}"
    );
}

fn id_of(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

#[test]
fn it_does_not_start_where_nobody_could_ask() {
    let state = tempfile::tempdir().unwrap();
    let start = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = troupe();
        command
            .args(["serve", "-q", "--listen", "127.0.0.1:0", "--state"])
            .arg(state.path());
        command.args(arguments).envs(variables.iter().copied());
        command.current_dir(state.path()).output().unwrap()
    };
    let output = start(&[], &[]);
    refused(&output, "NO_API_KEYS");
    let said = said(&output);
    assert!(
        said.contains("troupe key create") && said.contains("TROUPE_BOOTSTRAP_KEY"),
        "{said}"
    );
    let short = start(&[], &[("TROUPE_BOOTSTRAP_KEY", "too-short")]);
    refused(&short, "TROUPE_BOOTSTRAP_KEY");
    // Without a login a server is kept to this machine.
    let mut command = troupe();
    command
        .args(["dev", "-q", "--listen", "0.0.0.0:0", "--state"])
        .arg(state.path());
    let output = command.current_dir(state.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(self::said(&output).contains("troupe serve"));
}

#[test]
fn the_first_key_may_be_made_at_the_store() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().display().to_string();
    let key = |arguments: &[&str]| {
        let mut command = troupe();
        command.arg("key").args(arguments).args(["--state", &directory]);
        command.current_dir(state.path()).output().unwrap()
    };
    let created = key(&["create", "--role", "admin", "--name", "root", "--expires", "1d"]);
    assert_eq!(created.status.code(), Some(0), "{}", said(&created));
    let root = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    assert!(root.starts_with("troupe_") && root.len() > 80, "{root}");

    let server = Server::of("serve", state.path(), &[], &[]);
    let listed: Value = serde_json::from_str(&line(&server, &root, &["key", "ls", "--json"])).unwrap();
    let shown = &listed["items"][0];
    assert_eq!(
        (&shown["name"], &shown["createdBy"]),
        (&"root".into(), &"at the store".into())
    );
    assert!(shown["expiresAt"].is_string());
    assert!(!listed.to_string().contains(root.rsplit('_').next().unwrap()));
    // The store has one process; whoever has a key asks that one.
    let busy = key(&["ls"]);
    assert_eq!(busy.status.code(), Some(4));
    assert!(said(&busy).contains("--server"), "{}", said(&busy));
    let file = state.path().join("key");
    std::fs::write(&file, format!("{root}\n")).unwrap();
    server.line(&["ls", "--api-key-file", &file.display().to_string()]);
    let rows = line(&server, &root, &["audit", "--json", "--action", "key.create"]);
    assert!(rows.contains("at the store"), "{rows}");

    // Revoked at the store, it is the last one, and the server does not start any more.
    drop(server);
    let revoked = key(&["revoke", id_of(&root)]);
    assert_eq!(revoked.status.code(), Some(0), "{}", said(&revoked));
    let mut command = troupe();
    command.args(["serve", "-q", "--listen", "127.0.0.1:0", "--state", &directory]);
    refused(&command.current_dir(state.path()).output().unwrap(), "NO_API_KEYS");
}

#[test]
fn keys_are_made_used_and_revoked_and_rows_tell_who_did_what() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("echo.yaml");
    std::fs::write(&file, ECHO).unwrap();
    let file = file.display().to_string();
    let mut server = serve(state.path());
    refused(&server.call(&["ls"]), "UNAUTHENTICATED");
    refused(&server.call_as("troupe_0_0", &["ls"]), "UNAUTHENTICATED");
    assert_eq!(server.get("/livez").0, 200);
    assert_eq!(server.get("/metrics").0, 401);
    for arguments in [&["healthcheck"][..], &["healthcheck", "--live", "--json"]] {
        assert_eq!(server.call(arguments).status.code(), Some(0), "{arguments:?}");
    }

    let create = |name: &str, role: &str| {
        line(
            &server,
            BOOTSTRAP,
            &["key", "create", "-q", "--name", name, "--role", role],
        )
    };
    let (eve, olaf, vic) = (
        create("eve", "editor"),
        create("olaf", "operator"),
        create("vic", "viewer"),
    );
    refused(&server.call_as(&olaf, &["apply", &file]), "FORBIDDEN");
    assert_eq!(line(&server, &eve, &["apply", &file]), "echo version 1 stored");
    let started = ["start", "echo", "-i", "x=1", "--wait"];
    assert_eq!(line(&server, &olaf, &started), r#"{"x":1}"#);
    assert!(line(&server, &olaf, &["start", "echo", "-i", "x=2", "--watch"]).contains('2'));
    refused(&server.call_as(&vic, &started), "FORBIDDEN");
    let listed: Value = serde_json::from_str(&line(&server, &vic, &["ls", "--json"])).unwrap();
    let id = listed["items"][0]["id"].as_str().unwrap().to_owned();
    let history = line(&server, &vic, &["history", &id, "--json"]);
    assert!(history.contains(r#""principal":"olaf""#), "{history}");
    refused(&server.call_as(&eve, &["key", "ls"]), "FORBIDDEN");

    line(&server, BOOTSTRAP, &["key", "revoke", id_of(&olaf)]);
    let begun = Instant::now();
    let output = loop {
        let output = server.call_as(&olaf, &["ls"]);
        if output.status.code() != Some(0) {
            break output;
        }
        assert!(begun.elapsed() < REVOKED_WITHIN, "the key goes on to be accepted");
    };
    refused(&output, "UNAUTHENTICATED");
    assert!(said(&output).contains("olaf was revoked"), "{}", said(&output));

    let page: Value = serde_json::from_str(&line(&server, BOOTSTRAP, &["audit", "--json"])).unwrap();
    let mut rows: Vec<String> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap();
            format!("{} {} {}", text("principal"), text("action"), text("outcome"))
        })
        .collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        [
            "bootstrap key.create ok",
            "bootstrap key.create ok",
            "bootstrap key.create ok",
            "bootstrap key.revoke ok",
            "eve workflow.put ok",
            "olaf workflow.put FORBIDDEN",
        ]
    );

    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0), "a stop is clean");
    assert_eq!(server.exit(&["healthcheck"]), 6);
}
