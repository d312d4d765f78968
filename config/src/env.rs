//! Every environment variable the product reads, in one place.

/// An environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it sets.
    pub sets: Sets,
    /// One line for people.
    pub help: &'static str,
}

/// What a variable sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// A key of the configuration file; the text is read like a TOML value, or taken as it stands.
    Key(&'static str),
    /// A key that holds a list; the items are separated by commas.
    List(&'static str),
    /// A key that holds a list of tables; the text is such a list in TOML.
    Tables(&'static str),
    /// Something of the command line.
    Tool,
}

macro_rules! variables {
    ($($name:literal $kind:ident $(($key:literal))? $help:literal;)+) => {
        /// Every variable.
        pub const VARIABLES: &[Variable] = &[
            $(Variable { name: $name, sets: Sets::$kind $(($key))?, help: $help },)+
        ];
    };
}

variables! {
    "TROUPE_CONFIG" Tool "Configuration file; without it ./troupe.toml is read if it exists.";
    "TROUPE_SERVER" Tool "Addresses of the servers that client commands talk to, with commas between.";
    "TROUPE_API_KEY" Tool "Key that client commands show to the server.";
    "TROUPE_API_KEY_FILE" Tool "File that holds it instead.";
    "TROUPE_LISTEN" Key("listen") "Address of the REST API.";
    "TROUPE_PUBLIC_URL" Key("public_url") "What the server is called from outside.";
    "TROUPE_BOOTSTRAP_KEY" Key("bootstrap_key") "A key that is accepted as an administrator's without being kept.";
    "TROUPE_BOOTSTRAP_KEY_FILE" Key("bootstrap_key_file") "File that holds it instead.";
    "TROUPE_METRICS_OPEN" Key("metrics_open") "Whether metrics are shown to those who have no key.";
    "TROUPE_STATE_DIR" Key("state_dir") "Directory of the embedded store.";
    "TROUPE_DRAIN_MS" Key("drain_ms") "How long a shutdown waits for running attempts.";
    "TROUPE_ENGINE_SHARDS" Key("engine.shards") "Parts of the log.";
    "TROUPE_ENGINE_FORMAT" Key("engine.format") "Newest format in which the state is written; 0: the newest that every member reads.";
    "TROUPE_ENGINE_RUNNING_MAX" Key("engine.running_max") "Running executions before new starts are refused.";
    "TROUPE_ENGINE_ATTEMPTS_MAX" Key("engine.attempts_max") "Attempts that run at once.";
    "TROUPE_ENGINE_RETENTION_MS" Key("engine.retention_ms") "How long ended executions are kept whose workflow does not say.";
    "TROUPE_ENGINE_TOMBSTONE_MS" Key("engine.tombstone_ms") "How long request keys count after that.";
    "TROUPE_ENGINE_NODE_TYPES_FUNCTION" Key("engine.node_types.function") "Attempts of function nodes that run at once.";
    "TROUPE_ENGINE_NODE_TYPES_HTTP" Key("engine.node_types.http") "Attempts of http nodes that run at once.";
    "TROUPE_ENGINE_NODE_TYPES_TRANSFORMATION" Key("engine.node_types.transformation") "Attempts of transformation nodes that run at once.";
    "TROUPE_ENGINE_NODE_TYPES_CUSTOM" Key("engine.node_types.custom") "Attempts of custom nodes that run at once.";
    "TROUPE_BREAKERS_ENABLED" Key("breakers.enabled") "Whether attempts on a target that is unwell are parked.";
    "TROUPE_BREAKERS_WINDOW_MS" Key("breakers.window_ms") "For how long a call that ended counts.";
    "TROUPE_BREAKERS_CALLS_MIN" Key("breakers.calls_min") "Calls in the window that it takes to open a breaker.";
    "TROUPE_BREAKERS_FAILURES_PERCENT" Key("breakers.failures_percent") "Failed calls among them that open it, in percent.";
    "TROUPE_BREAKERS_OPEN_MS" Key("breakers.open_ms") "How long a breaker stays open at first.";
    "TROUPE_BREAKERS_OPEN_MAX_MS" Key("breakers.open_max_ms") "How long a breaker stays open at most.";
    "TROUPE_BREAKERS_SUCCESSES_MIN" Key("breakers.successes_min") "Calls that must succeed before a breaker closes.";
    "TROUPE_STORE_STATE" Key("store.state") "Redis that keeps the state.";
    "TROUPE_STORE_DEFINITIONS" Key("store.definitions") "PostgreSQL that keeps definitions and lists.";
    "TROUPE_STORE_EVENTS" Key("store.events") "RabbitMQ that events go to.";
    "TROUPE_STORE_PREFIX" Key("store.prefix") "Begins the names of everything on these servers.";
    "TROUPE_STORE_CA_FILE" Key("store.ca_file") "Authority that signed the certificates of these servers.";
    "TROUPE_STORE_STATE_CERTIFICATE_FILE" Key("store.state_certificate_file") "Certificate that Redis is shown.";
    "TROUPE_STORE_STATE_KEY_FILE" Key("store.state_key_file") "Its private key.";
    "TROUPE_STORE_EVENTS_CERTIFICATE_FILE" Key("store.events_certificate_file") "Certificate that RabbitMQ is shown.";
    "TROUPE_STORE_EVENTS_KEY_FILE" Key("store.events_key_file") "Its private key.";
    "TROUPE_CLUSTER_ADDRESS" Key("cluster.address") "Where other members reach this process.";
    "TROUPE_CLUSTER_SECRET" Key("cluster.secret") "What members sign their requests to each other with.";
    "TROUPE_CLUSTER_LEASE_MS" Key("cluster.lease_ms") "How long a part of the log stays with a process that is gone.";
    "TROUPE_STORE_DURABILITY" Key("store.durability") "What an acknowledgement promises.";
    "TROUPE_STORE_SETTINGS_VOUCHED" Key("store.settings_vouched") "Whether you vouch for what Redis does not tell of its settings.";
    "TROUPE_EVENTS_NODES" Key("events.nodes") "Whether RabbitMQ gets the events of nodes that workflows choose.";
    "TROUPE_EVENTS_EXCHANGE_TYPE" Key("events.exchange_type") "Type of the exchange that events go to.";
    "TROUPE_EVENTS_DECLARE" Key("events.declare") "What is made in RabbitMQ: all, queues or nothing.";
    "TROUPE_EVENTS_QUEUES" Tables("events.queues") "Durable queues behind the exchange.";
    "TROUPE_EVENTS_UNROUTABLE" Key("events.unroutable") "What becomes of an event that no queue is bound for.";
    "TROUPE_EVENTS_BATCH_MAX" Key("events.batch_max") "Events of a message that carries several; 0: one message an event.";
    "TROUPE_EVENTS_BATCH_KIB" Key("events.batch_kib") "Size of such a message.";
    "TROUPE_EVENTS_PARTITIONS" Key("events.partitions") "Queues that share all events by execution.";
    "TROUPE_EVENTS_SPOOL_ABOVE_MIB" Key("events.spool_above_mib") "What may wait for RabbitMQ in the log of a shard.";
    "TROUPE_EVENTS_REFUSE_MIB" Key("events.refuse_mib") "What may wait for RabbitMQ a shard before starts are refused.";
    "TROUPE_EVENTS_HOLD_MIB" Key("events.hold_mib") "What may wait for RabbitMQ a shard before attempts are held.";
    "TROUPE_SANDBOX_PROCESSES" Key("sandbox.processes") "Processes that run function code.";
    "TROUPE_SANDBOX_MEMORY_MIB" Key("sandbox.memory_mib") "JavaScript heap of one process.";
    "TROUPE_SANDBOX_STACK_KIB" Key("sandbox.stack_kib") "Stack of one call.";
    "TROUPE_SANDBOX_OUTPUT_KIB" Key("sandbox.output_kib") "Largest output of one call.";
    "TROUPE_HTTP_ALLOW" List("http.allow") "Private targets that HTTP nodes may call.";
    "TROUPE_HTTP_RESPONSE_KIB" Key("http.response_kib") "Largest response body that is read.";
    "TROUPE_LIMITS_BODY_KIB" Key("limits.body_kib") "Largest body of a request.";
    "TROUPE_LIMITS_OUTPUT_KIB" Key("limits.output_kib") "Largest output of a node.";
    "TROUPE_LIMITS_CACHED_OUTPUTS" Key("limits.cached_outputs") "Outputs that are kept for reuse.";
    "TROUPE_LIMITS_CACHED_MIB" Key("limits.cached_mib") "All outputs that are kept for reuse together.";
    "TROUPE_LIMITS_EXECUTION_MIB" Key("limits.execution_mib") "All large values of an execution and its children together.";
    "TROUPE_LIMITS_NESTING_MAX" Key("limits.nesting_max") "Deepest nesting of a request's JSON.";
    "TROUPE_LIMITS_NODES_MAX" Key("limits.nodes_max") "Nodes of a definition.";
    "TROUPE_LIMITS_EDGES_MAX" Key("limits.edges_max") "Edges of a definition.";
    "TROUPE_LIMITS_WAIT_MAX_MS" Key("limits.wait_max_ms") "Longest wait that a request may ask for.";
    "TROUPE_LIMITS_PAGE_MAX" Key("limits.page_max") "Longest page of a list.";
    "TROUPE_LIMITS_STREAMS_MAX" Key("limits.streams_max") "Open event streams.";
    "TROUPE_LOG_FORMAT" Key("log.format") "human or json.";
    "TROUPE_LOG_FILTER" Key("log.filter") "What is logged.";
}

/// Prefix of every variable; one that begins with it and is not listed is refused.
pub const PREFIX: &str = "TROUPE_";
/// Variables of the product's own child processes; never set by people.
pub const INTERNAL_PREFIX: &str = "TROUPE_INTERNAL_";

/// Secrets for `{{ secrets.NAME }}`: their names are the users'.
pub const SECRET_PREFIX: &str = "TROUPE_SECRET_";

/// The variable of that name.
#[must_use]
pub fn variable(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}
