//! `troupe key`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use reqwest::Method;
use serde_json::{Value, json};
use troupe_core::Timestamp;
use troupe_ports::{AuditId, AuditRow, AuditTarget, Clock, SystemClock};

use super::output::Output;
use super::server::StorePlaces;
use super::{Context, Failure};
use crate::auth::random;
use crate::dto::{CreatedKeyDto, KeyBody, KeyDto, PageDto, date};
use crate::error::ApiError;
use crate::exit::Exit;
use crate::routes::{key_hash, made_key};
use crate::wiring::{self, AccessStores};

/// Who made a key with access to the store itself.
const AT_THE_STORE: &str = "at the store";

#[derive(Args, Debug)]
pub(super) struct Key {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes a key and prints it: the only time that it is shown.
    Create(Create),
    /// Lists keys, without their secrets.
    Ls(List),
    /// Revokes a key for good.
    Revoke(Revoke),
}

#[derive(Args, Debug)]
struct Create {
    /// What its holder is called in histories and audit rows; the role, unless it is given.
    #[arg(long)]
    name: Option<String>,
    /// What its holder may do: each of the first four may do what those before it may.
    #[arg(long, value_enum)]
    role: RoleName,
    /// When it ceases to be accepted: a date (RFC 3339), or a time from now such as 90d or 12h.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    #[command(flatten)]
    store: Store,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    store: Store,
}

#[derive(Args, Debug)]
struct Revoke {
    /// Id of the key: the middle part of it.
    key: String,
    #[command(flatten)]
    store: Store,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Viewer,
    Operator,
    Editor,
    Admin,
    Worker,
}

impl RoleName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Editor => "editor",
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }
}

/// The store itself instead of a server, for the first key.
#[derive(Args, Debug)]
#[command(next_help_heading = "Without a server, on the store itself")]
struct Store {
    #[command(flatten)]
    places: StorePlaces,
    /// The store that the configuration names.
    #[arg(long)]
    direct: bool,
}

impl Store {
    /// The store, if it is meant.
    async fn open(&self, context: &Context) -> Result<Option<AccessStores>, Failure> {
        if !self.direct && self.places.state.is_none() && self.places.definitions.is_none() {
            return Ok(None);
        }
        let settings = context.settings(&self.places.set(context.sources()))?;
        if settings.store.state.is_some() && settings.store.definitions.is_none() {
            context.out.warn(format!(
                "keys are kept with the definitions, and those are in {} here",
                settings.state_dir.display()
            ));
        }
        let directory = settings.state_dir.clone();
        let opened = wiring::open_access(&settings, &directory).await;
        let opened = opened
            .map_err(Failure::from)
            .map_err(|failure| match failure.code.as_deref() {
                Some("STORE_IN_USE") => {
                    failure.hint("ask the server that runs on it: --server URL and an administrator's key")
                }
                _ => failure,
            });
        opened.map(Some)
    }
}

impl Key {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Create(create) => create.execute(context).await,
            Verb::Ls(list) => list.execute(context).await,
            Verb::Revoke(revoke) => revoke.execute(context).await,
        }
    }
}

impl Create {
    async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let now = SystemClock.now();
        let role = self.role.as_str();
        let expires = self.expires.as_deref().map(|text| expiry(text, now)).transpose()?;
        let body = json!({
            "name": self.name.as_deref().unwrap_or(role),
            "role": role,
            "expiresAt": expires.map(date),
        });
        let created = match self.store.open(context).await? {
            Some(stores) => create_at(&stores, body, now).await?,
            None => {
                let client = context.client()?;
                client.fetch(client.post(&["keys"]).json(&body)).await?
            }
        };
        let out = &context.out;
        if out.json {
            out.value(&created)?;
        } else {
            out.line(&created.key);
            out.say(format!(
                "the key {} ({}) of {}; it is not shown again",
                created.shown.id, created.shown.role, created.shown.name
            ));
        }
        Ok(Exit::Ok)
    }
}

impl List {
    async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let items = match self.store.open(context).await? {
            Some(stores) => list_at(&stores).await?,
            None => list_of_server(context).await?,
        };
        let out = &context.out;
        if out.json {
            out.value(&PageDto { items, next: None })?;
        } else if out.quiet {
            items.iter().for_each(|key| out.line(&key.id));
        } else if items.is_empty() {
            out.say("no keys");
        } else {
            table(out, &items);
        }
        Ok(Exit::Ok)
    }
}

impl Revoke {
    async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let revoked = match self.store.open(context).await? {
            Some(stores) => revoke_at(&stores, &self.key).await?,
            None => {
                let client = context.client()?;
                client
                    .fetch(client.request(Method::DELETE, &["keys", &self.key]))
                    .await?
            }
        };
        let out = &context.out;
        if out.json {
            out.value(&revoked)?;
        } else {
            out.line(&revoked.id);
            out.say("revoked; every server refuses it within two seconds");
        }
        Ok(Exit::Ok)
    }
}

