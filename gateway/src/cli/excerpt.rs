//! The few lines around a place in a text, cut to what a terminal shows: a definition may be one line of many megabytes.

use std::ops::Range;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use troupe_core::definition::Position;

/// Characters of the line before the place that are shown.
const BEFORE_CHARS: usize = 60;
/// Characters of a line shown from the place on, and of the lines around it.
const AFTER_CHARS: usize = 100;
const CUT: char = '…';

/// A text and where its lines begin, found once for all problems in it.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(after.map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The line with this index, from 0, without its end; empty where there is none.
    fn line(&self, index: usize) -> &'a str {
        let Some(&start) = self.starts.get(index) else {
            return "";
        };
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        self.text[start..end].trim_end_matches('\r')
    }
}

/// Text around one place, with the word at the place marked.
pub(super) struct Excerpt {
    name: String,
    text: String,
    first_line: usize,
    place: Position,
    marked: Range<usize>,
}

impl Excerpt {
    pub(super) fn new(name: &str, lines: &Lines<'_>, place: Position) -> Self {
        let index = (place.line.max(1) - 1) as usize;
        let first_line = index.saturating_sub(1);
        let mut text = String::new();
        let mut marked = 0..0;
        for number in first_line..=index + 1 {
            if number >= lines.starts.len() {
                break;
            }
            let line = lines.line(number);
            if number > first_line {
                text.push('\n');
            }
            if number == index {
                let at = byte_of(line, (place.column.max(1) - 1) as usize);
                marked = show_around(&mut text, line, at);
            } else {
                push_cut(&mut text, line, AFTER_CHARS);
            }
        }
        Self {
            name: name.to_owned(),
            text,
            first_line,
            place,
            marked,
        }
    }

    /// The marked word, in bytes of the excerpt.
    pub(super) fn span(&self) -> SourceSpan {
        (self.marked.start, self.marked.len()).into()
    }
}

impl SourceCode for Excerpt {
    // The renderer asks without context for the place that it names, and with context for what it shows.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (range, line, column) = if before == 0 {
            let range = span.offset()..span.offset() + span.len();
            let at = |number: u32| (number.max(1) - 1) as usize;
            (range, at(self.place.line), at(self.place.column))
        } else {
            (0..self.text.len(), self.first_line, 0)
        };
        let data = self.text.get(range.clone()).ok_or(MietteError::OutOfBounds)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            data.as_bytes(),
            (range.start, range.len()).into(),
            line,
            column,
            data.lines().count(),
        )))
    }
}

/// Appends what is shown of a line around byte `at`, and tells where the word at it is.
fn show_around(text: &mut String, line: &str, at: usize) -> Range<usize> {
    let from = line[..at]
        .char_indices()
        .rev()
        .take(BEFORE_CHARS)
        .last()
        .map_or(at, |(from, _)| from);
    if from > 0 {
        text.push(CUT);
    }
    push_cut(text, &line[from..at], BEFORE_CHARS);
    let start = text.len();
    let rest = line[at..].trim_end();
    let word = &rest[..word_bytes(rest)];
    push_cut(text, word, AFTER_CHARS);
    let end = text.len();
    if !text.ends_with(CUT) {
        let left = AFTER_CHARS.saturating_sub(word.chars().count());
        push_cut(text, &rest[word.len()..], left);
    }
    start..end
}

/// Length of the word, text or bracket that a text begins with.
fn word_bytes(rest: &str) -> usize {
    match rest.chars().next() {
        Some('"') => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
        Some('{' | '[') => 1,
        Some(first) => rest.find([',', '}', ']']).unwrap_or(rest.len()).max(first.len_utf8()),
        None => 0,
    }
}

fn byte_of(line: &str, characters: usize) -> usize {
    line.char_indices().nth(characters).map_or(line.len(), |(at, _)| at)
}

/// Appends at most so many characters; what would act on the terminal is shown as the replacement character.
fn push_cut(text: &mut String, part: &str, chars_max: usize) {
    let mut rest = part.chars();
    for character in rest.by_ref().take(chars_max) {
        let acts = character.is_control() && character != '\t';
        text.push(if acts { char::REPLACEMENT_CHARACTER } else { character });
    }
    if rest.next().is_some() {
        text.push(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, line: u32, column: u32) -> Excerpt {
        Excerpt::new("f", &Lines::of(text), Position { line, column })
    }

    fn marked(text: &str, line: u32, column: u32) -> String {
        let excerpt = excerpt(text, line, column);
        excerpt.text[excerpt.marked].to_owned()
    }

    #[test]
    fn the_word_at_the_place_is_marked() {
        let text = "{\n  \"é\": \"wörd\", \"n\": 12 }";
        assert_eq!(marked(text, 2, 8), "\"wörd\"");
        assert_eq!(marked(text, 2, 21), "12 ");
        assert_eq!(marked(text, 1, 1), "{");
        assert_eq!(marked("é", 1, 1), "é");
        assert_eq!(marked("}", 1, 1), "}");
        assert_eq!(marked(text, 9, 9), "");
        assert_eq!(marked("", 1, 1), "");
    }

    #[test]
    fn long_lines_are_cut_on_both_sides_of_the_place() {
        let text = format!("{}é,\"{}\"", "a".repeat(1_000_000), "b".repeat(1_000_000));
        let excerpt = excerpt(&text, 1, 1_000_001);
        assert!(excerpt.text.chars().count() < 200, "{}", excerpt.text.len());
        assert!(excerpt.text.starts_with("…aaa") && excerpt.text.ends_with("bbb…"));
        assert_eq!(&excerpt.text[excerpt.marked], "é");
        let word = marked(&text, 1, 1_000_003);
        assert!(word.chars().count() == AFTER_CHARS + 1 && word.ends_with(CUT), "{word}");
    }

    #[test]
    fn neighbours_are_shown_and_cut_too() {
        let text = format!("x\n{}\r\n bad\n{}\nz", "a".repeat(500), "b".repeat(500));
        let shown = excerpt(&text, 3, 2);
        let lines: Vec<&str> = shown.text.lines().collect();
        assert_eq!((lines.len(), lines[1], shown.first_line), (3, " bad", 1));
        assert!(lines.iter().all(|line| line.chars().count() <= AFTER_CHARS + 1));
        assert_eq!(excerpt("only", 1, 1).text, "only");
    }

    #[test]
    fn nothing_in_a_text_acts_on_the_terminal() {
        let text = "a\u{1b}[2J\0\tb";
        assert_eq!(excerpt(text, 1, 1).text, "a\u{fffd}[2J\u{fffd}\tb");
    }
}
