//! Figures: what the program costs for a frame, by test runs in the kernel.

use std::os::fd::AsFd;

use bytemuck::{Pod, Zeroable, bytes_of};

use crate::abi;
use crate::addresses::PortFacts;
use crate::error::XdpError;
use crate::maps::{Program, put};
use crate::sys;
use crate::xdp::Xdp;

/// `struct measuring`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Measuring {
    flows: u32,
    next: u32,
    alone: u32,
    length: u32,
    /// The headers, in two since not every length of array is plain data to bytemuck.
    first: [u8; 32],
    last: [u8; 4],
}

/// Ethernet and IPv4.
const HEADERS: usize = 34;

/// What a run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What the program answered.
    pub verdict: u32,
    /// Nanoseconds a frame, the making of the frame left out but for taking off what the program put on.
    pub nanoseconds: u32,
}

/// Runs the program `repeat` times on a frame (untagged, IPv4 without options, from port facts' network) whose source is one of so many addresses
/// of 8.0.0.0/8, a power of two.
pub fn measure(xdp: &Xdp, facts: &PortFacts, frame: &[u8], flows: u32, repeat: u32) -> Result<Figure, XdpError> {
    let mut loaded = xdp.program(Program::Measure)?;
    let (port, measuring) = (loaded.take("port")?, loaded.take("measuring")?);
    for slot in 0..abi::GENERATIONS {
        put("port", &port, &slot, bytes_of(&facts.entry(abi::XDP_PASS)))?;
    }
    let mut headers = [0; HEADERS];
    headers.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
    // The checksum without the source: the sum of all else.
    headers[24..30].fill(0);
    let sum =
        headers[14..].chunks_exact(2).fold(0u32, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    headers[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let failed = |source| XdpError::TestRun { source };
    let time = |alone: u32| {
        let length = frame.len() as u32;
        let (mut first, mut last) = ([0; 32], [0; 4]);
        first.copy_from_slice(&headers[..32]);
        last[..2].copy_from_slice(&headers[32..]);
        let start = Measuring { flows: flows.next_power_of_two(), next: 0, alone, length, first, last };
        put("measuring", &measuring, &0u32, bytes_of(&start))?;
        sys::test_run(loaded.program.as_fd(), frame, repeat).map_err(failed)
    };
    let (alone, whole) = (time(1)?, time(0)?);
    Ok(Figure { verdict: whole.verdict, nanoseconds: whole.nanoseconds.saturating_sub(alone.nanoseconds) })
}
