//! What is written at nodes that take calls.

use std::collections::HashMap;

use super::{Context, NODES};
use crate::definition::{NodeKind, WebhookSettings, code};

pub(super) fn check(context: &mut Context<'_>) {
    let mut first: HashMap<String, usize> = HashMap::new();
    for (at, node) in context.nodes() {
        if node.kind() != Some(NodeKind::Webhook) {
            continue;
        }
        let path = NODES.index(at);
        let data = path.key("data");
        let is_root = context.entries(at).next().is_none();
        let problems = &mut context.problems;
        let settings = WebhookSettings::read(node, &path, problems);
        let id = settings
            .id
            .unwrap_or_else(|| WebhookSettings::default_id(&context.definition.id, &node.id));
        let earlier = *first.entry(id).or_insert(at);
        if earlier != at {
            let message = format!("node {earlier} takes calls at the same address");
            problems.error(code::DUPLICATE_WEBHOOK_ID, &data.key("webhookId"), message);
        }
        if is_root {
            for name in ["correlationKey", "timeout", "totalTimeout"] {
                if node.field(name).is_some() {
                    let message = format!("`{name}` changes nothing here: this node starts executions and never waits");
                    problems.warning(code::INVALID_VALUE, &data.key(name), message);
                }
            }
        }
    }
}
