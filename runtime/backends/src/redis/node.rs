//! One server behind one multiplexed connection, made anew when it breaks.
//!
//! A command is sent once: whoever gets no answer learns that the outcome is unknown, and nothing is repeated here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, PushInfo, PushKind, RedisError, TlsCertificates, Value};
use tokio::runtime::Handle;
use tokio::time::Instant;

use troupe_telemetry::Outage;

use super::checks;
use super::error::{LinkError, RedisOpenError};
use super::link::Slots;
use super::options::RedisDurability;
use super::target::{self, Address, Login};

/// Commands that may wait for the connection's task; whoever finds it full waits.
const PIPELINE_COMMANDS: usize = 4_096;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What every connection of a deployment has in common.
pub(super) struct Settings {
    pub login: Login,
    pub database: i64,
    pub certificates: Option<TlsCertificates>,
    pub durability: RedisDurability,
    pub settings_vouched: bool,
    pub response_timeout: Duration,
    pub connect_timeout: Duration,
    /// Tells that there are no connections, once for all of them.
    pub outage: Outage,
    /// Servers that are known to acknowledge without their replicas: each is told of once.
    pub unreplicated: Mutex<BTreeSet<Address>>,
    /// Where a cluster has what.
    pub slots: Slots,
    /// How many connections were made: each has its number.
    pub connections: AtomicU64,
    /// The runtime of the store's own thread.
    pub io: Handle,
}

/// Which runtime a connection lives in.
#[derive(Clone, Copy)]
pub(super) enum Home {
    /// The store's own: a caller's may be without sockets, busy or short-lived.
    Store,
    /// That of whoever dials: its answers wake no thread but the one that waits for them. A connection whose runtime has
    /// ended is broken like any other.
    Caller,
}

/// Who says where the server is, each time it is dialled.
#[derive(Clone)]
pub(super) enum Source {
    Fixed(Address),
    Sentinels {
        sentinels: Vec<Address>,
        master: String,
        login: Login,
    },
}

/// What a server answered.
pub(super) struct Answer {
    pub value: Value,
    /// Number of the connection that it came over, from 1. As long as that is the same, so is the server, and it was not started anew.
    pub connection: u64,
}

/// A connection in use. Its `broken` flag is also set by the connection itself when the server goes away.
#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    number: u64,
    broken: Arc<AtomicBool>,
}

/// What became of the attempts to connect.
struct Dialling {
    failures_in_a_row: u32,
    not_before: Option<Instant>,
    last: Option<LinkErrorCopy>,
}

/// A failure that several callers are told.
#[derive(Clone)]
enum LinkErrorCopy {
    NotRun(RedisError),
    Refused(RedisOpenError),
}

impl From<LinkErrorCopy> for LinkError {
    fn from(copy: LinkErrorCopy) -> Self {
        match copy {
            LinkErrorCopy::NotRun(error) => Self::NotRun(error),
            LinkErrorCopy::Refused(refused) => Self::Refused(refused),
        }
    }
}

/// A server.
pub(super) struct Node {
    source: Source,
    home: Home,
    settings: Arc<Settings>,
    live: Mutex<Option<Live>>,
    dialling: tokio::sync::Mutex<Dialling>,
    /// Attempts that have ended.
    dialled: AtomicU64,
}

impl Node {
    pub(super) fn new(source: Source, home: Home, settings: Arc<Settings>) -> Self {
        Self {
            source,
            home,
            settings,
            live: Mutex::new(None),
            dialling: tokio::sync::Mutex::new(Dialling {
                failures_in_a_row: 0,
                not_before: None,
                last: None,
            }),
            dialled: AtomicU64::new(0),
        }
    }

