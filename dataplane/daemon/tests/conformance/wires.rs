//! The far ends of a node's ports: rings in memory, or veth pairs.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex};

use marchproxy_dataplane::driver::{Device, Driver, OpenPort, Opened, PortHealth};
use marchproxy_engine::io::{Mac, PacketBuf};
use marchproxy_engine::memory::{Memory, MemoryBuf, MemoryPool, Wire};
use marchproxy_engine::tables::PortSpec;
use marchproxy_engine::testkit::port_mac;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket};

use crate::network::{NARROW, NEIGHBOURS, mac_text};

/// Where frames go into ports and come out of them.
pub trait Outside {
    fn put(&self, port: &str, frame: &[u8]);
    /// What came out since the last call, in order per port.
    fn take(&self) -> Vec<(String, Vec<u8>)>;
}

fn index_of(port: &str) -> usize {
    NEIGHBOURS.iter().position(|neighbour| neighbour.port == port).unwrap()
}

/// Ports of the memory backend.
pub struct InMemory(Arc<Mutex<BTreeMap<String, Wire>>>);

/// Their driver.
pub struct Wires(Arc<Mutex<BTreeMap<String, Wire>>>);

pub struct WirePort(Mac);

impl InMemory {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn driver(&self) -> Wires {
        Wires(self.0.clone())
    }
}

impl Outside for InMemory {
    fn put(&self, port: &str, frame: &[u8]) {
        self.0.lock().unwrap()[port].put(MemoryBuf::new(frame));
    }

    fn take(&self) -> Vec<(String, Vec<u8>)> {
        let wires = self.0.lock().unwrap();
        let of = |(port, wire): (&String, &Wire)| {
            wire.take().iter().map(|packet| (port.clone(), packet.data().to_vec())).collect::<Vec<_>>()
        };
        wires.iter().flat_map(of).collect()
    }
}

impl Driver for Wires {
    type Backend = Memory;
    type Port = WirePort;
    type Guard = ();

    fn name(&self) -> &'static str {
        "memory"
    }
    fn enter_thread(&self) -> Result<(), String> {
        Ok(())
    }
    fn pool(&self) -> Result<MemoryPool, String> {
        Ok(MemoryPool)
    }
    fn open(&self, spec: &PortSpec, _: &Device, _: u16) -> Result<Opened<Self>, String> {
        let (wire, rx, tx) = Wire::new(1024);
        self.0.lock().unwrap().insert(spec.name.clone(), wire);
        Ok(Opened { port: WirePort(port_mac(index_of(&spec.name))), queues: vec![(rx, tx)] })
    }
}

impl OpenPort for WirePort {
    fn mac(&self) -> Mac {
        self.0
    }
    fn health(&self) -> PortHealth {
        PortHealth { link_up: true, ..PortHealth::default() }
    }
}

/// A veth pair per port in a namespace of the calling thread: `wan0` is the node's end, `wan` the far one.
pub struct Veths(Vec<(String, OwnedFd)>);

impl Veths {
    pub fn new() -> Result<Self, String> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("no network namespace can be made ({e}); it takes root"))?;
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            .map_err(|e| format!("disable_ipv6: {e}"))?;
        for (index, neighbour) in NEIGHBOURS.iter().enumerate() {
            let (port, mac) = (neighbour.port, mac_text(port_mac(index)));
            let mtu = if port == "narrow" { NARROW } else { 1500 };
            ip(&format!("link add {port}0 address {mac} mtu {mtu} type veth peer name {port} mtu {mtu}"))?;
            ip(&format!("link set {port}0 up"))?;
            ip(&format!("link set {port} up"))?;
        }
        NEIGHBOURS.iter().map(|n| Ok((n.port.to_owned(), wire(n.port)?))).collect::<Result<_, String>>().map(Self)
    }
}

impl Outside for Veths {
    fn put(&self, port: &str, frame: &[u8]) {
        let (_, wire) = &self.0[index_of(port)];
        send(wire.as_raw_fd(), frame, MsgFlags::empty()).expect("the wire takes the frame");
    }

    fn take(&self) -> Vec<(String, Vec<u8>)> {
        let frames = |(port, wire): &(String, OwnedFd)| {
            std::iter::from_fn(|| receive(wire)).map(|frame| (port.clone(), frame)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(frames).collect()
    }
}

/// Whether an XDP program is on an interface of this namespace.
pub fn has_xdp(interface: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", "dev", interface]).output().expect("ip (iproute2)");
    String::from_utf8_lossy(&output.stdout).contains("xdp")
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|e| format!("ip (iproute2): {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}

fn wire(name: &str) -> Result<OwnedFd, String> {
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll)
        .map_err(|e| format!("no packet socket: {e}"))?;
    let mut all = getifaddrs().map_err(|e| format!("getifaddrs: {e}"))?;
    let found = all.find_map(|i| i.address.filter(|_| i.interface_name == name)?.as_link_addr().copied());
    bind(wire.as_raw_fd(), &found.ok_or_else(|| format!("{name}: no such interface"))?)
        .map_err(|e| format!("{name}: bind: {e}"))?;
    // Before it was bound it heard everything.
    while receive(&wire).is_some() {}
    Ok(wire)
}

fn receive(wire: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 2048];
    let len = recv(wire.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
    frame.truncate(len);
    Some(frame)
}
