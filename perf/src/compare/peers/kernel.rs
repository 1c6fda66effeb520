//! The kernel's own forwarding between veth pairs, in network namespaces that live as long as the processes in them: nothing is left to
//! remove, however the run ends.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use marchproxy_engine::tables::{RouteAction, RuleTables};

use super::ovs::text;
use super::{Peer, REMEDY};
use crate::Error;
use crate::compare::child::{self, Child, find};
use crate::compare::rig::Rig;
use crate::neighbourhood::mac_of;
use crate::progress::Progress;
use crate::rig::mac;
use crate::scenario::Plan;

/// How long namespaces and sender may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// From the first packet to the first one measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// Packets that count as forwarding.
const FORWARDING: u64 = 10_000;

/// Programs it needs.
const TOOLS: [&str; 6] = ["ip", "ethtool", "unshare", "nsenter", "taskset", "dpdk-testpmd"];

/// Kernel forwarding.
#[derive(Default)]
pub struct Kernel {
    /// Commands for `ip -batch` in the router's namespace.
    batch: PathBuf,
    lost: f64,
    /// CPU time of the threads that forwarded, in seconds.
    elsewhere: f64,
}

/// The router's counters and CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reading {
    received: u64,
    sent: u64,
    nanoseconds: u64,
}

impl Peer for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn prepare(&mut self, rig: &Rig, plan: &Plan, _: &Progress) -> Result<(), Error> {
        if let Some(missing) = TOOLS.iter().find(|tool| find(tool).is_none()) {
            return Err(Error::Peer(format!("{missing} is not installed; {REMEDY}")));
        }
        if rig.capture().is_none() {
            return Err(Error::Harness("kernel forwarding without anything to forward"));
        }
        self.batch = rig.folder().join("kernel.batch");
        fs::write(&self.batch, batch(&plan.tables))
            .map_err(|source| Error::System { what: "routes for the kernel".into(), source })
    }

    fn rate(&mut self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let unshare = find("unshare").ok_or(Error::Harness("unshare was there a moment ago"))?;
        let outside = shell("echo ready; exec sleep infinity", &["--net"]);
        let mut outside = Child::start("kernel-outside", rig.folder(), &unshare, &outside)?;
        ready(&mut outside, rig, "kernel-outside", progress)?;
        // A name that the thread of the receiving interface can be found by, among those of all namespaces.
        let name = format!("mp{}", std::process::id());
        let router = shell(&router(&name, outside.pid(), &self.batch), &["--net", "--mount"]);
        let mut router = Child::start("kernel-router", rig.folder(), &unshare, &router)?;
        ready(&mut router, rig, "kernel-router", progress)?;
        let thread = router.wait_for("thread of the interface", PATIENCE, progress, || thread(&name))?;
        let pin = ["-pc".into(), rig.core().to_string(), thread.to_string()];
        let taskset = find("taskset").ok_or(Error::Harness("taskset was there a moment ago"))?;
        Child::start("taskset", rig.folder(), &taskset, &pin)?.finish(PATIENCE, progress)?;

        let nsenter = find("nsenter").ok_or(Error::Harness("nsenter was there a moment ago"))?;
        let mut sender = Child::start_with(
            "kernel-sender",
            rig.folder(),
            &nsenter,
            &sender(rig, outside.pid()),
            &[("RUNTIME_DIRECTORY", rig.folder().display().to_string())],
        )?;
        let read = || read(router.pid(), thread, &name);
        sender.wait_for("packets forwarded", PATIENCE, progress, || read().filter(|now| now.sent > FORWARDING))?;
        child::pause(WARM_UP, progress)?;
        let gone = || Error::Peer("the router's counters are gone".into());
        let before = read().ok_or_else(gone)?;
        child::pause(duration, progress)?;
        let after = read().ok_or_else(gone)?;
        // The thread is new in each turn and has worked for nothing else.
        self.elsewhere += after.nanoseconds as f64 / 1e9;
        sender.check()?;
        let (sent, received) = (after.sent - before.sent, after.received - before.received);
        let seconds = (after.nanoseconds - before.nanoseconds) as f64 / 1e9;
        if sent == 0 || seconds <= 0.0 {
            return Err(Error::Peer(format!("{sent} packets forwarded in {seconds:.3} s of CPU time")));
        }
        self.lost = self.lost.max(received.saturating_sub(sent) as f64 * 100.0 / received.max(1) as f64);
        Ok(sent as f64 / seconds)
    }

    fn elsewhere(&self) -> f64 {
        self.elsewhere
    }

    fn note(&self) -> String {
        let lost =
            if self.lost > 0.5 { format!("; {:.1} % of its packets were not sent", self.lost) } else { String::new() };
        format!(
            "the same routes and neighbours in a namespace, over veth: packets for each second of CPU time of the receiving interface's \
             thread (NAPI), which holds receiving, forwarding, sending and the drop behind the other veth; the sender (testpmd on \
             AF_PACKET) is on another core{lost}"
        )
    }
}

/// `unshare` with a script.
fn shell(script: &str, namespaces: &[&str]) -> Vec<String> {
    let words = namespaces.iter().copied().chain(["/bin/sh", "-ec", script]);
    words.map(String::from).collect()
}

