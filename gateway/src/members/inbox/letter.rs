//! A command as it lies in an inbox: the request, and who gave it, signed by the member that put it there.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use troupe_core::{ShardId, Timestamp};
use troupe_ports::InboxId;

use super::super::forward::NOT_FORWARDED;
use super::super::signature::{HEADER, MemberKey, Signed};
use crate::auth::Caller;
use crate::error::ApiError;

/// Headers that are not kept, beside those that are not forwarded: they are about the answer, or nobody else's business.
const NOT_KEPT: [HeaderName; 3] = [
    HeaderName::from_static("prefer"),
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

/// A request that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter {
    method: String,
    /// Path and query.
    target: String,
    headers: Vec<(String, String)>,
    /// In base64.
    body: String,
    /// The execution that it is for, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    execution: Option<String>,
}

/// What the signature says that was signed: no request has such a path.
fn place(shard: ShardId, id: InboxId) -> String {
    format!("inbox/{shard}/{}", URL_SAFE_NO_PAD.encode(id.0))
}

fn unreadable(why: impl std::fmt::Display) -> ApiError {
    ApiError::new("DAMAGED", format!("what lies in the inbox cannot be read: {why}"))
}

impl Letter {
    pub(super) fn of(parts: &Parts, body: &[u8], execution: Option<String>) -> Self {
        let is_kept = |name: &HeaderName| !NOT_FORWARDED.contains(name) && !NOT_KEPT.contains(name) && name != HEADER;
        let headers = parts.headers.iter().filter(|(name, _)| is_kept(name));
        // What is no text means nothing to any route.
        let headers = headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
        Self {
            method: parts.method.to_string(),
            target: parts
                .uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
            headers: headers.collect(),
            body: STANDARD.encode(body),
            execution,
        }
    }

