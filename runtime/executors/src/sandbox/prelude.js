// Runs once in every new context, before any user code. Gets the native `log(level, text)` and gives what the
// engine calls. Afterwards every intrinsic is frozen: nothing that a call does can be seen by a later one.
(function (log) {
  "use strict";
  const { parse, stringify } = JSON;
  const { freeze, getPrototypeOf, getOwnPropertyDescriptor, defineProperty, preventExtensions } = Object;
  const { ownKeys, apply } = Reflect;
  const source = Function.prototype.toString;
  const wellFormed = String.prototype.toWellFormed;
  const text = (value) => apply(wellFormed, String(value), []);

  const show = (value) => {
    if (typeof value === "string") return value;
    if (value instanceof Error) return value.stack ? `${value}\n${value.stack}` : String(value);
    if (typeof value === "object" && value !== null) {
      try {
        return stringify(value);
      } catch {
        return String(value);
      }
    }
    return String(value);
  };
  const logger = (level) => (...parts) => {
    let line = "";
    for (let i = 0; i < parts.length; i++) line += (i ? " " : "") + show(parts[i]);
    log(level, text(line));
  };
  const levels = { debug: "debug", trace: "debug", log: "info", info: "info", warn: "warn", error: "error" };
  const contextLog = logger("info");
  globalThis.console = {};
  for (const name of ownKeys(levels)) {
    globalThis.console[name] = logger(levels[name]);
    contextLog[name] = logger(levels[name]);
  }

  // What could carry state or code from one call to the next: global lexical bindings (through `eval` and the
  // function constructors), callbacks that outlive a call, and setters of the context itself.
  delete globalThis.eval;
  delete globalThis.FinalizationRegistry;
  delete globalThis.WeakRef;
  delete Error.prepareStackTrace;
  delete Error.stackTraceLimit;
  const samples = [
    function () {}, function* () {}, async function () {}, async function* () {},
  ];
  for (const sample of samples) {
    const proto = getPrototypeOf(sample);
    const refused = { Function() { throw new TypeError("code cannot be made from strings here"); } }.Function;
    refused.prototype = proto;
    defineProperty(proto, "constructor", { value: refused, writable: true, configurable: true });
    if (proto === Function.prototype) globalThis.Function = refused;
  }

  // A frozen prototype would forbid `error.name = …` on its instances ("override mistake"); an accessor does not.
  const overridable = (target, keys) => {
    for (const key of keys) {
      const found = getOwnPropertyDescriptor(target, key);
      if (!found || !("value" in found) || !found.configurable) continue;
      const { value } = found;
      defineProperty(target, key, {
        get() { return value; },
        set(replacement) {
          if (this === target) throw new TypeError(`${String(key)} of an intrinsic cannot be changed`);
          defineProperty(this, key, { value: replacement, writable: true, enumerable: true, configurable: true });
        },
        enumerable: found.enumerable, configurable: true,
      });
    }
  };
  const errors = [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError, AggregateError];
  overridable(Object.prototype, ownKeys(Object.prototype));
  overridable(Function.prototype, ["constructor", "toString", "bind", "call", "apply", "name", "length"]);
  for (const type of errors) overridable(type.prototype, ["constructor", "name", "message", "toString"]);
  for (const type of [Array, Map, Set, Promise, Date, RegExp, String, Number]) {
    overridable(type.prototype, ["constructor", "toString", "valueOf", "toJSON", "then", "length"]);
  }

  const seen = new Set();
  const harden = (root) => {
    const open = [root];
    while (open.length) {
      const value = open.pop();
      if ((typeof value !== "object" && typeof value !== "function") || value === null || seen.has(value)) continue;
      seen.add(value);
      open.push(getPrototypeOf(value));
      for (const key of ownKeys(value)) {
        const found = getOwnPropertyDescriptor(value, key);
        if ("value" in found) open.push(found.value);
        else open.push(found.get, found.set);
      }
      if (ArrayBuffer.isView(value)) preventExtensions(value);
      else freeze(value);
    }
  };
  const hidden = [
    ...samples, (function* () {})(), (async function* () {})(), [].values(), new Map().entries(), new Set().values(),
    ""[Symbol.iterator](), "".matchAll(/a/g), [].values().map((x) => x), Iterator.from({ next() {} }), contextLog,
  ];
  for (const value of hidden) harden(value);
  harden(globalThis);

  const thenable = (value) => value !== null && typeof value === "object" && typeof value.then === "function";
  const settled = (value) => (thenable(value) ? Promise.resolve(value) : value);
  return {
    // Code that closes the wrapper around it makes something else than one function of exactly this text.
    isWhole(made, text) {
      return typeof made === "function" && apply(source, made, []) === text;
    },
    // Every call builds the code's top level anew, so that its own variables do not survive either.
    invoke(factory, input, context) {
      const called = factory();
      if (typeof called !== "function") return log("undefined", "");
      const given = parse(context);
      given.log = contextLog;
      return settled(called(parse(input), given));
    },
    evaluate(factory, scope) {
      return settled(factory(parse(scope)));
    },
    // [kind, code, message, details, stack, retryable, retryAfter]; kind is what the engine itself threw.
    describe(thrown) {
      if ((typeof thrown !== "object" && typeof thrown !== "function") || thrown === null) {
        const shown = typeof thrown === "string" ? thrown : `${String(thrown)} was thrown`;
        return ["", "", text(shown), "", "", true, -1];
      }
      const read = (name) => { try { return thrown[name]; } catch { return undefined; } };
      const [name, message, code, stack, wait] = ["name", "message", "code", "stack", "retryAfter"].map(read);
      let kind = "";
      if (name === "InternalError" && message === "out of memory") kind = "memory";
      else if (name === "InternalError" && message === "string too long") kind = "memory";
      else if (name === "RangeError" && message === "invalid string length") kind = "memory";
      else if (message === "Maximum call stack size exceeded" || message === "stack overflow") kind = "stack";
      let details = "";
      try {
        details = stringify(read("details")) ?? "";
      } catch {
        details = "";
      }
      const known = typeof name === "string" && name !== "" && name !== "Error";
      const told = typeof message === "string" && message !== "";
      let shown = told ? message : show(thrown);
      if (told && known) shown = `${name}: ${message}`;
      // An error without a message shows its name, not its stack: that has a place of its own.
      else if (!told && thrown instanceof Error) shown = known ? name : "Error";
      return [
        kind,
        typeof code === "string" ? text(code) : "",
        text(shown),
        details,
        typeof stack === "string" ? text(stack) : "",
        read("retryable") !== false,
        typeof wait === "number" && wait >= 0 ? wait : -1,
      ];
    },
  };
})
