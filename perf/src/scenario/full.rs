//! The scenario `full`: a bit of everything, in the shares of the contract.

use marchproxy_engine::tables::{RuleAction, RuleTables};
use marchproxy_engine::wire::{ICMP, ICMPV6, TCP, UDP};

use super::flows::{from_wan, judged, own_rule, routed_tuple};
use super::{Params, Plan, services, topology};
use crate::load::{Kind, Load};
use crate::rig::Capacity;
use crate::seeded::rules::{PRIORITY_STEP, Tuple};
use crate::seeded::{Rng, addresses, routes};
use crate::{Error, churn};

/// Share of packets of established sessions, per mille.
pub const ESTABLISHED: u32 = 700;
/// Share forwarded under rules and routes without a session.
const FORWARDED: u32 = 200;
/// Share that starts a session.
const FIRST: u32 = 50;
/// Shares of fragments and of ICMP.
const FRAGMENTS: u32 = 15;
const ECHOES: u32 = 15;
/// Share that a rule denies.
const DENIED: u32 = 20;

/// Rules that nothing but fragments and ICMP matches.
pub const ODD_RULES: [&str; 3] = ["fragments", "icmp", "icmpv6"];

/// Flows of fragments and of echo requests each.
const ODD_FLOWS: usize = 1024;

/// Nanoseconds between turns: at 1.6 new sessions a turn this leaves some [`churn::ALIVE`] of them alive.
const STEP: u64 = 250_000;

/// Tables, frames and shares.
pub fn plan(params: &Params) -> Result<Plan, Error> {
    let prefixes = routes::generate(params.routes, false, params.seed);
    let (services, _) = services::specs(params, false);
    let mut tables = RuleTables { services, ..topology::tables(&prefixes, true) };
    let mut rng = Rng::new(params.seed, "full");

    // Generated rules name destinations inside the routes; ours stand in the middle of the list.
    let mut networks: Vec<_> = prefixes.iter().copied().filter(|p| p.len <= 48).collect();
    rng.shuffle(&mut networks);
    networks.truncate(params.rules / 8 + 8);
    let own = 1 + ODD_RULES.len();
    tables.rules = Plan::rules(&Params { rules: params.rules - own, ..params.clone() }, &networks);
    let middle = tables.rules.len() as u32 / 2 * PRIORITY_STEP;
    tables.rules.extend([
        own_rule("services", middle + 1, |r| {
            r.matches.protocol = Some(TCP);
            r.matches.dst =
                tables.services.iter().flat_map(|s| &s.addresses).map(|&a| addresses::prefix(a, bits(a))).collect();
        }),
        own_rule(ODD_RULES[0], middle + 2, |r| {
            r.matches.protocol = Some(UDP);
            r.matches.dst = vec![addresses::fragments(false), addresses::fragments(true)];
        }),
        own_rule(ODD_RULES[1], middle + 3, |r| {
            r.matches.protocol = Some(ICMP);
            r.matches.dst = vec![addresses::fragments(false)];
        }),
        own_rule(ODD_RULES[2], middle + 4, |r| {
            r.matches.protocol = Some(ICMPV6);
            r.matches.dst = vec![addresses::fragments(true)];
        }),
    ]);
    tables.rules.sort_by_key(|r| r.priority);

    let mut load = Load::default();
    let flows = params.flows.max(16);
    let other = |number, rng: &mut Rng| routed_tuple(&prefixes, number, false, rng);
    let forwarded = judged(&tables, RuleAction::Permit, flows / 4, &mut rng, other)?;
    load.add(FORWARDED, forwarded.iter().map(|t| from_wan(t, Kind::Data, params, &mut rng)));
    let denied = judged(&tables, RuleAction::Deny, flows / 16, &mut rng, other)?;
    load.add(DENIED, denied.iter().map(|t| from_wan(t, Kind::Data, params, &mut rng)));
    let odd = |number: usize, protocol: u8, rng: &mut Rng| {
        let v6 = number % 2 == 1;
        let protocol = if v6 && protocol == ICMP { ICMPV6 } else { protocol };
        let dst = addresses::inside(rng, &addresses::fragments(v6));
        Tuple { src: addresses::public(rng, v6), dst, protocol, sport: number as u16, dport: 53 }
    };
    // Each packet comes in two fragments, one after the other, so that nothing waits.
    let fragments: Vec<_> = (0..ODD_FLOWS / 2)
        .flat_map(|n| {
            let tuple = odd(n, UDP, &mut rng);
            let first = from_wan(&tuple, Kind::Fragment(0), params, &mut rng);
            let last = from_wan(&tuple, Kind::Fragment(first.fragment_octets()), params, &mut rng);
            [first, last]
        })
        .collect();
    load.add_in_turn(FRAGMENTS, fragments);
    let echoes: Vec<_> = (0..ODD_FLOWS)
        .map(|n| {
            let tuple = odd(n, ICMP, &mut rng);
            from_wan(&tuple, Kind::Data, params, &mut rng)
        })
        .collect();
    load.add(ECHOES, echoes);
    load.add_fresh(FIRST, services::newcomers(params, &mut rng));
    let first = services::openers(params, &mut Rng::new(params.seed, "openers"));
    let sessions = services::room(params.sessions) + churn::ROOM;
    Ok(Plan { tables, first, load, capacity: Capacity { sessions, step: STEP } })
}

fn bits(address: std::net::IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}
