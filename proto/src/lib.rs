//! The contract between MarchProxy's programs: generated from `marchproxy/v1/*.proto`.
//!
//! Documents ([`v1::Document`]) read and write YAML and JSON through serde, in the forms of [`forms`]. With feature `tables`, the
//! module `tables` translates the engine's `RuleTables` to [`v1::Group`]s and back.
#![forbid(unsafe_code)]

pub mod forms;
#[cfg(feature = "tables")]
pub mod tables;

/// Messages and services of package `marchproxy.v1`.
#[allow(missing_docs, clippy::pedantic, clippy::unwrap_used, clippy::large_enum_variant)]
pub mod v1 {
    tonic::include_proto!("marchproxy.v1");
}

/// The encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/marchproxy.bin"));
