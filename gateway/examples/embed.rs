//! Embeds the engine as a library, with a handler of its own: a workflow that greets, written in Rust.
//!
//! ```sh
//! cargo run -p troupe --example embed
//! ```

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;
use troupe::wiring::{self, Extras, HandlerCall, HandlerError};
use troupe::{dto, rules};
use troupe_actors::StartRequest;
use troupe_config::Sources;
use troupe_core::Json;
use troupe_core::definition::WorkflowDefinition;

/// What the handler takes.
#[derive(Deserialize)]
struct Greeting {
    name: String,
}

/// A handler is an async function from a call to JSON. Its errors are retried as the node says.
async fn greet(call: HandlerCall) -> Result<Json, HandlerError> {
    let greeting: Greeting = call.input()?;
    call.log("info", format!("greeting {}", greeting.name));
    if call.task.token.attempt.0 == 1 {
        return Err(HandlerError::new("SHY", "not at the first attempt"));
    }
    Ok(Json::of(&json!({"text": format!("Hello, {}!", greeting.name)})))
}

fn main() -> anyhow::Result<()> {
    // Functions in JavaScript run in child processes of this same program.
    wiring::run_child_if_requested();
    drop(rustls::crypto::ring::default_provider().install_default());
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let store = tempfile::tempdir()?;
    let extras = Extras {
        executors: wiring::executors().handler("greet", greet),
        ..Extras::default()
    };
    let app = wiring::open(Sources::default().load()?, store.path(), extras)
        .await
        .map_err(problem)?;

    let retry = json!({"maxAttempts": 3, "initialDelay": 10});
    let definition: WorkflowDefinition = serde_json::from_value(json!({
        "id": "hello",
        "name": "Hello",
        "nodes": [{"id": "greet", "type": "function", "data": {"handlerId": "greet", "retryPolicy": retry}}],
        "edges": [],
    }))?;
    rules::store(&*app.definitions, definition, None, app.now()).await?;

    // `Ok` means durable: from here on the execution survives a crash of this process.
    let input = Json::of(&json!({"name": "Ada"}));
    let (started, watch) = app.engine.start_watched(StartRequest::new("hello", input)).await?;
    watch.ended().await.context("the engine stopped")?;
    let ended = dto::context(&app.engine.get(started.id).await?, None);
    println!("{}", serde_json::to_string_pretty(&ended)?);
    app.shutdown().await;
    anyhow::ensure!(ended.status == "completed", "the execution {}", ended.status);
    Ok(())
}

fn problem(error: troupe::error::ApiError) -> anyhow::Error {
    anyhow::anyhow!(error.problem().detail)
}
