//! Encrypted connections, and who is let in.

use std::path::Path;
use std::process::Command;

use troupe_backends::{PostgresOptions, PostgresStore};
use troupe_core::Epoch;
use troupe_ports::conformance::{Clause, run_all};
use troupe_ports::{EpochAuthority, StoreError};

use super::SHARD;
use super::support::{PostgresServer, Schema, run};

fn openssl(directory: &Path, arguments: &str) {
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// An authority, and a certificate of it for 127.0.0.1 only.
fn certificates(directory: &Path) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        directory,
        &format!("req -x509 {KEY} -keyout ca.key -out ca.crt -days 2 -subj /CN=test-authority"),
    );
    openssl(
        directory,
        &format!("req {KEY} -keyout server.key -out server.csr -subj /CN=server"),
    );
    std::fs::write(directory.join("names"), "subjectAltName = IP:127.0.0.1\n").unwrap();
    openssl(
        directory,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    );
}

/// A server with these certificates that takes nobody without TLS.
fn encrypted(directory: &Path) -> PostgresServer {
    let settings = ["ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key"];
    PostgresServer::prepare(&settings, |data| {
        for file in ["server.crt", "server.key"] {
            std::fs::copy(directory.join(file), data.join(file)).unwrap();
        }
        let key = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(data.join("server.key"), key).unwrap();
        let rules = "hostssl all engine 127.0.0.1/32 scram-sha-256\nhostssl all postgres 127.0.0.1/32 trust\n";
        std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_suite_passes_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let server = encrypted(directory.path());
    let options = PostgresOptions {
        ca_file: Some(directory.path().join("ca.crt")),
        ..server.options()
    };
    let mut clauses = troupe_ports::definition_store_conformance!([troupe_ports::conformance_clauses] Schema);
    clauses.extend(troupe_ports::visibility_store_conformance!([troupe_ports::conformance_clauses] Schema));
    clauses.extend(troupe_ports::epoch_authority_conformance!([troupe_ports::conformance_clauses] Schema));
    clauses.extend(troupe_ports::audit_log_conformance!([troupe_ports::conformance_clauses] Schema));
    clauses.extend(troupe_ports::api_key_store_conformance!([troupe_ports::conformance_clauses] Schema));
    run_all(&clauses, 4, async |clause: &Clause<Schema>| {
        clause.run(&Schema::on(options.clone())).await;
    })
    .await;
}

async fn refused(options: &PostgresOptions, part: &str) {
    match PostgresStore::open(options).await {
        Err(StoreError::Unavailable(why)) => {
            assert!(why.contains(part), "{why}");
            assert!(!why.contains("s3cret"), "{why}");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_whom_its_certificate_names_is_trusted_and_only_who_has_the_password_is_let_in() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let server = encrypted(directory.path());
    let mut superuser = <sqlx::PgConnection as sqlx::Connection>::connect(&server.url())
        .await
        .unwrap();
    run(
        &mut superuser,
        "CREATE ROLE engine LOGIN PASSWORD 's3cret'; GRANT CREATE ON DATABASE postgres TO engine",
    )
    .await;

    let with = |host: &str, password: &str, sslmode: &str, ca: Option<&Path>| PostgresOptions {
        url: format!(
            "postgres://engine:{password}@{host}:{}/postgres{sslmode}",
            server.port()
        ),
        ca_file: ca.map(|directory| directory.join("ca.crt")),
        ..server.options()
    };
    let trusted = Some(directory.path());
    let store = PostgresStore::open(&with("127.0.0.1", "s3cret", "", trusted))
        .await
        .unwrap();
    assert_eq!(store.issue(SHARD, Epoch(0), "owner").await.unwrap(), Epoch(1));
    let encrypted: Vec<(bool,)> =
        sqlx::query_as("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'engine'")
            .fetch_all(&mut superuser)
            .await
            .unwrap();
    assert!(
        !encrypted.is_empty() && encrypted.iter().all(|(ssl,)| *ssl),
        "{encrypted:?}"
    );
    PostgresStore::open(&with("127.0.0.1", "s3cret", "?sslmode=require", None))
        .await
        .unwrap();
    PostgresStore::open(&with("localhost", "s3cret", "?sslmode=verify-ca", trusted))
        .await
        .unwrap();

    refused(&with("127.0.0.1", "s3cret", "", Some(other.path())), "CA file must fit").await;
    refused(
        &with("127.0.0.1", "s3cret", "?sslmode=verify-full", None),
        "CA file must fit",
    )
    .await;
    refused(&with("localhost", "s3cret", "", trusted), "CA file must fit").await;
    refused(&with("127.0.0.1", "s3cret", "?sslmode=disable", None), "pg_hba.conf").await;
    refused(
        &with("127.0.0.1", "wrong-s3cret", "", trusted),
        "check the user and the password",
    )
    .await;
}
