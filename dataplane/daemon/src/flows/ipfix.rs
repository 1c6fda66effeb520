//! IPFIX messages (RFC 7011) with the information elements of RFC 7012, of NAT (RFC 8158) and of flow selection (RFC 7014).
//!
//! A session is two flows, one for each direction. There is a template for each combination of family, ports or ICMP, and with or without NAT, so
//! that no record has a field that says nothing.

use std::net::IpAddr;

use marchproxy_engine::flow::{Addr, is_v4, to_ip};
use marchproxy_engine::table::sessions::{FlowEnd, FlowEvent, FlowRecord};
use marchproxy_engine::wire::{TCP, UDP};

/// Version and length, time, sequence number, domain.
const HEADER: usize = 16;
/// The longest record with its headers, 180 octets, and some: no message can be held shorter.
const LEAST: usize = 256;
const TEMPLATES: u16 = 2;
const OPTIONS_TEMPLATES: u16 = 3;

/// Number of the first template of flows; the bits of [`V6`], [`ICMP`] and [`NAT`] are added.
const FLOW: u16 = 256;
const V6: u16 = 1;
const ICMP: u16 = 2;
const NAT: u16 = 4;
/// NAT44 session events.
const NAT_EVENT: u16 = 264;
/// How sessions are selected.
const SELECTION: u16 = 265;

/// Information elements: number and octets.
type Field = (u16, u16);
const OCTETS: Field = (1, 8);
const PACKETS: Field = (2, 8);
const PROTOCOL: Field = (4, 1);
const SOURCE_PORT: Field = (7, 2);
const SOURCE_V4: Field = (8, 4);
const DESTINATION_PORT: Field = (11, 2);
const DESTINATION_V4: Field = (12, 4);
const SOURCE_V6: Field = (27, 16);
const DESTINATION_V6: Field = (28, 16);
const ICMP_V4: Field = (32, 2);
const END_REASON: Field = (136, 1);
const ICMP_V6: Field = (139, 2);
const START: Field = (152, 8);
const END: Field = (153, 8);
const AFTER_NAT_SOURCE_V4: Field = (225, 4);
const AFTER_NAT_DESTINATION_V4: Field = (226, 4);
const AFTER_NAT_SOURCE_PORT: Field = (227, 2);
const AFTER_NAT_DESTINATION_PORT: Field = (228, 2);
const NAT_EVENT_KIND: Field = (230, 1);
const AFTER_NAT_SOURCE_V6: Field = (281, 16);
const AFTER_NAT_DESTINATION_V6: Field = (282, 16);
const SELECTOR: Field = (302, 8);
const OBSERVED_AT: Field = (323, 8);
const SELECTOR_ALGORITHM: Field = (390, 2);
const FLOWS_OBSERVED: Field = (394, 8);
const FLOWS_SELECTED: Field = (395, 8);
const INTERVAL: Field = (396, 8);
const SPACING: Field = (397, 8);

/// Of the registry of natEvent: NAT44 session create and delete.
const NAT44_CREATE: u8 = 4;
const NAT44_DELETE: u8 = 5;
/// Of the registry of flowSelectorAlgorithm: systematic count-based sampling.
const COUNT_BASED: u16 = 1;

const NAT_EVENT_FIELDS: [Field; 11] = [
    OBSERVED_AT,
    NAT_EVENT_KIND,
    PROTOCOL,
    SOURCE_V4,
    SOURCE_PORT,
    AFTER_NAT_SOURCE_V4,
    AFTER_NAT_SOURCE_PORT,
    DESTINATION_V4,
    DESTINATION_PORT,
    AFTER_NAT_DESTINATION_V4,
    AFTER_NAT_DESTINATION_PORT,
];

/// The first one is the scope.
const SELECTION_FIELDS: [Field; 6] = [SELECTOR, SELECTOR_ALGORITHM, INTERVAL, SPACING, FLOWS_OBSERVED, FLOWS_SELECTED];

fn flow_fields(template: u16) -> Vec<Field> {
    let (v6, icmp, nat) = (template & V6 != 0, template & ICMP != 0, template & NAT != 0);
    let mut fields = vec![START, END, OCTETS, PACKETS];
    fields.extend(if v6 { [SOURCE_V6, DESTINATION_V6] } else { [SOURCE_V4, DESTINATION_V4] });
    match (icmp, v6) {
        (false, _) => fields.extend([SOURCE_PORT, DESTINATION_PORT]),
        (true, false) => fields.push(ICMP_V4),
        (true, true) => fields.push(ICMP_V6),
    }
    fields.extend([PROTOCOL, END_REASON]);
    if nat {
        fields.extend(if v6 {
            [AFTER_NAT_SOURCE_V6, AFTER_NAT_DESTINATION_V6]
        } else {
            [AFTER_NAT_SOURCE_V4, AFTER_NAT_DESTINATION_V4]
        });
        if !icmp {
            fields.extend([AFTER_NAT_SOURCE_PORT, AFTER_NAT_DESTINATION_PORT]);
        }
    }
    fields
}

