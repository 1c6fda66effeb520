//! The primitives, exchanged for loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

#[cfg(loom)]
pub(crate) fn pause() {
    loom::thread::yield_now();
}
#[cfg(not(loom))]
pub(crate) fn pause() {
    std::thread::yield_now();
}
