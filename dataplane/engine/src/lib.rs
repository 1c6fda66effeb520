//! The packet engine.
#![forbid(unsafe_code)]
pub mod hash;
pub mod io;
pub mod reason;
pub mod tables;
