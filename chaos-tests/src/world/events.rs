//! The event sink's shell, and the bus at the other end: it takes some events, all or none, and confirms or not.

use bytes::Bytes;
use troupe_actors::record::{read_frames, read_header};
use troupe_actors::sinks::gather::{CallLimits, Next, Unsent};
use troupe_actors::sinks::spool::{SpoolIndex, SpooledRecord, pack, unpack};
use troupe_core::lifecycle::{self, LifecycleEvent};
use troupe_core::{FormatRange, LogPosition, ShardId, StateFormat};
use troupe_ports::{StateStore, StoreError};

use super::process::{ProcessNo, SinkMessage};
use super::schedule::{Call, Caller, Timed};
use super::services::Offered;
use super::{World, at_once};
use crate::crash::Record;
use crate::crash::record::Sighting;

/// Name of the cursor.
pub(super) const SINK: &str = "events";
/// Records after which the cursor is saved: few, so that it often is.
pub(super) const SAVE_AFTER: u64 = 12;
/// What one call of the bus takes along: little, so that much is left for the next one.
pub(super) const CALL: CallLimits = CallLimits {
    entries_max: 4,
    bytes_max: 2_048,
};
/// Time after which it is saved.
const SAVE_EVERY_MS: u64 = 60;
/// Records that may wait for the sink before it is told to read the log instead: few, so that it often does.
const BACKLOG_MAX: usize = 5;
/// Bytes of log read at once: few, so that it reads in pieces.
const READ_BYTES: usize = 512;
/// Records that may wait in the log before a checkpoint moves them to the spool: few, so that it often does.
const SPOOL_ABOVE: u64 = 6;
/// Bytes of log that become one chunk.
const SPOOL_BYTES: usize = 2_048;
/// Pause before a failed publish or read is repeated.
const RETRY_MS: u64 = 25;

impl World {
    /// Tells the sink of a record, or that it is behind.
    pub(super) fn offer_events(&mut self, caller: Caller, position: LogPosition, record: Bytes) {
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        sink.committed = position;
        if sink.held < BACKLOG_MAX {
            sink.held += 1;
            sink.inbox.push_back(SinkMessage::Committed(position, record));
        } else if !std::mem::replace(&mut sink.behind, true) {
            sink.inbox.push_back(SinkMessage::Behind);
            self.count("sinks behind");
        }
    }

    pub(super) fn events_step(&mut self, process: ProcessNo, shard: ShardId) {
        let Some((caller, serving)) = self.caller(process, shard) else {
            return;
        };
        let sink = &mut serving.events;
        match sink.inbox.pop_front() {
            None => return,
            Some(SinkMessage::Committed(position, record)) => {
                if sink.machine.offered(unsent(position, Offered::Held(record))).is_some() {
                    sink.held -= 1;
                }
            }
            Some(SinkMessage::Behind) => {
                sink.behind = false;
                sink.machine.behind();
            }
            Some(SinkMessage::Send) => {
                sink.armed = false;
                self.send_gathered(caller);
            }
            Some(SinkMessage::Save) => {
                sink.saving = false;
                self.save_cursor(caller);
            }
            Some(SinkMessage::Checkpointed(reached)) => self.make_room(caller, reached),
        }
        self.arm_sink(caller);
    }

    /// What is left to do is done behind what arrives until then.
    fn arm_sink(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        if !sink.busy && !sink.armed && (sink.sending.is_some() || sink.machine.has_more()) {
            sink.armed = true;
            sink.inbox.push_back(SinkMessage::Send);
        }
        if sink.machine.cursor().unsaved().is_some() && !std::mem::replace(&mut sink.saving, true) {
            self.after(SAVE_EVERY_MS, Timed::SinkTick(caller));
        }
    }

    fn send_gathered(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        if serving.events.sending.is_none() {
            match serving.events.machine.next_step() {
                Next::Nothing => return,
                Next::Send(records) => self.begin_call(caller, records),
                Next::Read(from) => return self.read_on(caller, from),
            }
        }
        self.publish(caller);
    }

    /// Looks into the store, where what the spool holds is in doubt; false when it does not answer.
    fn settle_spool(&mut self, caller: Caller, sent: LogPosition) -> bool {
        let is_doubtful = self.serving(caller).is_some_and(|serving| serving.events.doubtful);
        if !is_doubtful {
            return true;
        }
        if !self.reaches(caller.process) {
            return false;
        }
        let Ok(extent) = at_once(self.store.spool_extent(caller.shard, SINK)) else {
            return false;
        };
        self.count("spools in doubt");
        if let Some(serving) = self.serving(caller) {
            let sink = &mut serving.events;
            sink.spool = SpoolIndex::new(extent);
            sink.spool.sent(sent);
            sink.doubtful = false;
        }
        true
    }

