//! What is deployed names metrics that exist.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use troupe_telemetry::catalogue::METRICS;

fn names(text: &str) -> BTreeSet<&str> {
    let word = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
    let words = text.split(word).filter(|word| word.starts_with("troupe_"));
    let histogram = |word: &'_ str| ["_bucket", "_sum", "_count"].iter().any(|end| word.ends_with(end));
    words
        .map(|word| {
            if histogram(word) {
                word.rsplit_once('_').map_or(word, |(name, _)| name)
            } else {
                word
            }
        })
        .collect()
}

fn unknown(text: &str) -> Vec<&str> {
    let known: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    names(text).difference(&known).copied().collect()
}

#[test]
fn alert_rules_name_metrics_that_exist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let rules = fs::read_to_string(folder.join("alerts.yml")).unwrap();
    assert!(names(&rules).len() >= 4, "{:?}", names(&rules));
    assert_eq!(unknown(&rules), Vec::<&str>::new());
    assert_eq!(
        unknown("rate(troupe_comit_seconds_bucket[5m]) + troupe_retries_total"),
        ["troupe_comit_seconds"]
    );
}
