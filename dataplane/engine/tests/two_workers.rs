//! Two workers and a device that spreads packets at random: sessions work all the same, because packets reach their session's owner.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{CLIENT, SERVER, introductions, ip, tables};
use marchproxy_engine::build::{Budget, build};
use marchproxy_engine::io::PacketBuf;
use marchproxy_engine::ledger::{Ledger, queue_owner};
use marchproxy_engine::memory::{Memory, MemoryBuf, MemoryPool, Wire};
use marchproxy_engine::packet::{Packet, describe};
use marchproxy_engine::pipeline::Pipeline;
use marchproxy_engine::ports::PortFacts;
use marchproxy_engine::qos::Scheduler;
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::slow::{SlowPath, WorkerLink};
use marchproxy_engine::stats::{ThreadStats, Totals};
use marchproxy_engine::table::neighbours::NeighbourTable;
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::tables::{PolicerAction, PolicerKind, PolicerSpec, RuleTables, ServiceMode, ShaperSpec};
use marchproxy_engine::testkit::port_mac;
use marchproxy_engine::worker::{Command, Worker};

struct Pair {
    workers: Vec<Worker<Memory>>,
    slow: SlowPath<Memory>,
    /// By worker, then port (lan, wan).
    wires: Vec<[Wire; 2]>,
}

impl Pair {
    fn new() -> Self {
        Self::with_burst(32)
    }

    fn with_burst(burst: usize) -> Self {
        Self::running(&tables(), burst)
    }

    fn running(tables: &RuleTables, burst: usize) -> Self {
        let snapshot = build(tables, None, &Budget { workers: 2, ..Budget::default() }).unwrap();
        let slots: Vec<_> = snapshot.ports().map(|(slot, _)| slot).collect();
        let (_publisher, mut readers) = marchproxy_rcu::channel(snapshot, 3);
        let (facts, neighbours) = (PortFacts::default(), NeighbourTable::default());
        for (index, &slot) in slots.iter().enumerate() {
            facts.set_mac(slot, port_mac(index));
        }
        let (one_out, one_in) = rtrb::RingBuffer::new(256);
        let (two_out, two_in) = rtrb::RingBuffer::new(256);
        let peers = [vec![None, Some(one_out)], vec![Some(two_out), None]];
        let (mut workers, mut links, mut wires) = (Vec::new(), Vec::new(), Vec::new());
        for ((me, peers), inbox) in peers.into_iter().enumerate().zip([two_in, one_in]) {
            let (punts_in, punts) = rtrb::RingBuffer::new(256);
            let (injects, injects_out) = rtrb::RingBuffer::new(256);
            let (mut commands, commands_out) = rtrb::RingBuffer::new(8);
            let (replies_in, _replies) = rtrb::RingBuffer::new(8);
            let stats = Arc::new(ThreadStats::new(1 << 10));
            let sessions = Sessions::heap(1024, 1);
            let pipeline =
                Pipeline::new(sessions, 16, neighbours.clone(), facts.clone(), stats.clone()).with_seat(me, 2);
            let ledger = Ledger::new(stats, punts_in, injects_out).with_peers(peers);
            let reader = readers.pop().unwrap();
            let worker = Worker::new(reader, pipeline, ledger, commands_out, replies_in);
            let mut worker = worker.with_inbox(vec![inbox]).with_burst(burst);
            let mine = [0, 1].map(|port| {
                let (wire, rx, tx) = Wire::new(1024);
                let _ = commands.push(Command::AddPort { port: slots[port], rx, tx });
                wire
            });
            worker.turn(0);
            worker.turn(0);
            for port in tables.shapers.iter().map(|shaper| slots[shaper.port]) {
                if queue_owner(port, 2) == me {
                    let _ = commands.push(Command::Queues(port, Some(Box::new(Scheduler::new(1024, 16)))));
                    worker.turn(0);
                }
            }
            wires.push(mine);
            links.push(WorkerLink { punts, injects });
            workers.push(worker);
        }
        let stats = Arc::new(ThreadStats::new(0));
        let slow = SlowPath::new(readers.pop().unwrap(), links, MemoryPool, neighbours, facts, stats);
        Self { workers, slow, wires }
    }

