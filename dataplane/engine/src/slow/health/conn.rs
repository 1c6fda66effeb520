//! One TCP connection of a check: a host of smoltcp's with one address and one socket. Segments come in and go out as IP packets,
//! so that routes and neighbours stay the node's own, and a segment costs the same however many checks there are.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::Outcome;
use super::http::{Answer, Reader};
use crate::flow::{Addr, to_ip};

/// Largest IP packet a check sends: what every port carries (576 is the least MTU).
const MTU: usize = 576;
/// The status line fits; a server that goes on waits for room that never comes, until the reset.
const RECEIVE: usize = 512;
/// The request fits: path, host and 100 octets more.
const SEND: usize = 1024;

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) local: Addr,
    pub(super) remote: Addr,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

/// A connection, or what is left of one to be used again.
pub(super) struct Conn {
    host: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Wire,
    established: bool,
    /// What is to be asked once the connection stands; empty: nothing.
    request: Vec<u8>,
    asked: bool,
    answer: Reader,
}

impl Conn {
    /// A host without address. The seed makes its sequence numbers.
    pub(super) fn new(seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let host = Interface::new(config, &mut wire, Instant::ZERO);
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let mut socket = tcp::Socket::new(buffer(RECEIVE), buffer(SEND));
        socket.set_ack_delay(None);
        let socket = sockets.add(socket);
        let (established, asked) = (false, false);
        Self { host, sockets, socket, wire, established, request: Vec::new(), asked, answer: Reader::default() }
    }

    /// Begins to connect. `false`: the ends are none that TCP has.
    pub(super) fn open(&mut self, now: u64, tuple: &Tuple, request: Vec<u8>) -> bool {
        self.take_address(tuple.local);
        (self.established, self.asked, self.request, self.answer) = (false, false, request, Reader::default());
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let (remote, local) = (IpAddress::from(to_ip(tuple.remote)), IpAddress::from(to_ip(tuple.local)));
        let connected =
            socket.connect(self.host.context(), (remote, tuple.remote_port), (local, tuple.local_port)).is_ok();
        self.poll(now);
        connected
    }

    /// A packet came for this connection.
    pub(super) fn feed(&mut self, now: u64, packet: &[u8]) {
        self.wire.received = packet.to_vec();
        self.poll(now);
    }

    /// Answers a segment that belongs to no connection: a reset, unless it is one (RFC 9293 s3.10.7.1).
    pub(super) fn refuse(&mut self, now: u64, local: Addr, packet: &[u8]) {
        self.take_address(local);
        self.feed(now, packet);
    }

    /// What came of it, if that is known.
    pub(super) fn outcome(&mut self, now: u64, expected: Option<(u16, u16)>) -> Option<Outcome> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        if socket.state() == tcp::State::Closed {
            return Some(if self.established { Outcome::Reset } else { Outcome::Refused });
        }
        if matches!(socket.state(), tcp::State::SynSent | tcp::State::SynReceived) {
            return None;
        }
        self.established = true;
        let Some((first, last)) = expected else { return Some(Outcome::Good) };
        if !self.asked {
            self.asked = true;
            // The buffer is empty and larger than any request.
            let _ = socket.send_slice(&self.request);
            self.poll(now);
            return None;
        }
        let mut said = Answer::More;
        while socket.can_recv() && said == Answer::More {
            said = socket.recv(|data| (data.len(), self.answer.take(data))).unwrap_or(Answer::Other);
        }
        match said {
            Answer::More if socket.may_recv() => None,
            Answer::More => Some(Outcome::Closed),
            Answer::Other => Some(Outcome::NoHttp),
            Answer::Status(status) if (first..=last).contains(&status) => Some(Outcome::Good),
            Answer::Status(status) => Some(Outcome::Status(status)),
        }
    }

    /// Ends it with a reset: neither side keeps anything of it.
    pub(super) fn close(&mut self, now: u64) {
        self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).abort();
        self.poll(now);
    }

    /// Time passed: retransmits what is due.
    pub(super) fn poll(&mut self, now: u64) {
        self.host.poll(instant(now), &mut self.wire, &mut self.sockets);
    }

    /// When [`Conn::poll`] is needed next without a packet.
    pub(super) fn due(&mut self, now: u64) -> u64 {
        self.host.poll_at(instant(now), &self.sockets).map_or(u64::MAX, |at| at.total_micros() as u64 * 1000)
    }

    /// The IP packets it wants to send.
    pub(super) fn sent(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.wire.sent.drain(..)
    }

    /// Length 0: every other address is on its only link, so that it needs no routes of its own.
    fn take_address(&mut self, address: Addr) {
        self.host.update_ip_addrs(|addresses| {
            addresses.clear();
            // Just emptied, it has room for one.
            let _ = addresses.push(IpCidr::new(IpAddress::from(to_ip(address)), 0));
        });
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

/// What smoltcp takes for its device: a packet in, packets out.
#[derive(Default)]
struct Wire {
    /// Empty: none.
    received: Vec<u8>,
    sent: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = std::mem::take(&mut self.received);
        (!packet.is_empty()).then_some((Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}
