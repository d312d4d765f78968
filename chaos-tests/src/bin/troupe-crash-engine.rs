//! An engine process for the crash test: it runs until it is killed.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let argument = std::env::args()
        .nth(1)
        .context("this program is started by the crash test")?;
    let orders = serde_json::from_str(&argument).context("the orders do not parse")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(troupe_chaos::crash::child::run(orders))
}
