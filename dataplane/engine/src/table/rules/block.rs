//! The leaves' records: four rules in two cache lines, column by column, so that one packet is compared with all four by the same few
//! vector instructions and without a branch.

use std::hint::select_unpredictable;

use marchproxy_cpu::prefetch;

use super::RuleKey;
use super::record::{ANY_INTERFACE, Field, Record};
use super::sight::{Sight, Wanted};

/// Rules in a block.
pub const WIDTH: usize = 4;

/// Marks an entry of [`Block::index`] as the number of an [`Extra`].
pub const EXTRA: u32 = 1 << 31;

/// "No rule": what fills a block up, and what a look-up begins with. Above every rule's index.
pub const NOTHING: u32 = 0x00ff_ffe0;

/// A packet with ports, beside the protocol in the lower 8 bits.
const HAS_PORTS: u16 = 1 << 8;

/// Bits of [`Block::value`] and [`Block::mask`] below the shifts.
const META_BITS: u32 = 9;

/// A packet as the classifier sees it: words that the tree cuts and blocks compare.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub struct Key {
    /// See [`word`].
    pub words: [u64; 8],
}

/// Words of a [`Key`].
pub mod word {
    /// Upper half of the source; the lower half follows. IPv4 addresses are the upper 32 bits.
    pub const SRC: usize = 0;
    /// The destination, likewise.
    pub const DST: usize = 2;
    /// Destination port, source port, protocol, 16 bits of the interface and DSCP from bit 0, 16, 32, 40 and 56; ports that do not
    /// count are 0.
    pub const NARROW: usize = 4;
    /// Protocol, bit 8 for packets with ports, the rest of the sight above that; the interface in the upper half.
    pub const META: usize = 5;
    /// Source port.
    pub const SPORT: usize = 6;
    /// Destination port.
    pub const DPORT: usize = 7;
}

/// Where a field begins: its word and the shift within, for a shift within the field.
pub fn place(field: Field, shift: u32) -> (usize, u32) {
    match field {
        Field::Src if shift >= 64 => (word::SRC, shift - 64),
        Field::Src => (word::SRC + 1, shift),
        Field::Dst if shift >= 64 => (word::DST, shift - 64),
        Field::Dst => (word::DST + 1, shift),
        Field::Dport => (word::NARROW, shift),
        Field::Sport => (word::NARROW, shift + 16),
        Field::Protocol => (word::NARROW, shift + 32),
        Field::Interface => (word::NARROW, shift + 40),
        Field::Dscp => (word::NARROW, shift + 56),
        Field::Vlan => (word::META, shift + Sight::VLAN_SHIFT),
    }
}

impl Key {
    /// From what the packet shows.
    #[inline]
    pub fn new(key: &RuleKey, v4: bool) -> Self {
        let flow = &key.flow;
        let halves = |a: u128| if v4 { ((a as u64) << 32, 0) } else { ((a >> 64) as u64, a as u64) };
        let ((src, src_low), (dst, dst_low)) = (halves(flow.src), halves(flow.dst));
        let shown = u64::from(key.has_ports).wrapping_neg();
        let (sport, dport) = (u64::from(flow.sport) & shown, u64::from(flow.dport) & shown);
        let (protocol, interface) = (u64::from(flow.protocol), u64::from(key.interface));
        let narrow = key.sight.dscp() << 56 | (interface & 0xffff) << 40 | protocol << 32 | sport << 16 | dport;
        let meta = interface << 32 | key.sight.rest() | shown & u64::from(HAS_PORTS) | protocol;
        Self { words: [src, src_low, dst, dst_low, narrow, meta, sport, dport] }
    }
}

/// Four rules.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Block {
    /// Upper halves of the sources.
    src: [u64; WIDTH],
    /// Upper halves of the destinations.
    dst: [u64; WIDTH],
    /// Lowest source ports.
    sport: [u16; WIDTH],
    /// Highest source ports.
    sport_last: [u16; WIDTH],
    /// Lowest destination ports.
    dport: [u16; WIDTH],
    /// Highest destination ports.
    dport_last: [u16; WIDTH],
    /// Protocol and `HAS_PORTS`; above them how many lower bits of the destination do not count.
    value: [u16; WIDTH],
    /// Which bits of `value` count; above them how many lower bits of the source do not.
    mask: [u16; WIDTH],
    /// Index of the rule, or [`EXTRA`] and the number of what else it asks for.
    index: [u32; WIDTH],
}

const _: () = assert!(size_of::<Block>() == 128);

/// Conditions that few rules have: the lower halves of IPv6 addresses, the interface, and what is in a [`Sight`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(align(64))]
pub struct Extra {
    src: (u64, u32),
    dst: (u64, u32),
    wanted: Wanted,
    interface: u32,
    /// Index of the rule.
    pub rule: u32,
}

const _: () = assert!(size_of::<Extra>() == 64);

impl Block {
    /// Matches everything as [`NOTHING`]: the end of a list.
    pub const END: Self = Self {
        src: [0; WIDTH],
        dst: [0; WIDTH],
        sport: [0; WIDTH],
        sport_last: [u16::MAX; WIDTH],
        dport: [0; WIDTH],
        dport_last: [u16::MAX; WIDTH],
        value: [64 << META_BITS; WIDTH],
        mask: [64 << META_BITS; WIDTH],
        index: [NOTHING; WIDTH],
    };

