//! Cron patterns: five fields, or six with seconds first; `L`, `#`, `W` and names as usual.

use chrono::{DateTime, Utc};
use croner::parser::{CronParser, Seconds, Year};

use crate::error::{LangCode, LangError};
use crate::limits::CRON_BYTES_MAX;

/// Parses a pattern.
///
/// # Errors
/// `CRON_INVALID` for a pattern that does not parse or that no date fits.
pub fn parse(pattern: &str) -> Result<croner::Cron, LangError> {
    let invalid = |message: String| LangError::new(LangCode::CronInvalid, message);
    if pattern.len() > CRON_BYTES_MAX {
        return Err(invalid(format!("cron pattern is longer than {CRON_BYTES_MAX} bytes")));
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    let cron = parser.parse(pattern.trim()).map_err(|error| {
        invalid(format!("not a cron pattern: {error}"))
            .with_hint("five fields: minute, hour, day of month, month, day of week")
    })?;
    // Any start does: a pattern that fires at all does so within eight years of it, leap days included.
    let start = DateTime::<Utc>::UNIX_EPOCH;
    cron.find_next_occurrence(&start, true)
        .map_err(|_| invalid("cron pattern never fires".to_owned()))?;
    Ok(cron)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn accepts_patterns_that_fire() {
        for pattern in [
            "* * * * *",
            "*/5 9-17 * * MON-FRI",
            "0 0 29 2 *",
            "30 0 0 L * *",
            "0 12 * * 5#2",
            "@daily",
            "0 0 15W * *",
        ] {
            assert!(parse(pattern).is_ok(), "{pattern}");
        }
        for pattern in [
            "",
            "* * * *",
            "60 * * * *",
            "0 0 30 2 *",
            "a b c d e",
            "* * * * * * * *",
            "*/0 * * * *",
        ] {
            assert_eq!(parse(pattern).unwrap_err().code.as_str(), "CRON_INVALID", "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_patterns_never_panic(pattern in "[0-9*/,#LW? @a-f-]{0,30}") {
            if let Err(error) = parse(&pattern) {
                prop_assert!(!error.message.is_empty());
            }
        }
    }
}
