//! Our rules against rte_acl.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use marchproxy_dpdk::table::{Acl, AclKey, AclRule, Family};
use marchproxy_engine::table::rules::{Limits, RuleKey, Rules};
use marchproxy_engine::tables::{Cidr, PortRange, RuleMatch};

use super::duel::{Duel, agree};
use super::ground::{Ground, Stop, build};
use super::keys::{RuleKeys, label};
use super::ours::{self, BURST};
use crate::Error;
use crate::seeded::rules::Tuple;

const PEER: &str = "rte_acl";
const NOTE: &str = "one category, the fastest algorithm of this CPU; compiled from the whole list. Ours matches interfaces, too, and the fields that \
                    packets without ports lack";

/// The part of an access list of `count` rules that one family can match.
pub fn duel(ground: &Ground, count: usize, v6: bool) -> Result<Duel, Stop> {
    let plan = ground.plan;
    let keys = RuleKeys::new(count, plan.keys, v6, plan.seed)?;
    let start = Instant::now();
    let rules = Rules::build(&keys.rules, Limits { bytes: usize::MAX, lines: usize::MAX }, |_| 0)
        .map_err(|_| Error::Harness("rules without a limit are never too large"))?;
    let ours_built = (start.elapsed().as_secs_f64(), rules.bytes());
    let lowered: Vec<AclRule> = keys.rules.iter().map(|rule| lower(&rule.matches)).collect();
    let family = if v6 { Family::V6 } else { Family::V4 };
    // It can't be interrupted: a spinner shows that something happens.
    ground.progress.phase("compiling DPDK's rules", 0);
    let (table, seconds, bytes) = ground.build(|| Ok(Acl::build(ground.eal, family, &lowered, 0)?))?;
    let asked: Vec<RuleKey> = keys.tuples.iter().map(|tuple| tuple.key(0)).collect();
    let theirs: Vec<AclKey> = keys.tuples.iter().filter_map(acl_key).collect();
    compare(&rules, &asked, &table, &theirs, &keys.tuples)?;
    Ok(Duel {
        peer: PEER,
        work: format!("{} {} of {count} rules", label(v6), keys.rules.len()),
        unit: "look-ups/CPU-s",
        note: NOTE.into(),
        build: build(ours_built, (seconds, bytes)),
        ours: Box::new(move || {
            let mut found = [None; BURST];
            for burst in asked.chunks(BURST) {
                ours::rules(&rules, burst, &mut found);
                black_box(&found);
            }
            asked.len()
        }),
        theirs: Box::new(move || {
            let mut answers = [0; BURST];
            for burst in theirs.chunks(BURST) {
                table.classify(burst, &mut answers);
                black_box(&answers);
            }
            theirs.len()
        }),
    })
}

fn compare(rules: &Rules, asked: &[RuleKey], table: &Acl, theirs: &[AclKey], names: &[Tuple]) -> Result<(), Stop> {
    let (mut ours_found, mut theirs_found) = (Vec::new(), Vec::new());
    for (burst, their_burst) in asked.chunks(BURST).zip(theirs.chunks(BURST)) {
        let (mut found, mut answers) = ([None; BURST], [0; BURST]);
        ours::rules(rules, burst, &mut found);
        table.classify(their_burst, &mut answers);
        ours_found.extend_from_slice(&found[..burst.len()]);
        theirs_found.extend(answers[..burst.len()].iter().map(|answer| answer.checked_sub(1)));
    }
    Ok(agree(PEER, &ours_found, &theirs_found, |at| format!("{:?}", names[at]))?)
}

/// The generator makes lists of one entry at most.
fn lower(matches: &RuleMatch) -> AclRule {
    let prefix = |list: &[Cidr]| list.first().map(|prefix| (prefix.addr, prefix.len));
    let ports = |list: &[PortRange]| list.first().map_or((0, u16::MAX), |range| (range.first, range.last));
    AclRule {
        src: prefix(&matches.src),
        dst: prefix(&matches.dst),
        protocol: matches.protocol,
        sport: ports(&matches.src_ports),
        dport: ports(&matches.dst_ports),
    }
}

fn acl_key(tuple: &Tuple) -> Option<AclKey> {
    let Tuple { protocol, sport, dport, .. } = *tuple;
    match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some(AclKey::v4(src, dst, protocol, sport, dport)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Some(AclKey::v6(src, dst, protocol, sport, dport)),
        _ => None,
    }
}
