//! Prints how fast the engine steps: a chain alone, saturated, and executions that wait.
//!
//! `cargo run --release -p troupe-actors --example steps -- [chain|fan|parked] [executions] [concurrency] [nodes]`
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use troupe_actors::{EngineOptions, StartRequest};
use troupe_core::Json;
use troupe_ports::StateStore;

/// As the product's binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn fan(width: usize) -> serde_json::Value {
    let node = |id: String| {
        json!({"id": id, "type": "function", "name": id, "data": {"handlerId": "noop"},
               "dependencies": [], "position": {"x": 0, "y": 0}})
    };
    let mut nodes = vec![node("root".into())];
    nodes.extend((0..width).map(|n| node(format!("b{n}"))));
    nodes.push(node("join".into()));
    let edge = |a: String, b: String| json!({"id": format!("{a}-{b}"), "source": a, "target": b, "type": "success"});
    let edges: Vec<_> = (0..width)
        .flat_map(|n| {
            [
                edge("root".into(), format!("b{n}")),
                edge(format!("b{n}"), "join".into()),
            ]
        })
        .collect();
    json!({"id": "w", "name": "w", "version": 1, "nodes": nodes, "edges": edges})
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let workload = arguments.next().unwrap_or_else(|| "chain".into());
    let mut number = |or: usize| arguments.next().map_or(or, |text| text.parse().unwrap());
    let (executions, concurrency, nodes) = (number(2_000), number(1), number(10));
    let directory = tempfile::tempdir().unwrap();
    let store = support::store(directory.path(), 32);
    let world = support::on_store(store.clone(), support::builtins(), EngineOptions::default()).await;
    let definition = match workload.as_str() {
        "fan" => fan(nodes),
        "parked" => json!({"id": "w", "name": "w", "version": 1, "edges": [], "nodes": [
            {"id": "d", "type": "delay", "name": "d", "data": {"delayType": "fixed", "delayValue": 3_600_000},
             "dependencies": [], "position": {"x": 0, "y": 0}}]}),
        _ => support::chain("w", nodes, "noop"),
    };
    world.apply(definition).await;
    let (rss, cpu, begun) = (rss_bytes(), cpu_seconds(), Instant::now());
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..concurrency {
        let (engine, next, parked) = (world.engine.clone(), next.clone(), workload == "parked");
        clients.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < executions {
                let begun = Instant::now();
                let request = StartRequest::new("w", Json::from_trusted("{}"));
                if parked {
                    engine.start(request).await.unwrap();
                } else {
                    let (_, watch) = engine.start_watched(request).await.unwrap();
                    watch.ended().await.unwrap();
                }
                latencies.push(begun.elapsed());
            }
            latencies
        }));
    }
    let mut latencies: Vec<Duration> = Vec::new();
    for client in clients {
        latencies.extend(client.await.unwrap());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    latencies.sort_unstable();
    if std::env::var_os("STEPS_HISTORY").is_some() {
        let page = troupe_ports::VisibilityStore::list(
            &*store,
            troupe_ports::ExecutionQuery {
                limit: 1,
                ..Default::default()
            },
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
        for row in page.await.unwrap().items {
            println!(
                "{:#?}",
                world.engine.history(row.id, troupe_core::Seq(0), 30).await.unwrap()
            );
        }
    }
    let status = world.engine.status();
    let steps = status.entries as f64;
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{workload}: {executions} executions in {seconds:.2} s: {:.0}/s, {:.0} steps/s, {:.1} µs CPU a step, p50 {:?}, p99 {:?}, {} entries, {} commits, {:?}",
        executions as f64 / seconds,
        steps / seconds,
        cpu * 1e6 / steps,
        at(0.5),
        at(0.99),
        status.entries,
        status.commits,
        store.counters(),
    );
    if workload == "parked" {
        while world.engine.status().active > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(7)).await;
        let grown = rss_bytes().saturating_sub(rss);
        println!("rss grew by {grown} bytes, {} an execution", grown / executions as u64);
    }
    world.engine.shutdown(Duration::from_secs(5)).await;
}
