//! How a provider names a delivery, so that one that comes again changes nothing.

use axum::http::HeaderMap;
use serde_json::Value;
use troupe_core::definition::WebhookProvider;

use crate::error::ApiError;

/// Longest name of a delivery.
const DELIVERY_BYTES_MAX: usize = 256;

/// The name of a delivery, if it has one.
///
/// # Errors
/// `INVALID_PARAMETER` for one that is too long, or no text.
pub(crate) fn delivery_id(
    provider: Option<WebhookProvider>,
    headers: &HeaderMap,
    body: &Value,
) -> Result<Option<String>, ApiError> {
    let of_body = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = match provider {
        Some(WebhookProvider::Standard) => of_header(headers, "webhook-id")?,
        Some(WebhookProvider::GitHub) => of_header(headers, "x-github-delivery")?,
        Some(WebhookProvider::Stripe) => of_body("id"),
        Some(WebhookProvider::Slack) => of_body("event_id"),
        Some(WebhookProvider::Generic) | None => of_header(headers, "idempotency-key")?,
    };
    match id {
        Some(id) if id.is_empty() || id.len() > DELIVERY_BYTES_MAX => {
            let detail = format!("the name of a delivery has 1 to {DELIVERY_BYTES_MAX} bytes");
            Err(ApiError::new("INVALID_PARAMETER", detail))
        }
        id => Ok(id),
    }
}

fn of_header(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    let text = headers.get(name).map(|value| value.to_str());
    let wrong = |_| ApiError::new("INVALID_PARAMETER", format!("the header {name} is not plain text"));
    Ok(text.transpose().map_err(wrong)?.map(str::to_owned))
}
