//! Talks to a server.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use url::Host;

use super::failure::Failure;
use crate::dto::{ExecutionSummaryDto, PageDto, QueuedDto};
use crate::error::Problem;
use crate::exit::Exit;

const CONNECT: Duration = Duration::from_secs(3);
/// Within which a server that is well tells so.
const HEALTH: Duration = Duration::from_secs(5);
/// Within which a member tells its metrics. Many of them are at addresses that only the others reach.
const METRICS: Duration = Duration::from_secs(1);
/// Lists follow by at most 250 ms what was acknowledged: an id that is not listed yet is by then.
const LISTED_AFTER: Duration = Duration::from_millis(300);
/// Digits of a whole execution id.
const ID_DIGITS: usize = 32;
/// How often a page of a list is asked for again that the server cannot give for now: others search, too, or it is starting.
pub(super) const AGAIN_MAX: u32 = 3;
/// How long after the refusal.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A client of one server.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// `key`: what it shows to the server, if anything.
    pub(super) fn new(server: &str, key: Option<&str>) -> Result<Self, Failure> {
        // Whoever gives it a login does not want to see that here.
        let shown = if server.contains('@') { "…" } else { server };
        let wrong = |why: String| {
            Failure::new(Exit::Usage, format!("`{shown}` is no address of a server: {why}"))
                .hint("write --server http://127.0.0.1:7654")
        };
        let base = Url::parse(server).map_err(|error| wrong(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong("it must begin with http:// or https://".into()));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let shown = HeaderValue::try_from(format!("Bearer {key}"));
            let mut shown = shown.map_err(|_| Failure::new(Exit::Usage, "the key for the server is no plain text"))?;
            shown.set_sensitive(true);
            headers.insert(AUTHORIZATION, shown);
        }
        // A redirect to another host does not get the key: the library drops it.
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            .connect_timeout(CONNECT);
        let http = http.build();
        Ok(Self {
            http: http.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
            base,
        })
    }

    /// Where the server is, for people: without a login.
    pub(super) fn address(&self) -> Url {
        let mut url = self.base.clone();
        // Only what has no host refuses that, and every server has one.
        url.set_username("").ok();
        url.set_password(None).ok();
        url
    }

    /// A request for `/api/v1/<segments>`.
    pub(super) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(segments);
        }
        self.http.request(method, url)
    }

    /// Asks for `/<name>`, whatever the answer.
    pub(super) async fn ask_root(&self, name: &str) -> Result<Response, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(name);
        }
        let asked = self.http.get(url).timeout(HEALTH).send().await;
        asked.map_err(|error| self.unreachable(&error))
    }

    /// The server's `/metrics`; none where it does not tell them.
    pub(super) async fn metrics(&self) -> Option<String> {
        body_of(self.ask_root("metrics").await.ok()?).await
    }

    /// `/metrics` of the member at `address`; none where it cannot be asked from here, or does not tell them.
    pub(super) async fn metrics_at(&self, address: &str) -> Option<String> {
        let mut url = Url::parse(address).ok().filter(|url| self.may_ask(url))?;
        url.path_segments_mut().ok()?.pop_if_empty().push("metrics");
        body_of(self.http.get(url).timeout(METRICS).send().await.ok()?).await
    }

    /// Whether the key may be shown to a member there. Not on this machine, where something else may listen, if the server is another one. Not in
    /// the clear where the server is asked over TLS, nor beyond this machine if it is asked here: at the end of a tunnel, perhaps.
    fn may_ask(&self, address: &Url) -> bool {
        let (is_here, is_from_here) = (is_this_machine(address), is_this_machine(&self.base));
        match address.scheme() {
            "https" => is_from_here || !is_here,
            "http" => self.base.scheme() == "http" && is_here == is_from_here,
            _ => false,
        }
    }

    pub(super) fn get(&self, segments: &[&str]) -> RequestBuilder {
        self.request(Method::GET, segments)
    }

    pub(super) fn post(&self, segments: &[&str]) -> RequestBuilder {
        self.request(Method::POST, segments)
    }

    /// Sends a request; what is no success becomes the failure that it means.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => Err(problem.into()),
            Err(_) => {
                let failure = Failure::new(
                    Exit::Failed,
                    format!("{} answered {status} without saying why", self.address()),
                );
                Err(failure.hint("is this address a troupe server?"))
            }
        }
    }

    /// Sends a request and reads the answer.
    pub(super) async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let text = self
            .send(request)
            .await?
            .text()
            .await
            .map_err(|error| self.unreachable(&error))?;
        serde_json::from_str(&text).map_err(|error| {
            if let Some(queued) = QueuedDto::read(&text) {
                return waits(&queued);
            }
            Failure::new(
                Exit::Failed,
                format!("{} answered something else than expected: {error}", self.address()),
            )
            .hint("client and server may be of different versions")
        })
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(deeper) = cause {
            why = deeper.to_string();
            cause = deeper.source();
        }
        let mut failure = Failure::new(Exit::CannotConnect, format!("cannot talk to {}: {why}", self.address()));
        failure.code = Some("CANNOT_CONNECT".into());
        failure.hint("start a server with `troupe dev`, or name one with --server or TROUPE_SERVER")
    }

    /// The whole id that a prefix names.
    pub(super) async fn execution_id(&self, prefix: &str) -> Result<String, Failure> {
        let hexadecimal = prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        if prefix.len() >= ID_DIGITS || !hexadecimal || prefix.is_empty() {
            return Ok(prefix.to_owned());
        }
        let mut found = self.beginning_with(prefix).await?;
        if found.is_empty() {
            tokio::time::sleep(LISTED_AFTER).await;
            found = self.beginning_with(prefix).await?;
        }
        match found.as_slice() {
            [one] => Ok(one.id.clone()),
            [] => Err(
                Failure::new(Exit::NotFound, format!("no execution's id begins with {prefix}"))
                    .hint("`troupe ls` lists executions"),
            ),
            _ => Err(
                Failure::new(Exit::Conflict, format!("several executions' ids begin with {prefix}"))
                    .hint("give more digits"),
            ),
        }
    }

    /// Executions whose ids begin so: all of them, or more than one. A page may hold less than there is.
    async fn beginning_with(&self, prefix: &str) -> Result<Vec<ExecutionSummaryDto>, Failure> {
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("idPrefix", prefix), ("limit", "2")];
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = self.executions(&query, AGAIN_MAX).await?;
            found.extend(page.items);
            cursor = page.next;
            if found.len() > 1 || cursor.is_none() {
                return Ok(found);
            }
        }
    }

    /// A page of the list of executions. While the server cannot give it for now it is asked for again, at most so often.
    pub(super) async fn executions(
        &self,
        query: &[(&str, &str)],
        mut again: u32,
    ) -> Result<PageDto<ExecutionSummaryDto>, Failure> {
        loop {
            let asked = self.fetch(self.get(&["executions"]).query(query)).await;
            match asked {
                Err(failure) if again > 0 && failure.code.as_deref() == Some("UNAVAILABLE") => {
                    again -= 1;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                asked => return asked,
            }
        }
    }
}

