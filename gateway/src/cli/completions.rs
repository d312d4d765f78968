//! `troupe completions`.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, Context, Failure};
use crate::exit::Exit;

#[derive(Args, Debug)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self, context: &Context) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "troupe", &mut script);
        context.out.line(String::from_utf8_lossy(&script).trim_end());
        Ok(Exit::Ok)
    }
}
