//! The table by itself, and against a map as its slow twin.

use super::entry::SECOND;
use super::*;
use crate::flow::v4;
use crate::ports::PortSlot;
use proptest::prelude::*;
use std::collections::HashMap;

fn new(client: u32, port: u16, now: u64) -> NewSession {
    NewSession {
        dscp: 0,
        source: None,
        key: FlowKey { src: v4(client), dst: v4(1), protocol: 17, sport: port, dport: 53 },
        backend: v4(2 + client % 3),
        backend_port: 5353,
        flags: 0,
        place: (PortSlot::default(), 0),
        now,
        decision: Decision { rule: client % 5, ..Decision::default() },
        admission: Admission::default(),
        told: 0,
    }
}

#[test]
fn both_directions_find_the_session_until_it_expires() {
    let mut table = Sessions::heap(100, 1);
    let hit = table.create(&new(9, 1000, 5)).unwrap();
    let session = *table.get(hit).unwrap();
    let (f, r) = (session.forward_key(), session.reverse_key());
    assert_eq!(table.find(&f, table.hash(&f), 5).direction(), Direction::Forward);
    assert_eq!(table.find(&r, table.hash(&r), 5).direction(), Direction::Reverse);
    assert!(!table.find(&f.reversed(), table.hash(&f.reversed()), 5).is_some());
    let end = 5 + State::Udp.timeout();
    assert!(table.find(&f, table.hash(&f), end).is_some());
    assert!(!table.find(&f, table.hash(&f), end + 1).is_some());
    table.expire(end + 1, 100);
    assert_eq!(table.len(), 0);
}

#[test]
fn tcp_states_follow_the_specification() {
    use tcp::{ACK, FIN, RST, SYN};
    let mut table = Sessions::heap(10, 1);
    let mut first = new(1, 1, 0);
    first.key.protocol = 6;
    first.flags = SYN;
    let hit = table.create(&first).unwrap();
    let mut step = |direction, flags| {
        table.touch(Hit::new(hit.entry(), direction), 0, flags);
        table.get(hit).unwrap().state()
    };
    assert_eq!(step(Direction::Reverse, SYN | ACK), State::Opening);
    assert_eq!(step(Direction::Forward, ACK), State::Established);
    assert_eq!(step(Direction::Reverse, RST), State::Reset);
    assert_eq!(step(Direction::Forward, ACK), State::Established);
    assert_eq!(step(Direction::Reverse, FIN | ACK), State::Closing);
    assert_eq!(step(Direction::Forward, FIN | ACK), State::TimeWait);
    assert_eq!(step(Direction::Forward, SYN), State::Opening);
    assert_eq!(step(Direction::Forward, ACK), State::Opening, "the backend has not answered this one");
    assert_eq!(step(Direction::Forward, FIN | ACK), State::Closing);
    assert_eq!(step(Direction::Reverse, RST), State::Reset);
}

#[test]
fn a_full_table_refuses_and_recovers() {
    let mut table = Sessions::heap(64, 7);
    let mut made = 0;
    let refused = (0..200u16).find_map(|port| match table.create(&new(1, port, 0)) {
        Ok(_) => {
            made += 1;
            None
        }
        Err(reason) => Some(reason),
    });
    assert_eq!((made, refused), (64, Some(Refused::Full)));
    assert!(table.create(&new(2, 1, State::Udp.timeout() + 1)).is_ok(), "expired entries make room");
}

/// A TCP session in a state, by the flags of its packets; `true` for the client's.
fn tcp(table: &mut Sessions, client: u32, now: u64, packets: &[(bool, u8)]) -> Hit {
    let mut first = new(client, 1, now);
    (first.key.protocol, first.flags) = (6, packets[0].1);
    let hit = table.create(&first).unwrap();
    for &(forward, flags) in &packets[1..] {
        let direction = if forward { Direction::Forward } else { Direction::Reverse };
        table.touch(Hit::new(hit.entry(), direction), now, flags);
    }
    hit
}

