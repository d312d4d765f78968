//! The templates of a node's whole `data`.

use std::sync::Arc;

use serde_json::Value;
use troupe_core::definition::VERBATIM_FIELDS;

use super::text::{SandboxAnswers, TextTemplate};
use crate::error::{EvalError, LangError};
use crate::expression::{Expression, Uses};
use crate::limits::VALUE_DEPTH_MAX;
use crate::scope::Scope;

/// Compiled templates of a node's data: where they are, and what is around them.
#[derive(Debug, Clone)]
pub struct DataTemplate {
    data: Value,
    templates: Vec<Place>,
}

/// A templated string and the way to it.
#[derive(Debug, Clone)]
struct Place {
    path: Vec<Step>,
    template: TextTemplate,
}

#[derive(Debug, Clone)]
enum Step {
    Member(Arc<str>),
    Element(usize),
}

/// Characters that a message shows of the place of a template.
const POINTER_CHARS_SHOWN: usize = 500;

impl DataTemplate {
    /// Compiles every string of `data` that has a `{{`, except in fields that are no templates: expressions
    /// (`condition`, mappings, `output`, `items`, `while`, `filter`, keys), code, schemas, Jinja templates, the
    /// `body` of nodes, and `delayValue` where `delayType` is `expression`.
    ///
    /// # Errors
    /// Every fault, each with the JSON pointer of its string.
    pub fn compile(data: &Value) -> Result<Self, Vec<(String, LangError)>> {
        let mut walk = Walk {
            path: Vec::new(),
            templates: Vec::new(),
            errors: Vec::new(),
        };
        walk.value(data, 0);
        if walk.errors.is_empty() {
            Ok(Self {
                data: data.clone(),
                templates: walk.templates,
            })
        } else {
            Err(walk.errors)
        }
    }

    /// Whether no string is templated, so that `data` can be used as it is.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.templates.is_empty()
    }

    /// The data as it was compiled.
    #[must_use]
    pub const fn data(&self) -> &Value {
        &self.data
    }

    /// The names of the scope that the templates touch.
    #[must_use]
    pub fn uses(&self) -> Uses {
        let mut uses = Uses::default();
        self.templates
            .iter()
            .for_each(|place| uses.merge(&place.template.uses()));
        uses
    }

    /// The secrets that the templates name, each with the JSON pointer of its string.
    pub fn secrets(&self) -> impl Iterator<Item = (String, &str)> {
        self.templates
            .iter()
            .flat_map(|place| place.template.secrets().map(|name| (pointer(&place.path), name)))
    }

    /// The sources that only the sandbox can evaluate, in the order their answers are expected.
    pub fn sandbox_sources(&self) -> impl Iterator<Item = &Expression> {
        self.templates.iter().flat_map(|place| place.template.sandbox_sources())
    }

    /// Evaluates every template. Secrets stay as `{{ secrets.NAME }}`, for [`DataTemplate::resolve_secrets`].
    ///
    /// # Errors
    /// The first that fails, with the JSON pointer of its string in the message.
    pub fn evaluate(&self, scope: &Scope<'_>, answers: SandboxAnswers<'_>) -> Result<Value, EvalError> {
        let mut answers = answers.iter();
        let mut data = self.data.clone();
        each(&mut data, 0, &self.templates, &mut |slot, Place { path, template }| {
            *slot = template.evaluate_next(scope, &mut answers).map_err(|error| {
                let place: String = pointer(path).chars().take(POINTER_CHARS_SHOWN).collect();
                EvalError::new(format!("{} (in `data{place}`)", error.message()))
            })?;
            Ok(())
        })?;
        Ok(data)
    }

    /// Puts secrets into data that [`DataTemplate::evaluate`] gave, just before it is used. Only the strings whose
    /// own template names a secret are looked at, so that no value can ask for one.
    ///
    /// # Errors
    /// The resolver's, with the secret's name.
    pub fn resolve_secrets<E>(
        &self,
        mut evaluated: Value,
        mut resolver: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Value, SecretError<E>> {
        each(
            &mut evaluated,
            0,
            &self.templates,
            &mut |slot, Place { template, .. }| {
                if template.secrets().next().is_some()
                    && let Value::String(text) = slot
                {
                    *text = template.resolve_secrets(text, &mut |name| {
                        resolver(name).map_err(|source| SecretError {
                            name: name.to_owned(),
                            source,
                        })
                    })?;
                }
                Ok(())
            },
        )?;
        Ok(evaluated)
    }
}

