//! What operators say of wider scopes than one execution.

use troupe_core::control::{ControlKey, Setting};

use super::EngineHandle;
use crate::controls::{self, ControlRequest, ControlSets};
use crate::error::EngineError;
use crate::request::{Command, ControlOutcome, ControlView, Learned};

impl EngineHandle {
    /// Sets a control of a wider scope, or lifts it (`setting` none). `Ok` means that it is durable and in force in every shard that is
    /// served: after a pause or a stop no attempt starts in its scope. Repeating the command completes one that failed half way.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when the key has no such setting (`INVALID_REQUEST`) or too many controls are in force
    /// (`TOO_MANY_CONTROLS`); [`EngineError::Unavailable`] when a shard was lost meanwhile: it may be in force in some.
    pub async fn control(
        &self,
        key: ControlKey,
        setting: Option<Setting>,
        command: Command,
    ) -> Result<ControlOutcome, EngineError> {
        controls::control(&self.context, key, setting, command).await
    }

    /// The controls of every shard that is served here, for other members.
    #[must_use]
    pub fn control_sets(&self) -> ControlSets {
        controls::sets(&self.context)
    }

    /// What every shard of the deployment is to be told so that a control stands so, by what `sets` know of it, which are those of all
    /// shards; none where it stands so already and the command has no id that they would have to keep.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when the key has no such setting (`INVALID_REQUEST`).
    pub fn planned_control(
        &self,
        sets: &ControlSets,
        key: ControlKey,
        setting: Option<Setting>,
        command: Command,
    ) -> Result<Option<ControlRequest>, EngineError> {
        controls::planned(&self.context, &sets.sets(), key, setting, command)
    }

    /// Tells every shard that is served here. `Ok` means durable and in force in them.
    ///
    /// # Errors
    /// As [`EngineHandle::control`].
    pub async fn learn_control(&self, request: ControlRequest) -> Result<Learned, EngineError> {
        let reset = match (&request.key, request.setting) {
            (ControlKey::Breaker(target), None) => Some(target.clone()),
            _ => None,
        };
        let learned = controls::learn(&self.context, request).await?;
        if let Some(target) = reset {
            self.context.breakers.reset(&target);
        }
        Ok(learned)
    }

    /// Attempts in a control's scope that still run here.
    #[must_use]
    pub fn draining(&self, key: &ControlKey) -> u32 {
        self.context.plans.draining(key)
    }

    /// Tells the shards that are served here what those of other members know later: somebody may have died while it was spread.
    pub async fn learn_from(&self, others: &ControlSets) {
        controls::learn_from(&self.context, others).await;
    }

    /// Takes an operator's word on a breaker back and forgets what was counted of its target: it is closed, and opens again by
    /// what fails from now on.
    ///
    /// # Errors
    /// See [`EngineHandle::control`].
    pub async fn reset_breaker(&self, target: &str, command: Command) -> Result<ControlOutcome, EngineError> {
        let outcome = self
            .control(ControlKey::Breaker(target.to_owned()), None, command)
            .await?;
        self.context.breakers.reset(target);
        Ok(outcome)
    }

    /// Controls in force, with how many attempts in their scope still run.
    #[must_use]
    pub fn controls(&self) -> Vec<ControlView> {
        controls::controls(&self.context)
    }
}