#[test]
fn the_least_valuable_session_makes_room() {
    use tcp::{ACK, FIN, SYN};
    let mut table = Sessions::heap(5, 7);
    tcp(&mut table, 1, 0, &[(true, ACK), (false, ACK)]);
    tcp(&mut table, 2, 0, &[(true, FIN | ACK), (false, FIN | ACK)]);
    tcp(&mut table, 3, 0, &[(true, SYN)]);
    table.create(&new(4, 1, 0)).unwrap();
    tcp(&mut table, 5, 0, &[(true, SYN), (false, SYN | ACK)]);
    // Each in turn; the newcomers are UDP and busy.
    let mut evicted = Vec::new();
    let mut now = 2 * SECOND;
    for client in 10..14 {
        table.create(&new(client, 1, now)).unwrap();
        evicted.push(table.victim().unwrap().src as u8);
        check(&table);
    }
    assert_eq!(evicted, [3, 5, 2, 4]);
    assert_eq!(table.create(&new(20, 1, now)), Err(Refused::Full), "one is established, the others are fresh");
    for client in 10..14u32 {
        let first = new(client, 1, now);
        let hit = table.find(&first.reverse_key(), table.hash(&first.reverse_key()), now);
        now += SECOND;
        table.touch(hit, now, 0);
    }
    now += 2 * SECOND;
    assert_eq!(table.create(&new(20, 1, now)), Err(Refused::Full), "answered, and idle for less than 10 s");
    now = 61 * SECOND;
    table.create(&new(20, 1, now)).unwrap();
    assert_eq!(table.victim().unwrap().src as u8, 1, "idle the longest");
    let ended = table.ended();
    assert_eq!(ended[SessionEnd::EvictedHalfOpen.index()..], [2, 1, 1, 1]);
    check(&table);
}

#[test]
fn half_open_sessions_last_for_a_round() {
    let mut table = Sessions::heap(100, 7);
    for client in 0..350u32 {
        tcp(&mut table, client, u64::from(client), &[(true, tcp::SYN)]);
        let victim = table.victim().map(|key| key.src & 0xffff);
        if client >= 200 {
            assert_eq!(victim, Some(u128::from(client) - 100), "the one that has waited longest");
        }
    }
}

#[test]
fn a_full_bucket_evicts_among_its_own() {
    let slabs = Slabs { entries: Slab::heap(64), origins: Slab::heap(64), buckets: Slab::heap(1) };
    let mut table = Sessions::new(slabs, 5);
    for client in 0..40 {
        tcp(&mut table, client, 0, &[(true, tcp::SYN)]);
        check(&table);
    }
    assert_eq!((table.len(), table.ended()[SessionEnd::EvictedHalfOpen.index()]), (4, 36));
}

#[test]
fn what_seemed_due_and_goes_on_does_not_end_the_search() {
    let mut table = Sessions::heap(8, 7);
    // Their words are due after 300 s, their last packets are not.
    let busy: Vec<Hit> = (0..3u32).map(|client| table.create(&new(client, 1, 0)).unwrap()).collect();
    let now = State::Udp.timeout() + 2 * SECOND;
    for hit in busy {
        table.touch(hit, now, 0);
    }
    for client in 3..8 {
        tcp(&mut table, client, now, &[(true, tcp::SYN)]);
    }
    table.create(&new(9, 1, now)).unwrap();
    assert_eq!(table.ended()[SessionEnd::EvictedHalfOpen.index()], 1);
}

#[test]
fn the_same_reverse_key_is_a_conflict() {
    let mut table = Sessions::heap(64, 7);
    let one = new(1, 1000, 0);
    table.create(&one).unwrap();
    let other_service = NewSession { key: FlowKey { dst: v4(77), ..one.key }, ..one };
    assert_eq!(table.create(&other_service).unwrap_err(), Refused::Conflict);
}

#[test]
fn most_of_a_large_table_can_be_used() {
    let mut table = Sessions::heap(100_000, 3);
    let made = (0..100_000u32).filter(|&n| table.create(&new(n >> 8, n as u16, 0)).is_ok()).count();
    assert!(made > 99_900, "only {made} of 100,000 fit");
}

