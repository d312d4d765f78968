//! Keys as their holders have them: `troupe_<id>_<secret>`. The prefix is for those who look for secrets that leaked.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use troupe_ports::KeyId;

use crate::error::ApiError;

const PREFIX: &str = "troupe";
const SECRET_BYTES: usize = 32;

/// A key with its secret, which is shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Names the key.
    pub id: KeyId,
    /// 256 random bits, in hexadecimal digits.
    secret: String,
}

impl Token {
    /// A new key.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the system gives no random bytes.
    pub fn fresh() -> Result<Self, ApiError> {
        let secret: [u8; SECRET_BYTES] = random()?;
        Ok(Self {
            id: KeyId(random()?),
            secret: secret.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Reads a key; none if the text has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.strip_prefix('_')?.split_once('_')?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (secret.len() == 2 * SECRET_BYTES && secret.bytes().all(is_digit)).then_some(())?;
        Some(Self {
            id: id.parse().ok()?,
            secret: secret.to_owned(),
        })
    }

    /// The whole key: for its holder only.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}_{}_{}", self.id, self.secret)
    }

    /// SHA-256 of the secret, as it is kept. The secret is random and long: nobody finds it by trying, so a slow hash
    /// would only make requests slow.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.secret.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}_{}_…", self.id)
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Whether two hashes are equal, in a time that tells nothing about where they differ.
pub(super) fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    bool::from(one.ct_eq(other))
}

/// Bytes that nobody can guess.
///
/// # Errors
/// `UNAVAILABLE` when the system gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    let unlucky = |_| ApiError::new("UNAVAILABLE", "the system gives no random bytes");
    SystemRandom::new().fill(&mut bytes).map_err(unlucky)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_text_and_from_nothing_else() {
        let token = Token::fresh().unwrap();
        let text = token.expose();
        assert!(text.starts_with(&format!("troupe_{}_", token.id)));
        assert_eq!(text.len(), PREFIX.len() + 1 + 16 + 1 + 64);
        assert_eq!(Token::parse(&text), Some(token.clone()));
        assert_ne!(Token::fresh().unwrap(), token);
        let upper = text.to_uppercase();
        let long = format!("{text}0");
        let other = text.replacen("troupe", "trope", 1);
        let without_id = text.replacen(&token.id.to_string(), "", 1);
        for wrong in [
            "",
            PREFIX,
            upper.as_str(),
            &long,
            &other,
            &without_id,
            &text[1..],
            &text[..40],
        ] {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn neither_the_hash_nor_what_is_logged_holds_the_secret() {
        let token = Token::fresh().unwrap();
        let secret = token.expose().rsplit('_').next().unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
        assert_eq!(token.hash(), sha256(secret.as_bytes()));
        // Of an empty text, by the standard.
        assert_eq!(sha256(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }

    #[test]
    fn hashes_are_the_same_only_if_every_byte_is() {
        let hash = sha256(b"x");
        assert!(same(&hash, &sha256(b"x")));
        for place in 0..32 {
            let mut other = hash;
            other[place] ^= 1;
            assert!(!same(&hash, &other));
        }
    }
}
