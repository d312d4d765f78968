//! What two owners of a shard say of a ticket, in many of the orders in which it can arrive: what runs is counted, and nothing is left
//! of an execution that has ended.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use troupe_backends::InProcessSemaphores;
use troupe_core::Timestamp;
use troupe_ports::{Ask, Hold, Semaphores};

use super::*;

const SHARD: ShardId = ShardId(0);
/// Pause before it is looked again whether somebody repeats a call.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often everybody has a turn until all calls that follow from one step are made.
const TURNS: usize = 8;
/// How often a member asks for the execution before it has no time for that: longer than what is drawn can take.
const ASKS: usize = 3;
const DRAWN: u64 = 2_048;
/// So many at once: each waits a little for repeated calls, and each has its turns.
const AT_ONCE: u64 = 32;

fn key() -> RoomKey {
    RoomKey {
        workflow: "w".into(),
        key: "k".into(),
    }
}

fn asking() -> Asking {
    Asking {
        id: ExecutionId::fresh(SHARD, Timestamp(1), 1),
        priority: 5,
        started_at: Timestamp(1),
        limit: 1,
    }
}

/// The way of one owner to the store: what it calls waits here until it may arrive, one after the other.
struct Wire {
    store: Arc<InProcessSemaphores>,
    /// Told whether the answer arrives, too.
    waiting: Mutex<VecDeque<oneshot::Sender<bool>>>,
}

impl Wire {
    async fn passes<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let (send, arrives) = oneshot::channel();
        self.waiting.lock().push_back(send);
        let is_answered = arrives.await.unwrap_or(false);
        let answer = call.await;
        if is_answered {
            return answer;
        }
        Err(StoreError::Unavailable("the answer is lost".into()))
    }

    /// What was called first arrives.
    fn deliver(&self, is_answered: bool) {
        if let Some(first) = self.waiting.lock().pop_front() {
            first.send(is_answered).ok();
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.lock().is_empty()
    }
}

#[async_trait]
impl Semaphores for Wire {
    async fn acquire(&self, key: &[u8], ask: &Ask<'_>) -> Result<Asked, StoreError> {
        self.passes(self.store.acquire(key, ask)).await
    }

    async fn hold(&self, key: &[u8], ticket: &[u8], hold: Hold) -> Result<(), StoreError> {
        self.passes(self.store.hold(key, ticket, hold)).await
    }

    async fn renew(&self, held: &[(&[u8], &[u8])], ttl: Duration) -> Result<Vec<bool>, StoreError> {
        self.passes(self.store.renew(held, ttl)).await
    }

    async fn release(&self, key: &[u8], ticket: &[u8], under: Option<Epoch>) -> Result<bool, StoreError> {
        self.passes(self.store.release(key, ticket, under)).await
    }

    async fn bar(&self, key: &[u8], ticket: &[u8], below: Epoch) -> Result<(), StoreError> {
        self.passes(self.store.bar(key, ticket, below)).await
    }

    async fn note(&self, shard: ShardId, under: Epoch, ticket: &[u8], key: &[u8]) -> Result<(), StoreError> {
        self.passes(self.store.note(shard, under, ticket, key)).await
    }

    async fn strike(&self, shard: ShardId, under: Epoch, ticket: &[u8]) -> Result<(), StoreError> {
        self.passes(self.store.strike(shard, under, ticket)).await
    }

    async fn noted(&self, shard: ShardId, under: Epoch) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.passes(self.store.noted(shard, under)).await
    }
}

/// What the log says of the execution, and who may write to it.
#[derive(Debug, Default)]
struct Log {
    owner: usize,
    was_let_in: bool,
    has_ended: bool,
}

/// An owner of the shard.
struct Owner {
    number: usize,
    wire: Arc<Wire>,
    rooms: EngineRooms,
    log: Arc<Mutex<Log>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Owner {
    fn new(number: usize, store: &Arc<InProcessSemaphores>, log: &Arc<Mutex<Log>>) -> Arc<Self> {
        let wire = Arc::new(Wire {
            store: Arc::clone(store),
            waiting: Mutex::default(),
        });
        let limits = Arc::new(SharedLimits::new(Arc::clone(&wire) as Arc<dyn Semaphores>));
        Arc::new(Self {
            number,
            wire,
            rooms: EngineRooms::new(Some(&limits)),
            log: Arc::clone(log),
            tasks: Mutex::default(),
        })
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.number as u64 + 1)
    }

