//! DPDK's tables, so that our own can be compared with them: each object is owned, freed on drop, and keeps EAL alive.
//!
//! Look-ups take bursts: one call for many keys, as the libraries want it.

mod acl;
mod fib;
mod hash;
mod lpm;
mod meter;
mod sched;

pub use acl::{Acl, AclKey, AclRule, Family};
pub use fib::{Fib, Fib6, FibSize};
pub use hash::{Hash, Hits};
pub use lpm::{Lpm, Lpm6};
pub use meter::{Colour, Srtcm, SrtcmRates, Step, Trtcm, TrtcmRates};
pub use sched::{Class, Place, Sched, SchedConfig};

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::eal::{Process, huge_pages_found};
use crate::errno::Errno;
use crate::heap;
use crate::log::Mark;

/// Why a table can't be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A field the table can't take.
    #[error("{table}: {field} {found}, allowed {allowed}")]
    Field {
        /// Kind of table, as DPDK calls it.
        table: &'static str,
        /// What was wrong.
        field: &'static str,
        /// What was given.
        found: String,
        /// What would do.
        allowed: String,
    },
    /// Too little memory in DPDK's heaps.
    #[error(
        "{table}: no memory for {step}, found {free_mb} MB in DPDK's heaps and {huge_pages}: \
         reserve more with scripts/hugepages/reserve, or make the table smaller"
    )]
    NoMemory {
        /// Kind of table.
        table: &'static str,
        /// What it was needed for.
        step: &'static str,
        /// Megabytes free in DPDK's heaps.
        free_mb: u64,
        /// The host's hugepages.
        huge_pages: String,
    },
    /// It was made for fewer entries.
    #[error("{table}: full at {step}; make it for more")]
    Full {
        /// Kind of table.
        table: &'static str,
        /// What did not fit.
        step: &'static str,
    },
    /// Any other reason.
    #[error("{table}: {step}: {errno}: {said}")]
    Other {
        /// Kind of table.
        table: &'static str,
        /// What was tried.
        step: &'static str,
        /// DPDK's error number.
        errno: Errno,
        /// DPDK's log.
        said: String,
    },
}

/// What all tables have: the kind for messages, and EAL.
#[derive(Debug)]
pub(crate) struct Home {
    table: &'static str,
    process: Arc<Process>,
    /// What DPDK logged from here on may explain an error.
    mark: Mark,
}

impl Home {
    fn new(table: &'static str, process: &Arc<Process>) -> Self {
        Self { table, process: process.clone(), mark: Mark::now() }
    }

    /// What a creator answered: an object, or null and a reason in `rte_errno`.
    fn made<T>(&self, raw: *mut T) -> Result<NonNull<T>, TableError> {
        NonNull::new(raw).ok_or_else(|| self.error("creation", Errno::last()))
    }

    /// A call that answers 0 or a negative error number.
    fn check(&self, step: &'static str, result: i32) -> Result<(), TableError> {
        Errno::check(result).map_err(|errno| self.error(step, errno))
    }

    #[cold]
    fn error(&self, step: &'static str, errno: Errno) -> TableError {
        let said = self.mark.since();
        match errno {
            // rte_fib6 calls it EINVAL.
            errno if errno == Errno::NoMemory || said.contains("allocation failed") => TableError::NoMemory {
                table: self.table,
                step,
                free_mb: heap::free(&self.process) >> 20,
                huge_pages: huge_pages_found(),
            },
            Errno::NoSpace => TableError::Full { table: self.table, step },
            errno => TableError::Other { table: self.table, step, errno, said },
        }
    }

    fn field(&self, field: &'static str, found: &dyn ToString, allowed: impl Into<String>) -> TableError {
        TableError::Field { table: self.table, field, found: found.to_string(), allowed: allowed.into() }
    }

    /// Refuses numbers outside a range.
    fn within(&self, field: &'static str, found: u64, least: u64, most: u64) -> Result<(), TableError> {
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(self.field(field, &found, format!("{least} to {most}")))
    }
}

/// A name nobody else in the process has: DPDK finds tables and their rings and pools by name. Short, because some of those
/// names have 25 bytes at most and a prefix.
fn unique_name(kind: &str) -> CString {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    CString::new(format!("mp-{kind}-{}", COUNT.fetch_add(1, Ordering::Relaxed))).unwrap_or_default()
}
