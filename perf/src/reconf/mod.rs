//! What a push does to packets under way, and how long it takes to arrive. [`line`] is the worker under its clocked load, on a thread of
//! its own; [`source`] makes the next tables, with feature `control` through validation, store and dry run; [`run`] pushes and
//! collects the rows.

pub mod line;
pub mod run;
pub mod source;
#[cfg(feature = "control")]
pub mod stored;
