//! The tables: which releases may use them, and what the database itself refuses.

use troupe_backends::PostgresStore;
use troupe_core::Epoch;
use troupe_ports::{DefinitionError, DefinitionStore, EpochAuthority, StoreError};

use super::support::{Schema, run};
use super::{NOW, SHARD, analysis, definition};

async fn refused(schema: &Schema) -> String {
    match PostgresStore::open(&schema.options).await {
        Err(StoreError::Damaged(why)) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_newer_release_are_refused_and_left_alone() {
    let schema = Schema::new();
    drop(schema.open().await);
    let mut connection = schema.connection().await;
    run(
        &mut connection,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'of the future', true, '', 0)",
    )
    .await;
    let why = refused(&schema).await;
    assert!(why.contains("999") && why.contains("newer release"), "{why}");
    run(&mut connection, "DELETE FROM _sqlx_migrations WHERE version = 999").await;
    drop(schema.open().await);
    run(&mut connection, "UPDATE _sqlx_migrations SET checksum = 'x'").await;
    let why = refused(&schema).await;
    assert!(why.contains("not made by a release"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_was_emptied_is_damage() {
    let schema = Schema::new();
    let store = schema.open().await;
    let mut connection = schema.connection().await;
    run(&mut connection, "DROP TABLE epoch; DROP TABLE definition").await;
    let lost = store.issued(SHARD).await;
    assert!(
        matches!(&lost, Err(StoreError::Damaged(why)) if why.contains("restore it")),
        "got {lost:?}"
    );
    let lost = store.get("orders", None).await;
    assert!(matches!(lost, Err(DefinitionError::Damaged(_))), "got {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_itself_refuses_to_change_versions_and_to_take_epochs_back() {
    let schema = Schema::new();
    let store = schema.open().await;
    store
        .put(definition("orders", "first"), analysis(), None, NOW)
        .await
        .unwrap();
    store.issue(SHARD, Epoch(4), "owner").await.unwrap();
    let mut connection = schema.connection().await;
    for (change, why) in [
        ("UPDATE definition SET definition = '{}'", "never changed"),
        ("UPDATE epoch SET epoch = 4", "would go back"),
        ("UPDATE epoch SET shard = 9", "would go back"),
    ] {
        let answer = sqlx::query(change).execute(&mut connection).await;
        let text = answer.expect_err(change).to_string();
        assert!(text.contains(why), "{change}: {text}");
    }
    assert_eq!(store.issued(SHARD).await.unwrap(), Epoch(5));
}

/// Sessions are as the store wants them, whatever the server, the database or the user have set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_other_settings_changes_nothing() {
    let mut schema = Schema::new();
    let role = format!("{}_role", schema.options.schema);
    let mut connection = schema.connection().await;
    run(
        &mut connection,
        &format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {role};
             ALTER ROLE {role} SET default_transaction_isolation = 'serializable';
             ALTER ROLE {role} SET default_transaction_read_only = on;
             ALTER ROLE {role} SET synchronous_commit = off;
             ALTER ROLE {role} SET search_path = nowhere",
            schema = schema.options.schema
        ),
    )
    .await;
    let (before, after) = schema.options.url.split_once("//").unwrap();
    let (_, server) = after.split_once('@').unwrap_or(("", after));
    schema.options.url = format!("{before}//{role}@{server}");
    // The schema is there and the user may create in it, but no other one.
    let store = schema.open().await;
    assert_eq!(store.issue(SHARD, Epoch(0), "owner").await.unwrap(), Epoch(1));
    store
        .put(definition("orders", "first"), analysis(), None, NOW)
        .await
        .unwrap();
    let mut elsewhere = schema.options.clone();
    elsewhere.schema.push_str("_other");
    let denied = PostgresStore::open(&elsewhere).await;
    assert!(
        matches!(&denied, Err(StoreError::Unavailable(why)) if why.contains("own the schema")),
        "got {denied:?}"
    );
    store.close().await;
    run(
        &mut connection,
        &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"),
    )
    .await;
}
