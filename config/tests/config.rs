//! The configuration as a user meets it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use troupe_config::env::{Sets, VARIABLES};
use troupe_config::{
    AllowedHost, AllowedTarget, ClientIdentity, ConfigError, DEFAULTS, Declares, Durability, EventQueue, ExchangeType,
    NodeTypeLimits, Settings, Sources, Unroutable,
};

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("troupe.toml"), text).unwrap();
    let sources = Sources {
        directory: Some(directory.path().into()),
        ..Sources::default()
    };
    (directory, sources)
}

fn problems_of(text: &str) -> ConfigError {
    let (_directory, sources) = file(text);
    sources.loopback_only().load().unwrap_err()
}

#[test]
fn the_defaults_are_valid_and_typed_by_unit() {
    let settings = Sources::default().load().unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:7654");
    assert_eq!(settings.drain, Duration::from_secs(10));
    assert_eq!(settings.engine.node_types, NodeTypeLimits::default());
    assert_eq!(settings.sandbox.memory_bytes, 64 << 20);
    assert!(settings.sandbox.processes >= 1);
    assert!(settings.http.allow.is_empty());
}

#[test]
fn later_sources_win() {
    let (_directory, mut sources) = file("drain_ms = 1\n[sandbox]\nprocesses = 3\n[log]\nformat = 'json'\n");
    sources.environment = vec![
        ("TROUPE_SANDBOX_PROCESSES".into(), "4".into()),
        ("TROUPE_HTTP_ALLOW".into(), "127.0.0.1:9, ::1".into()),
        ("TROUPE_SERVER".into(), "http://127.0.0.1:1".into()),
        ("TROUPE_SECRET_TOKEN".into(), "x".into()),
        ("HOME".into(), "/".into()),
    ];
    let settings = sources
        .clone()
        .with_option("--drain", "drain_ms", 7_u64)
        .load()
        .unwrap();
    assert_eq!(settings.drain, Duration::from_millis(7));
    assert_eq!(settings.sandbox.processes, 4);
    assert_eq!(settings.http.allow.len(), 2);
    assert!(settings.log.json);
    assert_eq!(sources.load().unwrap().drain, Duration::from_millis(1));
}

/// A secret, or a prefix, may have nothing but digits.
#[test]
fn a_variable_for_text_stays_text() {
    let secret = "12345678901234567890123456789012";
    let sources = Sources {
        environment: vec![
            ("TROUPE_CLUSTER_SECRET".into(), secret.into()),
            ("TROUPE_STORE_PREFIX".into(), "true".into()),
        ],
        ..Sources::default()
    };
    let settings = sources.load().unwrap();
    assert_eq!(settings.cluster.secret.unwrap().expose(), secret);
    assert_eq!(settings.store.prefix, "true");
    let error = problems_of("[cluster]\nsecret = 1234567890123456789\n").to_string();
    assert!(error.contains("cluster.secret"), "{error}");
    assert!(!error.contains("1234567890"), "{error}");
}

#[test]
fn a_node_type_may_have_a_limit() {
    let (_directory, sources) = file("[engine.node_types]\nhttp = 7\n");
    let limits = sources.load().unwrap().engine.node_types;
    assert_eq!((limits.http, limits.function), (Some(7), None));
    let problem = &problems_of("[engine.node_types]\nhttp = 9_999_999\n").problems[0];
    assert_eq!(problem.key, "engine.node_types.http");
    let problem = &problems_of("[engine.node_types]\nhtpp = 1\n").problems[0];
    assert_eq!(problem.hint.as_deref(), Some("did you mean `http`?"));
}

