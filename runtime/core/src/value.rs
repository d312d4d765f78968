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

    /// The elements of a list; none where the document is no list.
    #[must_use]
    pub fn elements(&self) -> Option<Vec<Self>> {
        let elements: Vec<&serde_json::value::RawValue> = serde_json::from_str(&self.0).ok()?;
        Some(elements.into_iter().map(|element| Self(element.get().into())).collect())
    }

    /// A list of finished documents.
    #[must_use]
    pub fn array<'a>(elements: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut text = String::from("[");
        for (position, element) in elements.into_iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            text.push_str(element.as_str());
        }
        text.push(']');
        Self(text.into())
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

/// Bytes up to which a payload lies where it is used; a larger one is kept apart, once.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// How often composed payloads may nest; a parser of JSON refuses deeper documents soon after.
pub const COMPOSED_DEPTH_MAX: u32 = 100;

/// Reference to a value stored apart, by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of the content.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub hash: [u8; 32],
    /// Length of the content in bytes.
    #[n(1)]
    pub bytes: u64,
}

impl BlobRef {
    /// The hash as 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As people are shown it: `{"$blob": {"hash": …, "bytes": …}}`.
    #[must_use]
    pub fn shown(&self) -> Json {
        Json::of(&serde_json::json!({"$blob": {"hash": self.hex(), "bytes": self.bytes}}))
    }

    /// Reads what [`BlobRef::hex`] writes.
    #[must_use]
    pub fn hash_of_hex(text: &str) -> Option<[u8; 32]> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        Some(hash)
    }
}

/// A payload: in place up to [`INLINE_BYTES_MAX`], a reference beyond, or composed of both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Value {
    /// The document itself.
    #[n(0)]
    Inline(#[n(0)] Json),
    /// A document kept in the store's blobs.
    #[n(1)]
    Blob(#[n(0)] Box<BlobRef>),
    /// An object or a list with parts that are kept apart.
    #[n(2)]
    Composed(#[n(0)] Composed),
}

impl Value {
    /// The document `null`, in place.
    #[must_use]
    pub fn null() -> Self {
        Self::Inline(Json::null())
    }

    /// An object of finished payloads, in the order given; a later equal key wins. Small ones become one document.
    #[must_use]
    pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a Self)>) -> Self {
        let mut unique: Vec<(&str, &Self)> = Vec::new();
        for (key, value) in members {
            match unique.iter_mut().find(|(known, _)| *known == key) {
                Some(slot) => slot.1 = value,
                None => unique.push((key, value)),
            }
        }
        let inline = unique.iter().map(|(key, value)| Some((*key, value.as_inline()?)));
        let small = fits(unique.iter().map(|(_, value)| *value));
        if let Some(members) = inline.collect::<Option<Vec<_>>>().filter(|_| small) {
            return Self::Inline(Json::object(members));
        }
        let members = unique.into_iter().map(|(key, value)| (key.to_owned(), value.clone()));
        Self::Composed(Composed::new(Parts::Object(members.collect())))
    }

    /// A list of finished payloads. Small ones become one document.
    #[must_use]
    pub fn list(elements: Vec<Self>) -> Self {
        let inline = elements.iter().map(Self::as_inline);
        if let Some(documents) = inline.collect::<Option<Vec<_>>>().filter(|_| fits(&elements)) {
            return Self::Inline(Json::array(documents));
        }
        Self::Composed(Composed::new(Parts::List(elements)))
    }

    /// The document, where it lies in place as a whole.
    #[must_use]
    pub fn as_inline(&self) -> Option<&Json> {
        match self {
            Self::Inline(json) => Some(json),
            Self::Blob(_) | Self::Composed(_) => None,
        }
    }

    /// Length of the whole document in bytes, to a few bytes for each part.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(json) => json.bytes() as u64,
            Self::Blob(blob) => blob.bytes,
            Self::Composed(composed) => composed.0.bytes,
        }
    }

    /// About how many bytes it takes where it is used.
    #[must_use]
    pub fn bytes_in_place(&self) -> usize {
        match self {
            Self::Inline(json) => json.bytes(),
            Self::Blob(_) => 40,
            Self::Composed(composed) => composed.0.bytes_in_place,
        }
    }

    /// How often it is composed of composed ones.
    #[must_use]
    pub fn depth(&self) -> u32 {
        match self {
            Self::Inline(_) | Self::Blob(_) => 0,
            Self::Composed(composed) => composed.0.depth,
        }
    }

    /// The blobs that it needs.
    pub fn blobs<'a>(&'a self, found: &mut dyn FnMut(&'a BlobRef)) {
        match self {
            Self::Inline(_) => {}
            Self::Blob(blob) => found(blob),
            Self::Composed(composed) => match &composed.0.parts {
                Parts::Object(members) => members.iter().for_each(|(_, value)| value.blobs(found)),
                Parts::List(elements) => elements.iter().for_each(|value| value.blobs(found)),
            },
        }
    }

    /// As people are shown it where contents are not loaded: a blob as `{"$blob": {"hash": …, "bytes": …}}`.
    #[must_use]
    pub fn shown(&self) -> Json {
        self.document_with(&|blob| Ok::<_, std::convert::Infallible>(blob.shown()))
            .unwrap_or_else(|never| match never {})
    }

    /// The whole document, with what `content` says of its blobs.
    ///
    /// # Errors
    /// A blob of which the content is not known.
    pub fn document(&self, content: &dyn Fn(&BlobRef) -> Option<Json>) -> Result<Json, BlobRef> {
        self.document_with(&|blob| content(blob).ok_or(*blob))
    }

    /// The whole document, with what `content` gives for its blobs.
    ///
    /// # Errors
    /// Those of `content`.
    pub fn document_with<E>(&self, content: &dyn Fn(&BlobRef) -> Result<Json, E>) -> Result<Json, E> {
        match self {
            Self::Inline(json) => Ok(json.clone()),
            Self::Blob(blob) => content(blob),
            Self::Composed(composed) => match &composed.0.parts {
                Parts::Object(members) => {
                    let read = members.iter();
                    let read = read.map(|(key, value)| Ok((key.as_str(), value.document_with(content)?)));
                    let read = read.collect::<Result<Vec<_>, E>>()?;
                    Ok(Json::object(read.iter().map(|(key, json)| (*key, json))))
                }
                Parts::List(elements) => {
                    let read = elements.iter().map(|value| value.document_with(content));
                    Ok(Json::array(&read.collect::<Result<Vec<_>, E>>()?))
                }
            },
        }
    }
}

