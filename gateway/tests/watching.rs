//! The commands that show something anew, by the real binary: `troupe ls --watch` and `troupe top`.
#![allow(clippy::unwrap_used)]

mod server;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::{Server, troupe};

const PATIENCE: Duration = Duration::from_secs(60);

const DEFINITIONS: [(&str, &str); 3] = [
    (
        "echo.yaml",
        "
id: echo
name: Echo
settings: { onFailure: failFast }
nodes: [{ id: a, type: function, data: { handlerId: echo } }]
edges: []
",
    ),
    (
        "failing.yaml",
        "
id: failing
name: Failing
settings: { onFailure: failFast }
nodes: [{ id: a, type: function, data: { handlerId: fail, code: NO_LUCK, retryPolicy: { maxAttempts: 1 } } }]
edges: []
",
    ),
    (
        "slow.yaml",
        "
id: slow
name: Slow
nodes: [{ id: wait, type: delay, data: { delayType: fixed, delayValue: 86400000 } }]
edges: []
",
    ),
];

fn apply(server: &Server, directory: &Path) {
    for (name, text) in DEFINITIONS {
        std::fs::write(directory.join(name), text).unwrap();
    }
    server.line(&["apply", "-q", &directory.display().to_string()]);
}

/// Waits until it holds; fails with `what` if that takes too long.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a line is the time of a look.
fn is_time(line: &str) -> bool {
    line.len() == "2026-11-26T00:00:00.000Z".len() && line.starts_with("20") && line.ends_with('Z')
}

/// A command that runs until it is told to stop; dropping it kills it.
struct Running(Child);

impl Running {
    fn start(url: &str, arguments: &[&str]) -> Self {
        let mut command = troupe();
        command.args(arguments).args(["--server", url]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.stdout.take().unwrap())
    }

    fn stderr(&mut self) -> BufReader<ChildStderr> {
        BufReader::new(self.0.stderr.take().unwrap())
    }

