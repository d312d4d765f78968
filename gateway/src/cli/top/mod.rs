//! `troupe top`.

mod exposition;
mod figures;
mod frame;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::join_all;

use super::client::{Client, Server};
use super::output::{Output, json_line};
use super::watch::{Pace, seconds, watch};
use super::{Context, Failure};
use crate::dto::{ControlDto, ExecutionSummaryDto, MemberDto, PageDto};
use crate::exit::Exit;
use figures::{Counts, Figures};
use frame::Frame;

/// Executions that are asked for on a terminal, which leaves out what it has no room for: the most for which every server's pages
/// have room (`limits.page_max`).
const ROWS_MAX: u8 = 100;
/// Executions that are shown elsewhere.
const ROWS: u8 = 20;
/// After which a member that could not be asked is asked again: each time may take as long as a frame.
const ASKED_AGAIN: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct Top {
    /// Seconds from one look to the next; rates are of that time.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    every: Duration,
    /// Looks twice, so that there are rates, prints one frame and ends.
    #[arg(long)]
    once: bool,
    /// At most so many executions (to 100); else as many as the terminal has room for.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u8).range(1..=i64::from(ROWS_MAX)))]
    limit: Option<u8>,
    /// Ends after so many looks.
    #[arg(long, hide = true, conflicts_with = "once")]
    times: Option<u64>,
}

impl Top {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let client = context.client()?;
        let out = &context.out;
        let has_rows = io::stdout().is_terminal() && !self.once && !out.json;
        let mut looker = Looker {
            client: &client,
            rows: self.limit.unwrap_or(if has_rows { ROWS_MAX } else { ROWS }),
            before: BTreeMap::new(),
            silent: BTreeMap::new(),
        };
        if self.once {
            Box::pin(looker.look()).await?;
            tokio::time::sleep(self.every).await;
            let frame = Box::pin(looker.look()).await?;
            out.line(&shown(out, &frame)?);
            return Ok(Exit::Ok);
        }
        let pace = Pace {
            every: self.every,
            times: self.times,
        };
        watch(out, &client, pace, async || shown(out, &Box::pin(looker.look()).await?)).await
    }
}

/// A frame as it is asked for: an object, or text.
fn shown(out: &Output, frame: &Frame) -> Result<String, Failure> {
    if out.json { json_line(frame) } else { Ok(frame.text()) }
}

/// Asks, and knows what was answered last.
struct Looker<'a> {
    client: &'a Client,
    rows: u8,
    /// What each member told at the last look.
    before: BTreeMap<String, Told>,
    /// Members that could not be asked, and when they are asked again.
    silent: BTreeMap<String, Instant>,
}

/// What a member told, and when.
struct Told {
    at: Instant,
    figures: Figures,
}

impl Told {
    fn read(text: &str) -> Option<Self> {
        Some(Self {
            at: Instant::now(),
            figures: Figures::read(text)?,
        })
    }

    fn per_second(&self, before: Option<&Self>) -> Option<Counts<f64>> {
        let before = before?;
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        self.figures.counts.per_second(&before.figures.counts, seconds)
    }
}

/// What came of asking a member.
struct Asked {
    told: Option<Told>,
    /// It was asked at its address, and did not answer there.
    is_silent: bool,
}

