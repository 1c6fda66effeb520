//! What is on the wire: prepared frames by class of traffic, drawn at random in given shares.

use std::ops::Range;

use marchproxy_engine::flow::{FlowKey, v4};
use marchproxy_engine::io::{MIN_HEADROOM, Mac, PacketBuf};
use marchproxy_engine::memory::{BUFFER, MemoryBuf};
use marchproxy_engine::packet::{ACK, Packet, SYN};
use marchproxy_engine::wire::{
    Change, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, ICMP, ICMPV6, TAG, TCP, UDP, be16, be32, be128,
    put,
};

use crate::seeded::Rng;
use crate::seeded::rules::Tuple;

/// Octets of a frame that a template holds: every header with room to spare. What follows is zero in every buffer.
const HELD: usize = 96;

/// Frame check sequence, counted in packet sizes as testers do (RFC 2544 s9) but not in buffers.
pub const FCS: usize = 4;

/// Preamble and gap: what a frame costs on the wire beyond its size.
pub const WIRE_OVERHEAD: usize = 20;

/// Sizes of RFC 2544 s9.1.
const SIZES: [u16; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// Sizes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All alike, FCS included.
    Fixed(u16),
    /// 64, 570 and 1518 octets in shares of 7, 4 and 1.
    Imix,
    /// As captured; frames that are made beside those have 64.
    Captured,
}

impl Size {
    /// Every size there is (RFC 2544 s9.1 for Ethernet, and the mix).
    pub fn all() -> Vec<Self> {
        SIZES.into_iter().map(Self::Fixed).chain([Self::Imix]).collect()
    }

    fn draw(self, rng: &mut Rng) -> usize {
        usize::from(match self {
            Self::Fixed(size) => size,
            Self::Captured => 64,
            Self::Imix => rng.weighted(&[(7, 64), (4, 570), (1, 1518)]).unwrap_or(64),
        })
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(size) if SIZES.contains(&size) => Ok(Self::Fixed(size)),
            _ if text == "imix" => Ok(Self::Imix),
            _ => Err(format!("{text}: allowed 64, 128, 256, 512, 1024, 1280, 1518 or imix")),
        }
    }
}

impl serde::Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Imix => f.write_str("imix"),
            Self::Captured => f.write_str("pcap"),
        }
    }
}

/// What kind of packet a flow sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP with ACK, UDP, or an ICMP echo request, as the tuple's protocol says.
    Data,
    /// The first packet of a TCP connection.
    Syn,
    /// A fragment with this offset in octets: the first of its packet, or the last.
    Fragment(u16),
}

/// A prepared frame.
#[derive(Clone, Debug)]
pub struct Template {
    /// Which port it arrives on.
    pub port: u8,
    len: u16,
    held: u8,
    bytes: [u8; HELD],
    /// What follows the held octets where that is not zero.
    tail: Option<Box<[u8]>>,
}

impl Template {
    /// The packet of a flow that arrives on `port`, from the station `src` to our MAC address `dst`. A size below what the headers take
    /// becomes that (IPv6 with TCP: 78).
    pub fn new(port: u8, src: Mac, dst: Mac, tuple: &Tuple, kind: Kind, size: Size, rng: &mut Rng) -> Self {
        let wanted = size.draw(rng) - FCS;
        let packet = Packet::eth(src, dst).ip(tuple.src, tuple.dst);
        let packet = match kind {
            Kind::Fragment(offset) => packet.fragment(offset, offset == 0, tuple.sport),
            _ => packet,
        };
        let packet = match (kind, tuple.protocol) {
            // The last fragment has no transport header; data of the first is a multiple of eight octets.
            (Kind::Fragment(1..), protocol) => packet.protocol(protocol).payload([0; 8]),
            (_, ICMP | ICMPV6) => packet.echo(tuple.sport, 1),
            (_, TCP) => packet.tcp(tuple.sport, tuple.dport).flags(if kind == Kind::Syn { SYN } else { ACK }),
            _ => packet.udp(tuple.sport, tuple.dport),
        };
        let bare = packet.build().len();
        let mut payload = wanted.saturating_sub(bare);
        if matches!(kind, Kind::Fragment(_)) {
            payload &= !7;
        }
        let frame = packet.payload(vec![0; payload]).build();
        let held = frame.len().min(HELD);
        let mut bytes = [0; HELD];
        bytes[..held].copy_from_slice(&frame[..held]);
        Self { port, len: frame.len() as u16, held: held as u8, bytes, tail: None }
    }

