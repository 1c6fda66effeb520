//! The engine on any Linux NIC, without hugepages and without taking the NIC from the kernel: AF_XDP where the kernel has it, af_packet
//! where it has not. Both fill the same packet memory ([`Store`]), so that one backend ([`Sockets`]) serves a node whose ports differ.

mod bpf;
mod error;
mod frame;
mod interface;
mod memory;
mod packet;
mod partial;
mod pool;
mod port;
mod queue;
mod split;
mod view;
mod xsk;

pub use error::Error;
pub use frame::{Frame, FramePool};
pub use interface::{DriverInfo, Interface};
pub use pool::{Seated, Store};
pub use port::{Health, Opened, Port, Tier, Wish, bind_xdp, open_packet, open_xdp};
pub use queue::{RxQueue, Sockets, TxQueue};
pub use split::OnLoss;
