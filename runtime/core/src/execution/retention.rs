//! How long an execution is kept that has ended.

use crate::plan::PlanSettings;

use super::state::Status;

/// How long the archive of an execution is kept that ended so, in milliseconds: as its workflow says, else `default_ms`. None for
/// one that has not ended.
#[must_use]
pub fn retention_of(status: &Status, settings: &PlanSettings, default_ms: u64) -> Option<u64> {
    let said = match status {
        Status::Completed { .. } => settings.retention_completed_ms,
        Status::Failed | Status::Canceled { .. } => settings.retention_failed_ms,
        Status::Pending
        | Status::Running
        | Status::Failing
        | Status::Canceling { .. }
        | Status::Compensating(_)
        | Status::Reporting => return None,
    };
    Some(said.unwrap_or(default_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::Ending;
    use crate::id::Timestamp;
    use crate::value::Value;

    const DEFAULT_MS: u64 = 7;

    fn ends() -> [Status; 3] {
        [
            Status::Completed { output: Value::null() },
            Status::Failed,
            Status::Canceled { reason: None },
        ]
    }

    fn kept(completed_ms: Option<u64>, failed_ms: Option<u64>) -> [Option<u64>; 3] {
        let settings = PlanSettings {
            retention_completed_ms: completed_ms,
            retention_failed_ms: failed_ms,
            ..PlanSettings::default()
        };
        ends().map(|status| retention_of(&status, &settings, DEFAULT_MS))
    }

    #[test]
    fn what_completed_is_kept_by_one_setting_and_what_failed_or_was_canceled_by_the_other() {
        assert_eq!(kept(Some(1), Some(2)), [Some(1), Some(2), Some(2)]);
        assert_eq!(kept(Some(0), None), [Some(0), Some(7), Some(7)]);
        assert_eq!(kept(None, Some(0)), [Some(7), Some(0), Some(0)]);
        assert_eq!(kept(None, None), [Some(7); 3]);
    }

    #[test]
    fn what_has_not_ended_has_no_retention() {
        let settings = PlanSettings {
            retention_completed_ms: Some(1),
            retention_failed_ms: Some(2),
            ..PlanSettings::default()
        };
        for status in [
            Status::Pending,
            Status::Running,
            Status::Failing,
            Status::Canceling {
                until: Timestamp(0),
                reason: None,
            },
            Status::Compensating(Ending::Failed),
            Status::Reporting,
        ] {
            assert_eq!(retention_of(&status, &settings, DEFAULT_MS), None, "{status:?}");
        }
    }
}
