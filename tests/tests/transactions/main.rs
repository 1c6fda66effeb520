//! Transactions end to end: a real control, real nodes with traffic, and what goes wrong between them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod chaos;
mod confirm;
mod live;
mod relay;
mod together;
mod traffic;
mod trouble;
mod world;
