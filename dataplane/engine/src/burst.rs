//! A burst: the packets of one receive call and the typed columns that stages fill in.

use crate::class::Choice;
use crate::flow::FlowKey;
use crate::io::{PacketBuf, PacketVec};
use crate::ledger::{Backend, Errand, HandedOff, Ledger, Punted};
use crate::ports::PortSlot;
use crate::qos::Tag;
use crate::reason::{DropReason, PuntReason};
use crate::received::Received;
use crate::stage::direct;
use crate::stage::fragment::said_by;
use crate::stage::parse::Head;
use crate::table::policer::Colour;
use crate::tables::ServiceMode;

/// Packets a burst holds. 32 keeps packets and columns of a burst inside L1 (grout and VPP measured the same knee).
pub const BURST: usize = 32;

/// Position of a packet in its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(u8);

impl Lane {
    /// Position in columns.
    #[inline]
    pub const fn index(self) -> usize {
        // The mask tells the compiler that columns of BURST entries need no bounds check.
        self.0 as usize & (BURST - 1)
    }
}

/// A set of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(u32);

impl Mask {
    /// The first `n` lanes.
    #[inline]
    pub const fn first(n: usize) -> Self {
        if n >= BURST { Self(u32::MAX) } else { Self((1 << n) - 1) }
    }

    /// Whether no lane is in it.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many lanes are in it.
    #[inline]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the lane is in it.
    #[inline]
    pub const fn contains(self, lane: Lane) -> bool {
        self.0 >> lane.index() & 1 == 1
    }

    /// Adds a lane.
    #[inline]
    pub fn insert(&mut self, lane: Lane) {
        self.0 |= 1 << lane.index();
    }

    /// Removes a lane.
    #[inline]
    pub fn remove(&mut self, lane: Lane) {
        self.0 &= !(1 << lane.index());
    }

    /// Removes a lane; those behind it move up.
    pub fn close(&mut self, lane: Lane) {
        let before = (1 << lane.index()) - 1;
        self.0 = self.0 & before | self.0 >> 1 & !before;
    }

    /// The first lane.
    pub fn next(self) -> Option<Lane> {
        (self.0 != 0).then(|| Lane(self.0.trailing_zeros() as u8))
    }

    /// The lanes in this set that are not in `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Mask) -> Mask {
        Mask(self.0 & !other.0)
    }

    /// The lanes in both.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// The lanes in one of both.
    #[inline]
    #[must_use]
    pub const fn xor(self, other: Mask) -> Mask {
        Mask(self.0 ^ other.0)
    }

    /// Adds a lane if `member`, without a branch.
    #[inline]
    pub fn insert_if(&mut self, lane: Lane, member: bool) {
        self.0 |= u32::from(member) << lane.index();
    }

    /// In order.
    #[inline]
    pub fn lanes(self) -> impl Iterator<Item = Lane> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let lane = rest.trailing_zeros() as u8;
                rest &= rest - 1;
                Lane(lane)
            })
        })
    }
}

/// What becomes of a lane's packet when the burst is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Still in the pipeline.
    #[default]
    Active,
    /// Ends here.
    Drop(DropReason),
    /// Goes to the slow path.
    Punt(PuntReason),
    /// Goes to the worker that owns its session.
    HandOff(u8),
    /// Goes to the worker that sees all fragments of its packet.
    Reassemble(u8),
    /// Leaves on the egress port.
    Transmit,
    /// Waits in a queue of the egress port, which is shaped.
    Queue,
}

/// Marks a DSCP column that decides nothing.
pub const NO_MARK: u8 = 0xff;

/// Added to a codepoint in the DSCP column: the packet leaves with congestion experienced as well. Below twice this a mark is a codepoint,
/// from there on it is one once the packet was looked at.
pub const CE: u8 = 0x40;

/// Marks a counter, policer or hop column that names nothing.
pub const NONE: u32 = u32::MAX;

