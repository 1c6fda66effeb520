//! Walls, properties and end-to-end tests over several crates; see `tests/`.
#![forbid(unsafe_code)]
