//! Bytes as a release has written them, kept for those that come after it (ADR 0037): today's decoders read them as what they
//! were, and today's encoders write the same bytes where nothing but us decides about them.
//!
//! Samples are never changed: what they were made of is written down beside them. A field that comes to be in what is sampled is left
//! at its default there, and a further sample has it. A further format has a folder of its own, with all that it has; this one stays as
//! long as a release reads the format.
#![allow(clippy::unwrap_used)]

#[path = "samples/controls.rs"]
mod controls;
#[path = "samples/events.rs"]
mod events;
#[path = "samples/kept.rs"]
mod kept;
#[path = "samples/spool.rs"]
mod spool;
#[path = "samples/states.rs"]
mod states;
#[path = "samples/store.rs"]
mod store;
#[path = "samples/story.rs"]
mod story;
#[path = "samples/values.rs"]
mod values;

use bytes::Bytes;
use kept::{FORMAT, assert_written, kept};
use story::Story;
use troupe_actors::blobs::reference;
use troupe_actors::checkpointer::archive::{Packer, Unpacked};
use troupe_actors::controls::{ControlsMachine, fold};
use troupe_actors::execution::machine::encode_state;
use troupe_actors::format::{snapshot_of, state_of};
use troupe_actors::record::{
    Mark, RecordItem, RecordWriter, format_of_record, read_frames, read_frames_of, read_header,
};
use troupe_actors::{RESUME_SECRET_BYTES, ResumeLinks};
use troupe_core::control::ControlEntry;
use troupe_core::execution::{Entry, ExecutionState, replay};
use troupe_core::plan::Plan;
use troupe_core::{ExecutionId, FormatRange, KeySpace, ShardId};
use troupe_ports::{CommitId, ExecutionBase, Wait};
use values::{AT, SHARD, id, json};

const READS: FormatRange = FormatRange::RELEASE;
const COMMIT: CommitId = CommitId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

/// A record of entries and controls, with the places of the items.
fn record(entries: &[(ExecutionId, Entry, Mark)], controls: &[ControlEntry]) -> (Bytes, Vec<RecordItem>) {
    let mut writer = RecordWriter::default();
    writer.begin(FORMAT);
    for (id, entry, mark) in entries {
        writer.push(*id, entry, *mark);
    }
    for entry in controls {
        writer.push_control(SHARD, entry);
    }
    writer.finish(COMMIT)
}

/// As a checkpoint has entries in a segment, and an archive.
fn frames(entries: &[Entry]) -> Bytes {
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| (id(1), entry.clone(), Mark::Running))
        .collect();
    let (record, items) = record(&entries, &[]);
    record.slice(items[0].frame.start..)
}

fn decoded(state: &[u8], plan: &Plan) -> ExecutionState {
    let mut state: ExecutionState = minicbor::decode(state).unwrap();
    state.reindex(plan);
    state
}

#[test]
fn a_record_and_its_entries_are_read() {
    let marks = [
        Mark::Running,
        Mark::Until(AT.plus_ms(60_000)),
        Mark::Message,
        Mark::Ended,
    ];
    let entries = events::entries().into_iter().zip(marks.into_iter().cycle());
    let entries: Vec<_> = entries
        .map(|(entry, mark)| (id(entry.seq.0 % 3), entry, mark))
        .collect();
    let controls = controls::entries();
    let today = [record(&entries, &controls).0];
    let kept = kept("record", &today);

    assert_eq!(format_of_record(&kept[0]), Some(FORMAT));
    let (commit, items) = read_header(&kept[0]).unwrap();
    assert_eq!((commit, items.len()), (COMMIT, entries.len() + controls.len()));
    let (of_entries, of_controls) = items.split_at(entries.len());
    for (item, (id, entry, mark)) in of_entries.iter().zip(&entries) {
        let header = (item.id, item.seq, item.mark, item.reopens);
        assert_eq!(header, (*id, entry.seq, *mark, entry.reopens()));
        let read: Result<Vec<_>, _> = read_frames(&kept[0][item.frame.clone()]).collect();
        assert_eq!(read, Ok(vec![entry.clone()]));
    }
    for (item, entry) in of_controls.iter().zip(&controls) {
        let header = (item.id, item.seq, item.mark, item.reopens);
        assert_eq!(header, (ExecutionId::controls(SHARD), entry.seq, Mark::Message, false));
        let read: Result<Vec<_>, _> = read_frames_of::<ControlEntry>(&kept[0][item.frame.clone()]).collect();
        assert_eq!(read, Ok(vec![entry.clone()]));
    }
    assert!(items.iter().any(|item| item.reopens));
    assert_written("record", &kept, &today);
}

