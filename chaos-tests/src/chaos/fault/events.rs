//! Faults of RabbitMQ.

use anyhow::Context;

use crate::chaos::deployment::Deployment;
use crate::chaos::listener;
use crate::chaos::servers::RabbitMq;

pub(super) fn kill(rabbitmq: &mut RabbitMq) -> anyhow::Result<()> {
    rabbitmq.settle()?;
    rabbitmq.kill()
}

pub(super) fn memory_alarm(rabbitmq: &RabbitMq, is_on: bool) -> anyhow::Result<()> {
    let mark = if is_on { "0.0000001" } else { "0.6" };
    rabbitmq.control(&["set_vm_memory_high_watermark", mark]).map(drop)
}

pub(super) fn disk_alarm(rabbitmq: &RabbitMq, is_on: bool) -> anyhow::Result<()> {
    let limit = if is_on { "100000GB" } else { "50MB" };
    rabbitmq.control(&["set_disk_free_limit", limit]).map(drop)
}

pub(super) fn delete_exchange(on: &mut Deployment<'_>) -> anyhow::Result<()> {
    let (url, exchange) = (on.lab.rabbitmq.url(), on.place.exchange());
    let deleted = on
        .lab
        .runtime()
        .block_on(async move { listener::delete(&url, &exchange, None).await });
    deleted.context("the exchange cannot be deleted")
}