    fn run(&mut self) {
        for _ in 0..8 {
            for worker in &mut self.workers {
                worker.turn(1);
            }
            self.slow.turn(1);
        }
        assert_eq!(self.totals().residue(), 0);
        assert_eq!(self.totals().given, self.totals().taken, "nothing stays in a ring");
    }

    fn totals(&self) -> Totals {
        let sum = self.workers.iter().fold(Totals::default(), |sum, w| sum.plus(&w.stats().totals.read()));
        sum.plus(&self.slow.stats().totals.read())
    }

    fn sent(&self, port: usize) -> Vec<Vec<u8>> {
        self.wires.iter().flat_map(|w| w[port].take()).map(|p| p.data().to_vec()).collect()
    }
}

#[test]
fn replies_on_any_queue_find_their_session() {
    let mut pair = Pair::new();
    for (n, (port, frame)) in introductions().into_iter().enumerate() {
        pair.wires[n % 2][usize::from(port == "wan")].put(MemoryBuf::new(&frame));
    }
    pair.run();
    assert_eq!(pair.sent(0).len() + pair.sent(1).len(), 6);
    for (client, vip) in [("192.0.2.7", "203.0.113.10"), ("2001:db8::7", "2001:db8:1::10")] {
        for n in 0..100u16 {
            let syn = Packet::eth(CLIENT, port_mac(1)).ip(ip(client), ip(vip)).tcp(1000 + n, 80).flags(2).build();
            pair.wires[usize::from(n % 3 == 0)][1].put(MemoryBuf::new(&syn));
        }
        pair.run();
        let forwarded = pair.sent(0);
        assert_eq!(forwarded.len(), 100);
        for (n, frame) in forwarded.iter().enumerate() {
            // Turn the packet round as the backend would, and let it come in on the other worker's queue half of the time.
            let text = describe(frame);
            let backend = ["10.0.20.11", "10.0.20.12", "fd00:20::11", "fd00:20::12"]
                .into_iter()
                .find(|b| {
                    text.contains(&format!("{b}.8080")) || text.contains(&format!("{b}:8080")) || text.contains(b)
                })
                .unwrap();
            let l4 = if client.contains(':') { 58 } else { 38 };
            let cport = u16::from_be_bytes([frame[l4], frame[l4 + 1]]);
            let reply = Packet::eth(SERVER, port_mac(0))
                .vlan(20)
                .ip(ip(backend), ip(client))
                .tcp(8080, cport)
                .flags(0x12)
                .build();
            pair.wires[n % 2][0].put(MemoryBuf::new(&reply));
        }
        pair.run();
        let replies = pair.sent(1);
        assert_eq!(replies.len(), 100);
        assert!(replies.iter().all(|frame| describe(frame).contains(vip)), "{}", describe(&replies[0]));
    }
    let handed: Vec<_> = pair.workers.iter().map(|w| w.stats().handed_off.value()).collect();
    assert!(handed.iter().all(|&n| n > 50), "both workers handed packets over: {handed:?}");
    let sessions: Vec<_> = pair.workers.iter().map(|w| w.pipeline().sessions.len()).collect();
    assert_eq!(sessions.iter().sum::<usize>(), 200);
}

