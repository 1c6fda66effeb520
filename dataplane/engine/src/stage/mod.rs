//! The stages in the order a packet meets them. Each ends where memory latency begins: it computes an address, prefetches and hands on.

pub mod balance;
pub mod direct;
mod divert;
pub mod encapsulate;
pub mod express;
pub mod finish;
pub mod flows;
pub mod fragment;
pub mod parse;
mod police;
pub mod queue;
pub mod related;
pub mod route;
pub mod rule;
pub mod session;
pub mod steer;
pub mod urpf;
