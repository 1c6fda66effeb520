//! Interfaces: where they are, which addresses are ours.

use std::collections::HashMap;
use std::net::IpAddr;

use marchproxy_engine::tables::{Cidr, Urpf};
use marchproxy_proto::v1::{self, Document};

use super::super::objects::MAIN_TABLE;
use super::super::report::{At, Report, quoted};
use super::super::types::{Interface, Node};
use super::super::words;
use super::{References, network};

/// RFC 8200 s5: the smallest MTU that carries IPv6.
const IPV6_MTU: u16 = 1280;

/// The interfaces, with a hole where port or node are unknown.
pub(super) fn check(
    document: &Document,
    nodes: &[Node],
    references: &References<'_>,
    report: &mut Report,
) -> Vec<Option<Interface>> {
    let interfaces: Vec<_> = document
        .interfaces
        .iter()
        .enumerate()
        .map(|(index, interface)| {
            let at = At::new("interfaces", index, "interface", &interface.name);
            one(interface, &at, nodes, references, report)
        })
        .collect();
    let listed = || {
        std::iter::zip(&document.interfaces, &interfaces).enumerate().filter_map(|(index, (written, interface))| {
            Some((At::new("interfaces", index, "interface", &written.name), interface.as_ref()?))
        })
    };
    vlans(listed(), nodes, report);
    addresses(listed(), report);
    overlaps(listed(), report);
    interfaces
}

fn one(
    interface: &v1::Interface,
    at: &At<'_>,
    nodes: &[Node],
    references: &References<'_>,
    report: &mut Report,
) -> Option<Interface> {
    let node = match (interface.node.as_str(), nodes) {
        ("", [_]) => Some(0),
        ("", [_, _, ..]) => {
            report.refuse(at, "node", "missing", format!("the name of a node, since there are {}", nodes.len()));
            None
        }
        (name, _) => references.nodes.find(report, at, "node", name),
    };
    let port = node.and_then(|node| {
        let ports = &nodes[node].ports;
        let found = ports.iter().position(|port| port.name == interface.port);
        if found.is_none() {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let allowed = if names.is_empty() {
                format!("a port of node {}, which has none", nodes[node].name)
            } else {
                format!("a port of node {}: {}", nodes[node].name, names.join(", "))
            };
            report.refuse(at, "port", quoted(&interface.port), allowed);
        }
        found
    });
    let vlan = interface.vlan.map(|vlan| report.within(at, "vlan", vlan, 1..=4094, "").unwrap_or(1) as u16);
    let mut addresses = Vec::new();
    for (index, text) in interface.addresses.iter().enumerate() {
        addresses.extend(report.word(at, format_args!("addresses[{index}]"), text, own_address));
    }
    let modes = [("off", Urpf::Off), ("loose", Urpf::Loose), ("strict", Urpf::Strict)];
    let urpf = report.choice(at, "urpf", &interface.urpf, Some(Urpf::Off), &modes).unwrap_or_default();
    if !interface.table.is_empty() {
        report.word(at, "table", &interface.table, words::name);
    }
    let policer = match interface.policer.as_str() {
        "" => None,
        name => references.policers.find(report, at, "policer", name),
    };
    let (node, port) = (node?, port?);
    let mtu = nodes[node].ports[port].mtu;
    if mtu < IPV6_MTU && addresses.iter().any(|address: &Cidr| address.addr.is_ipv6()) {
        let found = format!("with IPv6 on port {}, whose mtu is {mtu}", interface.port);
        report.refuse(at, "addresses", found, format!("IPv6 on ports with an mtu of {IPV6_MTU} or more"));
    }
    Some(Interface {
        name: interface.name.clone(),
        node,
        port,
        vlan,
        addresses,
        table: if interface.table.is_empty() { MAIN_TABLE } else { &interface.table }.to_owned(),
        urpf,
        trust_dscp: interface.trust_dscp.unwrap_or(true),
        policer,
    })
}

/// `ADDRESS/LENGTH` that a host may have in that prefix.
fn own_address(text: &str) -> Result<Cidr, String> {
    let found = words::prefix(text)?;
    words::host(&found.addr.to_string())?;
    if found.len == 0 {
        return Err("a prefix length of 1 or more: not everything is connected".to_owned());
    }
    match network::not_a_host(found, found.addr) {
        Some(why) => Err(format!("an address of a host, not {why} of {}", found.network())),
        None => Ok(found),
    }
}

fn vlans<'a>(interfaces: impl Iterator<Item = (At<'a>, &'a Interface)>, nodes: &[Node], report: &mut Report) {
    let mut seen = HashMap::new();
    for (at, interface) in interfaces {
        if let Some(other) = seen.insert((interface.node, interface.port, interface.vlan), &interface.name) {
            let port = &nodes[interface.node].ports[interface.port].name;
            let (field, what) = match interface.vlan {
                Some(vlan) => ("vlan", format!("{vlan}, which interface {other} has on port {port} already")),
                None => ("port", format!("\"{port}\", which interface {other} has untagged already")),
            };
            report.refuse(&at, field, what, "one interface for each port and vlan");
        }
    }
}

/// Own addresses are those of the node, whatever the interface or table.
fn addresses<'a>(interfaces: impl Iterator<Item = (At<'a>, &'a Interface)>, report: &mut Report) {
    let mut seen: HashMap<(usize, IpAddr), &str> = HashMap::new();
    for (at, interface) in interfaces {
        for address in &interface.addresses {
            if let Some(other) = seen.insert((interface.node, address.addr), &interface.name) {
                let found = format!("{}, an address of interface {other} already", address.addr);
                report.refuse(&at, "addresses", found, "each address once on a node");
            }
        }
    }
}

/// Connected prefixes of one table must not overlap, or a neighbour could be on two interfaces.
fn overlaps<'a>(interfaces: impl Iterator<Item = (At<'a>, &'a Interface)>, report: &mut Report) {
    let mut prefixes: Vec<(usize, &str, Cidr, Cidr, At<'_>, &str)> = Vec::new();
    for (at, it) in interfaces {
        let own =
            it.addresses.iter().map(|own| (it.node, it.table.as_str(), own.network(), *own, at, it.name.as_str()));
        prefixes.extend(own);
    }
    // Prefixes nest or are disjoint, and a prefix sorts before what is inside.
    prefixes.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
    let mut outer: Option<&(usize, &str, Cidr, Cidr, At<'_>, &str)> = None;
    for inner in &prefixes {
        match outer {
            Some(outer) if (outer.0, outer.1) == (inner.0, inner.1) && outer.2.contains(inner.2.addr) => {
                // The same address twice was refused already.
                if outer.3.addr != inner.3.addr {
                    let found = format!("{}, which overlaps {} of interface {}", inner.3, outer.3, outer.5);
                    let allowed = format!("prefixes of table {} that do not overlap", inner.1);
                    report.refuse(&inner.4, "addresses", found, allowed);
                }
            }
            _ => outer = Some(inner),
        }
    }
}
