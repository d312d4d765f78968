//! Serves the API until told to stop.

use std::future::Future;

use tokio::net::TcpListener;

use crate::app::App;
use crate::routes::router;

/// Serves `app` on `listener` until `stop` resolves; then leaves its shards to other members, refuses new connections, ends event streams, lets open
/// requests end, and drains the engine.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    app: App,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let leaving = app.clone();
    let stopped = async move {
        stop.await;
        // Who leaves is asked for its shards until others have them.
        leaving.leave().await;
        leaving.closing.cancel();
    };
    let served = axum::serve(listener, router(app.clone()))
        .with_graceful_shutdown(stopped)
        .await;
    app.shutdown().await;
    served
}

/// Resolves at Ctrl-C or SIGTERM.
pub async fn asked_to_stop() {
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "Ctrl-C cannot be heard");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::error!(%error, "SIGTERM cannot be heard");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
