//! A document as a set of objects: kind, name, canonical JSON. The store keeps them, diffs compare them, hashes are made of them.

use std::fmt;
use std::str::FromStr;

use marchproxy_proto::v1::{self, Document};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::words;

/// The one `api_version` there is.
pub const API_VERSION: &str = "marchproxy/v1";

/// The cluster of documents that name none.
pub const DEFAULT_CLUSTER: &str = "default";

/// Octets of L3 that a port carries where the document says nothing.
pub const DEFAULT_MTU: u32 = 1500;

/// The routing table of interfaces and routes that name none.
pub const MAIN_TABLE: &str = "main";

/// The kinds of objects in a document, in the document's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it all
pub enum Kind {
    Node,
    Interface,
    Route,
    Rule,
    Service,
    Policer,
    Qos,
    DscpMap,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Kind; 8] =
        [Kind::Node, Kind::Interface, Kind::Route, Kind::Rule, Kind::Service, Kind::Policer, Kind::Qos, Kind::DscpMap];

    /// The kind's name in the CLI, in changes and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Interface => "interface",
            Kind::Route => "route",
            Kind::Rule => "rule",
            Kind::Service => "service",
            Kind::Policer => "policer",
            Kind::Qos => "qos",
            Kind::DscpMap => "dscp_map",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed: node, interface, route, rule, service, policer, qos, dscp_map")]
pub struct UnknownKind;

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(UnknownKind)
    }
}

/// One object of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name; see [`route_name`] for routes.
    pub name: String,
    /// Canonical JSON.
    pub body: String,
}

impl Object {
    fn new(kind: Kind, name: String, object: &(impl Serialize + fmt::Debug)) -> Self {
        // Plain data without maps of odd keys always has a JSON form; were it otherwise, the debug form still tells objects apart.
        let body = serde_json::to_string(object).unwrap_or_else(|_| format!("{object:?}"));
        Self { kind, name, body }
    }

    /// A rule as an object.
    pub fn rule(rule: &v1::Rule) -> Self {
        Self::new(Kind::Rule, rule.name.clone(), rule)
    }

    /// SHA-256 over kind, name and body.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [self.kind.as_str(), &self.name, &self.body] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// All objects of a document, sorted by kind, then name.
pub fn objects(document: &Document) -> Vec<Object> {
    let mut objects = Vec::new();
    objects.extend(document.nodes.iter().map(|node| Object::new(Kind::Node, node.name.clone(), node)));
    objects.extend(document.interfaces.iter().map(|it| Object::new(Kind::Interface, it.name.clone(), it)));
    objects.extend(document.routes.iter().map(|route| Object::new(Kind::Route, route_name(route), route)));
    objects.extend(document.rules.iter().map(|rule| Object::new(Kind::Rule, rule.name.clone(), rule)));
    objects.extend(document.services.iter().map(|it| Object::new(Kind::Service, it.name.clone(), it)));
    objects.extend(document.policers.iter().map(|it| Object::new(Kind::Policer, it.name.clone(), it)));
    objects.extend(document.qos.iter().map(|qos| Object::new(Kind::Qos, qos.name.clone(), qos)));
    objects.extend(document.dscp_maps.iter().map(|it| Object::new(Kind::DscpMap, it.name.clone(), it)));
    objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    objects
}

/// Puts the objects of a document in canonical order.
pub fn sort(document: &mut Document) {
    document.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    document.interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    document.routes.sort_by_cached_key(route_name);
    document.rules.sort_by(|a, b| a.name.cmp(&b.name));
    document.services.sort_by(|a, b| a.name.cmp(&b.name));
    document.policers.sort_by(|a, b| a.name.cmp(&b.name));
    document.qos.sort_by(|a, b| a.name.cmp(&b.name));
    document.dscp_maps.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Puts an object back into a document, at the end of its list.
pub fn insert(document: &mut Document, kind: Kind, body: &str) -> Result<(), serde_json::Error> {
    match kind {
        Kind::Node => document.nodes.push(serde_json::from_str(body)?),
        Kind::Interface => document.interfaces.push(serde_json::from_str(body)?),
        Kind::Route => document.routes.push(serde_json::from_str(body)?),
        Kind::Rule => document.rules.push(serde_json::from_str(body)?),
        Kind::Service => document.services.push(serde_json::from_str(body)?),
        Kind::Policer => document.policers.push(serde_json::from_str(body)?),
        Kind::Qos => document.qos.push(serde_json::from_str(body)?),
        Kind::DscpMap => document.dscp_maps.push(serde_json::from_str(body)?),
    }
    Ok(())
}

/// SHA-256 over the objects' hashes in canonical order, hexadecimal: the order in which a document lists its objects does not count.
pub fn content_hash(document: &Document) -> String {
    hash_of_hashes(objects(document).iter().map(Object::hash))
}

/// The content hash of objects with these hashes, in canonical order.
pub fn hash_of_hashes(hashes: impl Iterator<Item = [u8; 32]>) -> String {
    let mut hasher = Sha256::new();
    for hash in hashes {
        hasher.update(hash);
    }
    hex(&hasher.finalize())
}

/// A hash from its hexadecimal form.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The name of a route: `[TABLE ]PREFIX[@NODE]`, without the table where it is main and the node where the route is for all.
/// The prefix is in its usual spelling, whatever the author's.
pub fn route_name(route: &v1::Route) -> String {
    let prefix = words::prefix(&route.prefix).map_or_else(|_| route.prefix.clone(), |prefix| prefix.to_string());
    let table =
        if route.table.is_empty() || route.table == MAIN_TABLE { String::new() } else { format!("{} ", route.table) };
    let node = if route.node.is_empty() { String::new() } else { format!("@{}", route.node) };
    format!("{table}{prefix}{node}")
}

/// The same name in its usual spelling: `main 2001:DB8::/32` is `2001:db8::/32`.
pub fn usual_route_name(name: &str) -> String {
    let (rest, node) = name.split_once('@').unwrap_or((name, ""));
    let (table, prefix) = rest.trim().split_once(' ').unwrap_or(("", rest));
    route_name(&v1::Route {
        prefix: prefix.trim().to_owned(),
        table: table.to_owned(),
        node: node.to_owned(),
        ..v1::Route::default()
    })
}
