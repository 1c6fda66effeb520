//! What both sides are filled with and asked: prefixes, rules, sessions and packets of one family, seeded.

use std::net::IpAddr;

use marchproxy_engine::flow::{Addr, FlowKey, from_ip};
use marchproxy_engine::ports::{PortSlot, UNTAGGED};
use marchproxy_engine::table::policer::{Policer, PolicerTable};
use marchproxy_engine::table::sessions::{Admission, Decision, Hit, NewSession, Sessions};
use marchproxy_engine::tables::{Cidr, PolicerAction, PolicerKind, PolicerSpec, RuleSpec};
use marchproxy_engine::wire::UDP;

use crate::Error;
use crate::seeded::rules::{Profile, Tuple, flow_of};
use crate::seeded::{Rng, addresses, routes, rules};

/// Percent of addresses and tuples that are drawn without regard to the table: most of them find nothing, or something broad.
const STRAY: u32 = 10;
/// Clients that a session's number can name (see [`addresses::client`]).
const CLIENTS: usize = 1 << 22;
/// Services and backends that sessions are spread over.
const SERVICES: usize = 16;
/// When sessions are made and looked up, in nanoseconds.
pub const NOW: u64 = 1_000_000_000;
/// Policers, each on a cache line: what L2 holds.
pub const METERS: usize = 4096;
/// Their rate: an octet in a microsecond, which both sides count without rounding.
pub const METER_KBPS: u64 = 8_000;
/// Microseconds between bursts: at 4,096 policers and some 16 KB a burst the load is a little above the rate, so that all colours occur.
pub const METER_STEP_US: u64 = 3;

/// "v4" or "v6".
pub const fn label(v6: bool) -> &'static str {
    if v6 { "v6" } else { "v4" }
}

/// Prefixes and the addresses that are looked up.
pub struct RouteKeys {
    /// Distinct, sorted; the value of each is its index.
    pub prefixes: Vec<Cidr>,
    /// Nine of ten inside a prefix drawn evenly.
    pub addresses: Vec<IpAddr>,
}

impl RouteKeys {
    /// `count` prefixes of a family.
    pub fn new(count: usize, keys: usize, v6: bool, seed: u64) -> Self {
        let prefixes = routes::prefixes(count, v6, &mut Rng::new(seed, "compare routes"));
        let mut rng = Rng::new(seed, "compare addresses");
        let mut address = || match rng.pick(&prefixes).filter(|_| !rng.clone().percent(STRAY)) {
            Some(prefix) => addresses::inside(&mut rng, prefix),
            None => addresses::public(&mut rng, v6),
        };
        let addresses = (0..keys).map(|_| address()).collect();
        Self { prefixes, addresses }
    }

    /// As our tables take them.
    pub fn ours(&self) -> Vec<(Addr, u8, u32)> {
        let numbered = self.prefixes.iter().zip(0..);
        numbered.map(|(prefix, value)| (from_ip(prefix.addr), prefix.len, value)).collect()
    }
}

/// Rules and the tuples that are looked up.
pub struct RuleKeys {
    /// Those of a list that one family can match.
    pub rules: Vec<RuleSpec>,
    /// Nine of ten drawn from a rule drawn evenly; TCP and UDP.
    pub tuples: Vec<Tuple>,
}

impl RuleKeys {
    /// From an access list of `count` rules of both families.
    pub fn new(count: usize, keys: usize, v6: bool, seed: u64) -> Result<Self, Error> {
        let mut all = rules::generate(Profile::Acl, count, seed, &[]);
        all.retain(|rule| rule.matches.src.iter().chain(&rule.matches.dst).all(|prefix| prefix.addr.is_ipv6() == v6));
        let mut rng = Rng::new(seed, "compare tuples");
        let mut tuples = Vec::with_capacity(keys);
        // A rule may be about a protocol without ports, or about another family: those draws are lost.
        for _ in 0..keys.saturating_mul(20) {
            if tuples.len() == keys {
                break;
            }
            let drawn = rng.pick(&all).and_then(|rule| flow_of(&rule.matches, &mut rng));
            let Some(mut tuple) = drawn.filter(|tuple| tuple.src.is_ipv6() == v6) else { continue };
            if rng.percent(STRAY) {
                (tuple.src, tuple.dst) = (addresses::public(&mut rng, v6), addresses::public(&mut rng, v6));
            }
            tuples.push(tuple);
        }
        if tuples.len() < keys {
            return Err(Error::Flows { what: "tuples", found: tuples.len(), wanted: keys });
        }
        Ok(Self { rules: all, tuples })
    }
}

