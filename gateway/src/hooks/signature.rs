//! Whether a call was made by whoever shares the hook's secret.
//!
//! What is signed is the body as it came, byte by byte. Comparisons take the same time wherever the signatures differ.
//!
//! Sources: the Standard Webhooks specification; "Validating webhook deliveries" of GitHub's documentation; "Verify
//! webhook signatures manually" of Stripe's; "Verifying requests from Slack" of Slack's.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use standardwebhooks::{Webhook, WebhookError};
use troupe_core::Timestamp;
use troupe_core::definition::{SignatureAlgorithm, SignatureEncoding, SignatureSettings, WebhookProvider};

use crate::error::ApiError;

/// How far the time of a signature may be from ours, in seconds: older calls may be repetitions by somebody else.
const TOLERANCE_S: u64 = 300;

/// Checks a call.
///
/// # Errors
/// `SIGNATURE_INVALID`, with what to look at; `HOOK_SECRET_UNUSABLE` for a secret that has not the provider's form.
pub(crate) fn verify(
    provider: WebhookProvider,
    settings: &SignatureSettings,
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), ApiError> {
    match provider {
        WebhookProvider::Standard => standard(secret, headers, body),
        WebhookProvider::GitHub => github(secret, headers, body),
        WebhookProvider::Stripe => stripe(secret, headers, body, now),
        WebhookProvider::Slack => slack(secret, headers, body, now),
        WebhookProvider::Generic => generic(settings, secret, headers, body),
    }
}

fn refused(detail: impl Into<String>, hint: &str) -> ApiError {
    ApiError::new("SIGNATURE_INVALID", detail).with_hint(hint)
}