    /// A frame as it is, cut to what a buffer holds.
    pub fn captured(port: u8, frame: &[u8]) -> Self {
        let frame = &frame[..frame.len().min(BUFFER - MIN_HEADROOM)];
        let (head, tail) = frame.split_at(frame.len().min(HELD));
        let mut bytes = [0; HELD];
        bytes[..head.len()].copy_from_slice(head);
        Self { port, len: frame.len() as u16, held: head.len() as u8, bytes, tail: Some(tail.into()) }
    }

    /// Writes the frame into a buffer.
    #[inline]
    pub fn fill(&self, buffer: &mut MemoryBuf) {
        let held = usize::from(self.held);
        buffer.set(&self.bytes[..held]);
        // Every frame fits a buffer, and everything behind the held part is zero in all of them, unless there are captured ones.
        let _ = buffer.resize(usize::from(self.len));
        if let Some(tail) = &self.tail {
            buffer.data_mut()[held..].copy_from_slice(tail);
        }
    }

    /// The frame, addressed to the port with this MAC address.
    pub fn frame(&self, dst: Mac) -> Vec<u8> {
        let mut frame = self.bytes[..usize::from(self.held)].to_vec();
        frame.resize(usize::from(self.len), 0);
        put(&mut frame, 0, &dst);
        frame
    }

    /// The tuple as a network card sees it: ports only where every packet of the flow has them; `None` for what is not IP.
    pub fn flow(&self) -> Option<FlowKey> {
        let bytes = &self.bytes;
        let l3 = if be16(bytes, 12) == ETHERTYPE_VLAN { ETHERNET + TAG } else { ETHERNET };
        let octet = |at: usize| bytes.get(at).copied().unwrap_or_default();
        let (src, dst, protocol, l4) = match be16(bytes, l3 - 2) {
            ETHERTYPE_IPV4 => {
                // Neither more fragments nor an offset: the low 14 bits.
                let l4 = (be16(bytes, l3 + 6).trailing_zeros() >= 14).then_some(l3 + usize::from(octet(l3) & 15) * 4);
                (v4(be32(bytes, l3 + 12)), v4(be32(bytes, l3 + 16)), octet(l3 + 9), l4)
            }
            ETHERTYPE_IPV6 => (be128(bytes, l3 + 8), be128(bytes, l3 + 24), octet(l3 + 6), Some(l3 + 40)),
            _ => return None,
        };
        let l4 = l4.filter(|_| matches!(protocol, TCP | UDP));
        let (sport, dport) = l4.map_or((0, 0), |at| (be16(bytes, at), be16(bytes, at + 2)));
        Some(FlowKey { src, dst, protocol, sport, dport })
    }

    /// Octets behind the IP header without options and, in IPv6, a fragment header.
    pub fn fragment_octets(&self) -> u16 {
        self.len - (ETHERNET + if self.is_v6() { 48 } else { 20 }) as u16
    }

    /// Whether it is IPv6.
    pub fn is_v6(&self) -> bool {
        be16(&self.bytes, 12) == ETHERTYPE_IPV6
    }

    /// Changes the source port of a TCP packet, checksum included.
    fn set_source_port(&mut self, port: u16) {
        let l4 = ETHERNET + if self.is_v6() { 40 } else { 20 };
        let mut change = Change::default();
        change.word(be16(&self.bytes, l4), port);
        let sum = change.apply(be16(&self.bytes, l4 + 16));
        put(&mut self.bytes, l4, &port.to_be_bytes());
        put(&mut self.bytes, l4 + 16, &sum.to_be_bytes());
    }
}

/// First and last source port of new flows.
const FRESH_PORTS: Range<u16> = 1024..65_000;

/// Shares of classes are whole numbers of this where the share of new flows is set.
const GRAIN: f64 = 1e9;

/// In which order the frames of a class come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// At random, each as likely.
    Random,
    /// As they are, over and over.
    InTurn,
    /// The same, every packet the first of a new flow.
    Fresh,
}

/// One class of traffic.
#[derive(Clone, Debug)]
struct Class {
    /// Share among the lasting or among the new flows.
    per_mille: u32,
    /// Share of all packets, in whatever adds up to the load's total.
    weight: usize,
    templates: Range<usize>,
    order: Order,
    /// Packets drawn so far, where they come in an order.
    drawn: usize,
    /// Part of the class's packets that this load sends: all, or those of one queue.
    part: f64,
}

