//! What `troupe top` shows at one time.

use std::collections::BTreeMap;

use comfy_table::{Cell, Table, presets};
use serde::Serialize;
use troupe_ports::{Clock, SystemClock};

use super::figures::{Counts, Figures};
use crate::cli::controls::{state, what};
use crate::cli::ls;
use crate::cli::output::duration;
use crate::dto::{ControlDto, ExecutionSummaryDto, MemberDto, date};

/// Controls that are shown, a line each; `troupe controls` has all.
const CONTROLS_MAX: usize = 5;
/// States of executions that have not ended, in their order on the screen, and what they are called there.
const STATES: [(&str, &str); 4] = [
    ("running", "running"),
    ("waiting", "waiting"),
    ("pending", "pending"),
    ("quarantined", "set aside"),
];
/// What stands where a member could not be asked.
const UNKNOWN: &str = "-";

/// One frame.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frame {
    time: String,
    server: String,
    members: Vec<MemberRow>,
    /// What those members told that could be asked, together.
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
    /// Rates since the look before, of those that told then too.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<Counts<f64>>,
    controls: Vec<ControlDto>,
    /// The latest executions.
    executions: Vec<ExecutionSummaryDto>,
}

/// A member, with what it told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberRow {
    #[serde(flatten)]
    member: MemberDto,
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<Counts<f64>>,
}

impl Frame {
    /// A frame of the server at that address, without members.
    pub(super) fn new(server: String, controls: Vec<ControlDto>, executions: Vec<ExecutionSummaryDto>) -> Self {
        Self {
            time: date(SystemClock.now()),
            server,
            members: Vec::new(),
            figures: None,
            per_second: None,
            controls,
            executions,
        }
    }

    /// Adds what a member told, or the server itself if it has no others.
    pub(super) fn add(&mut self, member: Option<MemberDto>, figures: Option<Figures>, per_second: Option<Counts<f64>>) {
        if let Some(figures) = &figures {
            self.figures.get_or_insert_default().add(figures);
        }
        if let Some(per_second) = &per_second {
            self.per_second.get_or_insert_default().add(per_second);
        }
        self.members.extend(member.map(|member| MemberRow {
            member,
            figures,
            per_second,
        }));
    }

