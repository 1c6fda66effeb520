//! Which packets are the engine's and which the kernel's, decided in front of the kernel by the address a packet is *about*: the target
//! of ARP and neighbour solicitations, the destination of everything else of IPv4 and IPv6. What is about an address that the kernel has
//! is the kernel's, and so is every other protocol; all other packets are the engine's, those to be forwarded included.
//!
//! One program in two places. As XDP it passes the engine's packets to the AF_XDP socket of their queue. With af_packet, where everybody
//! gets a copy, it stands behind the packet sockets (tcx ingress) and ends the kernel's copies, so that the kernel neither answers nor
//! forwards what the engine does.
//!
//! It is written in instructions: so small that a compiler, an object file and a loader would be more to read.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::bpf::{self, Map};

/// Addresses the kernel may have.
const MOST_ADDRESSES: u32 = 4096;

/// Verdicts.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;

/// Helpers, by number.
const LOOK_UP: i32 = 1;
const SKB_LOAD: i32 = 26;
const REDIRECT_MAP: i32 = 51;
const XDP_LOAD: i32 = 189;

/// What happens to the engine's packets while no engine takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLoss {
    /// They end: nobody else answers or forwards in the engine's place.
    Drop,
    /// They go to the kernel as if there were no engine.
    #[default]
    Pass,
}

/// The addresses that are the kernel's.
#[derive(Debug)]
pub(crate) struct Theirs {
    map: Map,
}

impl Theirs {
    pub(crate) fn new(addresses: &[IpAddr]) -> io::Result<Self> {
        let theirs = Self { map: Map::new(bpf::HASH, 16, 1, MOST_ADDRESSES, bpf::NO_PREALLOC)? };
        theirs.replace(addresses)?;
        Ok(theirs)
    }

    /// Loopback and link-local addresses are left out: the former are not seen on a wire, and the latter the kernel makes up out of the
    /// interface's own address, which is the engine's.
    pub(crate) fn replace(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let counts = |address: &&IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        let octets = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let wanted: Vec<[u8; 16]> = addresses.iter().filter(counts).map(octets).collect();
        for key in self.map.keys() {
            if !wanted.iter().any(|address| address[..] == key[..]) {
                self.map.remove(&key)?;
            }
        }
        wanted.iter().try_for_each(|address| self.map.set(address, &[1]))
    }
}

/// The sockets of an interface by queue.
#[derive(Debug)]
pub(crate) struct Sockets {
    map: Map,
}

impl Sockets {
    pub(crate) fn new(queues: u32) -> io::Result<Self> {
        Ok(Self { map: Map::new(bpf::XSKMAP, 4, 4, queues.max(1), 0)? })
    }

