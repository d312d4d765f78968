//! Who changed what, or was kept from it: one row a change that somebody asked for.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use troupe_core::Timestamp;

use crate::state::StoreError;
use crate::visibility::InvalidCursor;

/// Names a row; drawn at random by whoever records it, so that recording it again changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditId(pub [u8; 16]);

/// What was changed: a workflow, a key, an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditTarget {
    /// Its kind, as in the interface: `workflow`.
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Names the row.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// Who: the name of a key or a person; none where nobody had to log in.
    pub principal: Option<String>,
    /// What was done: `workflow.put`.
    pub action: String,
    /// To what.
    pub target: AuditTarget,
    /// SHA-256 of what was there before, if something was.
    pub before: Option<[u8; 32]>,
    /// SHA-256 of what is there now, if something is.
    pub after: Option<[u8; 32]>,
    /// The request that asked for it, by the name that its answer carries.
    pub request: Option<String>,
    /// What came of it: `ok`, or the code that it was refused or failed with; none in rows of older releases.
    pub outcome: Option<String>,
}

/// Which rows to list. Newest first. Quick whatever the number of rows by target, by principal or without a condition; conditions beside
/// the first of these that is given are looked at row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only changes of this.
    pub target: Option<AuditTarget>,
    /// Only changes by this one.
    pub principal: Option<String>,
    /// Only changes of this sort.
    pub action: Option<String>,
    /// Only those at or after.
    pub from: Option<Timestamp>,
    /// Only those before.
    pub until: Option<Timestamp>,
    /// Continue after this place (from [`AuditPage::next`]).
    pub cursor: Option<AuditCursor>,
    /// At most this many.
    pub limit: usize,
}

/// A place in the list: behind that row. As text it is opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor {
    /// When the last row of the page before was.
    pub at: Timestamp,
    /// Its id: several changes are made in one instant.
    pub id: AuditId,
}

impl From<&AuditRow> for AuditCursor {
    fn from(last: &AuditRow) -> Self {
        Self {
            at: last.at,
            id: last.id,
        }
    }
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:032x}", self.at.0, u128::from_be_bytes(self.id.0))
    }
}

impl FromStr for AuditCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (at, id) = text.split_once('.').ok_or(InvalidCursor)?;
        if id.len() != 32 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(InvalidCursor);
        }
        let id = u128::from_str_radix(id, 16).map_err(|_| InvalidCursor)?;
        Ok(Self {
            at: Timestamp(at.parse().map_err(|_| InvalidCursor)?),
            id: AuditId(id.to_be_bytes()),
        })
    }
}

/// A page of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// The rows.
    pub items: Vec<AuditRow>,
    /// Where the next page starts; none at the end.
    pub next: Option<AuditCursor>,
}

/// Keeps what was changed, by whom. Rows are never changed.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Writes rows, all or none; one whose id is there changes nothing. `Ok` means durable.
    async fn record(&self, rows: Vec<AuditRow>) -> Result<(), StoreError>;

    /// Lists rows, newest first (by time, then by id).
    async fn list(&self, query: AuditQuery) -> Result<AuditPage, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_from_its_text_and_from_nothing_else() {
        let cursor = AuditCursor {
            at: Timestamp(-7),
            id: AuditId([0xab; 16]),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        let sign = format!("7.+{}", "0".repeat(31));
        for wrong in ["", "7", "7.", "x.00000000000000000000000000000000", "7.xyz", &sign] {
            assert_eq!(wrong.parse::<AuditCursor>(), Err(InvalidCursor), "{wrong}");
        }
    }
}
