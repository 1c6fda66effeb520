//! AF_XDP: frames of packet memory go to the kernel and come back by their number, without a copy of ours. Where the driver has zero-copy
//! the device itself writes into them.

mod ring;
mod rx;
mod socket;
mod tx;

pub(crate) use rx::XskRx;
pub(crate) use socket::{Umem, XskSocket};
pub(crate) use tx::XskTx;
