//! What the agent knows about itself, for metrics and readiness.

use std::sync::{Arc, Mutex, PoisonError};

/// Whether the last good tables could be used at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LastGoodState {
    /// There were none.
    #[default]
    Absent,
    /// They run, or ran until newer ones came.
    Used {
        /// Their version.
        version: u64,
    },
    /// They were refused.
    Refused {
        /// Why.
        reason: String,
    },
}

/// The agent's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// Whether control's stream is up.
    pub connected: bool,
    /// Streams opened since the start.
    pub connections: u64,
    /// Why there is no stream; empty while there is one.
    pub last_error: String,
    /// Pushes that every worker runs.
    pub accepted: u64,
    /// Pushes that were refused.
    pub refused: u64,
    /// Why the last one was.
    pub last_refusal: String,
    /// The file of last good tables at the start.
    pub last_good: LastGoodState,
    /// The version that runs until somebody confirms it; 0 when there is none.
    pub unconfirmed: u64,
    /// The last version that nobody confirmed in time; 0 when there was none.
    pub reverted: u64,
    /// How often that happened.
    pub reverts: u64,
    /// Why the last good tables could not be written; empty when they could.
    pub save_error: String,
}

/// [`AgentState`], written by the agent, read by everybody.
#[derive(Clone, Debug, Default)]
pub struct SharedState(Arc<Mutex<AgentState>>);

impl SharedState {
    /// A copy.
    pub fn read(&self) -> AgentState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file of last good tables is not used.
    pub fn refuse_last_good(&self, reason: String) {
        self.update(|state| state.last_good = LastGoodState::Refused { reason });
    }

    /// Changes it.
    pub(super) fn update(&self, change: impl FnOnce(&mut AgentState)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