/// Which of `queues` queues a flow arrives on.
pub type Spread = fn(&FlowKey, queues: usize) -> usize;

/// The queue that a load is for.
#[derive(Clone, Copy, Debug)]
struct Queue {
    number: usize,
    of: usize,
    spread: Spread,
}

/// Everything that is sent, and in which shares.
#[derive(Clone, Debug, Default)]
pub struct Load {
    templates: Vec<Template>,
    classes: Vec<Class>,
    /// Sum of the weights.
    total: usize,
    /// New flows are those of this queue.
    queue: Option<Queue>,
}

/// Tries to find a new flow of one's own queue: without one after so many, the spread does not spread.
const TRIES: usize = 4096;

impl Load {
    /// Adds a class: its share in per mille and its frames, drawn uniformly.
    pub fn add(&mut self, per_mille: u32, templates: impl IntoIterator<Item = Template>) {
        self.class(per_mille, templates, Order::Random);
    }

    /// Adds a class whose frames come in their order.
    pub fn add_in_turn(&mut self, per_mille: u32, templates: impl IntoIterator<Item = Template>) {
        self.class(per_mille, templates, Order::InTurn);
    }

    /// Adds a class whose every packet starts a flow never seen before: the templates' clients in turn, a new source port each round. The
    /// set repeats after 63,976 packets per client.
    pub fn add_fresh(&mut self, per_mille: u32, templates: impl IntoIterator<Item = Template>) {
        self.class(per_mille, templates, Order::Fresh);
    }

    fn class(&mut self, per_mille: u32, templates: impl IntoIterator<Item = Template>, order: Order) {
        let first = self.templates.len();
        self.templates.extend(templates);
        let templates = first..self.templates.len();
        if per_mille > 0 && !templates.is_empty() {
            let weight = per_mille as usize;
            self.classes.push(Class { per_mille, weight, templates, order, drawn: 0, part: 1.0 });
            self.total += weight;
        }
    }

    /// Makes this share of all packets the first of a new flow, 0 to 1; the other classes keep their proportions.
    pub fn set_fresh_share(&mut self, share: f64) {
        let sum = |fresh: bool| {
            let classes = self.classes.iter().filter(|c| (c.order == Order::Fresh) == fresh);
            f64::from(classes.map(|c| c.per_mille).sum::<u32>())
        };
        let (fresh, lasting) = (sum(true), sum(false));
        for class in &mut self.classes {
            let (of, all) = if class.order == Order::Fresh { (share, fresh) } else { (1.0 - share, lasting) };
            class.weight = (f64::from(class.per_mille) / all * of * GRAIN * class.part) as usize;
        }
        self.total = self.classes.iter().map(|c| c.weight).sum();
    }

    /// The same traffic as it arrives on `queues` queues: lasting flows where `place` puts them, new ones where `spread` does.
    pub fn split(&self, queues: usize, place: impl Fn(&Template) -> usize, spread: Spread) -> Vec<Load> {
        let mut loads: Vec<_> = (0..queues)
            .map(|number| Load { queue: Some(Queue { number, of: queues, spread }), ..Load::default() })
            .collect();
        for class in &self.classes {
            let templates = &self.templates[class.templates.clone()];
            let places: Vec<_> = templates.iter().map(&place).collect();
            for (number, load) in loads.iter_mut().enumerate() {
                let fresh = class.order == Order::Fresh;
                let own = templates.iter().zip(&places).filter(|(_, place)| fresh || **place == number);
                let first = load.templates.len();
                load.templates.extend(own.map(|(template, _)| template.clone()));
                let count = load.templates.len() - first;
                let part = if fresh { 1.0 / queues as f64 } else { count as f64 / templates.len() as f64 };
                let weight = (class.weight as f64 / self.total as f64 * GRAIN * part) as usize;
                if count > 0 {
                    load.classes.push(Class { templates: first..first + count, weight, part, ..class.clone() });
                    load.total += weight;
                }
            }
        }
        loads
    }

    /// The same, but its new flows begin half-way through the set.
    #[must_use]
    pub fn with_other_new_flows(mut self) -> Self {
        for class in self.classes.iter_mut().filter(|class| class.order == Order::Fresh) {
            class.drawn = class.templates.len() * FRESH_PORTS.len() / 2;
        }
        self
    }

