//! Packets to backends that answer clients themselves: which lanes they are, and what route does differently for them (`BEHAVIOUR.md` 7 to 9,
//! direct modes). Nothing here runs where no service has such a mode.

use crate::burst::{Burst, Columns, Egress, Fate, Mask, Rewrite};
use crate::flow::{Addr, is_v4};
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Interface;
use crate::stage::route;

/// RFC 8200 s5: no node needs to send less over IPv6.
const LEAST_MTU_V6: u16 = 1280;

/// Octets of the header in front of a tunnelled packet, by the tunnel's family.
const IP_HEADERS: [u16; 2] = [20, 40];
/// Octets of a UDP header.
pub(super) const UDP_HEADER: u16 = 8;

/// Lanes with direct modes, and those whose backend is of another family than the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lanes {
    /// All of them.
    pub all: Mask,
    /// Those that change families.
    pub crossing: Mask,
}

/// Finds them among the active lanes.
pub fn lanes<B: PacketBuf>(burst: &Burst<B>) -> Lanes {
    let mut lanes = Lanes::default();
    for lane in burst.active.lanes() {
        let index = lane.index();
        let is_direct = burst.columns.verdict[index].rewrite.is_direct();
        let changes = burst.columns.head[index].v6 == is_v4(burst.columns.target[index]);
        lanes.all.insert_if(lane, is_direct);
        lanes.crossing.insert_if(lane, is_direct & changes);
    }
    lanes
}

/// Octets that a rewriting puts in front of the packet, and its tunnel's family.
pub fn overhead(rewrite: Rewrite, backend: Addr) -> u16 {
    let ip = IP_HEADERS[usize::from(!is_v4(backend))];
    match rewrite {
        Rewrite::Ipip => ip,
        Rewrite::Gue => ip + UDP_HEADER,
        Rewrite::None | Rewrite::Source | Rewrite::Destination | Rewrite::Both | Rewrite::Station => 0,
    }
}

/// The MTU that senders of too long packets are told.
pub fn told_mtu(columns: &Columns, lane: usize, mtu: u16) -> u16 {
    let overhead = overhead(columns.verdict[lane].rewrite, columns.target[lane]);
    match mtu.saturating_sub(overhead) {
        fits if overhead > 0 && columns.head[lane].v6 => fits.max(LEAST_MTU_V6),
        fits => fits,
    }
}

/// Whether the way found is one for this mode; then age and size. Finished with by route, a packet to a station is like any other.
pub fn judge(columns: &mut Columns, lane: usize, egress: &Egress) -> Result<(), Fate> {
    let backend = columns.target[lane];
    let rewrite = columns.verdict[lane].rewrite;
    match rewrite {
        Rewrite::Station if egress.next_hop != backend => return Err(Fate::Drop(DropReason::BackendNotOnLink)),
        Rewrite::Station => columns.verdict[lane].rewrite = Rewrite::None,
        _ => {}
    }
    let head = &columns.head[lane];
    if rewrite == Rewrite::Station {
        return match route::judge(head, egress.mtu) {
            Fate::Active => Ok(()),
            ended => Err(ended),
        };
    }
    if head.ttl <= 1 {
        return Err(Fate::Punt(PuntReason::TtlExceeded));
    }
    if usize::from(head.l3_len) + usize::from(overhead(rewrite, backend)) <= usize::from(egress.mtu) {
        return Ok(());
    }
    Err(if head.dont_fragment { Fate::Punt(PuntReason::MtuExceeded) } else { Fate::Drop(DropReason::MtuExceeded) })
}

/// The address that tunnels of a family begin at. A next hop lies in a connected prefix of its interface, so there is one.
#[inline]
pub fn source(out: &Interface, v6: bool) -> Addr {
    out.addresses.iter().map(|a| a.0).find(|&a| is_v4(a) != v6).unwrap_or_default()
}