/// Every invariant between the parts: places, counts, marks, addresses, decisions.
fn check(table: &Sessions) {
    assert_eq!(table.buckets.used(), table.len() * 2, "two keys a session");
    let (counted, marked) = table.buckets.away();
    assert_eq!(counted, marked, "keys away from home");
    let used: Vec<usize> = (0..table.capacity()).filter(|&entry| table.at(entry).is_some()).collect();
    assert_eq!(used.len(), table.len());
    assert_eq!(table.free.len() + table.len(), table.capacity());
    let mut decisions: Vec<Decision> = Vec::new();
    for entry in used {
        let (session, decision) = (table.at(entry).unwrap(), *table.decision(entry).unwrap());
        assert!(table.origin(entry).unwrap().is_whole());
        for (key, direction) in
            [(session.forward_key(), Direction::Forward), (session.reverse_key(), Direction::Reverse)]
        {
            let (hash, known) = table.hash_known(&key);
            assert!(known, "the filter misses {key:?}");
            let hit = table.find_any(&key, hash);
            assert_eq!((hit.entry(), hit.direction()), (entry, direction));
            assert_eq!(table.confirm(table.guess(hash), &key, hash, session.last_seen()), hit);
        }
        if session.decision != OWN && !decisions.contains(&decision) {
            decisions.push(decision);
        }
    }
    assert!(table.decisions.len() >= decisions.len());
}

#[test]
fn keys_live_away_from_full_homes_and_are_found_there() {
    // Four buckets, 32 places, 15 sessions: homes overflow, and nearly every place is taken.
    let slabs = Slabs { entries: Slab::heap(16), origins: Slab::heap(16), buckets: Slab::heap(4) };
    let mut table = Sessions::new(slabs, 5);
    let (mut away, mut refused, mut random) = (0, 0, 1u32);
    let mut made: Vec<(u32, u16)> = Vec::new();
    for _ in 0..3000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (client, port) = (random >> 24, (random >> 8) as u16);
        if made.len() < 15 && !made.contains(&(client, port)) {
            match table.create(&new(client, port, 0)) {
                Ok(_) => made.push((client, port)),
                Err(reason) => {
                    assert_eq!(reason, Refused::Full);
                    refused += 1;
                }
            }
        } else {
            let (client, port) = made.swap_remove(random as usize % made.len());
            let key = new(client, port, 0).key;
            table.remove(table.find(&key, table.hash(&key), 0), SessionEnd::Expired);
        }
        away += table.buckets.away().0;
        check(&table);
    }
    assert!(away > 3000, "{away} keys away from home in all states");
    assert!(refused < 300, "{refused} refused");
}

#[test]
fn a_full_bucket_refuses_and_stays_as_it_was() {
    // One bucket: home and other are the same, and nothing can move.
    let slabs = Slabs { entries: Slab::heap(16), origins: Slab::heap(16), buckets: Slab::heap(1) };
    let mut table = Sessions::new(slabs, 5);
    for port in 0..4 {
        table.create(&new(1, port, 0)).unwrap();
    }
    assert_eq!(table.create(&new(1, 4, 0)), Err(Refused::Full));
    check(&table);
    // One that is idle makes place.
    assert!(table.create(&new(1, 5, State::Udp.timeout() + 1)).is_ok());
    check(&table);
    assert!(table.create(&new(1, 6, State::Udp.timeout() + 1)).is_ok());
    assert_eq!((table.len(), table.ended()[SessionEnd::Expired.index()]), (4, 2));
    check(&table);
}

#[test]
fn most_places_of_a_large_table_can_be_used() {
    // 90 % of the places, where homes alone would refuse every tenth key.
    let slabs = Slabs { entries: Slab::heap(60_000), origins: Slab::heap(60_000), buckets: Slab::heap(1 << 14) };
    let mut table = Sessions::new(slabs, 3);
    let refused = (0..58_982u32).filter(|&n| table.create(&new(n >> 8, n as u16, 0)).is_err()).count();
    assert!(refused < 600, "{refused} of 58,982 did not fit");
    let (away, _) = table.buckets.away();
    assert!((5_000..40_000).contains(&away), "{away} keys away from home");
}

