//! Large values over the API: whole while they fit into an answer, else as references that can be followed.
#![allow(clippy::unwrap_used)]

mod product;

use product::{Product, Reply};
use serde_json::{Value, json};

const ECHO: &str = r#"
id: echo
name: Echo
nodes:
  - { id: first, type: function, data: { handlerId: echo } }
  - { id: second, type: function, data: { handlerId: echo, inputMapping: { length: "input.text.length", note: "input.note" } } }
edges:
  - { id: e1, source: first, target: second }
"#;

async fn started(product: &Product, input: Value) -> Reply {
    let body = json!({"input": input}).to_string();
    let wait = [("prefer", "wait=20"), ("content-type", "application/json")];
    let reply = product
        .send("POST", "/api/v1/workflows/echo/executions", &wait, &body)
        .await;
    assert_eq!(reply.status, 200, "{}", &reply.text[..reply.text.len().min(500)]);
    reply
}

#[tokio::test]
async fn large_values_are_whole_while_they_fit_and_else_references_that_can_be_followed() {
    let product = Product::with(&[ECHO]).await;
    let input = |bytes: usize| json!({"text": "x".repeat(bytes), "note": "n"});
    let get = async |path: String| product.send("GET", &path, &[], "").await;

    let reply = started(&product, input(200_000)).await;
    assert_eq!(reply.body["output"], json!({"length": 200_000, "note": "n"}));
    let id = reply.body["id"].as_str().unwrap().to_owned();
    let shown = get(format!("/api/v1/executions/{id}")).await;
    for pointer in [
        "/input",
        "/nodeResults/first/output",
        "/nodeResults/first/attempts/0/output",
    ] {
        assert_eq!(shown.body.pointer(pointer).unwrap(), &input(200_000), "{pointer}");
    }
    let node = get(format!("/api/v1/executions/{id}/nodes/first")).await;
    assert_eq!(node.body["input"], input(200_000));

    let id = started(&product, input(5_000_000)).await.body["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let shown = get(format!("/api/v1/executions/{id}")).await;
    assert!(shown.text.len() < 10_000, "{} bytes", shown.text.len());
    let reference = &shown.body["nodeResults"]["first"]["output"]["$blob"];
    assert_eq!(&shown.body["input"]["$blob"], reference, "one content, one value");
    let url = reference["url"].as_str().unwrap().to_owned();
    assert_eq!(
        url,
        format!("/api/v1/executions/{id}/values/{}", reference["hash"].as_str().unwrap())
    );
    let value = get(url.clone()).await;
    assert_eq!(value.body, input(5_000_000));
    assert_eq!(value.text.len() as u64, reference["bytes"].as_u64().unwrap());

    let (path, _) = url.rsplit_once('/').unwrap();
    for hash in ["0".repeat(64), "nothing".to_owned()] {
        let missing = get(format!("{path}/{hash}")).await;
        assert_eq!(
            (missing.status.as_u16(), &missing.body["code"]),
            (404, &json!("VALUE_NOT_FOUND"))
        );
    }
}
