//! Every error code that a user can meet has a page in `docs/errors/`, and every page has a code.
//!
//! A code is a string in capitals: any with an underscore, and single words where they plainly are codes: a constant
//! named like its value, an arm or a row of a table in an `error.rs`, the first argument of `ErrorInfo::new` or
//! `ApiError::new`, a name in `codes!`.

mod sources;

use std::collections::{BTreeMap, BTreeSet};

use sources::{SourceFile, lex};

/// Where codes are made.
const FOLDERS: [&str; 4] = ["runtime", "actors", "gateway/src", "config/src"];

/// Capitals that are no error codes.
const OTHER_CAPITALS: [&str; 8] = [
    "NO_COLOR",
    "OUT_DIR",
    "MAX_SAFE_INTEGER",
    "MIN_SAFE_INTEGER",
    "MAX_VALUE",
    "MIN_VALUE",
    "POSITIVE_INFINITY",
    "NEGATIVE_INFINITY",
];

/// Prefixes of capitals that are no error codes: environment variables.
const OTHER_PREFIXES: [&str; 3] = ["TROUPE_", "XDG_", "CARGO_"];

fn is_capitals(text: &str) -> bool {
    text.len() >= 4
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text
            .chars()
            .all(|character| character.is_ascii_uppercase() || character.is_ascii_digit() || character == '_')
}

/// Codes that a source file makes, with the line of each.
fn codes_in(file: &SourceFile) -> Vec<(String, usize)> {
    let shipped = file.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lexed = lex(shipped);
    let home = file
        .path
        .rsplit('/')
        .next()
        .is_some_and(|name| ["error.rs", "code.rs", "codes.rs"].contains(&name));
    let mut codes = Vec::new();
    for ((at, _), (line, text)) in lexed.code.match_indices("\"\"").zip(&lexed.literals) {
        let before = lexed.code[..at].trim_end();
        let named_like_its_value = before
            .rsplit_once("const ")
            .is_some_and(|(_, declared)| declared.ends_with('=') && declared.starts_with(&format!("{text}:")));
        let plainly = named_like_its_value
            || before.ends_with("ErrorInfo::new(")
            || before.ends_with("ApiError::new(")
            || (home && (before.ends_with("=>") || before.ends_with('(')));
        let other =
            OTHER_CAPITALS.contains(&text.as_str()) || OTHER_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        if is_capitals(text) && !other && (plainly || text.contains('_')) {
            codes.push((text.clone(), *line));
        }
    }
    for (at, opening) in lexed
        .code
        .match_indices("codes! {")
        .filter(|(at, _)| !lexed.code[..*at].ends_with("macro_rules! "))
    {
        let body = &lexed.code[at + opening.len()..];
        let body = &body[..body.find('}').unwrap_or(body.len())];
        let line = lexed.code[..at].lines().count();
        let names = body.split(',').map(str::trim).filter(|name| is_capitals(name));
        codes.extend(names.map(|name| (name.to_owned(), line)));
    }
    codes
}

/// Each code with the first place that makes it.
fn codes() -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for file in FOLDERS.iter().flat_map(|folder| sources::rust_files(folder)) {
        // The demonstration plays other people's servers, with codes of theirs.
        let apart = [
            "/tests/",
            "/conformance/",
            "/examples/",
            "/benches/",
            "gateway/src/demo/",
        ];
        if file.path.ends_with("tests.rs") || apart.iter().any(|folder| file.path.contains(folder)) {
            continue;
        }
        for (code, line) in codes_in(&file) {
            codes.entry(code).or_insert_with(|| format!("{}:{line}", file.path));
        }
    }
    codes
}

fn pages() -> BTreeMap<String, String> {
    let name = |path: &str| Some(path.strip_prefix("docs/errors/")?.strip_suffix(".md")?.to_owned());
    let files = sources::files("docs/errors").into_iter();
    files
        .filter_map(|file| Some((name(&file.path)?, file.text)))
        .filter(|(name, _)| name != "README")
        .collect()
}

