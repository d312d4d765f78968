//! troupe-executors