/// Whoever sends a request again does so within a day.
#[test]
fn what_has_ended_is_kept_for_a_week_and_its_key_for_a_day_more_unless_told_otherwise() {
    let day = Duration::from_secs(24 * 3_600);
    let kept = |settings: Settings| (settings.engine.retention, settings.engine.tombstone);
    assert_eq!(kept(Sources::default().load().unwrap()), (day * 7, day));
    let told = "[engine]\nretention_ms = 0\ntombstone_ms = 172_800_000\n";
    assert_eq!(kept(settings_of(told)), (Duration::ZERO, day * 2));
    let sources = with_variables(&[
        ("TROUPE_ENGINE_RETENTION_MS", "5"),
        ("TROUPE_ENGINE_TOMBSTONE_MS", "86400000"),
    ]);
    assert_eq!(kept(sources.load().unwrap()), (Duration::from_millis(5), day));
    for (key, wrong, least) in [
        ("engine.retention_ms", "31_556_952_000_001", 0),
        ("engine.tombstone_ms", "31_556_952_000_001", 86_400_000),
        ("engine.tombstone_ms", "86_399_999", 86_400_000),
    ] {
        let problem = &problems_of(&format!("{key} = {wrong}\n")).problems[0];
        let hint = format!("give a number from {least} to 31556952000000");
        assert_eq!(
            (problem.key.as_str(), problem.hint.as_ref()),
            (key, Some(&hint)),
            "{wrong}"
        );
    }
}

/// Clients ask for 100 items at once; a store gives no page of more than 1,000.
#[test]
fn pages_are_as_long_as_clients_ask_and_no_longer_than_stores_give() {
    for length in [100, 1_000] {
        let settings = settings_of(&format!("[limits]\npage_max = {length}\n"));
        assert_eq!(settings.limits.page_max, length);
    }
    for length in [99, 1_001] {
        let problem = &problems_of(&format!("[limits]\npage_max = {length}\n")).problems[0];
        assert_eq!(problem.key, "limits.page_max");
    }
}

#[test]
fn partitions_are_few() {
    assert_eq!(Sources::default().load().unwrap().events.partitions, 0);
    let (_directory, sources) = file("[events]\npartitions = 32\n");
    assert_eq!(sources.load().unwrap().events.partitions, 32);
    let problem = &problems_of("[events]\npartitions = 33\n").problems[0];
    assert_eq!(problem.key, "events.partitions");
}

fn settings_of(text: &str) -> Settings {
    let (_directory, sources) = file(text);
    sources.load().unwrap()
}

fn with_variables(variables: &[(&str, &str)]) -> Sources {
    let variables = variables.iter();
    Sources {
        environment: variables
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
        ..Sources::default()
    }
}

/// Keys of a queue, none of its headers.
fn queue(name: &str, keys: &[&str]) -> EventQueue {
    EventQueue {
        name: name.to_owned(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        headers: Vec::new(),
        dead_letter: None,
    }
}

#[test]
fn events_go_to_a_topic_exchange_that_is_declared_unless_told_otherwise() {
    let events = Sources::default().load().unwrap().events;
    assert_eq!(
        (events.exchange_type, events.declares, events.unroutable),
        (ExchangeType::Topic, Declares::All, Unroutable::Drop)
    );
    assert!(events.queues.is_empty());

    for (word, kind) in [
        ("topic", ExchangeType::Topic),
        ("fanout", ExchangeType::Fanout),
        ("direct", ExchangeType::Direct),
        ("headers", ExchangeType::Headers),
    ] {
        let events = settings_of(&format!("[events]\nexchange_type = '{word}'\n")).events;
        assert_eq!(events.exchange_type, kind, "{word}");
    }
    for (word, declares) in [
        ("all", Declares::All),
        ("queues", Declares::Queues),
        ("nothing", Declares::Nothing),
    ] {
        let sources = with_variables(&[("TROUPE_EVENTS_DECLARE", word)]);
        assert_eq!(sources.load().unwrap().events.declares, declares, "{word}");
    }
    let sources = with_variables(&[
        ("TROUPE_EVENTS_EXCHANGE_TYPE", "fanout"),
        ("TROUPE_EVENTS_UNROUTABLE", "fail"),
    ]);
    let events = sources.load().unwrap().events;
    assert_eq!(
        (events.exchange_type, events.unroutable),
        (ExchangeType::Fanout, Unroutable::Fail)
    );

    let error =
        problems_of("[events]\nexchange_type = 'x-consistent-hash'\ndeclare = true\nunroutable = 'Fail'\n").problems;
    assert_eq!(error[0].key, "events.declare", "what is no text is told first");
    let error = problems_of("[events]\nexchange_type = 'hash'\ndeclare = 'none'\nunroutable = 'Fail'\n").problems;
    let told: Vec<(&str, &str)> = error
        .iter()
        .map(|problem| (problem.key.as_str(), problem.hint.as_deref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "events.exchange_type",
                "use \"topic\" or \"fanout\" or \"direct\" or \"headers\""
            ),
            ("events.declare", "use \"all\" or \"queues\" or \"nothing\""),
            ("events.unroutable", "use \"drop\" or \"fail\""),
        ]
    );
    let problem = &problems_of("[events]\nexchange_type = 'direct'\npartitions = 4\n").problems[0];
    assert_eq!(problem.key, "events.partitions");
}