#[test]
fn at_the_load_a_table_is_made_for_nearly_all_keys_are_at_home() {
    let mut table = Sessions::heap(78_000, 3);
    assert_eq!(table.buckets.used(), 0);
    for n in 0..78_000u32 {
        table.create(&new(n >> 8, n as u16, 0)).unwrap();
    }
    // 59.5 % of the places: what a good hash leaves is about 2.5 %.
    let (away, _) = table.buckets.away();
    assert!(away < 156_000 * 4 / 100, "{away} of 156,000 keys away from home");
}

#[test]
fn addresses_without_sessions_are_known_to_be_strangers() {
    let mut table = Sessions::heap(1000, 9);
    assert!(!table.hash_known(&new(1, 1, 0).key).1, "an empty table knows nobody");
    let hits: Vec<Hit> = (0..500u32).map(|n| table.create(&new(n, 7, 0)).unwrap()).collect();
    let key = new(1, 1, 0).key;
    assert!(table.hash_known(&key).1, "another client of a service");
    assert!(table.hash_known(&FlowKey { src: v4(2), dst: v4(99), ..key }).1, "from a backend");
    let strangers = (0..10_000).map(|n| FlowKey { src: v4(0x0808_0000 + n), dst: v4(0x0909_0000 + n), ..key });
    let taken = strangers.filter(|key| table.hash_known(key).1).count();
    assert!(taken < 100, "{taken} of 10,000 strangers looked up");
    for hit in hits {
        table.remove(hit, SessionEnd::Expired);
    }
    assert!(!table.hash_known(&key).1, "with its last session an address is forgotten");
    check(&table);
}

#[test]
fn equal_decisions_are_kept_once_and_given_back() {
    let mut table = Sessions::heap(1000, 9);
    let hits: Vec<Hit> = (0..500u32).map(|n| table.create(&new(n, 7, 0)).unwrap()).collect();
    assert_eq!(table.decisions.len(), 5);
    let other = Decision { generation: 2, ..Decision::default() };
    for &hit in &hits[..499] {
        table.decide(hit, &other);
        assert_eq!(table.decision(hit.entry()), Some(&other));
    }
    assert_eq!(table.decisions.len(), 2, "one session still has the old one");
    table.decide(hits[499], &other);
    assert_eq!(table.decisions.len(), 1);
    for hit in hits {
        table.remove(hit, SessionEnd::Expired);
    }
    assert_eq!(table.decisions.len(), 0);
}

#[test]
fn more_decisions_than_places_are_kept_by_their_sessions() {
    let mut table = Sessions::heap(64, 9);
    let mut own = 0;
    for round in 1..50 {
        let decision = |n: u32| Decision { generation: round, backend: n, mark: n as u8, ..Decision::default() };
        let hits: Vec<Hit> =
            (0..64u32).map(|n| table.create(&NewSession { decision: decision(n), ..new(n, 7, 0) }).unwrap()).collect();
        own += hits.iter().filter(|&&hit| table.get(hit).unwrap().decision == OWN).count();
        for (n, hit) in (0..).zip(&hits) {
            assert_eq!(table.decision(hit.entry()), Some(&decision(n)));
        }
        for (n, hit) in (0..).zip(&hits) {
            table.decide(*hit, &decision(n ^ 1));
            assert_eq!(table.decision(hit.entry()), Some(&decision(n ^ 1)));
        }
        for hit in hits {
            table.remove(hit, SessionEnd::Expired);
        }
        assert_eq!(table.decisions.len(), 0);
    }
    assert!(own > 0, "64 decisions never collided in 64 places");
}