/// What tables decided about a packet so far.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Policer of the rule, else of the service for client-to-backend packets (index into the snapshot).
    pub policer: u32,
    /// DSCP to set, perhaps with [`CE`]; before finish also other marks of [`crate::tables`], or [`NO_MARK`].
    pub mark: u8,
    /// Rewriting to do.
    pub rewrite: Rewrite,
    /// What the policer said.
    pub colour: Option<Colour>,
    /// What rule, service and policers say about its class.
    pub class: Choice,
}

const _: () = assert!(size_of::<Verdict>() == 8);

/// Which addresses and ports a packet gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rewrite {
    /// None.
    #[default]
    None,
    /// Source becomes `target` and `port`.
    Source,
    /// Destination becomes `target` and `port`.
    Destination,
    /// Both: destination becomes `target` and `port`, source `source` and `source_port`.
    Both,
    /// None, but the packet goes to the neighbour `target`. Once its way is found it is like any other: [`None`](Self::None).
    Station,
    /// An IP tunnel to `target`.
    Ipip,
    /// A UDP tunnel to `target`.
    Gue,
}

impl Rewrite {
    /// Whether the packet is routed on `target`.
    #[inline]
    pub const fn leads_to_target(self) -> bool {
        !matches!(self, Self::None | Self::Source)
    }

    /// Whether the packet keeps its addresses all the same.
    #[inline]
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Station | Self::Ipip | Self::Gue)
    }

    /// Whether something goes in front of the packet.
    #[inline]
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }
}

impl From<ServiceMode> for Rewrite {
    /// Of the client's packets.
    #[inline]
    fn from(mode: ServiceMode) -> Self {
        match mode {
            ServiceMode::Nat => Self::Destination,
            ServiceMode::FullNat => Self::Both,
            ServiceMode::DsrMac => Self::Station,
            ServiceMode::DsrIpip => Self::Ipip,
            ServiceMode::DsrGue => Self::Gue,
        }
    }
}

impl Verdict {
    /// Whether it leaves the packet as it is.
    #[inline]
    pub fn is_default(&self) -> bool {
        (self.policer == NONE) & (self.mark == NO_MARK) & (self.rewrite == Rewrite::None)
    }
}

impl Default for Verdict {
    fn default() -> Self {
        Self { policer: NONE, mark: NO_MARK, rewrite: Rewrite::None, colour: None, class: Choice::NONE }
    }
}

/// The next hop of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Egress {
    /// Index of the egress interface in the snapshot.
    pub interface: u32,
    /// The address to resolve.
    pub next_hop: u128,
    /// Its hash in the neighbour table.
    pub neighbour_hash: u64,
    /// Largest L3 packet that fits out of the interface.
    pub mtu: u16,
    /// The interface's port.
    pub port: PortSlot,
}

const _: () = assert!(size_of::<Egress>() == 32);

/// The columns. Each stage's file says which it reads and writes.
pub struct Columns {
    /// What the headers say (parse).
    pub head: [Head; BURST],
    /// The tuple as received (parse).
    pub key: [FlowKey; BURST],
    /// Keyed hash of the tuple (session).
    pub hash: [u64; BURST],
    /// Where the session look-up found the tuple (session).
    pub hit: [crate::table::sessions::Hit; BURST],
    /// Index of the first matching rule or [`NONE`] (rule).
    pub rule: [u32; BURST],
    /// Mark, policer, rewriting (balance).
    pub verdict: [Verdict; BURST],
    /// Address the rewriting puts in, (balance).
    pub target: [u128; BURST],
    /// Port the rewriting puts in (balance).
    pub port: [u16; BURST],
    /// Number of the way that a rule set, or [`NONE`]; only in generations that have ways (balance).
    pub way: [u32; BURST],
    /// Address the rewriting puts in as source, where it changes both ends (balance).
    pub source: [u128; BURST],
    /// Its port.
    pub source_port: [u16; BURST],
    /// Counter slot of the service it belongs to, or [`NONE`]; only in generations with services (balance).
    pub service: [u32; BURST],
    /// Next hop (route).
    pub egress: [Egress; BURST],
    /// Class in which it leaves: 0 (P0) to 3 (P3); only in generations that [have classes](crate::snapshot::Snapshot::classes), and of packets
    /// that leave (finish).
    pub class: [u8; BURST],
    /// Which queue (queue; only with [`Fate::Queue`]).
    pub tag: [Tag; BURST],
    /// What becomes of it (any).
    pub fate: [Fate; BURST],
    /// As it was before it was finished (finish; only with [`PuntReason::Neighbour`]).
    pub received: [Received; BURST],
}