    fn read_on(&mut self, caller: Caller, from: LogPosition) {
        let Some(read) = self.read_once(caller, from) else {
            return;
        };
        let begins_later = |read: &[Unsent<Offered>]| read.first().is_some_and(|first| first.position > from);
        let read = match read {
            Ok(read) if begins_later(&read) => {
                self.count("logs that begin later");
                if let Some(serving) = self.serving(caller) {
                    serving.events.doubtful = true;
                }
                match self.read_once(caller, from) {
                    Some(read) => read,
                    None => return,
                }
            }
            read => read,
        };
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        match read {
            Ok(records) => sink.machine.read(records),
            Err(_) => {
                sink.machine.behind();
                self.send_again(caller);
            }
        }
    }

    /// What the spool or the log has from there on; none: the store is asked again later.
    fn read_once(&mut self, caller: Caller, from: LogPosition) -> Option<Result<Vec<Unsent<Offered>>, StoreError>> {
        if !self.settle_spool(caller, LogPosition(from.0.saturating_sub(1))) {
            if let Some(serving) = self.serving(caller) {
                serving.events.machine.behind();
            }
            self.send_again(caller);
            return None;
        }
        let serving = self.serving(caller)?;
        let is_spooled = serving.events.spool.end().is_some_and(|end| from <= end);
        let reachable = self.reaches(caller.process);
        self.store.set_reachable(reachable);
        let read = if is_spooled {
            let after = LogPosition(from.0.saturating_sub(1));
            at_once(self.store.spooled(caller.shard, SINK, after, READ_BYTES)).map(|chunks| {
                let records = chunks.into_iter().flat_map(|chunk| {
                    let mut records = unpack(FormatRange::RELEASE, &chunk.bytes).unwrap_or_default();
                    // What is lost of a chunk must not keep what comes behind it.
                    if records.last().is_none_or(|last| last.position < chunk.up_to) {
                        records.push(SpooledRecord {
                            position: chunk.up_to,
                            events: Vec::new(),
                            controls: Vec::new(),
                        });
                    }
                    records
                });
                let records = records.filter(|record| record.position >= from);
                records
                    .map(|record| unsent(record.position, Offered::Spooled(record.events)))
                    .collect()
            })
        } else {
            at_once(self.store.read(caller.shard, from, READ_BYTES)).map(|records| {
                let records = records.into_iter();
                records
                    .map(|record| unsent(record.position, Offered::Read(record.bytes)))
                    .collect::<Vec<_>>()
            })
        };
        self.store.set_reachable(true);
        if is_spooled && read.is_ok() {
            self.count("spools read");
        }
        Some(read)
    }

    /// What the log keeps too much of for the sink goes to its spool, a chunk at a time.
    fn make_room(&mut self, caller: Caller, reached: LogPosition) {
        let Some(serving) = self.serving(caller) else { return };
        let sent = serving.events.machine.cursor().position();
        if !self.settle_spool(caller, sent) {
            return;
        }
        let Some(serving) = self.serving(caller) else { return };
        let sink = &serving.events;
        let from = sink.spool.end().map_or(sent, |end| end.max(sent));
        if sink.committed.0.saturating_sub(from.0) <= SPOOL_ABOVE || from >= reached {
            return;
        }
        let reachable = self.reaches(caller.process);
        self.store.set_reachable(reachable);
        let read = at_once(self.store.read(caller.shard, from.next(), SPOOL_BYTES));
        self.store.set_reachable(true);
        let records = read.unwrap_or_default().into_iter();
        let records: Vec<_> = records.take_while(|record| record.position <= reached).collect();
        let Some(up_to) = records.last().map(|record| record.position) else {
            return;
        };
        let mut spooled = Vec::with_capacity(records.len());
        for record in records {
            spooled.push(SpooledRecord {
                position: record.position,
                events: self.derived(&record.bytes),
                controls: Vec::new(),
            });
        }
        if self.options.mutants.spools_nothing {
            spooled.clear();
        }
        let Ok(chunk) = pack(StateFormat::FIRST, &spooled) else {
            return self.trouble("a chunk of a spool cannot be packed".to_owned());
        };
        let Some(serving) = self.serving(caller) else { return };
        serving.events.busy = true;
        self.call(caller, Call::Spool { up_to, chunk, reached });
    }

    pub(super) fn spooled(
        &mut self,
        caller: Caller,
        (up_to, bytes, reached): (LogPosition, u64, LogPosition),
        spooled: Result<(), StoreError>,
    ) {
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        sink.busy = false;
        if spooled.is_ok() {
            sink.spool.add(up_to, bytes);
            sink.inbox.push_front(SinkMessage::Checkpointed(reached));
            self.count("spooled");
        } else {
            sink.doubtful = true;
        }
        self.arm_sink(caller);
    }

