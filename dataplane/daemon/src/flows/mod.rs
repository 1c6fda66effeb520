//! Flow export: what workers tell of sessions goes to a collector as IPFIX over UDP.
//!
//! Workers put records of a fixed size into rings and never wait. One unpinned thread empties the rings some twenty times a second, encodes ([`ipfix`]) and
//! sends. It owns the socket, which is one of the host's: collectors are reached over the host's own network, not over the ports of the node.

pub mod ipfix;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use marchproxy_cpu::{TscClock, tsc};
use marchproxy_engine::table::sessions::FlowRecord;
use marchproxy_engine::tables::FlowsSpec;
use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use rtrb::Consumer;

use self::ipfix::{Encoder, Selection};

/// Records a worker's ring holds: with a round every 50 ms, 160,000 a second.
pub const RING: usize = 8192;
/// Between two looks at the rings.
const ROUND: Duration = Duration::from_millis(50);
/// After a socket could not be made.
const AGAIN: Duration = Duration::from_secs(5);
/// Without a failure for so long, the last one is history: a host without the collector says so about some messages only.
const QUIET: Duration = Duration::from_secs(10);

/// What the exporter counts. It alone writes.
#[derive(Debug, Default)]
pub struct Counters {
    /// Data records in messages that were sent.
    pub records: AtomicU64,
    /// Data records in messages that could not be sent.
    pub unsent: AtomicU64,
    /// Messages sent.
    pub messages: AtomicU64,
    /// Octets of them.
    pub octets: AtomicU64,
    /// Messages the kernel refused, or a collector that is not there: the last one may have been lost.
    pub failures: AtomicU64,
    /// Why the last one failed; empty: none did for [`QUIET`].
    pub trouble: Mutex<String>,
}

impl Counters {
    fn fail(&self, why: &std::io::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why.to_string();
    }
}

/// What the exporter is told.
pub enum Order {
    /// Export from now on what comes out of these rings.
    Begin(FlowsSpec, Vec<Consumer<FlowRecord>>),
    /// The same rings under another specification.
    Change(FlowsSpec),
    /// Send what there is and export no more.
    End,
}

/// Sums over the workers: sessions told of, and passed over.
pub type Totals = Box<dyn Fn() -> [u64; 2] + Send>;

/// Works until nobody can give it orders any more.
pub fn run(orders: &mpsc::Receiver<Order>, counters: &Arc<Counters>, clock: TscClock, totals: &Totals) {
    let mut running: Option<Exporter> = None;
    loop {
        let order = match &running {
            Some(_) => orders.recv_timeout(ROUND),
            None => orders.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        if let Some(exporter) = &mut running {
            exporter.round(totals);
        }
        match order {
            Ok(Order::Begin(spec, rings)) => running = Some(Exporter::new(spec, rings, counters.clone(), clock)),
            Ok(Order::Change(spec)) => {
                running = running.map(|old| Exporter::new(spec, old.rings, counters.clone(), clock));
            }
            Ok(Order::End) => running = None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Exporter {
    spec: FlowsSpec,
    rings: Vec<Consumer<FlowRecord>>,
    counters: Arc<Counters>,
    clock: TscClock,
    encoder: Encoder,
    socket: Option<UdpSocket>,
    /// When templates are due, and a socket where there is none.
    templates: Instant,
    open: Instant,
    failed: Option<Instant>,
}

impl Exporter {
    fn new(spec: FlowsSpec, rings: Vec<Consumer<FlowRecord>>, counters: Arc<Counters>, clock: TscClock) -> Self {
        let encoder = Encoder::new(spec.domain, usize::from(spec.message_octets));
        let now = Instant::now();
        Self { spec, rings, counters, clock, encoder, socket: None, templates: now, open: now, failed: None }
    }

    /// Everything that is in the rings now.
    fn round(&mut self, totals: &Totals) {
        let now = Instant::now();
        if self.socket.is_none() && now >= self.open {
            self.open = now + AGAIN;
            self.connect();
            // Whoever listens there has not heard any.
            self.templates = now;
        }
        let calendar = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut messages = Vec::new();
        self.encoder.begin(calendar.as_secs() as u32, self.room());
        if now >= self.templates {
            self.templates = now + Duration::from_secs(u64::from(self.spec.template_refresh_s.max(1)));
            let [selected, passed_over] = totals();
            let selection = Selection { one_of: self.spec.one_of, selected, passed_over };
            self.encoder.templates(&selection, &mut messages);
        }
        // Between the workers' nanoseconds and the calendar's.
        let offset = calendar.as_nanos() as i128 - i128::from(self.clock.nanos(tsc()));
        let millis = |nanos: u64| u64::try_from((i128::from(nanos) + offset) / 1_000_000).unwrap_or_default();
        for ring in &mut self.rings {
            // What comes meanwhile waits for the next round, so that one ends.
            for _ in 0..RING {
                let Ok(record) = ring.pop() else { break };
                self.encoder.session(&record, self.spec.nat_events, millis, &mut messages);
            }
        }
        self.encoder.flush(&mut messages);
        for message in &messages {
            self.send(&message.octets, message.records);
        }
        if self.failed.take_if(|failed| failed.elapsed() > QUIET).is_some() {
            self.counters.trouble.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Octets of a message: no more than the way to the collector takes whole (RFC 7011 s10.3.3), as far as the kernel knows it. It learns of
    /// narrow ways by ICMP, so it is asked each time.
    fn room(&self) -> usize {
        let headers = if self.spec.collector.is_ipv4() { 20 + 8 } else { 40 + 8 };
        // The kernel answers by this for either family.
        let mtu = self.socket.as_ref().and_then(|socket| getsockopt(socket, IpMtu).ok());
        let way = mtu.and_then(|mtu| usize::try_from(mtu).ok()).map_or(usize::MAX, |mtu| mtu.saturating_sub(headers));
        usize::from(self.spec.message_octets).min(way)
    }

    fn connect(&mut self) {
        let ours: SocketAddr = match self.spec.collector {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let made = UdpSocket::bind(ours).and_then(|socket| {
            socket.connect(self.spec.collector)?;
            // A full queue of the kernel loses a message, which is counted; waiting for it would fill the rings.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match made {
            Ok(socket) => self.socket = Some(socket),
            Err(why) => {
                tracing::warn!(
                    "flows: no socket towards {}: {why}; tried again in {} s",
                    self.spec.collector,
                    AGAIN.as_secs()
                );
                self.fail(&why);
            }
        }
    }

    fn fail(&mut self, why: &std::io::Error) {
        self.failed = Some(Instant::now());
        self.counters.fail(why);
    }

    fn send(&mut self, message: &[u8], records: u32) {
        let records = u64::from(records);
        let Some(socket) = &self.socket else {
            self.counters.unsent.fetch_add(records, Ordering::Relaxed);
            return;
        };
        // An ICMP error about an earlier message is told once, in the place of sending.
        let (first, again) = match socket.send(message) {
            Ok(octets) => (None, Ok(octets)),
            Err(why) => (Some(why), socket.send(message)),
        };
        if let Some(why) = &first {
            self.fail(why);
        }
        match again {
            Ok(octets) => {
                self.counters.records.fetch_add(records, Ordering::Relaxed);
                self.counters.messages.fetch_add(1, Ordering::Relaxed);
                self.counters.octets.fetch_add(octets as u64, Ordering::Relaxed);
            }
            Err(why) => {
                self.fail(&why);
                self.counters.unsent.fetch_add(records, Ordering::Relaxed);
            }
        }
    }
}
