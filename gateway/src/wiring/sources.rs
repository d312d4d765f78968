//! Where the messages of event triggers come from.

use std::sync::Arc;

use troupe_backends::RabbitOptions;
use troupe_backends::rabbitmq::{RabbitExchange, RabbitOptionsError, RabbitQueue, RabbitSource, RabbitTopology};
use troupe_core::definition::ExchangeType;
use troupe_ports::EventSource;

use crate::triggers::Binding;

/// Opens queues of triggers, and takes them off their exchanges.
#[derive(Clone, Debug)]
pub struct TriggerSources {
    options: RabbitOptions,
    prefix: String,
}

impl TriggerSources {
    /// On the broker of `options`, whose exchange is the deployment's own.
    pub(super) fn new(options: RabbitOptions, prefix: &str) -> Self {
        Self {
            options,
            prefix: prefix.to_owned(),
        }
    }

    /// What the names of queues begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Takes messages of a trigger, a bounded number at a time; dropping the source gives back what is not settled.
    pub(crate) fn open(&self, binding: &Binding, prefetch: u16) -> Result<Arc<dyn EventSource>, RabbitOptionsError> {
        let (options, queue) = self.of(binding);
        Ok(Arc::new(RabbitSource::start(options, queue, prefetch)?))
    }

    /// Takes a binding away; the queue stays with what is in it.
    pub(crate) async fn release(&self, binding: &Binding) -> Result<(), String> {
        let (options, queue) = self.of(binding);
        RabbitSource::unbind(options, queue).await
    }

    fn of(&self, binding: &Binding) -> (RabbitOptions, RabbitQueue) {
        let kind = match binding.exchange_type {
            None | Some(ExchangeType::Topic) => RabbitExchange::Topic,
            Some(ExchangeType::Fanout) => RabbitExchange::Fanout,
            Some(ExchangeType::Direct) => RabbitExchange::Direct,
            Some(ExchangeType::Headers) => RabbitExchange::Headers,
        };
        // Whose type is not named is somebody else's, and must be there; our own is declared by whoever comes first.
        let topology = match (&binding.exchange, binding.exchange_type) {
            (Some(_), None) => RabbitTopology::QueuesOnly,
            (Some(_), Some(_)) | (None, _) => RabbitTopology::Declare,
        };
        let options = RabbitOptions {
            connection_name: format!("troupe trigger {}", binding.queue),
            exchange: binding
                .exchange
                .clone()
                .unwrap_or_else(|| self.options.exchange.clone()),
            kind: if binding.exchange.is_some() {
                kind
            } else {
                self.options.kind
            },
            topology,
            ..self.options.clone()
        };
        let queue = RabbitQueue {
            name: binding.queue.clone(),
            binding_keys: binding.keys.clone(),
            binding_headers: binding.headers.clone(),
            dead_letter: Some(binding.dead_letters.clone()),
        };
        (options, queue)
    }
}
