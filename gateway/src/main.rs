//! The `troupe` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The process may be a sandbox's child: then it never comes back from here.
    troupe::wiring::run_child_if_requested();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        // Somebody installed one before main: it serves as well.
        tracing::debug!("a TLS provider was installed already");
    }
    troupe::cli::main().into()
}
