//! What the engine needs from the CPU and the kernel, as safe functions that inline away. All unsafe code the engine profits
//! from lives here; the engine itself forbids it.

mod affinity;
mod features;
mod mapping;
mod memory;
mod numa;
mod prefetch;
mod slab;
mod tsc;

pub use affinity::{current_affinity, pin_current_thread, set_current_affinity};
pub use features::{features, has_feature};
pub use memory::{MemoryError, MemoryOptions, MemoryReport, Pages};
pub use numa::{NumaOutcome, node_of_core, online_nodes, prefer_memory_of};
pub use prefetch::{prefetch, prefetch_slice};
pub use slab::{SharedWords, Slab};
pub use tsc::{TscClock, tsc};
