//! Why packets end: every drop, punt and consumption has exactly one named reason and one counter.

/// Declares a reason enum with stable names and a dense index for counters.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $label:literal $(=> $class:ident)?),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant),+ }

        impl $name {
            /// Every reason, in counter order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name shown to people and in metrics.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label),+ }
            }

            /// One sentence for operators.
            pub const fn describe(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// Position of the counter.
            pub const fn index(self) -> usize { self as usize }
        }
    };
}

reasons! {
    /// Why a packet was dropped. The order is the order of checks (see `BEHAVIOUR.md`).
    DropReason {
        /// The port is not part of the running configuration.
        PortNotConfigured = "port_not_configured",
        /// Shorter than its Ethernet header (and tags) says.
        L2Truncated = "l2_truncated",
        /// Unicast to another station's MAC address.
        L2NotForUs = "l2_not_for_us",
        /// The source MAC address is a group address or ours.
        L2BadSource = "l2_bad_source",
        /// No interface carries this VLAN on this port.
        VlanUnknown = "vlan_unknown",
        /// Neither IPv4, IPv6 nor ARP.
        EthertypeUnknown = "ethertype_unknown",
        /// The ARP packet is malformed or not Ethernet/IPv4.
        ArpMalformed = "arp_malformed",
        /// The IP header is cut short or its version or header length is wrong.
        IpMalformed = "ip_malformed",
        /// The IP total length exceeds the frame.
        IpTruncated = "ip_truncated",
        /// The IPv4 header checksum is wrong.
        IpChecksum = "ip_checksum",
        /// The source address may never be a source (multicast, broadcast, loopback, unspecified).
        MartianSource = "martian_source",
        /// The destination address may never be forwarded (loopback, unspecified, class E).
        MartianDestination = "martian_destination",
        /// IPv4 source-route or record-route option, which this router refuses.
        IpOptions = "ip_options",
        /// An IPv6 extension header chain that is malformed or longer than we walk.
        Ipv6ExtensionHeaders = "ipv6_extension_headers",
        /// The TCP, UDP or ICMP header is cut short or inconsistent.
        L4Malformed = "l4_malformed",
        /// Multicast or broadcast IP that nobody here listens to.
        Multicast = "multicast",
        /// A fragment for one of our addresses: only whole packets are answered.
        FragmentUnsupported = "fragment_unsupported",
        /// The interface checks sources, and this one is not reached that way (or by no route at all).
        Urpf = "urpf",
        /// A fragment without data, whose length is no multiple of eight though others follow, or that ends beyond 65,535 octets.
        FragmentMalformed = "fragment_malformed",
        /// A fragment that cuts through a TCP, UDP or ICMP header, as attacks on filters do (RFC 1858, 3128).
        FragmentTiny = "fragment_tiny",
        /// The same fragment came before.
        FragmentDuplicate = "fragment_duplicate",
        /// A fragment overlaps or contradicts another one: all of the packet is dropped (RFC 5722).
        FragmentOverlap = "fragment_overlap",
        /// A packet in more fragments than are followed: all of it is dropped.
        FragmentTooMany = "fragment_too_many",
        /// A later fragment whose first one did not come in time.
        FragmentFirstMissing = "fragment_first_missing",
        /// A later fragment gave way to newer ones: too many wait for their first one.
        FragmentHoldFull = "fragment_hold_full",
        /// A later fragment gave way because too many packets come in fragments.
        FragmentTableFull = "fragment_table_full",
        /// A rule with action deny matched.
        RuleDeny = "rule_deny",
        /// A rule with action reject matched; the sender was told, rate permitting.
        RuleReject = "rule_reject",
        /// Addressed to a service whose backends are all absent, draining or down.
        NoBackend = "no_backend",
        /// Its service has as many sessions, half-open sessions or new sessions per second as it may have.
        SessionLimitService = "session_limit_service",
        /// Its source has as many sessions, half-open sessions or new sessions per second with the service as one may have.
        SessionLimitSource = "session_limit_source",
        /// All ports of the service's source pool are in use (full NAT).
        NatPortsExhausted = "nat_ports_exhausted",
        /// The session table has no room for the new session, and no session that may be evicted for it.
        SessionTableFull = "session_table_full",
        /// The reply tuple of the new session is already taken by another session of the same client port.
        NatConflict = "nat_conflict",
        /// No route leads to the destination.
        NoRoute = "no_route",
        /// A blackhole route matched.
        RouteBlackhole = "route_blackhole",
        /// A reject route matched.
        RouteReject = "route_reject",
        /// The time to live or hop limit ran out.
        TtlExceeded = "ttl_exceeded",
        /// The service's backend (dsr_mac) is no neighbour: a route leads to it, where its MAC address is wanted.
        BackendNotOnLink = "backend_not_on_link",
        /// Longer than the egress MTU (less the tunnel's headers) and may not be fragmented.
        MtuExceeded = "mtu_exceeded",
        /// A policer coloured it red (or yellow) and its action is drop.
        PolicerDrop = "policer_drop",
        /// The pool had no buffers for the fragments of a packet that is longer than the egress MTU.
        FragmentNoBuffer = "fragment_no_buffer",
        /// The next hop did not answer ARP or ND in time.
        NeighbourUnreachable = "neighbour_unreachable",
        /// Too many packets wait for this next hop's address, or for all of them.
        NeighbourHoldFull = "neighbour_hold_full",
        /// The slow path's queue is full.
        PuntQueueFull = "punt_queue_full",
        /// The ring back from the slow path to the worker is full.
        InjectQueueFull = "inject_queue_full",
        /// The ring to the worker that owns the session is full.
        HandoffQueueFull = "handoff_queue_full",
        /// Its service has as many packets or octets in the queues of the shaped port as it may have.
        QueueFull = "queue_full",
        /// It waited in a queue of a shaped port for longer than its class or service allows.
        QueueDeadline = "queue_deadline",
        /// Active queue management dropped it: its queue's delay stays above the target, and its ends do not know ECN.
        QueueAqm = "queue_aqm",
        /// The driver's transmit queue did not take it in time.
        TxQueueFull = "tx_queue_full",
        /// The egress port has no transmit queue (port gone or stopped).
        TxPortGone = "tx_port_gone",
        /// For one of our addresses, but we offer nothing there (answered with ICMP where the RFCs ask for it).
        LocalUnreachable = "local_unreachable",
        /// An ICMP error for one of our addresses that matches nothing we sent.
        IcmpErrorUnmatched = "icmp_error_unmatched",
        /// ARP or ND that is invalid, or not about an address of ours.
        NeighbourIgnored = "neighbour_ignored",
        /// No room in the buffer's headroom for the header to add.
        NoHeadroom = "no_headroom",
        /// Given up when the daemon stopped.
        Shutdown = "shutdown",
    }
}

