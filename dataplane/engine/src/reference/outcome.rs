//! What a step of the reference results in.

use std::net::IpAddr;

use super::layer4::Tuple;
use crate::reason::{ConsumeReason, DropReason};

/// What became of one received packet by the end of the step in which it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent on, changed as need be.
    Transmitted,
    /// Ended for this reason.
    Dropped(DropReason),
    /// Was for us.
    Consumed(ConsumeReason),
    /// Waits for the next hop's MAC address or for its first fragment; a later step transmits or drops it.
    Held,
}

/// Where the specification leaves the pipeline a choice, what the pipeline chose for this packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// The session table had no room for the session that this packet asks for. How many fit is the pipeline's business.
    pub session_refused: bool,
    /// The client's tuple of the session that was evicted for it.
    pub evicted: Option<Tuple>,
    /// Address and port of the pool that the session of full NAT got that this packet asks for.
    pub nat_source: Option<(IpAddr, u16)>,
}

/// Everything that happened in one step. `received + originated + held before = transmitted + dropped + consumed + held after`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of each received packet, in order.
    pub fates: Vec<Fate>,
    /// Every frame sent, with its port, in order: forwarded ones, those made here, and those that had waited.
    pub transmitted: Vec<(usize, Vec<u8>)>,
    /// How many packets were made here, whatever became of them.
    pub originated: u64,
    /// Reason of every drop: of received packets, of packets made here and of packets that had waited.
    pub dropped: Vec<DropReason>,
    /// Reason of every consumption.
    pub consumed: Vec<ConsumeReason>,
    /// Name of a rule for each packet that counted under it.
    pub counted: Vec<String>,
    /// Every sample: the rule and the packet's tuple.
    pub sampled: Vec<(String, Tuple)>,
    /// Choices of the pipeline that the specification does not allow, in words.
    pub objections: Vec<String>,
}

impl Outcome {
    /// The fate of a step's only packet.
    pub fn fate(&self) -> Option<Fate> {
        self.fates.first().copied()
    }

    /// Counts the end of a packet.
    pub(super) fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Dropped(reason) => self.dropped.push(reason),
            Fate::Consumed(reason) => self.consumed.push(reason),
            // Transmitted frames are counted where they are sent, held ones where they are kept.
            Fate::Transmitted | Fate::Held => {}
        }
    }

    pub(super) fn transmit(&mut self, port: usize, frame: Vec<u8>) {
        self.transmitted.push((port, frame));
    }

    /// A packet made here that needs no routing.
    pub(super) fn originate(&mut self, port: usize, frame: Vec<u8>) {
        self.originated += 1;
        self.transmit(port, frame);
    }
}
