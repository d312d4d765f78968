//! The tables: which releases may use them, and what the database itself refuses.

use sqlx::PgConnection;
use troupe_backends::{PostgresOptions, PostgresStore};
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

async fn exists(connection: &mut PgConnection, schema: &Schema) -> bool {
    sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL")
        .bind(schema.options.schema.as_str())
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_goes_with_everything_in_it_and_no_other_one() {
    let schema = Schema::new();
    let neighbour = Schema {
        options: PostgresOptions {
            schema: format!("{}0", schema.options.schema),
            ..schema.options.clone()
        },
    };
    for each in [&schema, &neighbour] {
        let store = each.open().await;
        store
            .put(definition("orders", "first"), analysis(), None, NOW)
            .await
            .unwrap();
        store.close().await;
    }
    let mut connection = schema.connection().await;
    assert!(exists(&mut connection, &schema).await);
    PostgresStore::erase(&schema.options).await.unwrap();
    assert!(!exists(&mut connection, &schema).await);
    assert!(exists(&mut connection, &neighbour).await);
    assert!(neighbour.open().await.get("orders", None).await.unwrap().is_some());
    // Where there is nothing, nothing happens; and a new one is empty.
    PostgresStore::erase(&schema.options).await.unwrap();
    assert!(schema.open().await.get("orders", None).await.unwrap().is_none());
    let mut unusable = schema.options.clone();
    unusable.schema = "a; b".to_owned();
    let refused = PostgresStore::erase(&unusable).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("lower-case")),
        "got {refused:?}"
    );
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
    let url = schema.options.url.clone();
    let (before, after) = url.split_once("//").unwrap();
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
    schema.options.url = url;
}
