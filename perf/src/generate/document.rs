//! Generated rules and routes as a document that control takes. Field names are those of the document.

use std::fmt::Write;

use marchproxy_engine::tables::{Cidr, PortRange, RouteAction, RuleAction, RuleSpec, RuleTables};
use marchproxy_engine::wire::{ICMP, ICMPV6, TCP, UDP};
use serde::Serialize;

use crate::Error;

/// The document, as far as it is generated.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Document {
    api_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<Node>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Serialize)]
struct Node {
    name: &'static str,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Serialize)]
struct Port {
    name: String,
    device: String,
}

#[derive(Clone, Debug, Serialize)]
struct Interface {
    name: String,
    port: String,
    addresses: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Route {
    prefix: String,
    via: Vec<NextHop>,
}

#[derive(Clone, Debug, Serialize)]
struct NextHop {
    next_hop: String,
}

#[derive(Clone, Debug, Serialize)]
struct Rule {
    name: String,
    priority: u32,
    r#match: Match,
    action: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    src: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dst: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    protocol: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    src_ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dst_ports: Vec<String>,
}

impl Document {
    /// Rules, and nothing else.
    pub fn of_rules(rules: &[RuleSpec]) -> Self {
        Self { rules: rules.iter().map(Rule::of).collect(), ..Self::empty() }
    }

    /// Routes, and the node, ports and interfaces that their next hops lie behind.
    pub fn of_routes(tables: &RuleTables) -> Self {
        let port = |number: usize| tables.ports.get(number).map_or_else(String::new, |port| port.name.clone());
        let ports =
            (0..tables.ports.len()).map(|n| Port { name: port(n), device: format!("vdev:net_null{n},no-rx=1") });
        let interfaces = tables.interfaces.iter().map(|interface| Interface {
            name: interface.name.clone(),
            port: port(interface.port),
            addresses: interface.addresses.iter().map(Cidr::to_string).collect(),
        });
        let routes = tables.routes.iter().filter_map(|route| {
            let RouteAction::Via(hops) = &route.action else { return None };
            let via = hops.iter().map(|hop| NextHop { next_hop: hop.address.to_string() }).collect();
            Some(Route { prefix: route.prefix.to_string(), via })
        });
        let node = Node { name: "perf", ports: ports.collect() };
        Self { nodes: vec![node], interfaces: interfaces.collect(), routes: routes.collect(), ..Self::empty() }
    }

    fn empty() -> Self {
        Self { api_version: "marchproxy/v1", ..Self::default() }
    }

    /// As JSON, an object a line.
    pub fn json(&self) -> Result<String, Error> {
        let sections = self.sections()?;
        let mut text = format!("{{\"api_version\": \"{}\"", self.api_version);
        for (name, objects) in sections {
            let _ = write!(text, ",\n \"{name}\": [\n  {}\n ]", objects.join(",\n  "));
        }
        text.push_str("\n}\n");
        Ok(text)
    }

    /// As YAML, an object a line: each in flow style, which is JSON's.
    pub fn yaml(&self) -> Result<String, Error> {
        let mut text = format!("api_version: {}\n", self.api_version);
        for (name, objects) in self.sections()? {
            let _ = writeln!(text, "{name}:\n  - {}", objects.join("\n  - "));
        }
        Ok(text)
    }

    /// The sections that have objects, each object as JSON.
    fn sections(&self) -> Result<Vec<(&'static str, Vec<String>)>, Error> {
        fn each<T: Serialize>(objects: &[T]) -> Result<Vec<String>, Error> {
            let text = |object| serde_json::to_string(object).map_err(|_| Error::Harness("an object is no JSON"));
            objects.iter().map(text).collect()
        }
        let mut sections = vec![
            ("nodes", each(&self.nodes)?),
            ("interfaces", each(&self.interfaces)?),
            ("routes", each(&self.routes)?),
            ("rules", each(&self.rules)?),
        ];
        sections.retain(|(_, objects)| !objects.is_empty());
        Ok(sections)
    }
}

impl Rule {
    fn of(rule: &RuleSpec) -> Self {
        let prefixes = |list: &[Cidr]| list.iter().map(Cidr::to_string).collect();
        let ports = |list: &[PortRange]| list.iter().copied().map(range).collect();
        let matches = &rule.matches;
        Self {
            name: rule.name.clone(),
            priority: rule.priority,
            r#match: Match {
                src: prefixes(&matches.src),
                dst: prefixes(&matches.dst),
                protocol: matches.protocol.map(protocol).unwrap_or_default(),
                src_ports: ports(&matches.src_ports),
                dst_ports: ports(&matches.dst_ports),
            },
            action: if rule.action == RuleAction::Permit { "permit" } else { "deny" },
        }
    }
}

/// A protocol as documents and lists of flows have it.
pub fn protocol(number: u8) -> String {
    match number {
        TCP => "tcp".into(),
        UDP => "udp".into(),
        ICMP => "icmp".into(),
        ICMPV6 => "icmpv6".into(),
        other => other.to_string(),
    }
}

fn range(range: PortRange) -> String {
    if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::topology;
    use crate::seeded::routes;
    use crate::seeded::rules::{Profile, generate};
    use serde_json::Value;

    #[test]
    fn rules_keep_all_they_say() {
        let rules = generate(Profile::Fw, 200, 3, &[]);
        let json: Value = serde_json::from_str(&Document::of_rules(&rules).json().unwrap()).unwrap();
        assert_eq!(json["api_version"], "marchproxy/v1");
        let written = json["rules"].as_array().unwrap();
        assert_eq!(written.len(), 200);
        for (rule, written) in rules.iter().zip(written) {
            let strings = |field: &str| {
                let list = written["match"][field].as_array().cloned().unwrap_or_default();
                list.into_iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!((&written["name"], &written["priority"]), (&rule.name.clone().into(), &rule.priority.into()));
            let prefixes = |list: &[Cidr]| list.iter().map(|p| format!("{}/{}", p.addr, p.len)).collect::<Vec<_>>();
            assert_eq!(strings("src"), prefixes(&rule.matches.src));
            assert_eq!(strings("dst"), prefixes(&rule.matches.dst));
            for (field, ports) in [("src_ports", &rule.matches.src_ports), ("dst_ports", &rule.matches.dst_ports)] {
                let read: Vec<_> = strings(field)
                    .iter()
                    .map(|text| {
                        let (first, last) = text.split_once('-').unwrap_or((text, text));
                        PortRange { first: first.parse().unwrap(), last: last.parse().unwrap() }
                    })
                    .collect();
                assert_eq!(&read, ports);
            }
            assert_eq!(written["action"] == "permit", rule.action == RuleAction::Permit);
        }
    }

    #[test]
    fn routes_come_with_their_network() {
        let document = Document::of_routes(&topology::tables(&routes::generate(50, false, 1), false));
        let json: Value = serde_json::from_str(&document.json().unwrap()).unwrap();
        // The clients' prefixes, one of each family, beside the generated ones.
        assert_eq!(json["routes"].as_array().unwrap().len(), 52);
        assert_eq!(json["nodes"][0]["ports"].as_array().unwrap().len(), 2);
        let yaml = document.yaml().unwrap();
        assert!(yaml.starts_with("api_version: marchproxy/v1\nnodes:\n  - {\"name\":\"perf\""), "{yaml}");
        assert_eq!(yaml.lines().filter(|line| line.contains("\"prefix\"")).count(), 52);
        assert!(!yaml.contains("rules:"));
    }
}
