//! What a world leaves behind, as the checkers want it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use troupe_actors::checkpointer::archive::Unpacked;
use troupe_actors::execution::load::{Loaded, load_over};
use troupe_actors::record::{Mark, read_frames, read_header};
use troupe_core::execution::{AttemptOutcome, Entry, Event, ExecutionState, replay};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, Seq, Timestamp};
use troupe_ports::{ExecutionBase, StateStore};

use super::supersede::SUPERSEDED;
use super::{BEGINNING, FAULTS_MS, HEALED_MS, Outcome, World, at_once, constant, drawn, own, shards};
use crate::crash::witness::number_of;
use crate::crash::{Record, check};

impl World {
    /// Whether everything has come to its end, or had the time to.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.healed {
            return false;
        }
        if self.now.since_ms(BEGINNING) > FAULTS_MS + HEALED_MS {
            return true;
        }
        self.follow_log();
        let serving = self.processes.values().flat_map(|process| process.shards.values());
        let mut clean = serving.map(|serving| {
            !serving.committer.busy
                && serving.checkpointer.machine.is_clean()
                && serving.events.is_idle()
                && serving.lists.is_idle()
        });
        let set_aside = self.processes.values().any(|process| !process.quarantine.is_empty());
        self.open.is_empty()
            && self.clients_are_done()
            && self.unhealthy_since.is_none()
            && !set_aside
            && !self.anything_held()
            && clean.all(|clean| clean)
    }

    /// Reads what was appended meanwhile, to know what is open.
    fn follow_log(&mut self) {
        for shard in shards() {
            let place = usize::from(shard.0);
            for record in self.store.ledger(shard, self.seen[place]) {
                self.seen[place] += 1;
                let Ok((_, items)) = read_header(&record.bytes) else {
                    continue;
                };
                for item in items.into_iter().filter(|item| !item.id.is_controls()) {
                    if item.mark == Mark::Ended {
                        self.open.remove(&item.id);
                    } else {
                        self.open.insert(item.id);
                    }
                }
            }
        }
    }

    pub(super) fn judge(mut self) -> Outcome {
        if let Some(since) = self.unhealthy_since {
            self.trouble(format!("the deployment did not heal; it is broken since {since}"));
            self.evidence.outages.push((since, self.now));
        }
        if !self.clients_are_done() {
            self.trouble("a client was never answered".into());
        }
        self.note_epochs();
        self.note_holds();
        let histories = self.histories();
        let applied_twice: Vec<ExecutionId> = histories
            .iter()
            .filter(|(_, entries)| repeats(entries))
            .map(|(id, _)| *id)
            .collect();
        for id in applied_twice {
            self.record(Record::Repeated { id, applied: true });
        }
        for (id, entries) in histories {
            self.compare_with_store(id, &entries);
            let Some(started) = entries.first().and_then(|entry| entry.event.start()) else {
                self.trouble(format!("{id}: the log has no start of it"));
                continue;
            };
            let plan = Arc::clone(&self.plan(started.workflow.as_str()).plan);
            match self.stored_state(id, &plan, &entries) {
                Ok(state) => drop(self.evidence.executions.insert(id, (state, plan, entries))),
                Err(why) => self.trouble(format!("{id}: {why}")),
            }
        }
        let executions = self.evidence.executions.iter();
        let expired = executions.filter(|(_, (state, ..))| self.may_be_forgotten(state, self.now));
        self.evidence.expired = expired.map(|(id, _)| *id).collect();
        self.note_definitions();
        self.judge_forgotten();
        self.counts.insert("executions", self.evidence.executions.len() as u64);
        let executions = self.evidence.executions.values();
        let is_drawn = |state: &ExecutionState| state.workflow.as_str().starts_with(drawn::PREFIX);
        let drawn = executions.filter(|(state, ..)| is_drawn(state)).count();
        self.counts.insert("drawn executions", drawn as u64);
        self.evidence.listed = Some(self.lists.rows());
        self.evidence.contents = self.store.contents();
        let violations = check(&self.evidence);
        Outcome {
            violations,
            counts: self.counts,
            coverage: self.coverage,
            trace_hash: self.hash,
        }
    }

    /// The definitions of what was run.
    fn note_definitions(&mut self) {
        let executions = self.evidence.executions.values();
        let run = executions.map(|(state, ..)| state.workflow.as_str().split('#').next().unwrap_or_default());
        let run: BTreeSet<&str> = run.collect();
        let constant = constant().filter(|definition| run.contains(definition.id.as_str()));
        let of_scenario = own(&self.scenario).filter(|definition| run.contains(definition.id.as_str()));
        let definitions = constant.map(|definition| (**definition).clone()).chain(of_scenario);
        self.evidence.definitions = definitions
            .map(|definition| (definition.id.clone(), definition))
            .collect();
    }

    /// Who wrote which record: a commit id says under which epoch it was made.
    fn note_epochs(&mut self) {
        for shard in shards() {
            for record in self.store.ledger(shard, 0) {
                let epoch = u64::try_from(record.commit.0 >> 56 & 0xFF_FFFF_FFFF_FFFF).unwrap_or(u64::MAX);
                self.evidence.records.push(Record::Appended {
                    shard: shard.0,
                    epoch,
                    position: record.position.0,
                    commit: number_of(record.commit),
                });
            }
        }
    }

    /// Every entry that ever became durable, by execution, in the order of the log.
    fn histories(&mut self) -> BTreeMap<ExecutionId, Vec<Entry>> {
        let mut histories: BTreeMap<ExecutionId, Vec<Entry>> = BTreeMap::new();
        for shard in shards() {
            for record in self.store.ledger(shard, 0) {
                let items = match read_header(&record.bytes) {
                    Ok((_, items)) => items,
                    Err(error) => {
                        self.trouble(format!("record {}: {error}", record.position));
                        continue;
                    }
                };
                let (mut superseded, mut begun) = (0, 0);
                for item in items {
                    if item.id.is_controls() {
                        self.note_control(shard, &record.bytes[item.frame]);
                        continue;
                    }
                    for entry in read_frames(&record.bytes[item.frame]) {
                        match entry {
                            Ok(entry) => {
                                superseded += usize::from(is_superseded(&entry.event));
                                begun +=
                                    usize::from(entry.event.start().is_some_and(|start| start.key_ordinal.is_some()));
                                histories.entry(item.id).or_default().push(entry);
                            }
                            Err(error) => self.trouble(format!("{}: {error}", item.id)),
                        }
                    }
                }
                if superseded > begun {
                    let position = record.position;
                    self.trouble(format!(
                        "record {position} ends {superseded} executions for {begun} that begin"
                    ));
                }
            }
        }
        histories
    }

    /// What checkpoints made of an execution: everything is in the store by now. Of one that was forgotten, what its entries say.
    fn stored_state(&mut self, id: ExecutionId, plan: &Plan, entries: &[Entry]) -> Result<ExecutionState, String> {
        match at_once(load_over(&self.context, id, None)) {
            Ok(Loaded::Found(found)) => Ok(found.state),
            Ok(Loaded::Missing) => Err("no checkpoint holds it".into()),
            Ok(Loaded::Tombstone(last)) => {
                let mut state = ExecutionState::new(plan, id);
                for entry in entries {
                    replay(plan, &mut state, entry).map_err(|error| format!("entry {}: {error}", entry.seq))?;
                }
                if state.seq != last || !self.may_be_forgotten(&state, self.now) {
                    return Err(format!("it was forgotten at entry {last}, and stands at {}", state.seq));
                }
                self.evidence.forgotten.insert(id);
                Ok(state)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn may_be_forgotten(&self, state: &ExecutionState, at: Timestamp) -> bool {
        let retention_ms = self.context.options.retention_ms;
        state.ended_at.is_some_and(|ended| ended.plus_ms(retention_ms) <= at)
    }

    /// Nobody was told that something is not there that was.
    fn judge_forgotten(&mut self) {
        for (id, at) in std::mem::take(&mut self.forgotten) {
            let state = self.evidence.executions.get(&id).map(|(state, ..)| state);
            if !state.is_some_and(|state| self.may_be_forgotten(state, at)) {
                self.trouble(format!("{id}: not found at {at}"));
            }
        }
    }

    /// Segments and archive together hold what the log held.
    fn compare_with_store(&mut self, id: ExecutionId, entries: &[Entry]) {
        let base = at_once(self.store.load(id));
        let frames = match base {
            Ok(Some(ExecutionBase::Live { segments, .. })) => segments,
            Ok(Some(ExecutionBase::Ended(archive, mut segments))) => match Unpacked::read(&archive.bytes) {
                Ok(unpacked) => {
                    segments.push((archive.last, unpacked.frames));
                    segments
                }
                Err(error) => return self.trouble(format!("{id}: {error}")),
            },
            Ok(Some(ExecutionBase::Tombstone { .. })) => return,
            other => return self.trouble(format!("{id}: the store has {other:?}")),
        };
        let mut next = Seq(1);
        let mut kept = Vec::with_capacity(entries.len());
        for (_, segment) in frames {
            for entry in read_frames(&segment).filter_map(Result::ok) {
                if entry.seq == next {
                    next = next.next();
                    kept.push(entry);
                }
            }
        }
        if kept != entries {
            self.trouble(format!(
                "{id}: the store keeps {} entries of {}",
                kept.len(),
                entries.len()
            ));
        }
    }
}

/// Whether it ends an execution so that the next one of its key can begin.
fn is_superseded(event: &Event) -> bool {
    matches!(event, Event::CancelRequested { reason: Some(why), at_once: true, .. } if why == SUPERSEDED)
}

/// Whether a report that was made once was applied more than once: every one is unlike any other.
fn repeats(entries: &[Entry]) -> bool {
    let mut seen = BTreeSet::new();
    let reports = entries.iter().filter_map(|entry| match &entry.event {
        Event::AttemptClosed(closed) => match &closed.outcome {
            AttemptOutcome::Completed(output) => Some(format!("{output:?}")),
            AttemptOutcome::Failed(failure) if failure.error.code == "FLAKY" => Some(failure.error.message.clone()),
            AttemptOutcome::Failed(_) => None,
        },
        _ => None,
    });
    reports.into_iter().any(|report| !seen.insert(report))
}
