//! Against others: two sides do the same work in turn within one run, and what counts is their ratio. Clocks and neighbours change from
//! minute to minute here; both sides of a turn see nearly the same ones.

pub mod apt;
pub mod child;
pub mod cpu;
pub mod dpdk;
pub mod examples;
pub mod l3fwd_files;
pub mod ours;
pub mod peers;
pub mod programs;
pub mod rig;
pub mod row;
pub mod table;
pub mod tables;
pub mod telemetry;
pub mod turns;

pub use row::{Alone, Build, Comparison, Missing, Row};
pub use turns::{Contest, Contests, Turns};
