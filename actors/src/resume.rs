//! Addresses at which a waiting node is called: whoever has one may resume that node of that execution, and nothing else.
//!
//! A token says what it is for and ends with HMAC-SHA256 (RFC 2104) over that; nothing of it is stored.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use troupe_core::ExecutionId;

/// Bytes of the server's secret.
pub const RESUME_SECRET_BYTES: usize = 32;
/// First byte of a token: which form it has.
const VERSION: u8 = 1;
/// Bytes of the signature at the end of a token.
const TAG_BYTES: usize = 32;
const ID_BYTES: usize = 16;

/// Makes and reads the addresses. Only the holder of the secret can make one.
pub struct ResumeLinks {
    base: String,
    key: hmac::Key,
}

impl fmt::Debug for ResumeLinks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ResumeLinks")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl ResumeLinks {
    /// Addresses that begin with `base`, which ends with a slash, signed with the server's secret.
    #[must_use]
    pub fn new(base: impl Into<String>, secret: &[u8; RESUME_SECRET_BYTES]) -> Self {
        Self {
            base: base.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// The address that resumes a node of an execution, in every visit of it.
    #[must_use]
    pub fn url(&self, id: ExecutionId, node: &str) -> String {
        format!("{}{}", self.base, self.token(id, node))
    }

    fn token(&self, id: ExecutionId, node: &str) -> String {
        let mut bytes = Vec::with_capacity(1 + ID_BYTES + node.len() + TAG_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(node.as_bytes());
        let tag = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token is for; none if this server has not made it. The comparison takes the same time wherever they differ.
    #[must_use]
    pub fn read(&self, token: &str) -> Option<(ExecutionId, String)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (signed, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_BYTES)?)?;
        hmac::verify(&self.key, signed, tag).ok()?;
        let (version, rest) = signed.split_first()?;
        let (id, node) = rest.split_at_checked(ID_BYTES)?;
        let id = ExecutionId(id.try_into().ok()?);
        let node = String::from_utf8(node.to_vec()).ok()?;
        (*version == VERSION).then_some((id, node))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_what_was_made_here_is_read() {
        let links = ResumeLinks::new("https://x.test/r/", &[7; RESUME_SECRET_BYTES]);
        let id = ExecutionId([3; 16]);
        let url = links.url(id, "approve/é");
        let token = url.strip_prefix("https://x.test/r/").unwrap();
        assert_eq!(links.read(token), Some((id, "approve/é".to_owned())));

        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(links.read(&URL_SAFE_NO_PAD.encode(&changed)), None, "byte {at}");
            assert_eq!(links.read(&URL_SAFE_NO_PAD.encode(&bytes[..at])), None, "cut at {at}");
        }
        assert_eq!(ResumeLinks::new("", &[8; RESUME_SECRET_BYTES]).read(token), None);
        assert_eq!(links.read("="), None);
    }
}
