//! A small local server with a shop, a payment service, suppliers, sites and a post office, for the examples to call.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use troupe_config::{AllowedHost, AllowedTarget};

/// Keys remembered for `/flaky`, so that a long demo does not grow.
const KEYS_MAX: usize = 10_000;

/// The running server; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Calls(Arc<Mutex<BTreeMap<String, u32>>>);

impl Server {
    /// Starts on a loopback port; 0 takes any.
    pub(crate) async fn start(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let routes = Router::new()
            .route("/stock/{sku}", get(stock))
            .route("/payments", post(pay))
            .route("/quotes/{supplier}", get(quote))
            .route("/sites/{site}", get(site))
            .route("/sales/{region}", get(sales))
            .route("/flaky", get(flaky))
            .route("/mails", post(mail))
            .route("/recovering/{parcel}", get(recovering))
            .with_state(Calls::default());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the demo server stopped");
            }
        });
        Ok(Self { address, serving })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The rule that lets HTTP nodes call it.
    pub(crate) fn target(&self) -> AllowedTarget {
        let host = AllowedHost::Network(IpAddr::V4(Ipv4Addr::LOCALHOST), 32);
        AllowedTarget {
            host,
            port: Some(self.address.port()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn stock(Path(sku): Path<String>) -> Json<Value> {
    let available = if sku == "unicorn" { 0 } else { 25 };
    Json(json!({"sku": sku, "available": available}))
}

/// Declines the card `declined`; the same idempotency key always gets the same receipt.
async fn pay(headers: HeaderMap, Json(payment): Json<Value>) -> Response {
    if payment.get("card").and_then(Value::as_str) == Some("declined") {
        let refusal = json!({"code": "CARD_DECLINED", "message": "the bank declined the card"});
        return (StatusCode::PAYMENT_REQUIRED, Json(refusal)).into_response();
    }
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok())
        .unwrap_or("none");
    let receipt = format!(
        "rcpt-{:08x}",
        key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte))
            .wrapping_mul(0x0100_0193))
    );
    Json(json!({"receipt": receipt, "amount": payment.get("amount")})).into_response()
}

/// Three suppliers: one quick, one slower, one that takes longer than anybody waits.
async fn quote(Path(supplier): Path<String>) -> Response {
    let (after_ms, price) = match supplier.as_str() {
        "swift" => (20, 104.0),
        "steady" => (120, 97.5),
        "sleepy" => (10_000, 89.0),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    Json(json!({"supplier": supplier, "price": price})).into_response()
}

async fn site(Path(site): Path<String>) -> Response {
    if site == "broken" {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "down"}))).into_response();
    }
    Json(json!({"status": "up", "site": site})).into_response()
}

/// Is down for three seconds from its first call.
async fn recovering(Path(parcel): Path<String>) -> Response {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    if FIRST.get_or_init(Instant::now).elapsed() < Duration::from_secs(3) {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "down"}))).into_response();
    }
    Json(json!({"parcel": parcel})).into_response()
}

async fn sales(Path(region): Path<String>) -> Json<Value> {
    let rows: Vec<Value> = (1..=4)
        .map(
            |week| json!({"region": region, "week": week, "amount": 100 * week + 7 * region.len(), "valid": week != 3}),
        )
        .collect();
    Json(json!({"rows": rows}))
}

/// Takes a mail; what is in it is nobody else's business.
async fn mail(Json(_): Json<Value>) -> Json<Value> {
    Json(json!({"accepted": true}))
}

/// Fails the first two calls of each key with 503 and a `Retry-After` of nothing.
async fn flaky(State(calls): State<Calls>, headers: HeaderMap) -> Response {
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok())
        .unwrap_or("none")
        .to_owned();
    let call = {
        let mut calls = calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= KEYS_MAX {
            calls.pop_first();
        }
        let call = calls.entry(key).or_insert(0);
        *call += 1;
        *call
    };
    if call < 3 {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [("retry-after", "0")],
            Json(json!({"call": call})),
        )
            .into_response();
    }
    Json(json!({"call": call, "message": "third time lucky"})).into_response()
}
