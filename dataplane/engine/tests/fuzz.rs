//! Hostile frames against a whole node, by the million: it never panics, loses no packet and keeps no buffer.
//!
//! First every file of `tests/corpus` (named regressions and classics), then mutated frames in bursts, in rounds of one node each.
//! `MARCHPROXY_FUZZ_PACKETS` says how many (1 M unless given), `MARCHPROXY_FUZZ_SEED` repeats the round that a failure names.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod generators;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use generators::answers::answer;
use generators::fragments::{long, pieces, trains};
use generators::mutation::{Dice, error_about, mutate};
use generators::packets::{Arrival, arrivals, noise};
use generators::pools::{FAR, PLACES, PORTS, cidr, ip};
use generators::tables::{Change, Model, changes, models};
use marchproxy_engine::io::PacketBuf;
use marchproxy_engine::memory::MemoryBuf;
use marchproxy_engine::reason::{ConsumeReason, DropReason};
use marchproxy_engine::tables::*;
use marchproxy_engine::testkit::{Node, Size};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Packets of a round: few enough to be repeated at once.
const ROUND: u64 = 20_000;
/// What fragments wait for (512 a worker) and neighbours (1,024): all that a node may hold when nothing moves.
const MOST_HELD: u64 = 512 + 1024;
const MS: u64 = 1_000_000;

/// What frames are made of; the same in every run.
struct Stock {
    frames: Vec<Arrival>,
    trains: Vec<Vec<Arrival>>,
    models: Vec<Model>,
    changes: Vec<Change>,
    routers: Vec<IpAddr>,
}

impl Stock {
    fn new() -> Self {
        let mut runner = TestRunner::deterministic();
        let mut frames: Vec<Arrival> = corpus().into_iter().flat_map(|(_, _, frames)| frames).collect();
        for (strategy, count) in [(arrivals(), 1500), (pieces(), 200), (long(), 60), (noise().boxed(), 100)] {
            frames.extend(draw(&mut runner, &strategy, count));
        }
        Self {
            frames,
            trains: draw(&mut runner, &trains(), 100),
            models: draw(&mut runner, &models(), 60),
            changes: draw(&mut runner, &changes(), 60),
            routers: FAR.map(ip).to_vec(),
        }
    }
}

fn draw<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: &BoxedStrategy<T>, count: usize) -> Vec<T> {
    (0..count).map(|_| strategy.new_tree(runner).unwrap().current()).collect()
}

/// A node under fire.
struct Lab {
    node: Node,
    now: u64,
    /// The frames of the last burst.
    burst: Vec<Arrival>,
    /// Frames it sent not long ago.
    sent: Vec<Arrival>,
}

impl Lab {
    fn new(tables: &RuleTables, checks: bool) -> Self {
        let node = Node::with_size(tables, Size { sessions: 1024, ..Size::default() }).unwrap();
        let node = if checks { node.with_checks() } else { node };
        let mut lab = Self { node, now: 1_000_000_000, burst: Vec::new(), sent: Vec::new() };
        lab.node.run(lab.now);
        lab
    }

    /// Receives the burst, does all there is to do, and counts.
    fn run(&mut self) {
        for arrival in &self.burst {
            self.node.receive(PORTS[arrival.port], &arrival.frame);
        }
        self.node.run(self.now);
        while self.node.samples.pop().is_ok() {}
        for (port, name) in PORTS.iter().enumerate() {
            let wire = self.node.wire(name).unwrap();
            assert_eq!(wire.waiting(), 0, "the worker left frames on {name}");
            self.sent.extend(wire.take().iter().map(|packet| Arrival { port, frame: packet.data().to_vec() }));
        }
        self.sent.drain(..self.sent.len().saturating_sub(96));
        let totals = self.node.totals();
        assert_eq!((totals.residue(), totals.given - totals.taken), (0, 0), "{totals:?}");
        assert_eq!(MemoryBuf::out(), totals.held as isize, "buffers that are out, and what the node says it holds");
        assert!(totals.held <= MOST_HELD, "{totals:?}");
        let sessions = &self.node.worker.pipeline().sessions;
        assert!(sessions.len() <= sessions.capacity());
    }

