//! Jinja templates inside the child. Nothing interrupts one that renders; its process can be killed.

use std::collections::VecDeque;

use serde_json::{Map, Value};
use troupe_lang::Scope;
use troupe_lang::template::Jinja;
use troupe_ports::Rendered;

use super::json;
use super::protocol::Fault;
use crate::codes;

/// Compiled templates that are kept.
const KEPT_MAX: usize = 32;
/// Longer sources are compiled at every call: a compiled template is many times its source. In bytes.
const KEPT_SOURCE_BYTES_MAX: usize = 16 * 1024;

/// The templates that a process renders, most recently used first.
#[derive(Default)]
pub(super) struct Templates {
    kept: VecDeque<(u64, Jinja)>,
}

impl Templates {
    /// Renders the template of that number over the scope, a JSON object; gives JSON.
    ///
    /// # Errors
    /// What the template raises, and its limits.
    pub(super) fn render(
        &mut self,
        program: u64,
        source: &str,
        rendered: Rendered,
        scope: &str,
    ) -> Result<String, Fault> {
        let template = match self.kept.iter().position(|(known, _)| *known == program) {
            Some(place) => self.kept.remove(place).map(|(_, template)| template),
            None => None,
        };
        let template = match template {
            Some(template) => template,
            None => Jinja::compile(source).map_err(|error| failed(error.to_string()))?,
        };
        let result = render(&template, rendered, scope);
        if source.len() <= KEPT_SOURCE_BYTES_MAX {
            self.kept.truncate(KEPT_MAX - 1);
            self.kept.push_front((program, template));
        }
        result
    }

    /// Forgets every template.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

fn failed(message: String) -> Fault {
    Fault::new(codes::TEMPLATE_ERROR, message, false)
}

fn render(template: &Jinja, rendered: Rendered, scope: &str) -> Result<String, Fault> {
    let members: Map<String, Value> =
        serde_json::from_str(scope).map_err(|error| failed(format!("the values cannot be read: {error}")))?;
    let bound = members
        .iter()
        .fold(Scope::new(), |scope, (name, value)| scope.bind(name, value));
    let text = template.render(&bound).map_err(|error| failed(error.to_string()))?;
    match rendered {
        Rendered::Text => Ok(Value::String(text).to_string()),
        Rendered::Json => {
            let value: Value = serde_json::from_str(&text)
                .map_err(|error| failed(format!("the rendered text is no JSON: {error}")))?;
            json::presentable(value.to_string()).ok_or_else(|| {
                failed(format!(
                    "the rendered text nests deeper than {} levels",
                    json::DEPTH_MAX
                ))
            })
        }
    }
}