/// One burst. Reused for every receive call; it owns its packets until [`drain`](Self::drain).
pub struct Burst<B> {
    packets: PacketVec<B>,
    /// Where they were received.
    pub port: PortSlot,
    /// Lanes still in the pipeline.
    pub active: Mask,
    /// Lanes of IPv6 packets (parse).
    pub v6: Mask,
    /// Lanes whose `verdict` says something (balance).
    pub judged: Mask,
    /// Lanes of ICMP errors that may be about a session (parse).
    pub errors: Mask,
    /// Lanes of fragments (parse).
    pub fragments: Mask,
    /// Lanes of IPv4 packets that have to be cut to leave (route).
    pub too_long: Mask,
    /// The columns.
    pub columns: Box<Columns>,
}

impl<B: PacketBuf> Default for Burst<B> {
    fn default() -> Self {
        Self {
            packets: PacketVec::new(),
            port: PortSlot::default(),
            active: Mask::default(),
            v6: Mask::default(),
            judged: Mask::default(),
            errors: Mask::default(),
            fragments: Mask::default(),
            too_long: Mask::default(),
            columns: Box::new(Columns {
                head: [Head::default(); BURST],
                key: [FlowKey::default(); BURST],
                hash: [0; BURST],
                hit: [crate::table::sessions::Hit::MISS; BURST],
                rule: [NONE; BURST],
                verdict: [Verdict::default(); BURST],
                target: [0; BURST],
                port: [0; BURST],
                way: [NONE; BURST],
                source: [0; BURST],
                source_port: [0; BURST],
                service: [NONE; BURST],
                egress: [Egress::default(); BURST],
                class: [0; BURST],
                tag: [Tag::NONE; BURST],
                fate: [Fate::Active; BURST],
                received: [Received::default(); BURST],
            }),
        }
    }
}

impl<B: PacketBuf> Burst<B> {
    /// Where a receive call puts up to [`BURST`] packets; empty before.
    #[inline]
    pub fn receive(&mut self) -> &mut PacketVec<B> {
        &mut self.packets
    }

    /// Begins with what was received on a port. More than [`BURST`] packets are not wanted: what is beyond is returned, to be ended.
    #[inline]
    pub fn begin(&mut self, port: PortSlot) -> Option<PacketVec<B>> {
        let rest = (self.packets.len() > BURST).then(|| self.packets.drain(BURST..).collect());
        for packet in &self.packets {
            packet.prefetch();
        }
        self.port = port;
        self.active = Mask::first(self.packets.len());
        self.v6 = Mask::default();
        self.judged = Mask::default();
        self.errors = Mask::default();
        self.fragments = Mask::default();
        self.too_long = Mask::default();
        rest
    }

    /// Packets in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packet of a lane; empty lanes have none.
    #[inline]
    pub fn packet(&self, lane: Lane) -> Option<&B> {
        self.packets.get(lane.index())
    }

    /// The packet of a lane, writable, beside the columns.
    #[inline]
    pub fn packet_and_columns(&mut self, lane: Lane) -> Option<(&mut B, &mut Columns)> {
        Some((self.packets.get_mut(lane.index())?, &mut self.columns))
    }

    /// The packets by lane, and the columns.
    #[inline]
    pub fn parts(&mut self) -> (&mut [B], &mut Columns) {
        (&mut self.packets, &mut self.columns)
    }

