//! Why a device could not be opened. Every variant names the interface, what was tried or found, and what to do.

use std::io;

/// A refusal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such interface here.
    #[error("interface {interface:?} does not exist in this network namespace")]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// Not Ethernet.
    #[error("interface {interface} is no Ethernet device (its hardware type is {found}), allowed: Ethernet")]
    NotEthernet {
        /// The interface.
        interface: String,
        /// ARPHRD_*.
        found: u16,
    },
    /// The interface itself carries less than the port shall.
    #[error(
        "interface {interface} has an MTU of {found}, the port's is {wanted}: ip link set {interface} mtu {wanted}, or a smaller mtu \
         in the document"
    )]
    MtuOfInterface {
        /// The interface.
        interface: String,
        /// The kernel's.
        found: u32,
        /// The port's.
        wanted: u16,
    },
    /// The tier can't carry frames that long.
    #[error("interface {interface}: mtu {wanted} is more than {tier} carries here, allowed: up to {allowed}")]
    MtuOfTier {
        /// The interface.
        interface: String,
        /// `af_xdp` or `af_packet`.
        tier: &'static str,
        /// The port's.
        wanted: u16,
        /// The most.
        allowed: u16,
    },
    /// Somebody else's XDP program is on the interface.
    #[error(
        "interface {interface} already runs an XDP program; AF_XDP needs it for itself: ip link set dev {interface} xdp off (or stop \
         what attached it), or use af_packet:{interface}"
    )]
    OtherProgram {
        /// The interface.
        interface: String,
    },
    /// The kernel refused a step.
    #[error("interface {interface}: {step}: {source}{}", hint(.source))]
    Kernel {
        /// The interface.
        interface: String,
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No memory for packets.
    #[error("packet memory: {step} of {megabytes} MB: {source}")]
    Memory {
        /// What was tried.
        step: &'static str,
        /// How much.
        megabytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// More threads than the memory was divided for.
    #[error("packet memory is divided among {seats} threads, and one more asks for some")]
    Seats {
        /// How many there are.
        seats: usize,
    },
}

/// What most likely helps against an error of the kernel.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; it takes CAP_NET_ADMIN, CAP_NET_RAW and, for AF_XDP, CAP_BPF",
        Some(libc::EOPNOTSUPP) => "; the driver can't do it",
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "; too little memory may be locked: LimitMEMLOCK=infinity, or less memory.mem_mb"
        }
        _ => "",
    }
}

impl Error {
    pub(crate) fn last(interface: &str, step: &'static str) -> Self {
        Self::Kernel { interface: interface.into(), step, source: io::Error::last_os_error() }
    }
}
