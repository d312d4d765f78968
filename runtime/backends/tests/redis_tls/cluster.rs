//! Three masters of a cluster: any of them tells of the others, and a slot is followed from one to another.

use redis::Cmd;
use troupe_backends::{RedisDurability, RedisOptions, RedisStore};
use troupe_ports::StateStore;
use troupe_ports::conformance::{Clause, run_all};

use super::Encrypted;
use super::encryption::{Called, Encryption, LEASE, SHARD, append, commits, until};
use super::support::redis::{RedisServer, clauses_of_redis};
use super::support::{free_port, unique};

struct Member {
    port: u16,
    /// What it calls itself.
    id: String,
    _server: RedisServer,
}

impl Member {
    fn start(encryption: &Encryption) -> Self {
        let port = free_port();
        let mut settings = encryption.settings(port);
        let mut set = |setting: &str| settings.push(setting.to_owned());
        set("tls-cluster yes");
        set("cluster-enabled yes");
        set("cluster-config-file nodes.conf");
        // A member that a busy machine keeps has not failed.
        set("cluster-node-timeout 5000");
        if encryption.called == Called::ByName {
            set("cluster-announce-hostname localhost");
            set("cluster-preferred-endpoint-type hostname");
        }
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let server = RedisServer::start_cluster_member(&settings);
        Self {
            port,
            id: encryption.ask(port, redis::cmd("CLUSTER").arg("MYID")).unwrap(),
            _server: server,
        }
    }
}

struct Cluster {
    encryption: Encryption,
    members: Vec<Member>,
}

impl Cluster {
    async fn start(called: Called) -> Self {
        let encryption = Encryption::new(called);
        let members: Vec<Member> = (0..3).map(|_| Member::start(&encryption)).collect();
        let mut create = vec!["--cluster".to_owned(), "create".to_owned()];
        create.extend(members.iter().map(|member| format!("127.0.0.1:{}", member.port)));
        create.push("--cluster-yes".to_owned());
        encryption.cli(&create);
        let cluster = Self { encryption, members };
        for member in 0..cluster.members.len() {
            until("a member sees a whole cluster", || cluster.is_whole_for(member)).await;
        }
        cluster
    }

    /// Whether a member sees that every slot has a master, and knows what each of them is called.
    fn is_whole_for(&self, member: usize) -> bool {
        let ask = |what: &str| -> String { self.ask(member, redis::cmd("CLUSTER").arg(what)) };
        let called = match self.encryption.called {
            Called::ByAddress => " 127.0.0.1:",
            Called::ByName => ",localhost ",
        };
        ask("INFO").contains("cluster_state:ok") && ask("NODES").matches(called).count() == self.members.len()
    }

    /// What a member answers that does as it is asked.
    fn ask<T: redis::FromRedisValue>(&self, member: usize, command: &Cmd) -> T {
        self.encryption.ask(self.members[member].port, command).unwrap()
    }

    /// Options of a store that is told of one member.
    fn options(&self, prefix: &str) -> RedisOptions {
        let (host, port) = (self.encryption.called.host(), self.members[0].port);
        RedisOptions {
            prefix: prefix.to_owned(),
            shards: 8,
            durability: RedisDurability::Volatile,
            tls: self.encryption.tls(),
            ..RedisOptions::new(format!("rediss+cluster://{host}:{port}"))
        }
    }

    /// The slot of a hash tag, and the member that has it.
    fn place(&self, tag: &str) -> (u16, usize) {
        let slot: u16 = self.ask(0, redis::cmd("CLUSTER").arg("KEYSLOT").arg(tag));
        let mut exists = redis::cmd("EXISTS");
        exists.arg(tag);
        // Any other one says where it is instead.
        let has = |member: &Member| self.encryption.ask::<u64>(member.port, &exists).is_ok();
        let member = self.members.iter().position(has);
        (slot, member.unwrap_or_else(|| panic!("nobody has slot {slot}")))
    }

