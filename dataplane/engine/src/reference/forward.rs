//! Sections 4 to 10: the way of a packet through the node.

use super::finish::{Rewrite, finish};
use super::icmp::Cause;
use super::layer2::{Frame, Kind, enframe};
use super::layer4::{Fragment, Ip, Message};
use super::neighbour::Held;
use super::node::is_link_local;
use super::outcome::Choices;
use super::route::{Route, lookup};
use super::rule::{Subject, judge};
use super::session::{Direction, Session, TcpFlags, initial_state};
use super::{Reference, layer2, layer3, layer4, service};
use crate::reason::DropReason;

/// Where the fast part of the way ends.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Finished, and the next hop is known.
    Transmit {
        port: usize,
        frame: Vec<u8>,
    },
    Drop(DropReason),
    Punt(Punt),
}

/// What the slow path gets.
#[derive(Clone, Debug)]
pub(super) enum Punt {
    Arp(Frame),
    Local(Frame, Ip),
    Refuse(Frame, Ip, Cause),
    /// Finished but for the next hop's MAC address.
    Neighbour {
        interface: usize,
        next_hop: std::net::IpAddr,
        held: Held,
    },
}

/// What session, rules and service decided for a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    pub rewrite: Rewrite,
    pub rule_mark: Option<u8>,
    pub service_mark: Option<u8>,
    pub policer: Option<usize>,
}

impl Decision {
    pub fn of(session: &Session, direction: Direction) -> Self {
        let (backend, backend_port) = session.backend();
        let (rewrite, policer) = match direction {
            Direction::Forward => (Rewrite::Destination(backend, backend_port), session.policer),
            Direction::Reverse => (Rewrite::Source(session.forward.dst, session.forward.dport), None),
        };
        Self { rewrite, rule_mark: session.rule_mark, service_mark: session.service_mark, policer }
    }
}

impl Reference {
    /// Everything up to transmission, drop or punt.
    pub(super) fn forward(&mut self, now: u64, port: usize, bytes: &[u8], choices: Choices) -> End {
        self.walk(now, port, bytes, choices).unwrap_or_else(End::Drop)
    }

