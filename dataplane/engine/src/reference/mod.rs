//! The slow twin of the pipeline: `BEHAVIOUR.md` and the RFCs put into code as directly as possible, packet by packet, with linear
//! scans and plain vectors. Property tests hold the pipeline to it, byte for byte and fate for fate.
//!
//! It shares with the pipeline what must be one thing in a cluster, the [`hash`](crate::hash), and nothing else.

mod announce;
mod arp;
mod checksum;
mod finish;
mod forward;
mod fragment;
mod icmp;
mod layer2;
mod layer3;
mod layer4;
mod limits;
mod mark;
mod nd;
mod neighbour;
mod node;
mod outcome;
mod policer;
mod related;
mod reset;
mod route;
mod rule;
mod service;
mod session;
mod tunnel;
mod urpf;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use layer4::Tuple;
pub use limits::Counted;
pub use neighbour::{Held, Neighbour};
pub use outcome::{Choices, Fate, Outcome};
pub use rule::{Ruled, Sight};
pub use session::{Direction, Session, SessionState, TcpFlags};

use crate::io::Mac;
use crate::reason::DropReason;
use crate::tables::RuleTables;
use forward::{End, Punt};
use fragment::Fragments;
use icmp::Cause;
use limits::Rates;
use neighbour::Neighbours;
use node::Node;
use policer::Policers;
use service::Rings;
use session::Sessions;

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Index into [`RuleTables::ports`].
    pub port: usize,
    /// From the destination MAC on, no FCS.
    pub frame: &'a [u8],
    /// What the pipeline chose for it.
    pub choices: Choices,
}

/// A node that forwards as the specification says.
///
/// Ports are known by their index, so a push must not reorder them. Time is given with every call and should not go back.
#[derive(Clone, Debug)]
pub struct Reference {
    node: Node,
    sessions: Sessions,
    neighbours: Neighbours,
    policers: Policers,
    rings: Rings,
    errors: icmp::ErrorRate,
    announcements: announce::Announcements,
    samples: rule::Samples,
    rates: Rates,
    fragments: Fragments,
    /// See [`Reference::expect_sources`].
    nat_sources: Vec<(Tuple, (IpAddr, u16))>,
}

impl Reference {
    /// A node without sessions and neighbours. `macs[i]` is the address of port `i`.
    pub fn new(tables: RuleTables, macs: Vec<Mac>) -> Self {
        Self {
            node: Node { tables, macs, generation: 1, down: BTreeSet::new() },
            sessions: Sessions::default(),
            neighbours: Neighbours::default(),
            policers: Policers::default(),
            rings: Rings::default(),
            errors: icmp::ErrorRate::default(),
            announcements: announce::Announcements::default(),
            samples: rule::Samples::default(),
            rates: Rates::default(),
            fragments: Fragments::default(),
            nat_sources: Vec::new(),
        }
    }

    /// Makes addresses known when they appear.
    #[must_use]
    pub fn announcing(mut self) -> Self {
        self.announcements.wanted = true;
        self
    }

    /// A push: the next generation. Sessions stay and are decided anew when touched; policers keep their tokens by name;
    /// neighbours of interfaces that are gone go, with the packets that wait for them.
    pub fn replace(&mut self, tables: RuleTables) -> Outcome {
        let mut out = Outcome::default();
        self.rings.configure(&self.node.tables.services, &tables.services);
        self.node.tables = tables;
        self.node.generation += 1;
        self.samples = rule::Samples::default();
        self.policers.configure(&self.node.tables.policers);
        self.neighbours.configure(&self.node, &mut out);
        out
    }

    /// What checks say: these backends of a service are out, no others of it.
    pub fn leave_out(&mut self, service: &str, backends: &[&str]) {
        self.rings.leave_out(service, backends);
    }

    /// The links of these ports are down, and of no others.
    pub fn set_links_down(&mut self, ports: &[&str]) {
        self.node.down = ports.iter().map(|&port| port.to_owned()).collect();
    }

    /// The sources that full NAT chose for sessions that are about to begin, by the client's tuple: for packets that are no arrivals with
    /// choices of their own, as fragments that waited.
    pub fn expect_sources(&mut self, sources: Vec<(Tuple, (IpAddr, u16))>) {
        self.nat_sources = sources;
    }

    /// The same configuration under the next number: sessions are decided anew when touched.
    pub fn republish(&mut self) {
        self.node.generation += 1;
        self.samples = rule::Samples::default();
    }

    /// One packet and its turn of the slow path, timers excluded.
    pub fn process(&mut self, now: u64, port: usize, frame: &[u8], choices: Choices) -> Outcome {
        self.burst(now, &[Arrival { port, frame, choices }])
    }

