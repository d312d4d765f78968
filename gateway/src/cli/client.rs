//! Talks to a server, or to several of one deployment.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};
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
/// The code of a server that cannot serve now: it starts or stops, has lost its store, or is busy. Another one may not.
const UNAVAILABLE: &str = "UNAVAILABLE";
/// What a proxy answers for a server that does not.
const GATEWAY: [StatusCode; 3] = [
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];
/// The hint where a command may have been received.
const UNKNOWN: &str = "whether it took effect is not known: look before you repeat it";

/// A client of one server, or of several that answer for each other: whoever answered last is asked, and where it does not the next one.
pub(super) struct Client {
    http: reqwest::Client,
    /// At least one.
    servers: Vec<Server>,
    /// Which of them is asked.
    at: AtomicUsize,
}

/// A server.
#[derive(PartialEq, Eq)]
pub(super) struct Server {
    /// Where it is, without a login.
    base: Url,
    /// What the login in its address comes to: for this one alone.
    login: Option<HeaderValue>,
}

/// Why a server is not the one whose answer counts.
enum Miss {
    /// It answered, and so would any other one.
    Refused(Failure),
    /// It says that it cannot serve now.
    Unwell(Failure),
    /// It has not got the request.
    Unreached(String),
    /// It may have got the request, and its answer is lost: on the way, or to a proxy that says so.
    Lost(String),
}

