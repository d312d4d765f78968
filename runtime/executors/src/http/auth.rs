//! The four kinds of authentication. See `semantics.md` §5, `http`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value as JsonValue};
use troupe_core::ErrorInfo;
use troupe_core::execution::AttemptFailure;

use super::failure::{failure, give_up};
use super::request::invalid;
use super::send::Connector;
use crate::codes;
use crate::secrets::Redactor;

/// Tokens that are kept at once.
const TOKENS_MAX: usize = 1_000;
/// A token is fetched anew this long before it expires.
const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// How long a token without an expiry is kept.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
/// Largest answer of a token endpoint, in bytes.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// How a request proves who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Authentication {
    None,
    /// A header that is sent to the origin of the URL alone.
    Header(HeaderName, HeaderValue),
    Query(String, String),
    OAuth2(ClientCredentials),
}

/// What a token is asked for with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientCredentials {
    token_url: Url,
    client_id: String,
    client_secret: String,
    scope: Option<String>,
    audience: Option<String>,
    /// Credentials go into the body, not into a `Basic` header.
    in_body: bool,
}

impl std::fmt::Debug for ClientCredentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ClientCredentials")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

impl Authentication {
    /// Reads `authentication: {type, config}`. Credentials are redacted even when they are written out.
    ///
    /// # Errors
    /// `HTTP_REQUEST_INVALID` when a field is missing.
    pub(super) fn read(data: &Map<String, JsonValue>, redactor: &mut Redactor) -> Result<Self, ErrorInfo> {
        let Some(written) = data.get("authentication").filter(|written| !written.is_null()) else {
            return Ok(Self::None);
        };
        let none = JsonValue::Null;
        let config = written.get("config").unwrap_or(&none);
        let optional = |name: &str| {
            config
                .get(name)
                .and_then(JsonValue::as_str)
                .filter(|text| !text.is_empty())
        };
        let text =
            |name: &str| optional(name).ok_or_else(|| invalid(format!("`authentication.config.{name}` is missing")));
        let header = |value: String| {
            HeaderValue::from_str(&value)
                .map_err(|_| invalid("the credentials have characters that headers cannot have"))
        };
        match written.get("type").and_then(JsonValue::as_str) {
            Some("basic") => {
                let (user, password) = (text("username")?, optional("password").unwrap_or_default());
                let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                redactor.add(password);
                redactor.add(&encoded);
                Ok(Self::Header(AUTHORIZATION, header(format!("Basic {encoded}"))?))
            }
            Some("bearer") => {
                let token = text("token")?;
                redactor.add(token);
                Ok(Self::Header(AUTHORIZATION, header(format!("Bearer {token}"))?))
            }
            Some("apiKey") => {
                let key = optional("key")
                    .or_else(|| optional("value"))
                    .or_else(|| optional("apiKey"));
                let key = key.ok_or_else(|| invalid("`authentication.config.key` is missing"))?;
                redactor.add(key);
                let name = optional("name")
                    .or_else(|| optional("headerName"))
                    .unwrap_or("X-API-Key");
                match optional("in").unwrap_or("header") {
                    "header" => {
                        let name =
                            HeaderName::try_from(name).map_err(|_| invalid(format!("`{name}` is no header name")))?;
                        Ok(Self::Header(name, header(key.to_owned())?))
                    }
                    "query" => Ok(Self::Query(name.to_owned(), key.to_owned())),
                    other => Err(invalid(format!(
                        "`authentication.config.in` must be `header` or `query`, not `{other}`"
                    ))),
                }
            }
            Some("oauth2") => {
                let token_url = text("tokenUrl")?;
                let token_url =
                    Url::parse(token_url).map_err(|error| invalid(format!("`tokenUrl` cannot be read: {error}")))?;
                let client_secret = text("clientSecret")?.to_owned();
                redactor.add(&client_secret);
                Ok(Self::OAuth2(ClientCredentials {
                    token_url,
                    client_id: text("clientId")?.to_owned(),
                    client_secret,
                    scope: optional("scope").map(str::to_owned),
                    audience: optional("audience").map(str::to_owned),
                    in_body: optional("clientAuthentication") == Some("body"),
                }))
            }
            Some(other) => Err(invalid(format!(
                "`authentication.type` `{other}` is none of basic, bearer, apiKey, oauth2"
            ))),
            None => Err(invalid("`authentication.type` is missing")),
        }
    }
}

