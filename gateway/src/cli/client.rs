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
use crate::members::IDEMPOTENCY_KEY;

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
    matches!(*request.method(), Method::GET | Method::HEAD) || request.headers().contains_key(IDEMPOTENCY_KEY)
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
mod tests;
