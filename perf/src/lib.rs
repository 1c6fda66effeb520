//! The testpmd-style performance harness.
