//! Memory, CPU time and percentiles.

use std::fs;

use super::Latency;

/// Clock ticks a second in `/proc`: fixed in the kernel's interface (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory of this process.
pub(super) fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// User and system time of this process and of its children, living and waited for.
pub(super) fn cpu_seconds() -> f64 {
    let own = std::process::id();
    let mut ticks = stat("/proc/self/stat").map_or(0, |stat| stat.own + stat.waited_for);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path().join("stat");
        if let Some(child) = stat(&path.to_string_lossy()).filter(|child| child.parent == own) {
            ticks += child.own + child.waited_for;
        }
    }
    ticks as f64 / TICKS_PER_SECOND
}

struct Stat {
    parent: u32,
    own: u64,
    waited_for: u64,
}

fn stat(path: &str) -> Option<Stat> {
    let text = fs::read_to_string(path).ok()?;
    parse_stat(&text)
}

/// Fields of proc(5) `stat`, counted after the command's closing parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        waited_for: number(13)? + number(14)?,
    })
}

/// Percentiles by nearest rank.
pub(super) fn latency(mut samples_ms: Vec<f64>) -> Latency {
    samples_ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * samples_ms.len() as f64).ceil() as usize;
        round(samples_ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0))
    };
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: at(1.0),
    }
}

/// To three digits after the point: more would pretend.
pub(super) fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let latency = latency((1..=100).rev().map(f64::from).collect());
        assert_eq!(
            (latency.p50, latency.p90, latency.p99, latency.max),
            (50.0, 90.0, 99.0, 100.0)
        );
    }

    #[test]
    fn a_command_with_blanks_and_parentheses_does_not_shift_fields() {
        let stat = parse_stat("7 (a) b) S 3 7 7 0 -1 0 1 2 3 4 50 60 7 8 20 0 1 0 9").unwrap();
        assert_eq!((stat.parent, stat.own, stat.waited_for), (3, 110, 15));
        assert!(rss_bytes() > 1 << 20);
    }
}