    fn derived(&mut self, record: &[u8]) -> Vec<LifecycleEvent> {
        let mut events = Vec::new();
        let items = read_header(record).map(|(_, items)| items).unwrap_or_default();
        // What is done to controls is announced, which nobody here hears.
        for item in items.into_iter().filter(|item| !item.id.is_controls()) {
            let Some(workflow) = self.workflows.get(&item.id) else {
                self.trouble(format!("{}: an entry of something that nobody started", item.id));
                continue;
            };
            let compiled = self.plan(workflow);
            for entry in read_frames(&record[item.frame]).filter_map(Result::ok) {
                events.extend(lifecycle::derive(&compiled.plan, item.id, &entry));
            }
        }
        events
    }

    fn send_again(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        serving.events.armed = true;
        self.after(RETRY_MS, Timed::SinkRetry(caller));
    }

    /// Derives the events of records that go in one call.
    fn begin_call(&mut self, caller: Caller, records: Vec<Unsent<Offered>>) {
        let mut events = Vec::new();
        if records.len() > 1 {
            self.count("records sent together");
        }
        let (mut held, mut last) = (0, None);
        for Unsent { position, content, .. } in records {
            last = Some(position);
            let derived = match content {
                Offered::Held(record) => {
                    held += 1;
                    self.derived(&record)
                }
                Offered::Read(record) => self.derived(&record),
                Offered::Spooled(events) => events,
            };
            events.extend(derived.iter().map(Sighting::of));
        }
        let early = self.options.mutants.cursor_before_confirm;
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        sink.held -= held;
        let Some(position) = last else { return };
        sink.sending = Some((position, events));
        if early {
            sink.machine.sent(position);
            self.call(caller, Call::SetCursor(position));
        }
    }

    fn bus_is_there(&self) -> bool {
        let mut away = self.scenario.bus_away.iter();
        let since_ms = self.now.since_ms(super::BEGINNING);
        !away.any(|(from_ms, lasts_ms)| (*from_ms..from_ms + lasts_ms).contains(&since_ms))
    }

    fn publish(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        let Some((_, events)) = serving.events.sending.clone() else {
            return;
        };
        serving.events.busy = true;
        serving.events.publishing = true;
        if events.is_empty() {
            return self.confirmed(caller, true);
        }
        let fate = match (self.healed, self.bus_is_there()) {
            (true, _) => u64::MAX,
            (false, true) => self.random.below(10),
            (false, false) => 0,
        };
        let (heard, confirmed) = match fate {
            0 => (0, false),
            1 => (self.random.place(events.len()), false),
            2 => (events.len(), false),
            _ => (events.len(), true),
        };
        if !self.healed && !self.bus_is_there() {
            self.count("publishes without a bus");
        } else if !confirmed {
            self.count("unconfirmed publishes");
        }
        let travel_ms = self.random.below(4);
        let events = events[..heard].to_vec();
        self.after(
            travel_ms,
            Timed::Publish {
                caller,
                events,
                confirmed,
            },
        );
    }

    pub(super) fn publish_arrives(&mut self, caller: Caller, events: Vec<Sighting>, confirmed: bool) {
        if !events.is_empty() {
            *self.counts.entry("events published").or_default() += events.len() as u64;
            self.record(Record::Published { events });
        }
        let travel_ms = self.random.below(3);
        self.after(travel_ms, Timed::Confirmed(caller, confirmed));
    }

    pub(super) fn confirmed(&mut self, caller: Caller, confirmed: bool) {
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        (sink.busy, sink.publishing) = (false, false);
        if !confirmed {
            return self.send_again(caller);
        }
        let Some((position, _)) = sink.sending.take() else {
            return;
        };
        sink.spool.sent(position);
        if sink.machine.sent(position) {
            self.save_cursor(caller);
        }
        self.arm_sink(caller);
    }

    fn save_cursor(&mut self, caller: Caller) {
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        if let Some(position) = sink.machine.cursor().unsaved() {
            sink.busy = true;
            self.call(caller, Call::SetCursor(position));
        }
    }

    pub(super) fn cursor_set(&mut self, caller: Caller, to: LogPosition, set: Result<(), StoreError>) {
        let Some(serving) = self.serving(caller) else { return };
        let sink = &mut serving.events;
        // What the planted fault saves on the side, nobody waits for.
        sink.busy = sink.publishing;
        if set.is_ok() {
            sink.machine.saved(to);
            self.count("cursors saved");
        }
        self.arm_sink(caller);
    }

    pub(super) fn sink_retry(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            serving.events.inbox.push_back(SinkMessage::Send);
        }
    }

    pub(super) fn sink_tick(&mut self, caller: Caller) {
        if let Some(serving) = self.serving(caller) {
            serving.events.inbox.push_back(SinkMessage::Save);
        }
    }
}

fn unsent(position: LogPosition, content: Offered) -> Unsent<Offered> {
    let bytes = match &content {
        Offered::Held(record) | Offered::Read(record) => record.len(),
        Offered::Spooled(events) => events.iter().map(|event| event.data.bytes()).sum(),
    };
    Unsent {
        position,
        entries: 1,
        bytes,
        alone: false,
        content,
    }
}
