//! Validated settings, typed by unit.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::events::EventSettings;
use crate::identity::{ClientIdentity, EVENTS_IDENTITY, STATE_IDENTITY};
use crate::raw::{Raw, RawBreakers, RawCluster, RawNodeTypes, RawStore};
use crate::secret::SecretText;
use crate::store_url::{DEFINITION_SCHEMES, EVENT_SCHEMES, STATE_SCHEMES, StoreUrl};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address of the REST API.
    pub listen: SocketAddr,
    /// What the server is called from outside, if not as it listens.
    pub public_url: Option<PublicUrl>,
    /// A key that is accepted as an administrator's without being kept.
    pub bootstrap_key: Option<SecretText>,
    /// Whether metrics are shown to those who have no key, where keys are asked for.
    pub metrics_open: bool,
    /// Directory of the embedded store.
    pub state_dir: PathBuf,
    /// How long a shutdown waits for running attempts.
    pub drain: Duration,
    /// The engine.
    pub engine: EngineSettings,
    /// When attempts on a target are parked; none: never by themselves.
    pub breakers: Option<BreakerSettings>,
    /// The store.
    pub store: StoreSettings,
    /// How processes that share a store find each other.
    pub cluster: ClusterSettings,
    /// How events reach RabbitMQ, and what waits for it.
    pub events: EventSettings,
    /// Function code.
    pub sandbox: SandboxSettings,
    /// HTTP nodes.
    pub http: HttpSettings,
    /// What the gateway refuses.
    pub limits: LimitSettings,
    /// Log lines.
    pub log: LogSettings,
}

/// What a server is called from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Reads `http(s)://name[:port][/path]`; a slash at its end is dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '@' | '"' | '<' | '>' | '\\');
        let has_name = !rest.is_empty() && !rest.starts_with(['/', ':']);
        (has_name && rest.chars().all(plain)).then(|| Self(text.to_owned()))
    }

    /// The address, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name and port.
    #[must_use]
    pub fn authority(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }
}

/// The engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Parts of the log, for a new store.
    pub shards: u16,
    /// The newest format in which the state is written; none: the newest one that every member reads.
    pub format: Option<u8>,
    /// Running executions before new starts are refused.
    pub running_max: usize,
    /// Attempts that run at once.
    pub attempts_max: usize,
    /// How long ended executions are kept whose workflow does not say.
    pub retention: Duration,
    /// How long request keys count after that.
    pub tombstone: Duration,
    /// Of those, how many of a node type.
    pub node_types: NodeTypeLimits,
}

/// Attempts that run at once of a node type; none: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeTypeLimits {
    /// `function`.
    pub function: Option<usize>,
    /// `http`.
    pub http: Option<usize>,
    /// `transformation`.
    pub transformation: Option<usize>,
    /// `custom`.
    pub custom: Option<usize>,
}

/// When the breaker of a target opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// For how long a call that ended counts.
    pub window: Duration,
    /// Calls in the window that it takes.
    pub calls_min: u64,
    /// Failed calls among them, in percent.
    pub failures_percent: u64,
    /// How long it stays open at first.
    pub open: Duration,
    /// How long it stays open at most.
    pub open_max: Duration,
    /// Calls that must succeed before it closes.
    pub successes_min: u64,
}

/// The stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Redis with the state; none: the embedded store has it.
    pub state: Option<StoreUrl>,
    /// PostgreSQL with definitions and lists; none: the embedded store has them.
    pub definitions: Option<StoreUrl>,
    /// RabbitMQ that events go to beside the API's own stream.
    pub events: Option<StoreUrl>,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// Whether an operator vouches for what Redis does not tell of its own settings.
    pub settings_vouched: bool,
    /// Begins the names of everything on these servers.
    pub prefix: String,
    /// PEM file with the authority that signed their certificates; none: those of the system are trusted.
    pub ca_file: Option<PathBuf>,
    /// What Redis is shown; none: no certificate.
    pub state_identity: Option<ClientIdentity>,
    /// What RabbitMQ is shown; none: no certificate.
    pub events_identity: Option<ClientIdentity>,
}

impl StoreSettings {
    /// Everything in the embedded store.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            state: None,
            definitions: None,
            events: None,
            durability: Durability::Strict,
            settings_vouched: false,
            prefix: "troupe".to_owned(),
            ca_file: None,
            state_identity: None,
            events_identity: None,
        }
    }
}

