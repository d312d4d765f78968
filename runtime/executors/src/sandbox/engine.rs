//! QuickJS inside the child: one runtime a workflow version, programs compiled once, every limit enforced.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rquickjs::context::EvalOptions;
use rquickjs::promise::PromiseState;
use rquickjs::{Array, Context, Ctx, Function, Object, Persistent, Runtime, Value};

use super::memory::{Limited, Usage};
use super::protocol::{Fault, monotonic_ms};
use super::source::{self, ExpressionProblem};
use crate::codes;

/// Promise jobs that may still run after a call has settled.
const LEFTOVER_JOBS_MAX: u32 = 1_000;
/// Garbage collection starts above this much memory, in bytes.
const GC_THRESHOLD_BYTES: usize = 4 * 1024 * 1024;
/// Longest code of an error, in bytes.
const CODE_BYTES_MAX: usize = 128;
/// Longest details of an error, in bytes; longer ones are left out.
const DETAILS_BYTES_MAX: usize = 64 * 1024;
/// After one of these a realm may be short of memory or hold a broken call: it is not used again.
const LIMITS: &[&str] = &[codes::TIMEOUT, codes::MEMORY_LIMIT, codes::STACK_LIMIT];
/// Longest message of an error, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Names that every expression may use; an absent one is undefined.
const SCOPE_NAMES: &[&str] = &[
    "input",
    "trigger",
    "variables",
    "nodes",
    "execution",
    "resumeUrls",
    "output",
    "error",
    "item",
    "index",
    "acc",
    "event",
    "items",
    "initial",
    "payload",
];

/// Limits of user code; the deadline comes with each call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: usize,
    pub(crate) stack_bytes: usize,
    pub(crate) output_bytes: usize,
    pub(crate) log_lines: usize,
    pub(crate) log_bytes: usize,
}

/// What the interrupt handler and `console` share with the engine.
#[derive(Default)]
struct Shared {
    deadline_ms: Cell<u64>,
    interrupted: Cell<bool>,
    not_defined: Cell<bool>,
    logs: RefCell<Logs>,
}

#[derive(Default)]
struct Logs {
    lines: Vec<(String, String)>,
    bytes: usize,
    dropped: u64,
}

/// A result with what was logged on the way.
pub(crate) struct Outcome {
    pub(crate) result: Result<String, Fault>,
    pub(crate) logs: Vec<(String, String)>,
    /// The realm hit a limit and must not be used again.
    pub(crate) spent: bool,
}

/// What a realm runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    /// Code that defines a function, called with input and context.
    Function,
    /// One expression over a scope.
    Expression,
}

/// What to run.
pub(crate) struct Program<'a> {
    pub(crate) id: u64,
    pub(crate) kind: Script,
    pub(crate) name: &'a str,
    pub(crate) source: &'a str,
}

