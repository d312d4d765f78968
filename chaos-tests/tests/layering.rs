//! The floors of `ARCHITECTURE.md`, held: who may import whom, and what sources must not mention.
//!
//! Each check is a function over given text, so that the tests at the end can show it go red.

mod sources;

use std::collections::BTreeSet;
use std::process::Command;

use serde::Deserialize;
use sources::{Lexed, SourceFile, lex};

/// A crate, its floor, and which crates of the workspace it may import outside its tests.
struct Place {
    name: &'static str,
    floor: u8,
    imports: &'static [&'static str],
}

const PLACES: [Place; 10] = [
    Place {
        name: "troupe-core",
        floor: 0,
        imports: &[],
    },
    Place {
        name: "troupe-config",
        floor: 0,
        imports: &[],
    },
    Place {
        name: "troupe-telemetry",
        floor: 0,
        imports: &[],
    },
    Place {
        name: "troupe-lang",
        floor: 1,
        imports: &["troupe-core"],
    },
    Place {
        name: "troupe-ports",
        floor: 1,
        imports: &["troupe-core"],
    },
    Place {
        name: "troupe-backends",
        floor: 2,
        imports: &[
            "troupe-core",
            "troupe-config",
            "troupe-telemetry",
            "troupe-lang",
            "troupe-ports",
        ],
    },
    Place {
        name: "troupe-executors",
        floor: 2,
        imports: &[
            "troupe-core",
            "troupe-config",
            "troupe-telemetry",
            "troupe-lang",
            "troupe-ports",
        ],
    },
    Place {
        name: "troupe-actors",
        floor: 2,
        imports: &["troupe-core", "troupe-telemetry", "troupe-lang", "troupe-ports"],
    },
    Place {
        name: "troupe",
        floor: 3,
        imports: &[
            "troupe-core",
            "troupe-config",
            "troupe-telemetry",
            "troupe-lang",
            "troupe-ports",
            "troupe-backends",
            "troupe-executors",
            "troupe-actors",
        ],
    },
    Place {
        name: "troupe-chaos",
        floor: 4,
        imports: &[
            "troupe-core",
            "troupe-config",
            "troupe-telemetry",
            "troupe-lang",
            "troupe-ports",
            "troupe-backends",
            "troupe-executors",
            "troupe-actors",
            "troupe",
        ],
    },
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
}

fn metadata() -> Metadata {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(sources::root())
        .output()
        .expect("cargo runs, since it started this test");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints its documented format")
}

