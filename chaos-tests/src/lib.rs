//! troupe-chaos
