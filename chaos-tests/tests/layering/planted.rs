//! Each check goes red on a planted violation, and stays green on its nearest lawful neighbour.

use crate::floors::{Dependency, Metadata, Package, floor_violations};
use crate::rules::{
    backend_name_violations, independence_violations, machine_path_violations, metric_violations, purity_violations,
    sql_violations,
};
use crate::sources::SourceFile;

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
    let lawful = "//! Knows no tokio.\n/* std::fs */ const A: &str = \"SystemTime\"; struct Instantly; use std::fmt;";
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
    assert!(backend_name_violations(&file("gateway/src/wiring/stores.rs", unlawful)).is_empty());
}

#[test]
fn machine_paths() {
    for unlawful in ["cd /home/ci/build", "\"/root/.cargo\"", "(/home/ann/x)", "/Users/ann"] {
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
