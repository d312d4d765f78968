//! Shows something anew until the process is asked to stop: in its place on a terminal, one after the other elsewhere.

use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use comfy_table::Table;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::Style;
use reqwest::Url;
use tokio::time::{MissedTickBehavior, interval, timeout};
use troupe_ports::{Clock, SystemClock};

use super::client::Client;
use super::failure::Failure;
use super::output::{Output, paint, paint_out};
use crate::dto::date;
use crate::exit::Exit;
use crate::server::asked_to_stop;

/// Within which a look is over: a server that hangs must not look like one where nothing happens.
const LOOK: Duration = Duration::from_secs(10);
/// Clears the whole terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// How often something is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From one look to the next.
    pub(super) every: Duration,
    /// How many looks there are; none: until the process is asked to stop.
    pub(super) times: Option<u64>,
}

/// Reads `--every`.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "write a number of seconds, such as 2 or 0.5".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("write a number from 0.1 to 3600".to_owned())
    }
}

/// Shows what `look` asks of `client` until Ctrl-C or SIGTERM. Whatever passes (the server does not answer, or is not well for now)
/// is said and tried again, at another server if there are several; a look may be given up in the middle.
pub(super) async fn watch(
    out: &Output,
    client: &Client,
    pace: Pace,
    look: impl AsyncFnMut() -> Result<String, Failure>,
) -> Result<Exit, Failure> {
    until(asked_to_stop(), out, client, pace, look).await
}

async fn until(
    stop: impl Future<Output = ()>,
    out: &Output,
    client: &Client,
    pace: Pace,
    mut look: impl AsyncFnMut() -> Result<String, Failure>,
) -> Result<Exit, Failure> {
    let mut screen = Screen::new(out, client.server().address())?;
    let mut stop = pin!(stop);
    let mut ticks = interval(pace.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looks, mut has_answered) = (0, false);
    while pace.times.is_none_or(|times| looks < times) {
        tokio::select! {
            () = &mut stop => break,
            _ = ticks.tick() => {}
        }
        let seen = tokio::select! {
            () = &mut stop => break,
            seen = timeout(LOOK, look()) => seen,
        };
        let seen = seen.unwrap_or_else(|_| {
            client.pass_over();
            Err(no_answer())
        });
        match seen {
            Ok(text) => {
                has_answered = true;
                screen.asks(client.server().address());
                screen.show(text);
            }
            Err(failure) if passes(&failure, has_answered) => screen.say_silent(&failure),
            Err(failure) => return Err(failure),
        }
        looks += 1;
    }
    Ok(Exit::Ok)
}

fn no_answer() -> Failure {
    let why = format!("no answer within {} s", LOOK.as_secs());
    Failure::new(Exit::CannotConnect, why)
}

/// Whether the next look may go well. A server that has never answered may be none at all.
fn passes(failure: &Failure, has_answered: bool) -> bool {
    match failure.exit {
        Exit::CannotConnect | Exit::WaitTimeout => true,
        Exit::Failed => has_answered,
        Exit::Ok | Exit::Usage | Exit::NotFound | Exit::Conflict | Exit::InvalidDefinition => false,
    }
}

/// Where it is shown.
struct Screen<'a> {
    out: &'a Output,
    /// What repaints; none where standard output is no terminal.
    bar: Option<ProgressBar>,
    /// Columns of the terminal at the last paint.
    columns: Option<u16>,
    /// What was shown last.
    shown: String,
    /// Since when there is no answer.
    silent_since: Option<String>,
    /// Whose answer was shown last; at first, who is asked.
    server: Url,
    /// That it is another server's than before.
    note: Option<String>,
}

impl<'a> Screen<'a> {
    fn new(out: &'a Output, server: &Url) -> Result<Self, Failure> {
        let target = ProgressDrawTarget::stdout();
        let bar = if out.json || target.is_hidden() {
            None
        } else {
            // It knows how many rows the terminal has, and leaves out what is below them.
            let style = ProgressStyle::with_template("{msg}");
            let style = style.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            Some(ProgressBar::with_draw_target(None, target).with_style(style))
        };
        Ok(Self {
            out,
            bar,
            columns: columns(),
            shown: String::new(),
            silent_since: None,
            server: server.clone(),
            note: None,
        })
    }

    /// Notes which server answers now, where another one did before: beside the time on a terminal, once elsewhere.
    fn asks(&mut self, server: &Url) {
        if self.server == *server {
            return;
        }
        let note = format!("now asking {server} instead of {}", self.server);
        if self.bar.is_none() {
            self.out.say(&note);
        }
        self.server = server.clone();
        self.note = Some(note);
    }

