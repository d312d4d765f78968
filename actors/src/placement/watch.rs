//! Announces this engine, looks at the others, and tells the engine's actor.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{join, join_all};
use ractor::ActorRef;
use tokio::time::{Instant, timeout};
use troupe_core::ShardId;
use troupe_core::format::agreed;
use troupe_ports::{Holder, Member, Membership, StoreError};

use super::{Look, Neighbours};
use crate::context::EngineContext;
use crate::engine::EngineMessage;

/// How often this engine looks for a shard that is its own and not here yet: that long nobody may serve it.
const LOOK_FOR_MISSING: Duration = Duration::from_millis(20);
/// Announcements a lease.
const ANNOUNCED_A_LEASE: u32 = 5;

/// After this everybody has seen what this engine sees.
pub(crate) fn notice(lease: Duration) -> Duration {
    lease / ANNOUNCED_A_LEASE * 6 / 5
}

/// Runs until the engine's actor is gone. On the thread of the leases: a busy engine is still a member.
pub(crate) async fn watch(engine: Weak<EngineContext>, register: Arc<dyn Membership>, actor: ActorRef<EngineMessage>) {
    let mut announced = None::<Instant>;
    let mut told_leaving = None::<Instant>;
    let mut is_lost = false;
    let mut others_return_until = None::<Instant>;
    let mut is_asked = false;
    loop {
        if let Some(at) = announced.filter(|_| is_asked) {
            // Many may ask at once.
            tokio::time::sleep(LOOK_FOR_MISSING.saturating_sub(at.elapsed())).await;
        }
        // The engine must not keep itself: its own thread would be its last owner.
        let Some(engine) = engine.upgrade() else { return };
        if engine.left.load(Ordering::Acquire) {
            return;
        }
        let every = engine.options.lease / ANNOUNCED_A_LEASE;
        let leaving = engine.leaving.load(Ordering::Acquire);
        let pause = if is_asked || leaving { LOOK_FOR_MISSING } else { every };
        let is_due = announced.is_none_or(|at| at.elapsed() >= pause);
        let looked = timeout(engine.options.lease, async {
            if is_due {
                everything(&engine, &*register, leaving).await
            } else {
                missing(&engine).await
            }
        });
        let looked = looked
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
        if engine.left.load(Ordering::Acquire) {
            // It left while it was being announced.
            if let Err(error) = register.leave(&engine.options.owner).await {
                tracing::debug!(%error, "the register forgets this member by itself");
            }
            return;
        }
        match looked {
            Ok(mut look) => {
                if is_due {
                    announced = Some(Instant::now());
                }
                if leaving {
                    // By then the others have heard of it, and look out for its shards.
                    look.leaves =
                        told_leaving.get_or_insert_with(Instant::now).elapsed() >= notice(engine.options.lease);
                }
                if std::mem::take(&mut is_lost) {
                    tracing::info!("the register of members answers again");
                    others_return_until = Some(Instant::now() + every * 2);
                }
                // Whoever comes first after an outage of the register finds nobody else there, and all leases expired. The others are
                // about to be announced and to renew theirs.
                let is_early = others_return_until.is_some_and(|until| Instant::now() < until);
                if !is_early && actor.send_message(EngineMessage::Looked(look)).is_err() {
                    return;
                }
            }
            Err(error) if !is_lost => {
                is_lost = true;
                tracing::warn!(%error, "the register of members does not answer: shards stay where they are");
            }
            Err(_) => {}
        }
        let is_missing = !engine.placed.borrow().missing.is_empty();
        let pause = match announced {
            _ if is_missing || leaving => LOOK_FOR_MISSING,
            Some(at) => every.saturating_sub(at.elapsed()).max(LOOK_FOR_MISSING),
            None => every / 2,
        };
        let look_again = Arc::clone(&engine.look_again);
        drop(engine);
        tokio::select! {
            () = tokio::time::sleep(pause) => is_asked = false,
            // Somebody was not where it was thought to be.
            () = look_again.notified() => is_asked = true,
        }
    }
}

/// Announces this engine and looks at all members and shards.
async fn everything(engine: &EngineContext, register: &dyn Membership, draining: bool) -> Result<Look, StoreError> {
    let options = &engine.options;
    let member = Member {
        name: options.owner.clone(),
        address: options.address.clone(),
        draining,
        release: options.release.clone(),
        reads: options.reads,
        at_most: options.format_at_most,
    };
    let (announced, epochs_answer) = join(register.announce(&member, options.lease), epochs_answer(engine)).await;
    let members = announced?;
    agree(engine, &members);
    let shards = (0..engine.parts.state.shards()).map(ShardId);
    let holders = holders(engine, shards).await?;
    let neighbours = Neighbours {
        members: members.clone(),
        holders: named(&holders).collect(),
        formats: holders.iter().map(|(shard, holder)| (*shard, holder.format)).collect(),
    };
    *engine.neighbours.write() = neighbours;
    Ok(Look {
        members,
        holders,
        leaves: false,
        epochs_answer,
    })
}

/// Whether somebody else could become the owner of a shard.
async fn epochs_answer(engine: &EngineContext) -> bool {
    let Some(epochs) = &engine.parts.epochs else {
        return true;
    };
    let issued = timeout(engine.options.lease / ANNOUNCED_A_LEASE, epochs.issued(ShardId(0)));
    matches!(issued.await, Ok(Ok(_)))
}

/// Notes which format all members write.
fn agree(engine: &EngineContext, members: &[Member]) {
    let others = members.iter().filter(|member| member.name != engine.options.owner);
    let format = agreed(engine.options.terms(), others.map(Member::terms));
    let is_news = engine
        .format
        .send_if_modified(|known| std::mem::replace(known, format) != format);
    if is_news {
        tracing::info!(format = format.0, "the format that every member reads");
    }
}

/// Looks at the shards that are this engine's own and not here yet.
async fn missing(engine: &EngineContext) -> Result<Look, StoreError> {
    let missing = engine.placed.borrow().missing.clone();
    let holders = holders(engine, missing.into_iter()).await?;
    let mut neighbours = engine.neighbours.write();
    for (shard, _) in &holders {
        neighbours.holders.remove(shard);
    }
    neighbours
        .formats
        .extend(holders.iter().map(|(shard, holder)| (*shard, holder.format)));
    neighbours.holders.extend(named(&holders));
    Ok(Look {
        members: neighbours.members.clone(),
        holders,
        leaves: false,
        // This looks for what is to be taken only.
        epochs_answer: false,
    })
}

fn named(holders: &[(ShardId, Holder)]) -> impl Iterator<Item = (ShardId, String)> {
    holders
        .iter()
        .filter_map(|(shard, holder)| Some((*shard, holder.owner.clone()?)))
}

async fn holders(
    engine: &EngineContext,
    shards: impl Iterator<Item = ShardId>,
) -> Result<Vec<(ShardId, Holder)>, StoreError> {
    let store = &engine.parts.state;
    let looks = shards.map(|shard| async move { Ok((shard, store.holder(shard).await?)) });
    join_all(looks).await.into_iter().collect()
}