fn differs() -> ApiError {
    refused(
        "the signature is not one of this body with the hook's secret",
        "both sides must have the same secret, and nothing on the way may change the body",
    )
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, ApiError> {
    let hint = "is the hook's `provider` the one who calls?";
    let value = headers
        .get(name)
        .ok_or_else(|| refused(format!("the header {name} is missing"), hint))?;
    let wrong = |_| refused(format!("the header {name} is not plain text"), hint);
    value.to_str().map_err(wrong)
}

fn fresh(seconds: &str, now: Timestamp) -> Result<(), ApiError> {
    let hint = "compare the clocks of both sides; what is repeated later must be signed anew";
    let Ok(signed_at) = seconds.parse::<i64>() else {
        return Err(refused("the time of the signature is no number of seconds", hint));
    };
    if now.0.div_euclid(1_000).abs_diff(signed_at) > TOLERANCE_S {
        let detail = format!("the signature is more than {TOLERANCE_S} s from the server's time");
        return Err(refused(detail, hint));
    }
    Ok(())
}

/// Whether `signature` is the HMAC-SHA256 of the parts, one after the other.
fn is_signed(secret: &str, parts: &[&[u8]], signature: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    decoded_hex(signature).is_some_and(|signature| hmac::verify(&key, &parts.concat(), &signature).is_ok())
}

fn decoded_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

fn standard(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let webhook = Webhook::new(secret).map_err(|_| {
        let detail = "the secret of the hook is no secret of Standard Webhooks";
        ApiError::new("HOOK_SECRET_UNUSABLE", detail).with_hint("it is base64, mostly after `whsec_`")
    })?;
    webhook.verify(body, headers).map_err(|error| match error {
        WebhookError::InvalidSignature => differs(),
        WebhookError::MissingHeader(name) | WebhookError::InvalidHeader(name) => refused(
            format!("the header webhook-{name} is missing or not plain text"),
            "is the hook's `provider` the one who calls?",
        ),
        WebhookError::InvalidPayload => refused("the body is no text", "Standard Webhooks signs text only"),
        WebhookError::InvalidTimestamp
        | WebhookError::TimestampTooOldError
        | WebhookError::FutureTimestampError
        | WebhookError::InvalidSecret(_) => refused(
            error.to_string(),
            "compare the clocks of both sides; what is repeated later must be signed anew",
        ),
    })
}

fn github(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let value = header(headers, "x-hub-signature-256")?;
    let signature = value.strip_prefix("sha256=").unwrap_or_default();
    if is_signed(secret, &[body], signature) {
        Ok(())
    } else {
        Err(differs())
    }
}

/// `t=<seconds>,v1=<hex>,…`; several `v1` while a secret is being replaced.
fn stripe(secret: &str, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), ApiError> {
    let value = header(headers, "stripe-signature")?;
    let items = || value.split(',').filter_map(|item| item.trim().split_once('='));
    let time = items().find(|(name, _)| *name == "t").map_or("", |(_, time)| time);
    fresh(time, now)?;
    let mut signatures = items().filter(|(name, _)| *name == "v1");
    if signatures.any(|(_, signature)| is_signed(secret, &[time.as_bytes(), b".", body], signature)) {
        Ok(())
    } else {
        Err(differs())
    }
}

fn slack(secret: &str, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), ApiError> {
    let value = header(headers, "x-slack-signature")?;
    let time = header(headers, "x-slack-request-timestamp")?;
    fresh(time, now)?;
    let signature = value.strip_prefix("v0=").unwrap_or_default();
    if is_signed(secret, &[b"v0:", time.as_bytes(), b":", body], signature) {
        Ok(())
    } else {
        Err(differs())
    }
}

fn generic(settings: &SignatureSettings, secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let value = header(headers, &settings.header)?;
    let Some(written) = value.strip_prefix(&settings.prefix) else {
        let detail = format!(
            "the header {} does not begin with `{}`",
            settings.header, settings.prefix
        );
        return Err(refused(detail, "compare it with `data.signature` of the node"));
    };
    let signature = match settings.encoding {
        SignatureEncoding::Hex => decoded_hex(written.trim()),
        SignatureEncoding::Base64 => STANDARD.decode(written.trim()).ok(),
    };
    let algorithm = match settings.algorithm {
        SignatureAlgorithm::Sha256 => hmac::HMAC_SHA256,
        SignatureAlgorithm::Sha512 => hmac::HMAC_SHA512,
    };
    let key = hmac::Key::new(algorithm, secret.as_bytes());
    match signature {
        Some(signature) if hmac::verify(&key, body, &signature).is_ok() => Ok(()),
        Some(_) | None => Err(differs()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    /// What `verify` says to a call; none: it is signed.
    fn problem(
        provider: WebhookProvider,
        settings: &SignatureSettings,
        (secret, body, at_s): (&str, &str, i64),
        headers: &[(&'static str, String)],
    ) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let now = Timestamp(at_s * 1_000);
        let outcome = verify(provider, settings, secret, &map, body.as_bytes(), now);
        outcome.err().map(|error| {
            assert_eq!(error.code(), "SIGNATURE_INVALID");
            let problem = error.problem();
            assert!(problem.hint.is_some(), "{problem:?}");
            problem.detail
        })
    }

    /// A signed call is taken; tampered with, under another secret, without a header or too late it is not.
    fn holds(provider: WebhookProvider, secret: &str, body: &str, at_s: i64, headers: &[(&'static str, String)]) {
        let of = |secret: &str, body: &str, at_s: i64, headers: &[(&'static str, String)]| {
            problem(provider, &SignatureSettings::default(), (secret, body, at_s), headers)
        };
        assert_eq!(of(secret, body, at_s, headers), None);
        let differs = differs().problem().detail;
        assert_eq!(of(secret, &format!("{body} "), at_s, headers), Some(differs.clone()));
        let other = "whsec_b3RoZXI=";
        assert_eq!(of(other, body, at_s, headers), Some(differs));
        for left_out in 0..headers.len() {
            let mut some = headers.to_vec();
            let (name, _) = some.remove(left_out);
            let said = of(secret, body, at_s, &some).unwrap();
            assert!(said.contains(name) && said.contains("missing"), "{said}");
        }
    }

    fn late(provider: WebhookProvider, secret: &str, body: &str, at_s: i64, headers: &[(&'static str, String)]) {
        for (offset, taken) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let settings = SignatureSettings::default();
            let said = problem(provider, &settings, (secret, body, at_s + offset), headers);
            assert_eq!(said.is_none(), taken, "{offset}: {said:?}");
        }
    }

    fn hex(algorithm: hmac::Algorithm, secret: &str, signed: &str) -> String {
        let tag = hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), signed.as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn github_as_in_its_documentation() {
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let headers = [("x-hub-signature-256", signature.to_owned())];
        holds(
            WebhookProvider::GitHub,
            "It's a Secret to Everybody",
            "Hello, World!",
            0,
            &headers,
        );
        let bare = [("x-hub-signature-256", signature.replace("sha256=", ""))];
        let call = ("It's a Secret to Everybody", "Hello, World!", 0);
        assert!(problem(WebhookProvider::GitHub, &SignatureSettings::default(), call, &bare).is_some());
    }

    #[test]
    fn slack_as_in_its_documentation() {
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
            &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
            &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
            &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
        let headers = [
            ("x-slack-signature", signature.to_owned()),
            ("x-slack-request-timestamp", "1531420618".to_owned()),
        ];
        let secret = "8f742231b10e8888abcd99yyyzzz85a5";
        holds(WebhookProvider::Slack, secret, body, 1_531_420_618, &headers);
        late(WebhookProvider::Slack, secret, body, 1_531_420_618, &headers);
    }

    #[test]
    fn stripe_with_any_of_its_signatures() {
        let (secret, body, at_s) = ("whsec_test", r#"{"id":"evt_1"}"#, 1_700_000_000);
        let signature = hex(hmac::HMAC_SHA256, secret, &format!("{at_s}.{body}"));
        let headers = [(
            "stripe-signature",
            format!("t={at_s},v1={},v1={signature},v0=00", "ab".repeat(32)),
        )];
        holds(WebhookProvider::Stripe, secret, body, at_s, &headers);
        late(WebhookProvider::Stripe, secret, body, at_s, &headers);
        // The time is signed too, and v0 is no signature.
        let moved = format!("t={},v1={signature}", at_s + 1);
        let old = format!("t={at_s},v0={signature}");
        for wrong in [
            moved,
            old,
            format!("v1={signature}"),
            format!("t=,v1={signature}"),
            String::new(),
        ] {
            let headers = [("stripe-signature", wrong.clone())];
            let call = (secret, body, at_s);
            assert!(
                problem(WebhookProvider::Stripe, &SignatureSettings::default(), call, &headers).is_some(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn standard_webhooks_as_their_library_signs() {
        let (secret, body) = ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", r#"{"test": 2432232314}"#);
        let webhook = Webhook::new(secret).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let headers = |at_s: i64| {
            let signature = webhook.sign("msg_1", at_s, body.as_bytes()).unwrap();
            [
                ("webhook-id", "msg_1".to_owned()),
                ("webhook-timestamp", at_s.to_string()),
                ("webhook-signature", format!("v1,bm9uc2Vuc2U= {signature}")),
            ]
        };
        holds(WebhookProvider::Standard, secret, body, 0, &headers(now));
        for at_s in [now - 400, now + 400] {
            let settings = SignatureSettings::default();
            let said = problem(WebhookProvider::Standard, &settings, (secret, body, 0), &headers(at_s));
            assert!(said.unwrap().contains("timestamp"));
        }
        let unusable = standard("whsec_!", &HeaderMap::new(), b"").unwrap_err();
        assert_eq!(unusable.code(), "HOOK_SECRET_UNUSABLE");
    }

    #[test]
    fn any_header_hash_encoding_and_prefix() {
        let secret = "s";
        let default = [("x-signature", hex(hmac::HMAC_SHA256, secret, "body"))];
        holds(WebhookProvider::Generic, secret, "body", 0, &default);
        let settings = SignatureSettings {
            header: "x-sig".to_owned(),
            algorithm: SignatureAlgorithm::Sha512,
            encoding: SignatureEncoding::Base64,
            prefix: "v1=".to_owned(),
        };
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, secret.as_bytes()), b"body");
        let written = STANDARD.encode(tag.as_ref());
        for (value, taken) in [
            (format!("v1={written}"), true),
            (written.clone(), false),
            (format!("v1={}", hex(hmac::HMAC_SHA512, secret, "body")), false),
            (format!("v1={}", STANDARD.encode(&tag.as_ref()[..32])), false),
            ("v1=".to_owned(), false),
        ] {
            let said = problem(
                WebhookProvider::Generic,
                &settings,
                (secret, "body", 0),
                &[("x-sig", value)],
            );
            assert_eq!(said.is_none(), taken, "{said:?}");
        }
    }

    #[test]
    fn digits_come_in_pairs() {
        assert_eq!(decoded_hex("00fFa1"), Some(vec![0, 255, 161]));
        for wrong in ["0", "0g", "é0", "+1"] {
            assert_eq!(decoded_hex(wrong), None, "{wrong}");
        }
    }
}
