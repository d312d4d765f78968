//! What a path takes for true about data that nobody knows, so that no path contradicts itself.
//!
//! A set of comparisons of one unknown value with constants can hold together if one of finitely many candidates meets them
//! all: the constants themselves, numbers between and beyond them, and one value of each other type.

use std::collections::BTreeMap;

use serde_json::Value as JsonValue;
use troupe_lang::Comparison;

use crate::symbols::Symbol;

/// Something that data decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Atom {
    /// Whether a value counts as true.
    Truthy(Symbol),
    /// How a value compares with a constant; none is `undefined`.
    Constant(Symbol, Comparison, Option<JsonValue>),
    /// How two values compare.
    Pair(Symbol, Comparison, Symbol),
}

/// How sound data must be for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// Some data gives it.
    Data,
    /// Only data of a type that the comparisons do not expect gives it.
    OddData,
}

/// What is assumed on the way to a state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Assumptions {
    of_one: BTreeMap<Symbol, Vec<Literal>>,
    of_two: BTreeMap<(Symbol, Symbol), Vec<(Comparison, bool)>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Truthy(bool),
    Compares(Comparison, Option<JsonValue>, bool),
}

impl Assumptions {
    /// Which data, besides what is assumed already, gives the atom this truth; none can where it is impossible.
    pub(crate) fn allows(&self, atom: &Atom, truth: bool) -> Option<Needs> {
        match atom {
            Atom::Truthy(symbol) => self.one(*symbol, Literal::Truthy(truth)),
            Atom::Constant(symbol, comparison, constant) => {
                self.one(*symbol, Literal::Compares(*comparison, constant.clone(), truth))
            }
            Atom::Pair(left, comparison, right) if left == right => {
                let holds = Relation::Equal.gives(*comparison);
                (holds == truth).then_some(Needs::Data)
            }
            Atom::Pair(..) => {
                let (pair, comparison) = ordered(atom)?;
                let known = self.of_two.get(&pair).map_or([].as_slice(), Vec::as_slice);
                let literals: Vec<_> = known.iter().copied().chain([(comparison, truth)]).collect();
                let is_ordered = literals.iter().any(|(comparison, _)| is_ordering(*comparison));
                let fits = |relation: &&Relation| literals.iter().all(|(c, truth)| relation.gives(*c) == *truth);
                best(Relation::ALL.iter().filter(fits).map(|relation| match relation {
                    Relation::Less | Relation::Equal | Relation::Greater => Needs::Data,
                    Relation::EqualOddly | Relation::Apart if is_ordered => Needs::OddData,
                    Relation::EqualOddly | Relation::Apart => Needs::Data,
                }))
            }
        }
    }

    /// Takes it for true from here on.
    pub(crate) fn assume(&mut self, atom: &Atom, truth: bool) {
        match atom {
            Atom::Truthy(symbol) => self.add(*symbol, Literal::Truthy(truth)),
            Atom::Constant(symbol, comparison, constant) => {
                self.add(*symbol, Literal::Compares(*comparison, constant.clone(), truth));
            }
            Atom::Pair(..) => {
                let Some((pair, comparison)) = ordered(atom) else {
                    return;
                };
                let literals = self.of_two.entry(pair).or_default();
                if !literals.contains(&(comparison, truth)) {
                    literals.push((comparison, truth));
                    literals.sort_unstable();
                }
            }
        }
    }

    /// Forgets what is about data that is gone.
    pub(crate) fn retain(&mut self, mut lives: impl FnMut(Symbol) -> bool) {
        self.of_one.retain(|symbol, _| lives(*symbol));
        self.of_two.retain(|(left, right), _| lives(*left) && lives(*right));
    }

    /// What is assumed of single values, as texts in an order of their own.
    pub(crate) fn of_one(&self) -> impl Iterator<Item = (Symbol, &[Literal])> {
        self.of_one
            .iter()
            .map(|(symbol, literals)| (*symbol, literals.as_slice()))
    }

    /// What is assumed of pairs.
    pub(crate) fn of_two(&self) -> impl Iterator<Item = ((Symbol, Symbol), &[(Comparison, bool)])> {
        self.of_two.iter().map(|(pair, literals)| (*pair, literals.as_slice()))
    }

