//! One request to a replica over a connection of its own, and the whole answer or an error: a replica may die at any byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    /// `Idempotency-Key`.
    pub(super) key: Option<String>,
    /// `Prefer`.
    pub(super) prefer: Option<&'static str>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            ..Self::default()
        }
    }

    pub(super) fn post(path: impl Into<String>, body: &Value) -> Self {
        Self {
            method: "POST",
            path: path.into(),
            body: body.to_string(),
            ..Self::default()
        }
    }

    pub(super) fn keyed(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The body; a text where it is no JSON.
    pub(super) body: Value,
}

impl Answer {
    /// A member of the body that is a text; empty where there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Asks the replica at `port`; `secret` is the key that it wants to see.
pub(super) fn ask(port: u16, secret: &str, request: &Request, within: Duration) -> anyhow::Result<Answer> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, CONNECTS_WITHIN)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    let optional = [("idempotency-key", request.key.as_deref()), ("prefer", request.prefer)];
    let optional: String = optional
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}: {value}\r\n")))
        .collect();
    write!(
        stream,
        "{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {secret}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{optional}\r\n{}",
        request.method,
        request.path,
        request.body.len(),
        request.body
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    read(&answer)
}

fn read(answer: &str) -> anyhow::Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer broke off")?;
    let status = head.split(' ').nth(1).context("there is no status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    if let Some(length) = length {
        ensure!(length.parse() == Ok(body.len()), "the answer broke off");
    }
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_that_broke_off_is_none() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}";
        let answer = read(whole).unwrap();
        assert_eq!((answer.status, &answer.body["a"]), (200, &Value::from(1)));
        for bytes in [whole.len() - 1, 20, 0] {
            read(&whole[..bytes]).unwrap_err();
        }
    }
}
