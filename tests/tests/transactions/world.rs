//! A control and nodes in this process, each in a runtime of its own, so that either can be killed like a process; and the wires between.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use marchproxy_control::api::{Control, Listener, Settings as ControlSettings, serve};
use marchproxy_dataplane::agent::{Agent, SharedState};
use marchproxy_dataplane::config::{Config, File, HugepageMode, Idle, Overrides};
use marchproxy_dataplane::driver::{Device, Driver, OpenPort, Opened, PortHealth};
use marchproxy_dataplane::last_good::Store;
use marchproxy_dataplane::local::Operate;
use marchproxy_dataplane::node::{Node, Place, Settings};
use marchproxy_dataplane::runtime::Runtime;
use marchproxy_dataplane::topology::WorkerCore;
use marchproxy_engine::Budget;
use marchproxy_engine::io::Mac;
use marchproxy_engine::memory::{Memory, MemoryPool, Wire};
use marchproxy_engine::tables::PortSpec;
use marchproxy_proto::v1;
use marchproxy_proto::v1::config_service_client::ConfigServiceClient;
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Nothing here takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const OURS: Mac = [2, 0, 0, 0, 0, 1];

/// Looks again and again until it is so.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A control over a state directory of its own.
pub struct ControlRig {
    _dir: TempDir,
    pub address: SocketAddr,
    pub settings: ControlSettings,
    running: Option<(tokio::runtime::Runtime, oneshot::Sender<()>)>,
    /// For the test's own calls; outlives every control.
    client: tokio::runtime::Runtime,
}

