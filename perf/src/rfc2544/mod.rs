//! Benchmarks by RFC 2544 with the terms of RFC 1242, on the memory backend in two threads: a tester that sends at a clocked rate, and the
//! node as device under test.

pub mod device;
mod pace;
pub mod page;
pub mod report;
pub mod ring;
pub mod search;
pub mod suite;
pub mod tester;
pub mod text;
pub mod trial;
