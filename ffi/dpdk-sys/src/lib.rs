//! Raw bindings to the distribution's libdpdk (22.11 or newer), generated at build time from the headers that are installed,
//! and the C shim over what DPDK offers only as inline code (`mp_*`).
//!
//! Only `marchproxy-dpdk` may depend on this crate. Nothing generated is ever committed: the layouts of `rte_mbuf` and its
//! kin change between releases. An mbuf is opaque here; its fields are reached at the `MP_MBUF_*` offsets, which clang reads
//! from the same headers and the shim asserts.

// One module so that the silenced lints cover generated code and nothing else.
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
