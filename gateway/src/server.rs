//! Serves the API until told to stop.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::app::App;
use crate::routes::router;

/// What requests that are open at the stop get at least: without any drain time answers under way would break off.
const OPEN_WITHIN_MIN: Duration = Duration::from_millis(250);

/// Serves `app` on `listener` until `stop` resolves; then leaves its shards to other members, refuses new connections, ends event streams, lets open
/// requests end within the drain time, and drains the engine. A client that is slower does not keep it: its connection goes with the process, and gets
/// whatever the drained engine answers until then.
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
    let serving = axum::serve(listener, router(app.clone()))
        .with_graceful_shutdown(stopped)
        .into_future();
    let served = tokio::select! {
        biased;
        served = serving => served,
        () = had_their_time(&app) => {
            tracing::warn!("requests are still open after the drain time: they are cut off");
            Ok(())
        }
    };
    app.shutdown().await;
    served
}

/// Resolves when requests that were open at the stop have had the drain time to end. One that sends half a body, or reads no answer, never does.
async fn had_their_time(app: &App) {
    app.closing.cancelled().await;
    tokio::time::sleep(app.settings.drain.max(OPEN_WITHIN_MIN)).await;
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