/// How sessions are selected, and what came of it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// One of so many.
    pub one_of: u32,
    /// Sessions that were.
    pub selected: u64,
    /// Sessions that were not.
    pub passed_over: u64,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it is sent.
    pub octets: Vec<u8>,
    /// Data records in it.
    pub records: u32,
}

/// A datagram's two ends.
#[derive(Clone, Copy)]
struct Ends {
    source: (Addr, u16),
    destination: (Addr, u16),
}

/// Puts records into messages of a bounded length.
pub struct Encoder {
    domain: u32,
    limit: usize,
    /// Data records sent so far.
    sequence: u32,
    time: u32,
    buffer: Vec<u8>,
    /// Where the set that is being written begins, and its number.
    set: Option<(usize, u16)>,
    records: u32,
}

impl Encoder {
    /// Messages of at most `limit` octets.
    pub fn new(domain: u32, limit: usize) -> Self {
        Self { domain, limit: limit.max(LEAST), sequence: 0, time: 0, buffer: Vec::new(), set: None, records: 0 }
    }

    /// Messages from now on are of this second, and of at most `limit` octets.
    pub fn begin(&mut self, time: u32, limit: usize) {
        self.time = time;
        self.limit = limit.max(LEAST);
    }

    /// All templates, and the record that says how sessions are selected.
    pub fn templates(&mut self, selection: &Selection, out: &mut Vec<Message>) {
        for template in FLOW..FLOW + 8 {
            self.add(TEMPLATES, &described(template, None, &flow_fields(template - FLOW)), out);
        }
        self.add(TEMPLATES, &described(NAT_EVENT, None, &NAT_EVENT_FIELDS), out);
        self.add(OPTIONS_TEMPLATES, &described(SELECTION, Some(1), &SELECTION_FIELDS), out);
        let mut record = Vec::with_capacity(64);
        let Selection { one_of, selected, passed_over } = *selection;
        record.extend(1u64.to_be_bytes());
        record.extend(COUNT_BASED.to_be_bytes());
        record.extend(1u64.to_be_bytes());
        record.extend(u64::from(one_of.saturating_sub(1)).to_be_bytes());
        record.extend((selected + passed_over).to_be_bytes());
        record.extend(selected.to_be_bytes());
        self.add(SELECTION, &record, out);
    }

