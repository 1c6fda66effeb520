//! Open vSwitch on DPDK: routes as OpenFlow rules, the longer prefix before the shorter one. It runs with a database, sockets and a network
//! namespace of its own, beside any that the system runs.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::{RouteAction, RuleTables};

use super::{Peer, REMEDY};
use crate::Error;
use crate::compare::child::{Child, find};
use crate::compare::dpdk::measure;
use crate::compare::rig::Rig;
use crate::compare::telemetry::SOCKET;
use crate::neighbourhood::mac_of;
use crate::progress::Progress;
use crate::rig::mac;
use crate::scenario::Plan;

/// Where Debian has the build with DPDK, whatever `ovs-vswitchd` is by update-alternatives(1).
const DEBIAN: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// The layout of its database.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Packets of a capture file that its pools have room for: they hold 16,384 and what queues need, which cannot be chosen, and it sets a
/// port up twice, with the device keeping both sets.
const MOST: usize = 8192;

/// Megabytes for its pools and EAL.
const MEGABYTES: usize = 512;

/// How long each of its tools and servers may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Name of the bridge, and prefix of EAL's files.
const BRIDGE: &str = "br0";

/// Open vSwitch.
#[derive(Default)]
pub struct Ovs {
    switch: PathBuf,
    lost: f64,
}

/// The programs of one turn: database server and its tools.
struct Programs<'a> {
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    progress: &'a Progress,
}

impl Programs<'_> {
    fn start(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Child, Error> {
        Child::start_with(name, &self.folder, program, arguments, &self.environment)
    }

    /// Runs a tool to its end.
    fn tool(&self, name: &str, arguments: &[String]) -> Result<(), Error> {
        let path = find(name).ok_or_else(|| Error::Peer(format!("{name} is not installed; {REMEDY}")))?;
        self.start(name, &path, arguments)?.finish(PATIENCE, self.progress).map(drop)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Changes the database.
    fn configure(&self, words: &[&str]) -> Result<(), Error> {
        let options = [format!("--db=unix:{}", self.path("db.sock")), format!("--timeout={}", PATIENCE.as_secs())];
        self.tool("ovs-vsctl", &options.into_iter().chain(words.iter().map(|&word| word.into())).collect::<Vec<_>>())
    }
}

impl Peer for Ovs {
    fn name(&self) -> &'static str {
        "ovs-dpdk"
    }

    fn prepare(&mut self, rig: &Rig, plan: &Plan, _: &Progress) -> Result<(), Error> {
        let debian = PathBuf::from(DEBIAN);
        let switch = if debian.is_file() { Some(debian) } else { find("ovs-vswitchd") };
        let missing = || Error::Peer(format!("ovs-vswitchd with DPDK is not installed; {REMEDY}"));
        self.switch = switch.ok_or_else(missing)?;
        if !Path::new(SCHEMA).is_file() || find("unshare").is_none() {
            return Err(missing());
        }
        if rig.packets() > MOST {
            let why = format!("{} packets in the capture file; its pools have room for {MOST}", rig.packets());
            return Err(Error::Peer(why));
        }
        let flows = flows(&plan.tables);
        fs::write(rig.folder().join("flows"), flows)
            .map_err(|source| Error::System { what: "flows of Open vSwitch".into(), source })
    }

    fn rate(&mut self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let folder = rig.folder().join("ovs");
        let system = |source| Error::System { what: "a folder for Open vSwitch".into(), source };
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(system)?;
        }
        fs::create_dir(&folder).map_err(system)?;
        let place = folder.display().to_string();
        let environment = ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "RUNTIME_DIRECTORY"];
        let environment = environment.map(|name| (name, place.clone())).to_vec();
        let programs = Programs { folder, environment, progress };
        let (database, socket) = (programs.path("conf.db"), programs.path("db.sock"));
        programs.tool("ovsdb-tool", &["create".into(), database.clone(), SCHEMA.into()])?;
        let server =
            find("ovsdb-server").ok_or_else(|| Error::Peer(format!("ovsdb-server is not installed; {REMEDY}")))?;
        let control = format!("--unixctl={}", programs.path("db.ctl"));
        // Lives until this turn is over.
        let mut server =
            programs.start("ovsdb-server", &server, &[database, format!("--remote=punix:{socket}"), control])?;
        server.wait_for("socket", PATIENCE, progress, || Path::new(&socket).exists().then_some(()))?;
        let extra = format!("other_config:dpdk-extra=\"{}\"", eal(rig).join(" "));
        let mask = |core: usize| format!("0x{:x}", 1u128 << core);
        let main = format!("other_config:dpdk-lcore-mask={}", mask(rig.other()));
        let worker = format!("other_config:pmd-cpu-mask={}", mask(rig.core()));
        let on = "other_config:dpdk-init=true";
        programs.configure(&["--no-wait", "init", "--", "set", "Open_vSwitch", ".", on, &main, &worker, &extra])?;

        // In a network namespace of its own: a bridge is an interface of the host otherwise.
        let unshare = find("unshare").ok_or(Error::Harness("unshare was there a moment ago"))?;
        let switch = ["--net".into(), self.switch.display().to_string(), format!("unix:{socket}")];
        let control = format!("--unixctl={}", programs.path("switch.ctl"));
        let switch = programs.start("ovs-vswitchd", &unshare, &[switch.as_slice(), &[control]].concat())?;
        let port = |number: usize, device: &str| {
            let name = format!("p{number}");
            let device = device.split(',').next().unwrap_or_default();
            [
                "--".into(),
                "add-port".into(),
                BRIDGE.into(),
                name.clone(),
                "--".into(),
                "set".into(),
                "Interface".into(),
                name,
                "type=dpdk".into(),
                format!("options:dpdk-devargs={device}"),
                // OpenFlow counts ports from 1.
                format!("ofport_request={}", number + 1),
            ]
        };
        let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev", "fail_mode=secure"];
        let mut words: Vec<String> = bridge.map(String::from).to_vec();
        for (number, device) in rig.devices().iter().enumerate() {
            words.extend(port(number, device));
        }
        programs.configure(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let flows = rig.folder().join("flows").display().to_string();
        programs.tool("ovs-ofctl", &["add-flows".into(), format!("unix:{}", programs.path("br0.mgmt")), flows])?;
        let telemetry = programs.folder.join("dpdk").join(BRIDGE).join(SOCKET);
        let rate = measure(switch, &telemetry, duration, progress)?;
        self.lost = self.lost.max(rate.lost_percent);
        Ok(rate.per_cpu_second)
    }

    fn note(&self) -> String {
        let lost =
            if self.lost > 0.5 { format!("; {:.1} % of its packets were not sent", self.lost) } else { String::new() };
        format!(
            "the same routes as OpenFlow rules, found in its caches of flows; fixed MAC addresses instead of neighbours{lost}"
        )
    }
}

