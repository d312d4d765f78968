//! Large values around an evaluation: what it reads is loaded before, what it gives is durable apart from the entry before.

use troupe_core::execution::{Answer, Scope};
use troupe_core::{Composed, ErrorInfo, INLINE_BYTES_MAX, Json, Parts, Value};
use troupe_lang::schema::Schema;

use super::{Job, LiveEvaluator, NoScope, NoValue, compiled};
use crate::blobs::{blobs_of, reference, split};

/// The outputs of all children of a node together, in bytes.
const KEPT_BYTES_MAX: u64 = 64 << 20;

impl LiveEvaluator<'_> {
    pub(super) fn without_scope(&mut self, none: NoScope) -> NoValue {
        match none {
            NoScope::Unreadable(error) => error.into(),
            NoScope::Needs(blobs) => {
                let mut why = NoValue::Pending;
                for blob in blobs {
                    why = self.after(Job::Load(blob));
                }
                why
            }
        }
    }

    /// The whole document of a value.
    pub(super) fn document(&mut self, value: &Value) -> Result<Json, NoValue> {
        let contents = &self.answers.contents;
        let mut needed = blobs_of(value);
        needed.retain(|blob| contents.get(blob).is_none());
        if !needed.is_empty() {
            return Err(self.without_scope(NoScope::Needs(needed)));
        }
        let document = value.document(&|blob| contents.get(blob).cloned());
        document.map_err(|blob| self.after(Job::Load(blob)))
    }

    /// What an expression gave, as it is recorded: a large document is durable apart from it first.
    pub(super) fn recorded(&mut self, document: Json, scope: &Scope<'_>) -> Result<Value, NoValue> {
        if document.bytes() <= INLINE_BYTES_MAX || scope.state.blob_root().is_none() {
            return Ok(document.into());
        }
        let blob = reference(&document);
        match self.answers.kept(&blob) {
            Some(kept) => Ok(kept.map(|()| blob.into())?),
            None => Err(self.after(Job::Keep(blob, document))),
        }
    }

    /// All of them, so that one round serves those that are large.
    pub(super) fn recorded_all(&mut self, documents: Vec<Json>, scope: &Scope<'_>) -> Result<Vec<Value>, NoValue> {
        let mut values = Vec::with_capacity(documents.len());
        let mut pending = false;
        for document in documents {
            match self.recorded(document, scope) {
                Ok(value) => values.push(value),
                Err(NoValue::Pending) => pending = true,
                Err(threw) => return Err(threw),
            }
        }
        if pending { Err(NoValue::Pending) } else { Ok(values) }
    }

    /// As recorded, with only the large members or elements apart.
    pub(super) fn recorded_in_parts(&mut self, document: Json, scope: &Scope<'_>) -> Result<Value, NoValue> {
        split(document, &mut |part| self.recorded(part, scope))
    }

    /// Whether a value meets a schema, if there is one.
    pub(super) fn check(&mut self, schema: Option<&Schema>, value: Option<&Value>) -> Result<Answer, NoValue> {
        if let Some(schema) = schema {
            let document = value.map(|value| self.document(value)).transpose()?;
            compiled::check(schema, document.as_ref())?;
        }
        Ok(Answer::Valid)
    }

    /// A composed value as it is kept.
    pub(super) fn keep(&mut self, value: &Value, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        if scope.state.blob_root().is_none() {
            return Ok(Answer::Valid);
        }
        if value.bytes() > KEPT_BYTES_MAX {
            let message = format!(
                "the outputs have {} bytes together, more than {KEPT_BYTES_MAX}",
                value.bytes()
            );
            let error = ErrorInfo::new("OUTPUT_TOO_LARGE", message);
            return Ok(Answer::NotKept(Box::new(error)));
        }
        let document = self.document(value)?;
        match self.recorded(document, scope) {
            Ok(kept) => Ok(Answer::Kept(kept)),
            Err(NoValue::Threw(error)) => Ok(Answer::NotKept(Box::new(error))),
            Err(NoValue::Pending) => Err(NoValue::Pending),
        }
    }

    /// Items are told apart by the core, so only the large ones are kept apart.
    pub(super) fn recorded_items(&mut self, items: Json, scope: &Scope<'_>) -> Result<Value, NoValue> {
        let large = |items: &[Json]| items.iter().any(|item| item.bytes() > INLINE_BYTES_MAX);
        if items.bytes() > INLINE_BYTES_MAX
            && let Some(elements) = items.elements()
            && large(&elements)
        {
            let parts = self.recorded_all(elements, scope)?;
            return Ok(Composed::new(Parts::List(parts)).into());
        }
        Ok(items.into())
    }
}