/// Classes of drops: what the operator asked for, what is broken, what is overload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropClass {
    /// The configuration says so.
    Policy,
    /// The packet or the configuration is wrong.
    Error,
    /// Something was full.
    Congestion,
}

impl DropClass {
    /// The name shown in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Error => "error",
            Self::Congestion => "congestion",
        }
    }
}

impl DropReason {
    /// Which class the reason belongs to.
    pub const fn class(self) -> DropClass {
        use DropReason as R;
        match self {
            R::Urpf
            | R::RuleDeny
            | R::RuleReject
            | R::SessionLimitService
            | R::SessionLimitSource
            | R::RouteBlackhole
            | R::RouteReject
            | R::PolicerDrop
            | R::IpOptions
            | R::Multicast => DropClass::Policy,
            R::SessionTableFull
            | R::FragmentHoldFull
            | R::FragmentTableFull
            | R::FragmentNoBuffer
            | R::NatPortsExhausted
            | R::NeighbourHoldFull
            | R::PuntQueueFull
            | R::InjectQueueFull
            | R::HandoffQueueFull
            | R::QueueFull
            | R::QueueDeadline
            | R::QueueAqm
            | R::TxQueueFull => DropClass::Congestion,
            _ => DropClass::Error,
        }
    }
}

reasons! {
    /// Why a packet left the fast path for the slow path. A punt is no end: the slow path consumes, holds or drops it.
    PuntReason {
        /// ARP request or reply.
        Arp = "arp",
        /// Addressed to one of our addresses (ICMP, ND, or a closed port), or ND to a multicast group we listen to.
        Local = "local",
        /// Time to live ran out: ICMP time exceeded is due.
        TtlExceeded = "ttl_exceeded",
        /// No route: ICMP unreachable is due.
        NoRoute = "no_route",
        /// Reject route: ICMP unreachable (administratively prohibited) is due.
        RouteReject = "route_reject",
        /// A rule rejects it: a TCP reset or ICMP unreachable (administratively prohibited) is due.
        RuleReject = "rule_reject",
        /// Longer than the egress MTU: ICMP fragmentation needed / packet too big is due.
        MtuExceeded = "mtu_exceeded",
        /// Longer than the egress MTU and may be fragmented: it is cut.
        Fragment = "fragment",
        /// The next hop's MAC address is not known yet: the packet waits.
        Neighbour = "neighbour",
    }
}

reasons! {
    /// What a packet meant for us was used for.
    ConsumeReason {
        /// ARP from which we learned, or which we answered.
        Arp = "arp",
        /// Neighbour discovery from which we learned, or which we answered.
        Nd = "nd",
        /// An ICMP echo request that we answered.
        Echo = "echo",
        /// An answer to a health check, or a late one that we refused.
        Health = "health",
    }
}

reasons! {
    /// What the look-up of a packet's session found, of packets that may have one.
    LookupResult {
        /// A session, in the client's direction.
        HitForward = "hit_forward",
        /// A session, in the backend's direction.
        HitReverse = "hit_reverse",
        /// None, and the packet begins a flow: a TCP SYN, or UDP or an echo request to a service.
        MissNew = "miss_new",
        /// None, and it is from the middle of a TCP connection to a service: taken over.
        MissMidstream = "miss_midstream",
        /// None, and no service is at the service address for its protocol and port.
        MissNoService = "miss_no_service",
        /// None, though sessions have its addresses, and it is not to a service: mostly a reply whose session is gone.
        MissReply = "miss_reply",
    }
}

reasons! {
    /// Why a session ended; the evictions in the order in which victims are taken.
    SessionEnd {
        /// Idle for longer than its timeout.
        Expired = "expired",
        /// A rule of a newer generation denies it.
        RuleDeny = "rule_deny",
        /// Its service is gone.
        ServiceGone = "service_gone",
        /// Its client began anew while its backend took no new sessions.
        BackendLost = "backend_lost",
        /// Its place was needed: the handshake was not finished.
        EvictedHalfOpen = "evicted_half_open",
        /// Its place was needed: it was closed or closing.
        EvictedClosed = "evicted_closed",
        /// Its place was needed: the backend had never answered.
        EvictedOneWay = "evicted_one_way",
        /// Its place was needed: it had been idle.
        EvictedIdle = "evicted_idle",
    }
}
