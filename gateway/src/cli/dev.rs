//! `troupe dev`.

use clap::Args;
use owo_colors::Style;
use troupe_actors::{StartCause, StartRequest};
use troupe_config::Settings;
use troupe_core::Principal;

use super::output::paint;
use super::server::{Places, listen, settings};
use super::{Context, Failure, progress};
use crate::app::App;
use crate::exit::Exit;
use crate::{demo, rules};

#[derive(Args, Debug)]
pub(super) struct Dev {
    #[command(flatten)]
    places: Places,
    /// Applies the examples, runs one while you watch, and tells what to try next.
    #[arg(long)]
    demo: bool,
}

impl Dev {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let out = &context.out;
        let mut settings = settings(context, &self.places, true)?;
        let listener = listen(&mut settings).await?;
        let demo_server = if self.demo {
            Some(demo_server(&mut settings).await?)
        } else {
            None
        };
        let serving = self.places.serve(settings, listener, false, out).await?;
        out.say(format!(
            "troupe {} keeps its state in {}",
            env!("CARGO_PKG_VERSION"),
            serving.directory.display()
        ));
        if let Some(demo_server) = &demo_server {
            // Ctrl-C during the demo ends it together with the server.
            tokio::select! {
                shown = show(&serving.app, demo_server, &serving.url, context) => shown?,
                () = serving.app.closing.cancelled() => {}
            }
        } else {
            out.say("next: `troupe apply FILE`, `troupe start WORKFLOW --watch`; Ctrl-C stops");
        }
        serving.stopped(out).await
    }
}

/// The examples' server, on its usual port if that is free.
async fn demo_server(settings: &mut Settings) -> Result<demo::Server, Failure> {
    let started = match demo::Server::start(demo::PORT).await {
        Ok(server) => Ok(server),
        Err(_) => demo::Server::start(0).await,
    };
    let server = started.map_err(|error| Failure::new(Exit::Failed, format!("no demo server: {error}")))?;
    settings.http.allow.push(server.target());
    Ok(server)
}

/// Applies the examples and runs one while you watch.
async fn show(app: &App, server: &demo::Server, url: &str, context: &Context) -> Result<(), Failure> {
    let out = &context.out;
    for example in demo::EXAMPLES {
        let definition = example.definition(&app.rules, &server.url()).await?;
        let stored = rules::store(&*app.definitions, definition, None, app.now()).await;
        let stored = stored.map_err(crate::error::ApiError::from)?;
        app.stored(&stored);
        let name = paint(&format!("{:<16}", stored.workflow.as_str()), Style::new().bold());
        out.say(format!("  {name} {}", stored.definition.description));
    }
    let shown = demo::SHOWN;
    out.say(format!("\nrunning `{}`:\n", shown.workflow));
    let request = StartRequest {
        principal: Some(Principal::from("local")),
        cause: Some(StartCause::Manual),
        ..StartRequest::new(shown.workflow, shown.input())
    };
    let (started, watch) = app.engine.start_watched(request).await?;
    let ended = progress::until_ended(app, started.id, watch, out).await?;
    let id = started.id.to_string();
    out.say(format!(
        "\nit {}. Listening on {}",
        ended.state.status.name(),
        paint(url, Style::new().underline())
    ));
    out.say("Next, in another terminal:");
    for (number, (command, why)) in demo::next_steps(&id, url).into_iter().enumerate() {
        let command = paint(&command, Style::new().bold());
        out.say(format!("  {}. {command}\n     {why}", number + 1));
    }
    out.say("Ctrl-C stops the server.");
    Ok(())
}
