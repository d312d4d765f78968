//! What reaches the event broker during a run, and how late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use troupe_telemetry::Exposition;

use super::measure::round;
use super::{BenchError, Events};
use crate::app::App;

/// How often it is looked whether everything has arrived.
const LOOK: Duration = Duration::from_millis(5);
/// How long nothing may arrive before a run is given up.
const STUCK: Duration = Duration::from_secs(60);
/// Begins the lines that tell how late events of the broker were.
const BUCKETS: &str = "troupe_publish_seconds_bucket{bus=\"rabbitmq\",le=\"";

/// Where lags are counted; none where no broker is asked for.
pub(super) fn exposition(wanted: bool) -> Result<Option<Arc<Exposition>>, BenchError> {
    let installed = wanted.then(Exposition::install).transpose();
    let installed = installed.map_err(|error| BenchError::Setup(error.to_string()))?;
    Ok(installed.map(Arc::new))
}

/// Events and messages that were confirmed so far.
pub(super) fn confirmed(app: &App) -> (u64, u64) {
    app.broker.as_ref().map_or((0, 0), |broker| broker.confirmed())
}

/// Waits until the broker has everything that was committed since `begun`.
pub(super) async fn drained(
    app: &App,
    begun: Instant,
    (events, messages): (u64, u64),
) -> Result<Option<Events>, BenchError> {
    if app.broker.is_none() {
        return Ok(None);
    }
    let (mut last, mut moved_at) = (0, Instant::now());
    while app.engine.status().backlog.bytes > 0 {
        let now = confirmed(app).0;
        if now > last {
            (last, moved_at) = (now, Instant::now());
        } else if moved_at.elapsed() > STUCK {
            return Err(BenchError::Stuck {
                seconds: STUCK.as_secs(),
                what: "the event broker".to_owned(),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (all_events, all_messages) = confirmed(app);
    let text = app.exposition.as_ref().map(|exposition| exposition.render());
    Ok(Some(Events {
        confirmed: all_events - events,
        messages: all_messages - messages,
        seconds: round(seconds),
        lag_p99_within_ms: round(p99_bound(&text.unwrap_or_default()) * 1_000.0),
    }))
}

/// The bound of the first bucket that holds 99 of 100, in seconds.
fn p99_bound(text: &str) -> f64 {
    let buckets = text.lines().filter_map(|line| {
        let (bound, count) = line.strip_prefix(BUCKETS)?.split_once("\"} ")?;
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().ok()?
        };
        Some((bound, count.parse::<u64>().ok()?))
    });
    let buckets: Vec<(f64, u64)> = buckets.collect();
    let all = buckets.last().map_or(0, |(_, count)| *count);
    let enough = buckets.iter().find(|(_, count)| count * 100 >= all * 99);
    enough.map_or(0.0, |(bound, _)| *bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_the_bucket_with_ninety_nine_of_a_hundred() {
        let line = |bound: &str, count: u64| format!("{BUCKETS}{bound}\"}} {count}\n");
        let text = [line("0.01", 50), line("0.1", 99), line("1", 100), line("+Inf", 100)].concat();
        assert!((p99_bound(&text) - 0.1).abs() < f64::EPSILON);
        assert!((p99_bound(&text.replace("0.1\"} 99", "0.1\"} 98")) - 1.0).abs() < f64::EPSILON);
    }
}
