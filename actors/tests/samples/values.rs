//! What samples are made of. Nothing of it ever changes: kept bytes say the same.

use troupe_core::control::{ControlsSeen, Span};
use troupe_core::execution::{ChildId, Parent};
use troupe_core::{
    Attempt, BlobRef, Composed, ErrorInfo, ExecutionId, Json, NodeIx, Parts, Run, ShardId, Timestamp, Token, Value,
    Visit,
};

pub(crate) const SHARD: ShardId = ShardId(3);
pub(crate) const AT: Timestamp = Timestamp(1_790_000_000_000);

pub(crate) fn id(number: u64) -> ExecutionId {
    ExecutionId::fresh(SHARD, AT, number)
}

pub(crate) fn json(text: &'static str) -> Json {
    Json::from_trusted(text)
}

pub(crate) fn inline(text: &'static str) -> Value {
    Value::Inline(json(text))
}

pub(crate) fn blob() -> Value {
    let blob = BlobRef {
        hash: [0xb1; 32],
        bytes: 70_000,
    };
    blob.into()
}

/// A value of every form in one.
pub(crate) fn composed() -> Value {
    let lines = Composed::new(Parts::List(vec![inline("1"), blob()]));
    let members = vec![("id".to_owned(), inline("7")), ("lines".to_owned(), lines.into())];
    Composed::new(Parts::Object(members)).into()
}

pub(crate) fn error() -> ErrorInfo {
    ErrorInfo {
        code: "OUT_OF_STOCK".to_owned(),
        message: "there is none left".to_owned(),
        details: Some(json(r#"{"sku":"a-1"}"#)),
        stack: Some("at pay:1".to_owned()),
    }
}

pub(crate) fn token() -> Token {
    Token {
        run: Run(2),
        node: NodeIx(3),
        visit: Visit(4),
        attempt: Attempt(5),
        nonce: 6,
    }
}

pub(crate) fn child(index: u32) -> ChildId {
    ChildId {
        run: Run(1),
        node: NodeIx(2),
        visit: Visit(1),
        index,
    }
}

pub(crate) fn parent() -> Parent {
    Parent {
        execution: id(40),
        child: child(1),
        attached: true,
        depth: 2,
        root: Some(id(41)),
    }
}

pub(crate) fn span(from_ms: u64, until_ms: Option<u64>) -> Span {
    Span {
        from: AT.plus_ms(from_ms),
        until: until_ms.map(|ms| AT.plus_ms(ms)),
    }
}

pub(crate) fn seen() -> ControlsSeen {
    ControlsSeen {
        whole: true,
        nodes: vec![NodeIx(1), NodeIx(4)],
        spans: vec![span(10, Some(20)), span(30, None)],
        node_spans: vec![(NodeIx(4), vec![span(5, None)])],
    }
}