    /// Tells this connection from others of the store.
    fn who(&self) -> u64 {
        std::ptr::from_ref(self).addr() as u64
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Answer, LinkError> {
        let mut live = self.connected().await?;
        let answer = live.connection.send_packed_command(command).await;
        self.judged(&live, answer.and_then(Value::extract_error))
    }

    /// Sends a command to the server that a slot is moving to.
    pub(super) async fn send_asking(&self, command: &Cmd) -> Result<Answer, LinkError> {
        let mut live = self.connected().await?;
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(command.clone());
        let answers = live.connection.req_packed_commands(&both, 0, 2).await;
        let answer = answers.and_then(|mut answers| answers.pop().unwrap_or(Value::Nil).extract_error());
        self.judged(&live, answer)
    }

    fn judged(&self, live: &Live, answer: Result<Value, RedisError>) -> Result<Answer, LinkError> {
        let connection = live.number;
        answer.map(|value| Answer { value, connection }).map_err(|error| {
            let error = LinkError::of_answer(error);
            if error.breaks_connection() {
                live.broken.store(true, Ordering::Release);
            }
            error
        })
    }

    fn usable(&self) -> Option<Live> {
        let live = self.live.lock();
        live.as_ref()
            .filter(|live| !live.broken.load(Ordering::Acquire))
            .cloned()
    }

    /// Whoever sends next makes a connection; what is under way on the one before is answered there.
    pub(super) fn dial_anew(&self) {
        if let Some(live) = &*self.live.lock() {
            live.broken.store(true, Ordering::Release);
        }
    }

    /// The connection, made if there is none. Callers that wait for one attempt share its failure.
    async fn connected(&self) -> Result<Live, LinkError> {
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let seen = self.dialled.load(Ordering::Acquire);
        let mut dialling = self.dialling.lock().await;
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        if self.dialled.load(Ordering::Acquire) > seen
            && let Some(failed) = dialling.last.clone()
        {
            return Err(failed.into());
        }
        if let Some(not_before) = dialling.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        let dialling_task = dial(self.source.clone(), Arc::clone(&self.settings));
        let dialled = match self.home {
            Home::Store => self.settings.io.spawn(dialling_task),
            Home::Caller => tokio::spawn(dialling_task),
        };
        let dialled = dialled.await.unwrap_or_else(|ended| {
            let why = format!("the attempt to connect ended: {ended}");
            Err(LinkErrorCopy::NotRun((ErrorKind::Client, "io", why).into()))
        });
        self.dialled.fetch_add(1, Ordering::AcqRel);
        match dialled {
            Ok(live) => {
                self.settings.outage.over(self.who());
                dialling.failures_in_a_row = 0;
                dialling.not_before = None;
                dialling.last = None;
                *self.live.lock() = Some(live.clone());
                Ok(live)
            }
            Err(failed) => {
                let told = format!("{:?}", LinkError::from(failed.clone()));
                self.settings.outage.failed(self.who(), &told);
                let wait = BACKOFF_MIN.saturating_mul(1 << dialling.failures_in_a_row.min(10));
                dialling.failures_in_a_row += 1;
                dialling.not_before = Some(Instant::now() + wait.min(BACKOFF_MAX));
                dialling.last = Some(failed.clone());
                Err(failed.into())
            }
        }
    }
}

async fn dial(source: Source, settings: Arc<Settings>) -> Result<Live, LinkErrorCopy> {
    let (address, is_named) = match &source {
        Source::Fixed(address) => (address.clone(), false),
        Source::Sentinels {
            sentinels,
            master,
            login,
        } => (ask_sentinels(&settings, sentinels, master, login).await?, true),
    };
    let client = target::client(
        &address,
        &settings.login,
        settings.database,
        settings.certificates.as_ref(),
    )
    .map_err(LinkErrorCopy::Refused)?;
    let mut live = connect(&client, &settings).await.map_err(LinkErrorCopy::NotRun)?;
    if is_named {
        is_master(&mut live.connection, &address)
            .await
            .map_err(LinkErrorCopy::NotRun)?;
    }
    checks::server(&mut live.connection, &address, &settings)
        .await
        .map_err(|error| match error {
            LinkError::Refused(refused) => LinkErrorCopy::Refused(refused),
            LinkError::NotRun(error) | LinkError::Unknown(error) => LinkErrorCopy::NotRun(error),
        })?;
    tracing::info!(%address, "connected to Redis");
    Ok(live)
}

/// The address of the master, by the first Sentinel that knows it.
async fn ask_sentinels(
    settings: &Settings,
    sentinels: &[Address],
    master: &str,
    login: &Login,
) -> Result<Address, LinkErrorCopy> {
    let mut last = RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no Sentinel knows the master"));
    for sentinel in sentinels {
        let client =
            target::client(sentinel, login, 0, settings.certificates.as_ref()).map_err(LinkErrorCopy::Refused)?;
        let asked = async {
            let mut live = connect(&client, settings).await?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            command.query_async::<Option<(String, u16)>>(&mut live.connection).await
        };
        match asked.await {
            Ok(Some((host, port))) => return Ok(Address { host, port }),
            Ok(None) => {
                let why = format!("{sentinel} knows no master `{master}`");
                last = RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "Sentinel", why));
            }
            Err(error) => last = error,
        }
    }
    Err(LinkErrorCopy::NotRun(last))
}

async fn connect(client: &Client, settings: &Settings) -> Result<Live, RedisError> {
    let broken = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&broken);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.response_timeout))
        .set_pipeline_buffer_size(PIPELINE_COMMANDS)
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                told.store(true, Ordering::Release);
            }
            Ok::<_, std::convert::Infallible>(())
        });
    let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    Ok(Live {
        connection,
        number: settings.connections.fetch_add(1, Ordering::Relaxed) + 1,
        broken,
    })
}

/// A Sentinel may name a server that has just been demoted, or not yet been promoted.
async fn is_master(connection: &mut MultiplexedConnection, address: &Address) -> Result<(), RedisError> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => {
            let why = format!("{address} is no master at the moment");
            Err(RedisError::from((
                ErrorKind::MasterNameNotFoundBySentinel,
                "Sentinel",
                why,
            )))
        }
    }
}