/// What the router's namespace runs. `outside` holds the far ends of both pairs. A veth polls, in a thread of its own, with GRO and from a
/// sender that leaves no segmentation to it; without that its work is on the sender's account.
fn router(name: &str, outside: u32, batch: &Path) -> String {
    let (station, own) = (text([2, 0, 0, 0, 0, 9]), [text(mac(0)), text(mac(1))]);
    let [lan, wan] = own;
    format!(
        "mount -t sysfs sysfs /sys\n\
         ip link add {name} address {wan} type veth peer name gen netns {outside} address {station}\n\
         ip link add lan address {lan} type veth peer name sink netns {outside}\n\
         nsenter --net --target {outside} sh -ec 'ethtool -K gen tso off >/dev/null; ip link set gen up; ip link set sink up'\n\
         echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter\n\
         echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter\n\
         echo 0 >/proc/sys/net/ipv4/conf/{name}/rp_filter\n\
         echo 0 >/proc/sys/net/ipv6/conf/{name}/accept_dad\n\
         echo 0 >/proc/sys/net/ipv6/conf/lan/accept_dad\n\
         ip link set lo up; ip link set lan up; ip link set {name} up\n\
         ip addr add 10.2.0.1/16 dev {name}; ip addr add fd00:2::1/64 dev {name} nodad\n\
         ip addr add 10.1.0.1/16 dev lan; ip addr add fd00:1::1/64 dev lan nodad\n\
         echo 1 >/proc/sys/net/ipv4/ip_forward\n\
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding\n\
         ip -batch {}\n\
         ethtool -K {name} gro on >/dev/null\n\
         echo 1 >/sys/class/net/{name}/threaded\n\
         echo ready; exec sleep infinity",
        batch.display()
    )
}

/// Routes behind the servers' side and the stations they lead to.
fn batch(tables: &RuleTables) -> String {
    let mut out = String::new();
    let mut stations = std::collections::BTreeSet::new();
    // Writing to a string cannot fail.
    for route in &tables.routes {
        let RouteAction::Via(hops) = &route.action else { continue };
        if let Some(hop) = hops.first().filter(|hop| tables.interfaces.get(hop.interface).is_some_and(|i| i.port == 0))
        {
            let prefix = route.prefix.network();
            if stations.insert(hop.address) {
                let station = text(mac_of(hop.address));
                let _ = writeln!(out, "neigh replace {} lladdr {station} dev lan nud permanent", hop.address);
            }
            let _ = writeln!(out, "route add {}/{} via {} dev lan", prefix.addr, prefix.len, hop.address);
        }
    }
    out
}

/// testpmd that plays the capture file into the namespace, away from the worker's core.
fn sender(rig: &Rig, outside: u32) -> Vec<String> {
    let testpmd = find("dpdk-testpmd").unwrap_or_default();
    let mut words = vec!["--net".into(), "--target".into(), outside.to_string(), testpmd.display().to_string()];
    let core = rig.other();
    words.extend(["--lcores".into(), format!("0@{core},1@{core}"), "--file-prefix=kernel-sender".into()]);
    words.extend(["--no-huge", "-m", &(rig.buffer_megabytes() + 64).to_string(), "--no-pci"].map(String::from));
    let [_, capture] = rig.devices();
    words.extend([format!("--vdev={capture}"), "--vdev=net_af_packet0,iface=gen,qdisc_bypass=1".into()]);
    words.extend(["--".into(), "--forward-mode=io".into(), format!("--total-num-mbufs={}", rig.buffers())]);
    words
}

/// Waits for a namespace's script to have come to its end.
fn ready(child: &mut Child, rig: &Rig, name: &str, progress: &Progress) -> Result<(), Error> {
    let out = rig.folder().join(format!("{name}.out"));
    child.wait_for("namespace", PATIENCE, progress, || {
        fs::read_to_string(&out).ok().filter(|text| text.contains("ready")).map(drop)
    })
}

/// The kernel thread that polls an interface: `napi/INTERFACE-NUMBER`, cut to 15 characters.
fn thread(interface: &str) -> Option<u32> {
    let wanted = format!("napi/{interface}");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let id = process.file_name().to_str()?.parse().ok()?;
        fs::read_to_string(process.path().join("comm")).ok()?.starts_with(&wanted).then_some(id)
    })
}

fn read(router: u32, thread: u32, name: &str) -> Option<Reading> {
    let devices = fs::read_to_string(format!("/proc/{router}/net/dev")).ok()?;
    let schedstat = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    let nanoseconds = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(Reading { received: packets(&devices, name)?[0], sent: packets(&devices, "lan")?[1], nanoseconds })
}

/// Received and sent packets of an interface in /proc/net/dev.
fn packets(devices: &str, interface: &str) -> Option<[u64; 2]> {
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    // Eight columns each way: octets, packets, ...
    Some([*numbers.get(1)?, *numbers.get(9)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::programs;
    use crate::scenario::{Params, Scenario, traffic};

    #[test]
    fn counters_are_found() {
        let devices = "Inter-|   Receive   |  Transmit\n face |bytes packets errs\n\
                       lan: 10 1 0 0 0 0 0 0 600 9 0 0 0 0 0 0\n  mp77: 420 7 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(packets(devices, "lan"), Some([1, 9]));
        assert_eq!(packets(devices, "mp77"), Some([7, 0]));
        assert_eq!(packets(devices, "mp7"), None);
    }

    #[test]
    fn every_route_has_a_station() {
        let params = Params { flows: 16, routes: 64, ..programs::defaults(Scenario::Forward) };
        let plan = traffic(Scenario::Forward, &params, &Progress::hidden()).unwrap();
        let batch = batch(&plan.tables);
        assert_eq!(batch.matches("route add ").count(), 64);
        assert_eq!(batch.matches("neigh replace ").count(), 32, "16 gateways of each family");
        assert!(!batch.contains("100.64.0.0/10"), "clients are not behind this side");
        let first = batch.lines().position(|line| line.starts_with("route add ")).unwrap();
        assert!(batch.lines().take(first).all(|line| line.starts_with("neigh replace ")));
    }

    #[test]
    fn nothing_is_polled_that_is_not_there() {
        assert_eq!(thread("mp-no-such-interface"), None);
    }
}
