//! Sends requests hop by hop: the guard looks at every target, redirects are followed here and not by the client.

use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    PROXY_AUTHORIZATION, TRANSFER_ENCODING,
};
use reqwest::{Client, Method, StatusCode, Url};
use troupe_core::ErrorInfo;
use troupe_core::execution::AttemptFailure;

use super::HttpOptions;
use super::auth::Authentication;
use super::egress::{EgressPolicy, GuardedResolver, Lookup, Reach};
use super::failure::{classify, denied, failure, give_up, shown};
use super::request::Request;
use crate::codes;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept to one host.
const IDLE_PER_HOST_MAX: usize = 32;

/// A response, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) url: Url,
}

/// The HTTP clients with the guard.
pub(super) struct Connector {
    policy: Arc<EgressPolicy>,
    /// For targets that the guard has let through already.
    listed: Client,
    /// For names whose addresses have yet to be checked.
    guarded: Client,
}

impl Connector {
    /// Builds the clients.
    ///
    /// # Errors
    /// When TLS cannot be set up or an extra certificate cannot be read.
    pub(super) fn new(options: &HttpOptions, lookup: Lookup) -> Result<Self, reqwest::Error> {
        // The choice of a provider is the process's own where it made one.
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                drop(rustls::crypto::ring::default_provider().install_default());
            }
        });
        let policy = Arc::new(options.egress.clone());
        let builder = || {
            let mut builder = Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                // A proxy would be asked to connect where the guard would not.
                .no_proxy()
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
                .user_agent(concat!("troupe/", env!("CARGO_PKG_VERSION")));
            for certificate in &options.extra_roots_pem {
                builder = builder.add_root_certificate(reqwest::Certificate::from_pem(certificate)?);
            }
            Ok::<_, reqwest::Error>(builder)
        };
        let guarded = builder()?
            .dns_resolver(GuardedResolver::new(Arc::clone(&policy), lookup))
            .build()?;
        Ok(Self {
            policy,
            listed: builder()?.build()?,
            guarded,
        })
    }

    /// One request without redirects.
    ///
    /// # Errors
    /// `EGRESS_DENIED`, and what connecting and reading give.
    pub(super) async fn once(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
        bytes_max: usize,
    ) -> Result<Answer, AttemptFailure> {
        let client = match self.policy.check(url).map_err(|error| denied(&error))? {
            Reach::Listed => &self.listed,
            Reach::Guarded => &self.guarded,
        };
        let mut request = client.request(method.clone(), url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let mut response = request.send().await.map_err(|error| classify(&error, url))?;
        let too_large = || {
            let message = format!("the response of {} is larger than {bytes_max} bytes", shown(url));
            give_up(ErrorInfo::new(codes::OUTPUT_TOO_LARGE, message))
        };
        let announced = response.content_length().unwrap_or(0);
        if *method != Method::HEAD && announced > bytes_max as u64 {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error, url))? {
            if body.len() + chunk.len() > bytes_max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body,
            url: url.clone(),
        })
    }

    /// Sends a request and follows its redirects. `token` is the OAuth 2 token, where that is the authentication.
    ///
    /// # Errors
    /// As [`Connector::once`], and `HTTP_REDIRECT`.
    pub(super) async fn send(
        &self,
        request: &Request,
        token: Option<&str>,
        bytes_max: usize,
    ) -> Result<Answer, AttemptFailure> {
        let first = authenticated_url(request);
        let mut url = first.clone();
        let mut method = request.method.clone();
        let mut body = request.body.clone();
        let mut headers = request.headers.clone();
        let mut own = vec![AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];
        own.extend(request.confidential.iter().cloned());
        own.extend(authenticate(request, token, &mut headers)?);
        for hop in 0.. {
            let answer = self
                .once(&method, &url, headers.clone(), body.clone(), bytes_max)
                .await?;
            let Some(next) = target(&answer) else { return Ok(answer) };
            if request.redirects_max == 0 {
                return Ok(answer);
            }
            let refuse = |why: &str| {
                let message = format!("the redirect of {} {why}", shown(&url));
                Err(give_up(ErrorInfo::new(codes::HTTP_REDIRECT, message)))
            };
            if hop >= request.redirects_max {
                return refuse(&format!(
                    "is one more than the {} that are followed",
                    request.redirects_max
                ));
            }
            let Ok(next) = next else {
                return refuse("names no usable target");
            };
            let rewrites = match answer.status {
                StatusCode::SEE_OTHER => method != Method::HEAD,
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::POST,
                _ => false,
            };
            if rewrites {
                method = Method::GET;
                body = None;
                for name in [CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING] {
                    headers.remove(name);
                }
                headers.remove("idempotency-key");
            }
            if next.origin() != first.origin() {
                if body.is_some() && request.body_confidential {
                    return refuse("would send a secret of the body to another origin");
                }
                own.iter().for_each(|name| drop(headers.remove(name)));
            }
            url = next;
        }
        Err(failure(
            ErrorInfo::new(codes::HTTP_REDIRECT, "too many redirects"),
            false,
        ))
    }
}

/// Where a redirect leads; none when the answer is no redirect.
fn target(answer: &Answer) -> Option<Result<Url, ()>> {
    let redirects = [301, 302, 303, 307, 308].contains(&answer.status.as_u16());
    let location = answer.headers.get(LOCATION).filter(|_| redirects)?;
    let read = location
        .to_str()
        .map_err(|_| ())
        .and_then(|text| answer.url.join(text).map_err(|_| ()));
    Some(read.map(|mut url| {
        // A redirect must not make the client log in somewhere.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url
    }))
}

fn authenticated_url(request: &Request) -> Url {
    let mut url = request.url.clone();
    if let Authentication::Query(name, key) = &request.authentication {
        url.query_pairs_mut().append_pair(name, key);
    }
    url
}

/// Adds the credentials; gives the header that holds them.
fn authenticate(
    request: &Request,
    token: Option<&str>,
    headers: &mut HeaderMap,
) -> Result<Option<HeaderName>, AttemptFailure> {
    match (&request.authentication, token) {
        (Authentication::Header(name, value), _) => {
            headers.insert(name.clone(), value.clone());
            Ok(Some(name.clone()))
        }
        (Authentication::OAuth2(_), Some(token)) => {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                give_up(ErrorInfo::new(
                    codes::HTTP_AUTHENTICATION,
                    "the token endpoint gave an unusable token",
                ))
            })?;
            headers.insert(AUTHORIZATION, value);
            Ok(Some(AUTHORIZATION))
        }
        (Authentication::None | Authentication::Query(..) | Authentication::OAuth2(_), _) => Ok(None),
    }
}
