//! PostgreSQL against the suites that every backend passes.
#![allow(clippy::unwrap_used)]

#[path = "support/postgres.rs"]
mod support;

mod definitions {
    use super::support::Schema;
    troupe_ports::definition_store_conformance!(Schema::new());
}

mod visibility {
    use super::support::Schema;
    troupe_ports::visibility_store_conformance!(Schema::new());
}

mod epochs {
    use super::support::Schema;
    troupe_ports::epoch_authority_conformance!(Schema::new());
}

mod audit {
    use super::support::Schema;
    troupe_ports::audit_log_conformance!(Schema::new());
}

mod keys {
    use super::support::Schema;
    troupe_ports::api_key_store_conformance!(Schema::new());
}
