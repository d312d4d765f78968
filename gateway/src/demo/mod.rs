//! The examples, carried by the binary, and the local server that they call.

mod server;

use serde_json::{Value, json};
use troupe_core::Json;
use troupe_core::definition::{Format, WorkflowDefinition};

pub(crate) use server::Server;

use crate::error::ApiError;
use crate::rules::Rules;

/// The demo server's usual port; the examples' default of the variable names it.
pub(crate) const PORT: u16 = 7655;
/// The variable that holds the demo server's address.
pub(crate) const VARIABLE: &str = "demo";

/// One example.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Example {
    text: &'static str,
}

/// Every example that runs without anything else.
pub(crate) const EXAMPLES: &[Example] = &[
    Example {
        text: include_str!("../../../examples/order.yaml"),
    },
    Example {
        text: include_str!("../../../examples/uptime.yaml"),
    },
    Example {
        text: include_str!("../../../examples/etl.yaml"),
    },
    Example {
        text: include_str!("../../../examples/quotes.yaml"),
    },
    Example {
        text: include_str!("../../../examples/report.yaml"),
    },
    Example {
        text: include_str!("../../../examples/retries.yaml"),
    },
    Example {
        text: include_str!("../../../examples/approval.yaml"),
    },
];

impl Example {
    /// The definition, calling the demo server at `url`.
    pub(crate) async fn definition(self, rules: &Rules, url: &str) -> Result<WorkflowDefinition, ApiError> {
        let checked = rules.check(self.text.as_bytes(), Some(Format::Yaml)).await?;
        let mut definition = checked
            .definition
            .ok_or_else(|| ApiError::definition(&checked.diagnostics))?;
        let variables = definition.settings.get_mut("variables").and_then(Value::as_object_mut);
        if let Some(address) = variables.and_then(|variables| variables.get_mut(VARIABLE)) {
            *address = Value::from(url);
        }
        Ok(definition)
    }
}

/// What the demo runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// The workflow.
    pub(crate) workflow: &'static str,
}

/// The example that the demo runs.
pub(crate) const SHOWN: Shown = Shown { workflow: "order" };

impl Shown {
    /// Its start payload.
    pub(crate) fn input(self) -> Json {
        Json::of(&json!({
            "orderId": "A-1001",
            "customer": {"name": "Ada Lovelace", "email": "ada@example.com"},
            "card": "4111-1111",
            "items": [{"sku": "tea", "quantity": 2, "price": 4.5}, {"sku": "cup", "quantity": 1, "price": 12}],
        }))
    }
}

/// The next three things to try: a command and why.
pub(crate) fn next_steps(id: &str, url: &str) -> [(String, &'static str); 3] {
    // As this process was called, so that the lines can be copied from a checkout too.
    let program = std::env::args().next().unwrap_or_else(|| "troupe".into());
    let server = if url.ends_with(":7654") {
        String::new()
    } else {
        format!(" --server {url}")
    };
    let declined = r#"-i card=declined -i 'items=[{"sku":"tea","quantity":1,"price":3}]'"#;
    [
        (
            format!("{program} start quotes --watch{server}"),
            "three suppliers are asked, two answers suffice; the third is given up after a second",
        ),
        (
            format!("{program} history {id}{server}"),
            "every entry of the execution you just saw",
        ),
        (
            format!("{program} start order {declined} --watch{server}"),
            "the payment is declined: the error path releases the stock and tells the customer",
        ),
    ]
}
