#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use troupe_ports::{InboxPush, SystemClock};

use super::*;
use crate::auth::Caller;
use crate::members::forward::NOT_HERE;
use crate::members::inbox::MOST;
use crate::wiring::embedded_state;

const SHARD: ShardId = ShardId(1);

/// An inbox whose commands are run by a router that does what their last word says.
struct Bench {
    drain: Drain,
    epoch: Epoch,
    /// What was run, in order.
    ran: Arc<Mutex<Vec<String>>>,
    /// Whether `later` is now.
    open: Arc<AtomicBool>,
    _directory: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = embedded_state(directory.path()).unwrap();
        let (ran, open) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let router = router(Arc::clone(&ran), Arc::clone(&open));
        let drain = Drain {
            shard: SHARD,
            state,
            clock: Arc::new(SystemClock),
            router,
            key: MemberKey::new(b"secret"),
            name: "owner".to_owned(),
            within: Duration::from_secs(20),
            pause: Duration::ZERO,
            metrics: Arc::new(InboxMetrics::new()),
            delayed: BTreeMap::new(),
            depth: 0,
        };
        let mut bench = Self {
            drain,
            epoch: Epoch(0),
            ran,
            open,
            _directory: directory,
        };
        bench.epoch = bench.acquire().await;
        bench
    }

    async fn acquire(&self) -> Epoch {
        let acquired = self.drain.state.acquire(SHARD, "owner", Duration::from_secs(60));
        acquired.await.unwrap().epoch
    }

    async fn push(&self, number: u8, bytes: Bytes) {
        let pushed = self.drain.state.inbox_push(SHARD, InboxId([number; 32]), bytes, MOST);
        assert_eq!(pushed.await.unwrap(), InboxPush::Kept);
    }

    /// Leaves commands, such as `a/ok`: for execution `a`.
    async fn leave(&self, commands: &[&str]) {
        for (number, command) in (0..).zip(commands) {
            let request = Request::post(format!("/api/v1/executions/{command}")).body(()).unwrap();
            let execution = command.split('/').next().map(str::to_owned);
            let letter = Letter::of(&request.into_parts().0, command.as_bytes(), execution);
            let place = (SHARD, InboxId([number; 32]));
            let sealed = letter.sealed(&self.drain.key, place, &Caller::trigger("ada"), SystemClock.now());
            self.push(number, sealed.unwrap()).await;
        }
    }

    /// What a look runs, and how many commands are left.
    async fn pass(&mut self) -> (Vec<String>, usize) {
        self.drain.pass(self.epoch).await;
        let left = self.drain.state.inbox_read(SHARD, 0, usize::MAX).await.unwrap();
        (std::mem::take(&mut *self.ran.lock()), left.len())
    }
}

fn router(ran: Arc<Mutex<Vec<String>>>, open: Arc<AtomicBool>) -> Router {
    Router::new().fallback(move |request: Request| {
        let (ran, open) = (Arc::clone(&ran), Arc::clone(&open));
        async move {
            let command = request
                .uri()
                .path()
                .trim_start_matches("/api/v1/executions/")
                .to_owned();
            assert!(request.headers().contains_key("x-troupe-member"), "it is signed");
            let body = axum::body::to_bytes(request.into_body(), 1_000).await.unwrap();
            assert_eq!(body, command, "the body is its own");
            let verb = command.rsplit('/').next().unwrap().to_owned();
            ran.lock().push(command);
            match &verb[..] {
                "refused" => StatusCode::CONFLICT.into_response(),
                "later" if !open.load(Ordering::SeqCst) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                "busy" => StatusCode::TOO_MANY_REQUESTS.into_response(),
                "unknown" => StatusCode::FORBIDDEN.into_response(),
                "stopped" => {
                    let code = Extension(ProblemCode("STOPPED".into()));
                    (StatusCode::SERVICE_UNAVAILABLE, code).into_response()
                }
                "fails" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                "panics" => panic!("a poisoned command"),
                "gone" => (StatusCode::SERVICE_UNAVAILABLE, [(NOT_HERE, "1")]).into_response(),
                _ => StatusCode::ACCEPTED.into_response(),
            }
        }
    })
}

#[tokio::test]
async fn commands_run_in_order_and_go_when_they_are_applied_or_refused() {
    let mut bench = Bench::new().await;
    bench.leave(&["b/ok", "a/ok", "a/refused", "a/last"]).await;
    let (ran, left) = bench.pass().await;
    assert_eq!(ran, ["b/ok", "a/ok", "a/refused", "a/last"]);
    assert_eq!(left, 0);
    assert_eq!(bench.pass().await, (vec![], 0));
}