#[test]
fn queues_are_tables_in_the_file_and_in_the_environment() {
    let text = "
        [[events.queues]]
        name = 'billing'
        keys = ['*.execution.completed', '*.execution.failed']
        dead_letter = 'billing.dead'
        [[events.queues]]
        name = 'all'
        keys = ['#']
    ";
    let billing = EventQueue {
        dead_letter: Some("billing.dead".to_owned()),
        ..queue("billing", &["*.execution.completed", "*.execution.failed"])
    };
    let (_directory, mut sources) = file(text);
    assert_eq!(sources.load().unwrap().events.queues, [billing, queue("all", &["#"])]);

    let variable = |text: &str| vec![("TROUPE_EVENTS_QUEUES".to_owned(), text.to_owned())];
    sources.environment = variable("[{ name = '7', keys = ['#'] }]");
    assert_eq!(sources.load().unwrap().events.queues, [queue("7", &["#"])]);
    sources.environment = variable("");
    assert!(sources.load().unwrap().events.queues.is_empty());
    for wrong in [
        "billing",
        "[{ name = 'a' }",
        "[]\n[other]",
        "5",
        "['billing']",
        "[{ keys = ['#'] }]",
    ] {
        sources.environment = variable(wrong);
        let problem = &sources.load().unwrap_err().problems[0];
        assert!(problem.key.starts_with("events.queues"), "{wrong}: {problem}");
        assert_eq!(problem.source, "environment variable TROUPE_EVENTS_QUEUES", "{wrong}");
    }

    let problem = &problems_of("[[events.queues]]\nname = 'a'\nkey = '#'\n").problems[0];
    assert_eq!(problem.hint.as_deref(), Some("did you mean `keys`?"), "{problem}");
}