/// Sessions of one family, and the tuples that are looked up.
pub struct SessionKeys {
    /// Our table, full of them.
    pub table: Sessions,
    /// The tuples of both directions of each session, with the hit that ours answers.
    pub known: Vec<(FlowKey, Hit)>,
    /// Drawn evenly from the known ones.
    pub hits: Vec<FlowKey>,
    /// The same with another client port, which no session has.
    pub misses: Vec<FlowKey>,
    /// Seconds it took to fill our table.
    pub seconds: f64,
}

impl SessionKeys {
    /// `count` sessions.
    pub fn new(count: usize, keys: usize, v6: bool, seed: u64) -> Result<Self, Error> {
        let mut rng = Rng::new(seed, "compare sessions");
        let new: Vec<NewSession> = (0..count).map(|number| session(number, v6, &mut rng)).collect();
        let start = std::time::Instant::now();
        let mut table = Sessions::heap(count, rng.word());
        let mut made = Vec::with_capacity(count);
        for new in &new {
            made.extend(table.create(new).ok());
        }
        let seconds = start.elapsed().as_secs_f64();
        if made.len() < count {
            return Err(Error::Sessions { found: made.len(), wanted: count, drops: "keys collide".into() });
        }
        let mut known = Vec::with_capacity(count * 2);
        for hit in made {
            if let Some(session) = table.get(hit) {
                for key in [session.forward_key(), session.reverse_key()] {
                    known.push((key, table.find(&key, table.hash(&key), NOW)));
                }
            }
        }
        let hits: Vec<FlowKey> = (0..keys).filter_map(|_| rng.pick(&known)).map(|(key, _)| *key).collect();
        let other = |key: &FlowKey| FlowKey { sport: key.sport ^ 1, dport: key.dport ^ 1, ..*key };
        let misses = hits.iter().map(other).collect();
        Ok(Self { table, known, hits, misses, seconds })
    }

    /// Octets of our table: entries, where they began, buckets, list of free entries.
    pub fn bytes(&self) -> usize {
        use marchproxy_engine::table::sessions::{Bucket, Origin, Session};
        let entries = self.table.capacity();
        entries * (size_of::<Session>() + size_of::<Origin>() + size_of::<u32>())
            + Sessions::buckets_for(entries) * size_of::<Bucket>()
    }
}

/// Session number `number`: a client of its own, with an even port.
fn session(number: usize, v6: bool, rng: &mut Rng) -> NewSession {
    let client = addresses::client((number % CLIENTS) as u32, v6);
    // Beyond the clients' number they come again, with other ports.
    let round = (number / CLIENTS) as u16;
    let key = FlowKey {
        src: from_ip(client),
        dst: from_ip(addresses::service(rng.below(SERVICES) as u16, v6)),
        protocol: UDP,
        sport: 1024 + round * 1024 + rng.below(512) as u16 * 2,
        dport: 442,
    };
    NewSession {
        source: None,
        key,
        backend: from_ip(addresses::local(1, 256 + rng.below(SERVICES) as u16, v6)),
        backend_port: 8442,
        flags: 0,
        dscp: 0,
        place: (PortSlot::from_index(0), UNTAGGED),
        now: NOW,
        decision: Decision::default(),
        admission: Admission::default(),
        told: 0,
    }
}