/// Whether documents are small enough together to lie in place as one.
fn fits<'a>(parts: impl IntoIterator<Item = &'a Value>) -> bool {
    let mut left = INLINE_BYTES_MAX;
    parts
        .into_iter()
        .all(|value| match left.checked_sub(value.bytes_in_place()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
}

/// A document of which parts may be kept apart. A clone costs a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Composed(Arc<Composition>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Composition {
    parts: Parts,
    bytes: u64,
    bytes_in_place: usize,
    depth: u32,
}

/// What a composed document is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Parts {
    /// Its members, each name once.
    #[n(0)]
    Object(#[n(0)] Vec<(String, Value)>),
    /// Its elements.
    #[n(1)]
    List(#[n(0)] Vec<Value>),
}

impl Composed {
    /// A document of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let (mut bytes, mut bytes_in_place, mut depth) = (2, 2, 0);
        let mut add = |name: usize, value: &Value| {
            bytes += name as u64 + value.bytes() + 1;
            bytes_in_place += name + value.bytes_in_place() + 1;
            depth = depth.max(value.depth());
        };
        match &parts {
            Parts::Object(members) => members.iter().for_each(|(name, value)| add(name.len() + 3, value)),
            Parts::List(elements) => elements.iter().for_each(|value| add(0, value)),
        }
        Self(Arc::new(Composition {
            parts,
            bytes,
            bytes_in_place,
            depth: depth + 1,
        }))
    }

    /// Its parts.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// A member, if it is an object that has one of that name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Value> {
        match self.parts() {
            Parts::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            Parts::List(_) => None,
        }
    }
}

impl fmt::Debug for Composed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(out)
    }
}

impl<C> Encode<C> for Composed {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.parts().encode(encoder, context)
    }
}

impl<'b, C> Decode<'b, C> for Composed {
    fn decode(decoder: &mut minicbor::Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Self::new(Parts::decode(decoder, context)?))
    }
}

impl From<BlobRef> for Value {
    fn from(blob: BlobRef) -> Self {
        Self::Blob(Box::new(blob))
    }
}

impl From<Composed> for Value {
    fn from(composed: Composed) -> Self {
        Self::Composed(composed)
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

    fn blob(bytes: u64) -> Value {
        BlobRef { hash: [7; 32], bytes }.into()
    }

    #[test]
    fn values_survive_their_encoding() {
        let large = blob(70_000);
        let object = Value::object([("large", &large), ("small", &Value::null())]);
        let list = Value::list(vec![object.clone(), Value::null()]);
        for value in [Value::null(), large, object, list] {
            let bytes = minicbor::to_vec(&value).unwrap();
            assert_eq!(minicbor::decode::<Value>(&bytes).unwrap(), value);
        }
    }

    #[test]
    fn what_is_small_is_composed_into_one_document() {
        let (one, two) = (
            Value::from(Json::from_trusted("1")),
            Value::from(Json::from_trusted("2")),
        );
        let object = Value::object([("b", &one), ("a", &two), ("b", &two)]);
        assert_eq!(object.as_inline().unwrap().as_str(), r#"{"b":2,"a":2}"#);
        let half = Value::from(Json::of(&"x".repeat(INLINE_BYTES_MAX / 2).into()));
        assert!(Value::list(vec![half.clone(), one.clone()]).as_inline().is_some());
        assert!(
            Value::list(vec![half.clone(), half]).as_inline().is_none(),
            "too large together"
        );
    }

    #[test]
    fn a_composed_document_is_read_with_the_content_of_its_blobs() {
        let content = Json::from_trusted("[1,2]");
        let inner = Value::object([("large", &blob(5)), ("n", &Value::from(Json::from_trusted("3")))]);
        let value = Value::list(vec![Value::null(), inner]);
        assert_eq!(value.depth(), 2);
        let mut found = Vec::new();
        value.blobs(&mut |blob| found.push(*blob));
        assert_eq!(found.len(), 1);
        let document = value.document(&|_| Some(content.clone())).unwrap();
        assert_eq!(document.as_str(), r#"[null,{"large":[1,2],"n":3}]"#);
        assert_eq!(value.document(&|_| None), Err(found[0]));
        assert!(
            value.bytes().abs_diff(document.bytes() as u64) < 8,
            "{} of {}",
            value.bytes(),
            document.bytes()
        );
    }

    #[test]
    fn a_hash_is_read_back_from_its_digits() {
        let blob = BlobRef {
            hash: std::array::from_fn(|n| n as u8 * 7),
            bytes: 1,
        };
        assert_eq!(BlobRef::hash_of_hex(&blob.hex()), Some(blob.hash));
        for wrong in ["", "+0", &"g".repeat(64), &"ä".repeat(32)] {
            assert_eq!(BlobRef::hash_of_hex(wrong), None, "{wrong}");
        }
    }
}