    /// Packets received together: first all go through the fast part, port by port, each time followed by fragments that had waited
    /// for one of them; then the punted ones through the slow path.
    pub fn burst(&mut self, now: u64, arrivals: &[Arrival]) -> Outcome {
        self.sessions.expire(now);
        let mut out = Outcome::default();
        self.fragments.expire(now, &mut out);
        let mut ends = Vec::new();
        for (number, arrival) in arrivals.iter().enumerate() {
            let Arrival { port, frame, choices } = *arrival;
            let end = self.forward(now, port, frame, None, choices, &mut out);
            ends.push((true, transmit(end, &mut out)));
            if arrivals.get(number + 1).is_some_and(|next| next.port == port) {
                continue;
            }
            while let Some(((port, frame), told)) = self.fragments.ready.pop_front() {
                let end = self.forward(now, port, &frame, Some(told), choices, &mut out);
                ends.push((false, transmit(end, &mut out)));
            }
        }
        for (arrived, end) in ends {
            let fate = match end {
                Ok(fate) => fate,
                Err(punt) => self.slow_path(now, punt, &mut out),
            };
            out.count(fate);
            if arrived {
                out.fates.push(fate);
            }
        }
        out.objections.append(&mut self.sessions.objections);
        out
    }

    fn slow_path(&mut self, now: u64, punt: Punt, out: &mut Outcome) -> Fate {
        match punt {
            Punt::Arp(frame) => self.arp(now, &frame, out),
            Punt::Local(frame, ip) => self.local(now, &frame, &ip, out),
            Punt::Reject(frame, ip) => self.reject(now, &frame, &ip, out),
            Punt::Refuse(frame, ip, cause) => self.refuse(now, frame.interface, &ip, cause, out),
            Punt::Neighbour { interface, next_hop, held } => {
                self.neighbours.deliver(now, &self.node, interface, next_hop, *held, out)
            }
            Punt::TooLong { interface, next_hop, packet } => {
                let fragments = fragment::cut(&packet, self.node.mtu(interface));
                let mut fates = Vec::new();
                for bytes in &fragments {
                    let frame = layer2::enframe(&self.node, interface, [0; 6], layer2::Kind::V4, bytes);
                    let held = Held { frame, received: None };
                    fates.push(self.neighbours.deliver(now, &self.node, interface, next_hop, held, out));
                }
                // The packet becomes its first fragment; the others are made.
                out.originated += fates.len() as u64 - 1;
                fates[1..].iter().for_each(|fate| out.count(*fate));
                fates[0]
            }
        }
    }

    /// The neighbours' timers: the end of a turn of the slow path.
    pub fn tick(&mut self, now: u64) -> Outcome {
        let mut out = Outcome::default();
        self.fragments.expire(now, &mut out);
        for held in self.neighbours.tick(now, &self.node, &mut out) {
            let fate = self.host_unreachable(now, &held, &mut out);
            out.count(fate);
        }
        self.announcements.tick(now, &self.node, &mut out);
        out
    }

    /// The end of a packet that waited in vain.
    fn host_unreachable(&mut self, now: u64, held: &Held, out: &mut Outcome) -> Fate {
        let dropped = Fate::Dropped(DropReason::NeighbourUnreachable);
        let Some((port, vlan, ip)) = &held.received else { return dropped };
        let Some(interface) = self.node.interface_at(*port, *vlan) else { return dropped };
        self.refuse(now, interface, ip, Cause::HostUnreachable, out)
    }

    /// Packets that wait for a neighbour, or for their first fragment.
    pub fn held(&self) -> usize {
        self.neighbours.held() + self.fragments.held()
    }

    /// The sessions that exist at `now`, in order of creation.
    pub fn sessions(&self, now: u64) -> impl Iterator<Item = &Session> {
        self.sessions.all.iter().filter(move |session| session.lives(now))
    }

    /// All neighbours, in order of creation.
    pub fn neighbours(&self) -> &[Neighbour] {
        &self.neighbours.all
    }

    /// Number of the running configuration; the first is 1.
    pub fn generation(&self) -> u64 {
        self.node.generation
    }

    /// The running configuration.
    pub fn tables(&self) -> &RuleTables {
        &self.node.tables
    }
}

/// What ends without the slow path.
fn transmit(end: End, out: &mut Outcome) -> Result<Fate, Punt> {
    Ok(match end {
        End::Transmit { port, frame } => {
            out.transmit(port, frame);
            Fate::Transmitted
        }
        End::Drop(reason) => Fate::Dropped(reason),
        End::Wait => Fate::Held,
        End::Punt(punt) => return Err(punt),
    })
}

/// An address in transmission order.
fn address_octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