#[derive(Clone)]
struct Token {
    text: String,
    expires_at: Instant,
}

/// One slot a set of credentials; its lock is held while a token is fetched, so that it is fetched once.
type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// Tokens of the client-credentials grant, kept until they expire.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<ClientCredentials, Slot>>,
}

impl Tokens {
    /// A token that is valid now.
    ///
    /// # Errors
    /// `HTTP_AUTHENTICATION` when the endpoint gives none, and what sending gives.
    pub(super) async fn get(&self, connector: &Connector, grant: &ClientCredentials) -> Result<String, AttemptFailure> {
        let slot = {
            let mut slots = self.slots.lock();
            if slots.len() >= TOKENS_MAX {
                slots.clear();
            }
            Arc::clone(slots.entry(grant.clone()).or_default())
        };
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.expires_at > Instant::now()) {
            return Ok(token.text.clone());
        }
        let token = fetch(connector, grant).await?;
        let text = token.text.clone();
        *held = Some(token);
        Ok(text)
    }

    /// Forgets a token that the target did not take.
    pub(super) fn forget(&self, grant: &ClientCredentials) {
        self.slots.lock().remove(grant);
    }
}

/// Headers and body of the request for a token.
fn token_request(grant: &ClientCredentials) -> Result<(HeaderMap, Vec<u8>), AttemptFailure> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &grant.scope), ("audience", &grant.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert("accept", HeaderValue::from_static("application/json"));
    if grant.in_body {
        form.append_pair("client_id", &grant.client_id)
            .append_pair("client_secret", &grant.client_secret);
    } else {
        // RFC 6749 §2.3.1: both parts are form-encoded before they are put together.
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encode(&grant.client_id), encode(&grant.client_secret));
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let value =
            HeaderValue::from_str(&value).map_err(|_| give_up(invalid("the client credentials are unusable")))?;
        headers.insert(AUTHORIZATION, value);
    }
    Ok((headers, form.finish().into_bytes()))
}

async fn fetch(connector: &Connector, grant: &ClientCredentials) -> Result<Token, AttemptFailure> {
    let (headers, body) = token_request(grant)?;
    let answer = connector
        .once(&Method::POST, &grant.token_url, headers, Some(body), TOKEN_BYTES_MAX)
        .await?;
    let status = answer.status.as_u16();
    let refused = |why: String| {
        let retryable = status >= 500 || status == 429;
        failure(
            ErrorInfo::new(codes::HTTP_AUTHENTICATION, format!("the token endpoint {why}")),
            retryable,
        )
    };
    if !answer.status.is_success() {
        return Err(refused(format!("answered {status}")));
    }
    let read: JsonValue =
        serde_json::from_slice(&answer.body).map_err(|_| refused("did not answer with JSON".to_owned()))?;
    let text = read.get("access_token").and_then(JsonValue::as_str);
    let text = text
        .ok_or_else(|| refused("gave no `access_token`".to_owned()))?
        .to_owned();
    let lifetime = read
        .get("expires_in")
        .and_then(JsonValue::as_u64)
        .map_or(LIFETIME_DEFAULT, Duration::from_secs);
    let lifetime = lifetime.min(Duration::from_secs(7 * 24 * 3_600));
    let expires_at = Instant::now() + lifetime.saturating_sub(EXPIRY_MARGIN.min(lifetime / 2));
    Ok(Token { text, expires_at })
}