#[test]
fn a_queue_asks_for_what_its_exchange_looks_at() {
    let of =
        |kind: &str, queue: &str| format!("[events]\nexchange_type = '{kind}'\nqueues = [{{ name = 'a', {queue} }}]\n");
    let verb = BTreeMap::from([("verb".to_owned(), "failed".to_owned())]);
    for (kind, text, keys, headers) in [
        ("topic", "keys = ['a.#']", vec!["a.#"], vec![]),
        (
            "direct",
            "keys = ['a.execution.failed']",
            vec!["a.execution.failed"],
            vec![],
        ),
        ("fanout", "keys = []", vec![], vec![]),
        ("headers", "headers = [{ verb = 'failed' }]", vec![], vec![verb]),
        ("headers", "headers = [{}]", vec![], vec![BTreeMap::new()]),
    ] {
        let expected = EventQueue {
            headers,
            ..queue("a", &keys)
        };
        assert_eq!(settings_of(&of(kind, text)).events.queues, [expected], "{kind}");
    }
    let long = format!("keys = ['#'], dead_letter = '{}'", "x".repeat(201));
    for (kind, wrong) in [
        ("topic", "keys = []"),
        ("topic", "keys = ['']"),
        ("topic", "headers = [{ verb = 'failed' }]"),
        ("topic", "keys = ['#'], dead_letter = 'a'"),
        ("topic", long.as_str()),
        ("direct", "keys = ['#']"),
        ("direct", "keys = []"),
        ("fanout", "keys = ['#']"),
        ("headers", "keys = ['#']"),
        ("headers", "headers = []"),
        ("headers", "headers = [{ x-match = 'any' }]"),
    ] {
        let problem = &problems_of(&of(kind, wrong)).problems[0];
        assert_eq!(problem.key, "events.queues", "{kind}: {wrong}");
        assert!(problem.source.ends_with("troupe.toml"), "{problem}");
        assert!(problem.message.contains("`a`") && problem.hint.is_some(), "{problem}");
    }
    let twice = "[events]\nqueues = [{ name = 'a', keys = ['#'] }, { name = 'a', keys = ['b'] }]\n";
    assert!(problems_of(twice).to_string().contains("twice"));
    // What a dead letter gets needs no binding.
    let unbound = "[events]\nqueues = [{ name = 'a', keys = ['#'], dead_letter = 'b' }, { name = 'b' }]\n";
    assert_eq!(settings_of(unbound).events.queues[1], queue("b", &[]));
    // Whoever binds it knows how.
    let bound = "[events]\ndeclare = 'nothing'\nqueues = [{ name = 'a' }]\n";
    assert_eq!(settings_of(bound).events.queues, [queue("a", &[])]);
}

#[test]
fn what_consumers_reject_never_comes_back() {
    let of = |queues: &[(&str, &str)]| {
        let tables = queues.iter().map(|(name, dead_letter)| {
            format!("[[events.queues]]\nname = '{name}'\nkeys = ['#']\ndead_letter = '{dead_letter}'\n")
        });
        tables.collect::<String>()
    };
    let chain = of(&[("main", "retry"), ("other", "retry"), ("retry", "dead")]);
    assert_eq!(settings_of(&chain).events.queues.len(), 3);

    // Whoever only leads into a ring is not told, nor is any ring told twice.
    let rings = of(&[("x", "b"), ("b", "c"), ("c", "a"), ("a", "b"), ("e", "d"), ("d", "e")]);
    let problems = problems_of(&rings).problems;
    let told: Vec<(&str, &str)> = problems
        .iter()
        .map(|problem| (problem.key.as_str(), problem.message.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (
                "events.queues",
                "queue `a`: what its consumers reject comes back to it: a -> b -> c -> a"
            ),
            (
                "events.queues",
                "queue `d`: what its consumers reject comes back to it: d -> e -> d"
            ),
        ]
    );
    // Somebody else's queues may be bound by whoever knows when that ends.
    let bound = format!("[events]\ndeclare = 'nothing'\n{rings}");
    assert_eq!(settings_of(&bound).events.queues.len(), 6);
}

