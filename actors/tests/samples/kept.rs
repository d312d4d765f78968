//! Samples as files: each a list of byte strings in hexadecimal digits, with an empty line between two of them.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use troupe_core::StateFormat;

/// The format that the samples are of.
pub(crate) const FORMAT: StateFormat = StateFormat::FIRST;
/// Every sample.
pub(crate) const NAMES: [&str; 8] = [
    "archive",
    "controls",
    "embedded",
    "names",
    "record",
    "segment",
    "snapshots",
    "spool",
];
/// Those of which more is written by now than by the release that kept them: a field has come that older releases pass over.
const GROWN: [&str; 0] = [];
/// Has samples kept that are missing.
const WRITES: &str = "TROUPE_WRITE_SAMPLES";
const COMMAND: &str = "TROUPE_WRITE_SAMPLES=1 cargo test -p troupe-actors --test samples";
/// Bytes of a line.
const LINE_BYTES: usize = 48;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/samples/format-{FORMAT}"))
}

/// The byte strings of a sample. Where there is no such file, and that is asked for, it is `today` that is kept from now on.
pub(crate) fn kept(name: &str, today: &[Bytes]) -> Vec<Bytes> {
    assert!(NAMES.contains(&name), "`{name}` is not listed in NAMES");
    let path = folder().join(format!("{name}.hex"));
    if std::env::var_os(WRITES).is_some() {
        keep(&path, today);
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "the sample {} cannot be read: {error}. If it is new, `{COMMAND}` makes it; if it was lost, take it from the history",
            path.display()
        )
    });
    let kept: Vec<Bytes> = text.split("\n\n").map(bytes_of).collect();
    assert_eq!(kept.len(), today.len(), "byte strings of `{name}`");
    kept
}

/// A file that is there is never written.
fn keep(path: &Path, today: &[Bytes]) {
    fs::create_dir_all(folder()).unwrap();
    match File::create_new(path) {
        Ok(mut file) => file.write_all(text_of(today).as_bytes()).unwrap(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => panic!("the sample {} cannot be kept: {error}", path.display()),
    }
}

/// Checks that today's bytes are those of the sample.
pub(crate) fn assert_written(name: &str, kept: &[Bytes], today: &[Bytes]) {
    if GROWN.contains(&name) {
        return;
    }
    for (place, (kept, today)) in kept.iter().zip(today).enumerate() {
        let same = kept.iter().zip(today).take_while(|(kept, today)| kept == today).count();
        assert!(
            kept == today,
            "byte string {place} of `{name}` is written otherwise from byte {same} on ({} bytes, kept are {}). Releases of this \
             format must read it: either what is new is a field that they pass over (then list `{name}` in GROWN, and keep a \
             further sample that has the field), or it is another format (ADR 0037)",
            today.len(),
            kept.len(),
        );
    }
}

fn text_of(strings: &[Bytes]) -> String {
    let lines = |bytes: &Bytes| bytes.chunks(LINE_BYTES).map(digits_of).collect::<Vec<_>>().join("\n");
    strings.iter().map(lines).collect::<Vec<_>>().join("\n\n") + "\n"
}

fn digits_of(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap();
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.collect()
}

fn bytes_of(text: &str) -> Bytes {
    let digits: Vec<u32> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).expect("a sample has hexadecimal digits"))
        .collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect();
    bytes.into()
}

#[test]
fn byte_strings_come_back_from_their_text() {
    let strings = [Bytes::from((0..=255).collect::<Vec<u8>>()), Bytes::from_static(&[0])];
    let read: Vec<Bytes> = text_of(&strings).split("\n\n").map(bytes_of).collect();
    assert_eq!(read, strings);
}

/// One that is no longer read would protect nothing. Where there is no folder, each sample says that it is missing.
#[test]
fn every_file_is_a_sample() {
    for file in fs::read_dir(folder()).into_iter().flatten() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let is_listed = name.strip_suffix(".hex").is_some_and(|name| NAMES.contains(&name));
        assert!(is_listed, "{name} is no sample");
    }
}
