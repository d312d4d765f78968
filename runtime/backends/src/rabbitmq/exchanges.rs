//! Exchanges that workflows name, beside the usual one.
//!
//! Each is looked at over a channel of its own before the first message goes to it: one that is not there, or is of another type,
//! closes the channel that meets it. Messages for such a one are left out: a slip in one definition must not hold back
//! the events of everybody.

use std::collections::HashMap;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use tokio::time::{Instant, timeout};
use troupe_core::definition::ExchangeType;

use super::link::Link;
use super::message::{Named, short};
use super::options::{Checked, RabbitTopology};

/// When one that cannot be used is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// What the log says of one that cannot be used; see `docs/errors`.
const EVENT_EXCHANGE_UNUSABLE: &str = "EVENT_EXCHANGE_UNUSABLE";

/// What is known of them over one connection.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// None: it can be used; else until when it is not looked at again.
    known: HashMap<Named, Option<Instant>>,
}

impl Exchanges {
    /// Whether messages can go there.
    pub(super) fn takes(&self, named: &Named) -> bool {
        self.known.get(named).is_some_and(Option::is_none)
    }

    /// Declares those that were not looked at yet, or checks that they are there.
    pub(super) async fn prepare<'a>(
        &mut self,
        link: &Link,
        checked: &Checked,
        wanted: impl Iterator<Item = &'a Named> + Send,
    ) {
        for named in wanted {
            let is_known = match self.known.get(named) {
                None => false,
                Some(None) => true,
                Some(Some(until)) => *until > Instant::now(),
            };
            if is_known {
                continue;
            }
            let limit = checked.options.connect_timeout;
            let declared = match timeout(limit, declare(link, checked, named)).await {
                Ok(declared) => declared.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {limit:?}")),
            };
            let unusable = declared.err().map(|reason| {
                tracing::error!(
                    code = EVENT_EXCHANGE_UNUSABLE,
                    exchange = %named.name,
                    kind = named.kind.as_str(),
                    %reason,
                    "events do not go to an exchange that a workflow names"
                );
                Instant::now() + LOOK_AGAIN
            });
            self.known.insert(named.clone(), unusable);
        }
    }
}

async fn declare(link: &Link, checked: &Checked, named: &Named) -> lapin::Result<()> {
    let channel = link.connection.create_channel().await?;
    let kind = match named.kind {
        ExchangeType::Topic => ExchangeKind::Topic,
        ExchangeType::Fanout => ExchangeKind::Fanout,
        ExchangeType::Direct => ExchangeKind::Direct,
        ExchangeType::Headers => ExchangeKind::Headers,
    };
    let options = ExchangeDeclareOptions {
        passive: checked.options.topology != RabbitTopology::Declare,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(short(&named.name), kind, options, FieldTable::default())
        .await?;
    channel.close(200, "bye".into()).await
}
