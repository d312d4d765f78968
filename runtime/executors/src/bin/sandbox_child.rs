//! Nothing but a sandbox process: for tests and for engines whose own program cannot be started again.

fn main() {
    troupe_executors::run_child_if_requested();
    eprintln!("troupe-sandbox-child is started by an engine");
    std::process::exit(2);
}