/// A secret that could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secret `{name}` cannot be resolved: {source}")]
pub struct SecretError<E> {
    /// The secret's name.
    pub name: String,
    /// Why.
    pub source: E,
}

struct Walk {
    path: Vec<Step>,
    templates: Vec<Place>,
    errors: Vec<(String, LangError)>,
}

impl Walk {
    fn value(&mut self, value: &Value, depth: usize) {
        if depth > VALUE_DEPTH_MAX || self.is_verbatim() {
            return;
        }
        match value {
            Value::String(text) if text.contains("{{") => match TextTemplate::compile(text) {
                Ok(template) if template.is_static() => {}
                Ok(template) => self.templates.push(Place {
                    path: self.path.clone(),
                    template,
                }),
                Err(error) => self.errors.push((pointer(&self.path), error)),
            },
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Element(index));
                    self.value(item, depth + 1);
                    self.path.pop();
                }
            }
            Value::Object(members) => {
                if is_body(members) {
                    return;
                }
                let has_expression_delay = members.get("delayType").is_some_and(|kind| kind == "expression");
                for (name, member) in members {
                    if has_expression_delay && name == "delayValue" {
                        continue;
                    }
                    self.path.push(Step::Member(name.as_str().into()));
                    self.value(member, depth + 1);
                    self.path.pop();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn is_verbatim(&self) -> bool {
        let path = match self.path.first() {
            Some(Step::Member(first)) if &**first == "taskDefinition" => &self.path[1..],
            _ => &self.path[..],
        };
        VERBATIM_FIELDS.iter().any(|field| {
            field.len() == path.len()
                && field.iter().zip(path).all(|(name, step)| match step {
                    Step::Member(member) => **member == **name,
                    Step::Element(_) => *name == "*",
                })
        })
    }
}

/// The body of a `forEach` or `loop` node: its nodes have templates of their own.
fn is_body(members: &serde_json::Map<String, Value>) -> bool {
    ["nodes", "edges"]
        .iter()
        .all(|name| members.get(*name).is_some_and(Value::is_array))
}

/// Visits the string of every place, in their order. Places that share the way down go it together, so that a long key
/// is looked up once.
fn each<E>(
    value: &mut Value,
    depth: usize,
    places: &[Place],
    visit: &mut impl FnMut(&mut Value, &Place) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = places;
    while let Some(first) = rest.first() {
        let Some(step) = first.path.get(depth) else {
            visit(value, first)?;
            rest = &rest[1..];
            continue;
        };
        let is_shared = |place: &&Place| place.path.get(depth).is_some_and(|other| step.is_same(other));
        let (together, others) = rest.split_at(rest.iter().take_while(is_shared).count());
        let child = match step {
            Step::Member(name) => value.get_mut(&**name),
            Step::Element(index) => value.get_mut(*index),
        };
        if let Some(child) = child {
            each(child, depth + 1, together, visit)?;
        }
        rest = others;
    }
    Ok(())
}

impl Step {
    /// Whether both lead from one value to the same child; the walk names each child once.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Member(a), Self::Member(b)) => Arc::ptr_eq(a, b),
            (Self::Element(a), Self::Element(b)) => a == b,
            (Self::Member(_), Self::Element(_)) | (Self::Element(_), Self::Member(_)) => false,
        }
    }
}

fn pointer(path: &[Step]) -> String {
    path.iter().fold(String::new(), |pointer, step| match step {
        Step::Member(name) => format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")),
        Step::Element(index) => format!("{pointer}/{index}"),
    })
}
