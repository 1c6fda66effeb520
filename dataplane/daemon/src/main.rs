//! `marchproxy-dataplane`.
#![forbid(unsafe_code)]

fn main() {}
