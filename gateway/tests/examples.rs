//! Every example, run by the real binary.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn run(example: &str, arguments: &[&str]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .canonicalize()
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_troupe"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TROUPE_")) {
        command.env_remove(name);
    }
    // Inputs are named as in the examples' comments, from the root of the repository.
    let arguments: Vec<String> = arguments
        .iter()
        .map(|text| text.replace("@examples", &format!("@{}", examples.display())))
        .collect();
    command
        .arg("run")
        .arg(examples.join(example))
        .args(&arguments)
        .current_dir(scratch.path())
        .output()
        .unwrap()
}

fn result(example: &str, arguments: &[&str]) -> Value {
    let output = run(example, arguments);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{example}: {talk}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{example}: {error}: {talk}"))
}

#[test]
fn an_order_is_paid_and_shipped() {
    let output = result("order.yaml", &["--demo-server", "-i", "@examples/order.input.json"]);
    assert_eq!((&output["status"], &output["total"]), (&json!("shipped"), &json!(21)));
    assert!(output["receipt"].as_str().unwrap().starts_with("rcpt-"));
}

#[test]
fn a_declined_card_takes_the_error_path() {
    let arguments = [
        "--demo-server",
        "-i",
        "@examples/order.input.json",
        "-i",
        "card=declined",
        "--json",
    ];
    let output = run("order.yaml", &arguments);
    assert_eq!(output.status.code(), Some(0));
    let ended: Value = serde_json::from_slice(
        output
            .stdout
            .split(|byte| *byte == b'\n')
            .rfind(|line| !line.is_empty())
            .unwrap(),
    )
    .unwrap();
    assert_eq!(ended["failedNodes"], json!(["charge"]));
    assert!(
        ended["output"]
            .as_str()
            .unwrap()
            .starts_with("Dear Ada Lovelace, your payment was not accepted"),
        "{ended}"
    );
}

#[test]
fn what_is_out_of_stock_is_not_charged() {
    let items = r#"items=[{"sku":"unicorn","quantity":1,"price":1}]"#;
    let output = result("order.yaml", &["--demo-server", "-i", items]);
    assert_eq!(output, "We are out of unicorn.");
}

#[test]
fn an_order_without_items_violates_its_schema() {
    let output = run("order.yaml", &["--demo-server", "-i", "items=[]"]);
    assert_eq!(output.status.code(), Some(2), "the input is wrong, not the execution");
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("SCHEMA_VIOLATION"));
}

#[test]
fn the_probe_says_which_site_is_down() {
    let output = result("uptime.yaml", &["--demo-server"]);
    assert_eq!(
        (&output["up"], output["down"].as_array().unwrap().len()),
        (&json!(1), 1)
    );
    assert!(
        output["down"][0].as_str().unwrap().starts_with("wiki is down: "),
        "{output}"
    );
}

#[test]
fn three_regions_join_into_one_load() {
    let output = result("etl.yaml", &["--demo-server"]);
    let by_region = json!({"north": 700 + 3 * 35, "south": 700 + 3 * 35, "east": 700 + 3 * 28});
    assert_eq!(output, json!({"rows": 9, "byRegion": by_region}));
}

#[test]
fn two_quotes_of_three_suffice() {
    let output = result("quotes.yaml", &["--demo-server"]);
    assert_eq!(output, json!({"supplier": "steady", "price": 97.5, "compared": 2}));
}

#[test]
fn the_report_is_written_with_sample_and_with_given_data() {
    let sample = result("report.yaml", &[]);
    let sample = sample.as_str().unwrap();
    assert!(
        sample.starts_with("# Sales in April") && sample.contains("1. north: 120"),
        "{sample}"
    );
    assert!(
        sample.trim_end().ends_with("Total: 195.5") && !sample.contains("south"),
        "{sample}"
    );
    let given = result(
        "report.yaml",
        &[
            "--input-json",
            r#"{"month":"May","sales":[{"region":"north","amount":12}]}"#,
        ],
    );
    assert!(given.as_str().unwrap().trim_end().ends_with("Total: 12"), "{given}");
}

#[test]
fn retries_succeed_at_the_third_attempt() {
    let output = result("retries.yaml", &["--demo-server"]);
    assert_eq!(output, json!({"attempts": 3, "service": "third time lucky"}));
}

#[test]
fn bookings_of_one_account_wait_for_one_another() {
    let begun = std::time::Instant::now();
    assert_eq!(result("mutex.yaml", &[]), json!(6));
    assert!(
        begun.elapsed() >= std::time::Duration::from_millis(400),
        "four of alice's"
    );
}

#[test]
fn calls_of_a_service_that_is_down_wait_until_it_is_well() {
    assert_eq!(result("breaker.yaml", &["--demo-server"]), json!(40));
}

#[test]
fn without_an_answer_the_purchase_is_given_up() {
    let arguments = [
        "--demo-server",
        "-i",
        "item=desk",
        "-i",
        "amount=900",
        "-i",
        "patienceMs=100",
    ];
    assert_eq!(result("approval.yaml", &arguments), "Nobody answered in time: no desk.");
}

#[test]
fn without_the_allow_list_loopback_is_refused() {
    let output = run("etl.yaml", &["--variable", "demo=http://127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("EGRESS_DENIED"));
}

#[test]
fn a_trip_is_booked_whole_or_given_back_in_reverse_order() {
    let booked = result("trip.yaml", &["-i", "cars=2"]);
    assert_eq!(booked["booking"], "a small car");
    let output = run("trip.yaml", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let mut lines = output.stdout.split(|byte| *byte == b'\n');
    let ended: Value = serde_json::from_slice(lines.rfind(|line| !line.is_empty()).unwrap()).unwrap();
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&json!("failed"), &json!("NO_CAR"))
    );
    let undone = |node: &str| ended["nodeResults"][node]["compensation"].clone();
    assert_eq!(
        (&undone("hotel")["status"], &undone("hotel")["output"]),
        (&json!("completed"), &json!({"refund": 300}))
    );
    assert_eq!(undone("flight")["output"], json!({"refund": 400}), "less the fee");
    assert_eq!(undone("car"), Value::Null, "it never was booked");
    assert!(undone("flight")["endTime"].as_str() <= undone("hotel")["startTime"].as_str());
    assert_eq!(ended["variables"]["refunded"], 700);
    // `run` knows this one workflow: that the other one is missing is told, not hidden.
    assert_eq!(ended["errorWorkflow"]["error"]["code"], "WORKFLOW_NOT_FOUND");
}

#[test]
fn an_error_workflow_has_a_sample_of_what_it_is_given() {
    let letter = result("trip-failed.yaml", &[]);
    assert!(letter.as_str().unwrap().contains("failed at car: NO_CAR"), "{letter}");
}
