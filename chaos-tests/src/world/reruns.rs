//! Reruns: what `actors/src/rerun.rs` does with what a read shows.

use troupe_actors::EngineError;
use troupe_actors::execution::machine::Reply;
use troupe_core::execution::{ExecutionState, Rerun, Started, rerun};
use troupe_core::{ErrorInfo, ExecutionId, Json, KeySpace};

use super::clients::rerun_key;
use super::process::{ExecutionMessage, Respond};
use super::scenario::Act;
use super::{SHARDS, World};
use crate::crash::Record;

impl World {
    /// An execution as it stands: another one takes over what it has given.
    pub(super) fn run_again(&mut self, client: usize, request: u64, answer: Reply) {
        let reply = Respond::Client(client, request);
        let begin = match answer {
            Reply::View(state) => self.rerun_of(client, &state),
            Reply::Refused(error) => return self.refuse(reply, error),
            Reply::Started(_) | Reply::Commanded(_) | Reply::Reopened(..) => {
                return self.trouble("a read was answered with something else".into());
            }
        };
        match begin {
            Ok(Some((from, mut started))) => {
                let (id, fresh) = (started.id, false);
                self.workflows.insert(id, started.workflow.as_str().to_owned());
                let key = started.request_key.clone().unwrap_or_default();
                self.record(Record::StartAsked { key });
                let Some(process) = self.server(id.shard()) else {
                    return self.refuse(reply, EngineError::Unavailable("nobody serves the shard".into()));
                };
                match self.hand_over(process, from, &mut started) {
                    Ok(()) => {
                        let started = Box::new(started);
                        self.deliver(process, id, ExecutionMessage::Start { started, fresh, reply });
                    }
                    Err(error) => self.refuse(reply, error),
                }
            }
            // It gave up waiting, and asks again or has moved on.
            Ok(None) => {}
            Err(refusal) => self.refuse(reply, EngineError::Refused(Box::new(refusal))),
        }
    }

    /// What it starts, and the family that it takes large values over from.
    fn rerun_of(
        &self,
        client: usize,
        source: &ExecutionState,
    ) -> Result<Option<(Option<ExecutionId>, Started)>, ErrorInfo> {
        let Some((Act::Rerun(node, with_input), done)) = self.clients[client].asks() else {
            return Ok(None);
        };
        let compiled = self.plan(source.workflow.as_str());
        let plan = &compiled.plan;
        let from = plan.node_ix(node).expect("a scenario names nodes that there are");
        let planned = rerun(plan, source, plan, from, *with_input)?;
        let edited = || with_input.then(|| Json::from_trusted(r#"{"n":2,"list":[1],"ok":true}"#).into());
        let is_root = plan.node(from).entries == 0;
        let (start, given) = if is_root { (edited(), None) } else { (None, edited()) };
        let key = rerun_key(source.id, done);
        let id = ExecutionId::derived(SHARDS, KeySpace::Request, plan.workflow.as_str(), &key, 0);
        let taken_over = Rerun {
            input: given,
            ..planned.rerun
        };
        let started = Started {
            variables: source.variables.clone().into_iter().collect(),
            trigger: planned.trigger,
            rerun: Some(Box::new(taken_over)),
            request_key: Some(key),
            ..Started::of(id, plan, start.unwrap_or_else(|| source.input.clone()))
        };
        Ok(Some((source.blob_root(), started)))
    }
}
