//! Sections 4 to 10: the way of a packet through the node.

use std::net::IpAddr;

use super::finish::{Rewrite, finish, tos};
use super::icmp::Cause;
use super::layer2::{Frame, Kind, enframe};
use super::layer4::{Fragment, Ip, Message, TCP, Told, Tuple};
use super::neighbour::Held;
use super::node::is_link_local;
use super::outcome::{Choices, Outcome};
use super::route::{Route, lookup};
use super::rule::{Ruled, Sight, Subject, judge};
use super::session::{Direction, Session, TcpFlags};
use super::tunnel::Tunnel;
use super::{Reference, fragment, layer2, layer3, layer4, service};
use crate::reason::DropReason;
use crate::tables::{BackendLoss, Class, RuleAction, RuleWay, ServiceMode, ServiceSpec};

/// Where the fast part of the way ends.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Finished, and the next hop is known.
    Transmit {
        port: usize,
        frame: Vec<u8>,
    },
    Drop(DropReason),
    /// Waits for its first fragment.
    Wait,
    Punt(Punt),
}

/// What the slow path gets.
#[derive(Clone, Debug)]
pub(super) enum Punt {
    Arp(Frame),
    Local(Frame, Box<Ip>),
    Refuse(Frame, Box<Ip>, Cause),
    /// A rule rejects it.
    Reject(Frame, Box<Ip>),
    /// Finished but for the next hop's MAC address.
    Neighbour {
        interface: usize,
        next_hop: std::net::IpAddr,
        held: Box<Held>,
    },
    /// Finished from the IPv4 header on, but longer than its way allows.
    TooLong {
        interface: usize,
        next_hop: std::net::IpAddr,
        packet: Vec<u8>,
    },
}

impl From<DropReason> for End {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// What session, rules and service decided for a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    pub rewrite: Rewrite,
    pub rule_mark: Option<u8>,
    pub service_mark: Option<u8>,
    pub policer: Option<usize>,
    pub class: Option<Class>,
    pub way: Option<RuleWay>,
}

/// Why a packet gets no further than session, rules and service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Drop(DropReason),
    /// A rule rejects it.
    Reject,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl Refusal {
    /// What an action refuses; nothing of a permitted packet.
    fn by(action: RuleAction) -> Option<Self> {
        match action {
            RuleAction::Permit | RuleAction::Count => None,
            RuleAction::Deny => Some(Self::Drop(DropReason::RuleDeny)),
            RuleAction::Reject => Some(Self::Reject),
        }
    }
}

impl Decision {
    pub fn of(session: &Session, direction: Direction) -> Self {
        let (backend, backend_port) = session.backend();
        let full = session.mode == ServiceMode::FullNat;
        let rewrite = match direction {
            Direction::Forward if session.mode.is_direct() => Rewrite::Direct(session.mode, backend),
            Direction::Forward if full => {
                Rewrite::Both(session.backend(), (session.reverse.dst, session.reverse.dport))
            }
            Direction::Reverse if full => {
                let (client, vip) = (session.forward.src, session.forward.dst);
                Rewrite::Both((client, session.forward.sport), (vip, session.forward.dport))
            }
            Direction::Forward => Rewrite::Destination(backend, backend_port),
            Direction::Reverse => Rewrite::Source(session.forward.dst, session.forward.dport),
        };
        let (policer, way) = match direction {
            Direction::Forward => (session.policer, session.ruled.way),
            Direction::Reverse => (None, None),
        };
        let class = session.ruled.class.or(session.service_class);
        Self { rewrite, rule_mark: session.ruled.mark, service_mark: session.service_mark, policer, class, way }
    }
}

impl Reference {
    /// Everything up to transmission, drop or punt. `told` is what the first fragment said to one that had waited for it.
    pub(super) fn forward(
        &mut self,
        now: u64,
        port: usize,
        bytes: &[u8],
        told: Option<Told>,
        choices: Choices,
        out: &mut Outcome,
    ) -> End {
        match self.walk(now, port, bytes, told, choices, out) {
            Ok(end) | Err(end) => end,
        }
    }