/// What a page lacks: its title, why it happens, what to do.
fn gaps(code: &str, page: &str) -> Vec<String> {
    let mut gaps = Vec::new();
    if page.lines().next() != Some(format!("# {code}").as_str()) {
        gaps.push(format!("{code}.md: does not begin with '# {code}'"));
    }
    for heading in ["## Cause", "## Cure"] {
        let said = page
            .split_once(&format!("\n{heading}\n"))
            .map(|(_, after)| after.split("\n## ").next());
        if said.flatten().is_none_or(|text| text.trim().is_empty()) {
            gaps.push(format!("{code}.md: says nothing under '{heading}'"));
        }
    }
    gaps
}

/// The codes that the list in the README links.
fn listed(readme: &str) -> BTreeSet<String> {
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split_once(".md)"));
    links
        .map(|(name, _)| name.to_owned())
        .filter(|name| is_capitals(name))
        .collect()
}

#[test]
fn every_code_has_a_page() {
    let (codes, pages) = (codes(), pages());
    assert!(codes.len() > 40, "found only {} codes: the scan is broken", codes.len());
    let missing: Vec<String> = codes
        .iter()
        .filter(|(code, _)| !pages.contains_key(*code))
        .map(|(code, place)| format!("{code} ({place})"))
        .collect();
    assert!(
        missing.is_empty(),
        "codes without a page in docs/errors:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_page_has_a_code_and_says_cause_and_cure() {
    let (codes, pages) = (codes(), pages());
    let stale = pages.keys().filter(|name| !codes.contains_key(*name));
    let mut problems: Vec<String> = stale
        .map(|name| format!("{name}.md: nothing makes this code"))
        .collect();
    problems.extend(pages.iter().flat_map(|(code, page)| gaps(code, page)));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_list_is_complete() {
    let readme = sources::files("docs/errors")
        .into_iter()
        .find(|file| file.path == "docs/errors/README.md");
    let listed = listed(&readme.expect("docs/errors/README.md exists").text);
    let pages: BTreeSet<String> = pages().into_keys().collect();
    assert_eq!(listed, pages, "docs/errors/README.md lists the pages that there are");
}

/// The checks see what they should, and go red where they should.
mod planted {
    use super::*;

    fn codes_of(path: &str, text: &str) -> Vec<String> {
        let file = SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        codes_in(&file).into_iter().map(|(code, _)| code).collect()
    }

    #[test]
    fn codes_are_seen_wherever_they_are_made() {
        assert_eq!(codes_of("a/b.rs", "fail(\"LOOP_LIMIT\")"), ["LOOP_LIMIT"]);
        assert_eq!(
            codes_of("a/b.rs", "pub const TIMEOUT: &str = \"TIMEOUT\";"),
            ["TIMEOUT"]
        );
        assert_eq!(
            codes_of("a/b.rs", "ErrorInfo::new(\n  \"INTERRUPTED\", text)"),
            ["INTERRUPTED"]
        );
        assert_eq!(codes_of("a/error.rs", "Self::Busy => \"BUSY\","), ["BUSY"]);
        assert_eq!(
            codes_of("a/error.rs", "[(\"INTERNAL\", 500, \"The server failed\")]"),
            ["INTERNAL"]
        );
        assert_eq!(
            codes_of("a/code.rs", "codes! {\n /// One.\n ONE_TWO,\n /// Three.\n THREE,\n}"),
            ["ONE_TWO", "THREE"]
        );
    }

    #[test]
    fn other_capitals_are_left_alone() {
        let text = "var(\"NO_COLOR\"); var(\"TROUPE_LISTEN\"); Method::Get => \"GET\", \"POST\" // \"A_COMMENT\"";
        assert!(codes_of("a/b.rs", text).is_empty());
        assert!(codes_of("a/b.rs", "#[cfg(test)]\nmod tests { const A: &str = \"ONLY_TESTED\"; }").is_empty());
    }

    #[test]
    fn pages_must_say_something() {
        assert!(gaps("A_B", "# A_B\n\nText.\n\n## Cause\n\nThis.\n\n## Cure\n\nThat.\n").is_empty());
        assert_eq!(gaps("A_B", "# A_C\n\n## Cause\n\n## Cure\n\nThat.\n").len(), 2);
        assert_eq!(gaps("A_B", "# A_B\n").len(), 2);
    }

    #[test]
    fn the_list_is_read_from_links() {
        let expected: BTreeSet<String> = ["A_CODE".to_owned()].into();
        assert_eq!(
            listed("| [A_CODE](A_CODE.md) | x |\n[map](../architecture.md)"),
            expected
        );
    }
}
