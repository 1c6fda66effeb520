//! Walls, properties and end-to-end tests over several crates.
