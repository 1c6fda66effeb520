//! The real binary: its command line, its socket, its metrics, its signals; with DPDK on virtual devices, and without.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use marchproxy_dataplane::last_good::{LastGood, Store};
use marchproxy_dataplane::metrics::DICTIONARY;
use marchproxy_engine::tables::{PortSpec, RuleTables};
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use marchproxy_proto::{tables, v1};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{FakeControl, PATIENCE};
use tonic::transport::{Channel, Endpoint};

const BINARY: &str = env!("CARGO_BIN_EXE_marchproxy-dataplane");

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The binary with everything inside `dir`.
fn command(dir: &Path, control: SocketAddr, metrics: SocketAddr) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["--node", "edge-1", "--insecure", "--sessions", "1024", "--mem-mb", "64", "--hugepages", "off"])
        .args(["--eal-arg", "--no-pci"])
        .arg("--control")
        .arg(control.to_string())
        .arg("--metrics")
        .arg(metrics.to_string())
        .arg("--state-dir")
        .arg(dir.join("state"))
        .arg("--socket")
        .arg(dir.join("node.sock"))
        .arg("--file-prefix")
        .arg(format!("mp-test-{}", metrics.port()))
        .stderr(std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap());
    command
}

struct Daemon {
    child: Child,
    dir: PathBuf,
    metrics: SocketAddr,
}

impl Daemon {
    fn start(dir: &Path, control: SocketAddr) -> Self {
        let metrics = free_address();
        let child = command(dir, control, metrics).spawn().unwrap();
        let daemon = Self { child, dir: dir.into(), metrics };
        daemon.until("/healthz", "200 OK");
        daemon
    }

    fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.metrics) else { return String::new() };
        let mut answer = String::new();
        let _ = write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// Gets a page until it contains a text.
    fn until(&self, path: &str, wanted: &str) -> String {
        let start = Instant::now();
        loop {
            let page = self.get(path);
            if page.contains(wanted) {
                return page;
            }
            assert!(start.elapsed() < PATIENCE, "{path} never says {wanted:?} but {page:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// SIGTERM, and out with code 0 within five seconds.
    fn terminate(mut self) -> String {
        let start = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        let log = self.log();
        assert!(status.success(), "{status}\n{log}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}\n{log}", start.elapsed());
        assert!(log.contains("residue 0") && log.ends_with("stopped\n"), "{log}");
        assert!(!self.dir.join("node.sock").exists(), "the socket stays");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn local(dir: &Path) -> OperateServiceClient<Channel> {
    let path = dir.join("node.sock");
    let connect = move |_| {
        let path = path.clone();
        async move { std::io::Result::Ok(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    };
    let endpoint = Endpoint::from_static("http://local");
    OperateServiceClient::new(endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap())
}

fn run(mut command: Command) -> (bool, String) {
    let Output { status, stdout, stderr } = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn port(name: &str, device: &str) -> RuleTables {
    let spec = PortSpec { name: name.into(), device: device.into(), mtu: 1500 };
    RuleTables { ports: vec![spec], ..RuleTables::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ports_it_serves_socket_and_metrics_and_stops_clean() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let daemon = Daemon::start(dir.path(), control.address);
    let mut stream = control.attached().await;
    assert_eq!(stream.hello().await.backend, if cfg!(feature = "dpdk") { "dpdk" } else { "sockets" });
    assert!(daemon.get("/readyz").contains("503 Service Unavailable"));
    assert!(daemon.get("/readyz").contains("not ready: no tables yet"));
    stream.push(1, &RuleTables::default()).await;
    stream.ack().await;
    daemon.until("/readyz", "ready: version 1, generation 2");
    let metrics = daemon.get("/metrics");
    assert!(metrics.contains("content-type: application/openmetrics-text"), "{metrics}");
    assert!(metrics.contains("\nmarchproxy_tables_version 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(metrics.contains("\nmarchproxy_control_connected 1\n"), "{metrics}");
    let page = &metrics[metrics.find("# HELP").unwrap()..];
    let wrong = marchproxy_metrics::check(DICTIONARY, page, false);
    assert!(wrong.is_empty(), "{wrong:#?}");

    let mut client = local(dir.path()).await;
    let stats = client.stats(v1::StatsRequest::default()).await.unwrap().into_inner();
    assert_eq!((stats.node.as_str(), stats.version, stats.workers.len()), ("edge-1", 1, 1));
    let error = client.stats(v1::StatsRequest { node: "edge-2".into() }).await.unwrap_err();
    assert!(error.message().contains("node: found \"edge-2\", allowed: \"edge-1\""), "{error}");
    let error = client.nodes(v1::NodesRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    let error = client.why(v1::WhyRequest::default()).await.unwrap_err();
    assert!(error.message().starts_with("src: found \"\""), "{error}");
    // An open stream to control and an open connection to the socket do not hold the stop up.
    daemon.terminate();
}

#[cfg(not(feature = "dpdk"))]
#[tokio::test(flavor = "multi_thread")]
async fn without_dpdk_ports_are_refused_and_no_dpdk_is_linked() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let daemon = Daemon::start(dir.path(), control.address);
    let mut stream = control.attached().await;
    stream.hello().await;
    stream.push(1, &port("wan", "vdev:net_null0")).await;
    let reason = stream.nack().await.reason;
    assert_eq!(reason, "port wan: device \"vdev:net_null0\" needs the dpdk backend; this build has none");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.child.id())).unwrap();
    assert!(!maps.contains("librte_"), "{maps}");
    daemon.terminate();
}

#[cfg(feature = "dpdk")]
#[tokio::test(flavor = "multi_thread")]
async fn with_dpdk_ports_open_refuse_and_come_back_after_a_restart_without_control() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let address = control.address;
    let daemon = Daemon::start(dir.path(), address);
    let mut stream = control.attached().await;
    stream.hello().await;
    // net_null gives endless frames of zeroes: each dropped, each counted.
    let mut two = port("lan", "vdev:net_null0,size=64");
    two.ports.extend(port("wan", "vdev:net_ring0").ports);
    stream.push(1, &two).await;
    stream.ack().await;
    let mut client = local(dir.path()).await;
    let start = Instant::now();
    let stats = loop {
        let stats = client.stats(v1::StatsRequest::default()).await.unwrap().into_inner();
        if stats.ports.iter().any(|port| port.rx_packets > 1000) {
            break stats;
        }
        assert!(start.elapsed() < PATIENCE, "{stats:?}\n{}", daemon.log());
    };
    let terms = stats.conservation.unwrap();
    assert_eq!(terms.residue, 0, "{terms:?}");
    assert!(stats.drops.iter().any(|drop| drop.reason == "l2_not_for_us"), "{:?}", stats.drops);

    for (version, tables, wanted) in [
        (2, port("lan", "vdev:net_nosuch0"), "port lan: device: found"),
        (
            3,
            RuleTables { ports: [two.ports.clone(), port("x", "vdev:net_nosuch0").ports].concat(), ..two.clone() },
            "port x: device \"vdev:net_nosuch0\"",
        ),
        (
            4,
            RuleTables { ports: [two.ports.clone(), port("x", "pci:0000:fe:1f.0").ports].concat(), ..two.clone() },
            "port x: device \"pci:0000:fe:1f.0\"",
        ),
    ] {
        stream.push(version, &tables).await;
        let reason = stream.nack().await.reason;
        assert!(reason.contains(wanted), "{reason:?} lacks {wanted:?}");
    }
    let page = daemon.until("/metrics", "marchproxy_pushes_total{result=\"refused\"} 3");
    assert!(page.contains("marchproxy_ready 1") && page.contains("marchproxy_tables_version 1"), "{page}");
    // The MTU may change when ports may stop.
    let mut small = two.clone();
    small.ports[0].mtu = 1400;
    let (mut offer, groups) = support::offer(5, &small);
    offer.allow_port_restart = true;
    stream.send(v1::to_node::Message::Offer(offer)).await;
    for group in groups {
        stream.send(v1::to_node::Message::Group(group)).await;
    }
    assert!(matches!(stream.next().await, v1::from_node::Message::Wanted(_)));
    assert_eq!(stream.ack().await.version, 5);
    drop(stream);
    control.kill().await;
    daemon.terminate();

    let daemon = Daemon::start(dir.path(), address);
    daemon.until("/readyz", "ready: version 5");
    let log = daemon.terminate();
    assert!(log.contains("running the last good tables: version 5"), "{log}");
}

/// Runs in a network namespace of its own with the veth pair `in0-in1`, on one thread, so that every socket is there.
fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace can be made ({error}); it takes root");
            return;
        }
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip("link set lo up");
        ip("link add in0 type veth peer name in1");
        ip("link set in0 up");
        ip("link set in1 up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    std::thread::spawn(run).join().unwrap();
}

fn ip(arguments: &str) {
    let (good, said) = {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        run(command)
    };
    assert!(good, "ip {arguments}: {said}");
}

/// Offers tables that may stop ports.
async fn push_with_restart(stream: &mut support::Attached, version: u64, tables: &RuleTables) {
    let (mut offer, groups) = support::offer(version, tables);
    offer.allow_port_restart = true;
    stream.send(v1::to_node::Message::Offer(offer)).await;
    for group in groups {
        stream.send(v1::to_node::Message::Group(group)).await;
    }
    assert!(matches!(stream.next().await, v1::from_node::Message::Wanted(_)));
}

#[test]
fn ports_on_sockets_open_and_the_backend_changes_with_the_document() {
    in_a_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
        let metrics = free_address();
        let child = command(dir.path(), control.address, metrics).spawn().unwrap();
        let daemon = Daemon { child, dir: dir.path().into(), metrics };
        let mut stream = control.attached().await;
        stream.hello().await;
        for (version, device) in [(1, "af_packet:in0"), (2, "af_xdp:in0"), (3, "auto:in0")] {
            push_with_restart(&mut stream, version, &port("in", device)).await;
            stream.ack().await;
            let mut client = local(dir.path()).await;
            let start = Instant::now();
            loop {
                let stats = client.stats(v1::StatsRequest::default()).await.unwrap().into_inner();
                let port = &stats.ports[0];
                if port.link_up && port.rx_packets > 0 {
                    assert_eq!(stats.conservation.unwrap().residue, 0);
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "{device}: {stats:?}\n{}", daemon.log());
                shout();
            }
        }
        let tiers = local(dir.path()).await.tiers(v1::TiersRequest::default()).await.unwrap().into_inner();
        let port_in = &tiers.ports[0];
        assert_eq!((tiers.backend.as_str(), port_in.tier.as_str(), port_in.link_up), ("sockets", "af_xdp_copy", true));
        let over: Vec<_> = port_in.passed_over.iter().map(|over| over.tier.as_str()).collect();
        assert_eq!(over, ["dpdk", "af_xdp_zero_copy"], "{tiers:?}");
        assert!(
            daemon
                .get("/metrics")
                .contains("marchproxy_port_tier_info{port=\"in\",device=\"auto:in0\",tier=\"af_xdp_copy\"} 1")
        );
        let again = port("in", "vdev:net_null0");
        if cfg!(feature = "dpdk") {
            stream.push(4, &again).await;
            let reason = stream.nack().await.reason;
            assert!(reason.contains("run on the backend sockets") && reason.contains("allow-port-restart"), "{reason}");
            push_with_restart(&mut stream, 5, &again).await;
            stream.ack().await;
            assert!(daemon.log().contains("the backend of this node is dpdk now"), "{}", daemon.log());
        }
        // The interface goes while it is in use: the port is down, and nothing else happens.
        push_with_restart(&mut stream, 6, &port("in", "af_packet:in0")).await;
        stream.ack().await;
        ip("link del in0");
        let mut client = local(dir.path()).await;
        let start = Instant::now();
        while client.stats(v1::StatsRequest::default()).await.unwrap().into_inner().ports[0].link_up {
            assert!(start.elapsed() < PATIENCE, "the port stays up\n{}", daemon.log());
        }
        daemon.terminate();
    });
}

/// Something for everybody on the wire from its far end.
fn shout() {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket};
    use std::os::fd::AsRawFd;
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).unwrap();
    let mut all = nix::ifaddrs::getifaddrs().unwrap();
    let address = all.find_map(|i| i.address.filter(|_| i.interface_name == "in1")?.as_link_addr().copied()).unwrap();
    bind(wire.as_raw_fd(), &address).unwrap();
    let frame = marchproxy_engine::packet::Packet::eth([2; 6], [255; 6]).ethertype(0x0800).payload([0; 46]).build();
    send(wire.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
}

#[test]
fn damaged_and_foreign_last_good_tables_are_refused_and_the_node_waits() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir_all(&state).unwrap();
    let encoded = tables::encode(&RuleTables::default()).unwrap();
    let stored = LastGood {
        version: 7,
        content_hash: tables::content_hash(encoded.iter().map(|group| &group.hash)).to_vec(),
        groups: encoded.into(),
    };
    let store = Store::new(&state, "default", "edge-1");
    store.save(&stored).unwrap();
    let mut bytes = std::fs::read(store.path()).unwrap();
    bytes.pop();
    std::fs::write(store.path(), bytes).unwrap();
    let daemon = Daemon::start(dir.path(), free_address());
    let page = daemon.until("/readyz", "last good tables refused");
    assert!(page.contains("the file is damaged"), "{page}");
    assert!(daemon.get("/metrics").contains("\nmarchproxy_last_good_refused 1\n"));
    daemon.terminate();

    Store::new(&state, "blue", "edge-1").save(&stored).unwrap();
    let daemon = Daemon::start(dir.path(), free_address());
    daemon.until("/readyz", "cluster: found \"blue\", allowed: \"default\"");
    daemon.terminate();
    store.save(&stored).unwrap();
    let daemon = Daemon::start(dir.path(), free_address());
    daemon.until("/readyz", "ready: version 7");
    daemon.terminate();
}

#[test]
fn a_second_daemon_is_told_what_is_taken() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let control = free_address();
    let daemon = Daemon::start(one.path(), control);
    let pid = format!("pid {}", daemon.child.id());
    let (good, said) = run(command(one.path(), control, free_address()));
    assert!(!good && said.contains("another marchproxy-dataplane") && said.contains(&pid), "{said}");
    let (good, said) = run(command(two.path(), control, daemon.metrics));
    assert!(!good && said.contains("the address is in use"), "{said}");
    let mut same_socket = command(two.path(), control, free_address());
    same_socket.arg("--socket").arg(one.path().join("node.sock"));
    let (good, said) = run(same_socket);
    assert!(!good && said.contains("another marchproxy-dataplane listens there"), "{said}");
    assert!(daemon.get("/healthz").contains("ok"), "the first one is not disturbed");
    daemon.terminate();
}

#[test]
fn bad_input_on_the_command_line_names_field_found_and_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dataplane.toml");
    std::fs::write(&file, "node = \"edge-1\"\nidle = \"nap\"\n").unwrap();
    let table: [(&[&str], &[&str]); 5] = [
        (&["--config", file.to_str().unwrap()], &["dataplane.toml:2", "idle", "`nap`", "`busy`"]),
        (&["--config", "/nowhere.toml"], &["/nowhere.toml", "No such file"]),
        (&["--node", "a b"], &["command line: node: found \"a b\""]),
        (&["--node", "a", "--workers", "0-"], &["found \"0-\", allowed: auto, or cores"]),
        (&["--node", "a", "--sessions", "1"], &["command line: sessions: found 1, allowed: 1024"]),
    ];
    for (arguments, wanted) in table {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        let (good, said) = run(command);
        assert!(!good, "{arguments:?}");
        for part in wanted {
            assert!(said.contains(part), "{arguments:?}: {said:?} lacks {part:?}");
        }
    }
}

