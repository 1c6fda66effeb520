//! What the tests share: a node's tables, and reasons to skip.

use std::net::IpAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use marchproxy_engine::tables::{Cidr, InterfaceSpec, PortSpec, RuleTables, ServiceSpec};
use marchproxy_xdp::{Plan, PortFacts, Push, Steering, Xdp};
use nix::sched::{CloneFlags, unshare};

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const ALL: [u8; 6] = [0xff; 6];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    let (address, len) = text.split_once('/').unwrap();
    Cidr { addr: ip(address), len: len.parse().unwrap() }
}

/// XDP, or a word on why there is nothing to test.
pub fn xdp() -> Option<Xdp> {
    match Xdp::load() {
        Ok(xdp) => Some(xdp),
        Err(error) if error.is_about_the_machine() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A push of what sends nothing on.
pub fn publish(xdp: &Xdp, tables: &RuleTables, kernel: &[IpAddr], ports: &[(usize, &Steering, &PortFacts)]) -> Plan {
    xdp.publish(&Push { tables, kernel, ports, sending: None }).unwrap()
}

/// A port with an untagged interface and one on VLAN 20, and a service in both families.
pub fn tables() -> RuleTables {
    let interface = |name: &str, vlan, addresses: &[&str]| InterfaceSpec {
        name: name.into(),
        vlan,
        addresses: addresses.iter().map(|text| cidr(text)).collect(),
        ..Default::default()
    };
    RuleTables {
        ports: vec![PortSpec { name: "p".into(), device: "af_xdp:eth1".into(), mtu: 1500 }],
        interfaces: vec![
            interface("a", None, &["192.0.2.1/24", "2001:db8::1/64"]),
            interface("b", Some(20), &["10.0.20.1/24"]),
        ],
        services: vec![ServiceSpec {
            name: "web".into(),
            addresses: vec![ip("203.0.113.10"), ip("2001:db8:1::10")],
            source_pool: vec![ip("192.0.2.99")],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A socket that may stand in the table; it is bound to nothing and gets nothing.
pub fn socket_of_queue() -> OwnedFd {
    // SAFETY: takes numbers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs something in a network namespace that goes with the thread. False: none can be made here.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(error) => eprintln!("skipped: no network namespace can be made ({error}); it takes root"),
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pair of interfaces in this thread's namespace; the number of the first.
pub fn veth() -> u32 {
    run("ip link add ours type veth peer name theirs");
    run("ip link set ours up");
    run("ip link set theirs up");
    nix::net::if_::if_nametoindex("ours").unwrap()
}