    fn walk(
        &mut self,
        now: u64,
        port: usize,
        bytes: &[u8],
        told: Option<Told>,
        choices: Choices,
        out: &mut Outcome,
    ) -> Result<End, End> {
        let frame = layer2::receive(&self.node, port, bytes)?;
        if frame.kind == Kind::Arp {
            return Ok(End::Punt(Punt::Arp(frame)));
        }
        let mut ip = layer4::parse(layer3::parse(&self.node, &frame)?)?;
        let is_for_us = self.is_for_us(&frame, &ip)?;
        self.check_source(frame.interface, &ip)?;
        if is_for_us {
            return Ok(End::Punt(Punt::Local(frame, Box::new(ip))));
        }
        let told = if told.is_some() || ip.fragment == Fragment::No || !self.node.needs_ports() {
            told
        } else {
            let table = self.node.interface(frame.interface).table;
            match self.fragments.arrive(now, &ip, table, &(port, bytes.to_vec()), out) {
                fragment::Step::Pass(told) => Some(told),
                fragment::Step::Wait => return Ok(End::Wait),
                fragment::Step::Drop(reason) => return Err(End::Drop(reason)),
            }
        };
        if ip.fragment == Fragment::Later
            && let Some(told) = told
        {
            (ip.protocol, ip.told) = (told.tuple.protocol, Some(told));
        }
        let related = self.related(&ip, out);
        if let Ok(Some((ip, decision))) = related {
            return self.route(now, frame, &ip, decision);
        }
        let decided = match related.and_then(|_| self.session(now, &ip, out)) {
            Ok(None) => self.first_packet(now, &frame, &ip, choices, out),
            decided => decided,
        };
        let decision = match decided {
            Ok(Some(decision)) => decision,
            Ok(None) => return Ok(End::Punt(Punt::Local(frame, Box::new(ip)))),
            Err(Refusal::Drop(reason)) => return Err(reason.into()),
            Err(Refusal::Reject) => return Err(End::Punt(Punt::Reject(frame, Box::new(ip)))),
        };
        self.route(now, frame, &ip, decision)
    }

    /// Section 4: true for the slow path, false for the rest of the way.
    fn is_for_us(&self, frame: &Frame, ip: &Ip) -> Result<bool, DropReason> {
        if ip.is_v6() && ip.dst.is_multicast() {
            let discovery = matches!(ip.message(), Some(Message::Solicitation | Message::Advertisement));
            return if discovery && ip.fragment == Fragment::No { Ok(true) } else { Err(DropReason::Multicast) };
        }
        if frame.to_group {
            return Err(DropReason::Multicast);
        }
        if self.node.is_interface_address(ip.dst) || ip.dst == self.node.link_local(frame.interface) {
            return if ip.fragment == Fragment::No { Ok(true) } else { Err(DropReason::FragmentUnsupported) };
        }
        if ip.is_v6() && (ip.src.is_unspecified() || is_link_local(ip.src)) {
            return Err(DropReason::MartianSource);
        }
        if is_link_local(ip.dst) {
            return Err(DropReason::MartianDestination);
        }
        Ok(false)
    }

    /// Counts a packet under the rules that said something about it, and takes the samples that are due.
    fn count(&mut self, ruled: &Ruled, tuple: Tuple, out: &mut Outcome) {
        for name in ruled.counted.iter().chain(&ruled.rule) {
            out.counted.push(name.clone());
            let Some(rule) = self.node.tables.rules.iter().find(|rule| rule.name == *name) else { continue };
            if self.samples.due(rule) {
                out.sampled.push((name.clone(), tuple));
            }
        }
    }

    /// Section 5: the decision of the session that the packet belongs to, if there is one.
    fn session(&mut self, now: u64, ip: &Ip, out: &mut Outcome) -> Result<Option<Decision>, Refusal> {
        if !ip.can_have_session() {
            return Ok(None);
        }
        let Some((index, direction)) = self.sessions.find(&ip.tuple()) else { return Ok(None) };
        if !self.current(index, ip.tuple(), out)? {
            return Ok(None);
        }
        let flags = TcpFlags::of(ip);
        if direction == Direction::Forward && self.begins_elsewhere(&self.sessions.all[index], flags) {
            self.sessions.all.remove(index);
            return Ok(None);
        }
        let ruled = self.sessions.all[index].ruled.clone();
        self.count(&ruled, ip.tuple(), out);
        let session = &mut self.sessions.all[index];
        session.touch(now, direction, &flags);
        Ok(Some(Decision::of(session, direction)))
    }