/// A date, or a time from now in days or hours.
fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let unit = [("d", 24 * 3_600), ("h", 3_600)]
        .into_iter()
        .find_map(|(letter, seconds)| {
            let number: u32 = text.strip_suffix(letter)?.parse().ok()?;
            Some(Duration::from_secs(u64::from(number) * seconds))
        });
    let from_now = unit.and_then(|after| i64::try_from(after.as_millis()).ok());
    let at = match from_now {
        Some(ms) => Some(Timestamp(now.0.saturating_add(ms))),
        None => crate::dto::instant(text),
    };
    at.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{text}` is no time")).hint("write 90d, 12h, or 2027-01-31T00:00:00Z")
    })
}

async fn create_at(stores: &AccessStores, body: Value, now: Timestamp) -> Result<CreatedKeyDto, Failure> {
    let (key, token) = made_key(KeyBody::read(Some(body))?, AT_THE_STORE, now)?;
    stores.keys.create(key.clone()).await.map_err(ApiError::from)?;
    record(stores, "key.create", &key.id.to_string(), (None, key_hash(&key))).await?;
    Ok(CreatedKeyDto {
        shown: KeyDto::of(&key, now),
        key: token.expose(),
    })
}

async fn list_at(stores: &AccessStores) -> Result<Vec<KeyDto>, Failure> {
    const PAGE: usize = 500;
    let (now, mut items, mut after) = (SystemClock.now(), Vec::new(), None);
    loop {
        let page = stores.keys.list(after, PAGE).await.map_err(ApiError::from)?;
        items.extend(page.iter().map(|key| KeyDto::of(key, now)));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id),
            _ => return Ok(items),
        }
    }
}

async fn revoke_at(stores: &AccessStores, id: &str) -> Result<KeyDto, Failure> {
    let missing = || ApiError::new("KEY_NOT_FOUND", format!("there is no key {id}"));
    let id = id.parse().map_err(|_| missing())?;
    let now = SystemClock.now();
    let before = stores.keys.get(id).await.map_err(ApiError::from)?.ok_or_else(missing)?;
    let after = stores
        .keys
        .revoke(id, now)
        .await
        .map_err(ApiError::from)?
        .ok_or_else(missing)?;
    record(
        stores,
        "key.revoke",
        &id.to_string(),
        (key_hash(&before), key_hash(&after)),
    )
    .await?;
    Ok(KeyDto::of(&after, now))
}

/// The row that a server would have left.
async fn record(
    stores: &AccessStores,
    action: &str,
    key: &str,
    (before, after): (Option<[u8; 32]>, Option<[u8; 32]>),
) -> Result<(), Failure> {
    let row = AuditRow {
        id: AuditId(random()?),
        at: SystemClock.now(),
        principal: Some(AT_THE_STORE.to_owned()),
        action: action.to_owned(),
        target: AuditTarget {
            kind: "key".to_owned(),
            id: key.to_owned(),
        },
        before,
        after,
        request: None,
        outcome: Some("ok".to_owned()),
    };
    Ok(stores.audit.record(vec![row]).await.map_err(ApiError::from)?)
}

async fn list_of_server(context: &Context) -> Result<Vec<KeyDto>, Failure> {
    let client = context.client()?;
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", "100".to_owned())];
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: PageDto<KeyDto> = client.fetch(client.get(&["keys"]).query(&query)).await?;
        items.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(items),
        }
    }
}

fn table(out: &Output, items: &[KeyDto]) {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["ID", "NAME", "ROLE", "STATUS", "CREATED", "EXPIRES", "LAST USED"]);
    for key in items {
        table.add_row([
            key.id.as_str(),
            &key.name,
            &key.role,
            &key.status,
            &key.created_at,
            key.expires_at.as_deref().unwrap_or_default(),
            key.last_used_at.as_deref().unwrap_or_default(),
        ]);
    }
    out.line(&table.trim_fmt());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_expiry_is_a_date_or_a_time_from_now() {
        let now = Timestamp(1_790_000_000_000);
        assert_eq!(expiry("2d", now).unwrap(), Timestamp(now.0 + 2 * 86_400_000));
        assert_eq!(expiry("12h", now).unwrap(), Timestamp(now.0 + 12 * 3_600_000));
        assert_eq!(
            expiry("2026-09-21T14:13:20.123Z", now).unwrap(),
            Timestamp(1_790_000_000_123)
        );
        for wrong in ["", "d", "-1d", "tomorrow", "9999999999d"] {
            assert_eq!(expiry(wrong, now).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }
}
