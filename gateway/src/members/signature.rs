//! What members sign their requests to each other with.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderValue, Method};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, hmac};
use troupe_core::Timestamp;

use super::forward::IDEMPOTENCY_KEY;
use crate::auth::{Caller, random};
use crate::error::ApiError;

/// The header: version, milliseconds, nonce, for whom it is meant, name and role of whoever asked, digest of the body, signature.
pub(super) const HEADER: &str = "x-troupe-member";
/// The next one whenever the header, or what is signed, becomes another.
const VERSION: &str = "v2";
/// How earlier builds signed. A command that one of them left in an inbox is as good as it was. Its requests are not taken: those of the first
/// builds have neither nonce nor member that they are meant for, and whoever sees one could repeat it.
const EARLIER: &str = "v1";
/// How far the clocks of two members may differ, and how old a request may be, in milliseconds. Within this time the member that it is meant
/// for knows it again by its nonce ([`super::seen`]), and no other one takes it.
pub(super) const AGE_MS_MAX: u64 = 60_000;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
/// What the key is derived for: the shared secret signs other things too.
const PURPOSE: &[u8] = b"troupe: requests between members, v2";
/// The same for [`EARLIER`]: what was signed so passes for nothing else.
const PURPOSE_EARLIER: &[u8] = b"troupe: requests between members, v1";

/// Random bytes that no other request has.
pub(super) type Nonce = [u8; NONCE_BYTES];

/// What members sign with.
#[derive(Clone)]
pub(crate) struct MemberKey {
    now: hmac::Key,
    earlier: hmac::Key,
}

/// A request that another member has signed, or that is to be signed: whom it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Name of whoever asked that member.
    pub(crate) caller: String,
    /// What that member let the caller do.
    pub(crate) role: String,
    /// Names of the members that it is meant for, between commas.
    to: String,
    /// Zero until it is signed.
    nonce: Nonce,
    /// Digest of the body that was signed.
    body: [u8; digest::SHA256_OUTPUT_LEN],
}

/// A header as it stands, its signature unchecked.
struct Written<'a> {
    version: &'a str,
    at: &'a str,
    signed: Signed,
    /// Whether it has a nonce, and members that it is meant for.
    is_addressed: bool,
    signature: Vec<u8>,
}

const UNREADABLE: &str = "the signature of the member cannot be read: it is damaged, or of another build";
const OF_EARLIER_BUILD: &str =
    "the request is signed as an earlier build signs: members of both builds take none of each other's";

pub(super) fn invalid(why: &str) -> ApiError {
    ApiError::new("MEMBER_SIGNATURE_INVALID", why)
}

fn digest_of(body: &[u8]) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, body).as_ref());
    bytes
}

impl Signed {
    pub(crate) fn new(caller: &Caller, body: &[u8]) -> Self {
        Self {
            caller: caller.name().to_owned(),
            role: caller.role().name().to_owned(),
            to: String::new(),
            nonce: [0; NONCE_BYTES],
            body: digest_of(body),
        }
    }

    /// The same caller with another body.
    pub(super) fn for_body(&self, body: &[u8]) -> Self {
        Self {
            body: digest_of(body),
            ..self.clone()
        }
    }

    /// The same for the member of this name; of several names, between commas: for whichever is found where it is sent.
    pub(super) fn meant_for(self, names: impl Into<String>) -> Self {
        Self {
            to: names.into(),
            ..self
        }
    }

    /// Whether it is meant for the member of this name.
    pub(super) fn is_meant_for(&self, name: &str) -> bool {
        self.to.split(',').any(|to| to == name)
    }

    /// What tells it from every other request.
    pub(super) fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// Whether this is the body that was signed.
    pub(crate) fn covers(&self, body: &[u8]) -> bool {
        self.body == digest_of(body)
    }
}

