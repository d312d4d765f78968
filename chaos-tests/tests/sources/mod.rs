//! Reads the repository's own sources: files as they lie on disk, and Rust code told apart from comments and literals.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
pub(crate) struct SourceFile {
    /// Path from the root, with `/` between folders.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
}

/// Rust source taken apart. Line numbers count from 1.
pub(crate) struct Lexed {
    /// The code without comments, every literal emptied, lines kept.
    pub(crate) code: String,
    /// Line and content of each string literal, escapes left as written.
    pub(crate) literals: Vec<(usize, String)>,
}

const NOT_SOURCES: [&str; 6] = [".git", ".tools", ".troupe", "node_modules", "target", "dist"];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder
        .parent()
        .expect("the crate lies one folder below the root")
        .to_path_buf()
}

/// Every UTF-8 file below `folder` of the repository, in order of path; what is built or fetched is left out.
///
/// # Panics
/// When a folder or file cannot be read: a check that reads nothing would pass.
pub(crate) fn files(folder: &str) -> Vec<SourceFile> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let path = entry.path();
            let kind = entry
                .file_type()
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // In a second worktree `.git` is a file.
            if NOT_SOURCES.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let Ok(text) = String::from_utf8(bytes) else { continue };
                let below = path.strip_prefix(&root).expect("it was found below the root");
                found.push(SourceFile {
                    path: below.to_string_lossy().replace('\\', "/"),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The Rust files of [`files`].
pub(crate) fn rust_files(folder: &str) -> Vec<SourceFile> {
    files(folder)
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .collect()
}

/// Takes Rust source apart.
pub(crate) fn lex(text: &str) -> Lexed {
    let mut lexed = Lexed {
        code: String::with_capacity(text.len()),
        literals: Vec::new(),
    };
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let within_word = lexed.code.chars().next_back().is_some_and(is_word);
        let (taken, literal) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let Some((open, hashes)) = raw_string_start(rest).filter(|_| !within_word) {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = rest[open..].find(&close).map_or(rest.len(), |at| open + at);
            ((end + close.len()).min(rest.len()), Some(&rest[open..end]))
        } else if first == '"' {
            let end = string_end(&rest[1..]) + 1;
            ((end + 1).min(rest.len()), Some(&rest[1..end]))
        } else if let Some(length) = char_literal(rest) {
            (length, Some(""))
        } else {
            lexed.code.push(first);
            line += usize::from(first == '\n');
            rest = &rest[first.len_utf8()..];
            continue;
        };
        match literal {
            Some(content) => {
                lexed.code.push_str("\"\"");
                lexed.literals.push((line, content.to_owned()));
            }
            None => lexed.code.push(' '),
        }
        let lines = rest[..taken].matches('\n').count();
        lexed.code.extend(std::iter::repeat_n('\n', lines));
        line += lines;
        rest = &rest[taken..];
    }
    lexed
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if text[at..].starts_with("*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Offset of the content and number of hashes.
fn raw_string_start(text: &str) -> Option<(usize, usize)> {
    let after = text
        .strip_prefix("br")
        .or_else(|| text.strip_prefix("cr"))
        .or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..]
        .starts_with('"')
        .then(|| (text.len() - after.len() + hashes + 1, hashes))
}

fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    text.len()
}

/// Length of a character literal; none for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let content = text.strip_prefix('\'')?;
    let first = content.chars().next()?;
    if first == '\\' {
        let escaped = 1 + content[1..].chars().next()?.len_utf8();
        return content[escaped..].find('\'').map(|at| 1 + escaped + at + 1);
    }
    content[first.len_utf8()..]
        .starts_with('\'')
        .then(|| 1 + first.len_utf8() + 1)
}
