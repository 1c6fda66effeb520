//! Changes to a document: objects put in place of those with their kind and name, objects deleted.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use marchproxy_proto::v1::{Changes, Document};

use super::objects::{API_VERSION, DEFAULT_CLUSTER, Kind, route_name, usual_route_name};
use super::violation::Violation;

/// The document with the changes made. Nothing is merged half: every change that makes no sense is reported.
pub fn merge(document: &Document, changes: &Changes) -> Result<Document, Vec<Violation>> {
    let mut merged = document.clone();
    let mut violations = Vec::new();
    let gone = deletions(changes, &mut violations);

    delete(&mut merged.nodes, Kind::Node, |node| node.name.clone(), &gone, &mut violations);
    delete(&mut merged.interfaces, Kind::Interface, |it| it.name.clone(), &gone, &mut violations);
    delete(&mut merged.routes, Kind::Route, route_name, &gone, &mut violations);
    delete(&mut merged.rules, Kind::Rule, |rule| rule.name.clone(), &gone, &mut violations);
    delete(&mut merged.services, Kind::Service, |service| service.name.clone(), &gone, &mut violations);
    delete(&mut merged.policers, Kind::Policer, |policer| policer.name.clone(), &gone, &mut violations);
    delete(&mut merged.qos, Kind::Qos, |qos| qos.name.clone(), &gone, &mut violations);
    delete(&mut merged.dscp_maps, Kind::DscpMap, |it| it.name.clone(), &gone, &mut violations);

    if let Some(new) = &changes.upsert {
        header(&merged, new, &mut violations);
        upsert(&mut merged.nodes, &new.nodes, Kind::Node, |node| node.name.clone(), &gone, &mut violations);
        upsert(&mut merged.interfaces, &new.interfaces, Kind::Interface, |it| it.name.clone(), &gone, &mut violations);
        upsert(&mut merged.routes, &new.routes, Kind::Route, route_name, &gone, &mut violations);
        upsert(&mut merged.rules, &new.rules, Kind::Rule, |rule| rule.name.clone(), &gone, &mut violations);
        upsert(&mut merged.services, &new.services, Kind::Service, |it| it.name.clone(), &gone, &mut violations);
        upsert(&mut merged.policers, &new.policers, Kind::Policer, |it| it.name.clone(), &gone, &mut violations);
        upsert(&mut merged.qos, &new.qos, Kind::Qos, |qos| qos.name.clone(), &gone, &mut violations);
        upsert(&mut merged.dscp_maps, &new.dscp_maps, Kind::DscpMap, |it| it.name.clone(), &gone, &mut violations);
    }
    if violations.is_empty() { Ok(merged) } else { Err(violations) }
}

/// Kind and name to the position in `Changes.delete`.
type Deletions = HashMap<(Kind, String), usize>;

fn deletions(changes: &Changes, violations: &mut Vec<Violation>) -> Deletions {
    let mut gone = Deletions::new();
    for (index, object) in changes.delete.iter().enumerate() {
        let Ok(kind) = object.kind.parse::<Kind>() else {
            violations.push(Violation {
                object: format!("deletion of {} {}", object.kind, object.name),
                field: format!("delete[{index}].kind"),
                found: format!("\"{}\"", object.kind),
                allowed: Kind::ALL.map(Kind::as_str).join(", "),
            });
            continue;
        };
        let name = if kind == Kind::Route { usual_route_name(&object.name) } else { object.name.clone() };
        match gone.entry((kind, name)) {
            Entry::Vacant(place) => _ = place.insert(index),
            Entry::Occupied(first) => violations.push(Violation {
                object: format!("{kind} {}", object.name),
                field: format!("delete[{index}].name"),
                found: format!("deleted already by delete[{}]", first.get()),
                allowed: "each object once".to_owned(),
            }),
        }
    }
    gone
}

/// Fields of the document itself may stay empty in changes; given, they must be the document's.
fn header(document: &Document, new: &Document, violations: &mut Vec<Violation>) {
    let cluster = if document.cluster.is_empty() { DEFAULT_CLUSTER } else { &document.cluster };
    let fields = [("upsert.api_version", &new.api_version, API_VERSION), ("upsert.cluster", &new.cluster, cluster)];
    for (field, found, allowed) in fields {
        if !found.is_empty() && found != allowed {
            violations.push(Violation {
                object: "changes".to_owned(),
                field: field.to_owned(),
                found: format!("\"{found}\""),
                allowed: format!("\"{allowed}\", as in the document, or nothing"),
            });
        }
    }
}

