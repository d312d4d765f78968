//! The `troupe` binary.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's header; the bindings do not name it.
const PURGE_DELAY: i32 = 15;

/// Memory that a burst of work needed goes back to the system when it is freed, not with some later allocation: an
/// engine with many waiting executions may not allocate again for hours.
#[allow(unsafe_code)]
fn give_memory_back_at_once() {
    // SAFETY: sets a number that the allocator reads atomically; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

/// How often a thread without work looks for pages that it no longer needs.
const COLLECT_EVERY: Duration = Duration::from_secs(1);

/// Collects what other threads have freed of this thread's memory: nothing else does while it has no work.
#[allow(unsafe_code)]
fn collect_now_and_then() {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if LAST.get().is_none_or(|last| last.elapsed() >= COLLECT_EVERY) {
        LAST.set(Some(Instant::now()));
        // SAFETY: a call into the allocator that this program allocates with.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}

fn main() -> ExitCode {
    give_memory_back_at_once();
    // The process may be a sandbox's child: then it never comes back from here.
    troupe::wiring::run_child_if_requested();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        // Somebody installed one before main: it serves as well.
        tracing::debug!("a TLS provider was installed already");
    }
    troupe::cli::main(collect_now_and_then).into()
}
