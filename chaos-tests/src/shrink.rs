//! Makes a failing scenario small: takes out whatever it fails without.

use serde_json::{Map, Value};

use crate::crash::Violation;
use crate::world::scenario::{Act, Scenario};
use crate::world::{Options, drawn, play};

/// Worlds that are played at most.
const PLAYS_MAX: usize = 4_000;
/// Other draws of chance that a smaller scenario is tried with: what was taken out moves every draw behind it.
const DRAWS: u64 = 4;

/// A scenario in which what was seen still is, but for names and numbers, and from which nothing more can be taken out.
#[must_use]
pub fn shrink(scenario: &Scenario, options: Options, seen: &Violation) -> Scenario {
    let wanted = shape(seen);
    let mut smallest = scenario.clone();
    let mut plays = 0;
    loop {
        let before = smallest.clone();
        for cut in [
            cut_clients as fn(&Scenario, usize) -> Option<Scenario>,
            cut_faults,
            cut_operators,
            cut_bus_away,
            cut_acts,
            cut_definitions,
            cut_nodes,
            cut_edges,
            cut_fields,
            cut_size,
        ] {
            let mut place = 0;
            while let Some(smaller) = cut(&smallest, place) {
                let is_other = smaller != smallest && is_fair(&smaller);
                let draws = if is_other { DRAWS } else { 0 };
                match (0..draws).find_map(|draw| {
                    plays += 1;
                    let drawn = Scenario {
                        seed: smaller.seed ^ draw,
                        ..smaller.clone()
                    };
                    breaks(&drawn, options, &wanted).then_some(drawn)
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

fn breaks(scenario: &Scenario, options: Options, wanted: &str) -> bool {
    let violations = play(scenario, options).violations;
    violations.iter().any(|violation| shape(violation) == wanted)
}

/// What a violation says, without the names and numbers that another scenario has others of: a smaller one that breaks the same
/// invariant in another way may have become unlawful.
fn shape(violation: &Violation) -> String {
    let words = violation.what.split_whitespace();
    let words = words.filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    let words: Vec<&str> = words.collect();
    format!("{} {}", violation.invariant, words.join(" "))
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

fn cut_bus_away(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    (place < from.bus_away.len()).then(|| {
        smaller.bus_away.remove(place);
        smaller
    })
}

fn cut_operators(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    (place < from.operators.len()).then(|| {
        smaller.operators.remove(place);
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

/// A drawn definition that no client starts; a child that ran it cannot be started any more.
fn cut_definitions(from: &Scenario, place: usize) -> Option<Scenario> {
    let mut smaller = from.clone();
    let gone = (place < from.definitions.len()).then(|| smaller.definitions.remove(place))?;
    let is_started = from.clients.iter().any(|client| gone["id"] == *client.workflow);
    Some(if is_started { from.clone() } else { smaller })
}

/// A node of a drawn definition with its edges.
fn cut_nodes(from: &Scenario, place: usize) -> Option<Scenario> {
    cut_definition(from, place, |definition, place| {
        let nodes = definition["nodes"].as_array_mut()?;
        let gone = (place < nodes.len()).then(|| nodes.remove(place)["id"].clone())?;
        let edges = definition["edges"].as_array_mut()?;
        edges.retain(|edge| edge["source"] != gone && edge["target"] != gone);
        Some(())
    })
}

fn cut_edges(from: &Scenario, place: usize) -> Option<Scenario> {
    cut_definition(from, place, |definition, place| {
        let edges = definition["edges"].as_array_mut()?;
        (place < edges.len()).then(|| drop(edges.remove(place)))
    })
}

/// A field of a node's data, of an edge or of the settings.
fn cut_fields(from: &Scenario, place: usize) -> Option<Scenario> {
    cut_definition(from, place, |definition, mut left| {
        let settings = definition.get_mut("settings").and_then(Value::as_object_mut);
        if settings.is_some_and(|settings| cut_field(settings, &mut left, &[])) {
            return Some(());
        }
        for node in definition["nodes"].as_array_mut()? {
            if node["data"]
                .as_object_mut()
                .is_some_and(|data| cut_field(data, &mut left, &[]))
            {
                return Some(());
            }
        }
        for edge in definition["edges"].as_array_mut()? {
            let named = ["source", "target", "id"];
            if edge
                .as_object_mut()
                .is_some_and(|edge| cut_field(edge, &mut left, &named))
            {
                return Some(());
            }
        }
        None
    })
}

/// Takes a field out, or one of a field's own if that is an object; otherwise counts down by what there is.
fn cut_field(fields: &mut Map<String, Value>, left: &mut usize, kept: &[&str]) -> bool {
    let names: Vec<String> = fields.keys().cloned().collect();
    for name in names.iter().filter(|name| !kept.contains(&name.as_str())) {
        if *left == 0 {
            fields.shift_remove(name);
            return true;
        }
        *left -= 1;
        let inner = fields.get_mut(name).and_then(Value::as_object_mut);
        if inner.is_some_and(|inner| cut_field(inner, left, &[])) {
            return true;
        }
    }
    false
}

/// Cuts at a place counted over all drawn definitions. What is no definition afterwards stays as it was.
fn cut_definition(from: &Scenario, place: usize, cut: fn(&mut Value, usize) -> Option<()>) -> Option<Scenario> {
    let mut left = place;
    for (number, definition) in from.definitions.iter().enumerate() {
        let cuts = (0..).take_while(|place| cut(&mut definition.clone(), *place).is_some());
        let cuts = cuts.count();
        if left < cuts {
            let mut smaller = from.clone();
            let mut less = definition.clone();
            cut(&mut less, left)?;
            if drawn::is_lawful(&less) {
                smaller.definitions[number] = less;
            }
            return Some(smaller);
        }
        left -= cuts;
    }
    None
}

/// Whether clients leave nothing paused behind: then it would be no wonder that it does not end.
fn is_fair(scenario: &Scenario) -> bool {
    scenario.clients.iter().all(|client| {
        let acts = client.acts.iter().map(|(_, act)| act);
        let paused = acts.fold(false, |paused, act| match act {
            Act::Pause | Act::Freeze => true,
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
