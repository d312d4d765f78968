//! A Redis Cluster of three masters with a replica each, where slots move, and replicas take over when they are told to.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::redis::{Redis, Sync, ask};
use super::{output_of, until};

const MASTERS: usize = 3;
/// How long the nodes may take to agree on who has which slots.
const AGREES_WITHIN: Duration = Duration::from_secs(60);
/// How often a replica is told again to take over: it gives up by itself after 5 s.
const TOLD_EVERY: Duration = Duration::from_secs(6);
/// Keys of a slot that move one by one, with a pause after each: scripts find some here and some there.
const SLOWLY: u64 = 10;
/// How many of the others move at a time.
const AT_ONCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// Sends some keys of a slot to another node: ids of executions are bytes that no shell passes on.
const MIGRATE: &str = "local keys = redis.call('CLUSTER', 'GETKEYSINSLOT', ARGV[1], ARGV[2]) \
                       if #keys > 0 then redis.call('MIGRATE', '127.0.0.1', ARGV[3], '', 0, 5000, 'KEYS', unpack(keys)) end \
                       return #keys";
/// Tells of each shard where its log ends, and the epoch and the name of its owner. It declares no keys and no flags: such a script may
/// read what it finds in whichever slots of its node.
const LOGS: &str = r"
local out = {}
for at = 2, #ARGV do
  local tag = '{' .. ARGV[1] .. ':s' .. ARGV[at] .. '}'
  local o = redis.call('HMGET', tag .. 'o', 'e', 'o', 't')
  local ends = tonumber(o[3]) + redis.call('LLEN', tag .. 'l')
  out[#out + 1] = string.format('%s %.0f %s %s', ARGV[at], ends, o[1], o[2] or '-')
end
return out";

/// A cluster of the harness's own. Its nodes sync before they answer, and no replica takes over by itself.
#[derive(Debug)]
pub(in crate::chaos) struct RedisCluster {
    nodes: Vec<Redis>,
}

/// What a node is, as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Seat {
    pub(in crate::chaos) port: u16,
    id: String,
    /// Id of the master that it follows, if it is a replica.
    follows: Option<String>,
    slots: Vec<(u16, u16)>,
}

impl Seat {
    pub(in crate::chaos) fn is_master(&self) -> bool {
        self.follows.is_none()
    }

    pub(in crate::chaos) fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }

    /// Reads a line of `CLUSTER NODES`.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, address, flags, follows, _, _, _, _, slots @ ..] = words.as_slice() else {
            return None;
        };
        let port = address.split_once('@')?.0.rsplit_once(':')?.1.parse().ok()?;
        let mut ranges = Vec::new();
        // In brackets stands what moves.
        for range in slots.iter().filter(|range| !range.starts_with('[')) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            ranges.push((first.parse().ok()?, last.parse().ok()?));
        }
        Some(Self {
            port,
            id: (*id).to_owned(),
            follows: flags.contains("slave").then(|| (*follows).to_owned()),
            slots: ranges,
        })
    }
}

/// The log of a shard, as its master has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct Log {
    /// Position of the last record.
    pub(in crate::chaos) end: u64,
    /// Epoch and name of whoever has the shard, if anybody has.
    pub(in crate::chaos) owner: Option<(u64, String)>,
}

impl Log {
    /// Reads a line of [`LOGS`], which begins with the shard.
    fn parse(line: &str) -> Option<(u16, Self)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [shard, end, epoch, name] = words.as_slice() else {
            return None;
        };
        let epoch = epoch.parse().ok()?;
        let log = Self {
            end: end.parse().ok()?,
            owner: (*name != "-").then(|| (epoch, (*name).to_owned())),
        };
        Some((shard.parse().ok()?, log))
    }
}

