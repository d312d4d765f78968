//! What goes to standard output and what to standard error, and in which colours.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, Color};
use owo_colors::{OwoColorize, Stream, Style};
use serde::Serialize;

use super::failure::Failure;

/// How a command speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// Machines read it.
    pub(super) json: bool,
    /// Ids and results only.
    pub(super) quiet: bool,
}

impl Output {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// A line of data.
    pub(super) fn line(&self, text: &str) {
        let mut out = io::stdout().lock();
        let written = out
            .write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush());
        if let Err(error) = written {
            // Whoever read us has seen enough (`troupe ls | head`); anything else would be lost data.
            let enough = error.kind() == io::ErrorKind::BrokenPipe;
            std::process::exit(if enough { 0 } else { 1 });
        }
    }

    /// A value as one line of JSON.
    pub(super) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&json_line(value)?);
        Ok(())
    }

    /// A document: indented for people, one line for machines.
    pub(super) fn document(&self, text: &str) {
        let pretty = io::stdout().is_terminal() && !self.json;
        let indented = || {
            serde_json::from_str(text)
                .ok()
                .and_then(|v: serde_json::Value| serde_json::to_string_pretty(&v).ok())
        };
        match pretty.then(indented).flatten() {
            Some(indented) => self.line(&indented),
            None => self.line(text),
        }
    }

    /// Talk for people.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Talk that even quiet people must hear.
    pub(super) fn warn(&self, text: impl AsRef<str>) {
        // Nobody listens if this fails.
        drop(writeln!(io::stderr().lock(), "{}", text.as_ref()));
    }

    /// Says why the command failed.
    pub(super) fn failure(&self, failure: &Failure) {
        if self.json {
            let error = serde_json::json!({
                "error": {"code": failure.code, "message": failure.message, "hint": failure.hint}
            });
            return self.warn(error.to_string());
        }
        let code = failure.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        self.warn(format!(
            "{}{}: {}",
            paint("error", Style::new().red().bold()),
            code,
            failure.message
        ));
        if let Some(hint) = &failure.hint {
            self.warn(format!("{}: {hint}", paint("hint", Style::new().cyan())));
        }
    }
}

/// A value as JSON without a line break.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(crate::exit::Exit::Failed, error.to_string()))
}

/// Text in a style, if standard error is a terminal that wants colours.
pub(super) fn paint(text: &str, style: Style) -> String {
    text.if_supports_color(Stream::Stderr, |text| text.style(style))
        .to_string()
}

/// Text in a style, if standard output is a terminal that wants colours.
pub(super) fn paint_out(text: &str, style: Style) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.style(style))
        .to_string()
}

/// A status as a cell of a table, which measures its own colours.
pub(super) fn status_cell(status: &str) -> Cell {
    let plain = paint_out("x", Style::new().red()) == "x";
    let colour = match status {
        _ if plain => return Cell::new(status),
        "completed" => Color::Green,
        "failed" => Color::Red,
        "running" => Color::Cyan,
        "canceled" | "skipped" | "paused" => Color::Yellow,
        "set aside" => Color::Red,
        _ => return Cell::new(status),
    };
    Cell::new(status).fg(colour)
}

/// The colour of a status.
pub(super) fn status_style(status: &str) -> Style {
    match status {
        "completed" => Style::new().green(),
        "failed" => Style::new().red(),
        "running" => Style::new().cyan(),
        "canceled" | "skipped" => Style::new().yellow(),
        _ => Style::new().dimmed(),
    }
}

/// A duration for people.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..86_400_000 => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{} d {} h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_read_well() {
        let shown: Vec<_> = [7, 1_500, 61_000, 3_660_000, 90_000_000]
            .into_iter()
            .map(duration)
            .collect();
        assert_eq!(shown, ["7 ms", "1.5 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
