//! What a member tells the others, and what all of them share.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use troupe_actors::RESUME_SECRET_BYTES;
use troupe_config::Settings;
use troupe_ports::Membership;

use crate::error::ApiError;

const SECRET_BYTES: usize = 32;

/// Secrets that all members have.
pub(super) struct Secrets {
    /// Signs their requests to each other.
    pub(super) members: Vec<u8>,
    /// Signs the addresses of waiting nodes.
    pub(super) resume: [u8; RESUME_SECRET_BYTES],
}

/// Those that come from the secret in the settings, or else those that the first member put beside the state: whoever can write there
/// can do everything anyway. `resume` is what this process would sign addresses with if it were alone.
pub(super) async fn secrets(
    settings: &Settings,
    register: &dyn Membership,
    resume: [u8; RESUME_SECRET_BYTES],
) -> Result<Secrets, ApiError> {
    if let Some(secret) = &settings.cluster.secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let mut resume = [0; RESUME_SECRET_BYTES];
        let derived = hmac::sign(&key, b"troupe: addresses of waiting nodes");
        let length = resume.len().min(derived.as_ref().len());
        resume[..length].copy_from_slice(&derived.as_ref()[..length]);
        return Ok(Secrets {
            members: secret.expose().as_bytes().to_vec(),
            resume,
        });
    }
    let mut fresh = [0; SECRET_BYTES];
    let unlucky = |_| ApiError::new("UNAVAILABLE", "the system gives no random bytes");
    SystemRandom::new().fill(&mut fresh).map_err(unlucky)?;
    let members = register.secret("members", &fresh).await?;
    let resume = register.secret("resume", &resume).await?;
    let resume = resume
        .try_into()
        .map_err(|_| ApiError::new("DAMAGED", "the shared secret `resume` has another length"))?;
    Ok(Secrets { members, resume })
}

/// Where the others reach this process.
///
/// # Errors
/// `INVALID_PARAMETER` when it listens at every address of this machine and none is named.
pub(super) fn address(settings: &Settings) -> Result<String, ApiError> {
    if let Some(named) = &settings.cluster.address {
        return Ok(named.as_str().to_owned());
    }
    if settings.listen.ip().is_unspecified() {
        let detail = format!("nobody can reach this process at {}", settings.listen);
        let hint = "set `cluster.address` (TROUPE_CLUSTER_ADDRESS) to where the other members reach it, such as http://10.0.0.7:7654";
        return Err(ApiError::new("INVALID_PARAMETER", detail).with_hint(hint));
    }
    Ok(format!("http://{}", settings.listen))
}
