//! The kernel as a router: two namespaces of this thread, one that routes and one that holds the far ends of its wires. They have no
//! name and no process, only this thread and two open files: nothing is left behind, however the test ends.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio, id};
use std::time::{Duration, Instant};

use marchproxy_engine::packet::Packet;
use marchproxy_engine::tables::{RouteAction, RuleTables};
use marchproxy_engine::testkit::port_mac;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket};
use nix::unistd::Pid;

use crate::network::{NEIGHBOURS, Neighbour, mac_text};

/// How long the kernel may take for one packet. It takes microseconds; this is for machines that stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// What makes a namespace a plain router: no address the tables do not have, no limit to errors, no redirects, no choice by source, no
/// chatter. What IPv6 is multicast cannot be switched off and is left out when comparing.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv4/icmp_msgs_burst", "1000000"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/default/accept_source_route", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/auto_flowlabels", "0"),
];

/// A router and the far ends of its wires.
pub struct Router {
    wires: Vec<(String, OwnedFd)>,
    packets: u16,
    /// No thread is in the router's namespace any more: this alone keeps it.
    _routes: File,
}

impl Router {
    /// A router with these tables in new namespaces of the calling thread, which stays in the one with the far ends. The error says why
    /// there can be none here.
    pub fn new(tables: &RuleTables) -> Result<Self, String> {
        one_cpu()?;
        let router = namespace()?;
        for (name, value) in SETTINGS {
            fs::write(format!("/proc/sys/net/{name}"), value).map_err(|e| format!("net/{name}: {e}"))?;
        }
        let outside = namespace()?;
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").map_err(|e| format!("disable_ipv6: {e}"))?;
        let path = format!("/proc/{}/fd/{}", id(), router.as_raw_fd());
        ip(&wires(tables, &path))?;
        setns(&router, CloneFlags::CLONE_NEWNET).map_err(|e| format!("setns: {e}"))?;
        ip(&routes(tables))?;
        setns(&outside, CloneFlags::CLONE_NEWNET).map_err(|e| format!("setns: {e}"))?;
        let wires = tables.ports.iter().map(|port| Ok((port.name.clone(), wire(&port.name)?)));
        Ok(Self { wires: wires.collect::<Result<_, String>>()?, packets: 0, _routes: router })
    }

    /// Sends a frame into a port; what came out of all ports because of it.
    ///
    /// A packet of ours follows it. The kernel forwards in the order of arrival as long as one CPU does all of it, so with that packet
    /// everything is there, and nothing has to be waited for.
    pub fn step(&mut self, port: &str, frame: &[u8]) -> Vec<(String, Vec<u8>)> {
        self.packets += 1;
        let (marker, exit) = marker(port, self.packets);
        let wire = self.wire(port);
        send(wire.as_raw_fd(), frame, MsgFlags::empty()).expect("the wire takes the frame");
        send(wire.as_raw_fd(), &marker, MsgFlags::empty()).expect("the wire takes the marker");
        let end = &marker[marker.len() - MARK.len() - 2..];
        let (mut seen, start) = (Vec::new(), Instant::now());
        let mut over = false;
        while !over {
            assert!(start.elapsed() < PATIENCE, "the kernel does not forward from {port} to {exit}");
            for (name, wire) in &self.wires {
                while let Some(frame) = receive(wire) {
                    if name == exit && frame.ends_with(end) {
                        over = true;
                    } else {
                        seen.push((name.clone(), frame));
                    }
                }
            }
        }
        // The sockets looked at before the marker's may have got something since.
        for (name, wire) in &self.wires {
            seen.extend(std::iter::from_fn(|| receive(wire)).map(|frame| (name.clone(), frame)));
        }
        seen.retain(|(_, frame)| !is_chatter(frame));
        seen
    }

    fn wire(&self, port: &str) -> &OwnedFd {
        &self.wires.iter().find(|(name, _)| name == port).expect("a port of the tables").1
    }
}

/// What markers end with, before their number.
const MARK: &[u8] = b"behind it all";

