//! The contract between MarchProxy's programs: generated from `marchproxy/v1/*.proto`.
#![forbid(unsafe_code)]

/// Messages and services of package `marchproxy.v1`.
#[allow(missing_docs, clippy::pedantic, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("marchproxy.v1");
}

/// The encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/marchproxy.bin"));
