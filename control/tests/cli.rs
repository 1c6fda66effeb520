//! marchctl as people run it: what it prints and with which exit code it ends.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Credential, FakeNode, Rig, document, foreign, fresh};
use marchproxy_control::pki::{Authority, Identity, Role};
use marchproxy_proto::v1;
use serde_json::Value;
use v1::from_node::Message as From;

/// marchctl with nothing of this machine's settings.
struct Ctl {
    home: PathBuf,
    options: Vec<String>,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ctl {
    fn of(rig: &Rig, who: &Credential) -> Ctl {
        let home = rig.dir.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        let (cert, key) = (home.join("me.pem"), home.join("me.key"));
        std::fs::write(&cert, &who.cert).unwrap();
        std::fs::write(&key, &who.key).unwrap();
        let text = |path: &Path| path.display().to_string();
        let ca = text(&rig.state().join("ca.pem"));
        let options = ["--control", &rig.url, "--ca", &ca, "--cert", &text(&cert), "--key", &text(&key)];
        Ctl { home, options: options.map(str::to_owned).to_vec() }
    }

    fn admin(rig: &Rig) -> Ctl {
        Ctl::of(rig, &rig.admin())
    }

    fn bare(home: &Path) -> Ctl {
        Ctl { home: home.to_owned(), options: Vec::new() }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[]).await
    }

