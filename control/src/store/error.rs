//! What can go wrong with the database, sorted by what the operator does next.

use std::fmt;

use super::types::ConfirmState;

/// Where it failed and what the database said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The database, as configured.
    pub database: String,
    /// What was being done ("open", "commit a version", ...).
    pub doing: &'static str,
    /// The database's own words.
    pub why: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} in database {}: {}", self.doing, self.database, self.why)
    }
}

/// An error of the store. Each message says what failed, why, and the next thing to try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody stored another version since the caller looked.
    #[error(
        "expected version {expected}, found version {found}: somebody else stored a version in between; \
         look at `marchctl diff` and apply again"
    )]
    VersionConflict {
        /// What the caller said it starts from; 0 = no document yet.
        expected: u64,
        /// What is stored; 0 = no document yet.
        found: u64,
    },
    /// A version waits for confirmation, so nothing else can be stored.
    #[error(
        "version {version} waits for confirmation: `marchctl confirm {version}` keeps it, `marchctl rollback` gives it up; then apply again"
    )]
    Waiting {
        /// Which.
        version: u64,
    },
    /// Nothing waits under this number.
    #[error("{}", not_waiting(*.version, *.state))]
    NotWaiting {
        /// Which was asked for; 0 = the one that waits.
        version: u64,
        /// What it is instead, if it ever had to be confirmed.
        state: Option<ConfirmState>,
    },
    /// The first version can't wait for confirmation.
    #[error(
        "confirm_within_s: this is the cluster's first version, there is none to return to; apply it without a time to confirm"
    )]
    NothingToReturnTo,
    /// The request id was used for something else.
    #[error(
        "request_id: {request_id:?} was used for another change, which became version {version}; use a new id for a new change"
    )]
    RequestReused {
        /// The id.
        request_id: String,
        /// What it led to.
        version: u64,
    },
    /// Another process holds the database locked.
    #[error("{0}; another process holds it locked: end that process (`fuser FILE` names it) or try again")]
    Busy(Cause),
    /// The database cannot be written.
    #[error(
        "{0}; it cannot be written: check owner and mode of the file and its directory, and that the file system is not read-only or full"
    )]
    ReadOnly(Cause),
    /// The file or its directory is not (or no longer) there.
    #[error(
        "{0}; the file or its directory is not there: create the directory, or put the file back from a backup and restart"
    )]
    Gone(Cause),
    /// The file is no database of ours, or damaged.
    #[error(
        "{0}; the file is damaged or not a MarchProxy database: move it away and restore a backup, or start with a new one"
    )]
    Corrupt(Cause),
    /// Anything else.
    #[error("{0}")]
    Other(Cause),
}

fn not_waiting(version: u64, state: Option<ConfirmState>) -> String {
    match (version, state) {
        (0, _) => "no version waits for confirmation; `marchctl history` shows what became of them".to_owned(),
        (version, Some(ConfirmState::Reverted)) => format!(
            "version {version} was not confirmed in time and is reverted; `marchctl history` shows by which version, \
             `marchctl rollback {version}` brings it back"
        ),
        (version, _) => format!("version {version} does not wait for confirmation; `marchctl history` lists versions"),
    }
}