    /// Puts a record into one of the four places. `extra` is its number if it [needs one](Extra::of).
    pub fn put(&mut self, place: usize, record: &Record, extra: Option<u32>) {
        let address = |field| {
            let len = record.prefix_len(field);
            ((record.space.range(field).0 >> 64) as u64, 64 - len.min(64) as u16)
        };
        let ports = |field| {
            let (first, last) = record.space.range(field);
            (first as u16, last as u16)
        };
        let ((src, src_shift), (dst, dst_shift)) = (address(Field::Src), address(Field::Dst));
        (self.src[place], self.dst[place]) = (src, dst);
        (self.sport[place], self.sport_last[place]) = ports(Field::Sport);
        (self.dport[place], self.dport_last[place]) = ports(Field::Dport);
        let (first, last) = record.space.range(Field::Protocol);
        let (mut value, mut mask) = if first == last { (first as u16, 0xff) } else { (0, 0) };
        if record.needs_ports {
            value |= HAS_PORTS;
            mask |= HAS_PORTS;
        }
        self.value[place] = dst_shift << META_BITS | value;
        self.mask[place] = src_shift << META_BITS | mask;
        self.index[place] = extra.map_or(record.rule, |number| EXTRA | number);
    }

    /// How many of its places have the number of an extra condition.
    pub fn extras(&self) -> usize {
        self.index.iter().filter(|index| *index & EXTRA != 0).count()
    }

    /// The same where extra conditions stand behind so many others.
    #[must_use]
    pub fn moved(mut self, extras: usize) -> Self {
        for index in &mut self.index {
            *index += if *index & EXTRA == 0 { 0 } else { extras as u32 };
        }
        self
    }

    /// Which of the four match (bits 0 to 3), extra conditions aside.
    // Left to itself the compiler may call it, and then makes no vectors of it.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn matches(&self, key: &Key) -> u32 {
        let mut miss = [0u64; WIDTH];
        for i in 0..WIDTH {
            miss[i] = self.miss(i, key);
        }
        (0..WIDTH).fold(0, |found, i| found | u32::from(miss[i] == 0) << i)
    }

    /// Whether the rule in a place matches, extra conditions aside.
    #[inline]
    pub fn accepts(&self, place: usize, key: &Key) -> bool {
        self.miss(place % WIDTH, key) == 0
    }

    /// 0 when every condition is met. Arithmetic on 64-bit lanes without comparisons: the compiler makes vectors of the four.
    #[inline(always)]
    fn miss(&self, i: usize, key: &Key) -> u64 {
        let (src, dst) = (key.words[word::SRC], key.words[word::DST]);
        let (sport, dport, meta) = (key.words[word::SPORT], key.words[word::DPORT], key.words[word::META]);
        let (value, mask) = (u64::from(self.value[i]), u64::from(self.mask[i]));
        let address = beyond(src ^ self.src[i], mask >> META_BITS) | beyond(dst ^ self.dst[i], value >> META_BITS);
        let header = (meta ^ value) & mask & ((1 << META_BITS) - 1);
        // Negative when the port is below the first or above the last.
        let outside =
            |port: u64, first: u16, last: u16| port.wrapping_sub(u64::from(first)) | u64::from(last).wrapping_sub(port);
        let ports =
            outside(sport, self.sport[i], self.sport_last[i]) | outside(dport, self.dport[i], self.dport_last[i]);
        address | header | ports >> 63
    }

    /// Place and index of the first match, [`NOTHING`] without one.
    #[inline]
    pub fn first(&self, key: &Key) -> (usize, u32) {
        let found = self.matches(key);
        let place = (found | 1 << WIDTH).trailing_zeros() as usize;
        (place, select_unpredictable(found == 0, NOTHING, self.index[place % WIDTH]))
    }

    /// Starts loading both lines.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.src);
        prefetch(&self.sport);
    }

    /// The entry of a place.
    #[inline]
    pub fn index(&self, place: usize) -> u32 {
        self.index[place % WIDTH]
    }
}

/// `bits` without the lowest `shift`, at most 64.
#[inline]
fn beyond(bits: u64, shift: u64) -> u64 {
    if shift < 64 { bits >> shift } else { 0 }
}

impl Extra {
    /// What a record asks for beyond what a block holds; `None` for most.
    pub fn of(record: &Record) -> Option<Self> {
        let low = |field| {
            let len = record.prefix_len(field);
            (record.space.range(field).0 as u64, 128 - len.max(64))
        };
        let (src, dst) = (low(Field::Src), low(Field::Dst));
        let asks = src.1 < 64 || dst.1 < 64 || record.interface != ANY_INTERFACE || record.wanted != Wanted::ANY;
        asks.then_some(Self { src, dst, wanted: record.wanted, interface: record.interface, rule: record.rule })
    }

    /// Whether a packet that the block accepts meets these, too.
    #[inline]
    pub fn accepts(&self, key: &Key) -> bool {
        let src = beyond(key.words[word::SRC + 1] ^ self.src.0, u64::from(self.src.1));
        let dst = beyond(key.words[word::DST + 1] ^ self.dst.0, u64::from(self.dst.1));
        let interface = self.interface == ANY_INTERFACE || u64::from(self.interface) == key.words[word::META] >> 32;
        let sight = self.wanted.accepts(key.words[word::NARROW] >> 56, key.words[word::META]);
        src | dst == 0 && interface && sight
    }
}