/// RFC 7690: what the error is about decides whose it is, not where it comes in.
#[test]
fn icmp_errors_on_any_queue_find_their_session() {
    let mut pair = Pair::new();
    for (n, (port, frame)) in introductions().into_iter().enumerate() {
        pair.wires[n % 2][usize::from(port == "wan")].put(MemoryBuf::new(&frame));
    }
    pair.run();
    assert_eq!(pair.sent(0).len() + pair.sent(1).len(), 6);
    for (client, vip) in [("192.0.2.7", "203.0.113.10"), ("2001:db8::7", "2001:db8:1::10")] {
        for n in 0..40u16 {
            let syn = Packet::eth(CLIENT, port_mac(1)).ip(ip(client), ip(vip)).tcp(1000 + n, 80).flags(2).build();
            pair.wires[0][1].put(MemoryBuf::new(&syn));
        }
        pair.run();
        for (n, frame) in pair.sent(0).iter().enumerate() {
            let quote = &frame[18..];
            let backend = if vip.contains(':') { ip("fd00:20::11") } else { ip("10.0.20.11") };
            let error = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(backend, ip(client));
            let error = if vip.contains(':') { error.icmpv6(1, 4, [0; 4]) } else { error.icmp(3, 3, [0; 4]) };
            pair.wires[n % 2][0].put(MemoryBuf::new(&error.payload(quote).build()));
        }
        pair.run();
        let told = pair.sent(1);
        assert_eq!(told.len(), 40);
        assert!(told.iter().all(|frame| describe(frame).contains(&format!(" {vip} > {client} "))));
    }
    let translated: Vec<_> = pair.workers.iter().map(|w| w.stats().icmp_errors_translated.value()).collect();
    assert!(translated.iter().sum::<u64>() == 80 && translated.iter().all(|&n| n > 10), "{translated:?}");
}

/// Fragments come in on any queue in any order, meet on one worker, and go on where their session is.
#[test]
fn fragments_on_any_queue_find_each_other_and_their_session() {
    let mut pair = Pair::new();
    for (n, (port, frame)) in introductions().into_iter().enumerate() {
        pair.wires[n % 2][usize::from(port == "wan")].put(MemoryBuf::new(&frame));
    }
    pair.run();
    pair.sent(0);
    for (client, vip) in [("192.0.2.7", "203.0.113.10"), ("2001:db8::7", "2001:db8:1::10")] {
        for n in 0..100u16 {
            let part =
                |offset, more| Packet::eth(CLIENT, port_mac(1)).ip(ip(client), ip(vip)).fragment(offset, more, n);
            let first = part(0, true).tcp(1000 + n, 80).flags(16).payload([1; 4]).build();
            let middle = part(24, true).protocol(6).payload([2; 8]).build();
            let last = part(32, false).protocol(6).payload([3; 5]).build();
            let order = match n % 3 {
                0 => [&first, &middle, &last],
                1 => [&last, &first, &middle],
                _ => [&middle, &last, &first],
            };
            for (at, frame) in order.into_iter().enumerate() {
                pair.wires[(usize::from(n) / 3 + at) % 2][1].put(MemoryBuf::new(frame));
            }
            if n % 7 == 0 {
                pair.run();
            }
        }
        pair.run();
        let sent = pair.sent(0);
        assert_eq!(sent.len(), 300);
        assert!(sent.iter().all(|frame| !describe(frame).contains(vip)), "all are translated");
    }
    let sessions: Vec<_> = pair.workers.iter().map(|w| w.pipeline().sessions.len()).collect();
    assert_eq!(sessions.iter().sum::<usize>(), 200, "one per packet, on its owner: {sessions:?}");
    assert_eq!(pair.totals().held, 0);
}

#[test]
fn a_turn_takes_as_much_as_it_was_told_to() {
    for (asked, taken) in [(0, 1), (1, 1), (7, 7), (32, 32), (64, 32)] {
        let mut pair = Pair::with_burst(asked);
        for n in 0..200u16 {
            let syn = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("203.0.113.10")).tcp(1000 + n, 80);
            pair.wires[0][1].put(MemoryBuf::new(&syn.flags(2).build()));
        }
        assert_eq!(pair.workers[0].turn(1).packets, taken, "from a queue, asked for {asked}");
        while pair.workers[0].turn(1).packets > 0 {}
        let handed = pair.workers[0].stats().handed_off.value() as usize;
        assert!(handed > 32, "{handed}");
        // Two ports, so two bursts.
        let twice = handed.min(2 * taken);
        assert_eq!(pair.workers[1].turn(1).packets, twice, "from a worker, asked for {asked}");
        while pair.workers[1].turn(1).packets > 0 {}
        pair.run();
        assert_eq!(pair.workers[1].stats().totals.read().taken as usize, handed, "all of it in the end");
    }
}

