//! The sandbox process: one thread that reads requests, runs them in order and writes answers.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use troupe_ports::Rendered;

use super::engine::{Limits, Outcome, Program, Realm, Script};
use super::lockdown;
use super::protocol::{self, Fault, PROTOCOL_VERSION, ProgramKind, Request, Response};
use super::template::Templates;
use crate::codes;

/// First argument of a process that shall be a sandbox.
pub(super) const ARGUMENT: &str = "__sandbox";
/// Set in every sandbox process, so that a program that ignores [`ARGUMENT`] cannot start sandboxes without end.
pub(super) const MARK: &str = "TROUPE_SANDBOX_CHILD";

/// Realms that are kept at once.
const REALMS_MAX: usize = 32;
/// Calls after which a realm is made anew.
const REALM_CALLS_MAX: u32 = 100_000;
/// A realm that holds more than this after a call is made anew, in bytes.
const REALM_BYTES_KEPT_MAX: usize = 8 * 1024 * 1024;
/// Calls between two looks at a realm's memory; slow calls are always followed by one.
const LOOK_EVERY_CALLS: u32 = 256;
const SLOW: Duration = Duration::from_millis(1);
/// Answers wait at most this long for company.
const ANSWERS_HELD: Duration = Duration::from_micros(300);
/// How much the process may map beyond its start, as a multiple of the memory limit, and at least.
const ADDRESS_SPACE_FACTOR: u64 = 8;
const READ_BYTES: usize = 64 * 1024;

/// What the engine tells a child on its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) parent: u32,
    pub(super) memory_bytes: usize,
    pub(super) stack_bytes: usize,
    pub(super) output_bytes: usize,
    pub(super) log_lines: usize,
    pub(super) log_bytes: usize,
    pub(super) probe: bool,
}

/// Turns this process into a sandbox if it was started as one, and never returns then. Call it first in `main`.
pub fn run_child_if_requested() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return;
    }
    let settings = arguments
        .next()
        .and_then(|text| serde_json::from_str::<Settings>(&text).ok());
    let Some(settings) = settings else {
        eprintln!("this argument is for the engine's own use");
        std::process::exit(2);
    };
    let code = match run(&settings) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the sandbox process ends: {error}");
            1
        }
    };
    std::process::exit(code);
}

fn run(settings: &Settings) -> io::Result<()> {
    lockdown::close_inherited();
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let memory = settings.memory_bytes as u64;
    let lockdown = lockdown::lock(
        settings.parent,
        memory.saturating_mul(ADDRESS_SPACE_FACTOR).max(1 << 30),
    );
    let answers = Rc::new(Answers {
        output,
        pending: RefCell::new(Vec::new()),
    });
    let lockdown = serde_json::to_string(&lockdown).map_err(io::Error::other)?;
    answers.add(&Response::Hello {
        version: PROTOCOL_VERSION,
        lockdown,
    });
    answers.flush()?;
    Child {
        limits: Limits {
            memory_bytes: settings.memory_bytes,
            stack_bytes: settings.stack_bytes,
            output_bytes: settings.output_bytes,
            log_lines: settings.log_lines,
            log_bytes: settings.log_bytes,
        },
        probe: settings.probe,
        programs: HashMap::new(),
        realms: VecDeque::new(),
        templates: Templates::default(),
        queue: VecDeque::new(),
        answers,
    }
    .serve()
}

/// Answers on their way out. A write that fails means that the engine is gone.
struct Answers {
    output: File,
    pending: RefCell<Vec<u8>>,
}

impl Answers {
    fn add(&self, response: &Response) {
        response.write(&mut self.pending.borrow_mut());
    }

    fn flush(&self) -> io::Result<()> {
        let mut pending = self.pending.borrow_mut();
        if !pending.is_empty() {
            (&self.output).write_all(&pending)?;
            pending.clear();
        }
        Ok(())
    }
}

struct StoredProgram {
    kind: ProgramKind,
    context: Rc<str>,
    name: String,
    source: String,
}

enum Work {
    Call {
        call: u64,
        program: u64,
        deadline_ms: u64,
        input: String,
        context: String,
    },
    Check {
        call: u64,
        deadline_ms: u64,
        name: String,
        source: String,
    },
    CheckExpressions {
        call: u64,
        deadline_ms: u64,
        sources: String,
    },
    Probe {
        call: u64,
    },
}