/// How processes that share a store find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Where the others reach this one; none: where it listens.
    pub address: Option<PublicUrl>,
    /// What they sign their requests to each other with; none: one that the first of them made and put beside the state.
    pub secret: Option<SecretText>,
    /// How long a part of the log stays with a process that is gone.
    pub lease: Duration,
}

/// Fewest characters of a secret: as many as 128 random bits have in hexadecimal digits.
const CLUSTER_SECRET_MIN: usize = 32;

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disk has it.
    Strict,
    /// The server has it; a crash of its machine may take about the last second.
    Relaxed,
    /// The server has it in memory.
    Volatile,
}

/// Longest prefix of names on a server.
const PREFIX_BYTES_MAX: usize = 40;

/// Function code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxSettings {
    /// Processes.
    pub processes: usize,
    /// JavaScript heap of one process.
    pub memory_bytes: usize,
    /// Stack of one call.
    pub stack_bytes: usize,
    /// Largest output of one call.
    pub output_bytes: usize,
}

/// HTTP nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Private targets that may be called.
    pub allow: Vec<AllowedTarget>,
    /// Largest response body that is read.
    pub response_bytes: usize,
}

/// A private target that HTTP nodes may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedTarget {
    /// Which hosts.
    pub host: AllowedHost,
    /// Only this port; none: every port.
    pub port: Option<u16>,
}

/// Which hosts a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHost {
    /// Addresses that share the first bits with this one.
    Network(IpAddr, u8),
    /// One name, compared without regard to case.
    Name(String),
}

/// What the gateway refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Largest body.
    pub body_bytes: usize,
    /// Largest output of a node.
    pub output_bytes: usize,
    /// All large values of an execution and its children together.
    pub execution_bytes: u64,
    /// Outputs that are kept for reuse.
    pub cached_outputs: u64,
    /// All outputs that are kept for reuse together.
    pub cached_bytes: u64,
    /// Deepest nesting.
    pub nesting_max: usize,
    /// Nodes of a definition.
    pub nodes_max: usize,
    /// Edges of a definition.
    pub edges_max: usize,
    /// Longest wait that a request may ask for.
    pub wait_max: Duration,
    /// Longest page of a list: no shorter than what clients ask for at once, no longer than what a store gives.
    pub page_max: usize,
    /// Open event streams.
    pub streams_max: usize,
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// JSON instead of text for people.
    pub json: bool,
    /// What is logged.
    pub filter: String,
}