#[tokio::test]
async fn a_start_that_an_emergency_stop_refuses_does_not_begin_when_that_is_lifted() {
    let mut bench = Bench::new().await;
    bench.leave(&["a/stopped", "b/unknown"]).await;
    let (ran, left) = bench.pass().await;
    assert_eq!(ran, ["a/stopped", "b/unknown"]);
    assert_eq!(left, 1, "a caller that is refused here alone may be known elsewhere");
}

#[tokio::test]
async fn what_cannot_be_done_now_stays_and_holds_its_own_execution_only() {
    let mut bench = Bench::new().await;
    bench
        .leave(&["a/later", "a/ok", "b/ok", "c/busy", "c/ok", "b/last"])
        .await;
    // However often: an outage is no fault of the command.
    for round in 0..TRIES_MAX * 2 {
        let (ran, left) = bench.pass().await;
        let expected = if round == 0 {
            vec!["a/later", "b/ok", "c/busy", "b/last"]
        } else {
            vec!["a/later", "c/busy"]
        };
        assert_eq!((ran, left), (expected.into_iter().map(str::to_owned).collect(), 4));
    }
    bench.open.store(true, Ordering::SeqCst);
    let (ran, left) = bench.pass().await;
    assert_eq!(ran, ["a/later", "a/ok", "c/busy"]);
    assert_eq!(left, 2);
}

#[tokio::test]
async fn a_poisoned_command_is_dropped_after_some_tries_and_harms_no_other() {
    for poison in ["a/panics", "a/fails"] {
        let mut bench = Bench::new().await;
        bench.leave(&[poison, "a/ok", "b/ok"]).await;
        assert_eq!(bench.pass().await, (vec![poison.to_owned(), "b/ok".to_owned()], 2));
        for _ in 2..TRIES_MAX {
            assert_eq!(bench.pass().await, (vec![poison.to_owned()], 2));
        }
        assert_eq!(bench.pass().await, (vec![poison.to_owned(), "a/ok".to_owned()], 0));
    }
}

#[tokio::test]
async fn a_command_that_failed_is_tried_again_after_a_pause() {
    let mut bench = Bench::new().await;
    bench.drain.pause = Duration::from_secs(3_600);
    bench.leave(&["a/fails", "a/ok", "b/ok"]).await;
    assert_eq!(bench.pass().await.0, ["a/fails", "b/ok"]);
    assert_eq!(bench.pass().await, (vec![], 2));
}

#[tokio::test]
async fn what_no_member_left_there_is_never_run() {
    let mut bench = Bench::new().await;
    bench.leave(&["a/ok"]).await;
    let request = Request::post("/api/v1/executions/a/forged").body(()).unwrap();
    let letter = Letter::of(&request.into_parts().0, b"a/forged", None);
    let place = (SHARD, InboxId([8; 32]));
    let forged = letter.sealed(&MemberKey::new(b"another"), place, &Caller::member(), SystemClock.now());
    bench.push(8, forged.unwrap()).await;
    bench.push(9, Bytes::from_static(b"nonsense")).await;
    assert_eq!(bench.pass().await, (vec!["a/ok".to_owned()], 1));
    // It stays for whoever has the secret that it was signed with.
    bench.drain.key = MemberKey::new(b"another");
    assert_eq!(bench.pass().await, (vec!["a/forged".to_owned()], 0));
}

#[tokio::test]
async fn a_former_owner_removes_nothing_and_one_that_lost_the_shard_stops() {
    let mut bench = Bench::new().await;
    bench.leave(&["a/ok", "b/ok"]).await;
    let owner = bench.acquire().await;
    assert_eq!(bench.pass().await, (vec!["a/ok".to_owned()], 2));
    bench.epoch = owner;
    assert_eq!(bench.pass().await.1, 0);
    bench.leave(&["a/ok", "b/gone", "c/ok"]).await;
    assert_eq!(bench.pass().await, (vec!["a/ok".to_owned(), "b/gone".to_owned()], 2));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_hangs_does_not_keep_the_others() {
    let mut bench = Bench::new().await;
    let hangs = Router::new().route(
        "/api/v1/executions/a/hangs",
        axum::routing::post(std::future::pending::<()>),
    );
    bench.drain.router = hangs.merge(bench.drain.router);
    bench.leave(&["a/hangs", "b/ok"]).await;
    assert_eq!(bench.pass().await, (vec!["b/ok".to_owned()], 1));
}
