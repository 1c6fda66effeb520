//! `RuleTables`: what a node is told to do, after names became indices and defaults were filled in, before any structure for
//! speed exists. Control compiles documents into it, [`build`](crate::build) turns it into a snapshot, and the
//! [`Reference`](crate::reference) interprets it directly.
//!
//! All vectors are canonical: sorted as their docs say, so that equal configurations are equal values.

mod qos;

use std::net::{IpAddr, SocketAddr};

pub use qos::*;

/// Everything one node needs to know. `Default` is the empty configuration: every packet is dropped as
/// `port_not_configured`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTables {
    /// Sorted by name.
    pub ports: Vec<PortSpec>,
    /// Sorted by name.
    pub interfaces: Vec<InterfaceSpec>,
    /// Sorted by table, then prefix. Connected routes are not listed: they follow from the interfaces' addresses.
    pub routes: Vec<RouteSpec>,
    /// Sorted by priority, then name. The first match that does not merely count decides. None: permit when no rule decides at all,
    /// else deny.
    pub rules: Vec<RuleSpec>,
    /// Sorted by name.
    pub services: Vec<ServiceSpec>,
    /// Sorted by name.
    pub policers: Vec<PolicerSpec>,
    /// Sorted by name, at most [`MOST_DSCP_MAPS`].
    pub dscp_maps: Vec<DscpMapSpec>,
    /// Sorted by port, at most one for each.
    pub shapers: Vec<ShaperSpec>,
    /// Where and how sessions are told of; `None`: nowhere.
    pub flows: Option<FlowsSpec>,
}

/// A flow collector and what it is told (IPFIX).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsSpec {
    /// Where messages go, over UDP and the host's own network.
    pub collector: SocketAddr,
    /// Observation domain; 0: none in particular.
    pub domain: u32,
    /// Of so many sessions one is told of, from 1.
    pub one_of: u32,
    /// After so long a session that goes on is told of again, from 1.
    pub active_timeout_s: u32,
    /// Templates are sent again after this time, from 1.
    pub template_refresh_s: u32,
    /// Octets of a message at most, 512..=8952.
    pub message_octets: u16,
    /// Whether beginnings and ends of NAT44 sessions are told as events, too (RFC 8158).
    pub nat_events: bool,
    /// Indices into [`RuleTables::services`], ascending; empty: all services.
    pub services: Vec<usize>,
}

/// A port: one device that the node's backend drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Unique within the node.
    pub name: String,
    /// How to open it, opaque to the engine (`vdev:net_af_packet0,iface=eth1`, `pci:0000:03:00.0`, ...).
    pub device: String,
    /// Largest L3 packet in octets, 576..=9216 (1280.. where an interface on it has IPv6).
    pub mtu: u16,
}

/// A layer-3 interface on a port, untagged or on one VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// Unique.
    pub name: String,
    /// Index into [`RuleTables::ports`].
    pub port: usize,
    /// 802.1Q VLAN 1..=4094, or untagged.
    pub vlan: Option<u16>,
    /// Own addresses with the length of their connected prefix.
    pub addresses: Vec<Cidr>,
    /// Routing table for packets received here, and the table its connected routes belong to. 0 is the main table.
    pub table: u32,
    /// What is asked of the sources of packets received here.
    pub urpf: Urpf,
    /// Keep the DSCP of packets received here; otherwise forwarded ones leave with DSCP 0 unless something marks them.
    pub trust_dscp: bool,
    /// Index into [`RuleTables::policers`]; meters what is received here and forwarded.
    pub policer: Option<usize>,
}

/// Which sources an interface accepts (unicast reverse path forwarding, RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urpf {
    /// All.
    #[default]
    Off,
    /// Those that some route leads to, the default route aside.
    Loose,
    /// Those that the best route leads to by this interface, among others perhaps.
    Strict,
}

/// An address and the length of the prefix it lies in; as a prefix, host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub addr: IpAddr,
    /// 0..=32 or 0..=128.
    pub len: u8,
}

