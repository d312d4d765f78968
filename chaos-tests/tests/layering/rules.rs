//! What sources must not mention, each rule a function over one file.

use crate::floors::PLACES;
use crate::sources::{Lexed, SourceFile, lex};

/// What the pure core must not mention.
const IMPURE: [&str; 18] = [
    "tokio",
    "ractor",
    "rand",
    "getrandom",
    "SystemTime",
    "Instant",
    "Utc::now",
    "Local::now",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::io",
    "thread_local",
    "static mut",
    "println",
    "eprintln",
];

pub(crate) fn purity_violations(file: &SourceFile) -> Vec<String> {
    // A test beside its subject may measure; clippy still refuses it a clock unless it says why.
    if file.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let Lexed { code, .. } = lex(&file.text);
    let mut violations = Vec::new();
    for word in IMPURE {
        for line in lines_with_word(&code, word) {
            violations.push(format!("{}:{line}: {word}", file.path));
        }
        if let Some(module) = word.strip_prefix("std::") {
            for tree in use_trees(&code, "std") {
                if tree.contains('{') && !lines_with_word(&tree, module).is_empty() {
                    violations.push(format!("{}: {word} in a group of imports", file.path));
                }
            }
        }
    }
    violations
}

/// The reference interpreter is independent only if it shares neither code nor state with what it judges.
pub(crate) fn independence_violations(file: &SourceFile) -> Vec<String> {
    let Lexed { code, .. } = lex(&file.text);
    let mut violations = Vec::new();
    for tree in use_trees(&code, "troupe_core") {
        for module in ["execution", "plan", "*"] {
            let found = if module == "*" {
                tree.contains('*')
            } else {
                !lines_with_word(&tree, module).is_empty()
            };
            if found {
                violations.push(format!("{}: takes {module} of troupe_core", file.path));
            }
        }
    }
    // Through the test that holds it, it could reach anything.
    for tree in use_trees(&code, "crate") {
        if !tree.starts_with("reference") {
            violations.push(format!("{}: reaches out by crate::{tree}", file.path));
        }
    }
    if file.path.ends_with("/reference/mod.rs") && !use_trees(&code, "super").is_empty() {
        violations.push(format!("{}: reaches out by super::", file.path));
    }
    violations
}

/// Lines of `code`, from 1, where `word` stands as a whole word; it may be a path such as `std::fs`.
fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let whole = |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            !before.chars().next_back().is_some_and(is_word) && !after.chars().next().is_some_and(is_word)
        })
    };
    code.lines()
        .enumerate()
        .filter(|(_, line)| whole(line))
        .map(|(index, _)| index + 1)
        .collect()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// What follows `start::` wherever it opens a path: one path, or the whole group in braces.
fn use_trees(code: &str, start: &str) -> Vec<String> {
    let opening = format!("{start}::");
    code.match_indices(&opening)
        .filter(|(at, _)| {
            !code[..*at]
                .chars()
                .next_back()
                .is_some_and(|before| is_word(before) || before == ':')
        })
        .map(|(at, _)| {
            let rest = &code[at + opening.len()..];
            let mut depth = 0_i32;
            let end = rest.find(|character: char| {
                depth += i32::from(character == '{') - i32::from(character == '}');
                depth < 0 || (depth == 0 && !is_word(character) && !matches!(character, ':' | '{' | '}' | '*'))
            });
            rest[..end.unwrap_or(rest.len())].to_owned()
        })
        .collect()
}

const SQL: [&str; 12] = [
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "PRAGMA ",
    "BEGIN IMMEDIATE",
];

pub(crate) fn sql_violations(file: &SourceFile) -> Vec<String> {
    if file.path.starts_with("runtime/backends/") {
        return Vec::new();
    }
    let literals = lex(&file.text).literals;
    let sql = literals
        .iter()
        .filter(|(_, text)| SQL.iter().any(|word| text.trim_start().starts_with(word)));
    sql.map(|(line, text)| format!("{}:{line}: {}", file.path, text.trim()))
        .collect()
}

pub(crate) fn metric_violations(file: &SourceFile) -> Vec<String> {
    if file.path.starts_with("runtime/telemetry/") || file.path.contains("/tests/") {
        return Vec::new();
    }
    let crates: Vec<String> = PLACES.iter().map(|place| place.name.replace('-', "_")).collect();
    let is_metric = |text: &str| {
        text.starts_with("troupe_")
            && text
                .chars()
                .all(|character| character.is_ascii_lowercase() || character == '_')
            && !crates.iter().any(|name| name == text)
    };
    let literals = lex(&file.text).literals;
    let metrics = literals.iter().filter(|(_, text)| is_metric(text));
    metrics
        .map(|(line, text)| format!("{}:{line}: {text}", file.path))
        .collect()
}

pub(crate) fn backend_name_violations(file: &SourceFile) -> Vec<String> {
    if !file.path.starts_with("gateway/src/") || file.path.starts_with("gateway/src/wiring/") {
        return Vec::new();
    }
    let lines = lines_with_word(&lex(&file.text).code, "troupe_backends");
    lines
        .into_iter()
        .map(|line| format!("{}:{line}: troupe_backends", file.path))
        .collect()
}

/// Folders that exist on one machine only.
const MACHINE_FOLDERS: [&str; 4] = ["/home/", "/root/", "/work/", "/Users/"];

pub(crate) fn machine_path_violations(file: &SourceFile) -> Vec<String> {
    let mut violations = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            let absolute = |(at, _): (usize, &str)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|before| before.is_alphanumeric() || "_-./~{}$".contains(before))
            };
            if line.match_indices(folder).any(absolute) {
                violations.push(format!("{}:{}: {folder}", file.path, index + 1));
            }
        }
    }
    violations
}
