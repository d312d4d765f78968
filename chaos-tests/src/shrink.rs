//! Makes a failing scenario small: takes out whatever it fails without.

use crate::world::scenario::{Act, Scenario};
use crate::world::{Options, play};

/// Worlds that are played at most.
const PLAYS_MAX: usize = 4_000;
/// Other draws of chance that a smaller scenario is tried with: what was taken out moves every draw behind it.
const DRAWS: u64 = 4;

/// A scenario that still breaks `invariant`, from which nothing more can be taken out.
#[must_use]
pub fn shrink(scenario: &Scenario, options: Options, invariant: &str) -> Scenario {
    let mut smallest = scenario.clone();
    let mut plays = 0;
    loop {
        let before = smallest.clone();
        for cut in [
            cut_clients as fn(&Scenario, usize) -> Option<Scenario>,
            cut_faults,
            cut_acts,
            cut_nodes,
            cut_size,
        ] {
            let mut place = 0;
            while let Some(smaller) = cut(&smallest, place) {
                let draws = if is_fair(&smaller) { DRAWS } else { 0 };
                match (0..draws).find_map(|draw| {
                    plays += 1;
                    let drawn = Scenario {
                        seed: smaller.seed ^ draw,
                        ..smaller.clone()
                    };
                    breaks(&drawn, options, invariant).then_some(drawn)
                }) {
                    Some(failing) => smallest = failing,
                    None => place += 1,
                }
                if plays >= PLAYS_MAX {
                    return smallest;
                }
            }
        }
        if smallest == before {
            return smallest;
        }
    }
}

fn breaks(scenario: &Scenario, options: Options, invariant: &str) -> bool {
    let violations = play(scenario, options).violations;
    violations.iter().any(|violation| violation.invariant == invariant)
}

fn cut_clients(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    (place < from.clients.len() && from.clients.len() > 1).then(|| {
        smaller.clients.remove(place);
        smaller
    })
}

fn cut_faults(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    (place < from.faults.len()).then(|| {
        smaller.faults.remove(place);
        smaller
    })
}

/// Everything that clients do but their first start, one thing after the other.
fn cut_acts(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    let mut left = place;
    for client in &mut smaller.clients {
        let acts = client.acts.len().saturating_sub(1);
        if left < acts {
            client.acts.remove(left + 1);
            return Some(smaller);
        }
        left -= acts;
    }
    None
}

/// A node of a drawn definition with its edges.
fn cut_nodes(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    let mut left = place;
    for definition in &mut smaller.definitions {
        let Some(nodes) = definition["nodes"].as_array_mut() else {
            continue;
        };
        if left < nodes.len() {
            let gone = nodes.remove(left)["id"].clone();
            if let Some(edges) = definition["edges"].as_array_mut() {
                edges.retain(|edge| edge["source"] != gone && edge["target"] != gone);
            }
            return Some(smaller);
        }
        left -= nodes.len();
    }
    None
}

/// Whether clients leave nothing paused behind: then it would be no wonder that it does not end.
fn is_fair(scenario: &Scenario) -> bool {
    scenario.clients.iter().all(|client| {
        let acts = client.acts.iter().map(|(_, act)| act);
        let paused = acts.fold(false, |paused, act| match act {
            Act::Pause => true,
            Act::Resume | Act::Cancel => false,
            _ => paused,
        });
        !paused
    })
}

fn cut_size(from: &Scenario, place: usize) -> Option<Scenario> {
    (place == 0 && from.large).then(|| Scenario {
        large: false,
        ..from.clone()
    })
}
