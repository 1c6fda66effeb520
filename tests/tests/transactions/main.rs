//! Transactions end to end: a real control, real nodes with traffic, and what goes wrong between them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod confirm;
mod world;
