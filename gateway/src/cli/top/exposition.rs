//! Reads the text that Prometheus scrapes.

/// One number of a metric.
#[derive(Debug, PartialEq)]
pub(super) struct Reading<'a> {
    /// The name of the metric.
    pub(super) name: &'a str,
    /// What it is.
    pub(super) value: f64,
    labels: Vec<(&'a str, String)>,
}

impl Reading<'_> {
    /// The value of a label.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        let mut labels = self.labels.iter();
        labels.find_map(|(label, value)| (*label == name).then_some(value.as_str()))
    }
}

/// Every number of a text; none where a line is neither a comment nor a number.
pub(super) fn readings(text: &str) -> Option<Vec<Reading<'_>>> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(reading)
        .collect()
}

fn reading(line: &str) -> Option<Reading<'_>> {
    let (name, rest) = line.split_at(line.find(['{', ' ', '\t'])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A time may follow.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Reading { name, value, labels })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, after) = unquoted(quoted)?;
        labels.push((name, value));
        rest = after;
    }
}

/// A text up to its closing quote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_read_with_their_labels() {
        let text = "# HELP a what it is\n# TYPE a counter\na 7\n\nb{x=\"1\",y=\"two\"} 2.5 1790000000000\nc_sum{} 1e-3\nd +Inf\n";
        let found = readings(text).unwrap();
        let shown: Vec<_> = found.iter().map(|reading| (reading.name, reading.value)).collect();
        assert_eq!(shown, [("a", 7.0), ("b", 2.5), ("c_sum", 0.001), ("d", f64::INFINITY)]);
        assert_eq!((found[1].label("x"), found[1].label("y")), (Some("1"), Some("two")));
        assert_eq!(found[1].label("z"), None);
        assert!(readings("a NaN").unwrap()[0].value.is_nan());
        assert!(readings("").unwrap().is_empty());
    }

    #[test]
    fn a_workflow_may_be_called_anything() {
        let text = r#"a{workflow="} 9 \"x\", y=\"z\" \\ \n ü",trigger="api"} 3"#;
        let found = readings(text).unwrap();
        assert_eq!(found[0].label("workflow"), Some("} 9 \"x\", y=\"z\" \\ \n ü"));
        assert_eq!((found[0].label("trigger"), found[0].value), (Some("api"), 3.0));
    }

    #[test]
    fn what_is_no_such_text_is_not_read() {
        for text in [
            "<html>",
            "a",
            "a b",
            "a{x=\"1\" 2",
            "a{x=\"1",
            "a{x} 1",
            "{\"items\": []}",
            "a 1\nb",
        ] {
            assert_eq!(readings(text), None, "{text}");
        }
    }
}