#[test]
fn an_operator_may_vouch_for_a_redis_that_tells_nothing() {
    assert!(!Sources::default().load().unwrap().store.settings_vouched);
    assert!(settings_of("[store]\nsettings_vouched = true\n").store.settings_vouched);
    let sources = with_variables(&[("TROUPE_STORE_SETTINGS_VOUCHED", "true")]);
    assert!(sources.load().unwrap().store.settings_vouched);
    let sources = with_variables(&[("TROUPE_STORE_SETTINGS_VOUCHED", "yes")]);
    assert_eq!(sources.load().unwrap_err().problems[0].key, "store.settings_vouched");
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

fn private_key(label: &str) -> String {
    format!("-----BEGIN {label}-----\nHIDDEN==\n-----END {label}-----\n")
}

#[test]
fn a_certificate_is_shown_to_each_server_that_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = written("client.crt", CERTIFICATE);
    let key = written("client.key", &private_key("PRIVATE KEY"));
    let shown = ClientIdentity {
        certificate_file: certificate.as_str().into(),
        key_file: key.as_str().into(),
    };

    let store = settings_of(&format!(
        "[store]\nstate = 'rediss+sentinel://h/m'\nstate_certificate_file = '{certificate}'\nstate_key_file = '{key}'\n"
    ))
    .store;
    assert_eq!(
        (store.state_identity, store.events_identity),
        (Some(shown.clone()), None)
    );
    let sources = with_variables(&[
        ("TROUPE_STORE_EVENTS", "amqps://h"),
        ("TROUPE_STORE_EVENTS_CERTIFICATE_FILE", &certificate),
        ("TROUPE_STORE_EVENTS_KEY_FILE", &key),
    ]);
    let store = sources.load().unwrap().store;
    assert_eq!((store.state_identity, store.events_identity), (None, Some(shown)));

    let wrong = |certificate: &str, key: &str, url: &str| {
        let sources = with_variables(&[
            ("TROUPE_STORE_EVENTS", url),
            ("TROUPE_STORE_EVENTS_CERTIFICATE_FILE", certificate),
            ("TROUPE_STORE_EVENTS_KEY_FILE", key),
        ]);
        let error = sources.load().unwrap_err();
        assert!(!error.to_string().contains("HIDDEN"), "{error}");
        let problem = &error.problems[0];
        assert!(
            problem.source.starts_with("environment variable TROUPE_STORE_EVENTS"),
            "{problem}"
        );
        assert!(problem.hint.is_some(), "{problem}");
        (problem.key.clone(), problem.message.clone())
    };
    let (of_certificate, of_key) = ("store.events_certificate_file", "store.events_key_file");
    assert_eq!(
        wrong(&certificate, "", "amqps://h"),
        (of_certificate.to_owned(), format!("`{of_key}` is missing"))
    );
    assert_eq!(
        wrong("", &key, "amqps://h"),
        (of_key.to_owned(), format!("`{of_certificate}` is missing"))
    );
    assert_eq!(wrong(&certificate, &key, "amqp://u:hidden@h").0, of_certificate);
    assert!(!wrong(&certificate, &key, "amqp://u:hidden@h").1.contains("hidden"));
    for url in ["redis://u:hidden@h", "redis+sentinel://u:hidden@h/m"] {
        let sources = with_variables(&[
            ("TROUPE_STORE_STATE", url),
            ("TROUPE_STORE_STATE_CERTIFICATE_FILE", &certificate),
            ("TROUPE_STORE_STATE_KEY_FILE", &key),
        ]);
        let error = sources.load().unwrap_err();
        assert!(!error.to_string().contains("hidden"), "{error}");
        let problem = &error.problems[0];
        assert_eq!(problem.key, "store.state_certificate_file", "{problem}");
        assert!(problem.message.contains("no TLS"), "{problem}");
    }
    let (blamed, message) = wrong("/nowhere/client.crt", &key, "amqps://h");
    assert_eq!(blamed, of_certificate);
    assert!(message.contains("/nowhere/client.crt cannot be read"), "{message}");
    assert_eq!(wrong(&key, &certificate, "amqps://h").0, of_certificate);
    assert_eq!(wrong(&certificate, &certificate, "amqps://h").0, of_key);
    let legacy = private_key("RSA PRIVATE KEY").replacen('\n', "\nProc-Type: 4,ENCRYPTED\n", 1);
    for text in [private_key("ENCRYPTED PRIVATE KEY"), legacy] {
        let (blamed, message) = wrong(&certificate, &written("locked.key", &text), "amqps://h");
        assert_eq!(blamed, of_key);
        assert!(message.contains("passphrase"), "{message}");
    }
    for label in ["RSA PRIVATE KEY", "EC PRIVATE KEY"] {
        let key = written("other.key", &private_key(label));
        let sources = with_variables(&[
            ("TROUPE_STORE_STATE", "rediss://h"),
            ("TROUPE_STORE_STATE_CERTIFICATE_FILE", &certificate),
            ("TROUPE_STORE_STATE_KEY_FILE", &key),
        ]);
        assert!(sources.load().unwrap().store.state_identity.is_some(), "{label}");
    }
    // Without a server nobody is shown anything: an address is missing, or one too many files was named.
    let (blamed, message) = wrong(&certificate, &key, "");
    assert_eq!(blamed, of_certificate);
    assert!(message.contains("`store.events` names no server"), "{message}");
}