    /// Ends as a daemon does: afterwards every buffer is home.
    fn end(mut self) -> Node {
        self.node.slow.release();
        self.node.worker.release();
        let totals = self.node.totals();
        assert_eq!((totals.residue(), totals.held, totals.given - totals.taken), (0, 0, 0), "{totals:?}");
        assert_eq!(MemoryBuf::out(), 0, "buffers that did not come back");
        self.node
    }

    /// The next burst of a round.
    fn compose(&mut self, dice: &mut Dice, stock: &Stock) {
        self.burst.clear();
        let count = 1 + dice.below(64);
        while self.burst.len() < count {
            let about = &stock.frames[dice.below(stock.frames.len())];
            let sent = self.sent.get(dice.below(self.sent.len()));
            let (made, percent) = match (dice.below(100), sent) {
                (0..6, Some(sent)) => (error_about(dice, &sent.frame, &stock.routers).map(|f| (sent.port, f)), 40),
                (6..40, Some(sent)) => {
                    let flags = dice.pick(&[0x10, 0x12, 0x11, 0x14, 0x02, 0xff]);
                    (answer(&sent.frame, dice.below(3), flags).map(|f| (sent.port, f)), 20)
                }
                (40..46, _) => {
                    let train = &stock.trains[dice.below(stock.trains.len())];
                    for piece in train {
                        let mut piece = piece.clone();
                        if dice.chance(25) {
                            mutate(dice, &mut piece.frame, &about.frame);
                        }
                        self.burst.push(piece);
                    }
                    continue;
                }
                _ => (Some((about.port, about.frame.clone())), 75),
            };
            let Some((port, mut frame)) = made else { continue };
            if dice.chance(percent) {
                let other = &stock.frames[dice.below(stock.frames.len())];
                mutate(dice, &mut frame, &other.frame);
            }
            let port = if dice.chance(2) { 1 - port } else { port };
            self.burst.push(Arrival { port, frame });
        }
        self.now += match dice.below(100) {
            0 => dice.pick(&[3000, 31_000, 61_000, 301_000]) * MS,
            1..5 => 1000 * MS,
            5..50 => dice.below(20) as u64 * MS,
            _ => 1000,
        };
    }

    /// A push or a word of the health checks, now and then.
    fn disturb(&mut self, dice: &mut Dice, stock: &Stock, model: &mut Model) {
        if dice.chance(1) {
            model.apply(stock.changes[dice.below(stock.changes.len())].clone());
            self.node.push(&model.tables()).unwrap();
        }
    }
}

/// What came of many packets.
#[derive(Default)]
struct Sum {
    packets: u64,
    tx: u64,
    ends: BTreeMap<&'static str, u64>,
    sessions: u64,
}

impl Sum {
    fn add(&mut self, node: &Node) {
        self.tx += node.totals().tx;
        self.sessions += node.worker.stats().sessions_created.value();
        for (label, count) in ends(node) {
            *self.ends.entry(label).or_default() += count;
        }
    }
}

fn ends(node: &Node) -> impl Iterator<Item = (&'static str, u64)> {
    let drops = DropReason::ALL.iter().map(|r| (r.label(), node.drops(*r)));
    let (worker, slow) = (node.worker.stats(), node.slow.stats());
    let consumed = ConsumeReason::ALL
        .iter()
        .map(|r| (r.label(), worker.consumed[r.index()].value() + slow.consumed[r.index()].value()));
    drops.chain(consumed).filter(|(_, count)| *count > 0)
}

/// One node's life under this seed.
fn round(seed: u64, most: u64, stock: &Stock, sum: &mut Sum) {
    let mut dice = Dice::new(seed);
    let mut model = stock.models[dice.below(stock.models.len())].clone();
    let (everything, checks) = (dice.chance(40), dice.chance(50));
    let tables = if everything { everything_there_is() } else { model.tables() };
    let mut lab = Lab::new(&tables, checks);
    let before = sum.packets;
    while sum.packets - before < most {
        if !everything {
            lab.disturb(&mut dice, stock, &mut model);
        }
        lab.compose(&mut dice, stock);
        sum.packets += lab.burst.len() as u64;
        guarded(&mut lab, &format!("MARCHPROXY_FUZZ_SEED={seed} repeats it. The last burst"), Lab::run);
    }
    sum.add(&lab.end());
}