    /// Whether a client's packet asks for a connection that the session's backend would not get now.
    fn begins_elsewhere(&self, session: &Session, flags: TcpFlags) -> bool {
        let asks = flags.syn && !flags.ack && !flags.rst && session.is_vacant();
        let tuple = session.forward;
        let services = &self.node.tables.services;
        let service = service::find(services, tuple.dst, tuple.protocol, tuple.dport).map(|index| &services[index]);
        let serves = service.is_some_and(|service| {
            let mut bound = service.backends.iter();
            let bound = bound.find(|b| (b.address, b.port.unwrap_or(tuple.dport)) == session.backend());
            bound.is_some_and(|backend| self.rings.is_eligible(service, backend))
        });
        asks && !serves
    }

    /// Decides a session anew if that is due. False or an error: it ended.
    pub(super) fn current(&mut self, index: usize, tuple: Tuple, out: &mut Outcome) -> Result<bool, Refusal> {
        if self.sessions.all[index].generation == self.node.generation {
            return Ok(true);
        }
        match self.decide_again(&self.sessions.all[index]) {
            Ok(Some(session)) => {
                self.sessions.all[index] = session;
                Ok(true)
            }
            Ok(None) => {
                self.sessions.all.remove(index);
                Ok(false)
            }
            Err((refusal, ruled)) => {
                self.sessions.all.remove(index);
                self.count(&ruled, tuple, out);
                Err(refusal)
            }
        }
    }

    /// A session under the running configuration: refused, without its service, or decided anew with its old backend.
    fn decide_again(&self, session: &Session) -> Result<Option<Session>, (Refusal, Ruled)> {
        let tables = &self.node.tables;
        let (port, vlan) = session.client;
        let subject = Subject::session(session.forward, self.node.interface_at(port, vlan), session.sight);
        let judged = judge(&tables.rules, &subject);
        let mut ruled = judged.ruled;
        if let Some(refusal) = Refusal::by(judged.action) {
            if !judged.rule.is_some_and(|rule| rule.new_only) {
                return Err((refusal, ruled));
            }
            ruled = Ruled { counted: ruled.counted, ..Ruled::default() };
        }
        let tuple = session.forward;
        let Some(index) = service::find(&tables.services, tuple.dst, tuple.protocol, tuple.dport) else {
            return Ok(None);
        };
        let service = &tables.services[index];
        if service.stateless || service.mode != session.mode {
            return Ok(None);
        }
        let (address, port) = session.backend();
        let bound = service.backends.iter().find(|b| (b.address, b.port.unwrap_or(tuple.dport)) == (address, port));
        if service.on_backend_loss == BackendLoss::Rebalance && bound.is_none_or(|b| self.rings.is_lost(service, b)) {
            return Ok(None);
        }
        let (service_mark, policer) = (service.mark, ruled.policer.or(service.policer));
        let (generation, service_class) = (self.node.generation, service.class);
        Ok(Some(Session { generation, ruled, service_mark, service_class, policer, ..session.clone() }))
    }

