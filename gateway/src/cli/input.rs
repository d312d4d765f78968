//! The start payload from the command line.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value};
use troupe_core::Json;
use troupe_core::definition::NESTING_HARD_MAX;

use super::failure::Failure;
use crate::body;
use crate::error::ApiError;
use crate::exit::Exit;

#[derive(Args, Clone, Debug, Default)]
pub(super) struct InputArgs {
    /// A member of the payload: key=value (JSON if it is, else text), or @FILE with a JSON object or value.
    #[arg(short, long = "input", value_name = "KEY=VALUE|@FILE")]
    input: Vec<String>,
    /// The whole payload as JSON.
    #[arg(long, value_name = "JSON")]
    input_json: Option<String>,
}

impl InputArgs {
    /// Whether there is a payload at all.
    pub(super) fn is_given(&self) -> bool {
        self.input_json.is_some() || !self.input.is_empty()
    }

    /// The payload; null if nothing is given.
    pub(super) fn read(&self) -> Result<Json, Failure> {
        Ok(Json::of(&self.value()?))
    }

    /// The payload; null if nothing is given. Later members win.
    pub(super) fn value(&self) -> Result<Value, Failure> {
        let mut whole = match &self.input_json {
            None => Value::Null,
            Some(text) => parse(text.as_bytes(), "--input-json")?,
        };
        for given in &self.input {
            if let Some(path) = given.strip_prefix('@') {
                let path = Path::new(path);
                let bytes = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
                whole = merged(whole, parse(&bytes, &path.display().to_string())?);
            } else {
                let (key, value) = named(given, "input")
                    .map_err(|failure| failure.hint("write -i key=value, -i @file.json or --input-json '{…}'"))?;
                whole = merged(whole, Value::Object(Map::from_iter([(key, value)])));
            }
        }
        Ok(whole)
    }
}

/// Reads `name=value`; the value is JSON if it parses, else text.
pub(super) fn named(given: &str, what: &str) -> Result<(String, Value), Failure> {
    let Some((name, value)) = given.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(Failure::new(Exit::Usage, format!("`{given}` is no {what}")).hint("write name=value"));
    };
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

fn parse(bytes: &[u8], source: &str) -> Result<Value, Failure> {
    let problem = match body::parse(bytes, NESTING_HARD_MAX) {
        Ok(Some(value)) => return Ok(value),
        Ok(None) => ApiError::new("INVALID_JSON", "it is empty").problem(),
        Err(error) => error.problem(),
    };
    let mut failure = Failure::new(Exit::Usage, format!("{source} is not JSON: {}", problem.detail));
    failure.code = Some(problem.code);
    Err(failure)
}

/// Members of an object are added to one; anything else replaces.
fn merged(whole: Value, more: Value) -> Value {
    match (whole, more) {
        (Value::Object(mut fields), Value::Object(more)) => {
            fields.extend(more);
            Value::Object(fields)
        }
        (_, more) => more,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(input: &[&str], whole: Option<&str>) -> Result<Json, Failure> {
        let input = input.iter().map(ToString::to_string).collect();
        InputArgs {
            input,
            input_json: whole.map(str::to_owned),
        }
        .read()
    }

    #[test]
    fn members_files_and_whole_payloads_mix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.json");
        std::fs::write(&path, r#"{"b": [2], "c": 3}"#).unwrap();
        let file = format!("@{}", path.display());
        let payload = read(&["a=1", "t=x=y", &file, "b=true"], Some(r#"{"z": 0}"#)).unwrap();
        assert_eq!(payload.as_str(), r#"{"z":0,"a":1,"t":"x=y","b":true,"c":3}"#);
        assert_eq!(read(&[], None).unwrap(), Json::null());
        assert_eq!(read(&[], Some("[1]")).unwrap().as_str(), "[1]");
    }

    #[test]
    fn what_is_no_input_is_a_usage_error() {
        for wrong in [read(&["novalue"], None), read(&["=1"], None), read(&[], Some("{"))] {
            assert_eq!(wrong.unwrap_err().exit, Exit::Usage);
        }
        let deep = "[".repeat(10_000);
        for (bad, code) in [
            ("{", "INVALID_JSON"),
            (" ", "INVALID_JSON"),
            (deep.as_str(), "NESTING_TOO_DEEP"),
        ] {
            assert_eq!(read(&[], Some(bad)).unwrap_err().code.as_deref(), Some(code));
        }
        assert_eq!(read(&["@/nowhere.json"], None).unwrap_err().exit, Exit::NotFound);
    }
}
