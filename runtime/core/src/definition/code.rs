//! The codes of problems in definitions; each has a page in `docs/errors/`.

/// Declares the codes and their list.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)+
        /// Every code of this module.
        pub const ALL: &[&str] = &[$($name),+];
    };
}

codes! {
    /// A field has the wrong JSON type.
    FIELD_TYPE,
    /// A required field is absent or empty.
    MISSING_FIELD,
    /// A field's value is outside its range or vocabulary.
    INVALID_VALUE,
    /// Nothing reads the field, which looks like a slip of another (warning).
    UNKNOWN_FIELD,
    /// The feature parses but this release cannot run it.
    UNSUPPORTED,
    /// More problems than are listed.
    TOO_MANY_PROBLEMS,
    /// The bytes are not UTF-8.
    INVALID_UTF8,
    /// The text is not JSON.
    INVALID_JSON,
    /// The text is not YAML, or uses a part of YAML that has no place in a definition.
    INVALID_YAML,
    /// An object has the same key twice.
    DUPLICATE_KEY,
    /// The text is larger than the limit.
    DEFINITION_TOO_LARGE,
    /// Lists and objects are nested deeper than the limit.
    NESTING_TOO_DEEP,
    /// The document holds more values than the limit, for instance through YAML aliases.
    TOO_MANY_VALUES,
    /// More nodes than the limit.
    TOO_MANY_NODES,
    /// More edges than the limit.
    TOO_MANY_EDGES,
    /// An id is longer than the limit.
    ID_TOO_LONG,
    /// A definition without nodes.
    NO_NODES,
    /// Two nodes have the same id.
    DUPLICATE_NODE_ID,
    /// Two edges have the same id.
    DUPLICATE_EDGE_ID,
    /// Two edges say the same.
    DUPLICATE_EDGE,
    /// Something names a node that does not exist.
    UNKNOWN_NODE,
    /// The node type does not exist.
    UNKNOWN_NODE_TYPE,
    /// The edge type does not exist.
    UNKNOWN_EDGE_TYPE,
    /// Two nodes wait for calls at the same address.
    DUPLICATE_WEBHOOK_ID,
    /// A secret stands in the definition itself (warning).
    LITERAL_SECRET,
    /// No handler of that name is registered.
    UNKNOWN_HANDLER,
    /// An expression uses a name that nothing binds (warning).
    UNKNOWN_NAME,
    /// No root reaches the node.
    UNREACHABLE_NODE,
    /// A cycle that is no natural loop.
    IRREDUCIBLE_CYCLE,
    /// A cycle that nothing leaves.
    LOOP_WITHOUT_EXIT,
    /// An exit of a loop that can be taken while the loop goes on (warning).
    LOOP_EXIT_DROPPED,
    /// A decision edge that belongs to no condition and is no default.
    DECISION_EDGE_UNMATCHED,
    /// Two conditions of a decision have the same id.
    DUPLICATE_CONDITION,
    /// The default path names no edge, target or condition.
    UNKNOWN_DEFAULT_PATH,
    /// A condition of a decision that no edge belongs to (warning).
    CONDITION_WITHOUT_EDGE,
    /// Join settings that can never be met.
    JOIN_IMPOSSIBLE,
    /// A node can fail and nothing handles it (warning).
    UNHANDLED_FAILURE,
    /// Parallel branches write the same variable (warning).
    PARALLEL_VARIABLE_WRITE,
    /// A compensation that nothing runs, or a workflow that compensates nothing (warning).
    COMPENSATION_UNUSED,
    /// A timer is longer than the execution may take (warning).
    TIMER_BEYOND_TIMEOUT,
}
