//! The real binary as a server.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

pub(crate) fn troupe() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// A server on a port of its own; dropping it kills it.
pub(crate) struct Server {
    pub(crate) child: Child,
    url: String,
}

impl Server {
    /// Starts on `state` and any free port; the address is the first line of its output.
    pub(crate) fn start(state: &Path) -> Self {
        Self::with(state, &[])
    }

    /// As [`Server::start`], with more arguments.
    pub(crate) fn with(state: &Path, arguments: &[&str]) -> Self {
        Self::with_secrets(state, arguments, &[])
    }

    /// As [`Server::with`], with secrets for `{{ secrets.NAME }}`.
    pub(crate) fn with_secrets(state: &Path, arguments: &[&str], secrets: &[(&str, &str)]) -> Self {
        let secrets = secrets.iter().map(|(name, value)| (format!("SECRET_{name}"), *value));
        let settings: Vec<(String, &str)> = secrets.collect();
        Self::with_settings(state, arguments, &settings)
    }

    /// As [`Server::with`], with variables of the environment, named without their prefix.
    pub(crate) fn with_settings(state: &Path, arguments: &[&str], settings: &[(String, &str)]) -> Self {
        Self::of("dev", state, arguments, settings)
    }

    /// As [`Server::with_settings`], of `dev` or `serve`.
    pub(crate) fn of(mode: &str, state: &Path, arguments: &[&str], settings: &[(String, &str)]) -> Self {
        let mut command = troupe();
        let settings = settings.iter().map(|(name, value)| (format!("TROUPE_{name}"), value));
        command
            .envs(settings)
            .args([mode, "-q", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .args(arguments)
            .current_dir(state);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "{url:?}");
        Self {
            child,
            url: url.trim().to_owned(),
        }
    }

    /// What `GET path` answers: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, &[], "")
    }

    /// What `POST path` answers to a JSON body: status and body.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        self.ask("POST", path, headers, body)
    }

    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The status that `DELETE path` answers.
    pub(crate) fn delete(&self, path: &str) -> u16 {
        self.ask("DELETE", path, &[], "").0
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        ask(&self.url, method, path, headers, body).unwrap()
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let told = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
        self.child.wait().unwrap()
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        troupe().args(arguments).args(["--server", &self.url]).output().unwrap()
    }

    /// As [`Server::call`], with a key.
    pub(crate) fn call_as(&self, key: &str, arguments: &[&str]) -> Output {
        let mut command = troupe();
        command.env("TROUPE_API_KEY", key);
        command.args(arguments).args(["--server", &self.url]).output().unwrap()
    }

    pub(crate) fn exit(&self, arguments: &[&str]) -> i32 {
        let output = self.call(arguments);
        let code = output.status.code().unwrap();
        if code != 0 {
            assert!(output.stdout.is_empty(), "{arguments:?}: no data where there is none");
            assert!(!output.stderr.is_empty(), "{arguments:?}: a failure is explained");
        }
        code
    }

    pub(crate) fn line(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// What a server answers: status and body.
pub(crate) fn ask(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<(u16, String)> {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address)?;
    let more: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{more}\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || std::io::Error::other("the answer broke off");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, body.to_owned()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