    /// What is put into the inbox of a shard under `id`: a line with the signature, then the request.
    pub(super) fn sealed(
        &self,
        key: &MemberKey,
        (shard, id): (ShardId, InboxId),
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Bytes, ApiError> {
        let text = serde_json::to_vec(self).map_err(|error| ApiError::new("INTERNAL", error.to_string()))?;
        let signed = Signed::new(caller, &text);
        // The headers of the request are in its text.
        let (_, signature) = key.sign(&Method::POST, &place(shard, id), &HeaderMap::new(), now, &signed)?;
        Ok([signature.as_bytes(), &b"\n"[..], &text[..]].concat().into())
    }

    /// Reads what lies there under `id`, whatever its age and whichever build left it, and tells for whom.
    ///
    /// # Errors
    /// `DAMAGED`; `MEMBER_SIGNATURE_INVALID` if no member put it there.
    pub(super) fn open(
        sealed: &[u8],
        key: &MemberKey,
        (shard, id): (ShardId, InboxId),
    ) -> Result<(Self, Signed), ApiError> {
        let end = sealed.iter().position(|byte| *byte == b'\n');
        let (signature, text) = sealed.split_at(end.ok_or_else(|| unreadable("it has one line"))?);
        let text = &text[1..];
        let signature = std::str::from_utf8(signature).map_err(unreadable)?;
        let signed = key.read(&Method::POST, &place(shard, id), &HeaderMap::new(), signature)?;
        if !signed.covers(text) {
            return Err(ApiError::new(
                "MEMBER_SIGNATURE_INVALID",
                "the command is not the one that was signed",
            ));
        }
        let letter = serde_json::from_slice(text).map_err(unreadable)?;
        Ok((letter, signed))
    }

    /// The request, as if it had been forwarded to the member of this name now.
    ///
    /// # Errors
    /// `DAMAGED`; `UNAVAILABLE` when the system gives no random bytes.
    pub(super) fn request(
        &self,
        key: &MemberKey,
        signed: &Signed,
        name: &str,
        now: Timestamp,
    ) -> Result<Request<Body>, ApiError> {
        let body = STANDARD.decode(&self.body).map_err(unreadable)?;
        let method = Method::from_bytes(self.method.as_bytes()).map_err(unreadable)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(unreadable)?;
            let value = HeaderValue::try_from(value.as_str()).map_err(unreadable)?;
            headers.append(name, value);
        }
        let signed = signed.for_body(&body).meant_for(name);
        let (name, value) = key.sign(&method, &self.target, &headers, now, &signed)?;
        headers.insert(name, value);
        let request = Request::builder().method(method).uri(&self.target);
        let mut request = request.body(Body::from(body)).map_err(unreadable)?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// For people: what is asked of what.
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// What must not be overtaken by a later command for the same.
    pub(super) fn execution(&self) -> Option<&str> {
        self.execution.as_deref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const PLACE: (ShardId, InboxId) = (ShardId(3), InboxId([7; 32]));
    /// [`letter`] as builds have left it, signed with `secret`: the first ones, those that knew nonces, and from `v2` on. Stores hold such letters,
    /// so none of these ever changes; another way of writing them gets the next one.
    const KEPT: [(&str, &[u8]); 3] = [
        ("v1, first", include_bytes!("samples/v1-first.letter")),
        ("v1, with a nonce", include_bytes!("samples/v1.letter")),
        ("v2", include_bytes!("samples/v2.letter")),
    ];

    fn letter() -> Letter {
        let request = Request::post("/api/v1/executions/00ab/nodes/call/complete?x=%20")
            .header("content-type", "application/json")
            .header("idempotency-key", "k")
            .header("authorization", "Bearer secret")
            .header("cookie", "secret")
            .header("prefer", "wait=30")
            .header("x-troupe-member", "v1.old")
            .body(())
            .unwrap();
        Letter::of(&request.into_parts().0, b"{\"output\": 7}\0", Some("00ab".into()))
    }

    #[test]
    fn what_a_member_keeps_another_one_reads_much_later() {
        let key = MemberKey::new(b"secret");
        let sealed = letter().sealed(&key, PLACE, &Caller::trigger("key:ada"), NOW).unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("secret"));
        let (opened, signed) = Letter::open(&sealed, &key, PLACE).unwrap();
        assert_eq!(opened, letter());
        assert_eq!((&*signed.caller, &*signed.role), ("key:ada", "operator"));
        assert_eq!(opened.execution(), Some("00ab"));
        let later = Timestamp(NOW.0 + 86_400_000);
        let (parts, _) = opened.request(&key, &signed, "b", later).unwrap().into_parts();
        assert_eq!(parts.method, Method::POST);
        assert_eq!(parts.uri, "/api/v1/executions/00ab/nodes/call/complete?x=%20");
        let mut names: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "idempotency-key", "x-troupe-member"]);
        let target = parts.uri.path_and_query().unwrap().as_str();
        let verified = key.verify(&parts.method, target, &parts.headers, later).unwrap();
        let verified = verified.unwrap();
        assert_eq!((&*verified.caller, &*verified.role), ("key:ada", "operator"));
        assert!(verified.covers(b"{\"output\": 7}\0") && verified.is_meant_for("b"));
    }

    #[test]
    fn what_any_build_has_left_is_read() {
        let key = MemberKey::new(b"secret");
        for (build, sealed) in KEPT {
            let opened = Letter::open(sealed, &key, PLACE);
            let (opened, signed) = opened.unwrap_or_else(|error| panic!("{build}: {}", error.detail()));
            assert_eq!(opened, letter(), "{build}");
            assert_eq!((&*signed.caller, &*signed.role), ("key:ada", "operator"), "{build}");
            let (parts, _) = opened.request(&key, &signed, "b", NOW).unwrap().into_parts();
            let target = parts.uri.path_and_query().unwrap().as_str();
            let verified = key.verify(&parts.method, target, &parts.headers, NOW).unwrap();
            assert!(
                verified.unwrap().is_meant_for("b"),
                "{build}: it is run as a request of this build"
            );
            assert!(
                Letter::open(sealed, &MemberKey::new(b"another"), PLACE).is_err(),
                "{build}"
            );
            assert!(Letter::open(sealed, &key, (ShardId(4), PLACE.1)).is_err(), "{build}");
        }
    }

    #[test]
    fn letters_are_written_as_the_latest_that_is_kept() {
        // All but the nonce and the signature.
        let told = |sealed: &[u8]| {
            let text = String::from_utf8(sealed.to_vec()).unwrap();
            let (signature, letter) = text.split_once('\n').unwrap();
            let parts: Vec<String> = signature.split('.').map(str::to_owned).collect();
            assert_eq!(parts.len(), 8, "{signature}");
            let same = [0, 1, 3, 4, 5, 6].map(|place: usize| parts[place].clone());
            (same, letter.to_owned())
        };
        let key = MemberKey::new(b"secret");
        let sealed = letter().sealed(&key, PLACE, &Caller::trigger("key:ada"), NOW).unwrap();
        let (_, latest) = KEPT[KEPT.len() - 1];
        assert_eq!(told(&sealed), told(latest));
    }

    #[test]
    fn what_no_member_has_put_there_is_refused() {
        let key = MemberKey::new(b"secret");
        let sealed = letter().sealed(&key, PLACE, &Caller::member(), NOW).unwrap();
        let code =
            |sealed: &[u8], key: &MemberKey, place| Letter::open(sealed, key, place).unwrap_err().code().to_owned();
        let elsewhere = (ShardId(4), PLACE.1);
        let renamed = (PLACE.0, InboxId([8; 32]));
        let mut changed = sealed.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        for (sealed, key, place) in [
            (&sealed[..], &MemberKey::new(b"another"), PLACE),
            (&sealed[..], &key, elsewhere),
            (&sealed[..], &key, renamed),
            (&changed[..], &key, PLACE),
            (&b"v1.x\n{}"[..], &key, PLACE),
        ] {
            assert_eq!(code(sealed, key, place), "MEMBER_SIGNATURE_INVALID");
        }
        assert_eq!(code(b"", &key, PLACE), "DAMAGED");
    }
}