impl Client {
    /// `servers`: addresses with commas between. `key`: what it shows to each of them, if anything.
    pub(super) fn new(servers: &str, key: Option<&str>) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let shown = HeaderValue::try_from(format!("Bearer {key}"));
            let mut shown = shown.map_err(|_| Failure::new(Exit::Usage, "the key for the server is no plain text"))?;
            shown.set_sensitive(true);
            headers.insert(AUTHORIZATION, shown);
        }
        let addresses = addresses(servers)?;
        // A redirect to another host does not get the key: the library drops it.
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .build();
        let http = http.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let mut servers = Vec::with_capacity(addresses.len());
        for address in addresses {
            let server = Server::new(&http, address)?;
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        Ok(Self {
            http,
            servers,
            at: AtomicUsize::new(0),
        })
    }

    /// The server that is asked.
    pub(super) fn server(&self) -> &Server {
        &self.servers[self.at.load(Ordering::Relaxed)]
    }

    /// Has the next server asked from now on: the one that is has let somebody wait for too long.
    pub(super) fn pass_over(&self) {
        let next = (self.at.load(Ordering::Relaxed) + 1) % self.servers.len();
        self.at.store(next, Ordering::Relaxed);
    }

    /// A request for `/api/v1/<segments>`.
    pub(super) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.at_path(method, &[&["api", "v1"][..], segments].concat())
    }

    /// A request for that path; [`Server::addressed`] says where.
    fn at_path(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.server().base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        self.http.request(method, url)
    }

    /// Asks for `/<name>`: the status and the body, whatever they are.
    pub(super) async fn ask_root(&self, name: &str) -> Result<(StatusCode, String), Failure> {
        let request = self.at_path(Method::GET, &[name]).timeout(HEALTH);
        self.in_turn(request, async |_: &Server, request: Request| {
            let response = self.http.execute(request).await?;
            let status = response.status();
            Ok((status, response.text().await?))
        })
        .await
    }

    /// That server's `/metrics`; none where it does not tell them. No other one's would do.
    pub(super) async fn metrics(&self, server: &Server) -> Option<String> {
        let request = self.at_path(Method::GET, &["metrics"]).timeout(HEALTH).build().ok()?;
        body_of(self.http.execute(server.addressed(request)).await.ok()?).await
    }

    /// `/metrics` of the member at `address`, which that server named; none where it cannot be asked from here, or does not tell them.
    pub(super) async fn metrics_at(&self, server: &Server, address: &str) -> Option<String> {
        let mut url = Url::parse(address).ok().filter(|url| server.may_ask(url))?;
        url.path_segments_mut().ok()?.pop_if_empty().push("metrics");
        body_of(self.http.get(url).timeout(METRICS).send().await.ok()?).await
    }

    pub(super) fn get(&self, segments: &[&str]) -> RequestBuilder {
        self.request(Method::GET, segments)
    }

    pub(super) fn post(&self, segments: &[&str]) -> RequestBuilder {
        self.request(Method::POST, segments)
    }

    /// Sends a request; what is no success becomes the failure that it means.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        self.in_turn(request, async |server: &Server, request: Request| {
            self.success(server, request).await
        })
        .await
    }

    /// Sends a request and reads the answer.
    pub(super) async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        self.in_turn(request, async |server: &Server, request: Request| {
            let text = self.success(server, request).await?.text().await?;
            server.read(&text).map_err(Miss::Refused)
        })
        .await
    }

    /// A server's answer to a request, if it is a success.
    async fn success(&self, server: &Server, request: Request) -> Result<Response, Miss> {
        let response = self.http.execute(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await?;
        Err(server.refusal(status, &text))
    }

    /// Asks one server after the other, from the one that answered last on, until the answer of one counts. A request goes to another one only
    /// if nobody has got it, or if that changes nothing.
    async fn in_turn<T>(
        &self,
        request: RequestBuilder,
        ask: impl AsyncFn(&Server, Request) -> Result<T, Miss>,
    ) -> Result<T, Failure> {
        let request = request
            .build()
            .map_err(|error| Failure::new(Exit::Usage, format!("this cannot be asked: {}", why(&error))))?;
        let is_repeatable = is_repeatable(&request);
        let first = self.at.load(Ordering::Relaxed);
        let mut asked = Vec::new();
        let mut unwell = None;
        let mut is_unknown = false;
        for step in 0..self.servers.len() {
            let at = (first + step) % self.servers.len();
            self.at.store(at, Ordering::Relaxed);
            let server = &self.servers[at];
            let once = || Failure::new(Exit::Failed, "this can be sent once only");
            let again = server.addressed(request.try_clone().ok_or_else(once)?);
            let (why, goes_on) = match ask(server, again).await {
                Ok(answer) => return Ok(answer),
                Err(Miss::Refused(failure)) => return Err(failure),
                Err(Miss::Unwell(failure)) => {
                    let why = failure.message.clone();
                    unwell = Some(failure);
                    (why, is_repeatable)
                }
                Err(Miss::Unreached(why)) => (why, true),
                Err(Miss::Lost(why)) => {
                    is_unknown = !is_repeatable;
                    (why, is_repeatable)
                }
            };
            asked.push(format!("{}: {why}", server.base));
            if !goes_on {
                break;
            }
        }
        Err(match unwell {
            // There is no other one: what it says stands for itself.
            Some(failure) if self.servers.len() == 1 => failure,
            Some(failure) => Failure {
                message: in_vain(&asked),
                ..failure
            },
            None if is_unknown => cannot_connect(&asked).hint(UNKNOWN),
            None => cannot_connect(&asked),
        })
    }

    /// An answer of the server that is asked has broken off.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        cannot_connect(&[format!("{}: {}", self.server().base, why(error))])
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
                Err(failure) if again > 0 && failure.code.as_deref() == Some(UNAVAILABLE) => {
                    again -= 1;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                asked => return asked,
            }
        }
    }
}

impl Server {
    fn new(http: &reqwest::Client, address: Url) -> Result<Self, Failure> {
        // The library makes a header of a login, and takes it out of the address.
        let asked = http.get(address).build();
        let asked = asked.map_err(|error| Failure::new(Exit::Usage, why(&error)))?;
        Ok(Self {
            base: asked.url().clone(),
            login: asked.headers().get(AUTHORIZATION).cloned(),
        })
    }

    /// Where it is, for people: without a login.
    pub(super) fn address(&self) -> &Url {
        &self.base
    }