    /// From here on the slot is on the move, and all its keys have arrived.
    fn carry(&self, slot: u16, from: usize, to: usize) {
        for (member, verb, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let mut set_slot = redis::cmd("CLUSTER");
            set_slot.arg("SETSLOT").arg(slot).arg(verb).arg(&self.members[other].id);
            self.ask::<()>(member, &set_slot);
        }
        let mut some = redis::cmd("CLUSTER");
        some.arg("GETKEYSINSLOT").arg(slot).arg(1_000);
        let keys: Vec<Vec<u8>> = self.ask(from, &some);
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.members[to].port).arg("");
        migrate.arg(0).arg(5_000).arg("KEYS").arg(keys);
        self.ask::<()>(from, &migrate);
        assert_eq!(self.keys(slot, from), 0, "it is no move of all keys");
    }

    /// Ends the move of a slot.
    fn settle(&self, slot: u16, to: usize) {
        for member in [to, (to + 1) % 3, (to + 2) % 3] {
            let mut set_slot = redis::cmd("CLUSTER");
            set_slot.arg("SETSLOT").arg(slot).arg("NODE").arg(&self.members[to].id);
            self.ask::<()>(member, &set_slot);
        }
    }

    /// How many keys of a slot a member has.
    fn keys(&self, slot: u16, member: usize) -> u64 {
        self.ask(member, redis::cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(slot))
    }

    /// How often a member has answered with an error.
    fn errors(&self, member: usize, code: &str) -> u64 {
        let stats: String = self.ask(member, redis::cmd("INFO").arg("errorstats"));
        let name = format!("errorstat_{code}:count=");
        let of = |line: &str| line.strip_prefix(&name)?.trim().parse().ok();
        stats.lines().find_map(of).unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_passes_on_an_encrypted_cluster() {
    let cluster = Cluster::start(Called::ByAddress).await;
    let test = async |clause: &Clause<Encrypted>| {
        let encrypted = Encrypted(cluster.options(&unique("encrypted")));
        clause.run(&encrypted).await;
    };
    // Some clauses watch the clock: no other one keeps them waiting.
    let clauses = clauses_of_redis!(Encrypted).into_iter();
    let (timed, others): (Vec<_>, Vec<_>) =
        clauses.partition(|clause| ["members", "semaphores"].contains(&clause.suite));
    run_all(&others, 4, &test).await;
    run_all(&timed, 1, &test).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_followed_to_an_encrypted_member_by_its_address() {
    Box::pin(a_slot_is_followed(Called::ByAddress)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_followed_to_an_encrypted_member_by_its_name() {
    Box::pin(a_slot_is_followed(Called::ByName)).await;
}

async fn a_slot_is_followed(called: Called) {
    let cluster = Cluster::start(called).await;
    let options = cluster.options("moved");
    let store = RedisStore::open(&options).await.unwrap();
    let lease = store.acquire(SHARD, "owner", LEASE).await.unwrap();
    append(&store, &lease, 1).await.unwrap();
    let (slot, from) = cluster.place("{moved:s1}");
    let to = (from + 1) % 3;
    let [asked, moved] = ["ASK", "MOVED"].map(|code| cluster.errors(from, code));

    cluster.carry(slot, from, to);
    // What wants a key that there never was is told to come again, until the slot has moved.
    let settled = async {
        until("somebody is sent to where the slot moves", || {
            cluster.errors(from, "ASK") > asked
        })
        .await;
        cluster.settle(slot, to);
    };
    let (second, ()) = tokio::join!(append(&store, &lease, 2), settled);
    second.unwrap();
    append(&store, &lease, 3).await.unwrap();
    assert!(
        cluster.errors(from, "MOVED") > moved,
        "nobody is sent to where the slot is"
    );
    assert_eq!(commits(&store).await, [1, 2, 3]);
    assert!(cluster.keys(slot, to) > 0, "nothing of it is where the slot is");

    let other = RedisStore::open(&options).await.unwrap();
    assert_eq!(commits(&other).await, [1, 2, 3]);
}
