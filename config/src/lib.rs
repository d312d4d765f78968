//! troupe-config