impl RedisCluster {
    /// Starts the nodes and has them share all slots.
    pub(in crate::chaos) fn start(folder: &Path) -> anyhow::Result<Self> {
        let nodes = (0..2 * MASTERS).map(|node| Redis::cluster_node(&folder.join(node.to_string()), Sync::Always));
        let nodes = nodes.collect::<anyhow::Result<Vec<Redis>>>()?;
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())));
        output_of(create.args(["--cluster-replicas", "1", "--cluster-yes"]))?;
        let cluster = Self { nodes };
        cluster.until_agreed()?;
        Ok(cluster)
    }

    pub(in crate::chaos) fn url(&self) -> String {
        let hosts: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()))
            .collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The node at this port.
    pub(in crate::chaos) fn node(&mut self, port: u16) -> anyhow::Result<&mut Redis> {
        let node = self.nodes.iter_mut().find(|node| node.port() == port);
        node.with_context(|| format!("the cluster has no node at port {port}"))
    }

    /// Starts every node that does not run.
    pub(in crate::chaos) fn run_all(&mut self) -> anyhow::Result<()> {
        let mut dead = self.nodes.iter_mut().filter(|node| !node.is_running());
        dead.try_for_each(Redis::run)
    }

    /// How many bytes of commands a node has written, or heard from its master.
    pub(in crate::chaos) fn written(&self, seat: &Seat) -> anyhow::Result<u64> {
        self.at(seat.port)?.info("replication", "master_repl_offset")
    }

    fn at(&self, port: u16) -> anyhow::Result<&Redis> {
        let node = self.nodes.iter().find(|node| node.port() == port);
        node.with_context(|| format!("the cluster has no node at port {port}"))
    }

    /// Asks the node at this port.
    pub(in crate::chaos) fn ask(&self, port: u16, words: &[&str]) -> anyhow::Result<String> {
        self.at(port)?.ask(words)
    }

    /// What every running master answers, one after the other.
    pub(in crate::chaos) fn ask_masters(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut answers = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            if is_master(node)? {
                answers.push(node.ask(words)?);
            }
        }
        Ok(answers.join("\n"))
    }

    /// Who has which slots, and who follows whom.
    pub(in crate::chaos) fn seats(&self) -> anyhow::Result<Vec<Seat>> {
        let running = self.nodes.iter().find(|node| node.is_running());
        let text = running
            .context("no node of the cluster runs")?
            .ask(&["CLUSTER", "NODES"])?;
        let seats = text
            .lines()
            .map(|line| Seat::parse(line).with_context(|| format!("no node of a cluster: {line}")));
        seats.collect()
    }

    /// The slot of a key.
    pub(in crate::chaos) fn slot_of(&self, key: &str) -> anyhow::Result<u16> {
        let slot = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key])?;
        slot.parse().with_context(|| format!("{slot} is no slot"))
    }

    /// The replica of a master.
    pub(in crate::chaos) fn replica_of(&self, master: &Seat) -> anyhow::Result<Seat> {
        let follows = |seat: &Seat| seat.follows.as_ref() == Some(&master.id);
        let replica = self.seats()?.into_iter().find(follows);
        replica.with_context(|| format!("the master at port {} has no replica", master.port))
    }

    /// Waits until every node knows a whole cluster, in which every replica follows its master.
    pub(in crate::chaos) fn until_agreed(&self) -> anyhow::Result<()> {
        until("the nodes of a cluster agree", AGREES_WITHIN, || {
            let mut replicas = 0;
            for node in &self.nodes {
                let follows = node.ask(&["INFO", "replication"])?.contains("master_link_status:up");
                replicas += usize::from(follows);
                if !node.ask(&["CLUSTER", "INFO"])?.contains("cluster_state:ok") {
                    return Ok(false);
                }
            }
            Ok(replicas == self.nodes.len() - MASTERS)
        })
    }

    /// The logs of shards that a master has.
    pub(in crate::chaos) fn logs(
        &self,
        master: &Seat,
        prefix: &str,
        shards: &[u16],
    ) -> anyhow::Result<BTreeMap<u16, Log>> {
        let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
        let mut words = vec!["EVAL", LOGS, "0", prefix];
        words.extend(shards.iter().map(String::as_str));
        let told = self.ask(master.port, &words)?;
        let logs = told.lines().filter(|line| !line.is_empty());
        logs.map(|line| Log::parse(line).with_context(|| format!("no log of a shard: {line}")))
            .collect()
    }

    /// How often somebody was told that a slot is elsewhere, or on the move.
    pub(in crate::chaos) fn redirections(&self) -> anyhow::Result<Redirections> {
        let mut all = Redirections::default();
        for node in &self.nodes {
            for line in node.ask(&["INFO", "errorstats"])?.lines() {
                let Some((name, times)) = line.trim().split_once(":count=") else {
                    continue;
                };
                let times: u64 = times.parse().with_context(|| format!("{line} is no number"))?;
                match name {
                    "errorstat_MOVED" => all.moved += times,
                    "errorstat_ASK" | "errorstat_TRYAGAIN" => all.on_the_move += times,
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    /// How these slots move from one master to another one.
    pub(in crate::chaos) fn moves(&self, slots: Vec<u16>, from: Seat, to: Seat) -> anyhow::Result<Moves> {
        let mut masters = self.seats()?;
        masters.retain(Seat::is_master);
        // Whom slots go to learns of it first.
        masters.sort_by_key(|seat| seat.id != to.id);
        let masters = masters.iter().map(|seat| seat.port).collect();
        Ok(Moves {
            slots,
            from,
            to,
            masters,
        })
    }

    /// Makes a replica the master: with `how` empty once it has all that its master has, with `TAKEOVER` at once, whatever it lacks.
    pub(in crate::chaos) fn promote(&self, replica: &Seat, how: &[&str]) -> anyhow::Result<()> {
        let node = self.at(replica.port)?;
        let mut told: Option<Instant> = None;
        until("a replica is the master", AGREES_WITHIN, || {
            if is_master(node)? {
                return Ok(true);
            }
            if told.is_none_or(|at| at.elapsed() > TOLD_EVERY) {
                node.ask(&[&["CLUSTER", "FAILOVER"], how].concat())?;
                told = Some(Instant::now());
            }
            Ok(false)
        })
    }

    /// Whether its replica hears what a master writes. Everybody else does not notice.
    pub(in crate::chaos) fn replicates(&self, master: &Seat, does: bool) -> anyhow::Result<()> {
        let (psync, sync) = if does { ("+psync", "+sync") } else { ("-psync", "-sync") };
        self.ask(master.port, &["ACL", "SETUSER", "default", psync, sync])?;
        if !does {
            self.ask(master.port, &["CLIENT", "KILL", "TYPE", "replica"])?;
        }
        Ok(())
    }
}

/// Slots that are to move.
#[derive(Debug)]
pub(in crate::chaos) struct Moves {
    slots: Vec<u16>,
    from: Seat,
    to: Seat,
    /// Ports of all masters.
    masters: Vec<u16>,
}

impl Moves {
    /// Moves them, one after the other; how many keys that were.
    ///
    /// # Errors
    /// When a node refuses, or a slot had no keys.
    pub(in crate::chaos) fn run(&self) -> anyhow::Result<u64> {
        let keys = self.slots.iter().map(|slot| self.move_one(*slot));
        keys.sum()
    }

    fn move_one(&self, slot: u16) -> anyhow::Result<u64> {
        let text = slot.to_string();
        let set = |port: u16, what: &str, id: &str| ask(port, &["CLUSTER", "SETSLOT", &text, what, id]);
        set(self.to.port, "IMPORTING", &self.from.id)?;
        set(self.from.port, "MIGRATING", &self.to.id)?;
        let port = self.to.port.to_string();
        let mut moved = 0;
        loop {
            let most = if moved < SLOWLY { 1 } else { AT_ONCE };
            let keys = ask(self.from.port, &["EVAL", MIGRATE, "0", &text, &most.to_string(), &port])?;
            match keys.parse().with_context(|| format!("keys do not move: {keys}"))? {
                0_u64 => break,
                some => moved += some,
            }
            std::thread::sleep(PAUSE);
        }
        ensure!(moved > 0, "slot {slot} had no keys");
        for master in &self.masters {
            set(*master, "NODE", &self.to.id)?;
        }
        Ok(moved)
    }
}

/// Whether a node takes itself for a master.
fn is_master(node: &Redis) -> anyhow::Result<bool> {
    Ok(node.ask(&["ROLE"])?.starts_with("master"))
}

/// How often nodes sent somebody elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::chaos) struct Redirections {
    /// `MOVED`.
    pub(in crate::chaos) moved: u64,
    /// `ASK`, and `TRYAGAIN` where keys are at both.
    pub(in crate::chaos) on_the_move: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_line_of_a_node_tells_its_seat() {
        let master =
            "7f47 127.0.0.1:27103@27203 myself,master,nofailover - 0 1795 3 connected 7 10923-16383 [12182->-e74d]";
        let master = Seat::parse(master).unwrap();
        assert_eq!((master.port, &master.follows), (27_103, &None));
        assert!(master.has(7) && master.has(10_923) && master.has(16_383));
        assert!(!master.has(8) && !master.has(10_922));
        let replica = Seat::parse("275e 127.0.0.1:27106@27206 slave,nofailover 7f47 0 1795 3 connected").unwrap();
        assert_eq!(replica.follows.as_deref(), Some("7f47"));
        assert!(Seat::parse("275e 127.0.0.1:27106@27206").is_none());
    }

    #[test]
    fn a_line_of_a_shard_tells_where_its_log_ends_and_who_has_it() {
        let (shard, log) = Log::parse("3 120 1790000000123 engine-0-ab").unwrap();
        assert_eq!((shard, log.end), (3, 120));
        assert_eq!(log.owner, Some((1_790_000_000_123, "engine-0-ab".to_owned())));
        let (_, free) = Log::parse("3 120 1790000000124 -").unwrap();
        assert_eq!(free.owner, None);
        assert!(Log::parse("3 120 17").is_none() && Log::parse("3 120 later engine-0-ab").is_none());
    }
}