    fn show(&mut self, text: String) {
        self.silent_since = None;
        let head = paint_out(&now(), Style::new().dimmed());
        if self.bar.is_some() {
            let note = self.note.as_ref().map(|note| format!("  {note}")).unwrap_or_default();
            self.paint(format!("{head}{note}\n{text}"));
        } else {
            if !self.out.json && !self.out.quiet {
                self.out.line(&head);
            }
            if !text.is_empty() {
                self.out.line(&text);
            }
        }
        self.shown = text;
    }

    /// Says that there is no answer: over what was seen last on a terminal, once elsewhere.
    fn say_silent(&mut self, failure: &Failure) {
        let is_news = self.silent_since.is_none();
        let since = self.silent_since.get_or_insert_with(now).clone();
        // The first line is what happened; others are of details.
        let why = failure.message.lines().next().unwrap_or_default();
        if self.bar.is_some() {
            let said = format!("since {since}: {why}; trying again");
            let said = paint_out(&said, Style::new().red());
            self.paint(format!("{said}\n{}", self.shown));
        } else if is_news && self.out.json {
            self.out.failure(failure);
        } else if is_news {
            let error = paint("error", Style::new().red().bold());
            self.out.warn(format!("{error}: {why}; trying again"));
        }
    }

    fn paint(&mut self, text: String) {
        let Some(bar) = &self.bar else { return };
        let columns = columns();
        if columns != self.columns {
            self.columns = columns;
            // The terminal has broken its lines anew: nobody knows where the last paint begins.
            clear();
        }
        bar.set_message(text);
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            // What was painted last stays.
            bar.set_draw_target(ProgressDrawTarget::hidden());
            self.out.line("");
        }
    }
}

fn clear() {
    let mut out = io::stdout().lock();
    // A terminal that is gone is noticed at the next paint.
    drop(out.write_all(CLEAR.as_bytes()).and_then(|()| out.flush()));
}

fn columns() -> Option<u16> {
    Table::new().width()
}

fn now() -> String {
    date(SystemClock.now())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn a_pace_is_neither_a_flood_nor_a_day() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "0.01", "86400", "NaN", "inf", "", "1s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_server_refuses_it_refuses_again() {
        let of = |exit: Exit| Failure::new(exit, "no");
        assert!(passes(&of(Exit::CannotConnect), false));
        assert!(passes(&of(Exit::Failed), true));
        assert!(!passes(&of(Exit::Failed), false), "it may be no server of ours");
        assert!(!passes(&of(Exit::Usage), true));
    }

    fn client() -> Client {
        // As `main` does; another test of this process may have been faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::new("http://127.0.0.1:1,http://127.0.0.1:2", None).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_lets_a_look_wait_is_passed_over() {
        let (client, out) = (client(), Output::new(false, true));
        let pace = Pace {
            every: Duration::from_secs(1),
            times: Some(2),
        };
        let mut looks = 0;
        let ended = until(pending(), &out, &client, pace, async || {
            looks += 1;
            if looks == 1 {
                pending::<()>().await;
            }
            Ok(String::new())
        });
        assert_eq!(ended.await.unwrap(), Exit::Ok);
        assert_eq!(client.server().address().as_str(), "http://127.0.0.1:2/");
    }

    #[tokio::test]
    async fn it_goes_on_after_failures_that_pass_and_ends_at_others() {
        let (client, out) = (client(), Output::new(false, true));
        let pace = Pace {
            every: Duration::from_millis(1),
            times: Some(3),
        };
        let mut looks = 0;
        let ended = until(pending(), &out, &client, pace, async || {
            looks += 1;
            if looks == 2 {
                Ok(String::new())
            } else {
                Err(Failure::new(Exit::CannotConnect, "away"))
            }
        });
        assert_eq!(ended.await.unwrap(), Exit::Ok);
        assert_eq!(looks, 3);
        let ended = until(pending(), &out, &client, pace, async || {
            Err::<String, _>(Failure::new(Exit::Usage, "no such status"))
        });
        assert_eq!(ended.await.unwrap_err().exit, Exit::Usage);
        let ended = until(ready(()), &out, &client, pace, async || {
            pending::<Result<String, Failure>>().await
        });
        assert_eq!(ended.await.unwrap(), Exit::Ok, "a look is given up in the middle");
    }
}