    /// A request as it is sent to this server.
    fn addressed(&self, mut request: Request) -> Request {
        let mut url = self.base.clone();
        let under = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{under}{}", request.url().path()));
        url.set_query(request.url().query());
        *request.url_mut() = url;
        if let Some(login) = &self.login {
            request.headers_mut().insert(AUTHORIZATION, login.clone());
        }
        request
    }

    /// Whether the key may be shown to a member there, which this server named. Not on this machine, where something else may listen, if the
    /// server is another one. Not in the clear where the server is asked over TLS, nor beyond this machine if it is asked here: at the end of a
    /// tunnel, perhaps.
    fn may_ask(&self, address: &Url) -> bool {
        let (is_here, is_from_here) = (is_this_machine(address), is_this_machine(&self.base));
        match address.scheme() {
            "https" => is_from_here || !is_here,
            "http" => self.base.scheme() == "http" && is_here == is_from_here,
            _ => false,
        }
    }

    /// Reads what it answered.
    fn read<T: DeserializeOwned>(&self, text: &str) -> Result<T, Failure> {
        serde_json::from_str(text).map_err(|error| {
            if let Some(queued) = QueuedDto::read(text) {
                return waits(&queued);
            }
            let why = format!("{} answered something else than expected: {error}", self.base);
            Failure::new(Exit::Failed, why).hint("client and server may be of different versions")
        })
    }

    /// What an answer means that is no success.
    fn refusal(&self, status: StatusCode, text: &str) -> Miss {
        match serde_json::from_str::<Problem>(text) {
            Ok(problem) if problem.code == UNAVAILABLE => Miss::Unwell(problem.into()),
            Ok(problem) => Miss::Refused(problem.into()),
            Err(_) if GATEWAY.contains(&status) => Miss::Lost(format!("{status} without saying why")),
            Err(_) => {
                let why = format!("{} answered {status} without saying why", self.base);
                Miss::Refused(Failure::new(Exit::Failed, why).hint("is this address a troupe server?"))
            }
        }
    }
}

impl From<reqwest::Error> for Miss {
    fn from(error: reqwest::Error) -> Self {
        let why = why(&error);
        if error.is_connect() {
            Self::Unreached(why)
        } else {
            Self::Lost(why)
        }
    }
}

/// Reads the addresses of servers.
fn addresses(servers: &str) -> Result<Vec<Url>, Failure> {
    let all: Vec<&str> = servers.split(',').map(str::trim).collect();
    let read = all.iter().enumerate().map(|(at, address)| {
        let wrong = |why: &str| {
            // Whoever gives it a login does not want to see that here, nor a part of one that has a comma.
            let shown = if servers.contains('@') {
                format!("address {} of {}", at + 1, all.len())
            } else {
                format!("`{address}`")
            };
            Failure::new(Exit::Usage, format!("{shown} is no address of a server: {why}"))
                .hint("write --server http://127.0.0.1:7654, or several addresses with commas between")
        };
        if address.is_empty() {
            return Err(wrong("it is empty"));
        }
        let url = Url::parse(address).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(wrong("it must begin with http:// or https://"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it must end before `?` and `#`"));
        }
        Ok(url)
    });
    read.collect()
}

/// Whether it changes nothing if a server has got the request already.
fn is_repeatable(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) || request.headers().contains_key("idempotency-key")
}

/// What was the matter, without what it was the matter with.
fn why(error: &reqwest::Error) -> String {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        why = deeper.to_string();
        cause = deeper.source();
    }
    why
}

fn in_vain(asked: &[String]) -> String {
    format!("cannot talk to {}", asked.join("; "))
}

