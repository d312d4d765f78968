//! Instants as RFC 3339 text in UTC, to the millisecond.

use chrono::{DateTime, SecondsFormat};
use troupe_core::Timestamp;

/// RFC 3339, as JavaScript's `Date` writes it; milliseconds as they stand where no calendar has the instant.
#[must_use]
pub fn date(at: Timestamp) -> String {
    DateTime::from_timestamp_millis(at.0).map_or_else(
        || at.0.to_string(),
        |date| date.to_rfc3339_opts(SecondsFormat::Millis, true),
    )
}

/// Reads RFC 3339 or epoch milliseconds.
#[must_use]
pub fn instant(text: &str) -> Option<Timestamp> {
    let of_date = || {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|date| Timestamp(date.timestamp_millis()))
    };
    text.parse().ok().map(Timestamp).or_else(of_date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip() {
        let at = Timestamp(1_790_000_000_123);
        assert_eq!(date(at), "2026-09-21T14:13:20.123Z");
        assert_eq!(instant(&date(at)), Some(at));
        assert_eq!(instant("1790000000123"), Some(at));
        assert_eq!(instant("yesterday"), None);
    }
}
