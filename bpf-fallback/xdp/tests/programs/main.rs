//! The XDP program in the kernel: by test runs, and attached to interfaces of namespaces that the tests make. Where the machine allows no BPF
//! the tests say so and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod attach;
mod steer;
mod support;