/// Parts of a text, each after its length: no two lists give the same.
pub(super) fn framed<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// What is signed of a request. Of its headers: every `Idempotency-Key`, in order. Whoever reads one takes the first, and a request without
/// one is another request than one whose key is empty.
fn signed_text(
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    at: &str,
    signed: &Signed,
    is_addressed: bool,
) -> Vec<u8> {
    let place = [method.as_str().as_bytes(), target.as_bytes(), at.as_bytes()];
    let address: [&[u8]; 2] = [&signed.nonce, signed.to.as_bytes()];
    let asked: [&[u8]; 3] = [signed.caller.as_bytes(), signed.role.as_bytes(), &signed.body];
    let keys = headers.get_all(IDEMPOTENCY_KEY).iter().map(HeaderValue::as_bytes);
    let address = address.into_iter().filter(|_| is_addressed);
    framed(place.into_iter().chain(address).chain(asked).chain(keys))
}

impl<'a> Written<'a> {
    fn parse(value: &'a str) -> Option<Self> {
        let parts: Vec<&str> = value.split('.').collect();
        let (version, at, address, asked) = match *parts.as_slice() {
            [
                version @ (VERSION | EARLIER),
                at,
                nonce,
                to,
                caller,
                role,
                body,
                signature,
            ] => (version, at, Some((nonce, to)), [caller, role, body, signature]),
            [EARLIER, at, caller, role, body, signature] => (EARLIER, at, None, [caller, role, body, signature]),
            _ => return None,
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let text = |part: &str| String::from_utf8(decode(part)?).ok();
        let (nonce, to): (Nonce, String) = match address {
            Some((nonce, to)) => (decode(nonce)?.try_into().ok()?, text(to)?),
            None => ([0; NONCE_BYTES], String::new()),
        };
        let [caller, role, body, signature] = asked;
        let signed = Signed {
            caller: text(caller)?,
            role: text(role)?,
            to,
            nonce,
            body: decode(body)?.try_into().ok()?,
        };
        Some(Self {
            version,
            at,
            signed,
            is_addressed: address.is_some(),
            signature: decode(signature)?,
        })
    }
}

impl MemberKey {
    pub(super) fn new(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, purpose).as_ref());
        Self {
            now: derived(PURPOSE),
            earlier: derived(PURPOSE_EARLIER),
        }
    }

    /// Name and value of the header of a request to `target` (path and query). `headers`: those that it is sent with. Each try is signed anew:
    /// what is signed once is taken once.
    pub(crate) fn sign(
        &self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        now: Timestamp,
        signed: &Signed,
    ) -> Result<(&'static str, HeaderValue), ApiError> {
        let at = now.0.to_string();
        let signed = Signed {
            nonce: random()?,
            ..signed.clone()
        };
        let signature = hmac::sign(&self.now, &signed_text(method, target, headers, &at, &signed, true));
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let value = [
            Cow::Borrowed(VERSION),
            at.into(),
            encode(&signed.nonce).into(),
            encode(signed.to.as_bytes()).into(),
            encode(signed.caller.as_bytes()).into(),
            encode(signed.role.as_bytes()).into(),
            encode(&signed.body).into(),
            encode(signature.as_ref()).into(),
        ]
        .join(".");
        let value = HeaderValue::from_str(&value).map_err(|error| ApiError::new("INTERNAL", error.to_string()))?;
        Ok((HEADER, value))
    }

    /// Whom a request asks for, if a member has signed it; none: nobody says that one has. Whether it is meant for this member, and whether it came
    /// before, is asked next ([`super::forwarded`]).
    ///
    /// # Errors
    /// `MEMBER_SIGNATURE_INVALID`, also of what an earlier build signed.
    pub(crate) fn verify(
        &self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Option<Signed>, ApiError> {
        let Some(value) = headers.get(HEADER) else {
            return Ok(None);
        };
        let value = value.to_str().map_err(|_| invalid(UNREADABLE))?;
        let written = Written::parse(value).ok_or_else(|| invalid(UNREADABLE))?;
        if written.version == EARLIER {
            return Err(invalid(OF_EARLIER_BUILD));
        }
        let (signed, at) = self.checked(written, method, target, headers)?;
        if now.0.abs_diff(at.0) > AGE_MS_MAX {
            let why = format!(
                "the request was signed {} s away from the time here: the clocks of the members differ, or it is an old one",
                now.0.abs_diff(at.0) / 1_000
            );
            return Err(invalid(&why));
        }
        Ok(Some(signed))
    }

    /// Whom a command asks for that a member left somewhere, whatever its age and whichever build it was.
    ///
    /// # Errors
    /// `MEMBER_SIGNATURE_INVALID`.
    pub(super) fn read(
        &self,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        value: &str,
    ) -> Result<Signed, ApiError> {
        let written = Written::parse(value).ok_or_else(|| invalid(UNREADABLE))?;
        let (signed, _) = self.checked(written, method, target, headers)?;
        Ok(signed)
    }

    /// What is said, and when it was signed, if it was signed with the secret.
    fn checked(
        &self,
        written: Written<'_>,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
    ) -> Result<(Signed, Timestamp), ApiError> {
        let Written {
            version,
            at,
            signed,
            is_addressed,
            signature,
        } = written;
        let key = if version == EARLIER { &self.earlier } else { &self.now };
        let text = signed_text(method, target, headers, at, &signed, is_addressed);
        if hmac::verify(key, &text, &signature).is_err() {
            return Err(invalid("the request is not signed with the secret of this deployment"));
        }
        let at = at.parse().map_err(|_| invalid(UNREADABLE))?;
        Ok((signed, Timestamp(at)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn headers(key: &MemberKey, signed: &Signed) -> HeaderMap {
        let signature = key.sign(&Method::POST, "/api/v1/x?y=1", &HeaderMap::new(), NOW, signed);
        let (name, value) = signature.unwrap();
        [(axum::http::HeaderName::from_static(name), value)]
            .into_iter()
            .collect()
    }

    #[test]
    fn what_a_member_has_signed_is_told_from_everything_else() {
        let (key, other) = (MemberKey::new(b"secret"), MemberKey::new(b"another"));
        let signed = Signed {
            caller: "key:réne".to_owned(),
            role: "operator".to_owned(),
            ..Signed::new(&Caller::member(), b"{}").meant_for("a,b")
        };
        let headers = headers(&key, &signed);
        let verify = |key: &MemberKey, method, target, now| key.verify(&method, target, &headers, now);
        let verified = verify(&key, Method::POST, "/api/v1/x?y=1", NOW).unwrap().unwrap();
        assert_ne!(verified.nonce(), signed.nonce());
        let nonce = verified.nonce();
        assert_eq!(verified, Signed { nonce, ..signed });
        assert!(verified.covers(b"{}") && !verified.covers(b"{ }"));
        for (name, is_meant) in [("a", true), ("b", true), ("c", false), ("a,b", false), ("", false)] {
            assert_eq!(verified.is_meant_for(name), is_meant, "{name}");
        }
        let code = |error: ApiError| error.code().to_owned();
        for refused in [
            verify(&other, Method::POST, "/api/v1/x?y=1", NOW),
            verify(&key, Method::PUT, "/api/v1/x?y=1", NOW),
            verify(&key, Method::POST, "/api/v1/x?y=2", NOW),
            verify(&key, Method::POST, "/api/v1/x?y=1", Timestamp(NOW.0 + 60_001)),
            verify(&key, Method::POST, "/api/v1/x?y=1", Timestamp(NOW.0 - 60_001)),
        ] {
            assert_eq!(code(refused.unwrap_err()), "MEMBER_SIGNATURE_INVALID");
        }
        assert_eq!(key.verify(&Method::GET, "/", &HeaderMap::new(), NOW).unwrap(), None);
    }

    #[test]
    fn a_changed_header_is_refused() {
        let key = MemberKey::new(b"secret");
        let valid = headers(
            &key,
            &Signed {
                role: "viewer".to_owned(),
                ..Signed::new(&Caller::member(), b"").meant_for("a,b")
            },
        );
        let valid = valid[HEADER].to_str().unwrap().to_owned();
        let elsewhere = valid.replace(&URL_SAFE_NO_PAD.encode("a,b"), &URL_SAFE_NO_PAD.encode("a,c"));
        let mut again: Vec<&str> = valid.split('.').collect();
        again[2] = "AAAAAAAAAAAAAAAA";
        let again = again.join(".");
        let admin = valid.replace(&URL_SAFE_NO_PAD.encode("viewer"), &URL_SAFE_NO_PAD.encode("admin"));
        assert!([&elsewhere, &again, &admin].iter().all(|forged| **forged != valid));
        for forged in [
            elsewhere,
            again,
            admin,
            valid.replacen("v2.", "v1.", 1),
            valid.replacen("v2.", "v3.", 1),
            format!("{valid}.AAAA"),
            valid[..valid.len() - 9].to_owned(),
            String::new(),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, forged.parse().unwrap());
            assert!(
                key.verify(&Method::POST, "/api/v1/x?y=1", &headers, NOW).is_err(),
                "{forged}"
            );
        }
    }

    #[test]
    fn what_an_earlier_build_signed_is_read_where_it_was_left_and_taken_as_no_request() {
        let (method, target, none) = (Method::POST, "/api/v1/x?y=1", HeaderMap::new());
        let key = MemberKey::new(b"secret");
        let earlier = MemberKey {
            now: key.earlier.clone(),
            earlier: key.earlier.clone(),
        };
        let signed = Signed::new(&Caller::member(), b"{}").meant_for("a");
        let mut headers = headers(&earlier, &signed);
        let value = headers[HEADER].to_str().unwrap().to_owned();
        // It passes for nothing of this build.
        assert!(key.read(&method, target, &none, &value).is_err());
        let value = value.replacen("v2.", "v1.", 1);
        let read = key.read(&method, target, &none, &value).unwrap();
        assert!(read.is_meant_for("a") && read.covers(b"{}"));
        headers.insert(HEADER, value.parse().unwrap());
        let refused = key.verify(&method, target, &headers, NOW).unwrap_err();
        assert_eq!(refused.code(), "MEMBER_SIGNATURE_INVALID");
        assert!(refused.detail().contains("earlier build"), "{}", refused.detail());
    }

    /// A request that is signed with some keys and comes with others.
    fn verified(signed_with: &[&str], comes_with: &[&str]) -> Result<Option<Signed>, ApiError> {
        let with = |keys: &[&str]| {
            let mut headers = HeaderMap::new();
            for key in keys {
                headers.append(IDEMPOTENCY_KEY, key.parse().unwrap());
            }
            headers
        };
        let (key, target) = (MemberKey::new(b"secret"), "/api/v1/workflows/w/executions");
        let signed = Signed::new(&Caller::member(), b"{}");
        let signature = key.sign(&Method::POST, target, &with(signed_with), NOW, &signed);
        let (name, value) = signature.unwrap();
        let mut headers = with(comes_with);
        headers.insert(name, value);
        key.verify(&Method::POST, target, &headers, NOW)
    }

    #[test]
    fn a_key_that_was_not_signed_is_refused() {
        let as_signed: [&[&str]; 4] = [&[], &[""], &["k"], &["k", "l"]];
        for keys in as_signed {
            assert!(verified(keys, keys).unwrap().is_some(), "{keys:?}");
        }
        let changed: [(&[&str], &[&str]); 9] = [
            (&["k"], &["l"]),
            (&["k"], &[""]),
            (&["k"], &[]),
            (&[], &["k"]),
            (&[], &[""]),
            (&["k"], &["k", "l"]),
            (&["k"], &["l", "k"]),
            (&["k", "l"], &["l", "k"]),
            (&["k", "l"], &["kl"]),
        ];
        for (signed_with, comes_with) in changed {
            let refused = verified(signed_with, comes_with).unwrap_err();
            assert_eq!(
                refused.code(),
                "MEMBER_SIGNATURE_INVALID",
                "{signed_with:?} {comes_with:?}"
            );
        }
    }
}
