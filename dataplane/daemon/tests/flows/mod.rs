//! Sessions of a whole node as a collector that is not ours sees them: nfcapd writes down what comes, nfdump says what it was.

use std::io::Read as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use marchproxy_engine::tables::FlowsSpec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// nfcapd on a port of the loopback; ends with the test.
struct Collector {
    program: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Collector {
    fn start() -> Self {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let program = Command::new("nfcapd")
            .args(["-b", "127.0.0.1", "-p", &port.to_string(), "-w"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nfcapd of Debian's package nfdump, which scripts/setup installs");
        let collector = Self { program, port, directory };
        wait_until("nfcapd listens", || queued(port).is_some());
        collector
    }

    /// Everything it got, and what it said about it.
    fn end(mut self) -> (Vec<Value>, String) {
        wait_until("nfcapd read everything", || queued(self.port) == Some(0));
        kill(Pid::from_raw(self.program.id() as i32), Signal::SIGTERM).unwrap();
        let mut said = String::new();
        self.program.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.program.wait().unwrap().success(), "{said}");
        (shown(self.directory.path()), said)
    }
}

fn shown(directory: &Path) -> Vec<Value> {
    let out = Command::new("nfdump").arg("-R").arg(directory).args(["-o", "json"]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Octets that wait at a UDP port of this host, if somebody listens there.
fn queued(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields.get(1)?.ends_with(&format!(":{port:04X}"));
        let (_, received) = fields.get(4)?.split_once(':')?;
        ours.then(|| u64::from_str_radix(received, 16).unwrap())
    })
}

const CLIENTS: [&str; 2] = ["198.18.1.9", "fd00:1::9"];
const SERVICES: [&str; 2] = ["203.0.113.10", "2001:db8:1::10"];
const BACKENDS: [&str; 2] = ["198.18.2.2", "fd00:2::2"];

fn told(collector: u16, one_of: u32) -> RuleTables {
    let both = |name: &str, port, v4: &str, v6: &str| {
        let addresses = vec![cidr(v4), cidr(v6)];
        InterfaceSpec { name: name.into(), port, addresses, trust_dscp: true, ..Default::default() }
    };
    let backend = |address: &str| BackendSpec {
        name: address.replace([':', '.'], "-"),
        address: address.parse().unwrap(),
        port: Some(8080),
        weight: 1,
        ..Default::default()
    };
    let service = ServiceSpec {
        name: "web".into(),
        addresses: SERVICES.iter().map(|address| address.parse().unwrap()).collect(),
        protocol: ServiceProtocol::Tcp,
        ports: vec![PortRange { first: 80, last: 80 }],
        backends: BACKENDS.map(backend).to_vec(),
        ..Default::default()
    };
    let flows = FlowsSpec {
        collector: ([127, 0, 0, 1], collector).into(),
        domain: 7,
        one_of,
        active_timeout_s: 60,
        template_refresh_s: 60,
        message_octets: 512,
        nat_events: true,
        services: vec![],
    };
    RuleTables {
        interfaces: vec![
            both("lan0", 0, "198.18.1.1/24", "fd00:1::1/64"),
            both("wan0", 1, "198.18.2.1/24", "fd00:2::1/64"),
        ],
        services: vec![service],
        flows: Some(flows),
        ..tables()
    }
}

/// Sends a frame and waits until a worker or the slow path had it.
fn pass(rig: &Rig, device: &str, packet: &Packet) {
    let received = |stats: &v1::StatsResponse| stats.conservation.as_ref().map_or(0, |law| law.rx);
    let before = received(&rig.node.stats());
    rig.put(device, &packet.build());
    rig.eventually("received", |stats| received(stats) > before);
}

#[test]
fn a_collector_understands_what_a_node_tells() {
    let collector = Collector::start();
    let mut rig = Rig::new(1);
    rig.push(&told(collector.port, 1)).unwrap();
    for at in 0..2 {
        let [client, service, backend] = [CLIENTS[at], SERVICES[at], BACKENDS[at]].map(|text| text.parse().unwrap());
        let to = |flags| Packet::eth(THEIRS, OURS).ip(client, service).tcp(40_000, 80).flags(flags);
        pass(&rig, "vdev:net_null0", &to(2));
        let back = Packet::eth(THEIRS, OURS).ip(backend, client).tcp(8080, 40_000).flags(0x12);
        pass(&rig, "vdev:net_null1", &back);
        pass(&rig, "vdev:net_null0", &to(16).payload(b"some words"));
    }
    let node = rig.node.clone();
    let session = node.why(&v1::WhyRequest {
        r#in: "lan0".into(),
        src: "198.18.1.10".into(),
        dst: SERVICES[0].into(),
        protocol: "tcp".into(),
        dst_port: 80,
        ..v1::WhyRequest::default()
    });
    assert!(session.unwrap().steps.iter().any(|step| step.stage == "flows"));
    // The node's end is the sessions' end.
    assert_eq!(rig.node.stop().residue, 0);
    let stats = node.stats().flows.unwrap();
    // Two records begin, two end: a NAT event, two times two directions, a NAT event; and one says how sessions are selected.
    assert_eq!((stats.sessions_selected, stats.records, stats.records_lost), (2, 4, 0), "{stats:?}");
    assert_eq!((stats.sent_records, stats.unsent_records, stats.failures), (7, 0, 0), "{stats:?}");

    let (records, said) = collector.end();
    assert!(said.contains("Flows: 6,") && said.contains("Sequence Errors: 0, Bad Packets: 0"), "{said}");
    let one = |wanted: &[(&str, Value)]| {
        let fits = |record: &&Value| wanted.iter().all(|(field, value)| record[*field] == *value);
        assert_eq!(records.iter().filter(fits).count(), 1, "{wanted:?} in {records:#?}");
    };
    let text = |text: &str| Value::from(text);
    one(&[
        ("src4_addr", text(CLIENTS[0])),
        ("dst4_addr", text(SERVICES[0])),
        ("src_port", 40_000.into()),
        ("dst_port", 80.into()),
        ("src4_xlt_ip", text(CLIENTS[0])),
        ("dst4_xlt_ip", text(BACKENDS[0])),
        ("dst_xlt_port", text("8080")),
        ("in_packets", 2.into()),
        ("in_bytes", 90.into()),
        ("proto", 6.into()),
    ]);
    one(&[
        ("src4_addr", text(BACKENDS[0])),
        ("dst4_addr", text(CLIENTS[0])),
        ("src4_xlt_ip", text(SERVICES[0])),
        ("src_xlt_port", text("80")),
        ("in_packets", 1.into()),
        ("in_bytes", 40.into()),
    ]);
    one(&[("src6_addr", text(CLIENTS[1])), ("dst6_addr", text(SERVICES[1])), ("in_bytes", 130.into())]);
    one(&[("src6_addr", text(BACKENDS[1])), ("dst6_addr", text(CLIENTS[1])), ("in_bytes", 60.into())]);
    for kind in ["NAT44 session create", "NAT44 session delete"] {
        one(&[("nat_event", text(kind)), ("src4_addr", text(CLIENTS[0])), ("dst4_xlt_ip", text(BACKENDS[0]))]);
    }
    // Milliseconds since 1970, not since the machine started.
    let year = records[0]["received"].as_str().unwrap()[..4].to_owned();
    assert!(records.iter().filter(|r| r["in_packets"] != 0).all(|r| r["first"].as_str().unwrap().starts_with(&year)));
}

#[test]
fn a_collector_that_is_not_there_harms_nobody() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut rig = Rig::new(2);
    rig.push(&told(nobody, 2)).unwrap();
    for port in 1000..1020 {
        let [client, service] = [CLIENTS[0], SERVICES[0]].map(|text| text.parse().unwrap());
        pass(&rig, "vdev:net_null0", &Packet::eth(THEIRS, OURS).ip(client, service).tcp(port, 80).flags(2));
    }
    // The kernel hears from the loopback that nobody listens, and tells with the next message.
    rig.push(&told(nobody, 3)).unwrap();
    rig.eventually("noticed", |stats| stats.flows.as_ref().is_some_and(|flows| flows.failures > 0));
    let flows = rig.node.stats().flows.unwrap();
    assert!(flows.trouble.contains("refused"), "{flows:?}");
    assert_eq!(flows.sessions_selected + flows.sessions_passed_over, 20);
    rig.push(&RuleTables { flows: None, ..told(nobody, 3) }).unwrap();
    assert_eq!(rig.node.stats().flows.unwrap().collector, "");
    rig.end();
}
