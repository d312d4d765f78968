//! The way to the servers: one, or the members of a cluster, found by slot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use redis::{Cmd, ServerErrorKind, Value};
use tokio::time::Instant;

use super::decode;
use super::error::{LinkError, RedisOpenError};
use super::layout::SLOTS;
use super::node::{Answer, Home, Node, Settings, Source};
use super::options::RedisMutant;
use super::script::Call;
use super::target::{Address, Place};

/// How long a command that was not run waits before it asks a cluster again.
const ASK_AGAIN: Duration = Duration::from_millis(10);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(200);

pub(super) enum Link {
    One(Arc<Node>),
    Cluster(Cluster),
}

impl Link {
    pub(super) fn new(place: Place, home: Home, settings: Arc<Settings>) -> Self {
        match place {
            Place::Server(address) => Self::One(Arc::new(Node::new(Source::Fixed(address), home, settings))),
            Place::Sentinels {
                sentinels,
                master,
                login,
            } => {
                let source = Source::Sentinels {
                    sentinels,
                    master,
                    login,
                };
                Self::One(Arc::new(Node::new(source, home, settings)))
            }
            Place::Cluster(seeds) => Self::Cluster(Cluster {
                seeds,
                home,
                settings,
                nodes: RwLock::new(BTreeMap::new()),
                refreshing: tokio::sync::Mutex::new(()),
                failed: AtomicU64::new(0),
                redirected_is_done: false,
            }),
        }
    }

    /// Plants a fault. Tests only.
    pub(super) fn with(mut self, mutant: Option<RedisMutant>) -> Self {
        if let Self::Cluster(cluster) = &mut self {
            cluster.redirected_is_done = mutant == Some(RedisMutant::RedirectedIsDone);
        }
        self
    }

    /// Finds out anew where the server is. Of a cluster all links know the same, by address.
    pub(super) fn dial_anew(&self) {
        match self {
            Self::One(node) => node.dial_anew(),
            Self::Cluster(_) => {}
        }
    }

    /// Runs a command whose keys are all of `slot`.
    pub(super) async fn send(&self, slot: u16, command: &Cmd) -> Result<Value, LinkError> {
        Ok(self.answer(slot, command).await?.value)
    }

    /// As [`Link::send`], with who answered.
    pub(super) async fn answer(&self, slot: u16, command: &Cmd) -> Result<Answer, LinkError> {
        match self {
            Self::One(node) => node.send(command).await,
            Self::Cluster(cluster) => cluster.send(slot, command).await,
        }
    }

    /// Runs a script, which is sent whole to a server that does not know it.
    pub(super) async fn call(&self, slot: u16, call: &Call<'_>) -> Result<Value, LinkError> {
        match self.send(slot, &call.by_hash()).await {
            Err(error) if error.is(ServerErrorKind::NoScript) => self.send(slot, &call.by_code()).await,
            answer => answer,
        }
    }

    /// Every server that has slots.
    pub(super) async fn servers(&self) -> Result<Vec<Arc<Node>>, LinkError> {
        match self {
            Self::One(node) => Ok(vec![Arc::clone(node)]),
            Self::Cluster(cluster) => {
                cluster.refresh(None).await?;
                let owners = cluster.settings.slots.owners();
                Ok(owners.iter().map(|owner| cluster.node(owner)).collect())
            }
        }
    }

    /// Connects to every server that has slots, so that each is checked.
    pub(super) async fn check(&self) -> Result<(), RedisOpenError> {
        let ping = redis::cmd("PING");
        for server in self.servers().await? {
            server.send(&ping).await?;
        }
        Ok(())
    }
}

/// Slots and the member that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    owner: Address,
}

/// Who has which slots of a cluster: what one connection learned all others know.
#[derive(Default)]
pub(super) struct Slots(RwLock<SlotMap>);

#[derive(Default)]
struct SlotMap {
    ranges: Vec<Range>,
    /// How often a member has told all of them.
    told: u64,
    /// Members that gave somebody no answer since: before their slots are used again, it is asked who has them.
    doubted: BTreeSet<Address>,
}

impl Slots {
    /// Who has a slot, and whether that is in doubt.
    fn owner(&self, slot: u16) -> Option<(Address, bool)> {
        let map = self.0.read();
        let range = map
            .ranges
            .iter()
            .find(|range| (range.first..=range.last).contains(&slot))?;
        Some((range.owner.clone(), map.doubted.contains(&range.owner)))
    }

