//! Routes and their next hops.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use marchproxy_engine::tables::Cidr;
use marchproxy_proto::v1::{self, Document};

use super::super::objects::MAIN_TABLE;
use super::super::report::{At, Report, quoted};
use super::super::types::{NextHop, Route, RouteAction};
use super::super::words;
use super::References;
use super::network::{Network, not_a_host};

/// The routes, with holes where they are wrong; good ones are added to the network.
pub(super) fn check(
    document: &Document,
    references: &References<'_>,
    network: &mut Network,
    report: &mut Report,
) -> Vec<Option<Route>> {
    let mut check = Check { network, references, connected: HashMap::new(), report };
    let mut routes = Vec::with_capacity(document.routes.len());
    for (index, route) in document.routes.iter().enumerate() {
        // The name in messages is the prefix; the path says which one of several tables it is.
        routes.push(check.one(route, &At::new("routes", index, "route", &route.prefix)));
    }
    duplicates(document, &routes, report);
    for route in &routes {
        match route {
            Some(route) => network.add(route),
            None => network.misses_something(),
        }
    }
    routes
}

struct Check<'a, 'b> {
    network: &'a Network,
    references: &'a References<'b>,
    /// What was found about a next hop: big tables have few of them.
    connected: HashMap<(String, Option<usize>, IpAddr), Result<(), String>>,
    report: &'a mut Report,
}

impl Check<'_, '_> {
    fn one(&mut self, route: &v1::Route, at: &At<'_>) -> Option<Route> {
        let prefix = self
            .report
            .word(at, "prefix", &route.prefix, |text| words::prefix(text).and_then(words::without_host_bits));
        let table = if route.table.is_empty() { MAIN_TABLE } else { &route.table };
        self.report.word(at, "table", table, words::name);
        let (node, known) = match route.node.as_str() {
            "" => (None, true),
            name => {
                let node = self.references.nodes.find(self.report, at, "node", name);
                (node, node.is_some())
            }
        };
        let action = match (route.via.is_empty(), route.blackhole, route.reject) {
            (false, false, false) => self.via(&route.via, prefix, table, node, at).map(RouteAction::Via),
            (true, true, false) => Some(RouteAction::Blackhole),
            (true, false, true) => Some(RouteAction::Reject),
            (no_via, blackhole, reject) => {
                let given = [("via", !no_via), ("blackhole", blackhole), ("reject", reject)];
                let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
                let found = if given.is_empty() {
                    "missing".to_owned()
                } else {
                    format!("given with {}", given[1..].join(" and "))
                };
                let field = given.first().copied().unwrap_or("via");
                self.report.refuse(at, field, found, "exactly one of via, blackhole: true, reject: true");
                None
            }
        };
        if table != MAIN_TABLE && self.network.is_complete() && !self.network.has_interface_in(table) {
            self.report.warn(
                at,
                "table",
                format!("no interface with an address is in table {table}, so the route has no effect"),
            );
        }
        if !known {
            return None;
        }
        Some(Route { table: table.to_owned(), prefix: prefix?, node, action: action? })
    }

    fn via(
        &mut self,
        via: &[v1::NextHop],
        prefix: Option<Cidr>,
        table: &str,
        node: Option<usize>,
        at: &At<'_>,
    ) -> Option<Vec<NextHop>> {
        let mut hops = Vec::with_capacity(via.len());
        let mut seen = HashSet::new();
        for (index, hop) in via.iter().enumerate() {
            let field = format_args!("via[{index}].next_hop");
            let weight = self.report.within(
                at,
                format_args!("via[{index}].weight"),
                hop.weight.unwrap_or(1),
                1..=u16::MAX.into(),
                "",
            );
            let Some(address) = self.report.word(at, field, &hop.next_hop, words::host) else { continue };
            if let Some(prefix) = prefix.filter(|prefix| prefix.addr.is_ipv4() != address.is_ipv4()) {
                let family = if prefix.addr.is_ipv4() { "an IPv4" } else { "an IPv6" };
                self.report.refuse(at, field, quoted(&hop.next_hop), format!("{family} address, as the prefix is"));
                continue;
            }
            if !seen.insert(address) {
                let found = format!("{address}, there twice");
                self.report.refuse(at, field, found, "each next hop once; a weight gives it more");
            }
            let network = self.network;
            let key = (table.to_owned(), node, address);
            let verdict = self.connected.entry(key).or_insert_with(|| judge(network, table, node, address));
            if let Err(allowed) = verdict {
                self.report.refuse(at, field, address, &*allowed);
                continue;
            }
            hops.extend(weight.map(|weight| NextHop { address, weight: weight as u16 }));
        }
        (hops.len() == via.len()).then_some(hops)
    }
}

/// Whether packets can be handed to the next hop; if not, what would do.
fn judge(network: &Network, table: &str, node: Option<usize>, address: IpAddr) -> Result<(), String> {
    if let Some(interface) = network.owner(address) {
        return Err(format!("the address of another router, not that of interface {interface}"));
    }
    if network.is_service(address) {
        return Err("the address of another router, not that of a service".to_owned());
    }
    let mut connected = network.connected(table, node, address).peekable();
    if connected.peek().is_none() && !network.is_complete() {
        return Ok(());
    }
    if connected.peek().is_none() {
        let on_node = if node.is_some() { " of this node" } else { "" };
        return Err(format!("an address in a connected prefix of table {table}{on_node}: this one leads nowhere"));
    }
    match connected.find_map(|connected| Some((not_a_host(connected.own, address)?, connected.own.network()))) {
        Some((why, prefix)) => Err(format!("an address of a host, not {why} of {prefix}")),
        None => Ok(()),
    }
}

/// A prefix has one route in each table of each node.
fn duplicates(document: &Document, routes: &[Option<Route>], report: &mut Report) {
    /// Index of the route and the node it is for.
    type Routes = Vec<(usize, Option<usize>)>;
    let mut seen: HashMap<(&str, Cidr), Routes> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let Some(route) = route else { continue };
        let others = seen.entry((&route.table, route.prefix)).or_default();
        let clash = others.iter().find(|(_, node)| node.is_none() || route.node.is_none() || *node == route.node);
        if let Some((first, _)) = clash {
            let at = At::new("routes", index, "route", &document.routes[index].prefix);
            let found = format!("{}, the prefix of routes[{first}] already", route.prefix);
            report.refuse(&at, "prefix", found, format!("one route for a prefix in table {}", route.table));
        }
        others.push((index, route.node));
    }
}