impl ControlRig {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = ControlSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            state_dir: dir.path().join("state"),
            insecure: true,
            settle_timeout_s: 20,
            ..ControlSettings::default()
        };
        let address = settings.listen;
        let mut rig = Self { _dir: dir, address, settings, running: None, client: runtime() };
        rig.resume();
        rig
    }

    /// Starts over the state there is, at the address there was.
    pub fn resume(&mut self) {
        let runtime = runtime();
        let settings = self.settings.clone();
        let (address, stop) = runtime.block_on(async move {
            let control = Control::open(settings.clone()).await.unwrap();
            let listener = Listener::bind(settings.listen).unwrap();
            let address = listener.address();
            let (stop, stopped) = oneshot::channel::<()>();
            tokio::spawn(async move {
                let _ = serve(control, listener, async {
                    let _ = stopped.await;
                })
                .await;
            });
            (address, stop)
        });
        self.address = address;
        self.settings.listen = address;
        self.running = Some((runtime, stop));
    }

    /// As `kill -9` does: no word to anybody.
    pub fn kill(&mut self) {
        let (runtime, stop) = self.running.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
        drop(stop);
    }

    pub fn database(&self) -> PathBuf {
        self.settings.state_dir.join("control.db")
    }

    /// Waits for something of the client's.
    pub fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.client.block_on(async { tokio::time::timeout(PATIENCE, call).await.expect("an answer in time") })
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.map_err(|why| Status::unavailable(why.to_string()))
    }

    pub fn config<T>(
        &self,
        call: impl AsyncFnOnce(ConfigServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        self.wait(async {
            call(ConfigServiceClient::new(self.channel().await?)).await.map(tonic::Response::into_inner)
        })
    }

    pub fn operate<T>(
        &self,
        call: impl AsyncFnOnce(OperateServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        self.wait(async {
            call(OperateServiceClient::new(self.channel().await?)).await.map(tonic::Response::into_inner)
        })
    }

    pub fn apply_with(&self, header: v1::ApplyHeader, document: v1::Document) -> Result<v1::ApplyResponse, Status> {
        let content = Some(v1::apply_chunk::Content::Document(document));
        let chunk = v1::ApplyChunk { header: Some(header), content };
        self.config(async |mut config| config.apply(tokio_stream::iter(vec![chunk])).await)
    }

    pub fn apply(&self, document: v1::Document) -> Result<v1::ApplyResponse, Status> {
        self.apply_with(v1::ApplyHeader::default(), document)
    }

    pub fn history(&self) -> Result<Vec<v1::VersionInfo>, Status> {
        self.config(async |mut config| config.history(v1::HistoryRequest::default()).await)
            .map(|answer| answer.versions)
    }

    pub fn nodes(&self) -> Result<Vec<v1::NodeInfo>, Status> {
        self.operate(async |mut operate| operate.nodes(v1::NodesRequest::default()).await).map(|answer| answer.nodes)
    }

    /// Waits until the node runs this version, as control sees it.
    pub fn until_version(&self, node: &str, version: u64) {
        eventually(&format!("{node} runs version {version}"), || {
            let nodes = self.nodes().ok()?;
            nodes.iter().any(|found| found.name == node && found.connected && found.version == version).then_some(())
        });
    }
}

impl Drop for ControlRig {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// The wires of a node's devices; ports come and go, what is on them is the node's.
#[derive(Default)]
pub struct World {
    pub wires: Mutex<BTreeMap<String, Wire>>,
    /// Ports of these names fail to open.
    pub broken: Mutex<Vec<String>>,
}

pub struct Wires(Arc<World>);

pub struct WirePort;

impl OpenPort for WirePort {
    fn mac(&self) -> Mac {
        OURS
    }
    fn health(&self) -> PortHealth {
        PortHealth { link_up: true, ..PortHealth::default() }
    }
}

impl Driver for Wires {
    type Backend = Memory;
    type Port = WirePort;
    type Guard = ();

    fn name(&self) -> &'static str {
        "wires"
    }
    fn enter_thread(&self) -> Result<(), String> {
        Ok(())
    }
    fn pool(&self) -> Result<MemoryPool, String> {
        Ok(MemoryPool)
    }
    fn open(&self, spec: &PortSpec, _: &Device, queues: u16) -> Result<Opened<Self>, String> {
        assert_eq!(queues, 1);
        if self.0.broken.lock().unwrap().contains(&spec.name) {
            return Err(format!("port {}: its driver failed", spec.name));
        }
        let (wire, rx, tx) = Wire::new(4096);
        self.0.wires.lock().unwrap().insert(spec.name.clone(), wire);
        Ok(Opened { port: WirePort, queues: vec![(rx, tx)] })
    }
}

/// A node: all its threads on the memory backend, and its agent.
pub struct NodeRig {
    pub name: String,
    pub dir: TempDir,
    pub control: SocketAddr,
    pub world: Arc<World>,
    pub state: SharedState,
    pub budget: Budget,
    running: Option<Running>,
}

struct Running {
    node: Arc<Node<Wires>>,
    agent: tokio::runtime::Runtime,
    stop: watch::Sender<bool>,
}

impl NodeRig {
    pub fn start(name: &str, control: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (world, state) = Default::default();
        let budget = Budget { counters: 1024, policers: 64, ..Budget::default() };
        let mut rig = Self { name: name.into(), dir, control, world, state, budget, running: None };
        rig.resume();
        rig
    }

    /// Starts as a process would: with what is on disk.
    pub fn resume(&mut self) {
        let cores = marchproxy_cpu::current_affinity().unwrap();
        let settings = Settings {
            cores: vec![WorkerCore { cpu: cores[0], socket: 0, node: None }],
            place: Place::default(),
            sessions: 1024,
            hugepages: HugepageMode::Off,
            idle: Idle::Sleep,
            budget: self.budget,
        };
        self.state = SharedState::default();
        let node = Arc::new(Node::start(Wires(self.world.clone()), &settings).unwrap());
        let config = config(self.dir.path(), &self.name, self.control);
        let agent = runtime();
        let runtime: Arc<dyn Runtime> = node.clone();
        let operate = Operate::new(&config.node, runtime.clone());
        let last_good = self.store().load().unwrap();
        let (stop, stopping) = watch::channel(false);
        agent.spawn(Agent::new(Arc::new(config), runtime, operate, self.state.clone()).run(last_good, stopping));
        self.running = Some(Running { node, agent, stop });
    }

    /// The tables on disk.
    pub fn store(&self) -> Store {
        Store::new(self.dir.path(), "default", &self.name)
    }

    pub fn node(&self) -> &Node<Wires> {
        &self.running.as_ref().unwrap().node
    }

    pub fn until_running(&self, version: u64) {
        eventually(&format!("{} runs version {version}, state {:?}", self.name, self.state.read()), || {
            let running = self.node().running();
            (running.version == version && running.settled).then_some(())
        });
    }

    /// Ends the agent without a word, then the threads; what they counted must add up.
    pub fn kill(&mut self) {
        let Running { node, agent, stop } = self.running.take().unwrap();
        agent.shutdown_timeout(Duration::from_secs(5));
        drop(stop);
        let terms = node.stop();
        assert_eq!((terms.residue, terms.held), (0, 0), "{}: {terms:?}", self.name);
    }
}

impl Drop for NodeRig {
    fn drop(&mut self) {
        if self.running.is_some() && !std::thread::panicking() {
            self.kill();
        }
    }
}

fn config(dir: &Path, node: &str, control: SocketAddr) -> Config {
    let overrides = Overrides {
        node: Some(node.into()),
        control: Some(control.to_string()),
        enrolment: Some(dir.join("enrolment.json")),
        state_dir: Some(dir.into()),
        socket: Some(dir.join("node.sock")),
        metrics: Some("127.0.0.1:0".into()),
        insecure: true,
        ..Overrides::default()
    };
    Config::resolve("test", File::default(), &overrides).unwrap()
}

/// A document of these nodes. Each sends everything from `in` out of `a` marked AF11, or out of `b` marked AF22; `seed` makes versions differ.
pub fn document(nodes: &[&str], to_b: bool, seed: u32) -> v1::Document {
    let port = |name: &str, n: u32| format!("{{name: {name}, device: \"vdev:net_null{n}\"}}");
    let ports = [port("a", 0), port("b", 1), port("in", 2)].join(", ");
    let each = |line: &dyn Fn(&str) -> String| nodes.iter().map(|node| line(node)).collect::<Vec<_>>().concat();
    let named = each(&|node| format!("  - {{name: {node}, ports: [{ports}]}}\n"));
    let interfaces = each(&|node| {
        let of = |(port, net): (&str, u8)| {
            format!("  - {{name: {port}-{node}, node: {node}, port: {port}, addresses: [198.18.{net}.1/24]}}\n")
        };
        [("a", 1), ("b", 2), ("in", 3)].map(of).concat()
    });
    let (net, mark) = if to_b { (2, "AF22") } else { (1, "AF11") };
    let first = 1 + seed;
    let text = format!(
        "api_version: marchproxy/v1\nnodes:\n{named}interfaces:\n{interfaces}\
         routes:\n  - {{prefix: 0.0.0.0/0, via: [{{next_hop: 198.18.{net}.2}}]}}\n\
         rules:\n  - {{name: spare, priority: {first}, match: {{src: [203.0.113.1/32]}}, action: deny}}\n\
         \x20 - {{name: all, priority: 100000, match: {{}}, action: permit, mark: {mark}}}\n"
    );
    marchproxy_control::model::parse(&text).unwrap()
}
