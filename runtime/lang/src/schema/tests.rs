#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Schema;

fn nested(depth: usize, key: &str) -> Value {
    (0..depth).fold(json!({}), |inner, _| json!({ key: inner }))
}

#[test]
fn reports_every_violation_with_its_pointer() {
    let schema = Schema::compile(&json!({
        "type": "object",
        "required": ["id"],
        "properties": {"amount": {"type": "number", "minimum": 0}, "tags": {"items": {"type": "string"}}, "mail": {"format": "email"}},
    }))
    .unwrap();
    assert_eq!(schema.validate(&json!({"id": 1, "amount": 2, "mail": "a@b.c"})), Ok(()));
    let error = schema
        .validate(&json!({"amount": -1, "tags": ["a", 2], "mail": "secret-value"}))
        .unwrap_err();
    let mut pointers: Vec<_> = error
        .violations
        .iter()
        .map(|violation| violation.pointer.as_str())
        .collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["", "/amount", "/mail", "/tags/1"]);
    assert!(!error.to_string().contains("secret-value"), "{error}");
    assert!(
        error
            .violations
            .iter()
            .any(|violation| violation.schema_pointer == "/properties/amount/minimum")
    );
    assert_eq!(error.code(), "SCHEMA_VIOLATION");
    let many = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
    let error = many.validate(&json!(vec![1; 1_000])).unwrap_err();
    assert!(error.is_truncated && error.violations.len() == crate::limits::SCHEMA_VIOLATIONS_MAX);
}

#[test]
fn refuses_what_is_no_schema_or_not_local() {
    let mut deep = json!({});
    for _ in 0..500 {
        deep = json!({"not": deep});
    }
    for schema in [
        json!({"type": "strin"}),
        json!(3),
        json!({"$ref": "https://example.com/other.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"pattern": "("}),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}}),
        json!({"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        json!({"description": "x".repeat(300_000)}),
        deep,
    ] {
        let error = Schema::compile(&schema)
            .map(|_| ())
            .expect_err(&schema.to_string()[..schema.to_string().len().min(80)]);
        assert_eq!(error.code.as_str(), "SCHEMA_INVALID");
    }
}

#[test]
fn recursive_schemas_work() {
    let tree = Schema::compile(&json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"l": {"$ref": "#/$defs/node"}, "r": {"$ref": "#/$defs/node"}}}}})).unwrap();
    assert_eq!(tree.validate(&nested(100, "l")), Ok(()));
    let mut wrong = json!(1);
    for _ in 0..50 {
        wrong = json!({"l": {}, "r": wrong});
    }
    assert_eq!(
        tree.validate(&wrong).unwrap_err().violations[0].pointer,
        "/r".repeat(50)
    );
    let meta = Schema::compile(&json!({"$ref": "https://json-schema.org/draft/2020-12/schema"})).unwrap();
    assert!(meta.validate(&json!({"type": "x"})).is_err());
    let anchored = Schema::compile(&json!({"$id": "https://e.com/root.json", "properties": {"a": {"$ref": "item.json"}, "b": {"$ref": "#thing"}}, "$defs": {"i": {"$id": "item.json", "type": "string"}, "t": {"$anchor": "thing", "type": "number"}}})).unwrap();
    assert!(anchored.validate(&json!({"a": "x", "b": 1})).is_ok());
    assert!(anchored.validate(&json!({"a": 1, "b": "x"})).is_err());
}

#[test]
fn no_schema_and_no_pattern_hangs() {
    let start = Instant::now();
    let mut definitions = serde_json::Map::new();
    for level in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        definitions.insert(format!("d{level}"), json!({"allOf": [next, next]}));
    }
    definitions.insert("d40".into(), json!({"type": "number"}));
    let doubling = Schema::compile(&json!({"$ref": "#/$defs/d0", "$defs": definitions})).unwrap();
    assert!(doubling.validate(&json!(1)).is_err());

    let by_depth = Schema::compile(&json!({"$defs": {"a": {"properties": {"x": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}}, "$ref": "#/$defs/a"})).unwrap();
    assert!(by_depth.validate(&nested(3, "x")).is_ok());
    assert!(by_depth.validate(&nested(100, "x")).is_err());

    for pattern in [
        "^(a+)+$",
        "a{1000}{1000}{1000}",
        "(a|b|[c-z]{3}){1000}{1000}",
        "(\\w{1000}){1000}",
        "^(a|aa)+$",
        "^(?=(a+)+$)(a|aa)+!$",
        "(.*)*x\\1",
    ] {
        let Ok(evil) = Schema::compile(&json!({"items": {"type": "string", "pattern": pattern}})) else {
            assert!(pattern.contains("{1000}"), "{pattern}");
            continue;
        };
        let words = vec![format!("{}!", "a".repeat(5_000)); 20];
        assert!(evil.validate(&json!(words)).is_err(), "{pattern}");
        assert!(evil.validate(&json!(vec!["aaa!"; 100_000])).is_err(), "{pattern}");
    }
    let unique = Schema::compile(&json!({"uniqueItems": true})).unwrap();
    let items: Vec<_> = (0..20_000).map(|n| json!({"a": [n]})).collect();
    assert!(unique.validate(&json!(items)).is_ok());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
