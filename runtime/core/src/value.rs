//! Payloads as they travel: compact JSON text shared by reference count, or a reference to a stored blob.

use std::fmt;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A JSON document as compact text, valid by construction. A clone costs a reference count.
///
/// The hot path moves payloads without reading them; whoever needs structure parses on demand.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Json(Arc<str>);

impl Json {
    /// The document `null`.
    #[must_use]
    pub fn null() -> Self {
        Self("null".into())
    }

    /// Serialises a value compactly.
    #[must_use]
    pub fn of(value: &serde_json::Value) -> Self {
        Self(value.to_string().into())
    }

    /// Checks that `text` is one JSON document and keeps it without insignificant white space.
    ///
    /// # Errors
    /// The parser's error when it is not.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        Ok(Self::of(&value))
    }

    /// Trusts that `text` is one valid JSON document: for text that our own code has just serialised or read back.
    #[must_use]
    pub fn from_trusted(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        debug_assert!(
            serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(),
            "not JSON: {text}"
        );
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Length of the text in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The parsed document.
    ///
    /// # Errors
    /// Only when it nests deeper than the parser's limit of 128: documents grow deeper as joins wrap them.
    pub fn to_value(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// An object whose members are given as finished documents, in the order given; a later equal key wins.
    #[must_use]
    pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a Json)>) -> Self {
        let mut unique: Vec<(&str, &Json)> = Vec::new();
        for (key, value) in members {
            match unique.iter_mut().find(|(known, _)| *known == key) {
                Some(slot) => slot.1 = value,
                None => unique.push((key, value)),
            }
        }
        let mut text = String::with_capacity(2 + unique.iter().map(|(k, v)| k.len() + v.bytes() + 4).sum::<usize>());
        text.push('{');
        for (position, (key, value)) in unique.into_iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(key).to_string());
            text.push(':');
            text.push_str(value.as_str());
        }
        text.push('}');
        Self(text.into())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        Self::of(value)
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self::of(&value)
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(&serde_json::Value::deserialize(deserializer)?))
    }
}

impl<C> Encode<C> for Json {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Json {
    fn decode(decoder: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Self(decoder.str()?.into()))
    }
}

/// Reference to a value stored apart, by content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3 hash of the content.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub hash: [u8; 32],
    /// Length of the content in bytes.
    #[n(1)]
    pub bytes: u64,
}

/// A payload: in place up to 64 KiB, a reference beyond.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Value {
    /// The document itself.
    #[n(0)]
    Inline(#[n(0)] Json),
    /// A document kept in the store's blobs.
    #[n(1)]
    Blob(#[n(0)] BlobRef),
}

impl Value {
    /// The document `null`, in place.
    #[must_use]
    pub fn null() -> Self {
        Self::Inline(Json::null())
    }
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        Self::Inline(json)
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        Self::Inline(Json::of(&value))
    }
}

/// Why something failed, as users see it and as failure edges carry it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// Stable code, such as `TIMEOUT`.
    #[n(0)]
    pub code: String,
    /// What happened, for people.
    #[n(1)]
    pub message: String,
    /// Structured details, if the handler gave any.
    #[n(2)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<Json>,
    /// Stack of the function that threw, if there was one.
    #[n(3)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack: Option<String>,
}

impl ErrorInfo {
    /// An error with a code and a message.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            details: None,
            stack: None,
        }
    }

    /// The `error` that failure edges and expressions see: `{message, code, details}`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let text = |text: &str| Json::of(&serde_json::Value::from(text));
        let (message, code) = (text(&self.message), text(&self.code));
        let details = self.details.as_ref().map(|details| ("details", details));
        Json::object([("message", &message), ("code", &code)].into_iter().chain(details))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn objects_keep_order_and_the_later_key_wins() {
        let (one, two) = (Json::parse(" 1 ").unwrap(), Json::parse("[2, 3]").unwrap());
        let object = Json::object([("b", &one), ("a\"", &two), ("b", &two)]);
        assert_eq!(object.as_str(), r#"{"b":[2,3],"a\"":[2,3]}"#);
    }

    #[test]
    fn values_survive_their_encoding() {
        for value in [
            Value::null(),
            Value::Blob(BlobRef {
                hash: [7; 32],
                bytes: 70_000,
            }),
        ] {
            let bytes = minicbor::to_vec(&value).unwrap();
            assert_eq!(minicbor::decode::<Value>(&bytes).unwrap(), value);
        }
    }
}
