//! Starts sandbox processes from one thread that lives as long as the pool.
//!
//! A child asks the kernel to be killed when the thread that started it ends. That thread must therefore be neither a
//! worker nor a blocking thread of the runtime, which may end at any time.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::child::{ARGUMENT, MARK, Settings};

/// A process that has been started and has not said hello yet.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
}

/// What a pipe holds at once; more needs privileges.
const PIPE_BYTES: libc::c_int = 1024 * 1024;

type Order = oneshot::Sender<io::Result<Process>>;

/// Starts processes on demand; dropping it kills those that are left.
#[derive(Debug)]
pub(super) struct Spawner {
    orders: std::sync::mpsc::Sender<Order>,
}

impl Spawner {
    /// Starts the thread. Must be called inside a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(program: Option<PathBuf>, settings: Settings) -> io::Result<Self> {
        let (orders, incoming) = std::sync::mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || {
                while let Ok(order) = incoming.recv() {
                    let _entered = runtime.enter();
                    // An order whose worker is gone: the process that it dropped is killed with it.
                    drop(order.send(spawn(program.as_deref(), &settings)));
                }
            })?;
        Ok(Self { orders })
    }

    /// Starts one process.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(super) async fn spawn(&self) -> io::Result<Process> {
        let gone = || io::Error::other("the spawner has ended");
        let (order, answer) = oneshot::channel();
        self.orders.send(order).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Makes a pipe take a megabyte at once: on a busy machine every turn of writer and reader waits for a processor. A pipe
/// that stays small only costs time.
#[allow(unsafe_code)]
fn widen(pipe: RawFd) {
    // SAFETY: a call on a descriptor that the caller owns; it reads and writes no memory.
    if unsafe { libc::fcntl(pipe, libc::F_SETPIPE_SZ, PIPE_BYTES) } < 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "a pipe to a sandbox process stays small");
    }
}

fn spawn(program: Option<&std::path::Path>, settings: &Settings) -> io::Result<Process> {
    // The link names the running program even after its file was replaced.
    let program = program.unwrap_or_else(|| std::path::Path::new("/proc/self/exe"));
    let settings = serde_json::to_string(settings).map_err(io::Error::other)?;
    let mut child = Command::new(program)
        .arg0("troupe-sandbox")
        .args([ARGUMENT, &settings])
        .env_clear()
        .env(MARK, "1")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(input), Some(output)) => {
            widen(input.as_raw_fd());
            widen(output.as_raw_fd());
            Ok(Process { child, input, output })
        }
        _ => Err(io::Error::other("the process has no pipes")),
    }
}
