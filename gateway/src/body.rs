//! Reading request bodies within limits; every way to fail has a code.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{ApiError, ErrorItem};

/// Bytes of a refused body that are read and thrown away, and how long at most. A client that is still sending when
/// the connection closes sees a broken pipe instead of the answer.
const REFUSED_BYTES_MAX: usize = 128 << 20;
const REFUSED_TIME_MAX: Duration = Duration::from_secs(10);

/// Reads a body of at most `bytes_max` bytes.
///
/// # Errors
/// `BODY_TOO_LARGE` as soon as it is known, `BODY_INCOMPLETE` when the client goes away.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let detail = format!("a body may have {bytes_max} bytes (`limits.body_kib`)");
    let too_large = || ApiError::new("BODY_TOO_LARGE", detail.clone());
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let mut chunks = body.into_data_stream();
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        // Who asks before sending hears the answer at once: not reading is what tells them not to send.
        if !headers.contains_key(header::EXPECT) {
            throw_away(chunks).await;
        }
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::new("BODY_INCOMPLETE", error.to_string()))?;
        if bytes.len() + chunk.len() > bytes_max {
            drop(bytes);
            throw_away(chunks).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn throw_away(mut chunks: BodyDataStream) {
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes += chunk.len();
            if bytes > REFUSED_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is slower than this gets the answer while it sends.
    if tokio::time::timeout(REFUSED_TIME_MAX, all).await.is_err() {
        tracing::debug!("a refused body was not read to its end");
    }
}

/// Parses a JSON body; an empty one is none.
///
/// # Errors
/// `INVALID_UTF8`, `NESTING_TOO_DEEP`, `INVALID_JSON` and `DUPLICATE_KEY`, the last two with line and column.
pub(crate) fn parse(bytes: &[u8], nesting_max: usize) -> Result<Option<Value>, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("the byte at offset {} is not UTF-8", error.valid_up_to());
        unreadable("INVALID_UTF8", detail, None)
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    if nesting(bytes) > nesting_max {
        let detail = format!("lists and objects may nest {nesting_max} deep");
        return Err(unreadable("NESTING_TOO_DEEP", detail, None));
    }
    let trail = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Strict { trail: &trail }.deserialize(&mut reader);
    read.and_then(|value| reader.end().map(|()| Some(value)))
        .map_err(|error| {
            let place = Some((error.line(), error.column()));
            match trail.take() {
                None => unreadable("INVALID_JSON", error.to_string(), place),
                Some(trail) => twice(&trail, place),
            }
        })
}

/// Reads a value whose objects have no key twice.
#[derive(Clone, Copy)]
struct Strict<'a> {
    /// The way up from a key that came twice.
    trail: &'a RefCell<Option<Vec<String>>>,
}

impl Strict<'_> {
    fn within<T, E>(self, step: impl FnOnce() -> String, read: Result<T, E>) -> Result<T, E> {
        if read.is_err()
            && let Some(trail) = &mut *self.trail.borrow_mut()
        {
            trail.push(step());
        }
        read
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = self.within(|| list.len().to_string(), items.next_element_seed(self))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if object.contains_key(&key) {
                self.trail.replace(Some(vec![key]));
                return Err(A::Error::custom("a key that came before"));
            }
            let value = self.within(|| key.clone(), members.next_value_seed(self))?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Readers of JSON disagree on which of two equal keys counts, so neither is taken.
fn twice(trail: &[String], place: Option<(usize, usize)>) -> ApiError {
    let detail = format!("the key `{}` comes twice", trail.first().map_or("", String::as_str));
    let steps = trail.iter().rev();
    let pointer = steps.map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1")));
    unreadable_at(pointer.collect(), "DUPLICATE_KEY", detail, place)
}

/// The body as a whole is at fault.
fn unreadable(code: &'static str, detail: String, place: Option<(usize, usize)>) -> ApiError {
    unreadable_at(String::new(), code, detail, place)
}

fn unreadable_at(pointer: String, code: &'static str, detail: String, place: Option<(usize, usize)>) -> ApiError {
    let item = ErrorItem {
        pointer,
        code: code.into(),
        detail: detail.clone(),
        hint: None,
        severity: None,
        line: place.and_then(|(line, _)| u32::try_from(line).ok()),
        column: place.and_then(|(_, column)| u32::try_from(column).ok()),
    };
    ApiError::new(code, detail).with_errors(vec![item])
}

/// Deepest nesting of brackets outside of strings, without recursion.
fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bad_bodies_are_named() {
        let code = |bytes: &[u8]| parse(bytes, 10).unwrap_err().code().to_owned();
        assert_eq!(code(b"\xff"), "INVALID_UTF8");
        assert_eq!(code(&[b'['; 10_000]), "NESTING_TOO_DEEP");
        let error = parse(b"{\n  \"a\": }", 10).unwrap_err().problem();
        assert_eq!((error.errors[0].line, error.errors[0].column), (Some(2), Some(8)));
        assert_eq!(parse(b" \n", 10).unwrap(), None);
        assert_eq!(code(b"{} x"), "INVALID_JSON");
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_in_its_place() {
        let error = parse(b"{\"a\": [0, {\"b/c\": 1,\n \"b/c\": 1}]}", 10)
            .unwrap_err()
            .problem();
        assert_eq!(error.code, "DUPLICATE_KEY");
        let item = &error.errors[0];
        assert_eq!((item.line, item.column), (Some(2), Some(6)));
        assert_eq!(item.pointer, "/a/1/b~1c");
        // What breaks off after such a key is another fault; the same key in two objects is none.
        assert_eq!(parse(b"{\"a\": {\"a\": }}", 10).unwrap_err().code(), "INVALID_JSON");
        assert!(parse(b"[{\"a\": {\"a\": 1}}, {\"a\": 2}]", 10).is_ok());
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        for text in [
            r#"{"b": [1, -2, 1.5e300, null, true, "\u00e9", {}], "a": 18446744073709551615}"#,
            "7",
            "\"x\"",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            let read = parse(text.as_bytes(), 10).unwrap().unwrap();
            assert_eq!(read.to_string(), expected.to_string());
        }
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(nesting(br#"{"a\"[[[": [1, "]]", {}]}"#), 3);
    }

    #[tokio::test]
    async fn the_limit_holds_with_and_without_an_announced_length() {
        let mut headers = HeaderMap::new();
        assert_eq!(read(&headers, Body::from("12345"), 5).await.unwrap(), b"12345");
        assert_eq!(
            read(&headers, Body::from("123456"), 5).await.unwrap_err().code(),
            "BODY_TOO_LARGE"
        );
        headers.insert(header::CONTENT_LENGTH, 6.into());
        assert_eq!(
            read(&headers, Body::empty(), 5).await.unwrap_err().code(),
            "BODY_TOO_LARGE"
        );
    }
}