impl Looker<'_> {
    /// What holds now, and rates since the last look. Cancel-safe.
    async fn look(&mut self) -> Result<Frame, Failure> {
        let client = self.client;
        let page: PageDto<MemberDto> = client.fetch(client.get(&["members"])).await?;
        let members = page.items;
        // Whoever named the members; the next question may go to another one.
        let server = client.server();
        let latest = client.get(&["executions"]).query(&[("limit", self.rows)]);
        let (controls, latest, asked) = tokio::join!(
            client.fetch::<PageDto<ControlDto>>(client.get(&["controls"])),
            client.fetch::<PageDto<ExecutionSummaryDto>>(latest),
            self.ask_all(server, &members),
        );
        let (controls, latest) = (controls?.items, latest?.items);
        let mut frame = Frame::new(server.address().to_string(), controls, latest);
        let mut now = BTreeMap::new();
        for (name, asked) in asked {
            if asked.is_silent {
                self.silent.insert(name.clone(), Instant::now() + ASKED_AGAIN);
            }
            let member = members.iter().find(|member| member.name == name).cloned();
            let (figures, per_second) = match &asked.told {
                Some(told) => (Some(told.figures.clone()), told.per_second(self.before.get(&name))),
                None => (None, None),
            };
            frame.add(member, figures, per_second);
            now.extend(asked.told.map(|told| (name, told)));
        }
        self.before = now;
        Ok(frame)
    }

    /// What every member tells, by name; a server without others has none.
    async fn ask_all(&self, server: &Server, members: &[MemberDto]) -> Vec<(String, Asked)> {
        if members.is_empty() {
            let text = self.client.metrics(server).await;
            let told = text.as_deref().and_then(Told::read);
            return vec![(String::new(), Asked { told, is_silent: false })];
        }
        let asked = members
            .iter()
            .map(|member| async move { (member.name.clone(), self.ask(server, member).await) });
        join_all(asked).await
    }

    async fn ask(&self, server: &Server, member: &MemberDto) -> Asked {
        let until = self.silent.get(&member.name);
        let is_asked = until.is_none_or(|until| *until <= Instant::now());
        let mut text = None;
        if is_asked {
            text = self.client.metrics_at(server, &member.address).await;
        }
        let is_silent = is_asked && text.is_none();
        if text.is_none() && member.own {
            // Its address may be one that only the others reach: then it is here.
            text = self.client.metrics(server).await;
        }
        Asked {
            told: text.as_deref().and_then(Told::read),
            is_silent,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        (listener, address)
    }

    /// Metrics of a member that starts `step` executions from one look to the next.
    fn metrics(step: u64) -> Router {
        let started = Arc::new(AtomicU64::new(0));
        let told = move || async move {
            let started = started.fetch_add(step, Ordering::Relaxed);
            format!(
                "# TYPE troupe_executions_started_total counter\n\
                 troupe_executions_started_total{{workflow=\"w\",trigger=\"api\"}} {started}\n\
                 troupe_executions_active{{state=\"running\"}} {step}\n"
            )
        };
        Router::new().route("/metrics", get(told))
    }

    fn answers(value: Value) -> axum::routing::MethodRouter {
        get(move || async move { Json(value) })
    }

    fn member(name: &str, address: &str, is_own: bool) -> Value {
        json!({"name": name, "address": address, "status": "leaving", "release": "0.1.0", "shards": 4,
            "reads": {"oldest": 1, "newest": 2}, "writes": 1, "holds": 2, "own": is_own})
    }

    fn execution() -> Value {
        json!({"id": "ab".repeat(16), "workflowId": "w", "version": 1, "status": "running", "paused": false,
            "startTime": "2026-11-26T00:00:00.000Z", "sequence": 1})
    }

    fn control() -> Value {
        json!({"kind": "pause", "scope": {"workflow": "w"}, "since": "2026-11-26T00:00:00.000Z", "by": "olga",
            "reason": "lunch", "draining": 2, "shards": 8, "shardsAll": 8})
    }

    /// A server with these members.
    fn server(members: Vec<Value>) -> Router {
        metrics(10)
            .route("/api/v1/members", answers(json!({"items": members})))
            .route("/api/v1/controls", answers(json!({"items": [control()]})))
            .route("/api/v1/executions", answers(json!({"items": [execution()]})))
    }

    fn serve(listener: TcpListener, router: Router) {
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    fn looker(client: &Client) -> Looker<'_> {
        Looker {
            client,
            rows: ROWS,
            before: BTreeMap::new(),
            silent: BTreeMap::new(),
        }
    }

    fn client(address: &str) -> Client {
        // As `main` does; another test of this process may have been faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::new(address, None).unwrap()
    }

    #[tokio::test]
    async fn members_are_asked_each_and_added_up() {
        let ((first, here), (second, there), (gone, nowhere)) = (listener().await, listener().await, listener().await);
        drop(gone);
        let members = vec![
            member("a", &here, true),
            member("b", &there, false),
            member("c", &nowhere, false),
        ];
        serve(first, server(members));
        serve(second, metrics(30));
        let client = client(&here);
        let mut looker = looker(&client);
        let frame = serde_json::to_value(looker.look().await.unwrap()).unwrap();
        assert_eq!(frame["figures"]["counts"]["executionsStarted"], 0);
        assert_eq!(frame["figures"]["now"]["executions"]["running"], 40);
        assert_eq!(frame["perSecond"], Value::Null, "there is nothing to compare with");

        let frame = looker.look().await.unwrap();
        let text = frame.text();
        let frame = serde_json::to_value(&frame).unwrap();
        assert_eq!(frame["figures"]["counts"]["executionsStarted"], 40);
        let of = |row: &Value| row["perSecond"]["executionsStarted"].as_f64();
        let rates: Vec<_> = frame["members"].as_array().unwrap().iter().map(of).collect();
        assert!(rates[0].unwrap() > 0.0 && rates[1].unwrap() > 0.0, "{frame}");
        assert_eq!(rates[2], None);
        assert!(of(&frame).unwrap() > rates[1].unwrap());
        assert_eq!(frame["members"][2]["name"], "c");
        let id = "ab".repeat(16);
        for part in [
            "3 members",
            "of 2 of 3 members",
            "running 40",
            "started     40 (",
            "leaving",
            "1 (holds 2)",
            "(answers)",
            "workflow w: paused",
            "by olga",
            "lunch",
            "still run: 2",
            id.as_str(),
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_member_that_others_reach_elsewhere_answers_where_it_was_asked() {
        let ((here, address), (gone, nowhere)) = (listener().await, listener().await);
        drop(gone);
        serve(here, server(vec![member("a", &nowhere, true)]));
        let client = client(&address);
        let mut looker = looker(&client);
        for started in [0, 10] {
            let frame = serde_json::to_value(looker.look().await.unwrap()).unwrap();
            assert_eq!(frame["figures"]["counts"]["executionsStarted"], started);
        }
    }

    #[tokio::test]
    async fn a_member_to_whom_the_key_would_go_in_the_clear_is_named_and_not_asked() {
        let (here, address) = listener().await;
        let members = vec![member("a", &address, true), member("b", "http://192.0.2.1:7654", false)];
        serve(here, server(members));
        let client = client(&address);
        let frame = looker(&client).look().await.unwrap();
        let text = frame.text();
        assert!(
            text.contains("of 1 of 2 members; not to be asked from here: b"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_server_without_others_is_asked_itself() {
        let (here, address) = listener().await;
        serve(here, server(Vec::new()));
        let client = client(&address);
        let frame = looker(&client).look().await.unwrap();
        let text = frame.text();
        assert!(text.contains("running 10") && !text.contains("MEMBER"), "{text}");
        let frame = serde_json::to_value(&frame).unwrap();
        assert_eq!(frame["members"], json!([]));
        assert_eq!(frame["executions"][0]["workflowId"], "w");
        assert_eq!(frame["controls"][0]["reason"], "lunch");
    }
}