impl Cidr {
    /// Whether `ip` is of the same family and inside the prefix.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.len.min(32));
                u32::from(a).checked_shr(shift) == u32::from(b).checked_shr(shift)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.len.min(128));
                u128::from(a).checked_shr(shift) == u128::from(b).checked_shr(shift)
            }
            _ => false,
        }
    }

    /// The same prefix with host bits cleared.
    #[must_use]
    pub fn network(&self) -> Cidr {
        let addr = match self.addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0);
                IpAddr::V4((u32::from(a) & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len.min(128))).unwrap_or(0);
                IpAddr::V6((u128::from(a) & mask).into())
            }
        };
        Cidr { addr, len: self.len }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A route of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Routing table; 0 is the main table.
    pub table: u32,
    /// Destination prefix, host bits zero.
    pub prefix: Cidr,
    /// What happens to packets whose longest match this is.
    pub action: RouteAction,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteAction {
    /// Forward over one of these, chosen per flow in proportion to the weights. Never empty.
    Via(Vec<NextHopSpec>),
    /// Drop without a word.
    Blackhole,
    /// Drop and tell the sender (ICMP administratively prohibited).
    Reject,
}

/// One next hop of a route. Sorted by address within a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHopSpec {
    /// Of the prefix's family, inside a connected prefix of `interface`, not an address of ours.
    pub address: IpAddr,
    /// Index into [`RuleTables::interfaces`].
    pub interface: usize,
    /// 1..=65535.
    pub weight: u16,
}

/// One rule. Empty lists and `None` match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// Unique.
    pub name: String,
    /// Lower is looked at first; equal priorities by name.
    pub priority: u32,
    /// What it matches, all parts together.
    pub matches: RuleMatch,
    /// What it decides.
    pub action: RuleAction,
    /// For packets it permits: a DSCP codepoint 0..=63, [`MARK_KEEP`], or [`MARK_MAP`] and the index of one of [`RuleTables::dscp_maps`].
    pub mark: Option<u8>,
    /// Index into [`RuleTables::policers`]; meters packets it permits, in the place of their service's.
    pub policer: Option<usize>,
    /// Where packets it permits go, in the place of what the receiving interface's table says.
    pub way: Option<RuleWay>,
    /// Of so many packets that count under it one is recorded; 0: none.
    pub log_sample: u32,
    /// Of a rule that denies or rejects: ends no session.
    pub new_only: bool,
    /// Class of packets it permits, in the place of what their DSCP says.
    pub class: Option<Class>,
}

/// Changes to the rules of tables of which nothing else changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleChanges {
    /// Priority and name of rules that go.
    pub gone: Vec<(u32, String)>,
    /// Rules that come, or replace the one of their priority and name. A rule that gets another priority goes with the old one.
    pub put: Vec<RuleSpec>,
}

impl RuleChanges {
    /// How many rules it is about.
    pub fn len(&self) -> usize {
        self.gone.len() + self.put.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A way that a rule sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleWay {
    /// To this neighbour; packets of the other family are routed as if nothing were set.
    NextHop {
        /// Inside a connected prefix of `interface`, not an address of ours.
        address: IpAddr,
        /// Index into [`RuleTables::interfaces`].
        interface: usize,
    },
    /// By this routing table; 0 is the main table.
    Table(u32),
}

/// The conditions of a rule; all given ones must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleMatch {
    /// Source in any of these. A v4 packet never matches a list of v6 prefixes only.
    pub src: Vec<Cidr>,
    /// Destination in any of these.
    pub dst: Vec<Cidr>,
    /// IP protocol number (the upper-layer one for IPv6).
    pub protocol: Option<u8>,
    /// Source port in any of these inclusive ranges. Packets without ports (ICMP, later fragments) never match.
    pub src_ports: Vec<PortRange>,
    /// Destination port in any of these.
    pub dst_ports: Vec<PortRange>,
    /// Received on this interface (index into [`RuleTables::interfaces`]).
    pub in_interface: Option<usize>,
    /// TCP flags; only with protocol 6. Packets without a TCP header (later fragments) never match.
    pub tcp_flags: Option<FlagMatch>,
    /// Received on this VLAN; 0 is untagged.
    pub vlan: Option<u16>,
    /// DSCP is one of these codepoints 0..=63, ascending.
    pub dscp: Vec<u8>,
    /// Whether it is a fragment.
    pub fragment: Option<FragmentMatch>,
}

/// A condition on the octet of TCP flags: those of `mask` are as in `value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlagMatch {
    /// Flags that must be set; none outside of the mask.
    pub value: u8,
    /// Flags that are looked at.
    pub mask: u8,
}