#[test]
fn a_history_is_read_and_leads_where_it_led() {
    let story = Story::told();
    let today = [frames(&story.entries)];
    let kept = kept("segment", &today);
    let read: Result<Vec<Entry>, _> = read_frames(&kept[0]).collect();
    let read = read.unwrap();
    assert_eq!(read, story.entries);
    let mut state = ExecutionState::new(&story.plan, story.state.id);
    for entry in &read {
        let replayed = replay(&story.plan, &mut state, entry);
        assert!(replayed.is_ok(), "{replayed:?}: {:?}", entry.event);
    }
    assert_eq!(state, story.state);
    assert_written("segment", &kept, &today);
}

#[test]
fn snapshots_are_read() {
    let story = Story::told();
    let plan = states::plan();
    let told = story.under_way.iter().map(|state| (&story.plan, state.clone()));
    let made = states::all(&plan).into_iter().map(|state| (&plan, state));
    let states: Vec<_> = told.chain(made).collect();
    let today: Vec<Bytes> = states
        .iter()
        .map(|(_, state)| snapshot_of(&encode_state(state), FORMAT))
        .collect();
    let kept = kept("snapshots", &today);
    for (snapshot, (plan, state)) in kept.iter().zip(&states) {
        assert_eq!(&decoded(&state_of(snapshot, READS).unwrap(), plan), state);
    }
    assert_written("snapshots", &kept, &today);
}

/// Compressed as the library likes: what was compressed is compared.
#[test]
fn an_archive_is_read() {
    let story = Story::told();
    let (state, frames) = (encode_state(&story.state), frames(&story.entries));
    let mut packer = Packer::new().unwrap().writing(FORMAT);
    let today = [packer.pack(&state, std::iter::once(&frames)).unwrap()];
    let kept = kept("archive", &today);
    assert_eq!(kept[0][0], FORMAT.0);
    let unpacked = Unpacked::read_as(READS, &kept[0]).unwrap();
    assert_eq!(decoded(&unpacked.state, &story.plan), story.state);
    assert_eq!(unpacked.entries().unwrap(), story.entries);
    assert_written("archive", &[unpacked.state, unpacked.frames], &[state, frames]);
}

#[test]
fn controls_are_read() {
    let controls = controls::set();
    let today = [snapshot_of(&ControlsMachine::new(controls.clone()).encoded(), FORMAT)];
    let kept = kept("controls", &today);
    let base = ExecutionBase::Live {
        snapshot: Some((controls.seq(), kept[0].clone())),
        segments: Vec::new(),
        wait: Wait::Message,
    };
    assert_eq!(fold(READS, Some(base), None).unwrap(), controls);
    assert_written("controls", &kept, &today);
}

/// What stands compressed behind a format and a length.
fn raw(packed: &[u8]) -> Bytes {
    let (length, compressed) = packed[1..].split_first_chunk::<4>().unwrap();
    let length = u32::from_le_bytes(*length) as usize;
    zstd::bulk::decompress(compressed, length).unwrap().into()
}

/// Compressed as the library likes: what was compressed is compared.
#[test]
fn a_chunk_of_a_spool_is_read() {
    use troupe_actors::sinks::spool::{format_of, pack, unpack};

    let records = spool::records();
    let today = [pack(FORMAT, &records).unwrap()];
    let kept = kept("spool", &today);
    assert_eq!(format_of(&kept[0]), Some(FORMAT));
    assert_eq!(unpack(READS, &kept[0]).unwrap(), records);
    assert_eq!(format_of(&today[0]), Some(FORMAT));
    assert_written("spool", &[raw(&kept[0])], &[raw(&today[0])]);
}

/// Whoever comes with a key, a value or a link of last year means what was meant then.
#[test]
fn names_are_derived_as_ever() {
    let links = ResumeLinks::new("https://troupe.test/r/", &[7; RESUME_SECRET_BYTES]);
    let ids = [
        id(1),
        ExecutionId::derived(32, KeySpace::Request, "orders", "request-7", 0),
        ExecutionId::derived(32, KeySpace::Business, "orders", "order-7", 0),
        ExecutionId::derived(32, KeySpace::Business, "orders", "order-7", 4),
        ExecutionId::of_child(id(1), "pack", 2),
        ExecutionId::controls(ShardId(258)),
    ];
    let mut today: Vec<Bytes> = ids.iter().map(|id| Bytes::copy_from_slice(&id.0)).collect();
    today.push(Bytes::copy_from_slice(&reference(&json(r#"{"a":1}"#)).hash));
    today.push(links.url(id(1), "approve").into());
    let kept = kept("names", &today);
    assert_written("names", &kept, &today);
    let link = str::from_utf8(&kept[7]).unwrap();
    let token = link.strip_prefix("https://troupe.test/r/").unwrap();
    assert_eq!(links.read(token), Some((id(1), "approve".to_owned())));
}

/// Files are not compared: they hold the time, and a name that was drawn.
#[tokio::test]
async fn an_embedded_store_is_read() {
    let today = store::files().await;
    store::check(&today).await;
    store::check(&kept("embedded", &today)).await;
}
