//! JSONPath (RFC 9535) over the scope, with a bound on steps.
//!
//! Evaluated here rather than by a library: a query such as `$..*..*` grows exponentially on small values, and a
//! library asks for one value as the root, where the scope is many that are parsed only when touched.

mod eval;
mod filter;
mod parse;

#[cfg(test)]
mod tests;

use crate::error::{EvalError, LangError};
use crate::expression::{ScopeName, Uses};

use self::parse::parse;

/// A parsed query.
#[derive(Debug, Clone)]
pub(crate) struct JsonPath {
    query: Query,
}

impl JsonPath {
    pub(crate) fn parse(source: &str) -> Result<Self, LangError> {
        parse(source).map(|query| Self { query })
    }

    /// The names of the scope that the query touches.
    pub(crate) fn uses(&self) -> Uses {
        let mut uses = Uses::default();
        self.query.add_uses(&mut uses);
        uses
    }
}

/// A query: what it starts from, and its segments.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    is_relative: bool,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
struct Segment {
    descendants: bool,
    selectors: Vec<Selector>,
}

#[derive(Debug, Clone)]
enum Selector {
    Name(Box<str>),
    Wildcard,
    Index(i64),
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Filter(Test),
}

/// A logical expression of a filter.
#[derive(Debug, Clone)]
enum Test {
    Or(Vec<Test>),
    And(Vec<Test>),
    Not(Box<Test>),
    Exists(Query),
    Compare(Comparable, Comparison, Comparable),
    Matches {
        text: Comparable,
        pattern: Comparable,
        whole: bool,
        compiled: Option<regex::Regex>,
    },
}

#[derive(Debug, Clone)]
enum Comparable {
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    /// A query that matches one node at most.
    Singular(Query),
    Length(Box<Comparable>),
    Count(Query),
    Value(Query),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Query {
    fn is_singular(&self) -> bool {
        self.segments.iter().all(|segment| {
            !segment.descendants && matches!(segment.selectors[..], [Selector::Name(_) | Selector::Index(_)])
        })
    }

    fn add_uses(&self, uses: &mut Uses) {
        if !self.is_relative {
            let names = |place: usize| match self.segments.get(place) {
                Some(Segment {
                    descendants: false,
                    selectors,
                }) => selectors
                    .iter()
                    .map(|selector| {
                        if let Selector::Name(name) = selector {
                            Some(&**name)
                        } else {
                            None
                        }
                    })
                    .collect(),
                _ => vec![None],
            };
            for first in names(0) {
                match first.map(ScopeName::parse) {
                    None => uses.merge(&Uses::all()),
                    Some(None) => {}
                    Some(Some(name)) => names(1).into_iter().for_each(|member| uses.touch(name, member)),
                }
            }
        }
        for selector in self.segments.iter().flat_map(|segment| &segment.selectors) {
            if let Selector::Filter(test) = selector {
                test.add_uses(uses);
            }
        }
    }
}

impl Test {
    fn add_uses(&self, uses: &mut Uses) {
        match self {
            Self::Or(tests) | Self::And(tests) => tests.iter().for_each(|test| test.add_uses(uses)),
            Self::Not(test) => test.add_uses(uses),
            Self::Exists(query) => query.add_uses(uses),
            Self::Compare(left, _, right)
            | Self::Matches {
                text: left,
                pattern: right,
                ..
            } => {
                left.add_uses(uses);
                right.add_uses(uses);
            }
        }
    }
}

impl Comparable {
    fn add_uses(&self, uses: &mut Uses) {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => {}
            Self::Singular(query) | Self::Count(query) | Self::Value(query) => query.add_uses(uses),
            Self::Length(inner) => inner.add_uses(uses),
        }
    }
}

type Eval<T> = Result<T, EvalError>;