    fn owners(&self) -> BTreeSet<Address> {
        let map = self.0.read();
        map.ranges.iter().map(|range| range.owner.clone()).collect()
    }

    fn told(&self) -> u64 {
        self.0.read().told
    }

    fn set(&self, ranges: Vec<Range>) {
        let mut map = self.0.write();
        map.ranges = ranges;
        map.told += 1;
        map.doubted.clear();
    }

    /// A member gave no answer to a command. `told`: how often the slots had been told when it was sent; a newer map knows better.
    fn doubt(&self, owner: &Address, told: u64) {
        let mut map = self.0.write();
        if map.told == told {
            map.doubted.insert(owner.clone());
        }
    }

    /// Nobody can tell who has its slots: they stay as they were.
    fn trust(&self, owner: &Address) {
        self.0.write().doubted.remove(owner);
    }

    /// Notes the new owner of one slot.
    fn moved(&self, slot: u16, to: Address) {
        let mut map = self.0.write();
        map.ranges.retain(|range| (range.first, range.last) != (slot, slot));
        let range = Range {
            first: slot,
            last: slot,
            owner: to,
        };
        map.ranges.insert(0, range);
    }
}

/// A cluster. A command that a member did not run, because the slot is elsewhere or on the move, is sent again; one that it may
/// have run is not.
pub(super) struct Cluster {
    seeds: Vec<Address>,
    home: Home,
    settings: Arc<Settings>,
    nodes: RwLock<BTreeMap<Address, Arc<Node>>>,
    refreshing: tokio::sync::Mutex<()>,
    /// How often nobody could tell who has which slots.
    failed: AtomicU64,
    redirected_is_done: bool,
}

impl Cluster {
    fn node(&self, address: &Address) -> Arc<Node> {
        if let Some(node) = self.nodes.read().get(address) {
            return Arc::clone(node);
        }
        let mut nodes = self.nodes.write();
        let made = || {
            Arc::new(Node::new(
                Source::Fixed(address.clone()),
                self.home,
                Arc::clone(&self.settings),
            ))
        };
        Arc::clone(nodes.entry(address.clone()).or_insert_with(made))
    }