fn cannot_connect(asked: &[String]) -> Failure {
    let mut failure = Failure::new(Exit::CannotConnect, in_vain(asked));
    failure.code = Some("CANNOT_CONNECT".into());
    failure.hint("start a server with `troupe dev`, or name one with --server or TROUPE_SERVER")
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

    use axum::extract::Query;
    use axum::http::Uri;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

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
        client(&[&listening(router).await])
    }

    fn client(addresses: &[&str]) -> Client {
        with_key(&addresses.join(","), None)
    }

    fn with_key(servers: &str, key: Option<&str>) -> Client {
        // As `main` does; another test of this process may have been faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::new(servers, key).unwrap()
    }

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        (listener, address)
    }

    /// Where a server answers so.
    async fn listening(router: Router) -> String {
        let (listener, address) = listener().await;
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    /// Where nobody listens.
    async fn nowhere() -> String {
        listener().await.1
    }

    /// Where every request is heard, counted, and never answered.
    async fn deaf() -> (String, Arc<AtomicUsize>) {
        let (listener, address) = listener().await;
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _read = stream.read(&mut [0; 4_096]).await.ok();
            }
        });
        (address, heard)
    }

    /// Where every request gets this answer, and is counted.
    async fn always(status: StatusCode, body: Value) -> (String, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let answer = move || async move {
            count.fetch_add(1, Ordering::Relaxed);
            (status, Json(body))
        };
        (listening(Router::new().fallback(answer)).await, asked)
    }

    fn unavailable() -> Value {
        serde_json::to_value(ApiError::new(UNAVAILABLE, "it is starting").problem()).unwrap()
    }

    #[tokio::test]
    async fn where_nobody_listens_another_server_is_asked_and_asked_again() {
        let (gone, (here, asked)) = (nowhere().await, always(StatusCode::OK, json!(1)).await);
        let client = client(&[&gone, &here]);
        // Nobody has got a request that is refused like this: whatever it is, it may be sent again.
        assert_eq!(client.fetch::<u8>(client.post(&["x"])).await.unwrap(), 1);
        assert_eq!(client.server().address().as_str(), format!("{here}/"));
        assert_eq!(client.fetch::<u8>(client.get(&["x"])).await.unwrap(), 1);
        assert_eq!(client.ask_root("readyz").await.unwrap().0, StatusCode::OK);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_failure_names_all_who_were_asked() {
        let (one, two) = (nowhere().await, nowhere().await);
        let vain = client(&[&one, &two]);
        let failure = vain.fetch::<u8>(vain.get(&["x"])).await.unwrap_err();
        assert_eq!(failure.exit, Exit::CannotConnect);
        assert_eq!(failure.code.as_deref(), Some("CANNOT_CONNECT"));
        assert!(
            failure.message.contains(&one) && failure.message.contains(&two),
            "{}",
            failure.message
        );

        let (unwell, _) = always(StatusCode::SERVICE_UNAVAILABLE, unavailable()).await;
        let vain = client(&[&unwell, &two]);
        let failure = vain.fetch::<u8>(vain.get(&["x"])).await.unwrap_err();
        assert_eq!(failure.code.as_deref(), Some(UNAVAILABLE), "it may be asked again");
        for part in [unwell.as_str(), "it is starting", two.as_str()] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn what_may_have_been_received_is_sent_again_only_where_that_changes_nothing() {
        let (here, asked) = always(StatusCode::OK, json!(1)).await;
        let (lost, heard) = deaf().await;
        let careful = client(&[&lost, &here]);
        let failure = careful.fetch::<u8>(careful.post(&["x"])).await.unwrap_err();
        assert_eq!(failure.exit, Exit::CannotConnect);
        assert_eq!(failure.hint.as_deref(), Some(UNKNOWN));
        assert!(!failure.message.contains(&here), "{}", failure.message);
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        assert_eq!(asked.load(Ordering::Relaxed), 0);

        for (times, key) in [(1, None), (2, Some("k"))] {
            let client = client(&[&lost, &here]);
            let request = match key {
                Some(key) => client.post(&["x"]).header("idempotency-key", key).json(&1),
                None => client.get(&["x"]),
            };
            assert_eq!(client.fetch::<u8>(request).await.unwrap(), 1);
            assert_eq!(heard.load(Ordering::Relaxed), 1 + times);
            assert_eq!(asked.load(Ordering::Relaxed), times);
        }
    }

    #[tokio::test]
    async fn another_server_is_asked_where_one_is_unwell_and_not_where_it_refuses() {
        let refusal = serde_json::to_value(ApiError::new("STOPPED", "lunch").problem()).unwrap();
        for (status, body, goes_on) in [
            (StatusCode::SERVICE_UNAVAILABLE, unavailable(), true),
            (StatusCode::BAD_GATEWAY, json!("a proxy"), true),
            (StatusCode::SERVICE_UNAVAILABLE, refusal, false),
            (StatusCode::NOT_FOUND, json!("no"), false),
        ] {
            let (first, _) = always(status, body.clone()).await;
            let (second, asked) = always(StatusCode::OK, json!(1)).await;
            let client = client(&[&first, &second]);
            // What it has done about a command is not known.
            let command = client.fetch::<u8>(client.post(&["x"])).await.unwrap_err();
            let is_named = command.message.contains(&first);
            assert!(is_named || !goes_on, "{status} {body}: {}", command.message);
            assert_eq!(asked.load(Ordering::Relaxed), 0, "{status} {body}");
            let question = client.fetch::<u8>(client.get(&["x"])).await;
            assert_eq!(question.is_ok(), goes_on, "{status} {body}");
            assert_eq!(asked.load(Ordering::Relaxed), usize::from(goes_on), "{status} {body}");
        }
    }

    #[tokio::test]
    async fn each_server_gets_its_own_login_and_path_and_the_key() {
        let told = |headers: HeaderMap, uri: Uri| async move {
            let shown = headers[AUTHORIZATION].to_str().unwrap().to_owned();
            Json(json!([uri.to_string(), shown]))
        };
        let here = listening(Router::new().fallback(told)).await;
        let gone = nowhere().await.replace("http://", "http://u:secret@");
        let asked = async |here: &str| {
            let client = with_key(&format!("{gone}/a, {here}"), Some("key"));
            let request = client.get(&["x/y"]).query(&[("q", "1")]);
            client.fetch::<[String; 2]>(request).await.unwrap()
        };
        assert_eq!(asked(&here).await, ["/api/v1/x%2Fy?q=1", "Bearer key"]);
        let with_login = here.replace("http://", "http://u:p@");
        let under = asked(&format!("{with_login}/under/")).await;
        assert_eq!(under, ["/under/api/v1/x%2Fy?q=1", "Basic dTpw"]);
    }

    #[test]
    fn each_address_is_checked() {
        for (wrong, named) in [
            ("", "empty"),
            ("http://a,", "empty"),
            ("http://a,,http://b", "empty"),
            ("http://a,b", "`b`"),
            ("http://a,ftp://b", "`ftp://b`"),
            ("http://a,http://b?c", "`http://b?c`"),
            ("http://u:Left,Right@h,nonsense", "address 1 of 3"),
        ] {
            let failure = Client::new(wrong, None).err().unwrap();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}");
            assert!(failure.message.contains(named), "{wrong}: {}", failure.message);
            assert!(!failure.message.contains("Left"), "{}", failure.message);
            assert!(failure.hint.unwrap().contains("--server"), "{wrong}");
        }
        let twice = with_key("http://a, http://a/,http://b", None);
        assert_eq!(twice.servers.len(), 2);
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
        assert_eq!(client.server().address().as_str(), "http://h:1/");
    }

    #[test]
    fn a_key_is_shown_to_members_only_where_it_is_as_safe_as_at_the_server() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let may = |server: &str, member: &str| {
            let client = Client::new(server, Some("key")).unwrap();
            client.server().may_ask(&Url::parse(member).unwrap())
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
        // Of several, the one that named the member.
        let several = with_key("http://127.0.0.1:1,http://a.example", Some("key"));
        let here = Url::parse("http://127.0.0.1:2").unwrap();
        assert!(several.server().may_ask(&here));
        several.pass_over();
        assert!(!several.server().may_ask(&here));
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