    async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marchctl"));
        command.env_clear().env("HOME", &self.home).envs(variables.iter().copied());
        command.args(arguments).args(&self.options).stdin(std::process::Stdio::null());
        let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Ran {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Ran {
    #[track_caller]
    fn ends(&self, code: i32) -> &Ran {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(&self, part: &str) -> &Ran {
        assert!(self.out.contains(part), "{part:?} is not in\n{}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    fn complains(&self, part: &str) -> &Ran {
        assert!(self.err.contains(part), "{part:?} is not in\n{}", self.err);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {}", self.out))
    }
}

fn yaml(seed: u32) -> String {
    marchproxy_control::model::to_yaml(&document(&["edge-1"], seed)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_to_be_confirmed() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    let (first, second) = (ctl.file("first.yaml", &yaml(1)), ctl.file("second.yaml", &yaml(2)));
    ctl.run(&["apply", "-f", &first, "--confirm-within", "5m"]).await.ends(1).complains("there is none to return to");
    ctl.run(&["apply", "-f", &first]).await.ends(0);
    ctl.run(&["apply", "-f", &second, "--confirm-within", "0"]).await.ends(1).complains("1s to 24h");
    let waits = ctl.run(&["apply", "-f", &second, "--confirm-within", "5m"]).await;
    waits.ends(0).says("waits for `marchctl confirm 2` until 20");
    ctl.run(&["history"]).await.ends(0).says("pending until 20");
    ctl.run(&["apply", "-f", &first]).await.ends(1).complains("version 2 waits for confirmation");
    ctl.run(&["confirm"]).await.ends(0).says("version 2").says("confirmed\n");
    ctl.run(&["confirm", "2"]).await.ends(0).says("confirmed before");
    ctl.run(&["confirm"]).await.ends(1).complains("no version waits");
    ctl.run(&["rollback", "1", "--confirm-within", "1h"]).await.ends(0).says("marchctl confirm 3");
    ctl.run(&["rollback", "2"]).await.ends(0).says("version 4");
    ctl.run(&["history"]).await.ends(0).says("reverted").says("confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_live_traffic_would_notice() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    let edge = rig.enrol("node", "edge-1").await;
    let node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap().run();
    let (first, second) = (ctl.file("first.yaml", &yaml(1)), ctl.file("second.yaml", &yaml(2)));
    ctl.run(&["apply", "-f", &first, "--together", "--nodes", "edge-1", "--stage-within", "5s"]).await.ends(0);
    let live = ctl.run(&["diff", "-f", &second, "--live", "2s"]).await;
    live.ends(0).says("~ rule no-telnet").says("node edge-1, version 1 runs: 3 of 1").says("2,000 packets looked at");
    live.says("~ fate: 3 flows, 17 packets").says("- forwarded by rule rest, mark 10\n");
    live.says("+ dropped (rule_deny) by rule no-telnet\n").says("      wan tcp 198.51.100.7:4242 > 203.0.113.10:23\n");
    let json = ctl.run(&["diff", "-f", &second, "--live", "1", "--node", "edge-1", "--json"]).await.ends(0).json();
    assert_eq!(json["live"][0]["changes"][0]["after"]["reason"], "rule_deny");
    ctl.run(&["diff", "-f", &second, "--live", "2m"]).await.ends(1).complains("duration_ms: found 120000");
    ctl.run(&["diff", "-f", &second, "--live", "1s", "--node", "edge-9"]).await.ends(1).complains("edge-9");
    ctl.run(&["apply", "-f", &second, "--nodes", "edge-1"]).await.ends(1).complains("--together");
    node.abort();
}

/// Whether a program is there; else the reason for which a test of it is skipped.
fn can_be_had(program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program).args(arguments).output().is_ok_and(|ran| ran.status.success());
    if !there {
        println!("skipped: {program} {arguments:?} fails; scripts/setup installs what it needs");
    }
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_other_languages_need_the_proto_alone() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    ctl.run(&["apply", "-f", &ctl.file("first.yaml", &yaml(1)), "-m", "first"]).await.ends(0);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (proto, clients) = (root.join("proto"), root.join("deploy/examples/clients"));
    let run = |program: &'static str, control: &str, more: &[&str]| {
        let mut command = Command::new(clients.join(program));
        command.arg("--proto").arg(&proto).args(["--control", control]);
        for (option, file) in [
            ("--ca", rig.state().join("ca.pem")),
            ("--cert", ctl.home.join("me.pem")),
            ("--key", ctl.home.join("me.key")),
        ] {
            command.arg(option).arg(file);
        }
        command.args(more);
        tokio::task::spawn_blocking(move || {
            let output = command.output().unwrap();
            let text = |octets| String::from_utf8(octets).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        })
    };
    if can_be_had("protoc", &["--version"]) && can_be_had("curl", &["--version"]) {
        let (code, out, err) = run("call.sh", &rig.url, &["History", "limit: 3"]).await.unwrap();
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("version: 1\n") && out.contains("author: \"admin\""), "{out}");
        let (code, _, err) = run("call.sh", &rig.url, &["Confirm"]).await.unwrap();
        assert_eq!(code, Some(1));
        assert!(err.starts_with("status 9: no version waits for confirmation"), "{err}");
    }
    let plugin = std::path::Path::new("/usr/bin/grpc_python_plugin").exists();
    if plugin && can_be_had("/usr/bin/python3", &["-c", "import grpc, google.protobuf"]) {
        let (code, out, err) = run("configure.py", rig.url.strip_prefix("https://").unwrap(), &[]).await.unwrap();
        assert_eq!(code, Some(0), "{err}");
        for line in [
            "version 1 has 2 rules\n",
            "applied version 2, again 2\n",
            "node edge-1: NODE_OUTCOME_NOT_CONNECTED has not connected",
            "confirmed version 2\n",
            "watched version 2 by admin: from Python\n",
            "refused: INVALID_ARGUMENT: the document is refused, nothing was stored: ",
        ] {
            assert!(out.contains(line), "{line:?} is not in\n{out}");
        }
    } else if !plugin {
        println!("skipped: no /usr/bin/grpc_python_plugin; scripts/setup installs it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_document() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    let edge = rig.enrol("node", "edge-1").await;
    let node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap().run();
    rig.until_node("edge-1", |info| info.connected).await;

    let first = ctl.file("first.yaml", &yaml(1));
    ctl.run(&["history"]).await.ends(0).says("no version yet");
    ctl.run(&["validate", "-f", &first]).await.ends(0).says("valid");
    ctl.run(&["validate", "--local", "-f", &first]).await.ends(0).says("valid");
    ctl.run(&["apply", "-f", &first, "--validate-only"]).await.ends(0).says("the stored version is 0");
    let applied = ctl.run(&["apply", "-f", &first, "-m", "first", "--expect-version", "0"]).await;
    applied.ends(0).says("version 1").says("edge-1  settled").says("settled on 1/1 nodes in ").says("(store ");
    ctl.run(&["apply", "-f", &first]).await.ends(0).says("unchanged");

    let second = ctl.file("second.json", &serde_json::to_string(&document(&["edge-1"], 2)).unwrap());
    ctl.run(&["diff", "-f", &second]).await.ends(0).says("~ rule no-telnet").says("1 changed");
    let json = ctl.run(&["apply", "-f", &second, "--json", "--request-id", "r1"]).await.ends(0).json();
    assert_eq!((&json["version"], &json["nodes"][0]["outcome"]), (&2.into(), &"NODE_OUTCOME_SETTLED".into()));
    assert_eq!(ctl.run(&["apply", "-f", &second, "--json", "--request-id", "r1"]).await.json()["version"], 2);
    ctl.run(&["diff", "--from", "1", "--to", "2"]).await.ends(0).says("~ rule no-telnet");

    ctl.run(&["get", "--version", "1"]).await.ends(0).says("# version 1").says("no-telnet");
    assert_eq!(ctl.run(&["get", "-o", "json"]).await.ends(0).json()["nodes"][0]["name"], "edge-1");
    ctl.run(&["rollback", "1"]).await.ends(0).says("version 3");
    ctl.run(&["history"]).await.ends(0).says("rollback to version 1").says("admin");
    assert_eq!(ctl.run(&["history", "--limit", "2", "--json"]).await.json()["versions"].as_array().unwrap().len(), 2);

    ctl.run(&["rule", "list"]).await.ends(0).says("no-telnet").says("deny");
    ctl.run(&["rule", "show", "no-telnet"]).await.ends(0).says("priority");
    assert_eq!(ctl.run(&["interface", "list", "--json"]).await.json()[0]["name"], "wan-edge-1");
    ctl.run(&["rule", "show", "nothing"]).await.ends(1).complains("marchctl rule list");
    for noun in ["service", "route", "policer", "qos"] {
        ctl.run(&[noun, "list"]).await.ends(0).says(&format!("the document has no {noun}"));
    }
    ctl.run(&["node", "list"]).await.ends(0).says("edge-1").says("settled");
    let node_json = ctl.run(&["node", "show", "edge-1", "--json"]).await.ends(0).json();
    assert_eq!((&node_json["version"], &node_json["certificates"][0]["revoked"]), (&3.into(), &false.into()));
    ctl.run(&["tier", "list"]).await.ends(0).says("af_xdp_copy").says("4,711").says("down");
    ctl.run(&["tier", "show", "wan"]).await.ends(0).says("backend sockets").says("not dpdk").says("no PCI device");
    ctl.run(&["qos", "list"]).await.ends(0).says("port wan: 20.00 Mbit/s, P0 up to 2.00 Mbit/s").says("4,711");
    let live = ctl.run(&["qos", "list", "--json"]).await.ends(0).json();
    assert_eq!((&live["qos"], &live["live"]["ports"][0]["queues"][0]["marked"]), (&serde_json::json!([]), &5.into()));
    ctl.run(&["qos", "show", "web"]).await.ends(1).complains("allowed: a QoS object or a service");
    ctl.run(&["tier", "list"]).await.ends(0).says("no-telnet").says("1,234").says("by addresses, protocol and ports");
    ctl.run(&["tier", "show", "no-telnet"]).await.ends(0).says("xdp").says("1,234 packets, 98,765 octets");
    ctl.run(&["tier", "show", "lan"]).await.ends(1).complains("allowed: a port or a rule of the node");
    node.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_ends_with_1_and_says_where() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    let good = ctl.file("good.yaml", &yaml(1));
    let unknown = ctl.file("unknown.yaml", &yaml(1).replace("priority: 201", "priorty: 201"));
    ctl.run(&["apply", "-f", &unknown]).await.ends(1).complains("priorty").complains("unknown.yaml");
    let broken = ctl.file("broken.yaml", "nodes: [");
    ctl.run(&["validate", "-f", &broken]).await.ends(1).complains("broken.yaml");
    let wrong =
        ctl.file("wrong.yaml", &yaml(1).replace("action: deny", "action: alow").replace("port: wan", "port: lan"));
    let refused = ctl.run(&["apply", "-f", &wrong]).await;
    refused.ends(1).complains("nothing was stored").complains("rules[0].action").complains("interfaces[0].port");
    ctl.run(&["validate", "--local", "-f", &wrong]).await.ends(1).complains("rules[0].action");
    ctl.run(&["apply", "-f", &good, "--expect-version", "7"])
        .await
        .ends(1)
        .complains("expected version 7")
        .complains("found version 0");
    ctl.run(&["apply", "-f", "/nowhere.yaml"]).await.ends(1).complains("/nowhere.yaml");
    ctl.run(&["get", "--version", "9"]).await.ends(1).complains("marchctl history");
    ctl.run(&["rollback", "9"]).await.ends(1).complains("marchctl history");
    ctl.run(&["frobnicate"]).await.ends(1).complains("frobnicate");
    ctl.run(&["node", "token", "a b"]).await.ends(1).complains("letters, digits");
    ctl.run(&["history", "--cluster", "blue"]).await.ends(1).complains("its own cluster only");
    assert_eq!(rig.newest().await, 0);

    let stranger = Ctl::of(&rig, &foreign(Role::Operator, "admin"));
    stranger.run(&["history"]).await.ends(1).complains("not issued by the authority");
    let alone = Ctl::bare(&ctl.home);
    alone.run(&["history", "--control", &rig.url, "--cert", "/nowhere.pem"]).await.ends(1).complains("--key");
    // Everything of another control: then it is the server that cannot be trusted.
    let other = tempfile::tempdir().unwrap();
    let authority = Authority::open(other.path(), 1).unwrap();
    let eve = Identity::new("default", Role::Operator, "eve").unwrap();
    authority.issue_operator_files(&eve, other.path()).unwrap();
    let place = |name: &str| other.path().join(name).display().to_string();
    let (ca, cert, key) = (place("ca.pem"), place("operator-eve.pem"), place("operator-eve.key"));
    let arguments = ["history", "--control", &rig.url, "--ca", &ca, "--cert", &cert, "--key", &key];
    alone.run(&arguments).await.ends(1).complains("cannot be trusted").complains("--ca");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_ends_with_2_unless_a_node_is() {
    let mut rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    rig.stop().await;
    ctl.run(&["history"]).await.ends(2).complains("cannot reach control").complains(&rig.url);
    let question = ["why", "--src", "198.51.100.7", "--dst", "203.0.113.10", "--protocol", "tcp", "--dport", "23"];
    ctl.run(&question).await.ends(2).complains("cannot reach control");

    let socket = ctl.home.join("dataplane.sock");
    let node = local_node(&socket);
    let config = ctl.file("marchctl.toml", &format!("socket = {:?}\n", socket.display().to_string()));
    let variables = [("MARCHCTL_CONFIG", config.as_str())];
    let answered = ctl.run_with(&question, &variables).await;
    answered.ends(0).says("dropped: rule_denied").says("rule no-telnet").complains("local socket");
    // By name, without a word about control.
    let path = socket.display().to_string();
    let direct = ctl.run(&["stats", "--json", "--socket", &path]).await;
    assert_eq!(direct.ends(0).json()["node"], "edge-1");
    assert_eq!(direct.err, "");
    ctl.run(&["session", "list", "--socket", &path]).await.ends(0).says("1 of 1 sessions");
    ctl.run(&["neighbour", "list", "--socket", &path]).await.ends(1).complains("no neighbour table yet");
    ctl.run(&["trace", "--socket", &path]).await.ends(0).says("#1 ").says("1 packets, 0 missed");
    // The end of a stream without its last word.
    ctl.run(&["trace", "--match", "vlan 1", "--socket", &path]).await.ends(2).complains("broke off");
    let kept = ctl.file("kept.pcapng", "old");
    let refused = ctl.run(&["capture", "--at", "rx", "-w", &kept, "--socket", &path]).await;
    refused.ends(1).complains("one at a time");
    assert_eq!(common::read(Path::new(&kept)), "old", "a refused capture leaves the file alone");
    ctl.run(&["backend", "list", "--socket", &path]).await.ends(0).says("web/b").says("status 503").says("1.5 ms");
    ctl.run(&["stats", "--socket", "/nowhere.sock"])
        .await
        .ends(2)
        .complains("/nowhere.sock")
        .complains("marchproxy-dataplane");
    node.abort();
}

/// OperateService on a Unix socket, as a node's daemon serves it.
fn local_node(socket: &Path) -> tokio::task::JoinHandle<()> {
    use tonic::{Request, Response, Status};
    use v1::operate_call::Request as Q;
    use v1::operate_reply::Response as A;
    use v1::operate_service_server::{OperateService, OperateServiceServer};

    struct Local;

    #[tonic::async_trait]
    impl OperateService for Local {
        async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsResponse>, Status> {
            let A::Stats(stats) = common::answer(Q::Stats(request.into_inner())) else { unreachable!() };
            Ok(Response::new(stats))
        }

        async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
            let A::Why(why) = common::answer(Q::Why(request.into_inner())) else { unreachable!() };
            Ok(Response::new(why))
        }

        async fn sessions(
            &self,
            request: Request<v1::SessionsRequest>,
        ) -> Result<Response<v1::SessionsResponse>, Status> {
            let A::Sessions(sessions) = common::answer(Q::Sessions(request.into_inner())) else { unreachable!() };
            Ok(Response::new(sessions))
        }

        async fn neighbours(
            &self,
            request: Request<v1::NeighboursRequest>,
        ) -> Result<Response<v1::NeighboursResponse>, Status> {
            let A::Error(why) = common::answer(Q::Neighbours(request.into_inner())) else { unreachable!() };
            Err(Status::failed_precondition(why))
        }

        type TraceStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::Observation, Status>>>;
        type CaptureStream = Self::TraceStream;

        async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
            let items = common::traced(&request.get_ref().r#match).into_iter();
            let items: Vec<_> = items.map(|item| Ok(v1::Observation { item: Some(item) })).collect();
            Ok(Response::new(tokio_stream::iter(items)))
        }

        async fn capture(&self, _: Request<v1::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
            let refused = Status::invalid_argument("a trace or capture runs on this node already; one at a time");
            Ok(Response::new(tokio_stream::iter(vec![Err(refused)])))
        }

        async fn preview(&self, _: Request<v1::PreviewRequest>) -> Result<Response<v1::PreviewResponse>, Status> {
            Err(Status::unimplemented("ask control"))
        }

        async fn backends(
            &self,
            request: Request<v1::BackendsRequest>,
        ) -> Result<Response<v1::BackendsResponse>, Status> {
            let A::Backends(backends) = common::answer(Q::Backends(request.into_inner())) else { unreachable!() };
            Ok(Response::new(backends))
        }

        async fn tiers(&self, request: Request<v1::TiersRequest>) -> Result<Response<v1::TiersResponse>, Status> {
            let A::Tiers(tiers) = common::answer(Q::Tiers(request.into_inner())) else { unreachable!() };
            Ok(Response::new(tiers))
        }

        async fn qos(&self, request: Request<v1::QosRequest>) -> Result<Response<v1::QosResponse>, Status> {
            let A::Qos(qos) = common::answer(Q::Qos(request.into_inner())) else { unreachable!() };
            Ok(Response::new(qos))
        }

        async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
            Err(Status::unimplemented("control only"))
        }
    }

    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(OperateServiceServer::new(Local));
        server.serve_with_incoming(incoming).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_ends_with_3() {
    let rig = Rig::with(|settings| settings.settle_timeout_s = 1).await;
    let ctl = Ctl::admin(&rig);
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let file = ctl.file("a.yaml", &yaml(1));
    let refuse = async {
        let offer = node.offer().await;
        node.send(From::Nack(v1::TablesNack { version: offer.version, reason: "no such device".into(), stage: 0 }))
            .await;
    };
    let arguments = ["apply", "-f", &file];
    let (ran, ()) = tokio::join!(ctl.run(&arguments), refuse);
    ran.ends(3).says("refused").says("no such device").says("settled on 0/1 nodes").complains("not running on edge-1");
    let json = ctl.run(&["node", "list", "--json"]).await.json();
    assert!(json["nodes"][0]["last_error"].as_str().unwrap().contains("no such device"));

    // No answer in time is partly too. Nobody connected is not: the node gets it when it comes.
    let file = ctl.file("b.yaml", &yaml(2));
    ctl.run(&["apply", "-f", &file]).await.ends(3).says("timed out");
    drop(node);
    rig.until_node("edge-1", |info| !info.connected).await;
    let file = ctl.file("c.yaml", &yaml(3));
    ctl.run(&["apply", "-f", &file]).await.ends(0).says("not connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_go_through_control() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    ctl.run(&["stats"]).await.ends(2).complains("no node of cluster default is connected");
    let edge = rig.enrol("node", "edge-1").await;
    let node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap().run();
    rig.until_node("edge-1", |info| info.connected).await;
    ctl.run(&["stats"]).await.ends(0).says("edge-1").says("no worker runs");
    ctl.run(&["stats", "--node", "edge-9"]).await.ends(1).complains("no node \"edge-9\"");
    let why = ctl.run(&["why", "--src", "198.51.100.7", "--dst", "203.0.113.10", "--protocol", "tcp", "--json"]).await;
    assert_eq!(why.ends(0).json()["verdict"], "dropped");
    ctl.run(&["session", "list"]).await.ends(0).says("1 of 1 sessions");
    ctl.run(&["neighbour", "list"]).await.ends(1).complains("no neighbour table yet");
    let backends = ctl.run(&["backend", "list", "--json"]).await;
    assert_eq!(backends.ends(0).json()["backends"][1]["health"]["last_status"], 503);
    ctl.run(&["backend", "show", "web/a"]).await.ends(0).says("http port 8080").says("10, of them failed 3");
    ctl.run(&["backend", "show", "a"]).await.ends(1).complains("allowed: SERVICE/BACKEND");
    ctl.run(&["backend", "show", "web/z"]).await.ends(1).complains("a backend of service web");
    node.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_followed_and_captured_through_control() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    ctl.run(&["trace"]).await.ends(2).complains("no node of cluster default is connected");
    let edge = rig.enrol("node", "edge-1").await;
    let node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    let cancelled = node.cancelled.clone();
    let node = node.run();
    rig.until_node("edge-1", |info| info.connected).await;

    let traced = ctl.run(&["trace", "--match", "tcp dport 23", "--count", "1"]).await;
    traced.ends(0).complains("tracing on edge-1: up to 1 packets, 30 s; ctrl-C ends it");
    traced.says("#1 22:13:20.000000005 worker 0, wan: 198.51.100.7:4242 > 203.0.113.10:23 tcp SYN (60 octets)");
    traced.says("    parse  interface wan0  46 octets, ttl 64\n    rule   rule rest       permit\n    to the slow path: no_route");
    traced.says("#1 slow path: dropped: no_route  No route leads to the destination.");
    traced.says("1 packets, 0 missed, ended by count");
    let json = ctl.run(&["trace", "--json"]).await;
    let lines: Vec<Value> = json.ends(0).out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["begun"]["node"], &lines[1]["packet"]["reason"]), (&"edge-1".into(), &"no_route".into()));
    assert_eq!((&lines[2]["slow_path"]["number"], &lines[3]["end"]["ended"]), (&1.into(), &"count".into()));

    // Wrong here, without asking anybody; and short of what was wanted.
    let wrong = ctl.run(&["trace", "--match", "tcp and scr 10.0.0.1"]).await;
    wrong.ends(1).complains("match: at character 9: found \"scr\", allowed: src, dst");
    wrong.complains("\n  tcp and scr 10.0.0.1\n          ^");
    ctl.run(&["trace", "--match", "vlan 2"]).await.ends(3).complains("7 packets came faster");
    ctl.run(&["trace", "--count", "0"]).await.ends(1).complains("1..=10000");
    ctl.run(&["capture", "--at", "nat", "-w", "x"]).await.ends(1).complains("rx, post-nat, tx, drop");
    ctl.run(&["capture", "--at", "rx", "-w", "/nowhere/x.pcapng"])
        .await
        .ends(1)
        .complains("cannot write /nowhere/x.pcapng");

    // ctrl-C reaches the node.
    let mut command = Command::new(env!("CARGO_BIN_EXE_marchctl"));
    command.env_clear().env("HOME", &ctl.home).args(["trace", "--match", "vlan 1"]).args(&ctl.options);
    let mut child = command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut String::new()).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("ended by ctrl-C"));
    tokio::time::timeout(common::PATIENCE, cancelled.acquire()).await.expect("cancelled in time").unwrap().forget();
    ctl.run(&["trace"]).await.ends(0);

    let file = ctl.home.join("drops.pcapng").display().to_string();
    ctl.run(&["capture", "--at", "drop", "-w", &file])
        .await
        .ends(0)
        .says("drops.pcapng: 2 packets, 0 missed, ended by count");
    let json = ctl.run(&["capture", "--at", "drop", "-w", &file, "--json"]).await;
    assert_eq!((&json.ends(0).json()["packets"], &json.json()["missed"]), (&2.into(), &0.into()));
    let bytes = std::fs::read(&file).unwrap();
    let comment = b"drop: dropped: rule_deny; rule no-dns: deny; worker 0, generation 1";
    assert!(bytes.windows(comment.len()).any(|part| part == comment));
    // Standard output, and somebody else's reader where there is one.
    let piped = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{} capture --at drop -w - {} | cmp - {file}",
            env!("CARGO_BIN_EXE_marchctl"),
            ctl.options.join(" ")
        ))
        .env("HOME", &ctl.home)
        .output()
        .unwrap();
    assert!(piped.status.success(), "{piped:?}");
    if let Ok(read) = Command::new("tcpdump").args(["-nr", &file]).output() {
        let text = String::from_utf8(read.stdout).unwrap();
        assert_eq!(text.matches("198.51.100.7.53 > 203.0.113.10.54: ").count(), 2, "{text} {:?}", read.stderr);
    }
    node.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_and_nodes_enrol_with_files() {
    let rig = Rig::start().await;
    let ctl = Ctl::admin(&rig);
    let file = ctl.home.join("alice.json").display().to_string();
    ctl.run(&["operator", "token", "alice", "--out", &file]).await.ends(0).says("good once").complains("--advertise");
    assert_eq!(mode(Path::new(&file)), 0o600);

    let home = rig.dir.path().join("alice");
    std::fs::create_dir_all(&home).unwrap();
    let alice = Ctl::bare(&home);
    alice.run(&["enrol", &file]).await.ends(0).says("operator alice of cluster default");
    assert_eq!(mode(&home.join(".config/marchproxy/operator.key")), 0o600);
    let document = alice.file("a.yaml", &yaml(1));
    alice.run(&["apply", "-f", &document]).await.ends(0);
    alice.run(&["history"]).await.ends(0).says("alice");
    alice.run(&["enrol", &file]).await.ends(1).complains("used before");
    ctl.run(&["operator", "list"]).await.ends(0).says("alice").says("valid");
    ctl.run(&["operator", "revoke", "alice"]).await.ends(0).says("revoked 1");
    alice.run(&["history"]).await.ends(1).complains("was revoked");
    ctl.run(&["operator", "revoke", "alice"]).await.ends(0).says("nothing to revoke");

    let advertise = ["node", "token", "edge-1", "--advertise", "https://control.example.net:18000"];
    let json = ctl.run(&advertise).await.ends(0).json();
    assert_eq!(
        (json["control"].as_str(), json["role"].as_str(), json["name"].as_str(), json["cluster"].as_str()),
        (Some("https://control.example.net:18000"), Some("node"), Some("edge-1"), Some("default"))
    );
    assert!(json["ca_pem"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    rig.redeem(json["token"].as_str().unwrap()).await.unwrap();
    ctl.run(&["node", "revoke", "edge-1", "--serial", "00"]).await.ends(1).complains("no certificate with serial 00");
    ctl.run(&["node", "revoke", "edge-1"]).await.ends(0).says("revoked 1");
    let node_file = ctl.file("node.json", &json.to_string());
    alice.run(&["enrol", &node_file]).await.ends(1).complains("enrols the node edge-1");
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_completions_need_nobody() {
    let home = tempfile::tempdir().unwrap();
    let ctl = Ctl::bare(home.path());
    ctl.run(&["--help"]).await.ends(0).says("Exit codes: 0 done, 1 refused, 2 not reachable, 3 partly");
    ctl.run(&["apply", "--help"]).await.ends(0).says("marchctl apply -f edge.yaml");
    ctl.run(&["--version"]).await.ends(0).says("marchctl");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        ctl.run(&["completions", shell]).await.ends(0).says("marchctl").says("rollback");
    }
    let config = ctl.file("bad.toml", "contrl = \"x\"\n");
    ctl.run_with(&["history"], &[("MARCHCTL_CONFIG", &config)]).await.ends(1).complains("contrl");
    ctl.run(&["history", "--control", "ftp://x"]).await.ends(1).complains("https://HOST:PORT");
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_is_asked_for_with_http() {
    let rig = Rig::with(|settings| settings.insecure = true).await;
    let home = rig.dir.path().join("nobody");
    std::fs::create_dir_all(&home).unwrap();
    let ctl = Ctl::bare(&home);
    let file = ctl.file("a.yaml", &yaml(1));
    ctl.run(&["apply", "-f", &file, "--control", &rig.url]).await.ends(0).says("version 1");
    ctl.run(&["history", "--control", &rig.url]).await.ends(0).says("insecure");
    let mut tls = Ctl::admin(&rig);
    tls.options[1] = rig.url.replace("http://", "https://");
    tls.run(&["history"]).await.ends(2).complains("http://");
}
