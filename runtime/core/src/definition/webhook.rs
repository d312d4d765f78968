//! Typed view of what a webhook node says of the calls that it takes.

use super::kind::words;
use super::settings::errors_or;
use super::view::{View, is_template};
use super::{Diagnostic, Node, Path, Problems, code};

/// Longest `webhookId`.
const ID_BYTES_MAX: usize = 128;

words! {
    /// Who calls, which says how calls are signed.
    WebhookProvider {
        /// Anybody who signs by the specification of Standard Webhooks.
        Standard = "standard",
        /// GitHub.
        GitHub = "github",
        /// Stripe.
        Stripe = "stripe",
        /// Slack.
        Slack = "slack",
        /// An HMAC of the body in a header; see [`SignatureSettings`].
        Generic = "generic",
    }
}

words! {
    /// Hash of a signature.
    SignatureAlgorithm {
        /// HMAC-SHA256.
        Sha256 = "sha256",
        /// HMAC-SHA512.
        Sha512 = "sha512",
    }
}

words! {
    /// How a signature is written.
    SignatureEncoding {
        /// Hexadecimal digits.
        Hex = "hex",
        /// Base64 with padding.
        Base64 = "base64",
    }
}

/// How a call of a `generic` provider is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureSettings {
    /// The header that holds the signature, in lower case.
    pub header: String,
    /// The hash.
    pub algorithm: SignatureAlgorithm,
    /// How it is written.
    pub encoding: SignatureEncoding,
    /// What stands before it in the header, such as `sha256=`.
    pub prefix: String,
}

impl Default for SignatureSettings {
    fn default() -> Self {
        Self {
            header: "x-signature".to_owned(),
            algorithm: SignatureAlgorithm::Sha256,
            encoding: SignatureEncoding::Hex,
            prefix: String::new(),
        }
    }
}

/// What a webhook node says of the calls that it takes, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Last part of its address; none: see [`WebhookSettings::default_id`].
    pub id: Option<String>,
    /// Who calls; none: calls are not signed.
    pub provider: Option<WebhookProvider>,
    /// What calls are signed with, a template.
    pub secret: Option<String>,
    /// How a `generic` provider signs.
    pub signature: SignatureSettings,
    /// Gives the business key of the execution that a call is meant for.
    pub correlation_key: Option<String>,
}

const SIGNATURE_KNOWN: &[&str] = &["header", "algorithm", "encoding", "prefix"];

impl Node {
    /// The typed settings of a webhook node.
    ///
    /// # Errors
    ///
    /// Every setting of the wrong shape or out of range, with pointers relative to the node.
    pub fn webhook(&self) -> Result<WebhookSettings, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let webhook = WebhookSettings::read(self, &Path::root(), &mut problems);
        errors_or(webhook, problems)
    }
}

impl WebhookSettings {
    /// The last part of the address of a webhook node that names none.
    #[must_use]
    pub fn default_id(workflow: &str, node: &str) -> String {
        format!("{workflow}.{node}")
    }

    /// Reads the settings of the node at `path`, leaving out what is wrong.
    pub fn read(node: &Node, path: &Path<'_>, problems: &mut Problems) -> Self {
        let id = node.with_holder("webhookId", path, |view| {
            let id = view.text("webhookId", problems)?;
            if is_address(id) {
                return Some(id.to_owned());
            }
            let message = format!(
                "a `webhookId` has 1 to {ID_BYTES_MAX} letters, digits, `-`, `_`, `~` and `.`: it is a part of an address"
            );
            problems.error(code::INVALID_VALUE, &view.path("webhookId"), message);
            None
        });
        let provider = node.with_holder("provider", path, |view| {
            view.word("provider", WebhookProvider::WORDS, WebhookProvider::parse, problems)
        });
        let secret = node.with_holder("secret", path, |view| {
            let secret = view.text("secret", problems)?;
            check_secret(secret, &view.path("secret"), problems);
            Some(secret.to_owned())
        });
        let signature = node.with_holder("signature", path, |view| {
            let place = view.path("signature");
            let of = View::of(view.value("signature")?, place, problems)?;
            Some(SignatureSettings::read(&of, problems))
        });
        let correlation_key = node.text_field("correlationKey").map(str::to_owned);
        check_together(node, path, problems);
        Self {
            id,
            provider,
            secret,
            signature: signature.unwrap_or_default(),
            correlation_key,
        }
    }
}