impl Work {
    fn call(&self) -> u64 {
        match self {
            Self::Call { call, .. }
            | Self::Check { call, .. }
            | Self::CheckExpressions { call, .. }
            | Self::Probe { call } => *call,
        }
    }
}

struct KeptRealm {
    context: Rc<str>,
    realm: Realm,
    calls: u32,
}

struct Child {
    limits: Limits,
    probe: bool,
    programs: HashMap<u64, StoredProgram>,
    /// Most recently used first.
    realms: VecDeque<KeptRealm>,
    templates: Templates,
    queue: VecDeque<Work>,
    answers: Rc<Answers>,
}

impl Child {
    fn serve(mut self) -> io::Result<()> {
        let mut input = io::stdin().lock();
        let mut bytes = Vec::with_capacity(READ_BYTES);
        let mut chunk = vec![0; READ_BYTES];
        let mut flushed = Instant::now();
        loop {
            let slow = flushed.elapsed() > SLOW;
            // After a long call cancellations may have come for what waits behind it.
            if self.queue.is_empty() || (slow && readable()) {
                self.answers.flush()?;
                let count = input.read(&mut chunk)?;
                if count == 0 {
                    return Ok(());
                }
                bytes.extend_from_slice(&chunk[..count]);
                let mut used = 0;
                while let Some((length, body)) = protocol::split(&bytes[used..]).map_err(|_| invalid())? {
                    self.take(Request::read(body).map_err(|_| invalid())?);
                    used += length;
                }
                bytes.drain(..used);
                flushed = Instant::now();
                continue;
            }
            let Some(work) = self.queue.pop_front() else { continue };
            let started = Instant::now();
            let call = work.call();
            let outcome = self.work(work, started);
            self.answers.add(&Response::Done {
                call,
                logs: outcome.logs,
                result: outcome.result,
            });
            if flushed.elapsed() > ANSWERS_HELD {
                self.answers.flush()?;
                flushed = Instant::now();
            }
        }
    }

    fn take(&mut self, request: Request<'_>) {
        match request {
            Request::Define {
                program,
                kind,
                context,
                name,
                source,
            } => {
                let known = self.programs.values().find(|known| &*known.context == context);
                let context = known.map_or_else(|| context.into(), |known| Rc::clone(&known.context));
                let stored = StoredProgram {
                    kind,
                    context,
                    name: name.to_owned(),
                    source: source.to_owned(),
                };
                self.programs.insert(program, stored);
            }
            Request::Call {
                call,
                program,
                deadline_ms,
                input,
                context,
            } => {
                let (input, context) = (input.to_owned(), context.to_owned());
                self.queue.push_back(Work::Call {
                    call,
                    program,
                    deadline_ms,
                    input,
                    context,
                });
            }
            Request::Check {
                call,
                deadline_ms,
                name,
                source,
            } => {
                let (name, source) = (name.to_owned(), source.to_owned());
                self.queue.push_back(Work::Check {
                    call,
                    deadline_ms,
                    name,
                    source,
                });
            }
            Request::CheckExpressions {
                call,
                deadline_ms,
                sources,
            } => self.queue.push_back(Work::CheckExpressions {
                call,
                deadline_ms,
                sources: sources.to_owned(),
            }),
            Request::Probe { call } => self.queue.push_back(Work::Probe { call }),
            Request::Cancel { call } => {
                if let Some(place) = self.queue.iter().position(|work| work.call() == call) {
                    self.queue.remove(place);
                    self.answers.add(&Response::TakenBack { call });
                }
            }
            Request::Reset => {
                self.realms.clear();
                self.templates.clear();
                self.programs.clear();
            }
        }
    }

    fn work(&mut self, work: Work, started: Instant) -> Outcome {
        match work {
            Work::Call {
                program,
                deadline_ms,
                input,
                context,
                ..
            } => self.call(program, deadline_ms, &input, &context, started),
            Work::Check {
                deadline_ms,
                name,
                source,
                ..
            } => match self.fresh_realm() {
                Ok(mut realm) => realm.check(deadline_ms, &name, &source),
                Err(fault) => failed(fault),
            },
            Work::CheckExpressions {
                deadline_ms, sources, ..
            } => Outcome {
                result: self.check_expressions(deadline_ms, &sources),
                logs: Vec::new(),
                spent: false,
            },
            Work::Probe { .. } if self.probe => Outcome {
                result: Ok(lockdown::probe().to_string()),
                logs: Vec::new(),
                spent: false,
            },
            Work::Probe { .. } => failed(Fault::new(
                "PROBE_REFUSED",
                "this process was not started for probing",
                false,
            )),
        }
    }

