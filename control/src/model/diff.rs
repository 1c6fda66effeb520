//! What changes between two documents, and which ports it would stop.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use marchproxy_proto::v1::{self, Document};

use super::{DEFAULT_MTU, Object, objects};

/// A port that a change stops, starts or takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRestart {
    /// The node it is on.
    pub node: String,
    /// Its name.
    pub port: String,
    /// What changes.
    pub change: PortChange,
}

/// What changes about a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortChange {
    /// It was not there.
    Added,
    /// It is no longer there.
    Removed,
    /// Another device.
    Device {
        /// What it was.
        before: String,
        /// What it would be.
        after: String,
    },
    /// Another MTU.
    Mtu {
        /// What it was.
        before: u32,
        /// What it would be.
        after: u32,
    },
}

impl fmt::Display for PortRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: ", self.node, self.port)?;
        match &self.change {
            PortChange::Added => f.write_str("added"),
            PortChange::Removed => f.write_str("removed"),
            PortChange::Device { before, after } => write!(f, "device {before} -> {after}"),
            PortChange::Mtu { before, after } => write!(f, "mtu {before} -> {after}"),
        }
    }
}

/// The objects that differ, in canonical order, and the ports that a node would stop.
pub fn diff(before: &Document, after: &Document) -> v1::DiffResponse {
    let (old, new) = (objects(before), objects(after));
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut changed = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => (a.kind, &a.name).cmp(&(b.kind, &b.name)),
        };
        let gone = if order == Ordering::Greater { None } else { old.next() };
        let come = if order == Ordering::Less { None } else { new.next() };
        changed.extend(difference(gone, come));
    }
    let port_restarts = port_restarts(before, after).iter().map(ToString::to_string).collect();
    v1::DiffResponse { objects: changed, port_restarts }
}

fn difference(before: Option<&Object>, after: Option<&Object>) -> Option<v1::ObjectDiff> {
    let change = match (before, after) {
        (None, Some(_)) => "added",
        (Some(_), None) => "removed",
        (Some(a), Some(b)) if a.body != b.body => "changed",
        _ => return None,
    };
    let object = after.or(before)?;
    Some(v1::ObjectDiff {
        kind: object.kind.to_string(),
        name: object.name.clone(),
        change: change.to_owned(),
        before: before.map(|object| object.body.clone()).unwrap_or_default(),
        after: after.map(|object| object.body.clone()).unwrap_or_default(),
    })
}

/// The ports whose device must be opened, closed or configured anew, by node and name.
pub fn port_restarts(before: &Document, after: &Document) -> Vec<PortRestart> {
    let (old, new) = (ports(before), ports(after));
    let mut restarts = Vec::new();
    let mut push = |(node, port): (&str, &str), change| {
        restarts.push(PortRestart { node: node.to_owned(), port: port.to_owned(), change });
    };
    for (key, was) in &old {
        match new.get(key) {
            None => push(*key, PortChange::Removed),
            Some(is) => {
                if was.device != is.device {
                    let change = PortChange::Device { before: was.device.clone(), after: is.device.clone() };
                    push(*key, change);
                }
                let (before, after) = (was.mtu.unwrap_or(DEFAULT_MTU), is.mtu.unwrap_or(DEFAULT_MTU));
                if before != after {
                    push(*key, PortChange::Mtu { before, after });
                }
            }
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        push(*key, PortChange::Added);
    }
    restarts.sort_by(|a, b| (&a.node, &a.port).cmp(&(&b.node, &b.port)));
    restarts
}

fn ports(document: &Document) -> BTreeMap<(&str, &str), &v1::Port> {
    document
        .nodes
        .iter()
        .flat_map(|node| node.ports.iter().map(|port| ((node.name.as_str(), port.name.as_str()), port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    fn document(text: &str) -> Document {
        parse(text).unwrap()
    }

    #[test]
    fn added_changed_removed() {
        let before = document(
            "policers: [{name: p, kind: srtcm, cir_kbps: 1}]\n\
             rules: [{name: a, priority: 1, action: permit}, {name: b, priority: 2, action: deny}]",
        );
        let after = document(
            "rules: [{name: c, priority: 3, action: deny}, {name: a, priority: 5, action: permit}]\n\
             policers: [{name: p, kind: srtcm, cir_kbps: 1}]",
        );
        let found = diff(&before, &after);
        let short: Vec<_> =
            found.objects.iter().map(|o| (o.kind.as_str(), o.name.as_str(), o.change.as_str())).collect();
        assert_eq!(short, [("rule", "a", "changed"), ("rule", "b", "removed"), ("rule", "c", "added")]);
        assert_eq!(found.objects[0].before, r#"{"name":"a","priority":1,"action":"permit"}"#);
        assert_eq!(found.objects[1].after, "");
        assert_eq!(found.objects[2].before, "");
        assert!(found.port_restarts.is_empty());
        assert!(diff(&before, &before).objects.is_empty());
    }

    #[test]
    fn ports_that_stop() {
        let before = document(
            "nodes: [{name: n, ports: [{name: a, device: 'vdev:a'}, {name: b, device: 'vdev:b'}, {name: c, device: 'vdev:c'}]}]",
        );
        let after = document(
            "nodes: [{name: n, ports: [{name: a, device: 'vdev:a', mtu: 1500}, {name: b, device: 'vdev:x', mtu: 9000}, \
             {name: d, device: 'vdev:d'}]}]",
        );
        let expected = ["n/b: device vdev:b -> vdev:x", "n/b: mtu 1500 -> 9000", "n/c: removed", "n/d: added"];
        assert_eq!(diff(&before, &after).port_restarts, expected);
    }
}
