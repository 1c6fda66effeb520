//! The packet engine.
#![forbid(unsafe_code)]
pub mod io;
pub mod reason;
pub mod tables;
