//! Every error code that this crate gives, in one place. Each has a page in `docs/errors`.

/// The attempt or call ran past its deadline; worth a retry.
pub const TIMEOUT: &str = "TIMEOUT";
/// No handler of that name is registered; not worth a retry.
pub const HANDLER_NOT_FOUND: &str = "HANDLER_NOT_FOUND";
/// A Rust handler ended with an error that has no code of its own.
pub const HANDLER_FAILED: &str = "HANDLER_FAILED";
/// No executor is registered for the node's type.
pub const NODE_TYPE_UNSUPPORTED: &str = "NODE_TYPE_UNSUPPORTED";
/// A field of the node's data is missing or has the wrong shape.
pub const NODE_DATA_INVALID: &str = "NODE_DATA_INVALID";
/// A payload is a reference to a blob that the caller did not load.
pub const PAYLOAD_NOT_LOADED: &str = "PAYLOAD_NOT_LOADED";
/// The input is larger than the executor takes.
pub const INPUT_TOO_LARGE: &str = "INPUT_TOO_LARGE";
/// The output is larger than the limit.
pub const OUTPUT_TOO_LARGE: &str = "OUTPUT_TOO_LARGE";
/// The output cannot be written as JSON.
pub const OUTPUT_NOT_JSON: &str = "OUTPUT_NOT_JSON";

/// A function threw something without a code of its own.
pub const FUNCTION_ERROR: &str = "FUNCTION_ERROR";
/// The code of a function does not compile.
pub const FUNCTION_CODE_INVALID: &str = "FUNCTION_CODE_INVALID";
/// The code compiles but does not define the function that the node names.
pub const FUNCTION_NOT_DEFINED: &str = "FUNCTION_NOT_DEFINED";
/// An async function waits for something that can never happen.
pub const FUNCTION_STALLED: &str = "FUNCTION_STALLED";
/// User code allocated more than its memory limit.
pub const MEMORY_LIMIT: &str = "MEMORY_LIMIT";
/// User code recursed deeper than its stack.
pub const STACK_LIMIT: &str = "STACK_LIMIT";
/// An expression threw, or hit a limit (`details.limit`); not worth a retry.
pub const EXPRESSION_ERROR: &str = "EXPRESSION_ERROR";
/// The sandbox process died while it ran this call; worth a retry.
pub const SANDBOX_CRASHED: &str = "SANDBOX_CRASHED";
/// No sandbox process can be had; worth a retry.
pub const SANDBOX_UNAVAILABLE: &str = "SANDBOX_UNAVAILABLE";

/// The egress guard refuses the target; not worth a retry.
pub const EGRESS_DENIED: &str = "EGRESS_DENIED";
/// The request cannot be built from the node's data; not worth a retry.
pub const HTTP_REQUEST_INVALID: &str = "HTTP_REQUEST_INVALID";
/// The connection could not be made, or broke.
pub const HTTP_CONNECT: &str = "HTTP_CONNECT";
/// The TLS handshake failed; not worth a retry.
pub const HTTP_TLS: &str = "HTTP_TLS";
/// More redirects than the limit, or one that cannot be followed; not worth a retry.
pub const HTTP_REDIRECT: &str = "HTTP_REDIRECT";
/// The response broke off or cannot be decoded.
pub const HTTP_RESPONSE: &str = "HTTP_RESPONSE";
/// The token endpoint refused or gave no token.
pub const HTTP_AUTHENTICATION: &str = "HTTP_AUTHENTICATION";
/// A secret that a node names is not there; not worth a retry.
pub const SECRET_NOT_FOUND: &str = "SECRET_NOT_FOUND";
/// A template could not be rendered; not worth a retry.
pub const TEMPLATE_ERROR: &str = "TEMPLATE_ERROR";
