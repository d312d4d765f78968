//! troupe-telemetry
