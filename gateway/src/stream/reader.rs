//! Reads server-sent events.

use serde_json::Value;

/// Longest line of an event that is kept.
const LINE_BYTES_MAX: usize = 16 << 20;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Received {
    /// Its name.
    pub(crate) name: String,
    /// Its data.
    pub(crate) data: Value,
}

/// An event has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an event without end")]
pub(crate) struct Endless;

/// Puts events together from bytes (HTML Standard, "Server-sent events").
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pending: Vec<u8>,
    name: String,
    data: String,
    ready: std::collections::VecDeque<Received>,
}

impl Reader {
    /// Takes what came.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Endless> {
        self.pending.extend_from_slice(bytes);
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        }
        if self.pending.len() > LINE_BYTES_MAX {
            return Err(Endless);
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let name = std::mem::take(&mut self.name);
                let data = std::mem::take(&mut self.data);
                if !data.is_empty() {
                    let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
                    self.ready.push_back(Received { name, data });
                }
            }
            "event" => self.name = value.to_owned(),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
    }

    /// The next event that is whole.
    pub(crate) fn next(&mut self) -> Option<Received> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_survive_any_cut() {
        let text = ": ping\n\nevent: node.completed\r\ndata: {\"a\":\r\ndata: 1}\nid: 3\n\ndata: x\n\n";
        for cut in 0..text.len() {
            let mut reader = Reader::default();
            reader.feed(&text.as_bytes()[..cut]).unwrap();
            reader.feed(&text.as_bytes()[cut..]).unwrap();
            let first = reader.next().unwrap();
            assert_eq!(
                (first.name.as_str(), &first.data),
                ("node.completed", &serde_json::json!({"a": 1}))
            );
            assert_eq!(reader.next().unwrap().data, "x");
            assert_eq!(reader.next(), None);
        }
    }
}