#[test]
fn the_check_reports_made_up_machines_and_refuses_their_remote_cores() {
    let dir = tempfile::tempdir().unwrap();
    let check = |workers: &str| {
        let mut command = command(dir.path(), free_address(), free_address());
        // hwloc's own switch for machines that do not exist.
        command.env("HWLOC_SYNTHETIC", "pack:2 [numa(memory=1GB)] l3:1 l2:2 core:1 pu:2");
        command.args(["--check", "--workers", workers]);
        run(command)
    };
    let (good, said) = check("2,3");
    assert!(good, "{said}");
    assert!(said.contains("topology: 2 socket(s), 4 core(s), 8 CPU(s), 2 NUMA node(s)"), "{said}");
    assert!(said.contains("worker 0 on core 2, socket 0, NUMA node 0, SMT sibling(s) 3"), "{said}");
    assert!(said.contains("cores 2 and 3 are SMT siblings"), "{said}");
    assert!(said.contains("the node would start"), "{said}");
    let (good, said) = check("99");
    assert!(!good && said.contains("core 99 does not exist on this machine, allowed: 0, 1, 2"), "{said}");
    let (good, said) = check("1,1");
    assert!(!good && said.contains("core 1 is named twice"), "{said}");
}

#[cfg(feature = "dpdk")]
#[test]
fn too_few_hugepages_and_refused_arguments_end_the_start_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let table: [(&[&str], &[&str]); 2] = [
        (
            &["--hugepages", "required", "--mem-mb", "900000"],
            &["memory.hugepages: required", "scripts/hugepages/reserve 900000"],
        ),
        (
            &["--hugepages", "off", "--mem-mb", "64", "--eal-arg", "--no-such-option"],
            &["DPDK refused its arguments", "--no-such-option"],
        ),
    ];
    for (arguments, wanted) in table {
        let mut command = Command::new(BINARY);
        command.args(["--node", "edge-1", "--insecure", "--sessions", "1024", "--metrics"]);
        command.arg(free_address().to_string());
        command.arg("--state-dir").arg(dir.path()).arg("--socket").arg(dir.path().join("s")).args(arguments);
        let (good, said) = run(command);
        assert!(!good, "{said}");
        for part in wanted {
            assert!(said.contains(part), "{said} lacks {part:?}");
        }
        assert!(!dir.path().join("s").exists(), "the socket stays");
    }
}