    /// Ends a lane.
    #[inline]
    pub fn drop(&mut self, lane: Lane, reason: DropReason) {
        self.settle(lane, Fate::Drop(reason));
    }

    /// Sends a lane to the slow path.
    #[inline]
    pub fn punt(&mut self, lane: Lane, reason: PuntReason) {
        self.settle(lane, Fate::Punt(reason));
    }

    /// Takes a lane's packet out, for a holder that keeps it. The lanes behind move up by one, with what parse found about them: nothing
    /// later than that may have been written.
    #[cold]
    pub fn take(&mut self, lane: Lane) -> Option<B> {
        let at = lane.index();
        if at >= self.packets.len() {
            return None;
        }
        for mask in [&mut self.active, &mut self.v6, &mut self.fragments, &mut self.errors] {
            mask.close(lane);
        }
        let Columns { head, key, fate, .. } = &mut *self.columns;
        head.copy_within(at + 1.., at);
        key.copy_within(at + 1.., at);
        fate.copy_within(at + 1.., at);
        Some(self.packets.remove(at))
    }

    /// Sends what is finished and too long for its way to where it is cut.
    #[cold]
    pub fn cut_too_long(&mut self) {
        for lane in self.too_long.lanes() {
            let fate = &mut self.columns.fate[lane.index()];
            if matches!(fate, Fate::Transmit | Fate::Punt(PuntReason::Neighbour)) {
                *fate = Fate::Punt(PuntReason::Fragment);
            }
        }
    }

    /// Decides a lane.
    #[inline]
    pub fn settle(&mut self, lane: Lane, fate: Fate) {
        self.columns.fate[lane.index()] = fate;
        self.active.remove(lane);
    }

    /// The only exit: every packet goes where its fate says. `egress` names port, VLAN and MTU of an egress interface.
    pub fn drain<K>(&mut self, ledger: &mut Ledger<K>, egress: impl Fn(u32) -> (PortSlot, u16, u16))
    where
        K: Backend<Buf = B>,
    {
        let (port, fragments, columns) = (self.port, self.fragments, &*self.columns);
        for (index, packet) in self.packets.drain(..).enumerate() {
            // Never more than BURST of them.
            let index = index % BURST;
            let out = &columns.egress[index];
            match columns.fate[index] {
                Fate::Transmit => ledger.transmit(packet, out.port),
                Fate::Queue => ledger.queue(packet, out.port, columns.tag[index]),
                Fate::Drop(reason) => ledger.drop(packet, reason),
                Fate::HandOff(worker) => {
                    let errand = if fragments.contains(Lane(index as u8)) {
                        Errand::Resolved(said_by(&columns.head[index], &columns.key[index]))
                    } else {
                        Errand::Session
                    };
                    ledger.hand_off(HandedOff { packet, port, errand }, usize::from(worker));
                }
                Fate::Reassemble(worker) => {
                    ledger.hand_off(HandedOff { packet, port, errand: Errand::Reassembly }, usize::from(worker));
                }
                Fate::Punt(reason) => {
                    let waits = reason == PuntReason::Neighbour;
                    let received = waits.then(|| columns.received[index].on(port));
                    let (port, vlan, mtu) = match reason {
                        PuntReason::Neighbour | PuntReason::Fragment => egress(out.interface),
                        PuntReason::MtuExceeded => {
                            let mtu = direct::told_mtu(columns, index, egress(out.interface).2);
                            (port, columns.head[index].vlan, mtu)
                        }
                        _ => (port, columns.head[index].vlan, 0),
                    };
                    ledger.punt(Punted { packet, reason, port, vlan, next_hop: out.next_hop, mtu, received });
                }
                // A lane no stage decided would be lost silently; there is none, and the counter would show it.
                Fate::Active => ledger.drop(packet, DropReason::PortNotConfigured),
            }
        }
        self.active = Mask::default();
    }
}
