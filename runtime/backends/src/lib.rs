//! troupe-backends