    /// Sections 6 and 7: rules and service. Nothing if the packet is for a service address and no service.
    fn first_packet(
        &mut self,
        now: u64,
        frame: &Frame,
        ip: &Ip,
        choices: Choices,
        out: &mut Outcome,
    ) -> Result<Option<Decision>, Refusal> {
        let subject = Subject::packet(&self.node, frame, ip);
        let judged = judge(&self.node.tables.rules, &subject);
        let (action, ruled) = (judged.action, judged.ruled);
        self.count(&ruled, ip.tuple(), out);
        if let Some(refusal) = Refusal::by(action) {
            return Err(refusal);
        }
        if !self.node.is_service_address(ip.dst) {
            let rewrite = Rewrite::Nothing;
            let Ruled { mark, policer, class, way, .. } = ruled;
            return Ok(Some(Decision { rewrite, rule_mark: mark, service_mark: None, policer, class, way }));
        }
        let services = &self.node.tables.services;
        let forward = ip.tuple();
        let is_port_bearing = ip.ports().is_some() || ip.whole_message() == Some(Message::EchoRequest);
        let Some(index) = service::find(services, ip.dst, ip.protocol, forward.dport).filter(|_| is_port_bearing)
        else {
            return Ok(None);
        };
        let service = &services[index];
        let backend = self.rings.pick(services, index, &forward).ok_or(DropReason::NoBackend)?;
        if service.stateless {
            let rewrite = Rewrite::Direct(service.mode, backend.address);
            let (service_mark, policer) = (service.mark, ruled.policer.or(service.policer));
            let (class, way) = (ruled.class.or(service.class), ruled.way);
            return Ok(Some(Decision { rewrite, rule_mark: ruled.mark, service_mark, policer, class, way }));
        }
        let flags = TcpFlags::of(ip);
        let opens = flags.syn && !flags.ack && !flags.fin && !flags.rst;
        let counted = self.rates.admit(now, service, forward.src, opens, &self.sessions.all)?;
        let (dst, dport) = match service.mode {
            ServiceMode::FullNat => self.source(service, &forward, choices)?,
            _ => (forward.src, forward.sport),
        };
        let sport = backend.port.unwrap_or(forward.dport);
        let reverse = layer4::Tuple { src: backend.address, dst, protocol: forward.protocol, sport, dport };
        if !service.mode.is_direct() && (reverse == forward || self.sessions.find(&reverse).is_some()) {
            return Err(DropReason::NatConflict.into());
        }
        if let Some(victim) = choices.evicted {
            self.sessions.evict(now, &victim);
        }
        if choices.session_refused {
            return Err(DropReason::SessionTableFull.into());
        }
        if let (Some(limits), Some(counted)) = (&service.limits, &counted) {
            self.rates.take(now, limits, counted);
        }
        let interface = self.node.interface(frame.interface);
        let mut session = Session {
            forward,
            reverse,
            handshake: flags.syn && !flags.ack,
            reset: false,
            // Where replies do not pass here, nobody would ever see one.
            answered: service.mode.is_direct(),
            fins: [false; 2],
            last_seen: now,
            generation: self.node.generation,
            client: (interface.port, interface.vlan),
            // One that begins with a later fragment remembers that no flag was set.
            sight: Sight { flags: (ip.protocol == TCP).then(|| subject.sight.flags.unwrap_or(0)), ..subject.sight },
            service_mark: service.mark,
            service_class: service.class,
            policer: ruled.policer.or(service.policer),
            mode: service.mode,
            ruled,
            counted,
        };
        session.touch(now, Direction::Forward, &flags);
        let decision = Decision::of(&session, Direction::Forward);
        self.sessions.all.push(session);
        Ok(Some(decision))
    }

    /// Section 7, full NAT: the source that the pipeline chose, which must be a free one of the pool.
    fn source(
        &self,
        service: &ServiceSpec,
        forward: &layer4::Tuple,
        choices: Choices,
    ) -> Result<(IpAddr, u16), DropReason> {
        let in_use = |source: (IpAddr, u16)| {
            let of_pool = |s: &&Session| s.mode == ServiceMode::FullNat && s.forward.protocol == forward.protocol;
            self.sessions.all.iter().filter(of_pool).any(|s| (s.reverse.dst, s.reverse.dport) == source)
        };
        let mut pool = service.source_pool.iter().filter(|pool| pool.is_ipv6() == forward.dst.is_ipv6());
        let expected = self.nat_sources.iter().find(|(tuple, _)| tuple == forward).map(|(_, source)| *source);
        match choices.nat_source.or(expected) {
            Some((address, port)) => {
                assert!(pool.any(|pool| *pool == address), "{address} is not in the pool of service {}", service.name);
                assert!(port >= 1024 && !in_use((address, port)), "port {port} of {address} is not free");
                Ok((address, port))
            }
            None if choices.session_refused => Err(DropReason::SessionTableFull),
            None => {
                let free = pool.flat_map(|pool| (1024..=u16::MAX).map(move |port| (*pool, port))).find(|s| !in_use(*s));
                assert_eq!(free, None, "a free port that was not taken for {forward:?}");
                Err(DropReason::NatPortsExhausted)
            }
        }
    }

