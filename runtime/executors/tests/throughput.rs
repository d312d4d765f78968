//! How many calls a second the pool carries; a figure to read, run with `--run-ignored all` in release.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::time::Instant;

use futures::{StreamExt, stream};
use serde_json::json;
use support::{output, task_of};
use troupe_executors::{SandboxOptions, SandboxPool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn calls_per_second() {
    let program = Some(env!("CARGO_BIN_EXE_troupe-sandbox-child").into());
    let pool = SandboxPool::start(SandboxOptions {
        program,
        ..SandboxOptions::default()
    })
    .await
    .unwrap();
    let mut task = task_of("w", "function", &json!({}), &json!({"n": 1}));
    task.deadline = task.deadline.plus_ms(60_000);
    let code = "function f(input, context) { return { n: input.n + 1 } }";
    for concurrency in [1, 16, 256] {
        let count = if concurrency == 1 { 5_000 } else { 200_000 };
        let started = Instant::now();
        let done = stream::iter(0..count)
            .map(|_| tokio::spawn(pool.call_function(&task, code, "f")))
            .buffer_unordered(concurrency)
            .fold(0_u64, |sum, executed| async move {
                sum + output(&executed.unwrap())["n"].as_u64().unwrap()
            })
            .await;
        assert_eq!(done, count * 2);
        let per_second = count as f64 / started.elapsed().as_secs_f64();
        println!("{concurrency} at once: {per_second:.0} calls/s");
    }
    pool.close().await;
}