/// EAL's options. Open vSwitch adds --in-memory by itself unless the memory is of the legacy kind, which normal pages are.
fn eal(rig: &Rig) -> Vec<String> {
    let mut words = rig.memory(rig.buffer_megabytes() + MEGABYTES);
    if !rig.huge() {
        words.push("--legacy-mem".into());
    }
    words.push(format!("--file-prefix={BRIDGE}"));
    words.extend(rig.devices().into_iter().map(|device| format!("--vdev={device}")));
    words
}

/// The routes as OpenFlow rules.
fn flows(tables: &RuleTables) -> String {
    let mut out = String::new();
    for route in &tables.routes {
        let RouteAction::Via(hops) = &route.action else { continue };
        let Some(hop) = hops.first() else { continue };
        let Some(interface) = tables.interfaces.get(hop.interface) else { continue };
        let prefix = route.prefix.network();
        let (kind, field) = match prefix.addr {
            IpAddr::V4(_) => ("ip", "nw_dst"),
            IpAddr::V6(_) => ("ipv6", "ipv6_dst"),
        };
        let (src, dst) = (text(mac(interface.port as u8)), text(mac_of(hop.address)));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "priority={},{kind},{field}={}/{} actions=mod_dl_src:{src},mod_dl_dst:{dst},dec_ttl,output:{}",
            u32::from(prefix.len) + 1,
            prefix.addr,
            prefix.len,
            interface.port + 1
        );
    }
    out
}

/// A MAC address as people write it.
pub(super) fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::programs;
    use crate::scenario::{Params, Scenario, traffic};

    #[test]
    fn longer_prefixes_win() {
        let params = Params { flows: 16, ..programs::defaults(Scenario::Forward) };
        let plan = traffic(Scenario::Forward, &params, &Progress::hidden()).unwrap();
        let flows = flows(&plan.tables);
        assert_eq!(flows.lines().count(), plan.tables.routes.len());
        let clients = flows.lines().find(|line| line.contains("nw_dst=100.64.0.0/10 ")).unwrap();
        assert!(clients.starts_with("priority=11,ip,") && clients.ends_with("dec_ttl,output:2"), "{clients}");
        assert!(clients.contains("mod_dl_src:02:4d:50:00:00:02,mod_dl_dst:02:00:0a:02:ff:00"), "{clients}");
        assert!(flows.lines().any(|line| line.contains(",ipv6,ipv6_dst=2") && line.ends_with("output:1")), "{flows}");
    }
}