fn delete<T>(
    list: &mut Vec<T>,
    kind: Kind,
    name: impl Fn(&T) -> String,
    gone: &Deletions,
    violations: &mut Vec<Violation>,
) {
    let mut unknown: HashMap<&str, usize> =
        gone.iter().filter(|((of, _), _)| *of == kind).map(|((_, name), index)| (name.as_str(), *index)).collect();
    if unknown.is_empty() {
        return;
    }
    list.retain(|object| {
        !gone.contains_key(&(kind, name(object))) || {
            unknown.remove(name(object).as_str());
            false
        }
    });
    let mut unknown: Vec<_> = unknown.into_iter().collect();
    unknown.sort_by_key(|(_, index)| *index);
    for (name, index) in unknown {
        violations.push(Violation {
            object: format!("{kind} {name}"),
            field: format!("delete[{index}].name"),
            found: format!("\"{name}\", which the document does not have"),
            allowed: format!("the name of a {kind} in the document"),
        });
    }
}

fn upsert<T: Clone>(
    list: &mut Vec<T>,
    new: &[T],
    kind: Kind,
    name: impl Fn(&T) -> String,
    gone: &Deletions,
    violations: &mut Vec<Violation>,
) {
    if new.is_empty() {
        return;
    }
    let places: HashMap<String, usize> = list.iter().enumerate().map(|(index, object)| (name(object), index)).collect();
    let mut seen = HashSet::new();
    for (index, object) in new.iter().enumerate() {
        let name = name(object);
        let mut refuse = |found: &str| {
            violations.push(Violation {
                object: format!("{kind} {name}"),
                field: format!("upsert.{}[{index}]", list_name(kind)),
                found: found.to_owned(),
                allowed: "each object once".to_owned(),
            });
        };
        if gone.contains_key(&(kind, name.clone())) {
            refuse("deleted by the same changes");
        } else if !seen.insert(name.clone()) {
            refuse("there twice");
        } else if let Some(place) = places.get(&name) {
            list[*place].clone_from(object);
        } else {
            list.push(object.clone());
        }
    }
}

/// The document's field that lists the kind.
const fn list_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "nodes",
        Kind::Interface => "interfaces",
        Kind::Route => "routes",
        Kind::Rule => "rules",
        Kind::Service => "services",
        Kind::Policer => "policers",
        Kind::Qos => "qos",
        Kind::DscpMap => "dscp_maps",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;
    use marchproxy_proto::v1::ObjectRef;

    fn document() -> Document {
        parse(
            "{api_version: marchproxy/v1, rules: [{name: a, priority: 1, action: permit}, {name: b, priority: 2, action: deny}], \
             routes: [{prefix: 10.0.0.0/8, blackhole: true}, {prefix: '2001:db8::/32', table: blue, reject: true}]}",
        )
        .unwrap()
    }

    fn changes(upsert: &str, delete: &[(&str, &str)]) -> Changes {
        let delete = delete
            .iter()
            .map(|(kind, name)| ObjectRef { kind: (*kind).to_owned(), name: (*name).to_owned() })
            .collect();
        Changes { upsert: Some(parse(upsert).unwrap()), delete }
    }

    #[test]
    fn objects_are_replaced_in_place_added_and_deleted() {
        let changes = changes(
            "{rules: [{name: c, priority: 3, action: deny}, {name: b, priority: 9, action: permit}]}",
            &[("rule", "a"), ("route", "main 10.0.0.0/8"), ("route", "blue 2001:DB8::/32")],
        );
        let merged = merge(&document(), &changes).unwrap();
        let rules: Vec<_> = merged.rules.iter().map(|rule| (rule.name.as_str(), rule.priority)).collect();
        assert_eq!(rules, [("b", 9), ("c", 3)]);
        assert!(merged.routes.is_empty());
        assert_eq!(merge(&document(), &Changes::default()).unwrap(), document());
    }

    #[test]
    fn senseless_changes_are_all_reported() {
        let changes = changes(
            "{cluster: other, rules: [{name: a, priority: 3}, {name: c, priority: 3}, {name: c, priority: 4}]}",
            &[("rule", "a"), ("rule", "x"), ("rool", "a"), ("route", "2001:db8::/32"), ("rule", "x")],
        );
        let found: Vec<String> = merge(&document(), &changes).unwrap_err().iter().map(ToString::to_string).collect();
        let expected = [
            "deletion of rool a: delete[2].kind is \"rool\"; allowed: node, interface, route, rule, service, policer, qos, dscp_map",
            "rule x: delete[4].name is deleted already by delete[1]; allowed: each object once",
            "route 2001:db8::/32: delete[3].name is \"2001:db8::/32\", which the document does not have; \
             allowed: the name of a route in the document",
            "rule x: delete[1].name is \"x\", which the document does not have; allowed: the name of a rule in the document",
            "changes: upsert.cluster is \"other\"; allowed: \"default\", as in the document, or nothing",
            "rule a: upsert.rules[0] is deleted by the same changes; allowed: each object once",
            "rule c: upsert.rules[2] is there twice; allowed: each object once",
        ];
        assert_eq!(found, expected);
    }
}