    fn add(&mut self, symbol: Symbol, literal: Literal) {
        let literals = self.of_one.entry(symbol).or_default();
        if !literals.contains(&literal) {
            literals.push(literal);
            // The order of questions on the way here makes no other state.
            literals.sort_by_cached_key(|literal| format!("{literal:?}"));
        }
    }

    fn one(&self, symbol: Symbol, new: Literal) -> Option<Needs> {
        let known = self.of_one.get(&symbol).map_or([].as_slice(), Vec::as_slice);
        let literals: Vec<&Literal> = known.iter().chain([&new]).collect();
        let orders = |wanted: fn(&JsonValue) -> bool| {
            literals.iter().any(|literal| match literal {
                Literal::Compares(comparison, constant, _) => {
                    is_ordering(*comparison) && constant.as_ref().is_some_and(wanted)
                }
                Literal::Truthy(_) => false,
            })
        };
        let (numbers, texts) = (orders(JsonValue::is_number), orders(JsonValue::is_string));
        let fits = |candidate: &Candidate| literals.iter().all(|literal| candidate.meets(literal));
        let needs = |candidate: Candidate| {
            let is_odd =
                (numbers && !candidate.is(JsonValue::is_number)) || (texts && !candidate.is(JsonValue::is_string));
            if is_odd { Needs::OddData } else { Needs::Data }
        };
        best(candidates(&literals).into_iter().filter(fits).map(needs))
    }
}

fn best(needs: impl Iterator<Item = Needs>) -> Option<Needs> {
    needs.min()
}

/// The pair in order of its symbols, with the comparison turned round where that swaps them.
fn ordered(atom: &Atom) -> Option<((Symbol, Symbol), Comparison)> {
    let Atom::Pair(left, comparison, right) = atom else {
        return None;
    };
    if left < right {
        return Some(((*left, *right), *comparison));
    }
    Some(((*right, *left), mirrored(*comparison)))
}

/// The comparison with its sides swapped.
pub(crate) fn mirrored(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::LessEqual => Comparison::GreaterEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterEqual => Comparison::LessEqual,
        Comparison::StrictEqual | Comparison::StrictUnequal | Comparison::LooseEqual | Comparison::LooseUnequal => {
            comparison
        }
    }
}

fn is_ordering(comparison: Comparison) -> bool {
    match comparison {
        Comparison::Less | Comparison::LessEqual | Comparison::Greater | Comparison::GreaterEqual => true,
        Comparison::StrictEqual | Comparison::StrictUnequal | Comparison::LooseEqual | Comparison::LooseUnequal => {
            false
        }
    }
}

/// How two values may stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    Equal,
    Greater,
    /// Equal, but of a type without an order.
    EqualOddly,
    /// Neither equal nor in an order.
    Apart,
}

impl Relation {
    const ALL: [Self; 5] = [Self::Less, Self::Equal, Self::Greater, Self::EqualOddly, Self::Apart];

    fn gives(self, comparison: Comparison) -> bool {
        match comparison {
            Comparison::StrictEqual | Comparison::LooseEqual => matches!(self, Self::Equal | Self::EqualOddly),
            Comparison::StrictUnequal | Comparison::LooseUnequal => !matches!(self, Self::Equal | Self::EqualOddly),
            Comparison::Less => self == Self::Less,
            Comparison::LessEqual => matches!(self, Self::Less | Self::Equal),
            Comparison::Greater => self == Self::Greater,
            Comparison::GreaterEqual => matches!(self, Self::Greater | Self::Equal),
        }
    }
}

/// A value that unknown data might have; `undefined` is none.
#[derive(Clone, Debug)]
struct Candidate(Option<JsonValue>);

impl Candidate {
    fn is(&self, kind: fn(&JsonValue) -> bool) -> bool {
        self.0.as_ref().is_some_and(kind)
    }

