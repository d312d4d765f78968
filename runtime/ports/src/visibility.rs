//! Lists and searches of executions: a projection of the log, at most 250 ms behind.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use troupe_core::{Epoch, ExecutionId, Seq, ShardId, Timestamp};

use crate::state::StoreError;

/// What lists show of an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionSummary {
    /// Its id.
    pub id: ExecutionId,
    /// The workflow.
    pub workflow_id: String,
    /// The version.
    pub version: u32,
    /// `pending`, `running`, `completed`, `failed` or `canceled`.
    pub status: String,
    /// No new attempt starts while set.
    pub paused: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Code of its error, if it failed.
    pub error_code: Option<String>,
    /// Message of its error, if it failed; the beginning of a long one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_message: Option<String>,
    /// Business key.
    pub execution_key: Option<String>,
    /// Name of the workflow version; empty where whoever projected it did not tell.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub workflow_name: String,
    /// Tags of the workflow version.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// The execution that it is a child of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<ExecutionId>,
    /// Seq of the entry that this summary reflects; a lower one never overwrites a higher one.
    pub seq: Seq,
}

impl ExecutionSummary {
    /// The texts in which [`ExecutionQuery::text`] is looked for, in a form in which case does not count, a line each: id and name of the
    /// workflow, business key, message of the error. None where they are ASCII (without NUL): a store makes small letters of that itself.
    #[must_use]
    pub fn folded_beyond_ascii(&self) -> Option<String> {
        let texts = [
            Some(self.workflow_id.as_str()),
            Some(self.workflow_name.as_str()),
            self.execution_key.as_deref(),
            self.error_message.as_deref(),
        ];
        let is_plain = |text: &&str| text.is_ascii() && !text.contains('\0');
        if texts.iter().flatten().all(is_plain) {
            return None;
        }
        let lines: Vec<String> = texts.into_iter().flatten().map(folded).collect();
        Some(lines.join("\n"))
    }
}

/// A text in a form in which case does not count. Unicode's rules of every language, whatever the locale of a store.
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    // Some letters meet in upper case only (ς and σ, ß and SS).
    let upper = text.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase).collect()
}

/// A text that lists are searched for, as stores look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoughtText {
    /// The text, in the form in which case does not count.
    pub folded: String,
    /// Whether it may stand in an id, which has hexadecimal digits alone.
    pub may_be_in_id: bool,
}

/// What to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionQuery {
    /// Only this workflow.
    pub workflow_id: Option<String>,
    /// Only this status.
    pub status: Option<String>,
    /// Only ids that begin with these hexadecimal digits.
    pub id_prefix: Option<String>,
    /// Only children of this execution.
    pub parent: Option<ExecutionId>,
    /// Only children, of whatever execution.
    pub children: bool,
    /// Only those started at or after.
    pub started_from: Option<Timestamp>,
    /// Only those started before.
    pub started_until: Option<Timestamp>,
    /// Only those whose workflow version has this tag.
    pub tag: Option<String>,
    /// Only this business key.
    pub execution_key: Option<String>,
    /// Only those in which this text occurs, whatever the case of either: in the id, in id or name of the workflow, in the business
    /// key or in the message of the error. Unlike the others it leads to no row: each that the others admit is looked at.
    pub text: Option<String>,
    /// Continue after this place (from [`Page::next`]).
    pub cursor: Option<ExecutionCursor>,
    /// At most this many.
    pub limit: usize,
}

impl ExecutionQuery {
    /// The text that is looked for; none: whatever the rows hold.
    #[must_use]
    pub fn sought(&self) -> Option<SoughtText> {
        let folded = folded(self.text.as_deref().filter(|text| !text.is_empty())?);
        let may_be_in_id = folded.len() <= 32 && folded.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(SoughtText { folded, may_be_in_id })
    }
}

/// A place in the list of executions: behind the one that started then. As text it is opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutionCursor {
    /// When the last one of the page before started.
    pub started_at: Timestamp,
    /// Its id: several start in one instant.
    pub id: ExecutionId,
}

impl From<&ExecutionSummary> for ExecutionCursor {
    fn from(last: &ExecutionSummary) -> Self {
        Self {
            started_at: last.started_at,
            id: last.id,
        }
    }
}

impl fmt::Display for ExecutionCursor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.started_at.0, self.id)
    }
}

/// A text that no page has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no page of this list gave that cursor")]
pub struct InvalidCursor;