    /// What it sends, in parts of what all queues' loads send.
    pub fn weight(&self) -> usize {
        self.total
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The frames of all flows that last, for warming up.
    pub fn lasting(&self) -> impl Iterator<Item = &Template> {
        self.classes.iter().filter(|c| c.order != Order::Fresh).flat_map(|c| &self.templates[c.templates.clone()])
    }

    /// Whether it starts new flows.
    pub fn has_fresh(&self) -> bool {
        self.classes.iter().any(|c| c.order == Order::Fresh)
    }

    /// The same shares with the packets of one family only.
    #[must_use]
    pub fn only(self, v6: bool) -> Self {
        let mut load = Self::default();
        for class in &self.classes {
            let frames = self.templates[class.templates.clone()].iter().filter(|t| t.is_v6() == v6).cloned();
            load.class(class.per_mille, frames, class.order);
        }
        load
    }

    /// The next packet.
    #[inline]
    pub fn draw(&mut self, rng: &mut Rng) -> Option<&Template> {
        self.pick(rng).and_then(|at| self.at(at))
    }

    /// A packet that was picked; until then it may be fetched.
    #[inline]
    pub fn at(&self, picked: usize) -> Option<&Template> {
        self.templates.get(picked)
    }

    /// Starts loading a packet that was picked.
    #[inline]
    pub fn prefetch(&self, picked: usize) {
        if let Some(template) = self.templates.get(picked) {
            marchproxy_cpu::prefetch_slice(&template.bytes, 0);
            marchproxy_cpu::prefetch_slice(&template.bytes, 64);
        }
    }

    /// Picks the next packet. One of a class of new flows is rewritten here: such a class must have more frames than picks are ahead.
    #[inline]
    pub fn pick(&mut self, rng: &mut Rng) -> Option<usize> {
        let mut point = rng.below(self.total);
        for class in &mut self.classes {
            if let Some(rest) = point.checked_sub(class.weight) {
                point = rest;
                continue;
            }
            let count = class.templates.len();
            if class.order == Order::Random {
                return Some(class.templates.start + rng.below(count));
            }
            if class.order == Order::InTurn {
                class.drawn += 1;
                return Some(class.templates.start + (class.drawn - 1) % count);
            }
            let mut at = 0;
            for _ in 0..TRIES {
                at = class.templates.start + class.drawn % count;
                let round = class.drawn / count;
                class.drawn += 1;
                let template = self.templates.get_mut(at)?;
                template.set_source_port(FRESH_PORTS.start + (round % FRESH_PORTS.len()) as u16);
                let Some(queue) = &self.queue else { break };
                if template.flow().is_some_and(|flow| (queue.spread)(&flow, queue.of) == queue.number) {
                    break;
                }
            }
            return Some(at);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::flow::from_ip;
    use marchproxy_engine::packet::{checksums, describe};

    const STATION: Mac = [2, 0, 0, 0, 0, 9];
    const OURS: Mac = [2, 0, 0, 0, 0, 1];

    fn template(src: &str, dst: &str, protocol: u8, kind: Kind, size: u16) -> Template {
        let tuple = Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, sport: 4000, dport: 80 };
        Template::new(0, STATION, OURS, &tuple, kind, Size::Fixed(size), &mut Rng::new(1, "t"))
    }

    fn frame(template: &Template) -> Vec<u8> {
        let mut buffer = MemoryBuf::empty();
        template.fill(&mut buffer);
        buffer.data().to_vec()
    }

    #[test]
    fn frames_have_the_size_asked_for_and_right_checksums() {
        for (src, dst) in [("100.64.0.1", "8.8.8.8"), ("2001:db8:c::1", "2a00::1")] {
            for (protocol, size) in [(6, 128), (17, 64), (17, 128), (6, 1518), (17, 1518)] {
                let frame = frame(&template(src, dst, protocol, Kind::Data, size));
                let least = if src.contains(':') { 62 } else { 60 };
                assert_eq!(frame.len(), (usize::from(size) - FCS).max(least), "{}", describe(&frame));
                let sums = checksums(&frame);
                assert!(format!("{sums:?}").matches("Bad").count() == 0, "{sums:?} {}", describe(&frame));
            }
        }
    }

    #[test]
    fn new_flows_differ_and_keep_right_checksums() {
        let mut load = Load::default();
        load.add_fresh(1000, ["2001:db8:c::1", "2001:db8:c::2"].map(|src| template(src, "2a00::1", 6, Kind::Syn, 64)));
        let (mut rng, mut seen) = (Rng::new(1, "draw"), std::collections::HashSet::new());
        for _ in 0..1000 {
            let frame = frame(load.draw(&mut rng).unwrap());
            assert!(!format!("{:?}", checksums(&frame)).contains("Bad"), "{}", describe(&frame));
            assert!(seen.insert(frame), "a flow came twice");
        }
        assert_eq!(load.lasting().count(), 0);
    }

    #[test]
    fn classes_come_in_their_shares() {
        let mut load = Load::default();
        load.add(700, [template("1.1.1.1", "8.8.8.8", 6, Kind::Data, 64)]);
        load.add(300, [template("1.1.1.1", "8.8.8.8", 17, Kind::Fragment(64), 128)]);
        let mut rng = Rng::new(1, "draw");
        let whole = (0..10_000).filter(|_| load.draw(&mut rng).unwrap().bytes[ETHERNET + 9] == 6).count();
        assert!((6800..7200).contains(&whole), "{whole}");
        assert!(Load::default().draw(&mut rng).is_none());
    }

    #[test]
    fn the_share_of_new_flows_can_be_set() {
        let mut load = Load::default();
        load.add(600, [template("1.1.1.1", "8.8.8.8", 17, Kind::Data, 64)]);
        load.add(300, [template("1.1.1.1", "8.8.8.8", 17, Kind::Fragment(64), 128)]);
        load.add_fresh(100, [template("1.1.1.1", "8.8.8.8", 6, Kind::Syn, 64)]);
        let mut rng = Rng::new(1, "draw");
        let mut count = |load: &mut Load| {
            let mut counts = [0usize; 3];
            for _ in 0..30_000 {
                let template = load.draw(&mut rng).unwrap();
                counts[if template.bytes[ETHERNET + 9] == 6 { 2 } else { usize::from(template.len > 60) }] += 1;
            }
            counts
        };
        assert!((2700..3300).contains(&count(&mut load)[2]));
        for (share, least, most) in [(0.0, 0, 0), (0.001, 10, 60), (0.5, 14_500, 15_500), (1.0, 30_000, 30_000)] {
            load.set_fresh_share(share);
            let [whole, fragments, fresh] = count(&mut load);
            assert!((least..=most).contains(&fresh), "{share}: {fresh}");
            assert!(share > 0.9 || (1.8..2.2).contains(&(whole as f64 / fragments as f64)), "{whole} {fragments}");
        }
    }

    #[test]
    fn queues_share_a_load() {
        let spread: Spread = |flow, queues| usize::from(flow.sport) % queues;
        let mut load = Load::default();
        let mut lasting = template("1.1.1.1", "8.8.8.8", 6, Kind::Data, 64);
        load.add(
            800,
            (0..100).map(|port| {
                lasting.set_source_port(port);
                lasting.clone()
            }),
        );
        load.add_fresh(200, [template("2001:db8:c::1", "2a00::1", 6, Kind::Syn, 64)]);
        // Three quarters on queue 0.
        let parts = load.split(2, |t| usize::from(t.flow().unwrap().sport % 4 == 3), spread);
        let weights: Vec<_> = parts.iter().map(Load::weight).collect();
        assert!((0.69..0.71).contains(&(weights[0] as f64 / weights.iter().sum::<usize>() as f64)), "{weights:?}");
        let (mut rng, mut seen) = (Rng::new(1, "draw"), std::collections::HashSet::new());
        for (number, mut part) in parts.into_iter().enumerate() {
            let mut fresh = 0;
            for _ in 0..4000 {
                let flow = part.draw(&mut rng).unwrap().flow().unwrap();
                if flow.src == from_ip("2001:db8:c::1".parse().unwrap()) {
                    fresh += 1;
                    assert_eq!(usize::from(flow.sport) % 2, number);
                    assert!(seen.insert(flow.sport), "a flow came twice");
                } else {
                    assert_eq!(usize::from(flow.sport % 4 == 3), number);
                }
            }
            // 100 of 700 and 100 of 300.
            let wanted = [571, 1333][number];
            assert!((wanted - 100..wanted + 100).contains(&fresh), "{number}: {fresh}");
        }
        assert_eq!(template("1.1.1.1", "8.8.8.8", 17, Kind::Fragment(0), 128).flow().unwrap().sport, 0);
    }

    #[test]
    fn sizes_are_read_and_refused() {
        assert_eq!("imix".parse(), Ok(Size::Imix));
        assert_eq!("1518".parse(), Ok(Size::Fixed(1518)));
        assert!("65".parse::<Size>().unwrap_err().contains("allowed 64"));
    }
}
