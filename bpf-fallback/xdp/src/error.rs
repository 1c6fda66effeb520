//! What may go wrong, in words for an operator.

use std::io;
use std::path::PathBuf;

/// Why XDP can't be had.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The process may not.
    #[error(
        "the kernel refuses BPF programs of this process ({reason}): it needs root or CAP_BPF and CAP_NET_ADMIN, and a kernel that is not \
         locked down (/sys/kernel/security/lockdown)"
    )]
    NotAllowed {
        /// The kernel's answer.
        reason: String,
    },
    /// It is no program for this kernel.
    #[error("the kernel does not take the XDP program ({reason}); 5.15 or newer is needed. {said}")]
    NotLoaded {
        /// The kernel's answer.
        reason: String,
        /// What libbpf and the verifier said about it.
        said: String,
    },
    /// Somebody else's program is there.
    #[error(
        "interface {ifindex}: an XDP program is attached already: {program} (id {id}, {mode}); one interface has one, so detach that \
         (ip link set dev IF xdp off) or choose af_packet"
    )]
    Busy {
        /// The interface.
        ifindex: u32,
        /// The program's name.
        program: String,
        /// The program's number.
        id: u32,
        /// How it is attached.
        mode: &'static str,
    },
    /// No such interface in this network namespace, or it has just gone.
    #[error("interface {ifindex} does not exist in this network namespace")]
    NoInterface {
        /// The interface.
        ifindex: u32,
    },
    /// It can't be attached in the way that was asked for.
    #[error("interface {ifindex}: the XDP program can't be attached ({tried})")]
    NotAttached {
        /// The interface.
        ifindex: u32,
        /// What was tried, and the kernel's answers.
        tried: String,
    },
    /// The program can't be made to outlive the process.
    #[error(
        "interface {ifindex}: on_daemon_loss: drop needs a BPF file system at {} ({source}): mount -t bpf bpf {}", at.display(), at.display()
    )]
    NotPinned {
        /// The interface.
        ifindex: u32,
        /// Where it was to be.
        at: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No such queue.
    #[error("queue {queue}: a port has queues 0..={} here", crate::MAX_QUEUES - 1)]
    NoSuchQueue {
        /// What was asked for.
        queue: u32,
    },
    /// A table can't be written or read.
    #[error("XDP table {table}: {source}")]
    Table {
        /// The map.
        table: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A test run failed.
    #[error("test run of the XDP program: {source}")]
    TestRun {
        /// The kernel's answer.
        source: io::Error,
    },
}

impl XdpError {
    /// Whether this is about what the machine allows, so that a test has nothing to test.
    pub fn is_about_the_machine(&self) -> bool {
        matches!(self, Self::NotAllowed { .. } | Self::NotPinned { .. })
    }
}
