//! The tables behind the stages: built once per push (fib, rules, services, rings) or kept by a worker (sessions, policers),
//! or written by the slow path (neighbours).

pub mod fib;
pub mod filter;
pub mod fragments;
pub mod hops;
pub mod maps;
pub mod neighbours;
pub mod policer;
pub mod ring;
pub mod rules;
pub mod services;
pub mod sessions;