#[test]
fn rings_do_not_grow_while_all_queues_are_busy() {
    let mut pair = Pair::new();
    // Packets that belong to the other worker half of the time, on both ports, so that what is handed over changes ports burst by burst.
    for n in 0..2048u16 {
        for port in [0, 1] {
            let packet = Packet::eth(CLIENT, port_mac(port)).ip(ip("192.0.2.7"), ip("203.0.113.10"));
            let packet = if port == 0 { packet.vlan(20) } else { packet };
            let frame = packet.tcp(1000 + n, 80).flags(2).build();
            pair.wires.iter().for_each(|wires| wires[port].put(MemoryBuf::new(&frame)));
        }
    }
    for _ in 0..200 {
        for worker in &mut pair.workers {
            worker.turn(1);
        }
        pair.slow.turn(1);
    }
    let handed: u64 = pair.workers.iter().map(|w| w.stats().handed_off.value()).sum();
    let full = DropReason::HandoffQueueFull.index();
    let lost: u64 = pair.workers.iter().map(|w| w.stats().drops[full].value()).sum();
    assert!(handed > 3000 && lost == 0, "{handed} handed over, {lost} lost");
}

/// A policer is one limit, whichever worker its packets are on; a push keeps what is in its pool.
#[test]
fn a_policer_is_one_limit_for_both_workers() {
    let mut tables = tables();
    let policer =
        PolicerSpec { name: "p".into(), cir: 8, cbs: 4000, on_red: PolicerAction::Drop, ..Default::default() };
    tables.policers.push(policer);
    tables.services[0].policer = Some(0);
    let mut pair = Pair::running(&tables, 32);
    for (n, (port, frame)) in introductions().into_iter().enumerate() {
        pair.wires[n % 2][usize::from(port == "wan")].put(MemoryBuf::new(&frame));
    }
    pair.run();
    pair.sent(0);
    for n in 0..200u16 {
        let syn = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("203.0.113.10")).tcp(1000 + n, 80).flags(2);
        pair.wires[usize::from(n % 2 == 0)][1].put(MemoryBuf::new(&syn.build()));
    }
    pair.run();
    assert_eq!(pair.sent(0).len(), 100, "4,000 octets in packets of 40");
    let dropped = pair.workers.iter().map(|w| w.stats().drops[DropReason::PolicerDrop.index()].value());
    assert!(dropped.clone().all(|n| n > 20) && dropped.sum::<u64>() == 100, "on both workers");
    let budget = Budget { workers: 2, ..Budget::default() };
    let first = build(&tables, None, &budget).unwrap();
    let second = build(&tables, Some(&first), &budget).unwrap();
    let pool = |snapshot: &marchproxy_engine::Snapshot| snapshot.policers[0].pool.clone().unwrap();
    assert!(Arc::ptr_eq(&pool(&first), &pool(&second)));
    tables.policers[0].kind = PolicerKind::Rfc4115;
    let third = build(&tables, Some(&second), &budget).unwrap();
    assert!(!Arc::ptr_eq(&pool(&second), &pool(&third)), "another marker, other buckets");
}

