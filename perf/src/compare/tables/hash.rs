//! Our session table against rte_hash.

use std::hint::black_box;
use std::rc::Rc;

use marchproxy_dpdk::table::{Hash, Hits};
use marchproxy_engine::flow::{FlowKey, to_ip};
use marchproxy_engine::table::sessions::{Direction, Hit};

use super::duel::{Duel, Pass, agree};
use super::ground::{Ground, Stop, build};
use super::keys::{NOW, SessionKeys, label};
use super::ours::{self, BURST};

const PEER: &str = "rte_hash";
const NOTE: &str = "bulk look-up, CRC32C; keys of 16 octets (v4) and 40 (v6), two a session, 60 % or less full on both sides. Our hash is keyed, our \
                    table has one entry for both directions and looks whether it has expired";

/// Hits and misses of one family.
pub fn duels(ground: &Ground, v6: bool) -> Result<Vec<Duel>, Stop> {
    if v6 { of_family::<40>(ground, v6) } else { of_family::<16>(ground, v6) }
}

fn of_family<const LEN: usize>(ground: &Ground, v6: bool) -> Result<Vec<Duel>, Stop> {
    let plan = ground.plan;
    let keys = SessionKeys::new(plan.sessions, plan.keys, v6, plan.seed)?;
    // A quarter above the keys: cuckoo tables refuse the last few.
    let entries = (keys.known.len() + keys.known.len() / 4).max(64) as u32;
    let (table, seconds, bytes) = ground.build(|| {
        let mut table = Hash::<LEN>::create(ground.eal, entries)?;
        ground.fill("adding DPDK's keys", &keys.known, |_, (key, hit)| table.add(&octets(key), word(*hit)))?;
        Ok(table)
    })?;
    let built = build((keys.seconds, keys.bytes()), (seconds, bytes));
    let (sessions, table) = (Rc::new(keys.table), Rc::new(table));
    let mut duels = Vec::new();
    for (what, asked) in [("hit", keys.hits), ("miss", keys.misses)] {
        let theirs: Vec<[u8; LEN]> = asked.iter().map(octets).collect();
        let (mut ours_found, mut theirs_found) = (Vec::new(), Vec::new());
        for (burst, their_burst) in asked.chunks(BURST).zip(theirs.chunks(BURST)) {
            let (mut hits, mut words) = ([Hit::MISS; BURST], Hits::NONE);
            ours::sessions(&sessions, burst, NOW, &mut hits);
            table.lookup(their_burst, &mut words);
            ours_found.extend(hits[..burst.len()].iter().map(|hit| hit.is_some().then(|| word(*hit))));
            theirs_found.extend((0..burst.len()).map(|n| words.word(n)));
        }
        agree(PEER, &ours_found, &theirs_found, |at| name(&asked[at]))?;
        let (ours_table, theirs_table) = (sessions.clone(), table.clone());
        duels.push(Duel {
            peer: PEER,
            work: format!("{} {} sessions, {what}", label(v6), plan.sessions),
            unit: "look-ups/CPU-s",
            note: NOTE.into(),
            build: built,
            ours: Box::new(move || {
                let mut hits = [Hit::MISS; BURST];
                for burst in asked.chunks(BURST) {
                    ours::sessions(&ours_table, burst, NOW, &mut hits);
                    black_box(&hits);
                }
                asked.len()
            }),
            theirs: pass(theirs_table, theirs),
        });
    }
    Ok(duels)
}

fn pass<const LEN: usize>(table: Rc<Hash<LEN>>, keys: Vec<[u8; LEN]>) -> Pass {
    Box::new(move || {
        let mut hits = Hits::NONE;
        for burst in keys.chunks(BURST) {
            table.lookup(burst, &mut hits);
            black_box(&hits);
        }
        keys.len()
    })
}

/// The word of a key: where our table has it, and in which direction.
fn word(hit: Hit) -> usize {
    hit.entry() << 1 | usize::from(hit.direction() == Direction::Reverse)
}

/// Addresses, ports, protocol; zeroes at the end.
fn octets<const LEN: usize>(key: &FlowKey) -> [u8; LEN] {
    let mut octets = [0; LEN];
    let width = if LEN < 40 { 4 } else { 16 };
    let (src, dst) = (key.src.to_be_bytes(), key.dst.to_be_bytes());
    let fields = src[16 - width..].iter().chain(&dst[16 - width..]).copied();
    let fields = fields.chain(key.sport.to_be_bytes()).chain(key.dport.to_be_bytes()).chain([key.protocol]);
    for (octet, field) in octets.iter_mut().zip(fields) {
        *octet = field;
    }
    octets
}

fn name(key: &FlowKey) -> String {
    format!("{} port {} to {} port {}", to_ip(key.src), key.sport, to_ip(key.dst), key.dport)
}
