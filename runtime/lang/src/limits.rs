//! Every limit of this crate, in one place.

/// Longest source of one expression, in bytes.
pub const EXPRESSION_SOURCE_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of an expression that is parsed here.
pub const EXPRESSION_DEPTH_MAX: usize = 100;
/// Evaluation steps of one expression: syntax nodes visited and elements touched.
pub const EXPRESSION_STEPS_MAX: u64 = 1_000_000;
/// Bytes that one evaluation may allocate, counted without credit for what it drops.
pub const EXPRESSION_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Longest string that an expression may build, in bytes.
pub const EXPRESSION_STRING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Deepest nesting of a value that an expression may build or return; deeper JSON cannot be read again.
pub const VALUE_DEPTH_MAX: usize = 120;
/// Longest string that may contain `{{ … }}`, in bytes.
pub const TEMPLATE_SOURCE_BYTES_MAX: usize = 1024 * 1024;
/// `{{ … }}` parts of one node's data.
pub const TEMPLATE_PARTS_MAX: usize = 10_000;
/// Longest Jinja source, in bytes.
pub const JINJA_SOURCE_BYTES_MAX: usize = 256 * 1024;
/// Longest Jinja output, in bytes.
pub const JINJA_OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Fuel of one Jinja rendering: an instruction or 64 bytes a unit. It bounds memory, and time where a filter's work grows
/// with its bytes; `trim` of many characters does not, so templates are rendered only where a clock can end them.
pub const JINJA_FUEL: u64 = 500_000;
/// Largest JSON Schema, in bytes of compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a JSON Schema.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Steps of one validation, estimated before it starts.
pub const SCHEMA_STEPS_MAX: u64 = 5_000_000;
/// Violations that one validation reports; the rest is counted as truncated.
pub const SCHEMA_VIOLATIONS_MAX: usize = 32;
/// Longest text of one violation, in bytes.
pub const SCHEMA_VIOLATION_BYTES_MAX: usize = 512;
/// Backtracking steps of one regular expression against one string.
pub const REGEX_BACKTRACK_MAX: usize = 10_000;
/// Memory of one compiled regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;
/// Longest function code, in bytes.
pub const FUNCTION_CODE_BYTES_MAX: usize = 1024 * 1024;
/// Longest cron pattern, in bytes.
pub const CRON_BYTES_MAX: usize = 256;
