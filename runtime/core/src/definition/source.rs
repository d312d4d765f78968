//! Where each value of a parsed text stands in it.

use std::collections::HashMap;

use super::{Diagnostic, Position};

/// A text and the place of every value in it.
#[derive(Debug)]
pub struct SourceMap {
    text: String,
    places: Places,
}

#[derive(Debug)]
enum Places {
    /// Found by parsing the text again when asked for.
    Json,
    /// Every value, the outermost first.
    Yaml(Vec<Spot>),
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
    pub(crate) const fn yaml(text: String, spots: Vec<Spot>) -> Self {
        Self {
            text,
            places: Places::Yaml(spots),
        }
    }

    pub(crate) const fn json(text: String) -> Self {
        Self {
            text,
            places: Places::Json,
        }
    }

    /// Line and column of the value a JSON pointer names, or of its nearest ancestor in the text. Reads the whole text:
    /// for many pointers use [`SourceMap::locate`].
    #[must_use]
    pub fn position(&self, pointer: &str) -> Position {
        let offsets = self.offsets(std::iter::once(pointer));
        position_at(&self.text, offsets.first().copied().unwrap_or(0))
    }

    /// Gives a position to every diagnostic that has none, in one pass over the text.
    pub fn locate(&self, diagnostics: &mut [Diagnostic]) {
        let mut unplaced: Vec<&mut Diagnostic> = diagnostics
            .iter_mut()
            .filter(|diagnostic| diagnostic.position.is_none())
            .collect();
        if unplaced.is_empty() {
            return;
        }
        let offsets = self.offsets(unplaced.iter().map(|diagnostic| diagnostic.pointer.as_str()));
        let mut order: Vec<usize> = (0..offsets.len()).collect();
        order.sort_by_key(|&at| offsets[at]);
        let ascending: Vec<usize> = order.iter().map(|&at| offsets[at]).collect();
        let mut positions = vec![Position { line: 1, column: 1 }; ascending.len()];
        positions_of(&self.text, &ascending, &mut positions);
        for (&at, position) in order.iter().zip(positions) {
            unplaced[at].position = Some(position);
        }
    }

    /// Byte offsets of the values that pointers name, or of their nearest ancestors that the text holds.
    fn offsets<'a>(&self, pointers: impl Iterator<Item = &'a str>) -> Vec<usize> {
        match &self.places {
            Places::Json => super::json::offsets(&self.text, pointers),
            Places::Yaml(spots) => {
                let mut fields = HashMap::new();
                pointers
                    .map(|pointer| spot_offset(spots, pointer, &mut fields))
                    .collect()
            }
        }
    }
}

/// Finds a spot; `known` keeps an index of each object on the way.
fn spot_offset<'s>(spots: &'s [Spot], pointer: &str, known: &mut HashMap<usize, HashMap<&'s str, u32>>) -> usize {
    let Some(mut spot) = spots.first() else { return 0 };
    let mut at = 0;
    for token in pointer.split('/').skip(1) {
        let child = match &spot.children {
            Children::None => None,
            Children::List(items) => token.parse::<usize>().ok().and_then(|index| items.get(index)).copied(),
            Children::Fields(fields) => {
                let key = token.replace("~1", "/").replace("~0", "~");
                // Of duplicates the last one was read, and the last one is kept here.
                let index = known
                    .entry(at)
                    .or_insert_with(|| fields.iter().map(|(name, child)| (&**name, *child)).collect());
                index.get(key.as_str()).copied()
            }
        };
        match child.and_then(|child| spots.get(child as usize).map(|spot| (child, spot))) {
            Some((child, found)) => (at, spot) = (child as usize, found),
            None => break,
        }
    }
    spot.offset as usize
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