#[test]
fn breakers_are_on_and_can_be_turned_off() {
    let breakers = Sources::default().load().unwrap().breakers.unwrap();
    assert_eq!((breakers.calls_min, breakers.open), (20, Duration::from_secs(5)));
    let (_directory, sources) = file("[breakers]\nenabled = false\n");
    assert_eq!(sources.load().unwrap().breakers, None);
    let problem = &problems_of("[breakers]\nfailures_percent = 0\n").problems[0];
    assert_eq!(problem.key, "breakers.failures_percent");
}

#[test]
fn a_public_address_has_a_scheme_and_a_name() {
    assert_eq!(Sources::default().load().unwrap().public_url, None);
    let (_directory, sources) = file("public_url = 'https://hooks.example.com:8443/troupe/'\n");
    let public = sources.load().unwrap().public_url.unwrap();
    assert_eq!(
        (public.as_str(), public.authority()),
        ("https://hooks.example.com:8443/troupe", "hooks.example.com:8443")
    );
    for wrong in [
        "hooks.example.com",
        "ftp://x",
        "https://",
        "https:///x",
        "https://a b",
        "https://x?y",
        "https://u@x",
    ] {
        let problem = &problems_of(&format!("public_url = '{wrong}'\n")).problems[0];
        assert_eq!(problem.key, "public_url", "{wrong}");
        assert!(problem.hint.is_some());
    }
}

#[test]
fn only_a_server_without_a_login_is_kept_to_loopback_addresses() {
    let (_directory, sources) = file("listen = '0.0.0.0:80'\n");
    assert_eq!(sources.load().unwrap().listen.to_string(), "0.0.0.0:80");
    let problem = &sources.loopback_only().load().unwrap_err().problems[0];
    assert_eq!(problem.key, "listen");
}

#[test]
fn a_bootstrap_key_is_long_comes_from_one_place_and_is_never_shown() {
    let long = "0123456789abcdef0123456789abcdeF";
    assert_eq!(Sources::default().load().unwrap().bootstrap_key, None);
    let (_directory, mut sources) = file("");
    sources.environment = vec![("TROUPE_BOOTSTRAP_KEY".into(), long.into())];
    let settings = sources.load().unwrap();
    assert_eq!(settings.bootstrap_key.as_ref().unwrap().expose(), long);
    assert!(!format!("{settings:?}").contains(long));

    let (directory, _) = file("");
    let path = directory.path().join("key");
    std::fs::write(&path, format!("{long}\n")).unwrap();
    let name = path.display().to_string();
    sources.environment = vec![("TROUPE_BOOTSTRAP_KEY_FILE".into(), name.clone())];
    assert_eq!(sources.load().unwrap().bootstrap_key.unwrap().expose(), long);
    sources.environment.push(("TROUPE_BOOTSTRAP_KEY".into(), long.into()));
    assert_eq!(sources.load().unwrap_err().problems[0].key, "bootstrap_key_file");

    for wrong in ["short", "0123456789abcdef 0123456789abcdef"] {
        let error = problems_of(&format!("bootstrap_key = '{wrong}'\n"));
        assert_eq!(error.problems[0].key, "bootstrap_key");
        assert!(
            error.problems[0].hint.is_some() && !error.to_string().contains(wrong),
            "{error}"
        );
    }
    std::fs::write(&path, "").unwrap();
    for wrong in [name.as_str(), "/nowhere/key"] {
        let problem = &problems_of(&format!("bootstrap_key_file = '{wrong}'\n")).problems[0];
        assert_eq!(problem.key, "bootstrap_key_file", "{wrong}");
    }
}

#[test]
fn a_slip_in_a_key_is_refused_with_a_hint() {
    let error = problems_of("[sandbox]\nmemory_mb = 3\n");
    let problem = &error.problems[0];
    assert!(problem.source.ends_with("troupe.toml"), "{problem:?}");
    assert_eq!(problem.key, "sandbox.memory_mb");
    assert_eq!(problem.hint.as_deref(), Some("did you mean `memory_mib`?"));
}

