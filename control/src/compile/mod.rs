//! A validated document becomes one node's tables.
