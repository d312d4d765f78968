//! Certificates that this process shows to servers.

use std::path::PathBuf;

use crate::settings::Checks;
use crate::store_url::StoreUrl;

/// A certificate and its private key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// File with the certificate, and with those that lead from it to its authority.
    pub certificate_file: PathBuf,
    /// File with the private key, which has no passphrase.
    pub key_file: PathBuf,
}

/// Where the identity for a server is set.
#[derive(Clone, Copy)]
pub(crate) struct IdentityKeys {
    /// Where the address of that server is set.
    pub(crate) server: &'static str,
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
    /// How addresses with TLS begin.
    pub(crate) scheme: &'static str,
}

pub(crate) const STATE_IDENTITY: IdentityKeys = IdentityKeys {
    server: "store.state",
    certificate: "store.state_certificate_file",
    key: "store.state_key_file",
    scheme: "rediss",
};
pub(crate) const EVENTS_IDENTITY: IdentityKeys = IdentityKeys {
    server: "store.events",
    certificate: "store.events_certificate_file",
    key: "store.events_key_file",
    scheme: "amqps",
};

impl Checks {
    /// Nothing of the files is kept or shown but their paths.
    pub(crate) fn identity(
        &mut self,
        keys: IdentityKeys,
        certificate: &str,
        key: &str,
        url: Option<&StoreUrl>,
    ) -> Option<ClientIdentity> {
        let lonely = match (certificate.is_empty(), key.is_empty()) {
            (true, true) => return None,
            (false, false) => None,
            (false, true) => Some((keys.certificate, keys.key)),
            (true, false) => Some((keys.key, keys.certificate)),
        };
        if let Some((given, missing)) = lonely {
            let hint = "give the certificate and its private key, or neither".to_owned();
            self.complain(given, format!("`{missing}` is missing"), hint);
            return None;
        }
        self.pem(keys.certificate, certificate, why_no_certificate);
        self.pem(keys.key, key, why_no_key);
        let unused = match url {
            Some(url) if url.expose().starts_with(keys.scheme) => None,
            Some(url) => Some(format!("`{url}` has no TLS, so no certificate is shown there")),
            None => Some(format!("`{}` names no server that it could be shown to", keys.server)),
        };
        if let Some(message) = unused {
            let hint = format!(
                "give `{}` an address that begins with {}, or leave the certificate out",
                keys.server, keys.scheme
            );
            self.complain(keys.certificate, message, hint);
        }
        Some(ClientIdentity {
            certificate_file: certificate.into(),
            key_file: key.into(),
        })
    }

    fn pem(&mut self, setting: &'static str, file: &str, wrong: fn(&str) -> Option<Wrong>) {
        match std::fs::read(file) {
            Ok(bytes) => {
                if let Some((what, hint)) = wrong(&String::from_utf8_lossy(&bytes)) {
                    self.complain(setting, format!("{file} {what}"), hint.to_owned());
                }
            }
            Err(error) => {
                let hint = "name a file in PEM that this user may read".to_owned();
                self.complain(setting, format!("{file} cannot be read: {error}"), hint);
            }
        }
    }
}

/// What is wrong with a file, and a hint.
type Wrong = (&'static str, &'static str);

fn why_no_certificate(text: &str) -> Option<Wrong> {
    let has_one = text.lines().any(|line| line.starts_with("-----BEGIN CERTIFICATE-----"));
    (!has_one).then_some((
        "has no certificate in PEM",
        "it has a line -----BEGIN CERTIFICATE-----; `openssl x509 -inform der` converts others",
    ))
}

fn why_no_key(text: &str) -> Option<Wrong> {
    let is_encrypted = text.lines().any(|line| {
        line.starts_with("-----BEGIN ENCRYPTED ") || (line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
    });
    if is_encrypted {
        return Some((
            "holds a private key with a passphrase",
            "take the passphrase off (`openssl pkey -in FILE -out FILE`) and let only this user read it",
        ));
    }
    let has_one = text
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY-----"));
    (!has_one).then_some((
        "has no private key in PEM",
        "it has a line -----BEGIN PRIVATE KEY-----; `openssl pkey` converts others",
    ))
}
