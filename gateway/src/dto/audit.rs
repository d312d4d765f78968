//! Audit rows.

use serde::{Deserialize, Serialize};
use troupe_ports::{AuditRow, AuditTarget};

use super::time::date;

/// One change, or an attempt at one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRowDto {
    /// Its id.
    pub id: String,
    /// When.
    pub time: String,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub principal: Option<String>,
    /// What: `workflow.put`.
    pub action: String,
    /// To what: `workflow:orders`.
    pub target: String,
    /// `ok`, or the code that it was refused or failed with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<String>,
    /// SHA-256 of what was there before, if something was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    /// SHA-256 of what is there now, if something is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
    /// The name of the request, as its answer carries it in `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
}

impl From<&AuditRow> for AuditRowDto {
    fn from(row: &AuditRow) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            id: hex(&row.id.0),
            time: date(row.at),
            principal: row.principal.clone(),
            action: row.action.clone(),
            target: format!("{}:{}", row.target.kind, row.target.id),
            outcome: row.outcome.clone(),
            before: row.before.map(|hash| hex(&hash)),
            after: row.after.map(|hash| hex(&hash)),
            request_id: row.request.clone(),
        }
    }
}

/// Reads `workflow:orders`; none for what names no kind.
#[must_use]
pub fn audit_target(text: &str) -> Option<AuditTarget> {
    let (kind, id) = text.split_once(':')?;
    (!kind.is_empty()).then(|| AuditTarget {
        kind: kind.to_owned(),
        id: id.to_owned(),
    })
}