    /// Asks for the execution, as an engine does.
    async fn knocks(self: Arc<Self>) {
        let begun = self.rooms.rooms.lock().begin_knocking(&key());
        let (Some(knocking), Some(tickets)) = (begun, &self.rooms.tickets) else {
            return;
        };
        let mut unsure = None;
        for _ in 0..ASKS {
            let next = self.rooms.rooms.lock().next_to_knock(&key(), knocking, unsure.take());
            let Some(asking) = next else { return };
            match self.rooms.knock(tickets, &key(), asking, self.epoch()).await {
                Knocked::In => {
                    let mut log = self.log.lock();
                    log.was_let_in |= log.owner == self.number;
                }
                Knocked::Over | Knocked::Refused => {}
                Knocked::Unsure => unsure = Some(asking.id),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Looks through the notes, and lets in who waits after that.
    async fn reconciles(self: Arc<Self>) {
        while self.rooms.reconcile(SHARD, self.epoch()).await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.knocks().await;
    }

    fn begin(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().push(tokio::spawn(task));
    }

    /// Whether it has nothing more to say.
    fn is_done(&self) -> bool {
        let tickets = self.rooms.tickets.as_ref().unwrap();
        let tells = !tickets.limits.has_crashed() && tickets.is_telling();
        self.wire.is_idle() && !tells && self.tasks.lock().iter().all(JoinHandle::is_finished)
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The execution ends, at whoever owns the shard.
    Ends,
    /// The other one takes the shard, and hears of the execution.
    TakesOver,
    /// It has heard of all executions.
    Reconciles,
    /// The first one learns that it was replaced.
    Learns,
    /// The first one's process is gone; what it said may still be on its way.
    Dies,
    /// What an owner said first arrives, and so does the answer, or not.
    Arrives(usize, bool),
}

struct Play {
    log: Arc<Mutex<Log>>,
    store: Arc<InProcessSemaphores>,
    owners: [Arc<Owner>; 2],
    done: Vec<Step>,
    /// Whether the execution ends when everybody has said everything, and not before.
    ends_last: bool,
    /// Whether it ran then.
    ran_last: bool,
}

impl Play {
    fn new(ends_last: bool) -> Self {
        let (store, log) = (Arc::<InProcessSemaphores>::default(), Arc::default());
        let owners = [0, 1].map(|number| Owner::new(number, &store, &log));
        Self {
            log,
            store,
            owners,
            done: Vec::new(),
            ends_last,
            ran_last: false,
        }
    }

    /// What may happen next.
    fn open(&self) -> Vec<Step> {
        let has = |step| self.done.contains(&step);
        let log = self.log.lock();
        let mut open = Vec::new();
        let mut may = |step, if_so: bool| open.extend((if_so && !has(step)).then_some(step));
        may(Step::Ends, !log.has_ended && !self.ends_last);
        may(Step::TakesOver, true);
        may(Step::Reconciles, log.owner == 1);
        may(Step::Learns, log.owner == 1 && !has(Step::Dies));
        may(Step::Dies, !has(Step::Learns));
        drop(log);
        for owner in self.owners.iter().filter(|owner| !owner.wire.is_idle()) {
            open.push(Step::Arrives(owner.number, true));
            // Once each is as much as a play of this length bears.
            let unanswered = Step::Arrives(owner.number, false);
            open.extend((!has(unanswered)).then_some(unanswered));
        }
        open
    }

    async fn step(&mut self, step: Step) {
        let owner = self.log.lock().owner;
        let [first, second] = &self.owners;
        match step {
            Step::Ends => {
                self.log.lock().has_ended = true;
                self.owners[owner].rooms.leave(asking().id, self.owners[owner].epoch());
            }
            Step::TakesOver => {
                let mut log = self.log.lock();
                log.owner = 1;
                if log.was_let_in && !log.has_ended {
                    second.rooms.runs(key(), asking().id, second.epoch());
                } else if !log.has_ended {
                    second.rooms.rooms.lock().ask(key(), asking());
                }
            }
            Step::Reconciles => second.begin(Arc::clone(second).reconciles()),
            Step::Learns => first.rooms.forget_shard(SHARD),
            Step::Dies => first.rooms.tickets.as_ref().unwrap().limits.crash(),
            Step::Arrives(owner, is_answered) => self.owners[owner].wire.deliver(is_answered),
        }
        self.done.push(step);
        settle().await;
    }

    /// Plays what a seed draws to the end.
    async fn of(seed: u64) -> Self {
        let (mut random, mut play) = (seed, Self::new(seed % 2 == 1));
        let first = &play.owners[0];
        first.rooms.rooms.lock().ask(key(), asking());
        first.begin(Arc::clone(first).knocks());
        settle().await;
        loop {
            let open = play.open();
            if !open.is_empty() {
                play.step(open[draw(&mut random, open.len())]).await;
            } else if play.owners.iter().all(|owner| owner.is_done()) {
                if play.done.contains(&Step::Ends) {
                    return play;
                }
                play.ran_last = play.log.lock().was_let_in;
                if play.ran_last {
                    let counted = (play.store.keys(), play.store.notes());
                    assert_eq!(
                        counted,
                        (1, 1),
                        "holders and notes while it runs, seed {seed}: {:?}",
                        play.done
                    );
                }
                play.step(Step::Ends).await;
            } else {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// Lets everybody say what follows from what happened last.
async fn settle() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// SplitMix64: the same orders every time.
fn draw(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % below as u64) as usize
}

#[tokio::test]
async fn what_runs_is_counted_and_nothing_is_left_of_what_ended_in_whatever_order_two_owners_are_heard() {
    let mut plays = Vec::new();
    for first in (0..DRAWN).step_by(AT_ONCE as usize) {
        plays.extend(join_all((first..first + AT_ONCE).map(Play::of)).await);
    }
    let (mut late, mut unanswered) = (0, 0);
    for (seed, play) in plays.iter().enumerate() {
        let left = (play.store.keys(), play.store.notes());
        assert_eq!(left, (0, 0), "holders and notes after seed {seed}: {:?}", play.done);
        let taken = play.done.iter().position(|step| *step == Step::TakesOver).unwrap();
        late += usize::from(play.done[taken..].contains(&Step::Arrives(0, true)));
        unanswered += usize::from(play.done.contains(&Step::Arrives(0, false)));
    }
    let ran = plays.iter().filter(|play| play.ran_last).count();
    assert!(late > 500 && unanswered > 500, "{late} late, {unanswered} unanswered");
    assert!(ran > 200, "{ran} ran until everybody had said everything");
}