impl FromStr for ExecutionCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (started, id) = text.split_once('.').ok_or(InvalidCursor)?;
        Ok(Self {
            started_at: Timestamp(started.parse().map_err(|_| InvalidCursor)?),
            id: id.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; none at the end. An empty page is the last one but for searches (by text, tag, business key or the beginning of an id): of
    /// those a page has what was found among as many rows as a store looks at for it.
    pub next: Option<ExecutionCursor>,
}

/// Keeps summaries of executions for lists and searches.
#[async_trait]
pub trait VisibilityStore: Send + Sync + 'static {
    /// Writes summaries of one shard and, with them, how far its log is projected (never back, but for
    /// [`VisibilityStore::rewind`]). A summary with a lower seq
    /// than the stored one changes nothing.
    ///
    /// `epoch`: the writer's, where an [`EpochAuthority`](crate::EpochAuthority) issued it that keeps its epochs here too. Else nobody is fenced.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`] once a later epoch was issued: a former owner, however late, shows nothing that was forgotten since.
    async fn project(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        summaries: Vec<ExecutionSummary>,
        up_to: troupe_core::LogPosition,
    ) -> Result<(), StoreError>;

    /// The log of a shard has gone back: nothing beyond `to` is projected. One that is not that far stays.
    ///
    /// # Errors
    ///
    /// As [`VisibilityStore::project`].
    async fn rewind(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        to: troupe_core::LogPosition,
    ) -> Result<(), StoreError>;

    /// The log of a shard has gone back behind the summaries of these executions: removes them, and writes what is `left` of some in their
    /// place, with a lower seq too. All of it or nothing, and nobody lists what is in between.
    ///
    /// # Errors
    ///
    /// As [`VisibilityStore::project`]: a former owner would put what it once saw in the place of what has happened since, for good.
    async fn correct(
        &self,
        shard: ShardId,
        epoch: Option<Epoch>,
        ahead: &[ExecutionId],
        left: Vec<ExecutionSummary>,
    ) -> Result<(), StoreError>;

    /// How far a shard's log is projected.
    async fn projected(&self, shard: ShardId) -> Result<troupe_core::LogPosition, StoreError>;

    /// Lists executions, newest first (by start, then by id).
    async fn list(&self, query: ExecutionQuery) -> Result<Page<ExecutionSummary>, StoreError>;

    /// Removes the summaries of executions of one shard, whose archives went.
    ///
    /// # Errors
    ///
    /// As [`VisibilityStore::project`]: one that a former owner saw ended may have been reopened since.
    async fn forget(&self, shard: ShardId, epoch: Option<Epoch>, ids: &[ExecutionId]) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_case_alone_are_one() {
        for (one, other) in [
            ("Order %_ 7", "oRDER %_ 7"),
            ("ÀÉÎ Жёлтый", "àéî жЁЛТЫЙ"),
            ("ΟΔΟΣ οδός", "οδος ΟΔΌΣ"),
            ("Straße", "STRASSE"),
            ("ẞ", "ß"),
            ("\u{2126} \u{212a}", "ω k"),
        ] {
            assert_eq!(folded(one), folded(other), "{one}");
        }
        for (one, other) in [("a", "á"), ("0", "O"), ("", " ")] {
            assert_ne!(folded(one), folded(other), "{one}");
        }
    }

    #[test]
    fn what_may_stand_in_an_id_is_told() {
        let sought = |text: &str| {
            let query = ExecutionQuery {
                text: Some(text.to_owned()),
                ..ExecutionQuery::default()
            };
            query.sought().map(|sought| (sought.folded, sought.may_be_in_id))
        };
        assert_eq!(sought(""), None);
        assert_eq!(ExecutionQuery::default().sought(), None);
        assert_eq!(sought("0Ab"), Some(("0ab".to_owned(), true)));
        assert_eq!(sought(&"f".repeat(33)), Some(("f".repeat(33), false)));
        assert_eq!(sought("0AÉ"), Some(("0aé".to_owned(), false)));
        assert_eq!(sought("order"), Some(("order".to_owned(), false)));
    }

    #[test]
    fn a_cursor_is_read_back_from_its_text_and_from_nothing_else() {
        let cursor = ExecutionCursor {
            started_at: Timestamp(-7),
            id: ExecutionId([0xab; 16]),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in [
            "",
            "zzz",
            "7",
            "7.",
            ".7",
            "x.00000000000000000000000000000000",
            "7.xyz",
        ] {
            assert_eq!(wrong.parse::<ExecutionCursor>(), Err(InvalidCursor), "{wrong}");
        }
    }
}