#[test]
fn time_is_counted_beyond_two_years_and_may_go_back() {
    let year = 31_536_000 * SECOND;
    for start in [0, (1 << 56) - 5, 3 * year, 50 * year] {
        let mut table = Sessions::heap(10, 1);
        let hit = table.create(&new(1, 1, start)).unwrap();
        let session = table.get(hit).unwrap();
        assert_eq!((session.idle(start), session.idle(start + 7)), (0, 7));
        assert!(!session.expired(start.saturating_sub(SECOND)), "time went back");
        assert!(!session.expired(start + State::Udp.timeout()));
        assert!(session.expired(start + State::Udp.timeout() + 1));
        table.expire(start + State::Udp.timeout(), 16);
        assert_eq!(table.len(), 1);
        table.expire(start + State::Udp.timeout() + 1, 16);
        assert_eq!(table.len(), 0);
    }
}

#[test]
fn upkeep_ends_idle_sessions_within_a_round_and_spares_the_others() {
    let mut table = Sessions::heap(256, 1);
    let hits: Vec<Hit> = (0..256u32).map(|n| table.create(&new(n, 7, 0)).unwrap()).collect();
    let late = State::Udp.timeout() + 1;
    for hit in &hits[..100] {
        table.touch(*hit, late - SECOND, 0);
    }
    // One round over the entries, and two turns for the last step's.
    for _ in 0..256 / STEP + 2 {
        table.upkeep(late);
    }
    assert_eq!(table.len(), 100);
    check(&table);
    for _ in 0..256 / STEP + 2 {
        table.upkeep(late - SECOND + State::Udp.timeout() + 1);
    }
    assert_eq!(table.len(), 0);
}

#[test]
fn a_state_that_ends_sooner_is_noticed_sooner() {
    let mut table = Sessions::heap(16, 1);
    let mut first = new(1, 1, 0);
    first.key.protocol = 6;
    first.flags = tcp::ACK;
    let hit = table.create(&first).unwrap();
    table.touch(Hit::new(hit.entry(), Direction::Reverse), 0, tcp::ACK);
    assert_eq!(table.get(hit).unwrap().state(), State::Established);
    table.touch(hit, SECOND, tcp::RST);
    table.expire(SECOND + State::Reset.timeout(), 16);
    assert_eq!(table.len(), 1);
    table.expire(SECOND + State::Reset.timeout() + 1, 16);
    assert_eq!(table.len(), 0);
}

#[test]
fn an_entry_that_is_written_is_recognised() {
    let mut table = Sessions::heap(16, 1);
    let hit = table.create(&new(1, 1, 77)).unwrap();
    let origin = *table.origin(hit.entry()).unwrap();
    assert!(origin.is_whole());
    assert_eq!((origin.created, origin.client_vlan, origin.client_place()), (77, 0, PortSlot::default()));
    table.origins[hit.entry()].begin();
    assert!(!table.origin(hit.entry()).unwrap().is_whole());
}

#[test]
fn protocols_follow_from_the_status() {
    let mut table = Sessions::heap(64, 1);
    for (protocol, v6, state) in [
        (6, false, State::Adopted),
        (6, true, State::Adopted),
        (17, false, State::Udp),
        (17, true, State::Udp),
        (1, false, State::Icmp),
        (58, true, State::Icmp),
    ] {
        let mut first = new(3, u16::from(protocol), 0);
        first.key.protocol = protocol;
        if v6 {
            let wide = |addr: u128| 0x2001_0db8 << 96 | addr & 0xffff_ffff;
            (first.key.src, first.key.dst) = (wide(first.key.src), wide(first.key.dst));
            first.backend = wide(first.backend);
        }
        let hit = table.create(&first).unwrap();
        let session = table.get(hit).unwrap();
        assert_eq!((session.forward_key(), session.reverse_key()), (first.key, first.reverse_key()));
        assert_eq!((session.protocol(), session.state()), (protocol, state));
        assert_eq!(session.target(Direction::Forward), (first.backend, first.backend_port));
        assert_eq!(session.target(Direction::Reverse), (first.key.dst, first.key.dport));
    }
    check(&table);
}