/// Packets over many policers.
pub struct MeterKeys {
    /// Committed and excess burst of each policer in octets.
    pub bursts: Vec<[u64; 2]>,
    /// The policer of each packet.
    pub which: Vec<u32>,
    /// Octets of each packet.
    pub lens: Vec<u16>,
}

impl MeterKeys {
    /// `keys` packets.
    pub fn new(keys: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed, "compare packets");
        let bursts = (0..METERS).map(|_| [1500 * u64::from(rng.between(1, 8)), 1500 * u64::from(rng.between(0, 4))]);
        let bursts = bursts.collect();
        let which = (0..keys).map(|_| rng.below(METERS) as u32).collect();
        // Octets of IP packets, small, middle and large ones.
        let lens = (0..keys).filter_map(|_| rng.weighted(&[(7, 46), (4, 552), (1, 1500)])).collect();
        Self { bursts, which, lens }
    }

    /// Our policers, full; of two rates the peak rate is twice the committed one, and the peak burst both bursts.
    pub fn ours(&self, kind: PolicerKind) -> Vec<Policer> {
        let policer = |&[cbs, ebs]: &[u64; 2]| {
            let (eir, ebs) = if kind == PolicerKind::Srtcm { (0, ebs) } else { (2 * METER_KBPS, cbs + ebs) };
            let spec = PolicerSpec {
                kind,
                eir,
                name: String::new(),
                cir: METER_KBPS,
                cbs,
                ebs,
                on_green: PolicerAction::Pass,
                on_yellow: PolicerAction::Pass,
                on_red: PolicerAction::Drop,
                ..Default::default()
            };
            let mut policer = Policer::EMPTY;
            policer.sync(&PolicerTable::new(&spec, 0, 1, 1), 1);
            policer
        };
        self.bursts.iter().map(policer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_addresses_have_a_route() {
        for v6 in [false, true] {
            let keys = RouteKeys::new(300, 2000, v6, 1);
            let inside = |address: &&IpAddr| keys.prefixes.iter().any(|prefix| prefix.contains(**address));
            let share = keys.addresses.iter().filter(inside).count() as f64 / 2000.0;
            assert!((0.85..0.97).contains(&share), "{share}");
            assert!(keys.addresses.iter().all(|address| address.is_ipv6() == v6));
            assert_eq!(keys.addresses, RouteKeys::new(300, 2000, v6, 1).addresses, "the seed decides");
        }
    }

    #[test]
    fn tuples_and_rules_are_of_one_family() {
        for v6 in [false, true] {
            let keys = RuleKeys::new(500, 1000, v6, 1).unwrap();
            assert_eq!(keys.tuples.len(), 1000);
            assert!(keys.rules.len() > 200 && keys.rules.len() < 400, "{}", keys.rules.len());
            assert!(keys.tuples.iter().all(|tuple| tuple.src.is_ipv6() == v6 && tuple.dst.is_ipv6() == v6));
        }
    }

    #[test]
    fn sessions_are_found_in_both_directions_and_their_neighbours_are_not() {
        for v6 in [false, true] {
            let keys = SessionKeys::new(2000, 500, v6, 1).unwrap();
            assert_eq!((keys.table.len(), keys.known.len()), (2000, 4000));
            let find = |key: &FlowKey| keys.table.find(key, keys.table.hash(key), NOW).is_some();
            assert!(keys.known.iter().all(|(_, hit)| hit.is_some()) && keys.hits.iter().all(find));
            assert!(!keys.misses.iter().any(find));
            assert!(keys.bytes() > 2000 * 128);
        }
    }

    #[test]
    fn packets_find_their_policers() {
        let keys = MeterKeys::new(1000, 1);
        assert_eq!((keys.which.len(), keys.lens.len(), keys.ours(PolicerKind::Srtcm).len()), (1000, 1000, METERS));
        assert!(keys.which.iter().all(|&which| (which as usize) < METERS));
    }
}