    async fn send(&self, slot: u16, command: &Cmd) -> Result<Answer, LinkError> {
        let deadline = Instant::now() + self.settings.response_timeout;
        let mut wait = ASK_AGAIN;
        let mut redirect: Option<(Address, bool)> = None;
        loop {
            let told = self.settings.slots.told();
            let (address, asking) = match redirect.take() {
                Some(redirect) => redirect,
                None => (self.owner(slot).await?, false),
            };
            let node = self.node(&address);
            let sent = if asking {
                node.send_asking(command).await
            } else {
                node.send(command).await
            };
            let error = match sent {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let Some((to, asking)) = moved(&error, &address)
                && Instant::now() < deadline
            {
                if !asking {
                    self.settings.slots.moved(slot, to.clone());
                }
                if self.redirected_is_done {
                    return Ok(Answer {
                        value: Value::Int(0),
                        connection: 0,
                    });
                }
                redirect = Some((to, asking));
                continue;
            }
            let again = match &error {
                LinkError::NotRun(_) => is_passing(&error) && Instant::now() + wait < deadline,
                LinkError::Unknown(_) | LinkError::Refused(_) => false,
            };
            if !again {
                // Whoever tries again next should find the member that took over.
                if matches!(error, LinkError::Unknown(_)) {
                    self.settings.slots.doubt(&address, told);
                }
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(ASK_AGAIN_MAX);
            if !error.is(ServerErrorKind::TryAgain) {
                // The map stays as it was where nobody can be asked; the deadline ends this.
                if let Err(failed) = self.refresh(Some(&address)).await {
                    tracing::debug!(?failed, "the slots of the cluster cannot be read");
                }
            }
        }
    }

    /// Who has a slot, as far as anybody can tell.
    async fn owner(&self, slot: u16) -> Result<Address, LinkError> {
        let slots = &self.settings.slots;
        match slots.owner(slot) {
            Some((owner, false)) => return Ok(owner),
            Some((owner, true)) => {
                if let Err(failed) = self.refresh(Some(&owner)).await {
                    tracing::debug!(?failed, "the slots of the cluster cannot be read");
                    slots.trust(&owner);
                    return Ok(owner);
                }
            }
            None => self.refresh(None).await?,
        }
        let (owner, _) = slots.owner(slot).ok_or_else(|| not_covered(slot))?;
        Ok(owner)
    }

    /// Asks a member who has which slots: first those other than `suspect`. Whoever waited meanwhile shares what came of it.
    async fn refresh(&self, suspect: Option<&Address>) -> Result<(), LinkError> {
        let tries = || (self.settings.slots.told(), self.failed.load(Ordering::Acquire));
        let before = tries();
        // Those of other connections ask by themselves: none waits for the runtime of another one.
        let _one_at_a_time = self.refreshing.lock().await;
        if tries() != before {
            return Ok(());
        }
        let mut members: Vec<Address> = self.nodes.read().keys().cloned().collect();
        members.extend(self.seeds.iter().cloned());
        members.sort_by_key(|member| Some(member) == suspect);
        let mut last = not_covered(0);
        for member in members {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            let node = self.node(&member);
            let asked = tokio::time::timeout(self.settings.connect_timeout, node.send(&command)).await;
            match asked {
                Ok(Ok(answer)) => match ranges(answer.value, &member) {
                    Some(ranges) => {
                        self.settings.slots.set(ranges);
                        return Ok(());
                    }
                    None => tracing::debug!(%member, "the slots that it tells make no sense"),
                },
                Ok(Err(error)) => last = error,
                Err(_) => tracing::debug!(%member, "does not tell its slots in time"),
            }
        }
        self.failed.fetch_add(1, Ordering::AcqRel);
        Err(last)
    }
}

fn not_covered(slot: u16) -> LinkError {
    let why = format!("no member of the cluster has slot {slot}");
    LinkError::NotRun((redis::ErrorKind::ClusterConnectionNotFound, "cluster", why).into())
}

/// Where a member sends us, and whether only for this command.
fn moved(error: &LinkError, from: &Address) -> Option<(Address, bool)> {
    let LinkError::NotRun(error) = error else { return None };
    let (to, _) = error.redirect_node()?;
    // A member that does not know its own name means the host it was reached at.
    let to = if to.starts_with(':') {
        format!("{}{to}", from.host)
    } else {
        to.to_owned()
    };
    let asking = error.kind() == redis::ErrorKind::Server(ServerErrorKind::Ask);
    Some((Address::parse(&to, from.port)?, asking))
}

/// Whether asking again soon makes sense: the slot is on the move, or its member is not there and another will take over.
fn is_passing(error: &LinkError) -> bool {
    let LinkError::NotRun(error) = error else { return false };
    match error.kind() {
        redis::ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
        ),
        redis::ErrorKind::Io | redis::ErrorKind::ClusterConnectionNotFound => true,
        _ => false,
    }
}

/// Answer of `CLUSTER SLOTS`.
fn ranges(value: Value, asked: &Address) -> Option<Vec<Range>> {
    let mut ranges = Vec::new();
    for range in decode::list(value).ok()? {
        let mut parts = decode::list(range).ok()?.into_iter();
        let first = u16::try_from(decode::number(parts.next()?).ok()?).ok()?;
        let last = u16::try_from(decode::number(parts.next()?).ok()?).ok()?;
        let mut master = decode::list(parts.next()?).ok()?.into_iter();
        let host = match master.next()? {
            Value::Nil => String::new(),
            host => String::from_utf8(decode::bytes(host).ok()?).ok()?,
        };
        let host = if host.is_empty() { asked.host.clone() } else { host };
        let port = u16::try_from(decode::number(master.next()?).ok()?).ok()?;
        if first > last || last >= SLOTS {
            return None;
        }
        ranges.push(Range {
            first,
            last,
            owner: Address { host, port },
        });
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_an_answer_is_doubted_until_somebody_tells_who_has_its_slots() {
        let address = |port| Address {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let range = |first, last, port| Range {
            first,
            last,
            owner: address(port),
        };
        let slots = Slots::default();
        assert_eq!(slots.owner(7), None);
        slots.set(vec![range(0, 99, 1), range(100, 199, 2)]);
        slots.doubt(&address(1), slots.told());
        assert_eq!(slots.owner(7), Some((address(1), true)), "its slots stay known");
        assert_eq!(slots.owner(107), Some((address(2), false)));
        slots.trust(&address(1));
        assert_eq!(slots.owner(7), Some((address(1), false)));
        slots.doubt(&address(1), slots.told());
        let old = slots.told();
        slots.set(vec![range(0, 199, 1)]);
        assert_eq!(slots.owner(7), Some((address(1), false)), "a member has told it anew");
        slots.doubt(&address(1), old);
        assert_eq!(
            slots.owner(7),
            Some((address(1), false)),
            "the command was sent by an older map"
        );
    }
}
