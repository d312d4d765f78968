//! `troupe serve`.

use clap::Args;

use super::server::{Places, listen, settings};
use super::{Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    places: Places,
}

impl Serve {
    pub(super) async fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let out = &context.out;
        let mut settings = settings(context, &self.places, false)?;
        let listener = listen(&mut settings).await?;
        if settings.listen.ip().is_unspecified() && settings.public_url.is_none() {
            tracing::warn!(
                listen = %settings.listen,
                "without `public_url` the addresses of waiting nodes begin with one that nobody can call"
            );
        }
        let store = &settings.store;
        let server = |url: &Option<troupe_config::StoreUrl>| url.as_ref().map(ToString::to_string);
        let embedded = || settings.state_dir.display().to_string();
        let (state, definitions) = (
            server(&store.state).unwrap_or_else(embedded),
            server(&store.definitions).unwrap_or_else(embedded),
        );
        let has_bootstrap = settings.bootstrap_key.is_some();
        let serving = self.places.serve(settings, listener, true, out).await?;
        out.say(format!(
            "troupe {} keeps its state in {state}, definitions and keys in {definitions}",
            env!("CARGO_PKG_VERSION")
        ));
        if has_bootstrap {
            out.say("the bootstrap key is accepted: make keys with `troupe key create`, then start without it");
        }
        serving.stopped(out).await
    }
}
