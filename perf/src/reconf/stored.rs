//! A push as control carries it through: the change merged into the newest stored version, validated, compiled, dry-run and stored in a
//! SQLite file; then the node's part, from encoded groups to its tables. All of it is control's own code, called in the order of its
//! Apply; only the network between them is left out.

use std::time::{SystemTime, UNIX_EPOCH};

use marchproxy_control::api::{Checked, dry_run};
use marchproxy_control::model::{self, API_VERSION, DEFAULT_CLUSTER};
use marchproxy_control::store::{NewVersion, Store};
use marchproxy_engine::tables::{Cidr, PortRange, RouteAction, RuleAction, RuleSpec, RuleTables};
use marchproxy_proto::{tables, v1};

use super::source::{Source, change};
use crate::Error;

/// The node of the document.
const NODE: &str = "n1";

/// A store with the document in it.
pub struct Stored {
    runtime: tokio::runtime::Runtime,
    store: Store,
    rules: Vec<RuleSpec>,
    interfaces: Vec<String>,
    wish: v1::Changes,
    tables: RuleTables,
    round: usize,
    /// Holds the database.
    _directory: tempfile::TempDir,
}

impl Stored {
    /// A store whose first version says what `begin` says.
    pub fn new(begin: &RuleTables) -> Result<Self, Error> {
        let system = |what: &str| {
            let what = what.to_owned();
            move |source| Error::System { what, source }
        };
        let directory = tempfile::Builder::new().prefix("marchproxy-reconf-").tempdir();
        let directory = directory.map_err(system("a directory for the store"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(system("threads for the store"))?;
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        let store = runtime.block_on(Store::open(&url)).map_err(refused)?;
        let interfaces: Vec<_> = begin.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let mut stored = Self {
            runtime,
            store,
            rules: begin.rules.clone(),
            wish: v1::Changes { upsert: Some(document(begin, &interfaces)), delete: Vec::new() },
            interfaces,
            tables: RuleTables::default(),
            round: 0,
            _directory: directory,
        };
        // So that the first measured push changes what is asked for and nothing else.
        stored.apply()?;
        if stored.tables.rules != begin.rules || stored.tables.routes != begin.routes {
            return Err(Error::Harness("the document does not say what the tables say"));
        }
        Ok(stored)
    }

    async fn store(&self) -> Result<Checked, Error> {
        let newest = self.store.current(DEFAULT_CLUSTER).await.map_err(refused)?;
        let newest = newest.map_or_else(
            || v1::Document {
                api_version: API_VERSION.to_owned(),
                cluster: DEFAULT_CLUSTER.to_owned(),
                ..v1::Document::default()
            },
            |stored| stored.document,
        );
        let document = model::merge(&newest, &self.wish).map_err(|found| {
            refused(found.first().map_or_else(|| "nothing in particular".to_owned(), ToString::to_string))
        })?;
        let checked = dry_run(&document).map_err(|status| refused(status.message()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let version = NewVersion { author: "reconf", ..NewVersion::new(DEFAULT_CLUSTER, &document, now) };
        self.store.commit(version).await.map_err(refused)?;
        Ok(checked)
    }
}

impl Source for Stored {
    fn wish(&mut self, changed: usize) -> Result<(), Error> {
        let places = change(&mut self.rules, changed, self.round);
        self.round += 1;
        let rules = places.iter().map(|&place| rule(&self.rules[place], &self.interfaces)).collect();
        self.wish.upsert = Some(v1::Document { rules, ..v1::Document::default() });
        Ok(())
    }

    fn apply(&mut self) -> Result<&RuleTables, Error> {
        let checked = self.runtime.block_on(self.store())?;
        let node = checked.nodes.get(NODE).ok_or(Error::Harness("the document has a node"))?;
        self.tables = tables::decode(&node.groups).map_err(refused)?;
        Ok(&self.tables)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "passed to map_err by name")]
fn refused(why: impl ToString) -> Error {
    Error::Control(why.to_string())
}

/// The document that compiles to these tables. They have no services, one routing table, and interfaces without VLANs.
fn document(from: &RuleTables, interfaces: &[String]) -> v1::Document {
    let ports = from.ports.iter().enumerate().map(|(number, port)| v1::Port {
        name: port.name.clone(),
        // A device that a document may name; nobody opens it.
        device: format!("vdev:net_null{number}"),
        mtu: Some(u32::from(port.mtu)),
        ..v1::Port::default()
    });
    let interface = |spec: &marchproxy_engine::tables::InterfaceSpec| v1::Interface {
        name: spec.name.clone(),
        port: from.ports.get(spec.port).map(|port| port.name.clone()).unwrap_or_default(),
        addresses: texts(&spec.addresses),
        trust_dscp: Some(spec.trust_dscp),
        ..v1::Interface::default()
    };
    let route = |spec: &marchproxy_engine::tables::RouteSpec| {
        let via = match &spec.action {
            RouteAction::Via(hops) => hops
                .iter()
                .map(|hop| v1::NextHop { next_hop: hop.address.to_string(), weight: Some(u32::from(hop.weight)) })
                .collect(),
            RouteAction::Blackhole | RouteAction::Reject => Vec::new(),
        };
        v1::Route {
            prefix: spec.prefix.to_string(),
            blackhole: spec.action == RouteAction::Blackhole,
            reject: spec.action == RouteAction::Reject,
            via,
            ..v1::Route::default()
        }
    };
    v1::Document {
        api_version: API_VERSION.to_owned(),
        cluster: DEFAULT_CLUSTER.to_owned(),
        nodes: vec![v1::Node { name: NODE.to_owned(), ports: ports.collect(), ..v1::Node::default() }],
        interfaces: from.interfaces.iter().map(interface).collect(),
        routes: from.routes.iter().map(route).collect(),
        rules: from.rules.iter().map(|spec| rule(spec, interfaces)).collect(),
        ..v1::Document::default()
    }
}

fn rule(spec: &RuleSpec, interfaces: &[String]) -> v1::Rule {
    let matches = &spec.matches;
    let ports = |ranges: &[PortRange]| ranges.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    v1::Rule {
        name: spec.name.clone(),
        priority: spec.priority,
        r#match: Some(v1::Match {
            src: texts(&matches.src),
            dst: texts(&matches.dst),
            protocol: matches.protocol.map(|number| number.to_string()).unwrap_or_default(),
            src_ports: ports(&matches.src_ports),
            dst_ports: ports(&matches.dst_ports),
            r#in: matches.in_interface.and_then(|index| interfaces.get(index)).cloned().unwrap_or_default(),
            ..v1::Match::default()
        }),
        action: if spec.action == RuleAction::Permit { "permit" } else { "deny" }.to_owned(),
        mark: spec.mark.map(|mark| mark.to_string()).unwrap_or_default(),
        ..v1::Rule::default()
    }
}

fn texts(prefixes: &[Cidr]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}