#[test]
fn every_value_out_of_range_is_named_at_once() {
    let error = problems_of(
        "listen = '0.0.0.0:80'\nstate_dir = ''\n[store]\ndurability = 'relaxed'\n[limits]\nnesting_max = 9999\n[http]\nallow = ['a b']\n[log]\nformat = 'xml'\n",
    );
    let keys: Vec<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "listen",
            "state_dir",
            "store.durability",
            "http.allow",
            "limits.nesting_max",
            "log.format"
        ]
    );
    assert!(
        error
            .problems
            .iter()
            .all(|problem| problem.hint.is_some() && problem.source.ends_with("troupe.toml"))
    );
}

#[test]
fn wrong_types_syntax_errors_and_missing_files_are_named() {
    let error = problems_of("drain_ms = 'long'\n");
    assert_eq!(error.problems[0].key, "drain_ms");
    assert_eq!(error.problems[0].hint.as_deref(), Some("the default is 10000"));

    let text = problems_of("listen = \n").to_string();
    assert!(text.contains("troupe.toml"), "{text}");

    let sources = Sources {
        file: Some("/nowhere/troupe.toml".into()),
        ..Sources::default()
    };
    assert!(sources.load().unwrap_err().to_string().contains("/nowhere/troupe.toml"));
}

#[test]
fn variables_name_themselves_in_errors() {
    let with = |name: &str| Sources {
        environment: vec![(name.into(), "xml".into())],
        ..Sources::default()
    };
    let error = with("TROUPE_LOG_FORMAT").load().unwrap_err();
    assert_eq!(error.problems[0].source, "environment variable TROUPE_LOG_FORMAT");
    let error = with("TROUPE_LISTENN").load().unwrap_err();
    assert_eq!(error.problems[0].hint.as_deref(), Some("did you mean TROUPE_LISTEN?"));
}

#[test]
fn every_key_has_one_variable_and_every_variable_a_key() {
    use figment::Figment;
    use figment::providers::{Format, Toml};
    let defaults = Figment::from(Toml::string(DEFAULTS));
    let mut of_variables = Vec::new();
    for variable in VARIABLES {
        let (Sets::Key(key) | Sets::List(key) | Sets::Tables(key)) = variable.sets else {
            continue;
        };
        assert!(defaults.find_value(key).is_ok(), "{}: no key {key}", variable.name);
        assert_eq!(
            variable.name,
            format!("TROUPE_{}", key.to_uppercase().replace('.', "_"))
        );
        of_variables.push(key.to_owned());
    }
    let mut section = String::new();
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let key = format!("{section}{key}");
            assert!(of_variables.contains(&key), "{key} has no variable");
        }
    }
}