/// Something wrong with the value of a key: the key, what, and a hint.
pub(crate) type Complaint = (&'static str, String, Option<String>);

/// Fewest characters of a bootstrap key: as many as 128 random bits have in hexadecimal digits.
const BOOTSTRAP_KEY_MIN: usize = 32;

/// Shortest time for which a request key counts after its execution is gone: a day, in which whoever sends it again does so.
const TOMBSTONE_MIN_MS: u64 = 24 * 3_600_000;
/// Longest time for which anything of an ended execution is kept, as in `settings.retention`: a thousand years.
const KEPT_MAX_MS: u64 = 31_556_952_000_000;

/// Deepest JSON that recursive code further down is safe with.
const NESTING_HARD_MAX: u64 = 120;

impl Settings {
    /// Checks every value and collects all complaints.
    pub(crate) fn of(raw: Raw, loopback_only: bool) -> Result<Self, Vec<Complaint>> {
        let mut check = Checks(Vec::new());
        let settings = Self {
            listen: check.listen(&raw.listen, loopback_only),
            public_url: check.public_url(&raw.public_url),
            bootstrap_key: check.bootstrap_key(&raw.bootstrap_key, &raw.bootstrap_key_file),
            metrics_open: raw.metrics_open,
            state_dir: check.path("state_dir", &raw.state_dir),
            drain: Duration::from_millis(check.range("drain_ms", raw.drain_ms, 0, 600_000)),
            engine: EngineSettings {
                shards: check.range("engine.shards", raw.engine.shards, 1, 1_024) as u16,
                format: match check.range("engine.format", raw.engine.format, 0, 255) as u8 {
                    0 => None,
                    format => Some(format),
                },
                running_max: check.range("engine.running_max", raw.engine.running_max, 1, 10_000_000) as usize,
                attempts_max: check.range("engine.attempts_max", raw.engine.attempts_max, 1, 1_000_000) as usize,
                retention: check.kept("engine.retention_ms", raw.engine.retention_ms, 0),
                tombstone: check.kept("engine.tombstone_ms", raw.engine.tombstone_ms, TOMBSTONE_MIN_MS),
                node_types: check.node_types(&raw.engine.node_types),
            },
            breakers: check.breakers(&raw.breakers),
            store: check.store(&raw.store),
            cluster: check.cluster(&raw.cluster),
            events: check.events(&raw.events),
            sandbox: SandboxSettings {
                processes: match check.range("sandbox.processes", raw.sandbox.processes, 0, 256) as usize {
                    0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
                    some => some,
                },
                memory_bytes: (check.range("sandbox.memory_mib", raw.sandbox.memory_mib, 4, 4_096) as usize) << 20,
                stack_bytes: (check.range("sandbox.stack_kib", raw.sandbox.stack_kib, 64, 8_192) as usize) << 10,
                output_bytes: (check.range("sandbox.output_kib", raw.sandbox.output_kib, 1, 65_536) as usize) << 10,
            },
            http: HttpSettings {
                allow: raw.http.allow.iter().filter_map(|text| check.target(text)).collect(),
                response_bytes: (check.range("http.response_kib", raw.http.response_kib, 1, 1_048_576) as usize) << 10,
            },
            limits: LimitSettings {
                body_bytes: (check.range("limits.body_kib", raw.limits.body_kib, 1, 65_536) as usize) << 10,
                output_bytes: (check.range("limits.output_kib", raw.limits.output_kib, 1, 65_536) as usize) << 10,
                execution_bytes: check.range("limits.execution_mib", raw.limits.execution_mib, 1, 1_048_576) << 20,
                cached_outputs: check.range("limits.cached_outputs", raw.limits.cached_outputs, 0, 100_000_000),
                cached_bytes: check.range("limits.cached_mib", raw.limits.cached_mib, 0, 1_048_576) << 20,
                nesting_max: check.range("limits.nesting_max", raw.limits.nesting_max, 1, NESTING_HARD_MAX) as usize,
                nodes_max: check.range("limits.nodes_max", raw.limits.nodes_max, 1, 1_000_000) as usize,
                edges_max: check.range("limits.edges_max", raw.limits.edges_max, 1, 3_000_000) as usize,
                wait_max: Duration::from_millis(check.range("limits.wait_max_ms", raw.limits.wait_max_ms, 0, 600_000)),
                page_max: check.range("limits.page_max", raw.limits.page_max, 100, 1_000) as usize,
                streams_max: check.range("limits.streams_max", raw.limits.streams_max, 1, 100_000) as usize,
            },
            log: LogSettings {
                json: check.log_format(&raw.log.format),
                filter: raw.log.filter,
            },
        };
        if check.0.is_empty() { Ok(settings) } else { Err(check.0) }
    }
}

/// What complaints show of an address that has no login: where an `@` stands somebody gave it one.
fn without_login(text: &str) -> &str {
    if text.contains('@') { "…" } else { text }
}

/// Notes what is wrong while settings are read.
pub(crate) struct Checks(Vec<Complaint>);

impl Checks {
    pub(crate) fn complain(&mut self, key: &'static str, message: String, hint: impl Into<Option<String>>) {
        self.0.push((key, message, hint.into()));
    }

    pub(crate) fn range(&mut self, key: &'static str, value: u64, least: u64, most: u64) -> u64 {
        if !(least..=most).contains(&value) {
            self.complain(
                key,
                format!("{value} is out of range"),
                format!("give a number from {least} to {most}"),
            );
        }
        value.clamp(least, most)
    }

    fn kept(&mut self, key: &'static str, value_ms: u64, least_ms: u64) -> Duration {
        Duration::from_millis(self.range(key, value_ms, least_ms, KEPT_MAX_MS))
    }

    fn node_types(&mut self, raw: &RawNodeTypes) -> NodeTypeLimits {
        let mut limit = |key, value| match self.range(key, value, 0, 1_000_000) as usize {
            0 => None,
            most => Some(most),
        };
        NodeTypeLimits {
            function: limit("engine.node_types.function", raw.function),
            http: limit("engine.node_types.http", raw.http),
            transformation: limit("engine.node_types.transformation", raw.transformation),
            custom: limit("engine.node_types.custom", raw.custom),
        }
    }

    fn breakers(&mut self, raw: &RawBreakers) -> Option<BreakerSettings> {
        const HOUR_MS: u64 = 3_600_000;
        let settings = BreakerSettings {
            window: Duration::from_millis(self.range("breakers.window_ms", raw.window_ms, 100, HOUR_MS)),
            calls_min: self.range("breakers.calls_min", raw.calls_min, 1, 1_000_000),
            failures_percent: self.range("breakers.failures_percent", raw.failures_percent, 1, 100),
            open: Duration::from_millis(self.range("breakers.open_ms", raw.open_ms, 1, HOUR_MS)),
            open_max: Duration::from_millis(self.range("breakers.open_max_ms", raw.open_max_ms, 1, 24 * HOUR_MS)),
            successes_min: self.range("breakers.successes_min", raw.successes_min, 1, 1_000_000),
        };
        raw.enabled.then_some(settings)
    }

    fn path(&mut self, key: &'static str, text: &str) -> PathBuf {
        if text.is_empty() {
            self.complain(
                key,
                "the path is empty".into(),
                "name a directory, such as \".troupe\"".to_owned(),
            );
        }
        text.into()
    }

    /// The text itself stays out of complaints.
    fn bootstrap_key(&mut self, text: &str, file: &str) -> Option<SecretText> {
        if !text.is_empty() && !file.is_empty() {
            let hint = "give one of the two".to_owned();
            self.complain("bootstrap_key_file", "`bootstrap_key` is set too".into(), hint);
            return None;
        }
        let (key, text) = if file.is_empty() {
            ("bootstrap_key", text.to_owned())
        } else {
            match std::fs::read_to_string(file) {
                Ok(text) => ("bootstrap_key_file", text),
                Err(error) => {
                    let hint = "name a file that holds the key".to_owned();
                    self.complain("bootstrap_key_file", format!("{file} cannot be read: {error}"), hint);
                    return None;
                }
            }
        };
        let text = text.trim();
        if text.is_empty() && file.is_empty() {
            return None;
        }
        if text.len() < BOOTSTRAP_KEY_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let hint = "use what `openssl rand -hex 32` gives".to_owned();
            let message = format!(
                "the key has less than {BOOTSTRAP_KEY_MIN} characters, or others than letters, digits and signs"
            );
            self.complain(key, message, hint);
            return None;
        }
        Some(SecretText::new(text.to_owned()))
    }

    fn listen(&mut self, text: &str, loopback_only: bool) -> SocketAddr {
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        let parsed = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}").parse::<SocketAddr>(),
            None => text.parse(),
        };
        match parsed {
            Ok(address) if !loopback_only || address.ip().is_loopback() => address,
            Ok(address) => {
                let message = format!("{address} is not a loopback address, and this server knows no authentication");
                self.complain(
                    "listen",
                    message,
                    "use 127.0.0.1 with a port, such as \"127.0.0.1:7654\", or `troupe serve`".to_owned(),
                );
                fallback
            }
            Err(_) => {
                let hint = "give an address and a port, such as \"127.0.0.1:7654\"".to_owned();
                self.complain("listen", format!("`{text}` is no socket address"), hint);
                fallback
            }
        }
    }

    fn public_url(&mut self, text: &str) -> Option<PublicUrl> {
        let parsed = PublicUrl::parse(text);
        if parsed.is_none() && !text.is_empty() {
            let hint = "give scheme, name and perhaps port and path, such as \"https://hooks.example.com\"".to_owned();
            let shown = without_login(text);
            self.complain("public_url", format!("`{shown}` is no address of a server"), hint);
        }
        parsed
    }

    fn store(&mut self, raw: &RawStore) -> StoreSettings {
        let state = self.store_url("store.state", &raw.state, &STATE_SCHEMES);
        let definitions = self.store_url("store.definitions", &raw.definitions, &DEFINITION_SCHEMES);
        let events = self.store_url("store.events", &raw.events, &EVENT_SCHEMES);
        StoreSettings {
            durability: self.durability(raw),
            settings_vouched: raw.settings_vouched,
            prefix: self.prefix(&raw.prefix),
            ca_file: (!raw.ca_file.is_empty()).then(|| raw.ca_file.as_str().into()),
            state_identity: self.identity(
                STATE_IDENTITY,
                &raw.state_certificate_file,
                &raw.state_key_file,
                state.as_ref(),
            ),
            events_identity: self.identity(
                EVENTS_IDENTITY,
                &raw.events_certificate_file,
                &raw.events_key_file,
                events.as_ref(),
            ),
            state,
            definitions,
            events,
        }
    }

    fn cluster(&mut self, raw: &RawCluster) -> ClusterSettings {
        let address = PublicUrl::parse(&raw.address);
        if address.is_none() && !raw.address.is_empty() {
            let hint = "give scheme, name and port, such as \"http://10.0.0.7:7654\"".to_owned();
            self.complain(
                "cluster.address",
                format!("`{}` is no address of a server", without_login(&raw.address)),
                hint,
            );
        }
        let secret = raw.secret.trim();
        if !secret.is_empty() && secret.len() < CLUSTER_SECRET_MIN {
            let message = format!("the secret has less than {CLUSTER_SECRET_MIN} characters");
            self.complain(
                "cluster.secret",
                message,
                "use what `openssl rand -hex 32` gives".to_owned(),
            );
        }
        ClusterSettings {
            address,
            secret: (!secret.is_empty()).then(|| SecretText::new(secret.to_owned())),
            lease: Duration::from_millis(self.range("cluster.lease_ms", raw.lease_ms, 1_000, 60_000)),
        }
    }

    fn store_url(&mut self, key: &'static str, text: &str, schemes: &[&str]) -> Option<StoreUrl> {
        if text.is_empty() {
            return None;
        }
        let url = StoreUrl::new(text);
        if let Some((message, hint)) = url.complaint(schemes) {
            self.complain(key, message, hint);
        }
        Some(url)
    }

    fn durability(&mut self, raw: &RawStore) -> Durability {
        let durability = match raw.durability.as_str() {
            "strict" => Durability::Strict,
            "relaxed" => Durability::Relaxed,
            "volatile" => Durability::Volatile,
            other => {
                let hint = "use \"strict\", \"relaxed\" or \"volatile\"".to_owned();
                self.complain("store.durability", format!("`{other}` is no durability"), hint);
                Durability::Strict
            }
        };
        if durability != Durability::Strict && raw.state.is_empty() {
            let hint = "the embedded store always fsyncs before it acknowledges: use \"strict\"".to_owned();
            let message = format!("`{}` is no durability of this store", raw.durability);
            self.complain("store.durability", message, hint);
        }
        durability
    }

    /// It must do as a name in Redis and in PostgreSQL.
    fn prefix(&mut self, text: &str) -> String {
        let mut letters = text.bytes();
        let begins = letters.next().is_some_and(|letter| letter.is_ascii_lowercase());
        let goes_on = letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_');
        if !begins || !goes_on || text.len() > PREFIX_BYTES_MAX {
            let hint =
                format!("use a lowercase letter, then lowercase letters, digits and _, at most {PREFIX_BYTES_MAX}");
            self.complain(
                "store.prefix",
                format!("`{text}` is no name that Redis and PostgreSQL both take"),
                hint,
            );
        }
        text.to_owned()
    }

    fn log_format(&mut self, text: &str) -> bool {
        match text {
            "human" => false,
            "json" => true,
            other => {
                let hint = "use \"human\" or \"json\"".to_owned();
                self.complain("log.format", format!("`{other}` is no format"), hint);
                false
            }
        }
    }

    fn target(&mut self, text: &str) -> Option<AllowedTarget> {
        let parsed = AllowedTarget::parse(text);
        if parsed.is_none() {
            let hint = "write \"host\", \"host:port\", \"127.0.0.1:8080\", \"[::1]:8080\" or \"10.0.0.0/8\"".to_owned();
            self.complain("http.allow", format!("`{}` is no target", without_login(text)), hint);
        }
        parsed
    }
}