/// What was answered, unless it is a refusal.
async fn body_of(answer: Response) -> Option<String> {
    answer.error_for_status().ok()?.text().await.ok()
}

fn is_this_machine(address: &Url) -> bool {
    match address.host() {
        Some(Host::Domain(name)) => is_local(name),
        Some(Host::Ipv4(address)) => is_own(address.into()),
        Some(Host::Ipv6(address)) => is_own(address.into()),
        None => false,
    }
}

/// Source: RFC 6761, section 6.3.
fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// The server has the command and nobody has applied it: its outcome is not known in time.
fn waits(queued: &QueuedDto) -> Failure {
    let why =
        "the command is kept, and is applied once a member serves its execution; what comes of it is not known yet";
    let failure = Failure::new(Exit::WaitTimeout, why);
    match &queued.id {
        Some(id) => failure.hint(format!("`troupe show {id}` tells later what came of it")),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::extract::Query;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use axum::{Json, Router};

    use super::*;
    use crate::dto::CommandDto;
    use crate::error::ApiError;

    fn item(id: &str) -> serde_json::Value {
        serde_json::json!({"id": id, "workflowId": "w", "version": 1, "status": "running", "paused": false,
            "startTime": "2026-11-26T00:00:00.000Z", "sequence": 1})
    }

    /// A server whose list holds nothing for the first `late` requests.
    async fn server(late: usize) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let list = move || async move {
            let items = if count.fetch_add(1, Ordering::Relaxed) < late {
                vec![]
            } else {
                vec![item(&"ab".repeat(16))]
            };
            Json(serde_json::json!({"items": items}))
        };
        (serve(Router::new().route("/api/v1/executions", get(list))).await, asked)
    }

    async fn serve(router: Router) -> Client {
        // As `main` does; another test of this process may have been faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(&format!("http://{address}"), None).unwrap()
    }

    #[test]
    fn a_login_in_the_address_of_a_server_is_not_shown() {
        for server in ["http://u:Left/Right@h:1", "ftp://u:Left@h"] {
            let failure = Client::new(server, None).err().unwrap();
            let shown = failure.message;
            assert!(!shown.contains("Left") && !shown.contains("Right"), "{shown}");
        }
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::new("http://u:Left@h:1", None).unwrap();
        assert_eq!(client.address().as_str(), "http://h:1/");
    }

    #[test]
    fn a_key_is_shown_to_members_only_where_it_is_as_safe_as_at_the_server() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let may = |server: &str, member: &str| {
            let client = Client::new(server, Some("key")).unwrap();
            client.may_ask(&Url::parse(member).unwrap())
        };
        assert!(may("http://127.0.0.1:1", "http://127.0.0.1:2"));
        assert!(may("http://localhost:1", "http://[::1]:2"));
        assert!(may("http://127.0.0.1:1", "http://[::ffff:127.0.0.1]:2"));
        assert!(may("http://127.0.0.1:1", "https://10.0.0.1:2"));
        assert!(may("https://127.0.0.1:1", "https://127.0.0.1:2"));
        assert!(may("http://a.example", "http://b.example"));
        assert!(may("http://a.example", "https://10.0.0.1:2"));
        assert!(may("https://a.example", "https://b.example"));
        // It may be the end of a tunnel: what leaves this machine does so in the clear.
        for tunnel in [
            "http://127.0.0.1:1",
            "http://localhost:1",
            "http://[::1]:1",
            "http://localhost.:1",
        ] {
            assert!(!may(tunnel, "http://10.0.0.1:2"), "{tunnel}");
        }
        assert!(!may("https://127.0.0.1:1", "http://10.0.0.1:2"));
        assert!(!may("https://127.0.0.1:1", "http://127.0.0.1:2"));
        assert!(!may("https://a.example", "http://b.example"));
        assert!(!may("https://a.example", "https://127.0.0.1:2"));
        assert!(!may("http://a.example", "http://app.localhost:2"));
        assert!(!may("http://a.example", "http://127.0.0.1:2"));
        assert!(!may("http://a.example", "http://0.0.0.0:2"));
        assert!(!may("http://a.example", "ftp://b.example"));
    }

    #[tokio::test]
    async fn a_command_that_is_queued_has_no_outcome_yet() {
        let queued = || async {
            let queued = QueuedDto::new(Some("ab".to_owned()), Some("key".to_owned()));
            (StatusCode::ACCEPTED, Json(queued))
        };
        let client = serve(Router::new().route("/api/v1/executions/ab/cancel", post(queued))).await;
        let command = client.post(&["executions", "ab", "cancel"]);
        let failure = client.fetch::<CommandDto>(command).await.unwrap_err();
        assert_eq!(failure.exit, Exit::WaitTimeout);
        assert!(failure.hint.unwrap().contains("troupe show ab"));
    }

    #[tokio::test]
    async fn a_beginning_is_looked_up_once_more_before_it_is_not_found() {
        for (late, requests) in [(0, 1), (1, 2)] {
            let (client, asked) = server(late).await;
            assert_eq!(client.execution_id("abab").await.unwrap(), "ab".repeat(16));
            assert_eq!(asked.load(Ordering::Relaxed), requests);
        }
        let (client, asked) = server(usize::MAX).await;
        assert_eq!(client.execution_id("abab").await.unwrap_err().exit, Exit::NotFound);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    /// Pages of a list, each of which names the next one: none at the end. `busy` requests are refused for now, the first ones.
    async fn pages(pages: &'static [&'static [&'static str]], busy: usize) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let list = move |Query(query): Query<BTreeMap<String, String>>| async move {
            if count.fetch_add(1, Ordering::Relaxed) < busy {
                return Err(ApiError::new("UNAVAILABLE", "others search"));
            }
            let at: usize = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
            let items: Vec<_> = pages[at].iter().map(|begin| item(&begin.repeat(16))).collect();
            let next = (at + 1 < pages.len()).then(|| (at + 1).to_string());
            Ok(Json(serde_json::json!({"items": items, "next": next})))
        };
        (serve(Router::new().route("/api/v1/executions", get(list))).await, asked)
    }

    #[tokio::test]
    async fn a_beginning_is_looked_up_on_all_pages() {
        let (client, asked) = pages(&[&[], &["ab"], &[]], 0).await;
        assert_eq!(client.execution_id("a").await.unwrap(), "ab".repeat(16));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        // Two are enough to know that there is no one.
        let (client, asked) = pages(&[&[], &["ab"], &["ac"], &[], &[]], 0).await;
        assert_eq!(client.execution_id("a").await.unwrap_err().exit, Exit::Conflict);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        let (client, asked) = pages(&[&[], &[]], 0).await;
        assert_eq!(client.execution_id("a").await.unwrap_err().exit, Exit::NotFound);
        assert_eq!(asked.load(Ordering::Relaxed), 4, "all of it, once more");
    }

    #[tokio::test]
    async fn a_page_that_a_server_cannot_give_for_now_is_asked_for_again() {
        let again = AGAIN_MAX as usize;
        let (client, asked) = pages(&[&["ab"]], again).await;
        assert_eq!(client.execution_id("a").await.unwrap(), "ab".repeat(16));
        assert_eq!(asked.load(Ordering::Relaxed), again + 1);
        let (client, asked) = pages(&[&["ab"]], usize::MAX).await;
        assert_eq!(client.execution_id("a").await.unwrap_err().exit, Exit::CannotConnect);
        assert_eq!(asked.load(Ordering::Relaxed), again + 1);
    }
}
