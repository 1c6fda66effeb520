//! af_packet: TPACKET_V3 rings, on any interface. Received packets are copied out of the kernel's blocks and sent ones into its slots,
//! one copy each way.

mod rx;
mod socket;
mod tx;

pub(crate) use rx::PacketRx;
pub(crate) use socket::{Fanout, PacketSocket, Promiscuity, option_of, read_option};
pub(crate) use tx::PacketTx;