    fn meets(&self, literal: &Literal) -> bool {
        match literal {
            Literal::Truthy(truth) => self.0.as_ref().is_some_and(troupe_lang::truthy) == *truth,
            Literal::Compares(comparison, constant, truth) => {
                compare(*comparison, self.0.as_ref(), constant.as_ref()) == *truth
            }
        }
    }
}

fn candidates(literals: &[&Literal]) -> Vec<Candidate> {
    let mut numbers = vec![0.0, 1.0];
    let mut found: Vec<Option<JsonValue>> = vec![
        None,
        Some(JsonValue::Null),
        Some(JsonValue::Bool(true)),
        Some(JsonValue::Bool(false)),
        Some(JsonValue::Object(serde_json::Map::new())),
        Some(JsonValue::from("")),
    ];
    for literal in literals {
        let Literal::Compares(_, Some(constant), _) = literal else {
            continue;
        };
        if let Some(number) = constant.as_f64() {
            numbers.push(number);
        }
        if let Some(text) = constant.as_str() {
            // Something right before and right behind it in order, too.
            found.extend([text.to_owned(), format!("{text}~"), format!("~{text}")].map(|text| Some(text.into())));
            let mut before = text.to_owned();
            before.pop();
            found.push(Some(before.into()));
        }
    }
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    let between = numbers.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
    let ends = [numbers[0] - 1.0, numbers[numbers.len() - 1] + 1.0];
    let all: Vec<f64> = numbers.iter().copied().chain(between).chain(ends).collect();
    found.extend(all.into_iter().map(|number| Some(JsonValue::from(number))));
    found.into_iter().map(Candidate).collect()
}

/// Compares as JavaScript does; none is `undefined`. Objects equal nothing.
pub(crate) fn compare(comparison: Comparison, left: Option<&JsonValue>, right: Option<&JsonValue>) -> bool {
    match comparison {
        Comparison::StrictEqual => strictly_equal(left, right),
        Comparison::StrictUnequal => !strictly_equal(left, right),
        Comparison::LooseEqual => loosely_equal(left, right),
        Comparison::LooseUnequal => !loosely_equal(left, right),
        Comparison::Less => less(left, right, false),
        Comparison::LessEqual => less(left, right, true),
        Comparison::Greater => less(right, left, false),
        Comparison::GreaterEqual => less(right, left, true),
    }
}

fn strictly_equal(left: Option<&JsonValue>, right: Option<&JsonValue>) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(JsonValue::Number(left)), Some(JsonValue::Number(right))) => left.as_f64() == right.as_f64(),
        (Some(JsonValue::Object(_) | JsonValue::Array(_)), _) | (_, None) | (None, _) => false,
        (Some(left), Some(right)) => left == right,
    }
}

fn loosely_equal(left: Option<&JsonValue>, right: Option<&JsonValue>) -> bool {
    let is_nothing = |value: Option<&JsonValue>| value.is_none_or(JsonValue::is_null);
    if is_nothing(left) || is_nothing(right) {
        return is_nothing(left) && is_nothing(right);
    }
    match (left, right) {
        (Some(JsonValue::String(left)), Some(JsonValue::String(right))) => left == right,
        (Some(JsonValue::Object(_) | JsonValue::Array(_)), _)
        | (_, Some(JsonValue::Object(_) | JsonValue::Array(_))) => false,
        _ => number(left) == number(right),
    }
}

fn less(left: Option<&JsonValue>, right: Option<&JsonValue>, or_equal: bool) -> bool {
    if let (Some(JsonValue::String(left)), Some(JsonValue::String(right))) = (left, right) {
        return left < right || (or_equal && left == right);
    }
    let (left, right) = (number(left), number(right));
    left < right || (or_equal && left == right)
}

fn number(value: Option<&JsonValue>) -> f64 {
    match value {
        Some(JsonValue::Null) => 0.0,
        Some(JsonValue::Bool(value)) => f64::from(u8::from(*value)),
        Some(JsonValue::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
        Some(JsonValue::String(text)) if text.trim().is_empty() => 0.0,
        Some(JsonValue::String(text)) => text.trim().parse().unwrap_or(f64::NAN),
        Some(JsonValue::Array(_) | JsonValue::Object(_)) | None => f64::NAN,
    }
}
