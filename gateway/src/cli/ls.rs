//! `troupe ls`.

use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{Cell, Table, presets};

use super::client::{AGAIN_MAX, Client};
use super::output::{Output, duration, json_line, status_cell};
use super::watch::{Pace, seconds, watch};
use super::{Context, Failure};
use crate::dto::{ExecutionSummaryDto, PageDto};
use crate::exit::Exit;

/// Executions that are asked for at once: every server's pages have room for them (`limits.page_max`).
const PAGE: usize = 100;
/// How long a look of `--watch` goes on over pages that are not full.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Args, Debug)]
pub(super) struct Ls {
    /// Only this workflow.
    workflow: Option<String>,
    /// Only this status: pending, running, completed, failed or canceled.
    #[arg(long)]
    status: Option<String>,
    /// Only those with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// Only those in which this text is found.
    #[arg(long)]
    text: Option<String>,
    /// Only those with this business key.
    #[arg(long, value_name = "KEY")]
    business_key: Option<String>,
    /// Only children of this execution.
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Only those started at or after (RFC 3339).
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// At most so many.
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
    /// Shows the list anew until Ctrl-C: in its place on a terminal, again with the time elsewhere.
    #[arg(long)]
    watch: bool,
    /// Seconds from one look to the next, of --watch.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "2",
        value_parser = seconds,
        requires = "watch"
    )]
    every: Duration,
    /// Ends after so many looks.
    #[arg(long, hide = true, requires = "watch")]
    times: Option<u64>,
}

impl Ls {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let parent = match &self.parent {
            Some(parent) => Some(client.execution_id(parent).await?),
            None => None,
        };
        if self.watch {
            let pace = Pace {
                every: self.every,
                times: self.times,
            };
            let look = async || {
                let Found { page, .. } = self.page(&client, parent.as_deref(), Search::For(PATIENCE)).await?;
                shown(out, &page, self.limit)
            };
            return watch(out, &client, pace, look).await;
        }
        let Found { page, ended_by } = self.page(&client, parent.as_deref(), Search::ToTheEnd(out)).await?;
        if !page.items.is_empty() || out.json {
            out.line(&shown(out, &page, self.limit)?);
        } else if ended_by.is_none() {
            out.say(NONE);
        } else {
            out.say(NOT_ALL);
        }
        ended_by.map_or(Ok(Exit::Ok), Err)
    }

    async fn page(&self, client: &Client, parent: Option<&str>, search: Search<'_>) -> Result<Found, Failure> {
        let filters = [
            ("workflow", self.workflow.as_deref()),
            ("status", self.status.as_deref()),
            ("tag", self.tag.as_deref()),
            ("text", self.text.as_deref()),
            ("businessKey", self.business_key.as_deref()),
            ("parent", parent),
            ("startedFrom", self.since.as_deref()),
        ];
        let mut items: Vec<ExecutionSummaryDto> = Vec::new();
        let mut cursor: Option<String> = None;
        let (begun, mut has_said) = (Instant::now(), false);
        let again = match search {
            // The next look asks again.
            Search::For(_) => 0,
            Search::ToTheEnd(_) => AGAIN_MAX,
        };
        while items.len() < self.limit {
            let wanted = (self.limit - items.len()).min(PAGE);
            let limit = wanted.to_string();
            let mut query = vec![("limit", limit.as_str())];
            query.extend(filters.iter().filter_map(|(name, value)| Some((*name, (*value)?))));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = match client.executions(&query, again).await {
                Ok(page) => page,
                Err(failure) if cursor.is_none() => return Err(failure),
                Err(failure) => {
                    let page = PageDto { items, next: cursor };
                    let ended_by = Some(failure);
                    return Ok(Found { page, ended_by });
                }
            };
            let is_full = page.items.len() >= wanted;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
            match search {
                Search::For(patience) if !is_full && begun.elapsed() >= patience => break,
                Search::ToTheEnd(out) if !is_full && !has_said => {
                    out.say(SEARCHING);
                    has_said = true;
                }
                Search::For(_) | Search::ToTheEnd(_) => {}
            }
        }
        Ok(Found {
            page: PageDto { items, next: cursor },
            ended_by: None,
        })
    }
}