    /// Sends a signal and tells the exit status.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn next(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Answers one request with `body`; tells its first line.
fn answer(listener: &TcpListener, body: &str) -> String {
    let (stream, _) = listener.accept().unwrap();
    let mut lines = BufReader::new(stream);
    let first = next(&mut lines);
    while !next(&mut lines).is_empty() {}
    let length = body.len();
    write!(
        lines.get_mut(),
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    first
}

#[test]
fn top_counts_what_runs_and_shows_what_is_held_and_the_latest() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    for _ in 0..2 {
        server.line(&["start", "echo", "-i", "x=1", "--wait"]);
    }
    assert_eq!(server.exit(&["start", "failing", "--wait"]), 1);
    let slow = server.line(&["start", "slow"]);
    server.line(&["pause", "--workflow", "slow", "--reason", "lunch"]);

    let mut frame = Value::Null;
    until("the lists and counts are there", || {
        frame = serde_json::from_str(&server.line(&["top", "--once", "--json", "--every", "0.1"])).unwrap();
        let counts = &frame["figures"]["counts"];
        frame["executions"].as_array().unwrap().len() == 4
            && counts["executionsStarted"] == 4
            && counts["executionsEnded"] == json!({"completed": 2, "failed": 1})
    });
    let live = &frame["figures"]["now"]["executions"];
    let of = |state: &str| live[state].as_u64().unwrap();
    assert_eq!(of("running") + of("waiting"), 1, "{live}");
    assert_eq!(of("pending") + of("quarantined"), 0, "{live}");
    assert!(frame["perSecond"]["executionsStarted"].is_number(), "{frame}");
    assert_eq!(frame["members"], json!([]), "an embedded store has one process");
    assert_eq!(frame["executions"][0]["id"], slow.as_str());
    assert_eq!(frame["controls"][0]["scope"]["workflow"], "slow");

    let text = server.line(&["top", "--once", "--every", "0.1", "-n", "2"]);
    for part in [
        server.url(),
        "started     4 (0.0/s)",
        "completed 2 (0.0/s)  failed 1 (0.0/s)",
        "outbox      pending",
        "workflow slow: paused since",
        "(lunch)",
        "STARTED",
        slow.as_str(),
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(text.matches("echo v1").count(), 0, "the two latest are others\n{text}");
    assert!(!text.contains('\u{1b}'), "nothing is cleared or coloured");

    // One a line, each an object, until it has been often enough.
    let frames = server.line(&["top", "--json", "--every", "0.1", "--times", "2"]);
    let frames: Vec<Value> = frames.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames.len(), 2);
    assert!(frames[0].get("perSecond").is_none() && frames[1]["perSecond"].is_object());
}

#[test]
fn a_list_is_shown_again_until_a_signal() {
    let (state, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(state.path());
    apply(&server, files.path());
    let id = server.line(&["start", "slow"]);
    until("it is listed", || server.line(&["ls", "-q"]) == id);

    let watched = ["ls", "slow", "--watch", "--every", "0.1"];
    let twice = [&watched[..], &["--times", "2"]].concat();
    let text = server.line(&twice);
    assert_eq!(text.lines().filter(|line| is_time(line)).count(), 2, "{text}");
    assert_eq!(text.matches(&id).count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert_eq!(server.line(&[&twice[..], &["-q"]].concat()), format!("{id}\n{id}"));
    let pages = server.line(&[&twice[..], &["--json"]].concat());
    let pages: Vec<Value> = pages.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(pages.len() == 2 && pages.iter().all(|page| page["items"][0]["id"] == id.as_str()));

    for signal in ["-INT", "-TERM"] {
        let mut running = Running::start(server.url(), &watched);
        let mut lines = running.stdout();
        let mut times = 0;
        while times < 2 {
            let line = next(&mut lines);
            assert!(!line.is_empty(), "it has ended");
            times += usize::from(is_time(&line));
        }
        assert_eq!(running.stop(signal), Some(0), "{signal}");
    }
}

#[test]
fn what_does_not_answer_is_said_and_asked_again() {
    // A port that was free a moment ago and is nobody's.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut running = Running::start(&format!("http://{address}"), &["ls", "--watch", "--every", "0.1"]);
    let (mut shown, mut said) = (running.stdout(), running.stderr());
    let line = next(&mut said);
    assert!(
        line.contains("cannot talk to") && line.contains("trying again"),
        "{line}"
    );
    let listener = TcpListener::bind(address).unwrap();
    answer(&listener, r#"{"items": []}"#);
    assert!(is_time(&next(&mut shown)));
    assert_eq!(next(&mut shown), "no executions");
    drop(listener);
    let line = next(&mut said);
    assert!(line.contains("trying again"), "{line}");
    assert_eq!(running.stop("-INT"), Some(0));
}

#[test]
fn another_server_is_asked_where_one_is_gone_and_is_named() {
    const EMPTY: &str = r#"{"items": []}"#;
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (gone, left) = (url(&first), url(&second));
    let mut running = Running::start(&format!("{gone},{left}"), &["ls", "--watch", "--every", "0.1"]);
    let (mut shown, mut said) = (running.stdout(), running.stderr());
    for listener in [first, second] {
        answer(&listener, EMPTY);
        assert!(is_time(&next(&mut shown)));
        assert_eq!(next(&mut shown), "no executions");
    }
    assert_eq!(next(&mut said), format!("now asking {left}/ instead of {gone}/"));
    assert_eq!(running.stop("-INT"), Some(0));
}

#[test]
fn a_refusal_is_not_asked_again() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::start(state.path());
    assert_eq!(server.exit(&["ls", "--watch", "--status", "nonsense"]), 2);
}

#[test]
fn filters_of_a_list_are_parameters_of_the_question() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let filters = ["--tag", "night", "--text", "two words", "--business-key", "order/7"];
    let mut running = Running::start(&url, &[&["ls", "w", "--status", "failed"][..], &filters].concat());
    let asked = answer(&listener, r#"{"items": []}"#);
    for part in [
        "GET /api/v1/executions?",
        "workflow=w",
        "status=failed",
        "tag=night",
        "text=two+words",
        "businessKey=order%2F7",
    ] {
        assert!(asked.contains(part), "{part} is not in {asked}");
    }
    assert_eq!(next(&mut running.stderr()), "no executions");
}

#[test]
fn wrong_options_are_usage_errors_and_nobody_is_asked() {
    for arguments in [
        &["ls", "--every", "1"][..],
        &["ls", "--watch", "--every", "0"],
        &["top", "--every", "often"],
        &["top", "-n", "0"],
        &["top", "--once", "--times", "2"],
    ] {
        let output = troupe().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
