//! Who may import whom.

use std::collections::BTreeSet;
use std::process::Command;

use serde::Deserialize;

use crate::sources;

/// A crate, its floor, and which crates of the workspace it may import outside its tests.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) floor: u8,
    pub(crate) imports: &'static [&'static str],
}

pub(crate) const PLACES: [Place; 11] = [
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
        name: "troupe-verify",
        floor: 2,
        imports: &["troupe-core", "troupe-lang"],
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
            "troupe-verify",
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
            "troupe-verify",
            "troupe",
        ],
    },
];

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// None for an ordinary dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

pub(crate) fn metadata() -> Metadata {
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

pub(crate) fn floor_violations(metadata: &Metadata) -> Vec<String> {
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