    /// What a session's record comes to: a flow for each direction that has packets, a NAT event.
    pub fn session(
        &mut self,
        record: &FlowRecord,
        nat_events: bool,
        millis: impl Fn(u64) -> u64,
        out: &mut Vec<Message>,
    ) {
        let ended = match record.event {
            FlowEvent::Began => None,
            FlowEvent::Active => Some(2),
            FlowEvent::Ended(FlowEnd::Idle) => Some(1),
            FlowEvent::Ended(FlowEnd::Closed) => Some(3),
            FlowEvent::Ended(FlowEnd::Forced) => Some(4),
            FlowEvent::Ended(FlowEnd::Evicted) => Some(5),
        };
        if let Some(reason) = ended {
            for (direction, (before, after)) in directions(record).into_iter().enumerate() {
                let counts = [record.octets[direction], record.packets[direction]];
                let times = [millis(record.first[direction]), millis(record.last[direction])];
                // The client's direction also tells of an end behind which nothing was left to tell.
                if counts[1] > 0 || (direction == 0 && record.packets == [0, 0]) {
                    self.flow(record, direction, [before, after], counts, times, reason, out);
                }
            }
        }
        if nat_events && is_nat44(record) {
            let (kind, at) = match record.event {
                FlowEvent::Began => (NAT44_CREATE, record.first[0]),
                FlowEvent::Ended(_) => (NAT44_DELETE, record.last[0].max(record.last[1])),
                FlowEvent::Active => return,
            };
            self.nat_event(record, kind, millis(at), out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a record")]
    fn flow(
        &mut self,
        record: &FlowRecord,
        direction: usize,
        [before, after]: [Ends; 2],
        counts: [u64; 2],
        times: [u64; 2],
        reason: u8,
        out: &mut Vec<Message>,
    ) {
        let (v6, nat) = (!is_v4(record.key.src), !record.mode.is_direct());
        let protocol = record.key.protocol;
        let icmp = !matches!(protocol, TCP | UDP);
        let mut template = FLOW;
        for (bit, set) in [(V6, v6), (ICMP, icmp), (NAT, nat)] {
            template += if set { bit } else { 0 };
        }
        let mut fields = Vec::with_capacity(128);
        for word in [times[0], times[1], counts[0], counts[1]] {
            fields.extend(word.to_be_bytes());
        }
        address(&mut fields, before.source.0);
        address(&mut fields, before.destination.0);
        if icmp {
            // Echo request and reply, code 0 (RFC 792, RFC 4443).
            let kind: u16 = [[8, 0], [128, 129]][usize::from(v6)][direction];
            fields.extend((kind << 8).to_be_bytes());
        } else {
            fields.extend(before.source.1.to_be_bytes());
            fields.extend(before.destination.1.to_be_bytes());
        }
        fields.extend([protocol, reason]);
        if nat {
            address(&mut fields, after.source.0);
            address(&mut fields, after.destination.0);
            if !icmp {
                fields.extend(after.source.1.to_be_bytes());
                fields.extend(after.destination.1.to_be_bytes());
            }
        }
        self.add(template, &fields, out);
    }

    fn nat_event(&mut self, record: &FlowRecord, kind: u8, at: u64, out: &mut Vec<Message>) {
        let [(before, after), _] = directions(record);
        let mut fields = Vec::with_capacity(64);
        fields.extend(at.to_be_bytes());
        fields.extend([kind, record.key.protocol]);
        for (address_of, port) in [before.source, after.source, before.destination, after.destination] {
            address(&mut fields, address_of);
            fields.extend(port.to_be_bytes());
        }
        self.add(NAT_EVENT, &fields, out);
    }

    /// Ends the message that is being written.
    pub fn flush(&mut self, out: &mut Vec<Message>) {
        if self.buffer.is_empty() {
            return;
        }
        self.end_set();
        let mut octets = std::mem::take(&mut self.buffer);
        let length = octets.len() as u16;
        octets[2..4].copy_from_slice(&length.to_be_bytes());
        out.push(Message { octets, records: self.records });
        self.sequence = self.sequence.wrapping_add(self.records);
        self.records = 0;
    }

    /// A record of a set.
    fn add(&mut self, set: u16, record: &[u8], out: &mut Vec<Message>) {
        let is_new = self.set.is_none_or(|(_, number)| number != set);
        let needed = record.len() + if is_new { 4 } else { 0 };
        if !self.buffer.is_empty() && self.buffer.len() + needed > self.limit {
            self.flush(out);
        }
        if self.buffer.is_empty() {
            self.buffer.extend(10u16.to_be_bytes());
            self.buffer.extend([0, 0]);
            for word in [self.time, self.sequence, self.domain] {
                self.buffer.extend(word.to_be_bytes());
            }
            debug_assert_eq!(self.buffer.len(), HEADER);
        }
        if self.set.is_none_or(|(_, number)| number != set) {
            self.end_set();
            self.set = Some((self.buffer.len(), set));
            self.buffer.extend(set.to_be_bytes());
            self.buffer.extend([0, 0]);
        }
        self.buffer.extend(record);
        if set >= FLOW {
            self.records += 1;
        }
    }

    fn end_set(&mut self) {
        if let Some((start, _)) = self.set.take() {
            let length = (self.buffer.len() - start) as u16;
            self.buffer[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A template record; `scope`: how many of the fields are scope, of an options template.
fn described(template: u16, scope: Option<u16>, fields: &[Field]) -> Vec<u8> {
    let head = [Some(template), Some(fields.len() as u16), scope];
    let words = head.into_iter().flatten().chain(fields.iter().flat_map(|&(number, octets)| [number, octets]));
    words.flat_map(u16::to_be_bytes).collect()
}

fn address(fields: &mut Vec<u8>, address: Addr) {
    match to_ip(address) {
        IpAddr::V4(ip) => fields.extend(ip.octets()),
        IpAddr::V6(ip) => fields.extend(ip.octets()),
    }
}

/// The packets of the client and of the backend, before and after NAT.
fn directions(record: &FlowRecord) -> [(Ends, Ends); 2] {
    let (client, service) = ((record.key.src, record.key.sport), (record.key.dst, record.key.dport));
    let seen = record.source.unwrap_or(client);
    let there = Ends { source: client, destination: service };
    let back = Ends { source: record.backend, destination: seen };
    let there_after = Ends { source: seen, destination: record.backend };
    let back_after = Ends { source: service, destination: client };
    [(there, there_after), (back, back_after)]
}

/// NAT between IPv4 addresses, of something with ports.
fn is_nat44(record: &FlowRecord) -> bool {
    !record.mode.is_direct() && is_v4(record.key.src) && matches!(record.key.protocol, TCP | UDP)
}