    pub(crate) fn set(&self, queue: u32, socket: &OwnedFd) -> io::Result<()> {
        self.map.set(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }
}

/// Sends the engine's packets to the sockets.
pub(crate) fn xdp(theirs: &Theirs, sockets: &Sockets, loss: OnLoss) -> io::Result<OwnedFd> {
    let ours = |code: &mut Code| {
        // The queue the packet came on, and what to do where no socket is.
        code.load_word(2, 6, 16);
        code.map(1, &sockets.map);
        code.set(3, if loss == OnLoss::Drop { XDP_DROP } else { XDP_PASS });
        code.call(REDIRECT_MAP);
        code.exit();
    };
    bpf::load(bpf::XDP, bpf::AT_XDP, "marchproxy_xsk", &program(theirs, XDP_LOAD, XDP_PASS, ours))
}

/// Ends the kernel's copies of the engine's packets.
pub(crate) fn ingress(theirs: &Theirs) -> io::Result<OwnedFd> {
    let ours = |code: &mut Code| {
        code.set(0, TCX_DROP);
        code.exit();
    };
    bpf::load(bpf::CLASSIFIER, bpf::AT_TCX_INGRESS, "marchproxy_hush", &program(theirs, SKB_LOAD, TCX_NEXT, ours))
}

/// On the stack: sixteen octets of address, and eight to look at.
const ADDRESS: i16 = -16;
const LOOK: i16 = -24;

/// r6 is the packet, r7 where its Ethernet type is, r8 what was looked at.
fn program(theirs: &Theirs, load: i32, kernels: i32, ours: impl Fn(&mut Code)) -> Vec<u64> {
    let mut code = Code { load, ..Code::default() };
    code.copy(6, 1);
    code.set(7, 12);
    code.fetch(0, 2, LOOK, "kernel");
    code.load_half(8, 10, LOOK);
    code.if_equal(8, be(0x8100), "tag");
    code.if_equal(8, be(0x88a8), "tag");
    code.goto("known");
    code.label("tag");
    code.add(7, 4);
    code.fetch(0, 2, LOOK, "kernel");
    code.load_half(8, 10, LOOK);
    code.label("known");
    code.if_equal(8, be(0x0806), "arp");
    code.if_equal(8, be(0x0800), "v4");
    code.if_equal(8, be(0x86dd), "v6");
    code.goto("kernel");
    // What is cut short is the engine's to count.
    code.label("arp");
    code.fetch(2 + 24, 4, ADDRESS + 12, "ours");
    code.goto("mapped");
    code.label("v4");
    code.fetch(2 + 16, 4, ADDRESS + 12, "ours");
    code.label("mapped");
    code.store_long(ADDRESS, 0);
    code.store_word(ADDRESS + 8, 0xffff_0000_u32.cast_signed());
    code.goto("look_up");
    code.label("v6");
    code.fetch(2 + 24, 16, ADDRESS, "ours");
    code.load_octet(8, 10, ADDRESS);
    code.if_different(8, 0xff, "look_up");
    // To a group: of ICMPv6 the neighbour solicitation names a target.
    code.fetch(2 + 6, 1, LOOK, "ours");
    code.load_octet(8, 10, LOOK);
    code.if_different(8, 58, "ours");
    code.fetch(2 + 40, 1, LOOK, "ours");
    code.load_octet(8, 10, LOOK);
    code.if_different(8, 135, "ours");
    code.fetch(2 + 40 + 8, 16, ADDRESS, "ours");
    code.label("look_up");
    code.map(1, &theirs.map);
    code.copy(2, 10);
    code.add(2, i32::from(ADDRESS));
    code.call(LOOK_UP);
    code.if_different(0, 0, "kernel");
    code.label("ours");
    ours(&mut code);
    code.label("kernel");
    code.set(0, kernels);
    code.exit();
    code.finish()
}

/// As a load of two octets sees it.
const fn be(value: u16) -> i32 {
    value.to_be() as i32
}

/// Instructions, with jumps to names.
#[derive(Default)]
struct Code {
    load: i32,
    words: Vec<u64>,
    labels: Vec<(&'static str, usize)>,
    jumps: Vec<(&'static str, usize)>,
}

impl Code {
    fn word(&mut self, opcode: u8, to: u8, from: u8, offset: i16, value: i32) {
        let registers = u64::from(to | from << 4) << 8;
        let offset = u64::from(offset.cast_unsigned()) << 16;
        self.words.push(u64::from(opcode) | registers | offset | u64::from(value.cast_unsigned()) << 32);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.word(0xb7, to, 0, 0, value);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.word(0xbf, to, from, 0, 0);
    }

    fn add(&mut self, to: u8, value: i32) {
        self.word(0x07, to, 0, 0, value);
    }

    fn load_octet(&mut self, to: u8, from: u8, offset: i16) {
        self.word(0x71, to, from, offset, 0);
    }

    fn load_half(&mut self, to: u8, from: u8, offset: i16) {
        self.word(0x69, to, from, offset, 0);
    }

    fn load_word(&mut self, to: u8, from: u8, offset: i16) {
        self.word(0x61, to, from, offset, 0);
    }

    fn store_word(&mut self, offset: i16, value: i32) {
        self.word(0x62, 10, 0, offset, value);
    }

    fn store_long(&mut self, offset: i16, value: i32) {
        self.word(0x7a, 10, 0, offset, value);
    }

    fn map(&mut self, to: u8, map: &Map) {
        // Two words; source register 1 says that the number is a map's descriptor.
        self.word(0x18, to, 1, 0, map.fd().as_raw_fd());
        self.words.push(0);
    }

    fn call(&mut self, helper: i32) {
        self.word(0x85, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.word(0x95, 0, 0, 0, 0);
    }

    fn jump(&mut self, opcode: u8, register: u8, value: i32, label: &'static str) {
        self.jumps.push((label, self.words.len()));
        self.word(opcode, register, 0, 0, value);
    }

    fn goto(&mut self, label: &'static str) {
        self.jump(0x05, 0, 0, label);
    }

    fn if_equal(&mut self, register: u8, value: i32, label: &'static str) {
        self.jump(0x15, register, value, label);
    }

    fn if_different(&mut self, register: u8, value: i32, label: &'static str) {
        self.jump(0x55, register, value, label);
    }

    /// Octets of the packet, from the Ethernet type plus `from`, onto the stack; a packet too short for that goes to `short`.
    fn fetch(&mut self, from: i32, octets: i32, stack: i16, short: &'static str) {
        self.copy(1, 6);
        self.copy(2, 7);
        self.add(2, from);
        self.copy(3, 10);
        self.add(3, i32::from(stack));
        self.set(4, octets);
        self.call(self.load);
        self.if_different(0, 0, short);
    }

    fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.words.len()));
    }

