//! A real server process and its clients: hostile ones, and an innocent one that measures how it is treated.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Body, Client, Method};
use serde_json::{Value, json};

/// A running `troupe dev` on a store of its own.
pub(crate) struct Server {
    child: Mutex<Child>,
    url: String,
    client: Client,
    _state: tempfile::TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Server {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Arc<Self> {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
            command.env_remove(name);
        }
        command
            .args(["dev", "-q", "--listen", "127.0.0.1:0", "--state"])
            .arg(state.path())
            .current_dir(state.path())
            .env("TROUPE_SANDBOX_PROCESSES", "2")
            .envs(settings.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "{url:?}");
        // The first test of a process installs it.
        drop(rustls::crypto::ring::default_provider().install_default());
        Arc::new(Self {
            child: Mutex::new(child),
            url: url.trim().to_owned(),
            client: Client::builder().no_proxy().build().unwrap(),
            _state: state,
        })
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = self
            .client
            .request(method, format!("{}/api/v1{path}", self.url))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub(crate) async fn apply(&self, definition: &Value) {
        let answer = self.call(Method::POST, "/workflows", &[], definition.to_string()).await;
        assert_eq!(answer.status, 201, "{definition}: {answer:?}");
    }

    /// Starts an execution and waits for its end.
    pub(crate) async fn run(&self, workflow: &str, start: String) -> Answer {
        let path = format!("/workflows/{workflow}/executions");
        self.call(Method::POST, &path, &[("prefer", "wait=60")], start).await
    }

    /// Fails when the process has ended, or its health check does.
    pub(crate) async fn assert_alive(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "the server has ended: {ended:?}");
        for path in ["livez", "readyz"] {
            let response = self.client.get(format!("{}/{path}", self.url)).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let child = self.child.get_mut().unwrap();
        drop(child.kill());
        drop(child.wait());
    }
}

/// How long the innocent executions took.
#[derive(Debug, Default)]
pub(crate) struct Treatment {
    pub(crate) completed: u32,
    pub(crate) slowest: Duration,
}

/// A workflow that needs nothing of the sandbox, and one that needs it everywhere.
pub(crate) async fn apply_innocents(server: &Server) {
    let engine = json!({
        "id": "innocent", "name": "Innocent", "settings": {"onFailure": "failFast"},
        "nodes": [
            {"id": "a", "type": "function", "data": {"handlerId": "echo", "note": "{{ input.x + 1 }}"}},
            {"id": "b", "type": "function", "data": {"handlerId": "echo", "inputMapping": {"x": "input.x * 6"}}},
        ],
        "edges": [{"id": "e", "source": "a", "target": "b", "condition": "output.x === 7"}],
    });
    let sandbox = json!({
        "id": "innocent-code", "name": "Innocent code", "settings": {"onFailure": "failFast"},
        "nodes": [
            {"id": "a", "type": "function", "data": {"functionName": "f", "functionCode": "const f = (input) => ({x: input.x * 6})"}},
            {"id": "b", "type": "transformation", "data": {"transformationType": "enrichment", "template": "{{ input.x }}"}},
        ],
        "edges": [{"id": "e", "source": "a", "target": "b", "condition": "(() => output.x === 42)()"}],
    });
    server.apply(&engine).await;
    server.apply(&sandbox).await;
}

/// Runs one innocent workflow again and again, for ever.
pub(crate) async fn innocent(server: &Server, workflow: &str, expected: Value, seen: &mut Treatment) {
    loop {
        let begun = Instant::now();
        let answer = server.run(workflow, r#"{"input": {"x": 7}}"#.to_owned()).await;
        assert_eq!(
            (answer.status, &answer.body["output"]),
            (200, &expected),
            "{workflow}: {answer:?}"
        );
        seen.completed += 1;
        seen.slowest = seen.slowest.max(begun.elapsed());
        // A client that leaves the processor to others now and then.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Does `work` with both innocents beside it, and tells how they were treated.
pub(crate) async fn beside_innocents<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl Future<Output = T> + Send + 'static,
) -> (T, Treatment, Treatment) {
    let (mut engine, mut code) = (Treatment::default(), Treatment::default());
    // A task of its own: what the hostile clients do in this process must not be taken for the server's doing.
    let work = tokio::spawn(work);
    let done = tokio::select! {
        done = work => done.unwrap(),
        () = innocent(server, "innocent", json!({"x": 42}), &mut engine) => unreachable!("it runs for ever"),
        () = innocent(server, "innocent-code", json!("42"), &mut code) => unreachable!("it runs for ever"),
    };
    (done, engine, code)
}
