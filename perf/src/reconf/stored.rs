//! A push as control carries it through: the change merged into the newest stored version, validated, compiled, dry-run and stored in a
//! SQLite file; then the node's part, from encoded groups to its tables. All of it is control's own code, called in the order of its
//! Apply; only the network between them is left out.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use marchproxy_control::api::{Checked, NodeTables, Standing, dry_run};
use marchproxy_control::model::{self, API_VERSION, DEFAULT_CLUSTER};
use marchproxy_control::store::{Committed, NewVersion, Store};
use marchproxy_engine::tables::{Cidr, PortRange, RouteAction, RuleAction, RuleSpec, RuleTables};
use marchproxy_proto::{tables, v1};

use super::source::{Format, Pushed, Source, Stages, Wish, change, timed};
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
    /// The document as text, where it is pushed as a whole.
    text: Option<String>,
    /// What control keeps of the newest version, ready before the clock starts.
    standing: Option<Standing>,
    /// What the node has.
    groups: Vec<tables::EncodedGroup>,
    named: RuleTables,
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
            text: None,
            standing: None,
            groups: Vec::new(),
            named: RuleTables::default(),
            round: 0,
            _directory: directory,
        };
        // So that the first measured push changes what is asked for and nothing else.
        stored.apply(&mut Stages::new())?;
        let tables = stored.tables()?;
        if tables.rules != begin.rules || tables.routes != begin.routes {
            return Err(Error::Harness("the document does not say what the tables say"));
        }
        Ok(stored)
    }

    /// As Apply does it where only rules change; `None` when it goes the other way.
    fn change(&mut self, stages: &mut Stages) -> Result<Option<Arc<NodeTables>>, Error> {
        let Some(mut standing) = self.standing.take() else { return Ok(None) };
        let newest = self.store.newest(DEFAULT_CLUSTER, standing.version, &standing.content_hash);
        let Some(document) = newest else { return Ok(None) };
        let plan = timed(stages, "plan", || standing.plan(&document, self.wish.clone()));
        drop(document);
        let Some(plan) = plan else { return Ok(None) };
        let (nothing, base) = (v1::Document::default(), (standing.version, standing.content_hash.clone()));
        let commit = self.store.commit_rules(version(&nothing), (base.0, &base.1), plan.rules);
        let committed = timed(stages, "store", || self.runtime.block_on(commit)).map_err(refused)?;
        let Some(Committed::New(row)) = committed else { return Ok(None) };
        (standing.version, standing.content_hash) = (row.version, row.content_hash);
        self.standing = Some(standing);
        Ok(plan.nodes.get(NODE).cloned())
    }

    /// As Apply does it with whole documents.
    fn whole(&mut self, stages: &mut Stages) -> Result<Arc<NodeTables>, Error> {
        let checked = timed(stages, "whole", || self.runtime.block_on(self.store()))?;
        checked.nodes.get(NODE).cloned().ok_or(Error::Harness("the document has a node"))
    }

    /// As marchctl and Apply do it with the text of a document.
    fn text(&mut self, text: &str, stages: &mut Stages) -> Result<Arc<NodeTables>, Error> {
        let document = timed(stages, "parse", || model::parse(text)).map_err(refused)?;
        let checked = timed(stages, "check", || dry_run(&document)).map_err(|status| refused(status.message()))?;
        let commit = self.store.commit(version(&document));
        timed(stages, "store", || self.runtime.block_on(commit)).map_err(refused)?;
        checked.nodes.get(NODE).cloned().ok_or(Error::Harness("the document has a node"))
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
        self.store.commit(version(&document)).await.map_err(refused)?;
        Ok(checked)
    }
}

fn version(document: &v1::Document) -> NewVersion<'_> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
    NewVersion { author: "reconf", ..NewVersion::new(DEFAULT_CLUSTER, document, now) }
}

impl Source for Stored {
    fn wish(&mut self, wish: Wish) -> Result<(), Error> {
        let changed = if let Wish::Rules(changed) = wish { changed } else { self.rules.len() };
        let places = change(&mut self.rules, changed, self.round);
        self.round += 1;
        let rules = places.iter().map(|&place| rule(&self.rules[place], &self.interfaces)).collect();
        let upsert = v1::Document { rules, ..v1::Document::default() };
        self.wish = v1::Changes { upsert: Some(upsert), delete: Vec::new() };
        let stored = || self.runtime.block_on(self.store.current(DEFAULT_CLUSTER)).map_err(refused);
        match wish {
            Wish::Rules(_) if self.standing.is_none() => {
                self.standing = stored()?.and_then(|stored| Standing::of(&stored));
            }
            Wish::Rules(_) => {}
            Wish::Document(format) => {
                let newest = stored()?.ok_or(Error::Harness("the store has a version"))?.document;
                let merged = model::merge(&newest, &self.wish).map_err(|_| Error::Harness("rules replace rules"))?;
                let text = match format {
                    Format::Yaml => model::to_yaml(&merged),
                    Format::Json => model::to_json(&merged),
                };
                self.text = Some(text.map_err(refused)?);
                self.standing = None;
            }
        }
        Ok(())
    }

    fn apply(&mut self, stages: &mut Stages) -> Result<Pushed, Error> {
        if let Some(text) = self.text.take() {
            let node = self.text(&text, stages)?;
            self.groups.clone_from(&node.groups);
            return Ok(Pushed::Whole);
        }
        let node = match self.change(stages)? {
            Some(node) => node,
            None => self.whole(stages)?,
        };
        let before = std::mem::replace(&mut self.groups, node.groups.clone());
        let changed = timed(stages, "node", || tables::changed_rules(&self.named, &before, &self.groups));
        match changed {
            Some(changes) => Ok(Pushed::Rules(changes.map_err(refused)?)),
            None => Ok(Pushed::Whole),
        }
    }

    fn tables(&mut self) -> Result<RuleTables, Error> {
        let tables = tables::decode(&self.groups).map_err(refused)?;
        self.named = RuleTables {
            interfaces: tables.interfaces.clone(),
            policers: tables.policers.clone(),
            ..RuleTables::default()
        };
        Ok(tables)
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