impl SignatureSettings {
    fn read(view: &View<'_>, problems: &mut Problems) -> Self {
        view.warn_of_slips(SIGNATURE_KNOWN, problems);
        let mut read = Self::default();
        if let Some(header) = view.text("header", problems) {
            if header.is_empty() || !header.bytes().all(is_token) {
                let message = format!("`{header}` is no name of a header");
                problems.error(code::INVALID_VALUE, &view.path("header"), message);
            }
            read.header = header.to_ascii_lowercase();
        }
        let algorithm = view.word(
            "algorithm",
            SignatureAlgorithm::WORDS,
            SignatureAlgorithm::parse,
            problems,
        );
        read.algorithm = algorithm.unwrap_or(read.algorithm);
        let encoding = view.word("encoding", SignatureEncoding::WORDS, SignatureEncoding::parse, problems);
        read.encoding = encoding.unwrap_or(read.encoding);
        if let Some(prefix) = view.text("prefix", problems) {
            read.prefix = prefix.to_owned();
        }
        read
    }
}

/// A part of a path that no client rewrites: unreserved characters (RFC 3986), and no dot segment.
fn is_address(id: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte);
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(unreserved) && !matches!(id, "." | "..")
}

/// A character of a header's name (RFC 9110).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a call is signed with is looked up when it comes, before anything of an execution is known.
fn check_secret(secret: &str, path: &Path<'_>, problems: &mut Problems) {
    if secret.trim().is_empty() {
        return problems.error(code::MISSING_FIELD, path, "`secret` is empty");
    }
    if !is_template(secret) {
        let message = "the secret itself stands in the definition, where everybody can read it who may read workflows";
        let warning = Diagnostic::warning(code::LITERAL_SECRET, path.pointer(), message);
        problems.push(warning.with_hint("write {{ secrets.NAME }}".to_owned()));
        return;
    }
    let parts = secret.split("{{").skip(1);
    let named = |part: &str| {
        let name = part
            .split_once("}}")
            .and_then(|(inner, _)| inner.trim().strip_prefix("secrets."));
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
    };
    if !parts.into_iter().all(named) {
        let message = "only `{{ secrets.NAME }}` can be here: calls are checked before any other value is known";
        problems.error(code::INVALID_VALUE, path, message);
    }
}

/// Settings that need each other.
fn check_together(node: &Node, path: &Path<'_>, problems: &mut Problems) {
    let (provider, data) = (node.field("provider"), path.key("data"));
    match (provider, node.field("secret")) {
        (Some(_), None) => {
            let hint = "write secret: \"{{ secrets.NAME }}\" and set TROUPE_SECRET_NAME".to_owned();
            let message = "calls of a `provider` are signed: `data.secret` is missing";
            problems.error_hint(code::MISSING_FIELD, &data, message, hint);
        }
        (None, Some(_)) => {
            let hint = format!("one of: {}", WebhookProvider::WORDS.join(", "));
            let message = "there is a `secret`, but `data.provider` does not say how calls are signed";
            problems.error_hint(code::MISSING_FIELD, &data, message, hint);
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let is_generic = provider.and_then(serde_json::Value::as_str) == Some(WebhookProvider::Generic.as_str());
    if node.field("signature").is_some() && !is_generic {
        let message = "`signature` says how calls of the provider `generic` are signed; others have a way of their own";
        problems.error(code::INVALID_VALUE, &data.key("signature"), message);
    }
}