/// Replies of full NAT go to a pool's port, which names the worker that gave it out.
#[test]
fn ports_of_pools_lead_to_their_worker() {
    let mut tables = tables();
    tables.services[0].mode = ServiceMode::FullNat;
    tables.services[0].source_pool = vec![ip("10.0.20.200"), ip("fd00:20::200")];
    let mut pair = Pair::running(&tables, 32);
    for (n, (port, frame)) in introductions().into_iter().enumerate() {
        pair.wires[n % 2][usize::from(port == "wan")].put(MemoryBuf::new(&frame));
    }
    pair.run();
    assert_eq!(pair.sent(0).len() + pair.sent(1).len(), 6);
    for (client, vip, pool, l4) in
        [("192.0.2.7", "203.0.113.10", "10.0.20.200", 38), ("2001:db8::7", "2001:db8:1::10", "fd00:20::200", 58)]
    {
        for n in 0..100u16 {
            let syn = Packet::eth(CLIENT, port_mac(1)).ip(ip(client), ip(vip)).tcp(1000 + n, 80).flags(2).build();
            pair.wires[usize::from(n % 3 == 0)][1].put(MemoryBuf::new(&syn));
        }
        pair.run();
        let forwarded = pair.sent(0);
        assert_eq!(forwarded.len(), 100);
        let mut ports = std::collections::HashSet::new();
        for (n, frame) in forwarded.iter().enumerate() {
            let text = describe(frame);
            assert!(text.contains(pool), "{text}");
            let backend = ["10.0.20.11", "10.0.20.12", "fd00:20::11", "fd00:20::12"];
            let backend = backend.into_iter().find(|b| text.contains(*b)).unwrap();
            let port = u16::from_be_bytes([frame[l4], frame[l4 + 1]]);
            assert!(ports.insert(port), "{port} twice");
            let reply = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(ip(backend), ip(pool)).tcp(8080, port);
            pair.wires[n % 2][0].put(MemoryBuf::new(&reply.flags(0x12).build()));
        }
        pair.run();
        let replies = pair.sent(1);
        assert_eq!(replies.len(), 100);
        assert!(replies.iter().all(|frame| describe(frame).contains(vip) && describe(frame).contains(client)));
    }
    for worker in &pair.workers {
        let (pools, _) = worker.pipeline().sessions.pools();
        let used: u32 = pools.iter().map(|pool| pool.used[0]).sum();
        assert_eq!(used as usize, worker.pipeline().sessions.len(), "a port each");
    }
}

/// One of two workers owns the queues of a port: packets of both leave by it, at the port's rate and not twice of it.
#[test]
fn both_workers_share_the_rate_of_a_shaped_port() {
    let shaper = ShaperSpec { port: 1, rate_kbps: 100_000, ..ShaperSpec::default() };
    let tables = RuleTables { rules: Vec::new(), shapers: vec![shaper], ..tables() };
    let mut pair = Pair::running(&tables, 32);
    for (n, (port, frame)) in introductions().into_iter().enumerate() {
        pair.wires[n % 2][usize::from(port == "wan")].put(MemoryBuf::new(&frame));
    }
    pair.run();
    assert_eq!(pair.sent(0).len() + pair.sent(1).len(), 6);
    let frame = |n: usize| {
        let (from, to) = if n.is_multiple_of(2) { ("10.0.20.11", "192.0.2.7") } else { ("fd00:20::11", "2001:db8::7") };
        let packet = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(ip(from), ip(to)).udp(7, n as u16);
        packet.payload([0; 1000]).build()
    };
    let mut octets = [0; 2];
    for n in 0..2000u64 {
        // 160 Mbit/s come, half by each worker.
        for worker in 0..2 {
            pair.wires[worker][0].put(MemoryBuf::new(&frame(n as usize + worker)));
        }
        let now = 1 + n * 100_000;
        for worker in &mut pair.workers {
            worker.turn(now);
        }
        assert_eq!(pair.totals().residue(), 0);
        for (octets, wires) in octets.iter_mut().zip(&pair.wires) {
            *octets += wires[1].take().iter().map(|packet| packet.data().len() as u64 + 24).sum::<u64>();
        }
    }
    let rate = octets[1] as f64 * 8e6 / (1999.0 * 1e5) / 1e5;
    assert!((0.99..=1.01).contains(&rate), "{rate}");
    assert_eq!(octets[0], 0, "only the owner sends");
    assert!(pair.workers[0].stats().handed_off.value() >= 2000);
    for worker in &mut pair.workers {
        worker.release();
    }
    for worker in &mut pair.workers {
        worker.release();
    }
    assert_eq!((pair.totals().residue(), pair.totals().held), (0, 0));
}