    /// The frame for people. What matters least comes last: a low terminal leaves it out.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![self.head()];
        lines.extend(self.unasked());
        lines.extend(self.totals());
        lines.extend(self.held());
        lines.push(String::new());
        if !self.members.is_empty() {
            lines.extend([self.members(), String::new()]);
        }
        lines.push(if self.executions.is_empty() {
            "no executions".to_owned()
        } else {
            ls::table(&self.executions)
        });
        lines.join("\n")
    }

    fn head(&self) -> String {
        let server = self.server.trim_end_matches('/');
        match self.members.len() {
            0 => line("server", server),
            1 => line("server", &format!("{server}, 1 member")),
            members => line("server", &format!("{server}, {members} members")),
        }
    }

    /// Tells whose figures are missing.
    fn unasked(&self) -> Option<String> {
        let unasked = self.members.iter().filter(|row| row.figures.is_none());
        let unasked: Vec<&str> = unasked.map(|row| row.member.name.as_str()).collect();
        let all = self.members.len();
        let text = match (&self.figures, unasked.as_slice()) {
            (None, _) => "nobody tells any from here: the figures are missing".to_owned(),
            (Some(_), []) => return None,
            (Some(_), unasked) => format!(
                "of {} of {all} members; not to be asked from here: {}",
                all - unasked.len(),
                unasked.join(", ")
            ),
        };
        Some(line("metrics", &text))
    }

    fn totals(&self) -> Vec<String> {
        let Some(Figures { now, counts }) = &self.figures else {
            return Vec::new();
        };
        let rates = self.per_second.as_ref();
        let states = STATES.map(|(state, name)| format!("{name} {}", of(&now.executions, state)));
        let started = number(counts.executions_started, rates.map(|rates| rates.executions_started));
        let ended = each(&counts.executions_ended, rates.map(|rates| &rates.executions_ended));
        let attempts = [
            format!("running {}", now.attempts_running),
            waiting(&now.attempts_waiting),
            each(&counts.attempts_ended, rates.map(|rates| &rates.attempts_ended)),
            format!("retries {}", number(counts.retries, rates.map(|rates| rates.retries))),
        ];
        let fired = number(counts.timers_fired, rates.map(|rates| rates.timers_fired));
        let late = rates.filter(|rates| rates.timers_fired > 0.0);
        let late = late.map(|rates| rates.timers_late_us / rates.timers_fired / 1_000.0);
        let late = late.map(|ms| format!(", {ms:.1} ms late")).unwrap_or_default();
        let outbox = format!(
            "pending {}, {} bytes, the oldest for {}",
            now.outbox_pending,
            now.outbox_bytes,
            duration(now.outbox_lag_ms)
        );
        vec![
            line("executions", &states.join("  ")),
            line("started", &started),
            line("ended", &ended),
            line("attempts", &attempts.join("  ")),
            line("timers", &format!("fired {fired}{late}")),
            line("outbox", &outbox),
        ]
    }

    /// The controls in force, a line each.
    fn held(&self) -> Vec<String> {
        if self.controls.is_empty() {
            return vec![line("controls", "none")];
        }
        let mut lines = Vec::new();
        for control in self.controls.iter().take(CONTROLS_MAX) {
            let mut text = format!("{}: {} since {}", what(control), state(control), control.since);
            if let Some(by) = &control.by {
                text.push_str(&format!(" by {by}"));
            }
            if let Some(reason) = &control.reason {
                text.push_str(&format!(" ({reason})"));
            }
            if control.draining > 0 {
                text.push_str(&format!(", still run: {}", control.draining));
            }
            lines.push(line(if lines.is_empty() { "controls" } else { "" }, &text));
        }
        let more = self.controls.len() - lines.len();
        if more > 0 {
            lines.push(line("", &format!("and {more} more: `troupe controls`")));
        }
        lines
    }

    fn members(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            "MEMBER",
            "STATUS",
            "SHARDS",
            "FORMAT",
            "RUNNING",
            "WAITING",
            "STARTED/S",
            "ENDED/S",
            "OUTBOX",
        ]);
        for row in &self.members {
            let member = &row.member;
            let now = row.figures.as_ref().map(|figures| &figures.now);
            let rates = row.per_second.as_ref();
            let whole = |number: Option<u64>| number.map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string());
            let rate = |rate: Option<f64>| rate.map_or_else(|| UNKNOWN.to_owned(), |rate| format!("{rate:.1}"));
            table.add_row([
                Cell::new(format!(
                    "{}{}",
                    member.name,
                    if member.own { "  (answers)" } else { "" }
                )),
                Cell::new(&member.status),
                Cell::new(member.shards),
                Cell::new(format_of(member)),
                Cell::new(whole(now.map(|now| of(&now.executions, "running")))),
                Cell::new(whole(now.map(|now| of(&now.executions, "waiting")))),
                Cell::new(rate(rates.map(|rates| rates.executions_started))),
                Cell::new(rate(
                    rates.map(|rates| rates.executions_ended.values().fold(0.0, |all, one| all + one)),
                )),
                Cell::new(whole(now.map(|now| now.outbox_pending))),
            ]);
        }
        table.trim_fmt()
    }
}

/// A line that begins with what it is about.
fn line(about: &str, text: &str) -> String {
    format!("{about:<12}{text}")
}

/// The format that a member writes, and the one that its shards hold something of if it is another one.
fn format_of(member: &MemberDto) -> String {
    match member.holds {
        Some(holds) if holds != member.writes => format!("{} (holds {holds})", member.writes),
        Some(_) | None => member.writes.to_string(),
    }
}

fn of(counts: &BTreeMap<String, u64>, label: &str) -> u64 {
    counts.get(label).copied().unwrap_or_default()
}

/// A count and its rate.
fn number(count: u64, rate: Option<f64>) -> String {
    match rate {
        Some(rate) => format!("{count} ({rate:.1}/s)"),
        None => count.to_string(),
    }
}

/// Counts by label, with their rates.
fn each(counts: &BTreeMap<String, u64>, rates: Option<&BTreeMap<String, f64>>) -> String {
    let shown = counts.iter().map(|(label, count)| {
        let rate = rates.and_then(|rates| rates.get(label)).copied();
        format!("{label} {}", number(*count, rate))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() {
        "none yet".to_owned()
    } else {
        shown.join("  ")
    }
}

/// Attempts that wait, and for what.
fn waiting(counts: &BTreeMap<String, u64>) -> String {
    let all: u64 = counts.values().sum();
    let some = counts.iter().filter(|(_, count)| **count > 0);
    let some: Vec<String> = some.map(|(label, count)| format!("{label} {count}")).collect();
    if some.is_empty() {
        format!("waiting {all}")
    } else {
        format!("waiting {all} ({})", some.join(", "))
    }
}