/// What a list holds, as far as it was followed.
struct Found {
    page: PageDto<ExecutionSummaryDto>,
    /// Why the next page is not there, where others are: what was found on those is worth having.
    ended_by: Option<Failure>,
}

/// How far pages are followed that hold less than they have room for: the server looks at so many executions a page, whatever it
/// finds among them.
#[derive(Clone, Copy)]
enum Search<'a> {
    /// To the end of the list, which may take long: people are told.
    ToTheEnd(&'a Output),
    /// For so long.
    For(Duration),
}

const NONE: &str = "no executions";
const SEARCHING: &str = "searching on; a workflow, --status or --since makes it shorter";
const NOT_ALL: &str = "not all were looked at: name a workflow, --status or --since";

/// A list as it is asked for: an object, ids, or a table.
fn shown(out: &Output, page: &PageDto<ExecutionSummaryDto>, limit: usize) -> Result<String, Failure> {
    if out.json {
        return json_line(page);
    }
    if out.quiet {
        let ids: Vec<&str> = page.items.iter().map(|item| item.id.as_str()).collect();
        return Ok(ids.join("\n"));
    }
    let mut text = if page.items.is_empty() {
        NONE.to_owned()
    } else {
        table(&page.items)
    };
    if page.items.len() < limit && page.next.is_some() {
        text.push('\n');
        text.push_str(NOT_ALL);
    }
    Ok(text)
}

