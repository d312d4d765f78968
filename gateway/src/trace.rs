//! Trace context of requests. Source: W3C Trace Context, level 1.

use axum::http::HeaderMap;

/// The header.
pub(crate) const TRACE_PARENT: &str = "traceparent";

/// The trace context of a request, where it has a valid one: another one is ignored, as the standard asks.
pub(crate) fn trace_parent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACE_PARENT)?.to_str().ok()?;
    is_trace_parent(text).then(|| text.to_owned())
}

/// Whether a text is a trace context of version 00.
pub(crate) fn is_trace_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        return false;
    };
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    version == "00" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2) && !is_zero(trace) && !is_zero(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_standard_form_is_a_trace_context() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_trace_parent(valid));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            &valid.to_uppercase(),
            &valid.replace("00-4b", "01-4b"),
            &valid.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &format!("{valid}-x"),
            &valid.replace('f', "g"),
        ] {
            assert!(!is_trace_parent(wrong), "{wrong}");
        }
    }
}