    /// Sections 8 to 10.
    fn route(&mut self, now: u64, frame: Frame, ip: &Ip, decision: Decision) -> Result<End, End> {
        let refuse = |frame, cause| Ok(End::Punt(Punt::Refuse(frame, Box::new(ip.clone()), cause)));
        let receiving = self.node.interface(frame.interface);
        let (receiving_policer, trusted) = (receiving.policer, receiving.trust_dscp);
        let (receiving_port, receiving_vlan) = (receiving.port, receiving.vlan);
        let destination = decision.rewrite.destination(ip);
        // Packets to a backend that answers by itself go the backend's way.
        let way = decision.way.filter(|_| !matches!(decision.rewrite, Rewrite::Direct(..)));
        let table = if let Some(RuleWay::Table(table)) = way { table } else { receiving.table };
        let route = match way {
            Some(RuleWay::NextHop { address, interface }) if address.is_ipv6() == ip.is_v6() => {
                Route::Via { interface, next_hop: address }
            }
            _ => lookup(&self.node, table, destination, &ip.tuple()),
        };
        let (egress, next_hop) = match route {
            Route::Via { interface, next_hop } => (interface, next_hop),
            Route::None => return refuse(frame, Cause::NoRoute),
            Route::Blackhole => return Err(DropReason::RouteBlackhole.into()),
            Route::Reject => return refuse(frame, Cause::Rejected),
        };
        let tunnel = match decision.rewrite {
            Rewrite::Direct(ServiceMode::DsrMac, backend) if next_hop != backend => {
                return Err(DropReason::BackendNotOnLink.into());
            }
            Rewrite::Direct(mode, backend) if mode.is_tunnel() => Tunnel::new(&self.node, mode, egress, backend),
            _ => None,
        };
        let ttl = if ip.is_v6() { ip.bytes[7] } else { ip.bytes[8] };
        if ttl <= 1 {
            return refuse(frame, Cause::TtlExceeded);
        }
        let mtu = self.node.mtu(egress);
        let too_long = ip.bytes.len() + tunnel.map_or(0, |tunnel| tunnel.overhead()) > mtu;
        if too_long && (ip.is_v6() || ip.bytes[6] & 0x40 != 0) {
            let told = tunnel.map_or(mtu, |tunnel| tunnel.mtu(mtu, ip.is_v6()));
            return refuse(frame, Cause::TooBig(told as u16));
        }
        if too_long && tunnel.is_some() {
            return Err(DropReason::MtuExceeded.into());
        }
        let metered = self.police(now, ip, [receiving_policer, decision.policer])?;
        let mark = metered.mark.or(decision.rule_mark).or(decision.service_mark);
        let class = metered.class(decision.class);
        let dscp = match mark {
            None => (!trusted).then_some(0),
            Some(mark) => self.node.codepoint(mark, tos(ip) >> 2, class),
        };
        let mut bytes = finish(ip, decision.rewrite, dscp, metered.experienced);
        if too_long {
            return Ok(End::Punt(Punt::TooLong { interface: egress, next_hop, packet: bytes }));
        }
        let mut kind = frame.kind;
        if let Some(tunnel) = tunnel {
            bytes = tunnel.wrap(ip, bytes, mtu);
            kind = tunnel.kind();
        }
        let port = self.node.interface(egress).port;
        if let Some(mac) = self.neighbours.mac(&self.node, egress, next_hop) {
            return Ok(End::Transmit { port, frame: enframe(&self.node, egress, mac, kind, &bytes) });
        }
        let frame = enframe(&self.node, egress, [0; 6], kind, &bytes);
        let received = Some((receiving_port, receiving_vlan, ip.clone()));
        Ok(End::Punt(Punt::Neighbour { interface: egress, next_hop, held: Box::new(Held { frame, received }) }))
    }
}
