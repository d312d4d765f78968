//! Where each value of a parsed text stands in it.

use super::{Diagnostic, Position};

/// A text and the place of every value in it.
#[derive(Debug)]
pub struct SourceMap {
    text: String,
    spots: Vec<Spot>,
}

/// One value: its offset in the text and its children.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) offset: u32,
    pub(crate) children: Children,
}

/// The children of a value, by index into the spots.
#[derive(Debug)]
pub(crate) enum Children {
    None,
    List(Vec<u32>),
    Fields(Vec<(Box<str>, u32)>),
}

impl SourceMap {
    pub(crate) const fn new(text: String, spots: Vec<Spot>) -> Self {
        Self { text, spots }
    }

    /// Byte offset of the value a pointer names, or of its nearest ancestor that the text holds.
    fn offset(&self, pointer: &str) -> usize {
        let Some(mut spot) = self.spots.first() else {
            return 0;
        };
        for token in pointer.split('/').skip(1) {
            let child = match &spot.children {
                Children::None => None,
                Children::List(items) => token.parse::<usize>().ok().and_then(|index| items.get(index)).copied(),
                Children::Fields(fields) => {
                    let key = token.replace("~1", "/").replace("~0", "~");
                    // The last duplicate is the one that was read.
                    fields
                        .iter()
                        .rev()
                        .find(|(name, _)| **name == *key)
                        .map(|(_, child)| *child)
                }
            };
            match child.and_then(|child| self.spots.get(child as usize)) {
                Some(found) => spot = found,
                None => break,
            }
        }
        spot.offset as usize
    }

    /// Line and column of the value a JSON pointer names, or of its nearest ancestor in the text.
    #[must_use]
    pub fn position(&self, pointer: &str) -> Position {
        let mut position = [Position { line: 1, column: 1 }];
        positions_of(&self.text, &[self.offset(pointer)], &mut position);
        position[0]
    }

    /// Gives a position to every diagnostic that has none, in one pass over the text.
    pub fn locate(&self, diagnostics: &mut [Diagnostic]) {
        let unplaced = diagnostics
            .iter_mut()
            .filter(|diagnostic| diagnostic.position.is_none());
        let mut places: Vec<(usize, &mut Diagnostic)> = unplaced
            .map(|diagnostic| (self.offset(&diagnostic.pointer), diagnostic))
            .collect();
        places.sort_by_key(|(offset, _)| *offset);
        let offsets: Vec<usize> = places.iter().map(|(offset, _)| *offset).collect();
        let mut positions = vec![Position { line: 1, column: 1 }; offsets.len()];
        positions_of(&self.text, &offsets, &mut positions);
        for ((_, diagnostic), position) in places.into_iter().zip(positions) {
            diagnostic.position = Some(position);
        }
    }
}

/// Line and column of one byte offset.
pub(crate) fn position_at(text: &str, offset: usize) -> Position {
    let mut position = [Position { line: 1, column: 1 }];
    positions_of(text, &[offset], &mut position);
    position[0]
}

/// Lines and columns of ascending byte offsets, in one pass.
fn positions_of(text: &str, offsets: &[usize], positions: &mut [Position]) {
    let (mut line, mut column) = (1_u32, 1_u32);
    let mut characters = text.char_indices().peekable();
    for (offset, position) in offsets.iter().zip(positions) {
        while let Some((_, character)) = characters.next_if(|(at, _)| at < offset) {
            if character == '\n' {
                line = line.saturating_add(1);
                column = 1;
            } else {
                column = column.saturating_add(1);
            }
        }
        *position = Position { line, column };
    }
}
