//! Business keys: one execution after the other.

use std::collections::{BTreeMap, BTreeSet};

use troupe_core::ExecutionId;
use troupe_core::execution::ExecutionState;

use super::{Evidence, Findings};
use crate::crash::record::Record;

/// Of the executions of a key the next one starts when the last one has ended, and each is told to one client as new.
pub(super) fn are_unique(evidence: &Evidence, findings: &mut Findings) {
    let mut new: BTreeSet<ExecutionId> = BTreeSet::new();
    for record in &evidence.records {
        let Record::KeyedAcked { key, id, existing } = record else {
            continue;
        };
        findings.expect(*existing || new.insert(*id), "C1", || {
            format!("{id}: two starts of {key} were told that it is theirs")
        });
        let known = evidence.executions.get(id);
        findings.expect(known.is_some(), "C1", || {
            format!("acknowledged start of {id} (key {key}) is gone")
        });
        let its_key = known.and_then(|(state, ..)| Some((state.workflow.as_str(), state.execution_key.as_deref()?)));
        let its_key = its_key.map(|(workflow, key)| format!("{workflow}/{key}"));
        findings.expect(known.is_none() || its_key.as_ref() == Some(key), "C1", || {
            format!("{id} was given for {key} and belongs to {its_key:?}")
        });
    }
    let mut runs: BTreeMap<(&str, &str), BTreeMap<u64, &ExecutionState>> = BTreeMap::new();
    for (state, ..) in evidence.executions.values() {
        if let (Some(key), Some(ordinal)) = (&state.execution_key, state.key_ordinal) {
            let key = (state.workflow.as_str(), key.as_str());
            let other = runs.entry(key).or_default().insert(ordinal, state);
            findings.expect(other.is_none(), "C1", || {
                format!("{key:?}: two executions are run {ordinal}")
            });
        }
    }
    for (key, runs) in &runs {
        let numbered = runs.keys().copied().eq(0..runs.len() as u64);
        findings.expect(numbered, "C1", || {
            format!(
                "{key:?}: runs {:?} are not numbered in order",
                runs.keys().collect::<Vec<_>>()
            )
        });
        for ((_, last), (ordinal, next)) in runs.iter().zip(runs.iter().skip(1)) {
            let ended = last.ended_at.is_some_and(|ended_at| ended_at <= next.started_at) || evidence.clocks_jump;
            findings.expect(ended, "C1", || {
                let (from, until) = (next.started_at, last.ended_at);
                format!("{key:?}: run {ordinal} started at {from}, the one before ended at {until:?}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use troupe_core::plan::Plan;
    use troupe_core::{ShardId, Timestamp};

    use crate::crash::workload;

    /// Runs of one key, by ordinal, start and end; each was acknowledged as new.
    fn runs(runs: &[(u64, i64, i64)]) -> Evidence {
        let plan = Arc::new(Plan::build(&workload::definitions()[0]).unwrap());
        let mut evidence = Evidence::default();
        for (number, (ordinal, started_at, ended_at)) in (1..).zip(runs) {
            let id = ExecutionId::fresh(ShardId(0), Timestamp(0), number);
            let mut state = ExecutionState::new(&plan, id);
            state.workflow = "chain".into();
            (state.execution_key, state.key_ordinal) = (Some("key".to_owned()), Some(*ordinal));
            (state.started_at, state.ended_at) = (Timestamp(*started_at), Some(Timestamp(*ended_at)));
            evidence.executions.insert(id, (state, Arc::clone(&plan), Vec::new()));
            let (key, existing) = ("chain/key".to_owned(), false);
            evidence.records.push(Record::KeyedAcked { key, id, existing });
        }
        evidence
    }

    fn found(evidence: &Evidence) -> Vec<String> {
        let mut findings = Findings(Vec::new());
        are_unique(evidence, &mut findings);
        findings.0.into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn runs_that_follow_each_other_are_lawful() {
        let evidence = runs(&[(0, 10, 20), (1, 20, 30), (2, 45, 50)]);
        assert_eq!(found(&evidence), Vec::<String>::new());
    }

    #[test]
    fn overlapping_missing_and_twice_given_runs_are_found() {
        let overlapping = found(&runs(&[(0, 10, 20), (1, 19, 30)]));
        assert!(overlapping[0].contains("started at 19"), "{overlapping:?}");
        let missing = found(&runs(&[(0, 10, 20), (2, 25, 30)]));
        assert!(missing[0].contains("not numbered in order"), "{missing:?}");
        let mut evidence = runs(&[(0, 10, 20)]);
        evidence.records.push(evidence.records[0].clone());
        assert!(found(&evidence)[0].contains("two starts"), "{:?}", found(&evidence));
        evidence.executions.clear();
        assert!(found(&evidence).iter().any(|what| what.contains("is gone")));
    }
}
