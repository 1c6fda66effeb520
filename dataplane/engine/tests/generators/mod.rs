//! Generators for the property `pipeline == Reference`: small networks, packets that meet each other in them, and pushes.
//!
//! All pools are small on purpose: flows collide, replies find sessions, neighbours answer, rules overlap.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part; tests may unwrap")]

pub mod answers;
pub mod fragments;
pub mod hostile;
pub mod mutation;
pub mod packets;
pub mod pools;
pub mod steps;
pub mod tables;