/// A condition on fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentMatch {
    /// A whole packet.
    No,
    /// A fragment, whichever.
    Yes,
    /// The fragment that begins with the upper-layer header.
    First,
    /// Another one.
    Later,
}

/// Inclusive range of L4 ports, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: PortRange = PortRange { first: 0, last: u16::MAX };

    /// Whether the port is inside.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleAction {
    /// Let it pass.
    #[default]
    Permit,
    /// Drop it, counted under the rule.
    Deny,
    /// Drop it and tell the sender: a TCP reset, or ICMP administratively prohibited.
    Reject,
    /// Count it and leave the decision to the rules behind.
    Count,
}

impl RuleAction {
    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Count => "count",
        }
    }
}

/// A service: virtual addresses balanced over backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique.
    pub name: String,
    /// Virtual addresses, sorted; not an interface's own address.
    pub addresses: Vec<IpAddr>,
    /// Which traffic.
    pub protocol: ServiceProtocol,
    /// Destination ports, sorted, disjoint. Empty for ICMP; `[PortRange::ALL]` for all ports.
    pub ports: Vec<PortRange>,
    /// Same backend for one source address (no ports in the Maglev hash).
    pub source_affinity: bool,
    /// How packets get to the backends.
    pub mode: ServiceMode,
    /// No sessions: every packet takes the backend that the ring has for it. Only where replies do not pass here.
    pub stateless: bool,
    /// What becomes of established sessions whose backend is down or gone.
    pub on_backend_loss: BackendLoss,
    /// Where full NAT takes sources from: for every family of `addresses` at least one, sorted; no interface's own address, no service's,
    /// no backend's. Empty in other modes.
    pub source_pool: Vec<IpAddr>,
    /// Sorted by name. For every family of `addresses` at least one; in tunnels every backend serves both families.
    pub backends: Vec<BackendSpec>,
    /// Index into [`RuleTables::policers`]; meters client-to-backend packets of the service together.
    pub policer: Option<usize>,
    /// As of a rule, for both directions, unless the rule or the policer marks.
    pub mark: Option<u8>,
    /// Class for both directions, unless the rule has one.
    pub class: Option<Class>,
    /// Limits of its sessions, if it has any.
    pub limits: Option<ServiceLimitsSpec>,
    /// How its backends are checked; `None`: they are not.
    pub health: Option<HealthSpec>,
    /// How its packets wait on shaped ports.
    pub queue: QueueSpec,
}

/// Limits of a service's sessions. On a node with several workers each keeps an equal share, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimitsSpec {
    /// For all its sessions.
    pub total: LimitsSpec,
    /// For those of each source.
    pub per_source: LimitsSpec,
    /// Bits of an IPv4 client's address that make a source, 1..=32.
    pub source_v4: u8,
    /// Bits of an IPv6 client's address that make a source, 1..=128.
    pub source_v6: u8,
}

impl Default for ServiceLimitsSpec {
    /// None; a source is an IPv4 address, or an IPv6 /64, which is what one host may choose from.
    fn default() -> Self {
        let none = LimitsSpec::default();
        Self { total: none, per_source: none, source_v4: 32, source_v6: 64 }
    }
}

/// Limits of sessions; from 1 on, `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsSpec {
    /// New sessions per second; as many may begin at once after a second without any.
    pub new_per_s: Option<u32>,
    /// TCP sessions whose handshake is not finished.
    pub half_open: Option<u32>,
    /// Sessions.
    pub sessions: Option<u32>,
}

/// How packets get to the backends of a service, and replies to its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ServiceMode {
    /// The destination is rewritten on the way there, the source on the way back, which leads through here.
    #[default]
    Nat,
    /// As `Nat`, and the source becomes an address and port of the service's pool, so that replies come back by themselves.
    FullNat,
    /// The packet goes to the backend's MAC address as it is; the backend has the service's address and answers itself.
    DsrMac,
    /// The packet goes through an IP tunnel (RFC 2003, RFC 2473) to the backend, which answers itself.
    DsrIpip,
    /// The packet goes through a UDP tunnel (GUE variant 1) to the backend, which answers itself.
    DsrGue,
}

