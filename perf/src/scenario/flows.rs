//! Flows that are forwarded without a session: to routed destinations, and under rules.

use marchproxy_engine::build::{Budget, build};
use marchproxy_engine::tables::{Cidr, RuleAction, RuleSpec, RuleTables};
use marchproxy_engine::wire::{TCP, UDP};

use super::topology::{self, WAN};
use super::{Params, Plan, STEADY};
use crate::Error;
use crate::load::{Kind, Load, Template};
use crate::rig::{Capacity, mac};
use crate::seeded::rules::{Tuple, flow_of};
use crate::seeded::{Rng, addresses, routes};

/// Draws per flow wanted before the rules are said to be too strict (or too lax).
const PATIENCE: usize = 64;

/// Index of the clients' interface in the tables.
const INTERFACE: u32 = WAN as u32;

/// A frame that arrives from the clients' side.
pub fn from_wan(tuple: &Tuple, kind: Kind, params: &Params, rng: &mut Rng) -> Template {
    Template::new(WAN, topology::station(WAN, tuple.src.is_ipv6()), mac(WAN), tuple, kind, params.packet, rng)
}

/// A TCP or UDP tuple to a random address behind a random route; `number` alternates the families as far as there are routes of both.
pub fn routed_tuple(prefixes: &[Cidr], number: usize, only_v6: bool, rng: &mut Rng) -> Option<Tuple> {
    // IPv4 comes first in generated routes.
    let (v4, v6) = prefixes.split_at(prefixes.partition_point(|p| p.addr.is_ipv4()));
    let side = if (only_v6 || number.is_multiple_of(2) || v4.is_empty()) && !v6.is_empty() { v6 } else { v4 };
    let prefix = *rng.pick(side)?;
    let dst = addresses::inside(rng, &prefix);
    let src = addresses::public(rng, dst.is_ipv6());
    let protocol = if rng.percent(50) { TCP } else { UDP };
    let (sport, dport) = (rng.between(1024, 65_535) as u16, rng.between(1024, 65_535) as u16);
    Some(Tuple { src, dst, protocol, sport, dport })
}

/// Frames of `flows` flows to routed destinations.
pub fn routed(prefixes: &[Cidr], params: &Params, only_v6: bool, rng: &mut Rng) -> Vec<Template> {
    let tuples: Vec<_> = (0..params.flows).filter_map(|number| routed_tuple(prefixes, number, only_v6, rng)).collect();
    tuples.iter().map(|tuple| from_wan(tuple, Kind::Data, params, rng)).collect()
}

/// Draws `wanted` tuples that the rules of `tables` judge as asked. Half come from rules, spread evenly over the list, half from
/// `other`.
pub fn judged(
    tables: &RuleTables,
    action: RuleAction,
    wanted: usize,
    rng: &mut Rng,
    mut other: impl FnMut(usize, &mut Rng) -> Option<Tuple>,
) -> Result<Vec<Tuple>, Error> {
    // Only the rules: their look-up says in nanoseconds what trying each rule would in milliseconds.
    let only_rules = RuleTables { routes: Vec::new(), services: Vec::new(), policers: Vec::new(), ..tables.clone() };
    let budget = Budget { counters: tables.rules.len() as u32, ..Budget::default() };
    let snapshot = build(&only_rules, None, &budget)?;
    let mut found = Vec::with_capacity(wanted);
    let mut draws = 0;
    while found.len() < wanted && draws < wanted.max(1000) * PATIENCE {
        draws += 1;
        let from_rule = |rng: &mut Rng| rng.pick(&tables.rules).and_then(|rule| flow_of(&rule.matches, rng));
        let tuple = if draws % 2 == 0 { other(draws / 2, rng).or_else(|| from_rule(rng)) } else { from_rule(rng) };
        // Wide prefixes hold special addresses, and our own rules name services.
        let Some(tuple) = tuple.filter(|t| addresses::is_public(t.src) && addresses::is_public(t.dst)) else {
            continue;
        };
        let matched = snapshot.rules.first_match(&tuple.key(INTERFACE)).and_then(|index| snapshot.rules.get(index));
        if matched.is_some_and(|rule| rule.action == action) {
            found.push(tuple);
        }
    }
    let what = if action == RuleAction::Permit { "permitted flows" } else { "denied flows" };
    if found.len() < wanted { Err(Error::Flows { what, found: found.len(), wanted }) } else { Ok(found) }
}

/// The scenario `rules`.
pub fn under_rules(params: &Params) -> Result<Plan, Error> {
    let prefixes = routes::generate(params.routes, false, params.seed);
    // Rules name destinations all over, so everything is routed.
    let mut tables = topology::tables(&prefixes, true);
    tables.rules = Plan::rules(params, &[]);
    let mut rng = Rng::new(params.seed, "flows");
    let tuples = judged(&tables, RuleAction::Permit, params.flows, &mut rng, |_, _| None)?;
    let mut load = Load::default();
    load.add(1000, tuples.iter().map(|tuple| from_wan(tuple, Kind::Data, params, &mut rng)));
    Ok(Plan { tables, first: Vec::new(), load, capacity: Capacity { sessions: 1024, step: STEADY } })
}

/// A rule of the harness's own between generated ones.
pub fn own_rule(name: &str, priority: u32, change: impl FnOnce(&mut RuleSpec)) -> RuleSpec {
    let matches = marchproxy_engine::tables::RuleMatch::default();
    let mut rule =
        RuleSpec { name: name.into(), priority, matches, action: RuleAction::Permit, mark: None, ..Default::default() };
    change(&mut rule);
    rule
}