fn floor_violations(metadata: &Metadata) -> Vec<String> {
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut violations = Vec::new();
    for package in &metadata.packages {
        let Some(place) = PLACES.iter().find(|place| place.name == package.name) else {
            violations.push(format!(
                "{} has no floor: give it one here and in ARCHITECTURE.md",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let shipped = dependency.kind.as_deref() != Some("dev");
            let name = dependency.name.as_str();
            if shipped && members.contains(name) && !place.imports.contains(&name) {
                violations.push(format!("{} (floor {}) imports {name}", place.name, place.floor));
            }
        }
    }
    violations
}

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

fn purity_violations(file: &SourceFile) -> Vec<String> {
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
fn independence_violations(file: &SourceFile) -> Vec<String> {
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

fn sql_violations(file: &SourceFile) -> Vec<String> {
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

fn metric_violations(file: &SourceFile) -> Vec<String> {
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

fn backend_name_violations(file: &SourceFile) -> Vec<String> {
    if !file.path.starts_with("gateway/src/") || file.path == "gateway/src/wiring.rs" {
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

fn machine_path_violations(file: &SourceFile) -> Vec<String> {
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

/// This test holds samples of everything that is forbidden.
fn judged(files: Vec<SourceFile>) -> Vec<SourceFile> {
    files
        .into_iter()
        .filter(|file| file.path != "chaos-tests/tests/layering.rs")
        .collect()
}

fn assert_none(rule: &str, files: &[SourceFile], check: impl Fn(&SourceFile) -> Vec<String>) {
    assert!(!files.is_empty(), "{rule}: found nothing to judge");
    let violations: Vec<String> = files.iter().flat_map(check).collect();
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}

#[test]
fn crates_import_downward_only() {
    let violations = floor_violations(&metadata());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_table_of_floors_is_downward_itself() {
    for place in &PLACES {
        for import in place.imports {
            let floor = PLACES
                .iter()
                .find(|other| other.name == *import)
                .map(|other| other.floor);
            assert!(
                floor.is_some_and(|floor| floor < place.floor),
                "{} -> {import}",
                place.name
            );
        }
    }
}

#[test]
fn the_core_is_pure() {
    assert_none(
        "the core is pure",
        &sources::rust_files("runtime/core/src"),
        purity_violations,
    );
}

#[test]
fn the_reference_interpreter_is_independent() {
    let files = sources::rust_files("runtime/core/tests/reference");
    assert_none(
        "the reference shares nothing with the core it judges",
        &files,
        independence_violations,
    );
}

#[test]
fn sql_stays_in_the_backends() {
    assert_none(
        "SQL only in runtime/backends",
        &judged(sources::rust_files(".")),
        sql_violations,
    );
}

#[test]
fn metrics_are_named_in_telemetry_only() {
    assert_none(
        "metric names only in runtime/telemetry",
        &judged(sources::rust_files(".")),
        metric_violations,
    );
}

#[test]
fn only_the_wiring_names_backends() {
    assert_none(
        "backends only in wiring.rs",
        &sources::rust_files("gateway/src"),
        backend_name_violations,
    );
}

#[test]
fn no_file_knows_a_machine() {
    assert_none(
        "no paths of one machine",
        &judged(sources::files(".")),
        machine_path_violations,
    );
}

/// Each check goes red on a planted violation, and stays green on its nearest lawful neighbour.
mod planted {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies.iter().map(|(name, kind)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(str::to_owned),
        });
        Package {
            name: name.to_owned(),
            dependencies: dependencies.collect(),
        }
    }

    #[test]
    fn floors() {
        let packages = |core: &[(&str, Option<&str>)], actors: &[(&str, Option<&str>)]| Metadata {
            packages: vec![
                package("troupe-core", core),
                package("troupe-actors", actors),
                package("troupe-backends", &[]),
            ],
        };
        let lawful = packages(
            &[("serde", None)],
            &[("troupe-core", None), ("troupe-backends", Some("dev"))],
        );
        assert!(floor_violations(&lawful).is_empty());
        let upward = packages(&[("troupe-actors", None)], &[]);
        assert_eq!(
            floor_violations(&upward),
            ["troupe-core (floor 0) imports troupe-actors"]
        );
        let sibling = packages(&[], &[("troupe-backends", Some("build"))]);
        assert_eq!(
            floor_violations(&sibling),
            ["troupe-actors (floor 2) imports troupe-backends"]
        );
        let unknown = Metadata {
            packages: vec![package("troupe-utils", &[])],
        };
        assert_eq!(floor_violations(&unknown).len(), 1);
    }

    #[test]
    fn purity() {
        let lawful =
            "//! Knows no tokio.\n/* std::fs */ const A: &str = \"SystemTime\"; struct Instantly; use std::fmt;";
        assert!(purity_violations(&file("core.rs", lawful)).is_empty());
        for unlawful in [
            "use std::time::SystemTime;",
            "let at = std::time::Instant::now();",
            "tokio::spawn(async {});",
            "use std::{fmt, fs};",
            "use std::{\n  fmt,\n  net::IpAddr,\n};",
            "let x = rand::random();",
            "let c = '\"'; std::fs::read(path)",
            "let r = r#\"a \" b\"#; std::env::var(\"HOME\")",
        ] {
            assert!(!purity_violations(&file("core.rs", unlawful)).is_empty(), "{unlawful}");
        }
    }

    #[test]
    fn independence() {
        let lawful =
            "use troupe_core::definition::Definition;\nuse crate::reference::model::Model;\nlet plan = 1; // plan::x";
        assert!(independence_violations(&file("runtime/core/tests/reference/join.rs", lawful)).is_empty());
        for unlawful in [
            "use troupe_core::execution::Status;",
            "use troupe_core::{definition, plan::Plan};",
            "use troupe_core::*;",
            "fn of(x: &troupe_core::plan::Plan) {}",
            "use crate::harness::Plan;",
            "use super::Plan;",
        ] {
            let found = independence_violations(&file("runtime/core/tests/reference/mod.rs", unlawful));
            assert!(!found.is_empty(), "{unlawful}");
        }
    }

    #[test]
    fn sql() {
        let unlawful = "fn f() { run(\"\n  SELECT id FROM log\"); }";
        assert_eq!(
            sql_violations(&file("actors/src/a.rs", unlawful)),
            ["actors/src/a.rs:1: SELECT id FROM log"]
        );
        assert!(sql_violations(&file("runtime/backends/src/a.rs", unlawful)).is_empty());
        assert!(sql_violations(&file("actors/src/a.rs", "// \"SELECT 1\"\n\"SELECTED\"")).is_empty());
    }

    #[test]
    fn metrics() {
        let unlawful = "counter!(\"troupe_retries_total\")";
        assert_eq!(
            metric_violations(&file("actors/src/a.rs", unlawful)),
            ["actors/src/a.rs:1: troupe_retries_total"]
        );
        assert!(metric_violations(&file("runtime/telemetry/src/a.rs", unlawful)).is_empty());
        assert!(metric_violations(&file("actors/src/a.rs", "\"troupe_core\" \"troupe.execution.v1\"")).is_empty());
    }

    #[test]
    fn backends() {
        let unlawful = "use troupe_backends::embedded::Embedded;";
        assert_eq!(
            backend_name_violations(&file("gateway/src/cli/run.rs", unlawful)).len(),
            1
        );
        assert!(backend_name_violations(&file("gateway/src/wiring.rs", unlawful)).is_empty());
    }

    #[test]
    fn machine_paths() {
        for unlawful in ["cd /work/main", "\"/root/.cargo\"", "(/home/ann/x)", "/Users/ann"] {
            assert_eq!(
                machine_path_violations(&file("README.md", unlawful)).len(),
                1,
                "{unlawful}"
            );
        }
        for lawful in [
            "api/v1/work/items",
            "https://example.com/home/",
            "~/work/",
            "$HOME/work/x",
        ] {
            assert!(
                machine_path_violations(&file("README.md", lawful)).is_empty(),
                "{lawful}"
            );
        }
    }
}
