//! Where the messages of event triggers come from.

use std::sync::Arc;

use troupe_backends::RabbitOptions;
use troupe_backends::rabbitmq::{RabbitExchange, RabbitOptionsError, RabbitQueue, RabbitSource, RabbitTopology};
use troupe_core::definition::ExchangeType;
use troupe_ports::EventSource;

use crate::rules::Rules;
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

    /// The type of the deployment's own exchange; none where nothing is declared: whoever binds the queues of triggers knows how.
    pub(crate) fn own_type(&self) -> Option<ExchangeType> {
        if self.options.topology == RabbitTopology::Passive {
            return None;
        }
        Some(match self.options.kind {
            RabbitExchange::Topic => ExchangeType::Topic,
            RabbitExchange::Fanout => ExchangeType::Fanout,
            RabbitExchange::Direct => ExchangeType::Direct,
            RabbitExchange::Headers => ExchangeType::Headers,
        })
    }

    /// Takes messages of a trigger, a bounded number at a time; dropping the source gives back what is not settled.
    pub(crate) fn open(&self, binding: &Binding, prefetch: u16) -> Result<Arc<dyn EventSource>, RabbitOptionsError> {
        let (options, queue) = self.of(binding);
        Ok(Arc::new(RabbitSource::start(options, queue, prefetch)?))
    }

    /// Takes a binding away; the queue stays with what is in it. Where nothing is declared, the binding is somebody else's and stays too.
    pub(crate) async fn release(&self, binding: &Binding) -> Result<(), String> {
        let (options, queue) = self.of(binding);
        if options.topology == RabbitTopology::Passive {
            return Ok(());
        }
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
        let topology = match (self.options.topology, &binding.exchange, binding.exchange_type) {
            (RabbitTopology::Declare, Some(_), None) => RabbitTopology::QueuesOnly,
            (allowed, ..) => allowed,
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

/// Rules that warn of event triggers to which nothing would come here, or more than they ask for.
pub(super) fn with_events(rules: Rules, sources: Option<&TriggerSources>) -> Rules {
    match sources {
        None => rules.without_events(),
        Some(sources) => match sources.own_type() {
            Some(own) => rules.with_own_exchange(own),
            None => rules,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_core::definition::Diagnostic;

    use super::*;
    use crate::triggers::{EVENT_TRIGGER_MISFIT, EVENT_TRIGGER_UNHEARD};
    use crate::wiring;

    fn of(given: RabbitOptions, exchange: Option<&str>, exchange_type: Option<ExchangeType>) -> RabbitOptions {
        let binding = Binding {
            queue: "q".to_owned(),
            dead_letters: "q.dead".to_owned(),
            exchange: exchange.map(str::to_owned),
            exchange_type,
            keys: vec!["#".to_owned()],
            headers: Vec::new(),
        };
        TriggerSources::new(given, "troupe").of(&binding).0
    }

    #[test]
    fn no_trigger_declares_more_than_the_settings_allow() {
        let (topic, foreign) = (Some(ExchangeType::Topic), Some("shop"));
        for (given, own, typed, untyped) in [
            (
                RabbitTopology::Declare,
                RabbitTopology::Declare,
                RabbitTopology::Declare,
                RabbitTopology::QueuesOnly,
            ),
            (
                RabbitTopology::QueuesOnly,
                RabbitTopology::QueuesOnly,
                RabbitTopology::QueuesOnly,
                RabbitTopology::QueuesOnly,
            ),
            (
                RabbitTopology::Passive,
                RabbitTopology::Passive,
                RabbitTopology::Passive,
                RabbitTopology::Passive,
            ),
        ] {
            let topology = |exchange, exchange_type| {
                let options = RabbitOptions {
                    topology: given,
                    ..RabbitOptions::new("amqp://localhost")
                };
                of(options, exchange, exchange_type).topology
            };
            assert_eq!(topology(None, None), own, "{given:?}");
            assert_eq!(topology(foreign, topic), typed, "{given:?}");
            assert_eq!(topology(foreign, None), untyped, "{given:?}");
        }
    }

    #[test]
    fn the_own_exchange_has_the_type_of_the_settings() {
        let given = || RabbitOptions {
            kind: RabbitExchange::Headers,
            ..RabbitOptions::new("amqp://localhost")
        };
        assert_eq!(of(given(), None, None).kind, RabbitExchange::Headers);
        let fanout = Some(ExchangeType::Fanout);
        assert_eq!(of(given(), Some("shop"), fanout).kind, RabbitExchange::Fanout);
    }

    #[tokio::test]
    async fn who_stores_a_trigger_hears_that_it_does_not_fit() {
        let told = async |sources: Option<TriggerSources>| {
            let rules = wiring::rules(&troupe_config::Sources::default().load().unwrap(), None);
            let definition = r##"{
                "id": "listens", "name": "Listens",
                "nodes": [
                    {"id": "named", "type": "trigger", "data": {"triggerType": "event", "config": {"exchange": "shop", "routingKey": "a.#"}}},
                    {"id": "own", "type": "trigger", "data": {"triggerType": "event", "config": {"routingKey": "a.#"}}},
                    {"id": "ship", "type": "function", "data": {"handlerId": "echo"}}
                ],
                "edges": [{"source": "named", "target": "ship"}, {"source": "own", "target": "ship"}]
            }"##;
            let checked = with_events(rules, sources.as_ref())
                .check(definition.as_bytes(), None)
                .await;
            let of_events = |problem: &Diagnostic| problem.code.starts_with("EVENT_TRIGGER_");
            let found = checked.unwrap().diagnostics.into_iter().filter(of_events);
            let found = found.map(|problem| {
                assert!(!problem.is_error() && problem.hint.is_some(), "{problem}");
                (problem.code, problem.pointer)
            });
            found.collect::<Vec<_>>()
        };
        let sources = |kind, topology| {
            let options = RabbitOptions {
                kind,
                topology,
                ..RabbitOptions::new("amqp://localhost")
            };
            Some(TriggerSources::new(options, "troupe"))
        };
        let misfit = [(EVENT_TRIGGER_MISFIT, "/nodes/1/data/config".to_owned())];
        for kind in [RabbitExchange::Headers, RabbitExchange::Fanout, RabbitExchange::Direct] {
            assert_eq!(told(sources(kind, RabbitTopology::Declare)).await, misfit, "{kind:?}");
            assert_eq!(
                told(sources(kind, RabbitTopology::QueuesOnly)).await,
                misfit,
                "{kind:?}"
            );
            assert!(
                told(sources(kind, RabbitTopology::Passive)).await.is_empty(),
                "{kind:?}"
            );
        }
        let topic = sources(RabbitExchange::Topic, RabbitTopology::Declare);
        assert!(told(topic).await.is_empty());
        let unheard = [0, 1].map(|place| (EVENT_TRIGGER_UNHEARD, format!("/nodes/{place}/data/triggerType")));
        assert_eq!(told(None).await, unheard);
    }
}