    fn call(&mut self, program: u64, deadline_ms: u64, input: &str, context: &str, started: Instant) -> Outcome {
        let Some(stored) = self.programs.get(&program) else {
            return failed(Fault::new(
                codes::SANDBOX_CRASHED,
                "the program was never introduced",
                true,
            ));
        };
        let script = match stored.kind {
            ProgramKind::Function => Script::Function,
            ProgramKind::Expression => Script::Expression,
            ProgramKind::TextTemplate => return self.render(program, Rendered::Text, input),
            ProgramKind::JsonTemplate => return self.render(program, Rendered::Json, input),
        };
        let key = Rc::clone(&stored.context);
        let mut kept = match self.realms.iter().position(|kept| Rc::ptr_eq(&kept.context, &key)) {
            Some(0) => self.realms.pop_front(),
            Some(place) => self.realms.remove(place),
            None => None,
        };
        if kept.is_none() {
            self.realms.truncate(REALMS_MAX - 1);
            kept = match self.fresh_realm() {
                Ok(realm) => Some(KeptRealm {
                    context: key,
                    realm,
                    calls: 0,
                }),
                Err(fault) => return failed(fault),
            };
        }
        let Some(mut kept) = kept else {
            return failed(no_realm("no realm was made"));
        };
        let program = Program {
            id: program,
            kind: script,
            name: &stored.name,
            source: &stored.source,
        };
        let outcome = kept.realm.call(&program, deadline_ms, input, context);
        kept.calls += 1;
        let look = kept.calls % LOOK_EVERY_CALLS == 0 || started.elapsed() > SLOW;
        let heavy = look && kept.realm.memory_bytes() > REALM_BYTES_KEPT_MAX;
        if !outcome.spent && !heavy && kept.calls < REALM_CALLS_MAX {
            self.realms.push_front(kept);
        }
        outcome
    }

    fn render(&mut self, program: u64, rendered: Rendered, scope: &str) -> Outcome {
        let source = self.programs.get(&program).map_or("", |stored| &stored.source);
        // What was answered before must not wait for it, and must not be lost with it.
        if let Err(error) = self.answers.flush() {
            return failed(Fault::new(codes::SANDBOX_CRASHED, error.to_string(), true));
        }
        Outcome {
            result: self.templates.render(program, source, rendered, scope),
            logs: Vec::new(),
            spent: false,
        }
    }

    /// A problem or null for each of the sources.
    fn check_expressions(&self, deadline_ms: u64, sources: &str) -> Result<String, Fault> {
        let broken = |error: serde_json::Error| Fault::new(codes::SANDBOX_CRASHED, error.to_string(), true);
        let sources: Vec<String> = serde_json::from_str(sources).map_err(broken)?;
        let mut realm = self.fresh_realm()?;
        let mut problems = Vec::with_capacity(sources.len());
        for source in &sources {
            let problem = realm.check_expression(deadline_ms, source).err();
            if problem.as_ref().is_some_and(|problem| problem.is_limit) {
                realm = self.fresh_realm()?;
            }
            problems.push(problem);
        }
        serde_json::to_string(&problems).map_err(broken)
    }

    fn fresh_realm(&self) -> Result<Realm, Fault> {
        let answers = Rc::clone(&self.answers);
        // Answers of earlier calls go out while a long one runs. A broken pipe shows at the next flush.
        let on_tick = Rc::new(move || drop(answers.flush()));
        Realm::new(self.limits, on_tick).map_err(|error| no_realm(&error.to_string()))
    }
}

/// Whether a read of standard input would not wait.
#[allow(unsafe_code)]
fn readable() -> bool {
    let mut wanted = libc::pollfd {
        fd: libc::STDIN_FILENO,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, no waiting.
    unsafe { libc::poll(&raw mut wanted, 1, 0) > 0 }
}

fn no_realm(error: &str) -> Fault {
    Fault::new(
        codes::SANDBOX_UNAVAILABLE,
        format!("no JavaScript context can be made: {error}"),
        true,
    )
}

fn failed(fault: Fault) -> Outcome {
    Outcome {
        result: Err(fault),
        logs: Vec::new(),
        spent: false,
    }
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, protocol::Malformed.to_string())
}