/// A packet that comes out of the port that is returned with it.
fn marker(port: &str, number: u16) -> (Vec<u8>, &'static str) {
    let from = NEIGHBOURS.iter().position(|n| n.port == port).expect("a neighbour at each port");
    let to = NEIGHBOURS.iter().find(|n| n.port != port).expect("more than one port");
    let Neighbour { mac, v4, .. } = &NEIGHBOURS[from];
    let packet = Packet::eth(*mac, port_mac(from)).ip(v4.parse().unwrap(), to.v4.parse().unwrap());
    (packet.udp(9, 9).payload(MARK).payload(number.to_be_bytes()).build(), to.port)
}

/// What the kernel sends of its own accord: IGMP, MLD and neighbour discovery to groups.
fn is_chatter(frame: &[u8]) -> bool {
    frame[0] & 1 == 1
}

/// Keeps the thread on one CPU.
fn one_cpu() -> Result<(), String> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(|e| format!("sched_getaffinity: {e}"))?;
    let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(true)).ok_or("no CPU is allowed")?;
    let mut one = CpuSet::new();
    one.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one)).map_err(|e| format!("sched_setaffinity: {e}"))
}

/// Moves the thread to a new network namespace.
fn namespace() -> Result<File, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("no network namespace can be made ({e}); it takes root"))?;
    File::open("/proc/thread-self/ns/net").map_err(|e| format!("/proc/thread-self/ns/net: {e}"))
}

/// Both ends of the wires, made in the namespace of the far ends.
fn wires(tables: &RuleTables, router: &str) -> String {
    let mut batch = String::from("link set lo up\n");
    for (index, port) in tables.ports.iter().enumerate() {
        let (name, mtu, mac) = (&port.name, port.mtu, mac_text(port_mac(index)));
        batch += &format!(
            "link add name {name} address {} type veth peer name {name} address {mac} mtu {mtu} netns {router}\nlink set {name} up\n",
            mac_text(NEIGHBOURS[index].mac),
        );
    }
    batch
}

/// Addresses, neighbours and routes of the tables, in the router's namespace.
fn routes(tables: &RuleTables) -> String {
    let mut batch = String::from("link set lo up\n");
    for interface in &tables.interfaces {
        let port = &tables.ports[interface.port].name;
        batch += &format!("link set {port} up\n");
        for address in &interface.addresses {
            let nodad = if address.addr.is_ipv6() { "nodad" } else { "" };
            batch += &format!("addr add {}/{} dev {port} {nodad}\n", address.addr, address.len);
        }
    }
    for Neighbour { port, mac, v4, v6 } in NEIGHBOURS {
        for address in [v4, v6] {
            batch += &format!("neigh replace {address} lladdr {} dev {port} nud permanent\n", mac_text(*mac));
        }
    }
    for route in &tables.routes {
        let prefix = format!("{}/{}", route.prefix.addr, route.prefix.len);
        batch += &match &route.action {
            RouteAction::Via(hops) => {
                let port = &tables.ports[tables.interfaces[hops[0].interface].port].name;
                format!("route add {prefix} via {} dev {port}\n", hops[0].address)
            }
            RouteAction::Blackhole => format!("route add blackhole {prefix}\n"),
            RouteAction::Reject => format!("route add prohibit {prefix}\n"),
        };
    }
    batch
}

/// Runs commands of `ip` in the thread's namespace.
fn ip(batch: &str) -> Result<(), String> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("ip (iproute2): {e}"))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(batch.as_bytes()).map_err(|e| format!("ip: {e}"))?;
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A packet socket at the far end of a wire. Addresses of that kind are only to be had from the list of interfaces.
fn wire(name: &str) -> Result<OwnedFd, String> {
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
        .map_err(|e| format!("no packet socket: {e}"))?;
    let mut all = getifaddrs().map_err(|e| format!("getifaddrs: {e}"))?;
    let found = all.find_map(|i| i.address.filter(|_| i.interface_name == name)?.as_link_addr().copied());
    let address = found.ok_or_else(|| format!("{name}: no such interface"))?;
    bind(wire.as_raw_fd(), &address).map_err(|e| format!("{name}: bind: {e}"))?;
    // Before it was bound it heard everything.
    while receive(&wire).is_some() {}
    Ok(wire)
}

/// The next frame, if there is one.
fn receive(wire: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 2048];
    match recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()) {
        Ok(len) => {
            frame.truncate(len);
            Some(frame)
        }
        Err(Errno::EAGAIN) => None,
        Err(error) => panic!("packet socket: {error}"),
    }
}