/// Does something with a node; where that panics, says which frames it was, in the form of the corpus.
fn guarded(lab: &mut Lab, whence: &str, run: impl FnOnce(&mut Lab)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(lab))) {
        eprintln!("{whence}:\n{}", hex(&lab.burst));
        resume_unwind(panic);
    }
}

fn hex(frames: &[Arrival]) -> String {
    frames.iter().fold(String::new(), |mut text, arrival| {
        let _ = write!(text, "{} ", PORTS[arrival.port]);
        arrival.frame.iter().for_each(|octet| {
            let _ = write!(text, "{octet:02x}");
        });
        text.push('\n');
        text
    })
}

/// The files of the corpus: name, expected ends, frames. `# ` what it is, `= ` how packets end (ours too: questions to neighbours are sent,
/// their answers consumed), `PORT HEX` a frame.
fn corpus() -> Vec<(String, String, Vec<Arrival>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "hex"));
    files.sort();
    let read = |path: PathBuf| {
        let (name, text) = (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path));
        let text = text.unwrap();
        assert!(text.starts_with("# "), "{name} does not say what it is");
        let expected = text.lines().find_map(|line| line.strip_prefix("= ")).unwrap_or_default().to_owned();
        let frames = text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '=']));
        let frames = frames.map(|line| {
            let (port, octets) = line.split_once(' ').unwrap();
            let digits: Vec<u8> = octets.bytes().filter(|b| *b != b' ').collect();
            let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            let port = PORTS.iter().position(|known| *known == port).unwrap();
            Arrival { port, frame: digits.chunks(2).map(octet).collect() }
        });
        (name, expected, frames.collect())
    };
    files.into_iter().map(read).collect()
}

/// Services of every mode with limits, rules of every action, both families.
fn everything_there_is() -> RuleTables {
    let interface = |name: &str, place: usize| InterfaceSpec {
        name: name.into(),
        port: PLACES[place].port,
        vlan: PLACES[place].vlan,
        addresses: PLACES[place].addresses.iter().map(|text| cidr(text)).collect(),
        table: u32::from(place == 4),
        trust_dscp: true,
        ..Default::default()
    };
    let route = |prefix: &str, next_hop: &str| RouteSpec {
        table: 0,
        prefix: cidr(prefix),
        action: RouteAction::Via(vec![NextHopSpec { address: ip(next_hop), interface: 2, weight: 1 }]),
    };
    let rule = |name: &str, priority, action, protocol, port: Option<u16>, log_sample| {
        let dst_ports = port.map(|port| PortRange { first: port, last: port }).into_iter().collect();
        let matches = RuleMatch { protocol, dst_ports, ..Default::default() };
        RuleSpec { name: name.into(), priority, matches, action, log_sample, ..Default::default() }
    };
    let limits = LimitsSpec { new_per_s: Some(1000), half_open: Some(100), sessions: Some(300) };
    let limits = Some(ServiceLimitsSpec { total: limits, ..Default::default() });
    let service = |name: &str, mode: ServiceMode, protocol, port: Option<u16>| {
        let backend = |name: &str, address: &str| BackendSpec {
            name: name.into(),
            address: ip(address),
            port: port.filter(|_| !mode.is_direct()).map(|_| 8080),
            weight: 1,
            ..Default::default()
        };
        ServiceSpec {
            name: name.into(),
            addresses: vec![ip("203.0.113.10"), ip("2001:db8:10::10")],
            protocol,
            ports: port.map(|port| PortRange { first: port, last: port }).into_iter().collect(),
            mode,
            source_pool: if mode == ServiceMode::FullNat {
                vec![ip("203.0.113.99"), ip("2001:db8:10::99")]
            } else {
                vec![]
            },
            backends: vec![backend("v4", "10.2.0.2"), backend("v6", "fd02::2")],
            limits,
            health: Some(HealthSpec::default()),
            ..Default::default()
        }
    };
    RuleTables {
        ports: PORTS.map(|name| PortSpec { name: name.into(), device: String::new(), mtu: 1400 }).to_vec(),
        interfaces: vec![interface("a0", 0), interface("a10", 1), interface("b0", 3), interface("b20", 4)],
        routes: vec![route("0.0.0.0/0", "10.3.0.2"), route("::/0", "fd03::2")],
        rules: vec![
            rule("no-telnet", 1, RuleAction::Deny, Some(6), Some(23), 0),
            rule("closed", 2, RuleAction::Reject, Some(17), Some(1001), 0),
            rule("counted", 3, RuleAction::Count, Some(17), None, 3),
            rule("rest", 9, RuleAction::Permit, None, None, 0),
        ],
        services: vec![
            service("nat", ServiceMode::Nat, ServiceProtocol::Tcp, Some(80)),
            service("full", ServiceMode::FullNat, ServiceProtocol::Tcp, Some(8080)),
            service("mac", ServiceMode::DsrMac, ServiceProtocol::Tcp, Some(81)),
            service("ipip", ServiceMode::DsrIpip, ServiceProtocol::Udp, Some(53)),
            service("gue", ServiceMode::DsrGue, ServiceProtocol::Udp, Some(80)),
            service("echo", ServiceMode::Nat, ServiceProtocol::Icmp, None),
        ],
        ..Default::default()
    }
}