impl ServiceMode {
    /// All of them, by their number.
    pub const ALL: [ServiceMode; 5] = [Self::Nat, Self::FullNat, Self::DsrMac, Self::DsrIpip, Self::DsrGue];

    /// The name in documents.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
            Self::DsrMac => "dsr_mac",
            Self::DsrIpip => "dsr_ipip",
            Self::DsrGue => "dsr_gue",
        }
    }

    /// Whether replies go to the client directly: then only the client's packets pass here, and keep their addresses and ports.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::DsrMac | Self::DsrIpip | Self::DsrGue)
    }

    /// Whether packets are wrapped: then backends may be of another family than the service.
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::DsrIpip | Self::DsrGue)
    }
}

/// What becomes of established sessions whose backend is down or no longer one of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendLoss {
    /// They stay where they are.
    #[default]
    Keep,
    /// They end with their next packet, which gets another backend like a first one.
    Rebalance,
}

/// How the backends of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthSpec {
    /// What is asked.
    pub kind: HealthKind,
    /// From the start of a check to the start of the next, from 20.
    pub interval_ms: u32,
    /// What an answer may take: at most `interval * (fall - 1) / fall` (or 50, if that is more), so that `fall` failures fit into
    /// `fall` intervals.
    pub timeout_ms: u32,
    /// Successes in a row that bring a backend back, from 1.
    pub rise: u16,
    /// Failures in a row that take it out, from 1.
    pub fall: u16,
    /// Below this share of healthy backends all of them are used; 0: never.
    pub panic_below_percent: u8,
    /// The port that is asked; `None`: the backend's, or else the first of the service.
    pub port: Option<u16>,
}

impl HealthSpec {
    /// The longest timeout that keeps the promise of `fall * interval`.
    pub const fn longest_timeout_ms(interval_ms: u32, fall: u16) -> u32 {
        let fall = if fall == 0 { 1 } else { fall as u64 };
        let fits = (interval_ms as u64 * (fall - 1) / fall) as u32;
        if fits > 50 { fits } else { 50 }
    }
}

impl Default for HealthSpec {
    /// TCP every 2 s with a timeout of 1 s, out after 3 failures, back after 2 successes, no panic.
    fn default() -> Self {
        Self {
            kind: HealthKind::Tcp,
            interval_ms: 2000,
            timeout_ms: 1000,
            rise: 2,
            fall: 3,
            panic_below_percent: 0,
            port: None,
        }
    }
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HealthKind {
    /// An echo reply.
    Icmp,
    /// A SYN-ACK.
    Tcp,
    /// The status of a GET.
    Http {
        /// Beginning with `/`.
        path: String,
        /// The `Host` header; empty: the backend's address, and the port unless it is 80.
        host: String,
        /// First and last status that count as healthy.
        status: (u16, u16),
    },
}

impl HealthKind {
    /// The name in documents.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Http { .. } => "http",
        }
    }
}

/// Protocol of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceProtocol {
    /// TCP (6).
    #[default]
    Tcp,
    /// UDP (17).
    Udp,
    /// ICMP echo (1) for IPv4 addresses, ICMPv6 echo (58) for IPv6 ones.
    Icmp,
}

impl ServiceProtocol {
    /// IP protocol number for the family.
    pub const fn number(self, v6: bool) -> u8 {
        match (self, v6) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Icmp, false) => 1,
            (Self::Icmp, true) => 58,
        }
    }
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Unique within the service.
    pub name: String,
    /// Where packets go.
    pub address: IpAddr,
    /// Destination port there; `None` keeps the client's. Always `None` for ICMP and where replies go directly.
    pub port: Option<u16>,
    /// Share of new sessions, 1..=1000.
    pub weight: u16,
    /// What it takes.
    pub state: BackendState,
}

/// What a backend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendState {
    /// New sessions.
    #[default]
    Up,
    /// No new sessions; its own go on.
    Draining,
    /// No new sessions; it is out of service.
    Down,
}

impl Default for BackendSpec {
    /// Weight 1; without a name or address it is no backend yet.
    fn default() -> Self {
        let address = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        Self { name: String::new(), address, port: None, weight: 1, state: BackendState::Up }
    }
}
