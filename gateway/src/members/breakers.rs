//! Breakers of every member: each opens its own by what it sees itself.

use crate::app::App;
use crate::dto::BreakerDto;
use crate::error::ApiError;

/// Where a member lists its own.
const LIST: &str = "/api/v1/breakers";

/// How unwell a target is.
fn badness(state: &str) -> u8 {
    match state {
        "open" => 2,
        "half-open" => 1,
        _ => 0,
    }
}

/// The breakers of all members by target: the worst state that a member's is in, and what all of them counted.
///
/// # Errors
/// `UNAVAILABLE` when a member does not answer.
pub(crate) async fn list(app: &App, here_only: bool) -> Result<Vec<BreakerDto>, ApiError> {
    let mut all: Vec<BreakerDto> = app.engine.breakers().iter().map(BreakerDto::of).collect();
    let Some(members) = app.members.as_ref().filter(|_| !here_only) else {
        return Ok(all);
    };
    for theirs in members.pages::<BreakerDto>(app, LIST).await? {
        match all.iter_mut().find(|known| known.target == theirs.target) {
            Some(known) => *known = merged(known, theirs),
            None => all.push(theirs),
        }
    }
    all.sort_by(|one, other| one.target.cmp(&other.target));
    Ok(all)
}

fn merged(known: &BreakerDto, theirs: BreakerDto) -> BreakerDto {
    let counted = (
        known.parked + theirs.parked,
        known.calls + theirs.calls,
        known.failed + theirs.failed,
    );
    let place = |breaker: &BreakerDto| (badness(&breaker.state), breaker.since.clone());
    let worst = if place(&theirs) > place(known) {
        theirs
    } else {
        known.clone()
    };
    let (parked, calls, failed) = counted;
    BreakerDto {
        parked,
        calls,
        failed,
        ..worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(state: &str, since: &str, parked: usize) -> BreakerDto {
        BreakerDto {
            target: "http:a".to_owned(),
            state: state.to_owned(),
            held: None,
            since: since.to_owned(),
            until: (state == "open").then(|| "later".to_owned()),
            parked,
            calls: 10,
            failed: 4,
        }
    }

    #[test]
    fn the_worst_state_is_shown_and_all_that_was_counted() {
        let (open, half) = (breaker("open", "1", 3), breaker("half-open", "2", 1));
        for (one, other) in [(&open, &half), (&half, &open)] {
            let merged = merged(one, other.clone());
            assert_eq!(
                (merged.state.as_str(), merged.until.as_deref()),
                ("open", Some("later"))
            );
            assert_eq!((merged.parked, merged.calls, merged.failed), (4, 20, 8));
        }
    }
}
