//! Looks up what a node with `data.cache` may reuse.

use ring::digest::{Context, SHA256};
use troupe_core::execution::{Answer, CachedOutput, Question, Scope};
use troupe_core::plan::{Plan, PlanNode};
use troupe_core::{ErrorInfo, Json, NodeIx};
use troupe_lang::Expression;

use super::{EXPRESSION_ERROR, Job, LiveEvaluator, NoValue, part};

/// A node's cache key.
#[derive(Debug)]
pub(super) struct CacheKey {
    expression: Expression,
    /// Of the node's definition: one that was changed reuses nothing that it gave before.
    definition: [u8; 32],
}

impl CacheKey {
    /// The key of a node that has one.
    pub(super) fn compile(plan: &Plan, node: &PlanNode) -> Result<Option<Self>, String> {
        let key = node.data.get("cache").and_then(|cache| cache.get("key"));
        let Some(key) = key.filter(|_| node.cache_ttl_ms.is_some()) else {
            return Ok(None);
        };
        let source = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        let expression = Expression::compile(&source).map_err(|error| format!("{source:?}: {}", error.message))?;
        let data = Json::of(&serde_json::Value::Object(node.data.clone()));
        let definition = hash(&[
            plan.workflow.as_str(),
            node.key.as_str(),
            node.kind.as_str(),
            data.as_str(),
        ]);
        Ok(Some(Self { expression, definition }))
    }

    fn of(&self, value: &Json) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(&self.definition);
        context.update(value.as_str().as_bytes());
        finished(context)
    }
}

/// Of texts whose borders count.
fn hash(texts: &[&str]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    finished(context)
}

fn finished(context: Context) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

impl LiveEvaluator<'_> {
    /// The output that is known under the node's key. It is recorded, so the step alone depends on the look-up.
    pub(super) fn cached(&mut self, node: NodeIx, scope: &Scope<'_>) -> Result<Answer, NoValue> {
        let missing = || ErrorInfo::new(EXPRESSION_ERROR, "the definition has no such key");
        let cache = self.compiled.node(node).cache.as_ref().ok_or_else(missing)?;
        let part = part(Question::Cache(node), 0);
        let key = cache.of(&self.value(part, &cache.expression, scope)?);
        let known = self.answers.looked_up.iter().find(|(known, _)| *known == key);
        let Some((_, found)) = known else {
            return Err(self.after(Job::LookUp(key)));
        };
        let output = match found.clone() {
            Some(output) => Some(self.recorded(output, scope)?),
            None => None,
        };
        Ok(Answer::Cached(Box::new(CachedOutput { node, key, output })))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn key(node: &str, data: serde_json::Value, value: &str) -> [u8; 32] {
        let definition = json!({"id": "w", "nodes": [{"id": node, "type": "function", "data": data}], "edges": []});
        let plan = Plan::build(&serde_json::from_value(definition).unwrap()).unwrap();
        let cache = CacheKey::compile(&plan, &plan.nodes[0]).unwrap().unwrap();
        cache.of(&Json::parse(value).unwrap())
    }

    #[test]
    fn a_key_is_of_the_node_as_it_is_defined() {
        let data = json!({"handlerId": "echo", "cache": {"key": "input.id"}});
        let one = key("n", data.clone(), "1");
        assert_eq!(one, key("n", data.clone(), " 1"));
        assert_ne!(one, key("n", data.clone(), "2"));
        assert_ne!(one, key("m", data, "1"), "another node");
        let changed = json!({"handlerId": "noop", "cache": {"key": "input.id"}});
        assert_ne!(one, key("n", changed, "1"), "the node was changed");
    }
}