    fn walk(&mut self, now: u64, port: usize, bytes: &[u8], choices: Choices) -> Result<End, DropReason> {
        let frame = layer2::receive(&self.node, port, bytes)?;
        if frame.kind == Kind::Arp {
            return Ok(End::Punt(Punt::Arp(frame)));
        }
        let ip = layer4::parse(layer3::parse(&self.node, &frame)?)?;
        let is_for_us = self.is_for_us(&frame, &ip)?;
        self.check_source(frame.interface, &ip)?;
        if is_for_us {
            return Ok(End::Punt(Punt::Local(frame, ip)));
        }
        if let Some((ip, decision)) = self.related(frame.interface, &ip)? {
            return self.route(now, frame, &ip, decision);
        }
        let decision = match self.session(now, &ip)? {
            Some(decision) => decision,
            None => match self.first_packet(now, &frame, &ip, choices)? {
                Some(decision) => decision,
                None => return Ok(End::Punt(Punt::Local(frame, ip))),
            },
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

    /// Section 5: the decision of the session that the packet belongs to, if there is one.
    fn session(&mut self, now: u64, ip: &Ip) -> Result<Option<Decision>, DropReason> {
        if !ip.can_have_session() {
            return Ok(None);
        }
        let Some((index, direction)) = self.sessions.find(&ip.tuple()) else { return Ok(None) };
        if !self.current(index)? {
            return Ok(None);
        }
        let session = &mut self.sessions.all[index];
        session.touch(now, direction, &TcpFlags::of(ip));
        Ok(Some(Decision::of(session, direction)))
    }

    /// Decides a session anew if that is due. False or an error: it ended.
    pub(super) fn current(&mut self, index: usize) -> Result<bool, DropReason> {
        if self.sessions.all[index].generation == self.node.generation {
            return Ok(true);
        }
        let decided = self.decide_again(&self.sessions.all[index]);
        if let Ok(Some(session)) = decided {
            self.sessions.all[index] = session;
            return Ok(true);
        }
        self.sessions.all.remove(index);
        decided.map(|_| false)
    }

    /// A session under the running configuration: denied, without its service, or decided anew with its old backend.
    fn decide_again(&self, session: &Session) -> Result<Option<Session>, DropReason> {
        let tables = &self.node.tables;
        let (port, vlan) = session.client;
        let subject = Subject::session(session.forward, self.node.interface_at(port, vlan));
        let rule_mark = judge(&tables.rules, &subject)?;
        let tuple = session.forward;
        let Some(index) = service::find(&tables.services, tuple.dst, tuple.protocol, tuple.dport) else {
            return Ok(None);
        };
        let service = &tables.services[index];
        let (service_mark, policer, generation) = (service.mark, service.policer, self.node.generation);
        Ok(Some(Session { generation, rule_mark, service_mark, policer, ..session.clone() }))
    }

    /// Sections 6 and 7: rules and service. Nothing if the packet is for a service address and no service.
    fn first_packet(
        &mut self,
        now: u64,
        frame: &Frame,
        ip: &Ip,
        choices: Choices,
    ) -> Result<Option<Decision>, DropReason> {
        let rule_mark = judge(&self.node.tables.rules, &Subject::packet(ip, frame.interface))?;
        if !self.node.is_service_address(ip.dst) {
            let rewrite = Rewrite::Nothing;
            return Ok(Some(Decision { rewrite, rule_mark, service_mark: None, policer: None }));
        }
        if ip.fragment != Fragment::No {
            return Err(DropReason::FragmentUnsupported);
        }
        let services = &self.node.tables.services;
        let forward = ip.tuple();
        let is_port_bearing = ip.ports().is_some() || ip.message() == Some(Message::EchoRequest);
        let Some(index) = service::find(services, ip.dst, ip.protocol, forward.dport).filter(|_| is_port_bearing)
        else {
            return Ok(None);
        };
        let backend = self.rings.pick(services, index, &forward).ok_or(DropReason::NoBackend)?;
        let reverse = layer4::Tuple {
            src: backend.address,
            dst: forward.src,
            protocol: forward.protocol,
            sport: backend.port.unwrap_or(forward.dport),
            dport: forward.sport,
        };
        if reverse == forward || self.sessions.find(&reverse).is_some() {
            return Err(DropReason::NatConflict);
        }
        if choices.session_refused {
            return Err(DropReason::SessionTableFull);
        }
        let interface = self.node.interface(frame.interface);
        let flags = TcpFlags::of(ip);
        let mut session = Session {
            forward,
            reverse,
            state: initial_state(ip.protocol, flags),
            fins: [false; 2],
            last_seen: now,
            generation: self.node.generation,
            client: (interface.port, interface.vlan),
            rule_mark,
            service_mark: services[index].mark,
            policer: services[index].policer,
        };
        session.touch(now, Direction::Forward, &flags);
        let decision = Decision::of(&session, Direction::Forward);
        self.sessions.all.push(session);
        Ok(Some(decision))
    }

    /// Sections 8 to 10.
    fn route(&mut self, now: u64, frame: Frame, ip: &Ip, decision: Decision) -> Result<End, DropReason> {
        let refuse = |frame, cause| Ok(End::Punt(Punt::Refuse(frame, ip.clone(), cause)));
        let receiving = self.node.interface(frame.interface);
        let destination = decision.rewrite.destination(ip);
        let (egress, next_hop) = match lookup(&self.node.tables, receiving.table, destination, &ip.tuple()) {
            Route::Via { interface, next_hop } => (interface, next_hop),
            Route::None => return refuse(frame, Cause::NoRoute),
            Route::Blackhole => return Err(DropReason::RouteBlackhole),
            Route::Reject => return refuse(frame, Cause::Rejected),
        };
        let ttl = if ip.is_v6() { ip.bytes[7] } else { ip.bytes[8] };
        if ttl <= 1 {
            return refuse(frame, Cause::TtlExceeded);
        }
        let mtu = self.node.mtu(egress);
        if ip.bytes.len() > mtu {
            let may_fragment = !ip.is_v6() && ip.bytes[6] & 0x40 == 0;
            return if may_fragment { Err(DropReason::MtuExceeded) } else { refuse(frame, Cause::TooBig(mtu as u16)) };
        }
        let policer_mark = match decision.policer.and_then(|index| self.node.tables.policers.get(index)) {
            Some(policer) => self.policers.meter(policer, now, ip.bytes.len())?,
            None => None,
        };
        let untrusted = (!receiving.trust_dscp).then_some(0);
        let dscp = policer_mark.or(decision.rule_mark).or(decision.service_mark).or(untrusted);
        let bytes = finish(ip, decision.rewrite, dscp);
        let port = self.node.interface(egress).port;
        if let Some(mac) = self.neighbours.mac(&self.node, egress, next_hop) {
            return Ok(End::Transmit { port, frame: enframe(&self.node, egress, mac, frame.kind, &bytes) });
        }
        let frame = enframe(&self.node, egress, [0; 6], frame.kind, &bytes);
        let received = Some((receiving.port, receiving.vlan, ip.clone()));
        Ok(End::Punt(Punt::Neighbour { interface: egress, next_hop, held: Held { frame, received } }))
    }
}