    fn finish(mut self) -> Vec<u64> {
        for (label, at) in self.jumps {
            let target = self.labels.iter().find(|(name, _)| *name == label).map_or(at + 1, |(_, target)| *target);
            let distance = (target as i64 - at as i64 - 1) as i16;
            self.words[at] |= u64::from(distance.cast_unsigned()) << 16;
        }
        self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::packet::Packet;

    #[test]
    fn packets_about_the_kernels_addresses_are_the_kernels() {
        let theirs = match Theirs::new(&["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()]) {
            Ok(theirs) => theirs,
            Err(error) => {
                eprintln!("skipped: no bpf here: {error}");
                return;
            }
        };
        theirs
            .replace(&["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap(), "fe80::1".parse().unwrap()])
            .unwrap();
        let sockets = Sockets::new(1).unwrap();
        let drop = xdp(&theirs, &sockets, OnLoss::Drop).unwrap();
        let pass = xdp(&theirs, &sockets, OnLoss::Pass).unwrap();
        let hush = ingress(&theirs).unwrap();
        let eth = || Packet::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let v4 = |to: &str| eth().ip("198.51.100.7".parse().unwrap(), to.parse().unwrap()).udp(1, 2).build();
        let v6 = |to: &str| eth().ip("2001:db8::7".parse().unwrap(), to.parse().unwrap()).udp(1, 2).build();
        let arp = |to: &str| {
            let [from, to] = ["192.0.2.7", to].map(|text| text.parse::<std::net::Ipv4Addr>().unwrap());
            eth().arp_request(from, to).build()
        };
        let solicit = |target: &str| {
            let packet = eth().ip("2001:db8::7".parse().unwrap(), "ff02::1:ff00:1".parse().unwrap());
            packet.neighbour_solicitation(target.parse::<std::net::Ipv6Addr>().unwrap()).build()
        };
        let tagged =
            |to: &str| eth().vlan(7).ip("198.51.100.7".parse().unwrap(), to.parse().unwrap()).udp(1, 2).build();
        let cut = v4("192.0.2.1")[..20].to_vec();
        let table = [
            ("to the kernel", v4("192.0.2.1"), false),
            ("to the engine", v4("203.0.113.10"), true),
            ("tagged, to the kernel", tagged("192.0.2.1"), false),
            ("tagged, to the engine", tagged("192.0.2.2"), true),
            ("of 6 to the kernel", v6("2001:db8::1"), false),
            ("of 6 to the engine", v6("2001:db8::2"), true),
            ("of 6 to a group", v6("ff02::1"), true),
            ("link-local", v6("fe80::1"), true),
            ("who has the kernel's", arp("192.0.2.1"), false),
            ("who has the engine's", arp("192.0.2.2"), true),
            ("solicitation of the kernel's", solicit("2001:db8::1"), false),
            ("solicitation of the engine's", solicit("2001:db8::2"), true),
            ("cut off", cut, true),
            ("another protocol", eth().ethertype(0x88cc).payload([1; 46]).build(), false),
        ];
        for (name, frame, ours) in table {
            assert_eq!(bpf::test_run(&drop, &frame).unwrap(), if ours { 1 } else { 2 }, "{name}: drop");
            assert_eq!(bpf::test_run(&pass, &frame).unwrap(), 2, "{name}: pass");
            if frame.len() > 20 {
                // The kernel makes no socket buffer of less than a header.
                let wanted = if ours { TCX_DROP } else { TCX_NEXT };
                assert_eq!(bpf::test_run(&hush, &frame).unwrap().cast_signed(), wanted, "{name}: tcx");
            }
        }
    }
}
