//! Makes what `JSON.stringify` writes readable for everybody.

use std::borrow::Cow;

/// Deepest nesting that is let through; a little below what readers accept.
pub(crate) const DEPTH_MAX: usize = 120;

/// The text with lone surrogates replaced by U+FFFD; none when it nests deeper than [`DEPTH_MAX`].
///
/// `JSON.stringify` escapes exactly the lone surrogates (`\udXXX`), which strict readers refuse.
pub(crate) fn presentable(text: String) -> Option<String> {
    let (mut depth, mut in_string, mut lone) = (0_usize, false, false);
    let mut bytes = text.as_bytes().iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (in_string, byte) {
            (true, b'"') => in_string = false,
            (true, b'\\') => {
                lone |= is_surrogate(&text.as_bytes()[at..]);
                bytes.next();
            }
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return None;
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
    }
    Some(if lone { replaced(&text).into_owned() } else { text })
}

fn is_surrogate(escape: &[u8]) -> bool {
    matches!(
        escape,
        [b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..]
    )
}

fn replaced(text: &str) -> Cow<'_, str> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let length = if is_surrogate(&rest.as_bytes()[at..]) {
            out.push('\u{fffd}');
            6
        } else {
            out.push_str(&rest[at..at + 2]);
            2
        };
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_lone_surrogates_are_replaced() {
        let text = r#"{"a":"\ud800x\\ud800\"","b":["\udfff"]}"#;
        assert_eq!(
            presentable(text.to_owned()).unwrap(),
            "{\"a\":\"\u{fffd}x\\\\ud800\\\"\",\"b\":[\"\u{fffd}\"]}"
        );
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let nested = |depth: usize| format!("{}\"[[[\"{}", "[".repeat(depth), "]".repeat(depth));
        assert!(presentable(nested(DEPTH_MAX)).is_some());
        assert!(presentable(nested(DEPTH_MAX + 1)).is_none());
    }
}