/// Whether it asks for a neighbour's MAC address.
fn asks(frame: &[u8]) -> bool {
    let l3 = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    frame[l3 - 2..l3] == [8, 6] || frame[l3 - 2..l3] == [0x86, 0xdd] && frame.get(l3 + 40) == Some(&135)
}

/// Every file on a node of its own; neighbours answer, time passes, and every packet has ended as the file says.
#[test]
fn the_corpus_ends_as_it_says() {
    let mut wrong = Vec::new();
    let files = corpus();
    assert!(files.len() >= 12, "{} files", files.len());
    for (name, expected, frames) in files {
        let mut lab = Lab::new(&everything_there_is(), false);
        lab.burst = frames;
        for _ in 0..3 {
            guarded(&mut lab, &name, Lab::run);
            lab.now += MS;
            let answers = lab
                .sent
                .drain(..)
                .filter(|sent| asks(&sent.frame))
                .filter_map(|sent| Some(Arrival { port: sent.port, frame: answer(&sent.frame, 0, 0x40)? }));
            lab.burst = answers.collect();
        }
        lab.burst.clear();
        for _ in 0..40 {
            lab.now += 1000 * MS;
            guarded(&mut lab, &name, Lab::run);
        }
        let node = lab.end();
        let sent = [("sent", node.totals().tx)].into_iter().filter(|(_, count)| *count > 0);
        let found: Vec<_> = sent.chain(ends(&node)).map(|(label, count)| format!("{label} {count}")).collect();
        let found = found.join(", ");
        if found != expected {
            wrong.push(format!("{name}\n= {found}\ninstead of\n= {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mutated_frames_by_the_million() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (first, packets) = (number("MARCHPROXY_FUZZ_SEED").unwrap_or(now), number("MARCHPROXY_FUZZ_PACKETS"));
    let (packets, began, mut sum) = (packets.unwrap_or(1_000_000), Instant::now(), Sum::default());
    let stock = Stock::new();
    for n in 0.. {
        if sum.packets >= packets {
            break;
        }
        round(first.wrapping_add(n), ROUND.min(packets - sum.packets), &stock, &mut sum);
    }
    let Sum { packets, tx, ends, sessions } = sum;
    println!("{packets} packets from seed {first} in {:?}: {tx} sent, {sessions} sessions, {ends:#?}", began.elapsed());
    // Frames that are all dropped by the first check would prove nothing.
    if packets >= 1_000_000 {
        assert!(tx > packets / 10 && sessions > packets / 1000, "{tx} sent, {sessions} sessions");
        assert!(ends.len() >= 40, "only {} ends: {ends:?}", ends.len());
    }
}