#[derive(Clone, Debug)]
enum Op {
    Create(u32, u16),
    Remove(u32, u16),
    Pass(u64),
    Expire,
    Upkeep,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u32..6, 0u16..6).prop_map(|(c, p)| Op::Create(c, p)),
        1 => (0u32..6, 0u16..6).prop_map(|(c, p)| Op::Remove(c, p)),
        1 => (0u64..200).prop_map(|s| Op::Pass(s * SECOND)),
        1 => Just(Op::Expire),
        1 => Just(Op::Upkeep),
    ]
}

proptest! {
    /// The slow twin: a hash map of keys. Once with room for all, once in buckets so few that keys live away from home and some find no place.
    #[test]
    fn equals_a_map(ops in prop::collection::vec(op(), 1..120), tight in any::<bool>(), secret in any::<u64>()) {
        let mut slabs = Slabs::heap(64);
        if tight {
            slabs.buckets = Slab::heap(8);
        }
        let mut table = Sessions::new(slabs, secret);
        let mut twin: HashMap<(u32, u16), u64> = HashMap::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Create(c, p) => {
                    let alive = twin.get(&(c, p)).is_some_and(|&t| now - t <= State::Udp.timeout());
                    let made = table.create(&new(c, p, now));
                    if alive {
                        prop_assert_eq!(made, Err(Refused::Conflict));
                    } else if tight && made == Err(Refused::Full) {
                        twin.remove(&(c, p));
                    } else {
                        prop_assert!(made.is_ok());
                        twin.insert((c, p), now);
                    }
                }
                Op::Remove(c, p) => {
                    let key = new(c, p, now).key;
                    let hit = table.find(&key, table.hash(&key), now);
                    if hit.is_some() { table.remove(hit, SessionEnd::Expired); }
                    twin.remove(&(c, p));
                }
                Op::Pass(time) => now += time,
                Op::Expire => table.expire(now, 64),
                Op::Upkeep => table.upkeep(now),
            }
            check(&table);
            for c in 0..6 { for p in 0..6 {
                let first = new(c, p, now);
                let alive = twin.get(&(c, p)).is_some_and(|&t| now - t <= State::Udp.timeout());
                for (key, direction) in [(first.key, Direction::Forward), (first.reverse_key(), Direction::Reverse)] {
                    let (hash, known) = table.hash_known(&key);
                    let guessed = table.confirm(table.guess(hash), &key, hash, now);
                    prop_assert_eq!(guessed, table.find(&key, hash, now));
                    prop_assert_eq!(guessed.is_some(), alive);
                    prop_assert!(known || !alive);
                    if alive { prop_assert_eq!(guessed.direction(), direction); }
                }
            }}
        }
    }
}

#[test]
fn a_packet_whose_session_gave_way_in_its_burst_is_not_counted() {
    let mut table = Sessions::heap(100, 1);
    let settings = FlowSettings { one_of: 1, active_timeout: u64::MAX, nat_events: false };
    let (out, mut ring) = rtrb::RingBuffer::new(8);
    table.exchange_flows(Some(Flows::new(table.capacity(), settings, out)));
    let first = NewSession { told: 60, ..new(9, 1000, 5) };
    let second = NewSession { told: 70, ..new(10, 1001, 6) };
    let hit = table.create(&first).unwrap();
    table.remove(hit, SessionEnd::EvictedIdle);
    let successor = table.create(&second).unwrap();
    assert_eq!(successor.entry(), hit.entry());
    table.flow_passed(hit, &first.key, 60, 6);
    table.flow_passed(successor, &second.key, 80, 7_000_006);
    table.tell_all();
    let told: Vec<_> = std::iter::from_fn(|| ring.pop().ok()).map(|r| (r.event, r.packets, r.octets)).collect();
    let evicted = (FlowEvent::Ended(FlowEnd::Evicted), [1, 0], [60, 0]);
    assert_eq!(told, [evicted, (FlowEvent::Ended(FlowEnd::Forced), [2, 0], [150, 0])]);
}
