//! The floors of `ARCHITECTURE.md`, held: who may import whom, and what sources must not mention.

mod floors;
mod planted;
mod rules;
#[path = "../sources/mod.rs"]
mod sources;

use floors::{PLACES, floor_violations, metadata};
use rules::{
    backend_name_violations, independence_violations, machine_path_violations, metric_violations, purity_violations,
    sql_violations,
};
use sources::SourceFile;

/// This test holds samples of everything that is forbidden.
fn judged(files: Vec<SourceFile>) -> Vec<SourceFile> {
    files
        .into_iter()
        .filter(|file| !file.path.starts_with("chaos-tests/tests/layering/"))
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
fn the_verifier_is_pure() {
    assert_none(
        "the verifier is pure",
        &sources::rust_files("runtime/verify/src"),
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
        "backends only in gateway/src/wiring",
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