impl AllowedTarget {
    /// Reads `host`, `host:port`, `address`, `address:port` (IPv6 in brackets) and `address/prefix`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self {
                host: AllowedHost::whole(address),
                port: None,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') || host.contains('/') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (text, None),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let host = if let Some((address, prefix)) = bare.split_once('/') {
            let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (prefix <= most && port.is_none()).then_some(AllowedHost::Network(address, prefix))?
        } else if let Ok(address) = bare.parse::<IpAddr>() {
            AllowedHost::whole(address)
        } else {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            let name = !bare.is_empty() && bare.len() <= 253 && bare.chars().all(plain);
            name.then(|| AllowedHost::Name(bare.to_ascii_lowercase()))?
        };
        Some(Self { host, port })
    }
}

impl fmt::Display for AllowedTarget {
    /// The notation that [`AllowedTarget::parse`] reads.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (AllowedHost::Name(name), None) => write!(out, "{name}"),
            (AllowedHost::Name(name), Some(port)) => write!(out, "{name}:{port}"),
            (AllowedHost::Network(address, _), Some(port)) => write!(out, "{}", SocketAddr::new(*address, port)),
            (AllowedHost::Network(address, prefix), None) => write!(out, "{address}/{prefix}"),
        }
    }
}

impl AllowedHost {
    fn whole(address: IpAddr) -> Self {
        Self::Network(address, if address.is_ipv4() { 32 } else { 128 })
    }
}
