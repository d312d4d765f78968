//! What expressions see, and what they give when part of it is unknown.

use serde_json::Value as JsonValue;
use troupe_core::execution::Scope;
use troupe_core::{Json, Value, Visit};
use troupe_lang::{Binding, Comparison, MemberAccess, Names, Outline, Record, ScopePath, Uses};

use crate::assumptions::{Assumptions, Atom, compare, mirrored};
use crate::symbols::{Origin, Symbol, Symbols, is_known};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Term {
    Undefined,
    /// Known, though parts of it may be marked as unknown.
    Known(JsonValue),
    Unknown(Symbol),
}

/// Something is looked up on nothing: the expression throws whatever the data is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Missing {
    /// What is not there.
    pub(crate) base: String,
    /// What is looked up on it.
    pub(crate) member: String,
}

/// Decides what data must decide.
pub(crate) trait Judge {
    /// The truth of an atom; none where nobody may choose.
    fn truth(&mut self, atom: &Atom) -> Option<bool>;
}

/// Only tells what the assumptions leave no choice about.
pub(crate) struct Settled<'a>(pub(crate) &'a Assumptions);

impl Judge for Settled<'_> {
    fn truth(&mut self, atom: &Atom) -> Option<bool> {
        match (self.0.allows(atom, true), self.0.allows(atom, false)) {
            (Some(_), None) => Some(true),
            (None, Some(_)) => Some(false),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

/// Evaluates one expression over one scope.
pub(crate) struct Evaluation<'a, 's> {
    pub(crate) scope: &'a Scope<'s>,
    pub(crate) uses: &'a Uses,
    pub(crate) symbols: &'a mut Symbols,
    pub(crate) judge: &'a mut dyn Judge,
}

impl Evaluation<'_, '_> {
    pub(crate) fn value(&mut self, outline: &Outline) -> Result<Term, Missing> {
        match outline {
            Outline::Undefined => Ok(Term::Undefined),
            Outline::Constant(value) => Ok(Term::Known(value.clone())),
            Outline::Path(path) => self.path(path),
            Outline::Not(operand) => {
                let term = self.value(operand)?;
                Ok(self
                    .truthy(&term)
                    .map_or_else(|| self.computed(outline), |truth| known(!truth)))
            }
            Outline::And(parts) => {
                let left = self.value(&parts.0)?;
                match self.truthy(&left) {
                    Some(true) => self.value(&parts.1),
                    Some(false) => Ok(left),
                    None => Ok(self.computed(outline)),
                }
            }
            Outline::Or(parts) => {
                let left = self.value(&parts.0)?;
                match self.truthy(&left) {
                    Some(true) => Ok(left),
                    Some(false) => self.value(&parts.1),
                    None => Ok(self.computed(outline)),
                }
            }
            Outline::Coalesce(parts) => {
                let left = self.value(&parts.0)?;
                let is_nothing = match &left {
                    Term::Undefined | Term::Known(JsonValue::Null) => Some(true),
                    Term::Known(_) => Some(false),
                    Term::Unknown(symbol) => self.judge.truth(&Atom::Constant(*symbol, Comparison::LooseEqual, None)),
                };
                match is_nothing {
                    Some(true) => self.value(&parts.1),
                    Some(false) => Ok(left),
                    None => Ok(self.computed(outline)),
                }
            }
            Outline::Conditional(parts) => {
                let condition = self.value(&parts.0)?;
                match self.truthy(&condition) {
                    Some(true) => self.value(&parts.1),
                    Some(false) => self.value(&parts.2),
                    None => Ok(self.computed(outline)),
                }
            }
            Outline::Compare(comparison, parts) => {
                let (left, right) = (self.value(&parts.0)?, self.value(&parts.1)?);
                Ok(self
                    .compared(*comparison, &left, &right)
                    .map_or_else(|| self.computed(outline), known))
            }
            Outline::Object(members) => {
                let mut object = serde_json::Map::new();
                for (name, member) in members {
                    let term = self.value(member)?;
                    if term != Term::Undefined {
                        object.insert(name.clone(), term.into_json());
                    }
                }
                Ok(Term::Known(JsonValue::Object(object)))
            }
            Outline::Closed(_) => Ok(self.computed(outline)),
        }
    }

    /// Whether a value counts as true; none where nobody may choose.
    pub(crate) fn truthy(&mut self, term: &Term) -> Option<bool> {
        match term {
            Term::Undefined => Some(false),
            Term::Known(value) => Some(troupe_lang::truthy(value)),
            Term::Unknown(symbol) => self.judge.truth(&Atom::Truthy(*symbol)),
        }
    }

    fn compared(&mut self, comparison: Comparison, left: &Term, right: &Term) -> Option<bool> {
        match (left, right) {
            (Term::Unknown(left), Term::Unknown(right)) => self.judge.truth(&Atom::Pair(*left, comparison, *right)),
            (Term::Unknown(symbol), other) => self.with_constant(*symbol, comparison, other),
            (other, Term::Unknown(symbol)) => self.with_constant(*symbol, mirrored(comparison), other),
            (left, right) => Some(compare(comparison, left.as_json(), right.as_json())),
        }
    }

    fn with_constant(&mut self, symbol: Symbol, comparison: Comparison, other: &Term) -> Option<bool> {
        self.judge
            .truth(&Atom::Constant(symbol, comparison, other.as_json().cloned()))
    }

    /// The unknown value of an expression that is not looked into.
    fn computed(&mut self, outline: &Outline) -> Term {
        let text = match outline {
            Outline::Closed(text) => text.clone(),
            other => format!("{other:?}"),
        };
        let seen = seen(self.uses, self.scope).to_string();
        let visit = self
            .scope
            .node
            .map_or(Visit(1), |node| self.scope.state.nodes[node.at()].visit);
        Term::Unknown(self.symbols.computed(&text, seen, self.scope.node, visit))
    }

    fn path(&mut self, path: &ScopePath) -> Result<Term, Missing> {
        let mut members = path.members.as_slice();
        let mut shown = path.name.to_owned();
        let mut term = self.named(path.name, &mut members, &mut shown);
        for member in members {
            term = match self.member(term, member, &shown)? {
                Some(term) => term,
                None => return Ok(Term::Undefined),
            };
            shown = format!("{shown}.{}", member.name);
        }
        Ok(term)
    }

    /// What a name of the scope stands for; takes off the members that are part of it.
    fn named(&mut self, name: &str, members: &mut &[MemberAccess], shown: &mut String) -> Term {
        let scope = self.scope;
        let given = |value: Option<&Value>| value.map_or(Term::Undefined, Term::of);
        match name {
            "input" => given(scope.input),
            "output" => given(scope.output),
            "trigger" => Term::of(&scope.state.input),
            "error" => scope
                .error
                .map_or(Term::Undefined, |error| Term::of(&Value::Inline(error.to_json()))),
            "variables" => match members.split_first() {
                Some((first, rest)) => {
                    *members = rest;
                    *shown = format!("variables.{}", first.name);
                    scope.state.variables.get(&first.name).map_or_else(
                        // A start may give variables that the definition does not name.
                        || Term::Unknown(self.symbols.of(Origin::Variable(first.name.clone()))),
                        Term::of,
                    )
                }
                None => Term::Known(seen(self.uses, scope)["variables"].take()),
            },
            "nodes" => match members.split_first() {
                Some((first, rest)) => {
                    *members = rest;
                    *shown = format!("nodes.{}", first.name);
                    node(&first.name, scope).map_or(Term::Undefined, Term::Known)
                }
                None => Term::Known(seen(self.uses, scope)["nodes"].take()),
            },
            "execution" => match members.split_first() {
                Some((first, rest)) if first.name == "iteration" => {
                    *members = rest;
                    scope
                        .iteration()
                        .map_or(Term::Undefined, |iteration| Term::Known(iteration.into()))
                }
                Some((first, rest)) => {
                    *members = rest;
                    Term::Unknown(self.symbols.of(Origin::Execution(first.name.clone())))
                }
                None => Term::Unknown(self.symbols.of(Origin::Execution(String::new()))),
            },
            other => Term::Unknown(self.symbols.of(Origin::Execution(other.to_owned()))),
        }
    }

    /// A member of a value; none where `?.` ends the look-up.
    fn member(&mut self, term: Term, member: &MemberAccess, shown: &str) -> Result<Option<Term>, Missing> {
        let name = member.name.as_str();
        let of_known = |value: Option<JsonValue>| Some(value.map_or(Term::Undefined, Term::of_json));
        Ok(match term {
            Term::Unknown(base) => Some(Term::Unknown(self.symbols.of(Origin::Member(base, name.to_owned())))),
            Term::Undefined | Term::Known(JsonValue::Null) if member.optional => None,
            Term::Undefined | Term::Known(JsonValue::Null) => {
                return Err(Missing {
                    base: shown.to_owned(),
                    member: name.to_owned(),
                });
            }
            Term::Known(JsonValue::Object(mut members)) => of_known(members.shift_remove(name)),
            Term::Known(JsonValue::Array(items)) if name == "length" => of_known(Some(items.len().into())),
            Term::Known(JsonValue::Array(items)) => {
                of_known(name.parse().ok().and_then(|index: usize| items.get(index).cloned()))
            }
            Term::Known(JsonValue::String(text)) if name == "length" => {
                of_known(Some(text.encode_utf16().count().into()))
            }
            Term::Known(JsonValue::String(_) | JsonValue::Number(_) | JsonValue::Bool(_)) => Some(Term::Undefined),
        })
    }
}

fn known(truth: bool) -> Term {
    Term::Known(JsonValue::Bool(truth))
}

impl Term {
    /// What a value of the core stands for.
    pub(crate) fn of(value: &Value) -> Self {
        value.shown().to_value().map_or(Self::Undefined, Self::of_json)
    }

    pub(crate) fn of_json(value: JsonValue) -> Self {
        Symbol::read(&value).map_or(Self::Known(value), Self::Unknown)
    }

    fn as_json(&self) -> Option<&JsonValue> {
        match self {
            Self::Known(value) => Some(value),
            Self::Undefined | Self::Unknown(_) => None,
        }
    }

    /// As the core keeps it.
    pub(crate) fn into_json(self) -> JsonValue {
        match self {
            Self::Undefined => JsonValue::Null,
            Self::Known(value) => value,
            Self::Unknown(symbol) => symbol.marked().into(),
        }
    }
}

fn json(value: &Value) -> JsonValue {
    value.shown().to_value().unwrap_or(JsonValue::Null)
}

fn node(key: &str, scope: &Scope<'_>) -> Option<JsonValue> {
    let (status, output, error) = scope.latest(key)?;
    let mut node = serde_json::json!({"status": status});
    if let Some(output) = output {
        node["output"] = json(output);
    }
    if let Some(error) = error {
        node["error"] = error.to_json().to_value().unwrap_or(JsonValue::Null);
    }
    Some(node)
}

/// Everything that `uses` names, as one object.
pub(crate) fn seen(uses: &Uses, scope: &Scope<'_>) -> JsonValue {
    let mut seen = serde_json::Map::new();
    let values = [
        ("input", scope.input.filter(|_| uses.input)),
        ("output", scope.output.filter(|_| uses.output)),
        ("trigger", Some(&scope.state.input).filter(|_| uses.trigger)),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            seen.insert(name.to_owned(), json(value));
        }
    }
    if let Some(error) = scope.error.filter(|_| uses.error) {
        seen.insert(
            "error".to_owned(),
            error.to_json().to_value().unwrap_or(JsonValue::Null),
        );
    }
    if uses.execution {
        let iteration = scope.iteration().map_or(JsonValue::Null, JsonValue::from);
        seen.insert("execution".to_owned(), serde_json::json!({"iteration": iteration}));
    }
    if !uses.variables.is_none() {
        let named = scope
            .state
            .variables
            .iter()
            .filter(|(name, _)| uses.variables.contains(name));
        let named = named.map(|(name, value)| (name.clone(), json(value)));
        seen.insert("variables".to_owned(), JsonValue::Object(named.collect()));
    }
    if !uses.nodes.is_none() {
        let keys = scope.plan.nodes.iter().map(|node| node.key.as_str());
        let named = keys.filter(|key| uses.nodes.contains(key));
        let named = named.filter_map(|key| Some((key.to_owned(), node(key, scope)?)));
        seen.insert("nodes".to_owned(), JsonValue::Object(named.collect()));
    }
    JsonValue::Object(seen)
}

/// Everything that `uses` names, bound for a real evaluation; none where part of it is unknown.
pub(crate) fn bound<'a>(uses: &Uses, seen: &'a JsonValue, scope: &Scope<'_>) -> Option<troupe_lang::Scope<'a>> {
    // The definition may leave a variable to the start, and nobody knows the id or the time of an execution.
    let given = match &uses.variables {
        Names::None => true,
        Names::Some(names) => names.iter().all(|name| scope.state.variables.contains_key(name)),
        Names::All => false,
    };
    if uses.execution || !given || !is_known(Json::of(seen).as_str()) {
        return None;
    }
    let mut bound = troupe_lang::Scope::new();
    for (name, value) in seen.as_object()? {
        match name.as_str() {
            "nodes" | "variables" => {
                let mut record = Record::new();
                for (key, value) in value.as_object()? {
                    record.set(key, Binding::Value(value));
                }
                bound.set(name, record);
            }
            _ => bound.set(name, value),
        }
    }
    Some(bound)
}
