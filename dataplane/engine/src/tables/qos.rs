//! Classes, policers, marks, shapers and queues.

/// A class of service at egress: P0 is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Before all others.
    P0,
    /// Next.
    P1,
    /// After that.
    P2,
    /// What is left.
    P3,
}

impl Class {
    /// All of them, by their number.
    pub const ALL: [Class; 4] = [Self::P0, Self::P1, Self::P2, Self::P3];

    /// The name in documents.
    pub const fn label(self) -> &'static str {
        match self {
            Self::P0 => "P0",
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
        }
    }
}

/// A policer: a three colour marker with two buckets. Rates are kbit/s of L3 octets and bursts octets, or packets per second and packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicerSpec {
    /// Unique.
    pub name: String,
    /// Which marker.
    pub kind: PolicerKind,
    /// What it counts.
    pub unit: PolicerUnit,
    /// Committed rate: kbit/s (1,000 bit) 0..=100_000_000 (100 Gbit/s), or packets per second 0..=1_000_000_000. Above 0 but for RFC 4115.
    pub cir: u64,
    /// Committed burst.
    pub cbs: u64,
    /// Rate of the second bucket: 0 for RFC 2697, the peak rate (at least `cir`) for RFC 2698, the excess rate for RFC 4115.
    pub eir: u64,
    /// Size of the second bucket: the excess burst, or for RFC 2698 the peak burst.
    pub ebs: u64,
    /// A packet's colour is no better than the drop precedence of the codepoint it arrives with (AFx1 green, AFx2 yellow, AFx3 red; others green).
    pub colour_aware: bool,
    /// What happens to green packets.
    pub on_green: PolicerAction,
    /// What happens to yellow packets.
    pub on_yellow: PolicerAction,
    /// What happens to red packets.
    pub on_red: PolicerAction,
    /// Every source has buckets of its own.
    pub per_source: Option<SourcesSpec>,
}

/// Which three colour marker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicerKind {
    /// RFC 2697: one rate, what overflows the committed bucket fills the excess bucket.
    #[default]
    Srtcm,
    /// RFC 2698: committed and peak rate; green packets take from both buckets.
    Trtcm,
    /// RFC 4115: committed and excess rate, two buckets that have nothing to do with each other.
    Rfc4115,
}

impl PolicerKind {
    /// All of them.
    pub const ALL: [PolicerKind; 3] = [Self::Srtcm, Self::Trtcm, Self::Rfc4115];

    /// The name in documents.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Srtcm => "srtcm",
            Self::Trtcm => "trtcm",
            Self::Rfc4115 => "rfc4115",
        }
    }
}

/// What a policer counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicerUnit {
    /// L3 octets.
    #[default]
    Octets,
    /// Packets.
    Packets,
}

/// A mark that leaves the codepoint as it was received, also where the interface is not trusted.
pub const MARK_KEEP: u8 = 0x80;

/// A mark by the first map; those of the next maps follow.
pub const MARK_MAP: u8 = 0x81;

/// Most maps of codepoints.
pub const MOST_DSCP_MAPS: usize = 62;

/// A map of DSCP codepoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DscpMapSpec {
    /// Unique.
    pub name: String,
    /// From a codepoint to another, ascending, each 0..=63.
    pub codepoints: Vec<(u8, u8)>,
    /// For all other packets by class: a codepoint; `None`: it stays.
    pub classes: [Option<u8>; 4],
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourcesSpec {
    /// Bits of an IPv4 source address, 1..=32.
    pub v4: u8,
    /// Bits of an IPv6 source address, 1..=128.
    pub v6: u8,
}

/// What a policer does with a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicerAction {
    /// Let it pass.
    #[default]
    Pass,
    /// Let it pass with this mark, as of a rule.
    Mark(u8),
    /// Let it pass, with congestion experienced if it is ECN-capable (RFC 3168).
    Ce,
    /// Let it pass in this class, if its own is not lower.
    Class(Class),
    /// Drop it.
    Drop,
}

/// The shaper of a port: what leaves by it waits in queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShaperSpec {
    /// Index into [`RuleTables::ports`].
    pub port: usize,
    /// Rate in kbit/s (1,000 bit), 1..=400_000_000.
    pub rate_kbps: u64,
    /// Octets that a frame counts more than it is long: 24 are preamble, check sum and gap of Ethernet.
    pub overhead: u8,
    /// Share of the rate that P0 may take before all others, 1..=100.
    pub p0_percent: u8,
    /// Shares of P1, P2 and P3 in what is left, 1..=1000.
    pub weights: [u16; 3],
}

impl Default for ShaperSpec {
    /// Without a rate it is no shaper yet.
    fn default() -> Self {
        Self { port: 0, rate_kbps: 0, overhead: 24, p0_percent: 50, weights: [60, 30, 10] }
    }
}

/// How packets of a service wait on each shaped port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Shaper of the service in kbit/s; 0: none.
    pub rate_kbps: u64,
    /// Octets that it may send at once, from one full frame; 0: 10 ms' worth.
    pub burst_bytes: u64,
    /// Share among the services of its class, 1..=1000.
    pub weight: u16,
    /// Packets that waited longer are dropped; 0: 1 ms in P0, 10 in P1, 100 in P2, no limit in P3.
    pub deadline_us: u32,
    /// Packets that may wait in each of its queues, one for each class; 0: 4,096.
    pub most_packets: u32,
    /// Octets that may wait there; 0: 4 MiB.
    pub most_bytes: u32,
    /// Delay that CoDel (RFC 8289) aims at; 0: no queue management.
    pub target_us: u32,
    /// Whether it marks packets whose ends know ECN instead of dropping them.
    pub ecn: bool,
}

impl Default for QueueSpec {
    /// No shaper, weight 10, default bounds, no queue management.
    fn default() -> Self {
        Self {
            rate_kbps: 0,
            burst_bytes: 0,
            weight: 10,
            deadline_us: 0,
            most_packets: 0,
            most_bytes: 0,
            target_us: 0,
            ecn: false,
        }
    }
}
