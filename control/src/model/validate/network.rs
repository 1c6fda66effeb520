//! What the interfaces and routes make reachable, to judge next hops and backends by.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use marchproxy_engine::tables::Cidr;
use marchproxy_proto::v1::Document;

use super::super::objects::MAIN_TABLE;
use super::super::types::{Interface, Route, RouteAction};

/// A prefix of an interface.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub node: usize,
    pub table: String,
    /// Own address and length.
    pub own: Cidr,
}

/// How a backend is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// By a connected prefix or a route of the main table that is more than the default route.
    Known,
    /// By the main table's default route.
    Default,
    /// Only from interfaces of this other table.
    Table(String),
    /// A route drops what goes there.
    Dropped(Cidr),
    /// Not at all.
    Nowhere,
    /// Not by what could be read, but some interfaces or routes could not.
    Unsure,
}

/// The document's network, all nodes together.
#[derive(Debug)]
pub(super) struct Network {
    connected: Vec<Connected>,
    own: HashMap<IpAddr, String>,
    services: HashSet<IpAddr>,
    /// Per table: does the prefix lead anywhere?
    leads: HashMap<String, HashMap<Cidr, bool>>,
    /// Something is missing because it is wrong. Saying that nothing leads to an address would be a consequence of that, no news.
    incomplete: bool,
}

impl Network {
    /// From the interfaces; routes are added as they are found good.
    pub fn new(document: &Document, interfaces: &[Option<Interface>], services: HashSet<IpAddr>) -> Self {
        let mut network =
            Self { connected: Vec::new(), own: HashMap::new(), services, leads: HashMap::new(), incomplete: false };
        for (written, interface) in std::iter::zip(&document.interfaces, interfaces) {
            let Some(interface) = interface.as_ref().filter(|it| it.addresses.len() == written.addresses.len()) else {
                network.incomplete = true;
                continue;
            };
            let leads = network.leads.entry(interface.table.clone()).or_default();
            for own in &interface.addresses {
                leads.insert(own.network(), true);
                network.own.insert(own.addr, interface.name.clone());
                network.connected.push(Connected { node: interface.node, table: interface.table.clone(), own: *own });
            }
        }
        network
    }

    /// A configured route replaces the connected one of the same prefix; where only one node has it, both count.
    pub fn add(&mut self, route: &Route) {
        let leads = matches!(route.action, RouteAction::Via(_));
        let known = self.leads.entry(route.table.clone()).or_default();
        if leads || route.node.is_none() || !known.contains_key(&route.prefix) {
            known.insert(route.prefix, leads);
        }
    }

    /// Notes that something of the network is not known, because it is wrong.
    pub fn misses_something(&mut self) {
        self.incomplete = true;
    }

    /// Whether all interfaces and routes so far were good.
    pub fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// Whether an interface with an address is in the table.
    pub fn has_interface_in(&self, table: &str) -> bool {
        self.connected.iter().any(|connected| connected.table == table)
    }

    /// The connected prefixes of the table that hold the address, on one node or all.
    pub fn connected(&self, table: &str, node: Option<usize>, address: IpAddr) -> impl Iterator<Item = &Connected> {
        self.connected.iter().filter(move |connected| {
            connected.table == table
                && node.is_none_or(|node| node == connected.node)
                && connected.own.contains(address)
        })
    }

    /// The connected prefixes that hold the address, whatever their table.
    pub fn connected_anywhere(&self, address: IpAddr) -> impl Iterator<Item = &Connected> {
        self.connected.iter().filter(move |connected| connected.own.contains(address))
    }

    /// The routing tables that interfaces with addresses or routes name, sorted.
    pub fn tables(&self) -> Vec<&str> {
        let mut tables: Vec<&str> = self.leads.keys().map(String::as_str).collect();
        tables.sort_unstable();
        tables
    }

    /// The interface whose address it is.
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        self.own.get(&address).map(String::as_str)
    }

    /// Whether it is a service's address.
    pub fn is_service(&self, address: IpAddr) -> bool {
        self.services.contains(&address)
    }

    /// Why the address is no host's in a connected prefix, if so.
    pub fn not_a_host(&self, address: IpAddr) -> Option<(&'static str, Cidr)> {
        self.connected.iter().find_map(|connected| Some((not_a_host(connected.own, address)?, connected.own.network())))
    }

    /// How packets get to the address.
    pub fn reach(&self, address: IpAddr) -> Reach {
        let main = self.longest(MAIN_TABLE, address);
        match main {
            Some((prefix, true)) if prefix.len > 0 => return Reach::Known,
            Some((_, true)) => return Reach::Default,
            _ => {}
        }
        let mut others: Vec<&String> = self
            .leads
            .keys()
            .filter(|table| *table != MAIN_TABLE && self.longest(table, address).is_some_and(|(_, leads)| leads))
            .collect();
        others.sort();
        match (others.first(), main) {
            (Some(table), _) => Reach::Table((*table).clone()),
            (None, _) if self.incomplete => Reach::Unsure,
            (None, Some((prefix, _))) => Reach::Dropped(prefix),
            (None, None) => Reach::Nowhere,
        }
    }

    fn longest(&self, table: &str, address: IpAddr) -> Option<(Cidr, bool)> {
        let leads = self.leads.get(table)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|len| {
            let prefix = Cidr { addr: address, len }.network();
            leads.get(&prefix).map(|leads| (prefix, *leads))
        })
    }
}

/// Why the address is no host's in this prefix: the network itself or its broadcast address (RFC 1122 s3.2.1.3, not for /31 and /32,
/// RFC 3021), the subnet-router anycast address (RFC 4291 s2.6.1, not for /127 and /128, RFC 6164).
pub(super) fn not_a_host(prefix: Cidr, address: IpAddr) -> Option<&'static str> {
    if !prefix.contains(address) {
        return None;
    }
    let network = prefix.network().addr;
    match address {
        IpAddr::V4(_) if prefix.len >= 31 => None,
        IpAddr::V4(v4) => {
            let hosts = u32::MAX >> prefix.len;
            match u32::from(v4) & hosts {
                0 => Some("the network address"),
                host if host == hosts => Some("the broadcast address"),
                _ => None,
            }
        }
        IpAddr::V6(_) if prefix.len >= 127 => None,
        IpAddr::V6(_) => (address == network).then_some("the subnet-router anycast address"),
    }
}
