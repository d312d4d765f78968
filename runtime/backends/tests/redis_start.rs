//! What is asked of a server before it is trusted, and what is fixed when a store is created.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::redis::{RedisServer, opened, options};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use troupe_backends::{RedisDurability, RedisOpenError, RedisOptions, RedisStore};
use troupe_ports::StateStore;

use RedisDurability::{Relaxed, Strict, Volatile};

async fn refused(options: &RedisOptions) -> RedisOpenError {
    match RedisStore::open(options).await {
        Err(error) => error,
        Ok(_) => panic!("expected a refusal"),
    }
}

#[tokio::test]
async fn a_server_must_keep_what_the_durability_promises() {
    let server = RedisServer::start(&[]);
    for asked in [Strict, Relaxed] {
        let error = refused(&options(&server, asked)).await;
        assert_eq!(error.code(), "REDIS_NOT_DURABLE");
        assert!(error.to_string().contains("appendonly yes"), "{error}");
        assert!(!error.is_passing());
    }
    opened(&server, Volatile).await;

    server.command(&["CONFIG", "SET", "appendonly", "yes"]);
    let settings = [
        ("always", [true, true]),
        ("everysec", [false, true]),
        ("no", [false, false]),
    ];
    for (appendfsync, fits) in settings {
        server.command(&["CONFIG", "SET", "appendfsync", appendfsync]);
        for (asked, fits) in [Strict, Relaxed].into_iter().zip(fits) {
            match RedisStore::open(&options(&server, asked)).await {
                Ok(_) => assert!(fits, "{asked:?} with {appendfsync}"),
                Err(error) => {
                    assert!(!fits, "{asked:?} with {appendfsync}: {error}");
                    assert_eq!(error.code(), "REDIS_NOT_DURABLE");
                    assert!(error.to_string().contains("Set `appendfsync"), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn syncs_that_pause_for_a_rewrite_are_not_strict() {
    let server = RedisServer::start(&["appendonly yes", "appendfsync always", "no-appendfsync-on-rewrite yes"]);
    let error = refused(&options(&server, Strict)).await;
    assert_eq!(error.code(), "REDIS_NOT_DURABLE");
    assert!(error.to_string().contains("no-appendfsync-on-rewrite no"), "{error}");
    opened(&server, Relaxed).await;
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_whatever_the_durability() {
    let server = RedisServer::start(&["maxmemory-policy allkeys-lru"]);
    for asked in [Strict, Relaxed, Volatile] {
        let error = refused(&options(&server, asked)).await;
        assert_eq!(error.code(), "REDIS_EVICTS");
        assert!(error.to_string().contains("noeviction"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_hides_its_settings_needs_a_word_for_strict_durability() {
    let server = RedisServer::start(&["appendonly yes", "appendfsync always", "rename-command CONFIG \"\""]);
    let error = refused(&options(&server, Strict)).await;
    assert_eq!(error.code(), "REDIS_NOT_DURABLE");
    assert!(error.to_string().contains("settings_vouched"), "{error}");
    let vouched = RedisOptions {
        settings_vouched: true,
        ..options(&server, Strict)
    };
    assert!(RedisStore::open(&vouched).await.is_ok());
    opened(&server, Relaxed).await;

    // What can be seen without CONFIG is seen.
    let server = RedisServer::start(&["rename-command CONFIG \"\""]);
    let vouched = RedisOptions {
        settings_vouched: true,
        ..options(&server, Strict)
    };
    assert_eq!(refused(&vouched).await.code(), "REDIS_NOT_DURABLE");
}

#[tokio::test]
async fn settings_are_asked_again_of_a_server_that_comes_back() {
    let mut server = RedisServer::durable();
    let store = opened(&server, Strict).await;
    let lease = Duration::from_secs(60);
    store.acquire(troupe_core::ShardId(0), "a", lease).await.unwrap();
    server.kill();
    server.set(&["appendonly yes", "appendfsync no"]);
    server.run();
    let error = loop {
        let error = store.acquire(troupe_core::ShardId(0), "a", lease).await.unwrap_err();
        if !error.to_string().contains("unknown") {
            break error;
        }
    };
    assert!(error.to_string().contains("REDIS_NOT_DURABLE"), "{error}");
}

#[tokio::test]
async fn a_login_is_used_and_a_wrong_one_told() {
    let server = RedisServer::start(&["requirepass s@crét"]);
    let error = refused(&options(&server, Volatile)).await;
    assert_eq!(error.code(), "REDIS_LOGIN", "{error}");
    let with = |login: &str| RedisOptions {
        url: format!("redis://{login}@127.0.0.1:{}", server.port),
        ..options(&server, Volatile)
    };
    assert_eq!(refused(&with(":wrong")).await.code(), "REDIS_LOGIN");
    assert!(RedisStore::open(&with(":s%40cr%C3%A9t")).await.is_ok());
    assert!(RedisStore::open(&with("default:s%40cr%C3%A9t")).await.is_ok());
    assert!(!format!("{:?}", with(":s%40cr%C3%A9t")).contains("cr%C3"));
}

/// The rights that `docs/errors/REDIS_LOGIN.md` names.
#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let server = RedisServer::start(&[
        "appendonly yes",
        "appendfsync always",
        "user limited on >word ~{troupe:* +@read +@write +@scripting +@connection +info +config|get +cluster|slots +role +time",
    ]);
    let limited = |prefix: &str| RedisOptions {
        url: format!("redis://limited:word@127.0.0.1:{}", server.port),
        prefix: prefix.to_owned(),
        ..options(&server, Strict)
    };
    let store = RedisStore::open(&limited("troupe")).await.unwrap();
    let lease = store
        .acquire(troupe_core::ShardId(0), "a", Duration::from_secs(9))
        .await;
    assert!(lease.is_ok(), "got {lease:?}");
    let error = refused(&limited("other")).await;
    assert_eq!(error.code(), "REDIS_LOGIN", "{error}");
}

/// A server of which nothing is known but what it calls its version; its port.
async fn of_version(version: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, version));
        }
    });
    port
}

/// Answers commands until the client goes.
async fn answer(mut stream: TcpStream, version: &str) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    // A command is `*`, the number of its words, and each word behind a line with its length.
    while let Some(count) = lines.next_line().await? {
        let mut words = Vec::new();
        for _ in 0..count[1..].parse::<usize>().unwrap() {
            lines.next_line().await?;
            words.extend(lines.next_line().await?);
        }
        let answer = match words[0].as_str() {
            // Which came with Redis 6.
            "HELLO" if version.starts_with('5') => {
                "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n".to_owned()
            }
            "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
            "INFO" => {
                let info = format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n");
                format!("${}\r\n{info}\r\n", info.len())
            }
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_whatever_the_durability() {
    for version in ["5.0.0", "6.2.14", "unstable"] {
        let url = format!("redis://127.0.0.1:{}", of_version(version).await);
        for asked in [Strict, Relaxed, Volatile] {
            let options = RedisOptions {
                durability: asked,
                ..RedisOptions::new(&url)
            };
            let error = refused(&options).await;
            assert_eq!(error.code(), "REDIS_TOO_OLD", "{version}: {error}");
            let told = if version.starts_with('5') {
                "5 or older"
            } else {
                version
            };
            assert!(error.to_string().contains(told), "{error}");
            assert!(!error.is_passing());
        }
    }
    // These are not, and are asked for more.
    for version in ["7.0.0", "10.1.2"] {
        let options = RedisOptions {
            durability: Volatile,
            ..RedisOptions::new(format!("redis://127.0.0.1:{}", of_version(version).await))
        };
        let error = refused(&options).await;
        assert_ne!(error.code(), "REDIS_TOO_OLD", "{version}: {error}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_passing() {
    let options = RedisOptions::new(format!("redis://127.0.0.1:{}", support::free_port()));
    let error = refused(&options).await;
    assert_eq!(error.code(), "REDIS_UNREACHABLE");
    assert!(error.is_passing());
}

#[tokio::test]
async fn options_that_make_no_sense_are_told() {
    let server = RedisServer::start(&[]);
    let urls = [
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "redis://",
        "redis://a:1,b:2",
        "redis://a/x",
        "redis://a?x=1",
        "redis+sentinel://a:1",
        "redis+cluster://a:1/3",
        "redis://%zz@a",
    ];
    for url in urls {
        let error = refused(&RedisOptions::new(url)).await;
        assert_eq!(error.code(), "REDIS_OPTIONS", "{url}: {error}");
    }
    for prefix in ["", "a{b", "a b"] {
        let options = RedisOptions {
            prefix: prefix.to_owned(),
            ..options(&server, Volatile)
        };
        assert_eq!(refused(&options).await.code(), "REDIS_OPTIONS");
    }
}

#[tokio::test]
async fn what_is_fixed_at_the_first_start_stays() {
    let server = RedisServer::start(&[]);
    let with = |shards, prefix: &str| RedisOptions {
        shards,
        prefix: prefix.to_owned(),
        ..options(&server, Volatile)
    };
    // At once, so that both may create it.
    let (seven, other) = (with(7, "one"), with(9, "one"));
    let (first, second) = tokio::join!(RedisStore::open(&seven), RedisStore::open(&other));
    let shards = first.unwrap().shards();
    assert!(shards == 7 || shards == 9);
    assert_eq!(second.unwrap().shards(), shards);
    assert_eq!(RedisStore::open(&with(99, "one")).await.unwrap().shards(), shards);
    assert_eq!(RedisStore::open(&with(5, "two")).await.unwrap().shards(), 5);

    // A creation that was interrupted is completed by the next start.
    server.command(&["HDEL", "{two:meta}", "r"]);
    server.command(&["DEL", "{two:s4}o"]);
    let completed = RedisStore::open(&with(5, "two")).await.unwrap();
    let last = completed
        .acquire(troupe_core::ShardId(4), "a", Duration::from_secs(1))
        .await;
    assert!(last.is_ok(), "got {last:?}");

    server.command(&["HSET", "{one:meta}", "f", "2"]);
    let error = refused(&with(7, "one")).await;
    assert_eq!(error.code(), "REDIS_NEWER_FORMAT");
    assert!(error.to_string().contains("newer release"), "{error}");
}
