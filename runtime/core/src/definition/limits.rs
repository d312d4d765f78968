//! Bounds on what a definition may hold.

/// Bounds on a definition, each with its own error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the text in bytes (`DEFINITION_TOO_LARGE`).
    pub bytes_max: usize,
    /// Nesting of lists and objects (`NESTING_TOO_DEEP`); never above [`NESTING_HARD_MAX`].
    pub nesting_max: usize,
    /// Bytes that YAML anchors and aliases may copy (`TOO_MANY_VALUES`).
    pub expansion_bytes_max: usize,
    /// Nodes (`TOO_MANY_NODES`).
    pub nodes_max: usize,
    /// Edges (`TOO_MANY_EDGES`).
    pub edges_max: usize,
    /// Length of an id in bytes (`ID_TOO_LONG`).
    pub id_bytes_max: usize,
}

/// The deepest nesting any limit allows: recursive code further down (JSON printers, comparison, drop) stays safe.
pub const NESTING_HARD_MAX: usize = 120;

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            nesting_max: 100,
            expansion_bytes_max: 32 << 20,
            nodes_max: 100_000,
            edges_max: 300_000,
            id_bytes_max: 256,
        }
    }
}

impl Limits {
    pub(crate) fn nesting(&self) -> usize {
        self.nesting_max.min(NESTING_HARD_MAX)
    }
}
