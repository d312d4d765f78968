//! Texts that PostgreSQL does not take as they are. What users name may hold any character; the server takes no NUL, and an index
//! takes no value of kilobytes. Nothing of that may stop a projection.

use std::borrow::Cow;

use serde_json::Value;

use crate::lists::tag;

/// Marks what was replaced; a text that holds it has it doubled. A control character, so that nobody meets it in practice.
const ESCAPE: char = '\u{1a}';
/// Bytes of a text in an index. Three of the longest ones fit into a page as PostgreSQL wants it.
const INDEXED_BYTES_MAX: usize = 1_024;

/// The text without NUL; [`unescaped`] gives it back.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => escaped.extend([ESCAPE, '0']),
            ESCAPE => escaped.extend([ESCAPE, ESCAPE]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// What [`escaped`] was given.
pub(super) fn unescaped(text: String) -> String {
    if !text.contains(ESCAPE) {
        return text;
    }
    let mut original = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ESCAPE => original.push(if characters.next() == Some('0') { '\0' } else { ESCAPE }),
            other => original.push(other),
        }
    }
    original
}

/// Whether a text can be looked up by an index as it is.
pub(super) fn is_indexable(text: &str) -> bool {
    escaped(text).len() <= INDEXED_BYTES_MAX
}

/// The text as the index holds it: escaped, and cut off where it is absurdly long. Whoever looks for the long text looks for
/// the same beginning.
pub(super) fn indexed(text: &str) -> Cow<'_, str> {
    let escaped = escaped(text);
    if escaped.len() <= INDEXED_BYTES_MAX {
        return escaped;
    }
    let end = escaped.floor_char_boundary(INDEXED_BYTES_MAX);
    Cow::Owned(escaped[..end].trim_end_matches(ESCAPE).to_owned())
}

/// Tags in the form in which the server reads an array of them. What counts of each fits into its index, however much is escaped.
pub(super) fn array(tags: &[String]) -> String {
    let mut array = "{".to_owned();
    for (place, text) in tags.iter().enumerate() {
        array.push_str(if place == 0 { "\"" } else { ",\"" });
        for character in escaped(tag(text)).chars() {
            if matches!(character, '"' | '\\') {
                array.push('\\');
            }
            array.push(character);
        }
        array.push('"');
    }
    array.push('}');
    array
}

/// A JSON text as JSONB takes it: for queries by people, who can live with `U+FFFD` for a NUL.
pub(super) fn document(json: &str) -> serde_json::Result<Cow<'_, str>> {
    if !json.contains("\\u0000") {
        return Ok(Cow::Borrowed(json));
    }
    let mut value: Value = serde_json::from_str(json)?;
    replace_nul(&mut value);
    Ok(Cow::Owned(value.to_string()))
}

fn replace_nul(value: &mut Value) {
    let replaced = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => *text = replaced(text),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => {
            for (key, mut field) in std::mem::take(fields) {
                replace_nul(&mut field);
                fields.insert(replaced(&key), field);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_none_holds_a_nul() {
        let texts = [
            "",
            "plain",
            "\0",
            "a\0b\0",
            "\u{1a}",
            "\u{1a}0",
            "\0\u{1a}\0",
            "0\u{1a}\u{1a}0",
        ];
        let mut seen = Vec::new();
        for text in texts {
            let stored = escaped(text).into_owned();
            assert!(!stored.contains('\0'), "{text:?}");
            assert_eq!(unescaped(stored.clone()), text);
            assert!(!seen.contains(&stored), "{text:?} is told apart from the others");
            seen.push(stored);
        }
    }

    #[test]
    fn a_long_text_is_cut_off_between_characters() {
        let long = "é".repeat(1_000);
        assert_eq!(indexed(&long), "é".repeat(512));
        assert!(!is_indexable(&long));
        let nuls = indexed(&"\0".repeat(1_000)).into_owned();
        assert_eq!(unescaped(nuls), "\0".repeat(512));
        let cut = format!("{}\0", "x".repeat(1_023));
        assert_eq!(indexed(&cut), "x".repeat(1_023), "no half of an escape is left");
        assert_eq!(indexed("orders"), "orders");
    }

    #[test]
    fn what_an_array_is_made_of_is_quoted() {
        let array = |texts: &[&str]| array(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(array(&[]), "{}");
        assert_eq!(array(&["a", ""]), r#"{"a",""}"#);
        assert_eq!(array(&[r#"a",b{"#, r"\", "\0"]), "{\"a\\\",b{\",\"\\\\\",\"\u{1a}0\"}");
    }

    #[test]
    fn a_document_has_no_nul_but_all_else() {
        let json = r#"{"a\u0000":["x\u0000",{"b":"\\u0000"}],"n":1.5}"#;
        let document: Value = serde_json::from_str(&document(json).unwrap()).unwrap();
        assert_eq!(
            document,
            serde_json::json!({ "a\u{fffd}": ["x\u{fffd}", { "b": "\\u0000" }], "n": 1.5 })
        );
    }
}
