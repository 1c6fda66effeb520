//! Nodes and their ports.

use std::collections::HashMap;

use marchproxy_proto::v1::{self, Document};

use super::super::objects::DEFAULT_MTU;
use super::super::report::{At, Names, Report};
use super::super::types::{Node, Port};
use super::{References, flows, qos};

/// Octets of L3: RFC 791's smallest reassembly buffer to what jumbo frames carry.
const MTU: std::ops::RangeInclusive<u32> = 576..=9216;

/// The fastest Ethernet there is.
pub(super) const MAX_MBPS: u64 = 400_000;

/// Linux' limit, without the final zero.
const MAX_IFNAME: usize = 15;

pub(super) fn check(document: &Document, references: &References<'_>, report: &mut Report) -> Vec<Node> {
    document
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let at = At::new("nodes", index, "node", &node.name);
            let ports = ports(node, &at, report);
            let flows = node.flows.as_ref().and_then(|flows| flows::check(flows, &at, references, report));
            Node { name: node.name.clone(), ports, flows }
        })
        .collect()
}

fn ports(node: &v1::Node, node_at: &At<'_>, report: &mut Report) -> Vec<Port> {
    let names: Vec<&str> = node.ports.iter().map(|port| port.name.as_str()).collect();
    Names::new(report, "port", names.into_iter(), |index, name| node_at.inner("ports", index, "port", name));
    let mut used: HashMap<String, &str> = HashMap::new();
    let mut ports = Vec::with_capacity(node.ports.len());
    for (index, port) in node.ports.iter().enumerate() {
        let at = node_at.inner("ports", index, "port", &port.name);
        for resource in report.word(&at, "device", &port.device, device).unwrap_or_default() {
            if let Some(other) = used.get(&resource) {
                let found = format!("\"{}\", whose {resource} port {other} has already", port.device);
                report.refuse(&at, "device", found, "a device of its own for each port");
            } else {
                used.insert(resource, &port.name);
            }
        }
        let mtu = report.within(&at, "mtu", port.mtu.unwrap_or(DEFAULT_MTU), MTU, "octets of L3");
        let shaper = port.shaper.as_ref().map(|shaper| qos::shaper(shaper, &at, report));
        let mtu = mtu.unwrap_or(DEFAULT_MTU) as u16;
        ports.push(Port { name: port.name.clone(), device: port.device.clone(), mtu, shaper });
    }
    ports
}

/// What of the machine a device takes for itself: a PCI function, a virtual device's name, a Linux interface.
fn device(text: &str) -> Result<Vec<String>, String> {
    const ALLOWED: &str = "auto:IF, pci:DDDD:BB:DD.F, vdev:NAME[,ARGS], af_xdp:IF or af_packet:IF";
    let (scheme, rest) = text.split_once(':').ok_or(ALLOWED)?;
    match scheme {
        "auto" | "af_xdp" | "af_packet" if is_ifname(rest) => Ok(vec![format!("interface {rest}")]),
        "auto" | "af_xdp" | "af_packet" => Err(format!(
            "{scheme}:IF with the name of a Linux interface, 1 to {MAX_IFNAME} characters without / : and spaces"
        )),
        "pci" if is_pci(rest) => Ok(vec![format!("PCI address {}", rest.to_ascii_lowercase())]),
        "pci" => Err("pci:DDDD:BB:DD.F in hexadecimal, as in pci:0000:03:00.0".to_owned()),
        "vdev" => vdev(rest),
        _ => Err(ALLOWED.to_owned()),
    }
}

fn vdev(text: &str) -> Result<Vec<String>, String> {
    let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(good) || text.chars().any(char::is_whitespace) {
        return Err("vdev:NAME[,ARGS] without spaces, as in vdev:net_af_packet0,iface=eth1".to_owned());
    }
    let mut resources = vec![format!("virtual device {name}")];
    let interface = arguments.split(',').find_map(|argument| argument.strip_prefix("iface="));
    resources.extend(interface.map(|name| format!("interface {name}")));
    Ok(resources)
}

fn is_ifname(text: &str) -> bool {
    (1..=MAX_IFNAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'))
        && !matches!(text, "." | "..")
}

/// DDDD:BB:DD.F
fn is_pci(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b':',
            10 => *byte == b'.',
            11 => matches!(byte, b'0'..=b'7'),
            _ => byte.is_ascii_hexdigit(),
        })
}