#[test]
fn targets_are_read_in_every_notation() {
    let parse = |text: &str| AllowedTarget::parse(text);
    let network = |address: &str, bits| AllowedHost::Network(address.parse().unwrap(), bits);
    assert_eq!(
        parse("127.0.0.1:8080"),
        Some(AllowedTarget {
            host: network("127.0.0.1", 32),
            port: Some(8080)
        })
    );
    assert_eq!(
        parse("10.0.0.0/8"),
        Some(AllowedTarget {
            host: network("10.0.0.0", 8),
            port: None
        })
    );
    assert_eq!(
        parse("::1"),
        Some(AllowedTarget {
            host: network("::1", 128),
            port: None
        })
    );
    assert_eq!(
        parse("[::1]:80"),
        Some(AllowedTarget {
            host: network("::1", 128),
            port: Some(80)
        })
    );
    assert_eq!(
        parse("Db.Local:5432"),
        Some(AllowedTarget {
            host: AllowedHost::Name("db.local".into()),
            port: Some(5432)
        })
    );
    for text in ["127.0.0.1:8080", "10.0.0.0/8", "[::1]:80", "db.local", "db.local:5432"] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    for wrong in [
        "",
        "a b",
        "10.0.0.0/33",
        "10.0.0.0/8:443",
        "host:port",
        "http://x",
        "1.2.3.4:99999",
    ] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

#[test]
fn servers_of_the_stores_are_given_by_their_addresses_and_no_password_is_shown() {
    let (_directory, mut sources) =
        file("[store]\nstate = 'redis://u:hidden@10.0.0.1:6379/2?sentinel_password=hidden'\ndurability = 'relaxed'\n");
    sources.environment = vec![("TROUPE_STORE_EVENTS".into(), "amqp://guest:hidden@127.0.0.1/%2f".into())];
    let store = sources.load().unwrap().store;
    let state = store.state.clone().unwrap();
    assert_eq!(state.to_string(), "redis://10.0.0.1:6379/2");
    assert!(state.expose().contains("u:hidden@"));
    assert_eq!(store.durability, Durability::Relaxed);
    assert!(!format!("{store:?}").contains("hidden"), "{store:?}");

    let error = problems_of(
        "[store]\nstate = 'postgres://u:hidden@h'\ndefinitions = 'postgres://'\nevents = 'h:5672'\nprefix = 'A-b'\ndurability = 'lax'\n",
    );
    let keys: Vec<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "store.state",
            "store.definitions",
            "store.events",
            "store.durability",
            "store.prefix"
        ]
    );
    assert!(!error.to_string().contains("hidden"), "{error}");
}

#[test]
fn a_login_that_would_be_taken_for_something_else_is_refused_and_not_shown() {
    for (key, url) in [
        ("state", "redis://:Left/Right@h:6379"),
        ("state", "redis://:Left?Right@h:6379"),
        ("state", "redis://u:Left@Right/Right@h"),
        ("state", "redis+sentinel://u:1/Right@h/master"),
        ("definitions", "postgres://u:Left/Right@h/db"),
        ("definitions", "postgres://h/db?user=Left&password=Right@Right"),
        ("events", "amqp://u:1/Right@h/%2f"),
        // Of another kind, and refused for that.
        ("events", "redis://:Left/Right@h"),
    ] {
        let problem = &problems_of(&format!("[store]\n{key} = '{url}'\n")).problems[0];
        assert_eq!(problem.key, format!("store.{key}"));
        let told = format!("{} {:?}", problem.message, problem.hint);
        assert!(!told.contains("Left") && !told.contains("Right"), "{told}");
        let is_of_the_kind = !told.contains("is no address");
        assert_eq!(is_of_the_kind, told.contains("%2F") && told.contains("%3F"), "{told}");
    }
    for (key, url) in [
        ("state", "redis://:p%2Fw%3F@h:6379/2"),
        ("state", "redis://:p@ss#word@h:6379/2"),
        ("state", "redis+sentinel://u:p@h:26379/master?sentinel_password=a@b"),
        ("definitions", "postgres://u:p@/db?host=/run/postgresql"),
        ("definitions", "postgres://%2Frun%2Fpostgresql/db"),
        ("events", "amqp://u:p@h/%2f?heartbeat=3"),
    ] {
        let (_directory, sources) = file(&format!("[store]\n{key} = '{url}'\n"));
        let store = sources.load().unwrap().store;
        let given = [store.state, store.definitions, store.events];
        let given: Vec<&str> = given.iter().flatten().map(|url| url.expose()).collect();
        assert_eq!(given, [url]);
    }
}

#[test]
fn an_address_with_a_login_is_not_shown_where_it_may_have_none() {
    for (text, key) in [
        ("public_url = 'https://u:hidden@x'\n", "public_url"),
        ("[cluster]\naddress = 'http://u:hidden@x'\n", "cluster.address"),
        ("[http]\nallow = ['http://u:hidden@x']\n", "http.allow"),
    ] {
        let problem = &problems_of(text).problems[0];
        assert_eq!(problem.key, key);
        assert!(!problem.message.contains("hidden"), "{}", problem.message);
    }
}
