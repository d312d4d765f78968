//! Registered handlers, built in and of the user's own.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use support::{failure, output, run, task_of};
use tokio_util::sync::CancellationToken;
use troupe_core::{Attempt, BlobRef, Json, Value};
use troupe_executors::{Executors, HandlerCall, HandlerError};
use troupe_ports::NodeExecutor;

#[tokio::test(start_paused = true)]
async fn builtins_do_what_their_names_say() {
    let executors = Executors::builder().build();
    let of = |handler: &str, input| {
        task_of(
            "w",
            "function",
            &json!({"functionName": "f", "handlerId": handler}),
            &input,
        )
    };
    assert_eq!(output(&run(&executors, of("noop", json!(1))).await), json!(null));
    assert_eq!(
        output(&run(&executors, of("echo", json!({"a": 1}))).await),
        json!({"a": 1})
    );

    let before = tokio::time::Instant::now();
    assert_eq!(
        output(&run(&executors, of("sleep", json!({"ms": 250}))).await),
        json!({"ms": 250})
    );
    assert_eq!(before.elapsed().as_millis(), 250);
    let executed = run(&executors, of("sleep", json!({}))).await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("NODE_DATA_INVALID", false)
    );

    let asked =
        json!({"code": "BOOM", "message": "as asked", "retryable": false, "retryAfter": 5, "details": {"x": 1}});
    let executed = run(&executors, of("fail", asked)).await;
    let failed = failure(&executed);
    assert_eq!(
        (failed.error.code.as_str(), failed.error.message.as_str()),
        ("BOOM", "as asked")
    );
    assert_eq!((failed.retryable, failed.retry_after_ms), (false, Some(5)));
    assert_eq!(failed.error.details, Some(Json::of(&json!({"x": 1}))));

    let mut task = of("fail", json!({"failures": 1}));
    assert_eq!(failure(&run(&executors, task.clone()).await).error.code, "FAILED");
    task.token.attempt = Attempt(2);
    assert_eq!(output(&run(&executors, task).await), json!({"failures": 1}));
}

#[tokio::test]
async fn a_sleep_ends_when_it_is_canceled() {
    let executors = Executors::builder().build();
    let cancel = CancellationToken::new();
    let task = task_of(
        "w",
        "custom",
        &json!({"handlerId": "sleep", "ms": 3_600_000}),
        &json!(null),
    );
    let running = executors.execute(task, cancel.clone());
    cancel.cancel();
    assert_eq!(failure(&running.await).error.code, "CANCELED");
}

#[tokio::test]
async fn own_handlers_register_as_closures() {
    let executors = Executors::builder()
        .handler("double", |call: HandlerCall| async move {
            let number: i64 = call.input()?;
            call.log("info", format!("doubling {number}"));
            if number < 0 {
                return Err(HandlerError::new("NEGATIVE", "no negative numbers").not_retryable());
            }
            let parsed: i64 = "2".parse()?;
            Ok(Json::of(&json!(number * parsed)))
        })
        .handler("broken", |_: HandlerCall| async move {
            let number: i64 = "x".parse()?;
            Ok(Json::of(&json!(number)))
        })
        .build();
    assert!(executors.handlers().contains(&"double".to_owned()));

    let executed = run(
        &executors,
        task_of("w", "custom", &json!({"handlerId": "double"}), &json!(21)),
    )
    .await;
    assert_eq!(output(&executed), json!(42));
    assert_eq!(executed.logs[0].message, "doubling 21");
    let executed = run(
        &executors,
        task_of("w", "custom", &json!({"handlerId": "double"}), &json!(-1)),
    )
    .await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("NEGATIVE", false)
    );
    // `functionName` names a handler when there is neither code nor `handlerId`.
    let executed = run(
        &executors,
        task_of("w", "function", &json!({"functionName": "broken"}), &json!(1)),
    )
    .await;
    assert_eq!(
        (failure(&executed).error.code.as_str(), failure(&executed).retryable),
        ("HANDLER_FAILED", true)
    );
}

#[tokio::test]
async fn what_cannot_run_is_refused_for_good() {
    let executors = Executors::builder().build();
    for (kind, data, code) in [
        ("function", json!({"functionName": "nobody"}), "HANDLER_NOT_FOUND"),
        ("function", json!({}), "HANDLER_NOT_FOUND"),
        ("publish", json!({}), "NODE_TYPE_UNSUPPORTED"),
    ] {
        let executed = run(&executors, task_of("w", kind, &data, &json!(null))).await;
        assert_eq!(
            (failure(&executed).error.code.as_str(), failure(&executed).retryable),
            (code, false)
        );
    }
    let mut task = task_of("w", "function", &json!({"handlerId": "echo"}), &json!(null));
    task.input = Value::from(BlobRef {
        hash: [0; 32],
        bytes: 70_000,
    });
    assert_eq!(failure(&run(&executors, task).await).error.code, "PAYLOAD_NOT_LOADED");
}

#[tokio::test]
async fn handlers_get_secrets_and_nobody_else_sees_them() {
    struct Fixed;
    impl troupe_ports::Secrets for Fixed {
        fn get(&self, name: &str) -> Option<String> {
            (name == "KEY").then(|| "correct-horse".to_owned())
        }
    }
    let executors = Executors::builder()
        .secrets(std::sync::Arc::new(Fixed))
        .handler("use", |call: HandlerCall| async move {
            let key = call.data("key")?.unwrap_or_default();
            assert_eq!(key, "correct-horse");
            call.log("info", format!("key {key}"));
            Err(HandlerError::new("REFUSED", format!("{key} was refused")))
        })
        .build();
    let mut task = task_of(
        "w",
        "custom",
        &json!({"handlerId": "use", "key": "{{ secrets.KEY }}"}),
        &json!(null),
    );
    // As the engine does: templates are evaluated, secrets stay as references.
    task.data = Some(json!({"handlerId": "use", "key": "{{ secrets.KEY }}"}).into());
    let executed = run(&executors, task).await;
    assert_eq!(failure(&executed).error.message, "\"[secret]\" was refused");
    assert_eq!(executed.logs[0].message, "key \"[secret]\"");
}
