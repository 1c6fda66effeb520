//! The XDP program in the kernel: by test runs, and attached to interfaces of namespaces that the tests make. Where the machine allows no BPF
//! the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod attach;
mod figures;
#[path = "../../../../dataplane/engine/tests/generators/mod.rs"]
mod generators;
mod judge;
mod same;
mod send;
mod steer;
mod support;
