//! What the engine needs from the CPU and the kernel, as safe functions that inline away. All unsafe code the engine profits
//! from lives here; the engine itself forbids it.

mod prefetch;
mod slab;
mod tsc;

pub use prefetch::{prefetch, prefetch_slice};
pub use slab::{SharedWords, Slab};
pub use tsc::{TscClock, tsc};
