//! The XDP side of the fallback tier: on an interface that stays the kernel's, one program sends what is ours to AF_XDP sockets and leaves
//! the rest to the kernel.
//!
//! [`Xdp`] is made once per process and holds what all interfaces share; [`Steering`] is one interface with its program, attached by link.

mod abi;
mod addresses;
mod error;
mod maps;
mod measure;
mod plan;
mod steering;
mod sys;
mod tables;
mod xdp;

pub use addresses::PortFacts;
pub use error::XdpError;
pub use measure::{Figure, measure};
pub use plan::{Balanced, MAX_RULES, Place, Plan, Why};
pub use steering::{Counter, Mode, ModeWish, OnDaemonLoss, Options, Steering};
pub use sys::Tested;
pub use xdp::{Push, Sending, Xdp};

/// Receive queues of an interface that can have sockets.
pub const MAX_QUEUES: u32 = abi::MAX_QUEUES;
