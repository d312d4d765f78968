//! A node that reuses what an earlier attempt gave for the same key. See ADR 0025.

use crate::id::NodeIx;
use crate::value::{ErrorInfo, Value};

use super::effect::{Effect, OfferOutput};
use super::event::Answer;
use super::scope::Question;
use super::state::{CacheUse, Phase};
use super::step::StepError;
use super::tx::Tx;

/// What a node's cache key says.
pub(super) enum Reuse {
    /// It runs.
    Not,
    /// It completes with this, without an attempt.
    Output(Value),
    /// The key has no value.
    Failed(ErrorInfo),
}

impl Tx<'_> {
    /// Asks for an output to reuse, where the node has a cache. The answer is recorded: a replay never looks again.
    pub(super) fn reuse(&mut self, ix: NodeIx) -> Result<Reuse, StepError> {
        if self.planned(ix).cache_ttl_ms.is_none() {
            return Ok(Reuse::Not);
        }
        let input = self.state.input_of(self.plan, ix);
        let cached = match self.ask(Question::Cache(ix), Some(&input), None, None)? {
            Answer::Cached(cached) => cached,
            Answer::Valid => return Ok(Reuse::Not),
            Answer::Threw(error) => return Ok(Reuse::Failed(*error)),
            Answer::Truth { .. }
            | Answer::Value(_)
            | Answer::Variables(_)
            | Answer::Prepared { .. }
            | Answer::Kept(_)
            | Answer::NotKept(_) => return Err(StepError::Corrupt("a cache key was answered with something else")),
        };
        let used = match &cached.output {
            Some(_) => CacheUse::Hit,
            None => CacheUse::Miss(cached.key),
        };
        self.update(ix, |node| node.cache = Some(Box::new(used)));
        Ok(cached.output.map_or(Reuse::Not, Reuse::Output))
    }

    /// What an attempt gave may be reused, if the node completed with it.
    pub(super) fn offer_for_reuse(&mut self, ix: NodeIx, output: &Value) {
        let node = self.node(ix);
        if node.phase == Phase::Completed
            && let (Some(ttl_ms), Some(CacheUse::Miss(key))) = (self.planned(ix).cache_ttl_ms, node.cache.as_deref())
        {
            let (key, output) = (*key, output.clone());
            self.carry_out(Effect::OfferOutput(OfferOutput { key, ttl_ms, output }));
        }
    }
}