/// Executions for people, a row each.
pub(super) fn table(items: &[ExecutionSummaryDto]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "ERROR"]);
    for item in items {
        let status = match (&item.quarantined, item.paused) {
            (Some(_), _) => "set aside",
            (None, true) => "paused",
            (None, false) => &item.status,
        };
        table.add_row([
            Cell::new(&item.id),
            Cell::new(format!("{} v{}", item.workflow_id, item.version)),
            status_cell(status),
            Cell::new(&item.start_time),
            Cell::new(item.duration_ms.map(duration).unwrap_or_default()),
            Cell::new(item.error_code.as_deref().unwrap_or_default()),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::extract::Query;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::error::ApiError;

    fn ls(limit: usize) -> Ls {
        Ls {
            workflow: None,
            status: None,
            tag: None,
            text: Some("needle".to_owned()),
            business_key: None,
            parent: None,
            since: None,
            limit,
            watch: false,
            every: Duration::from_secs(2),
            times: None,
        }
    }

    fn item(digit: char) -> Value {
        json!({"id": digit.to_string().repeat(32), "workflowId": "w", "version": 1, "status": "running", "paused": false,
            "startTime": "2026-11-26T00:00:00.000Z", "sequence": 1})
    }

    /// Pages of a search: the first one found nothing. Longer ones than every server gives are refused.
    async fn pages(Query(asked): Query<BTreeMap<String, String>>) -> Result<Json<Value>, StatusCode> {
        let limit: usize = asked["limit"].parse().unwrap();
        if limit > 100 {
            return Err(StatusCode::BAD_REQUEST);
        }
        let page = match asked.get("cursor").map(String::as_str) {
            None => json!({"items": [], "next": "a"}),
            Some("a") => json!({"items": [item('1')], "next": "b"}),
            Some("b") => json!({"items": [], "next": "c"}),
            Some(_) => json!({"items": [item('2')]}),
        };
        Ok(Json(page))
    }

    async fn client() -> Client {
        serve(Router::new().route("/api/v1/executions", get(pages))).await
    }

    /// As [`client`]; at a place in the list it refuses `busy` requests for now. Tells how often it was asked there.
    async fn busy_at(place: Option<&'static str>, busy: usize) -> (Client, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let list = move |query: Query<BTreeMap<String, String>>| async move {
            let is_there = query.get("cursor").map(String::as_str) == place;
            if is_there && count.fetch_add(1, Ordering::Relaxed) < busy {
                return ApiError::new("UNAVAILABLE", "others search").into_response();
            }
            pages(query).await.into_response()
        };
        (serve(Router::new().route("/api/v1/executions", get(list))).await, asked)
    }

    async fn serve(router: Router) -> Client {
        // As `main` does; another test of this process may have been faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(&address, None).unwrap()
    }

    /// The first digit of each.
    fn ids(found: &Found) -> Vec<char> {
        let first = |item: &ExecutionSummaryDto| item.id.chars().next().unwrap();
        found.page.items.iter().map(first).collect()
    }

    #[tokio::test]
    async fn pages_that_hold_little_or_nothing_are_followed() {
        let (client, out) = (client().await, Output::new(false, true));
        let found = async |limit, search| {
            let found = ls(limit).page(&client, None, search).await.unwrap();
            assert!(found.ended_by.is_none());
            (ids(&found), found.page.next)
        };
        let patient = Search::For(Duration::from_secs(600));
        for search in [Search::ToTheEnd(&out), patient] {
            assert_eq!(found(150, search).await, (vec!['1', '2'], None));
            assert_eq!(found(1, search).await, (vec!['1'], Some("b".to_owned())));
        }
        let hasty = Search::For(Duration::ZERO);
        assert_eq!(found(150, hasty).await, (vec![], Some("a".to_owned())));
    }

    #[tokio::test]
    async fn a_list_that_may_lack_something_says_so() {
        let (client, out) = (client().await, Output::new(false, false));
        let list = ls(2);
        let Found { page, .. } = list.page(&client, None, Search::For(Duration::ZERO)).await.unwrap();
        assert_eq!(shown(&out, &page, 2).unwrap(), format!("{NONE}\n{NOT_ALL}"));
        let Found { page, .. } = list.page(&client, None, Search::ToTheEnd(&out)).await.unwrap();
        let text = shown(&out, &page, 2).unwrap();
        assert!(text.contains(&"1".repeat(32)) && !text.contains(NOT_ALL), "{text}");
        // As long as was asked for: that there are more is no news.
        let Found { page, .. } = ls(1).page(&client, None, Search::ToTheEnd(&out)).await.unwrap();
        assert!(page.next.is_some() && !shown(&out, &page, 1).unwrap().contains(NOT_ALL));
    }

    #[tokio::test]
    async fn what_was_found_is_shown_although_a_later_page_is_refused() {
        let out = Output::new(false, false);
        let patient = Search::For(Duration::from_secs(600));
        let again = AGAIN_MAX as usize;
        let (client, asked) = busy_at(Some("b"), again).await;
        let found = ls(2).page(&client, None, Search::ToTheEnd(&out)).await.unwrap();
        assert!(found.ended_by.is_none(), "it was asked for again");
        assert_eq!((ids(&found), found.page.next), (vec!['1', '2'], None));
        assert_eq!(asked.load(Ordering::Relaxed), again + 1);
        // A look of --watch does not ask again: the next one does.
        for (search, requests) in [(Search::ToTheEnd(&out), again + 1), (patient, 1)] {
            let (client, asked) = busy_at(Some("b"), usize::MAX).await;
            let found = ls(2).page(&client, None, search).await.unwrap();
            assert_eq!((ids(&found), found.page.next.as_deref()), (vec!['1'], Some("b")));
            let text = shown(&out, &found.page, 2).unwrap();
            assert!(text.contains(&"1".repeat(32)) && text.contains(NOT_ALL), "{text}");
            assert_eq!(found.ended_by.unwrap().exit, Exit::CannotConnect);
            assert_eq!(asked.load(Ordering::Relaxed), requests);
        }
        let (client, _) = busy_at(None, usize::MAX).await;
        let nothing = ls(2).page(&client, None, Search::ToTheEnd(&out)).await;
        assert_eq!(
            nothing.err().unwrap().exit,
            Exit::CannotConnect,
            "there is nothing to show"
        );
    }
}