/// The only place where one workflow version's code runs. Programs are dropped before the context they live in.
pub(crate) struct Realm {
    programs: Vec<(u64, Persistent<Function<'static>>)>,
    invoke: Persistent<Function<'static>>,
    evaluate: Persistent<Function<'static>>,
    describe: Persistent<Function<'static>>,
    is_whole: Persistent<Function<'static>>,
    context: Context,
    runtime: Runtime,
    shared: Rc<Shared>,
    usage: Rc<Usage>,
    limits: Limits,
}

impl Realm {
    /// A context with frozen intrinsics. `on_tick` is called now and then while user code runs.
    pub(crate) fn new(limits: Limits, on_tick: Rc<dyn Fn()>) -> rquickjs::Result<Self> {
        let usage = Rc::new(Usage::default());
        let memory = Limited {
            usage: Rc::clone(&usage),
            bytes_max: limits.memory_bytes,
        };
        let runtime = Runtime::new_with_alloc(memory)?;
        runtime.set_max_stack_size(limits.stack_bytes);
        runtime.set_gc_threshold(GC_THRESHOLD_BYTES);
        let shared = Rc::new(Shared::default());
        shared.deadline_ms.set(u64::MAX);
        let watch = Rc::clone(&shared);
        runtime.set_interrupt_handler(Some(Box::new(move || {
            on_tick();
            let late = monotonic_ms() >= watch.deadline_ms.get();
            if late {
                watch.interrupted.set(true);
            }
            late
        })));
        let context = Context::full(&runtime)?;
        let sink = Rc::clone(&shared);
        let [invoke, evaluate, describe, is_whole] = context.with(|ctx| -> rquickjs::Result<_> {
            let log = Function::new(ctx.clone(), move |level: String, line: String| {
                keep_line(&sink, limits, level, line)
            })?;
            let prelude: Function<'_> = ctx.eval(include_str!("prelude.js"))?;
            let entry: Object<'_> = prelude.call((log,))?;
            let save =
                |name: &str| -> rquickjs::Result<_> { Ok(Persistent::save(&ctx, entry.get::<_, Function<'_>>(name)?)) };
            Ok([save("invoke")?, save("evaluate")?, save("describe")?, save("isWhole")?])
        })?;
        Ok(Self {
            programs: Vec::new(),
            invoke,
            evaluate,
            describe,
            is_whole,
            context,
            runtime,
            shared,
            usage,
            limits,
        })
    }

    /// What the realm holds, in bytes, after a garbage collection if that is much.
    pub(crate) fn memory_bytes(&self) -> usize {
        if self.usage.bytes() > GC_THRESHOLD_BYTES {
            self.runtime.run_gc();
        }
        self.usage.bytes()
    }

    /// The program of that number, compiled at its first call.
    fn compiled(&mut self, program: &Program<'_>) -> Result<Persistent<Function<'static>>, Fault> {
        if let Some((_, known)) = self.programs.iter().find(|(id, _)| *id == program.id) {
            return Ok(known.clone());
        }
        let compiled = self.compile(program)?;
        self.programs.push((program.id, compiled.clone()));
        Ok(compiled)
    }

    fn compile(&self, program: &Program<'_>) -> Result<Persistent<Function<'static>>, Fault> {
        self.context.with(|ctx| {
            let attempt = |text: String| -> Result<Function<'_>, Fault> {
                let mut options = EvalOptions::default();
                options.strict = true;
                options.filename = Some(if program.name.is_empty() {
                    "code".to_owned()
                } else {
                    program.name.to_owned()
                });
                let made: Value<'_> = ctx
                    .eval_with_options(format!("({text})"), options)
                    .map_err(|error| self.fault(&ctx, &error))?;
                let whole = self
                    .is_whole
                    .clone()
                    .restore(&ctx)
                    .and_then(|check| check.call((made.clone(), text)));
                match (whole, made.into_function()) {
                    (Ok(true), Some(function)) => Ok(function),
                    _ => Err(Fault::new(
                        codes::FUNCTION_CODE_INVALID,
                        "the code closes a bracket that it did not open",
                        false,
                    )),
                }
            };
            let factory = match program.kind {
                Script::Function => source::function(program.name, program.source, attempt),
                Script::Expression => source::expression(SCOPE_NAMES, program.source, attempt),
            }?;
            Ok(Persistent::save(&ctx, factory))
        })
    }

    /// Runs one call to its end.
    pub(crate) fn call(&mut self, program: &Program<'_>, deadline_ms: u64, input: &str, context: &str) -> Outcome {
        self.begin(deadline_ms);
        let result = self.compiled(program).and_then(|factory| {
            self.context.with(|ctx| {
                let started = factory.restore(&ctx).and_then(|factory| match program.kind {
                    Script::Function => self.invoke.clone().restore(&ctx)?.call((factory, input, context)),
                    Script::Expression => self.evaluate.clone().restore(&ctx)?.call((factory, input)),
                });
                let value = self.settle(&ctx, started)?;
                if self.shared.not_defined.get() {
                    return Err(not_defined(program.name));
                }
                self.written(&ctx, value)
            })
        });
        self.end(result)
    }

    /// Compiles code and builds its top level, to see whether the function is there.
    pub(crate) fn check(&mut self, deadline_ms: u64, name: &str, source: &str) -> Outcome {
        self.begin(deadline_ms);
        let program = Program {
            id: 0,
            kind: Script::Function,
            name,
            source,
        };
        let result = self.compile(&program).and_then(|factory| {
            self.context.with(|ctx| {
                match factory
                    .restore(&ctx)
                    .and_then(|factory| factory.call::<_, Value<'_>>(()))
                {
                    Ok(value) if value.is_function() => Ok("null".to_owned()),
                    Ok(_) => Err(not_defined(name)),
                    Err(error) => Err(self.fault(&ctx, &error)),
                }
            })
        });
        self.end(result)
    }

    /// Compiles an expression without running it.
    pub(crate) fn check_expression(&mut self, deadline_ms: u64, source: &str) -> Result<(), ExpressionProblem> {
        self.begin(deadline_ms);
        let program = Program {
            id: 0,
            kind: Script::Expression,
            name: "",
            source,
        };
        let Err(fault) = self.compile(&program) else {
            return Ok(());
        };
        let offset = fault
            .stack
            .as_deref()
            .and_then(|stack| source::offset_in_expression(SCOPE_NAMES, source, stack));
        let is_limit = LIMITS.contains(&fault.code.as_str());
        let message = fault.message.strip_prefix("SyntaxError: ").unwrap_or(&fault.message);
        let message = if offset == Some(source.len()) && message.starts_with("unexpected token") {
            // The engine names the bracket of the wrapper.
            "expression ends too early"
        } else {
            message
        };
        Err(ExpressionProblem {
            message: message.to_owned(),
            offset,
            is_limit,
        })
    }

    fn begin(&self, deadline_ms: u64) {
        self.shared.deadline_ms.set(deadline_ms);
        self.shared.interrupted.set(false);
        self.shared.not_defined.set(false);
        self.usage.take_refused();
        *self.shared.logs.borrow_mut() = Logs::default();
    }

    /// Waits for a promise by running jobs until none is left.
    fn settle<'js>(&self, ctx: &Ctx<'js>, started: rquickjs::Result<Value<'js>>) -> Result<Value<'js>, Fault> {
        let value = started.map_err(|error| self.fault(ctx, &error))?;
        let Some(promise) = value.as_promise().cloned() else {
            return Ok(value);
        };
        while promise.state() == PromiseState::Pending {
            let ran = ctx.execute_pending_job();
            if self.shared.interrupted.get() {
                return Err(timed_out());
            }
            if !ran {
                let message = "the function waits for a promise that nothing can settle any more";
                return Err(Fault::new(codes::FUNCTION_STALLED, message, false));
            }
        }
        promise.finish::<Value<'js>>().map_err(|error| self.fault(ctx, &error))
    }

    /// The result as JSON text.
    fn written<'js>(&self, ctx: &Ctx<'js>, value: Value<'js>) -> Result<String, Fault> {
        let text = match ctx.json_stringify(value) {
            Ok(Some(text)) => text.to_string().map_err(|error| self.fault(ctx, &error))?,
            Ok(None) => return Ok("null".to_owned()),
            Err(error) => {
                let mut fault = self.fault(ctx, &error);
                if fault.code != codes::TIMEOUT && fault.code != codes::MEMORY_LIMIT {
                    fault.message = format!("the result cannot be written as JSON: {}", fault.message);
                    fault.code = codes::OUTPUT_NOT_JSON.to_owned();
                    fault.retryable = false;
                }
                return Err(fault);
            }
        };
        if text.len() > self.limits.output_bytes {
            let message = format!(
                "the result has {} bytes, the limit is {}",
                text.len(),
                self.limits.output_bytes
            );
            return Err(Fault::new(codes::OUTPUT_TOO_LARGE, message, false));
        }
        super::json::presentable(text).ok_or_else(|| {
            let message = format!("the result nests deeper than {} levels", super::json::DEPTH_MAX);
            Fault::new(codes::OUTPUT_NOT_JSON, message, false)
        })
    }

    fn end(&self, result: Result<String, Fault>) -> Outcome {
        // Jobs that the call left behind end with it: they must not run in a later call's time.
        let mut leftover = 0;
        let endless = self.context.with(|ctx| {
            while leftover < LEFTOVER_JOBS_MAX && !self.shared.interrupted.get() && ctx.execute_pending_job() {
                leftover += 1;
            }
            leftover == LEFTOVER_JOBS_MAX
        });
        self.shared.deadline_ms.set(u64::MAX);
        let mut logs = std::mem::take(&mut *self.shared.logs.borrow_mut());
        if logs.dropped > 0 {
            let note = format!(
                "{} more lines were dropped: the limit of a call is reached",
                logs.dropped
            );
            logs.lines.push(("warn".to_owned(), note));
        }
        let limited = result
            .as_ref()
            .is_err_and(|fault| LIMITS.contains(&fault.code.as_str()));
        Outcome {
            result,
            logs: logs.lines,
            spent: endless || limited || self.shared.interrupted.get(),
        }
    }

    /// What an error of QuickJS means to the user.
    fn fault(&self, ctx: &Ctx<'_>, error: &rquickjs::Error) -> Fault {
        if self.shared.interrupted.get() {
            ctx.catch();
            return timed_out();
        }
        if !error.is_exception() {
            return Fault::new(codes::FUNCTION_ERROR, error.to_string(), false);
        }
        let thrown = ctx.catch();
        let starved = self.usage.take_refused();
        if starved && thrown.is_null() {
            return memory_limit(self.limits);
        }
        let described: rquickjs::Result<Array<'_>> = self
            .describe
            .clone()
            .restore(ctx)
            .and_then(|describe| describe.call((thrown,)));
        let (kind, code, message, details, stack, retryable, wait) =
            match described.and_then(|parts| described_parts(&parts)) {
                Ok(parts) => parts,
                Err(_) if self.shared.interrupted.get() => return timed_out(),
                Err(_) => {
                    ctx.catch();
                    return memory_limit(self.limits);
                }
            };
        match kind.as_str() {
            "memory" => return memory_limit(self.limits),
            "stack" => {
                let message = format!("the code needs more than {} bytes of stack", self.limits.stack_bytes);
                return Fault::new(codes::STACK_LIMIT, message, false);
            }
            _ => {}
        }
        Fault {
            code: if code.is_empty() {
                codes::FUNCTION_ERROR.to_owned()
            } else {
                clipped(code, CODE_BYTES_MAX)
            },
            message: clipped(message, MESSAGE_BYTES_MAX),
            details: Some(details)
                .filter(|text| !text.is_empty() && text.len() <= DETAILS_BYTES_MAX)
                .and_then(super::json::presentable),
            stack: Some(own_frames(&stack)).filter(|text| !text.is_empty()),
            retryable,
            // Saturating: more milliseconds than an integer holds become its largest.
            retry_after_ms: (wait >= 0.0).then_some(wait as u64),
        }
    }
}

/// What the prelude's `describe` gives.
type Described = (String, String, String, String, String, bool, f64);

fn described_parts(parts: &Array<'_>) -> rquickjs::Result<Described> {
    Ok((
        parts.get(0)?,
        parts.get(1)?,
        parts.get(2)?,
        parts.get(3)?,
        parts.get(4)?,
        parts.get(5)?,
        parts.get(6)?,
    ))
}

fn timed_out() -> Fault {
    Fault::new(codes::TIMEOUT, "the code ran past its deadline", true)
}

fn memory_limit(limits: Limits) -> Fault {
    Fault::new(
        codes::MEMORY_LIMIT,
        format!("the code needs more than {} bytes of memory", limits.memory_bytes),
        false,
    )
}

fn not_defined(name: &str) -> Fault {
    let name = if name.is_empty() { "handler" } else { name };
    Fault::new(
        codes::FUNCTION_NOT_DEFINED,
        format!("the code does not define a function `{name}`"),
        false,
    )
}

/// The stack without the frames of the prelude.
fn own_frames(stack: &str) -> String {
    let own = stack
        .lines()
        .filter(|line| !line.contains("eval_script") && !line.contains("(native)"));
    clipped(own.collect::<Vec<_>>().join("\n"), MESSAGE_BYTES_MAX)
}

/// At most `bytes_max` bytes of `text`, on a character's border.
fn clipped(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

/// Takes what the prelude's native `log` is given.
fn keep_line(shared: &Shared, limits: Limits, level: String, line: String) {
    if level == "undefined" {
        shared.not_defined.set(true);
        return;
    }
    let logs = &mut *shared.logs.borrow_mut();
    if logs.lines.len() >= limits.log_lines || logs.bytes + line.len() > limits.log_bytes {
        logs.dropped += 1;
        return;
    }
    logs.bytes += line.len();
    logs.lines.push((level, line));
}
