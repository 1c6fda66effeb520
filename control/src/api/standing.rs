//! What is kept of a cluster's newest version, so that a change of rules costs what it changes: what rules are judged and compiled by, the
//! groups of each node's tables, and what finds out how the engine's tables change. Whatever a [`Standing`] can't or won't decide (other
//! objects, anything wrong or remarkable, short lists) is left to the way that whole documents go; both lead to the
//! same version, hash and tables.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use marchproxy_engine::change::Changer;
use marchproxy_engine::tables::{RuleChanges, RuleTables};
use marchproxy_engine::{Budget, Snapshot};
use marchproxy_proto::tables::{EncodedGroup, RuleGroups, changed_rules, content_hash, holds_rules};
use marchproxy_proto::v1;

use super::dry_run::NodeTables;
use crate::compile;
use crate::model::{self, API_VERSION, Kind};
use crate::store::{NewRules, Stored};

/// A node's tables as the dry run built them.
#[derive(Debug)]
pub struct Built {
    /// What was compiled.
    pub tables: RuleTables,
    /// What the engine made of it.
    pub snapshot: Snapshot,
    /// How it travels.
    pub groups: Vec<EncodedGroup>,
}

/// The newest version of a cluster.
#[derive(Debug)]
pub struct Standing {
    /// Its number.
    pub version: u64,
    /// Its content hash.
    pub content_hash: String,
    /// What was said about it.
    pub warnings: Vec<v1::Warning>,
    context: model::RuleContext,
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    context: compile::RuleContext,
    /// Interfaces and policers.
    named: RuleTables,
    changer: Changer,
    before: Vec<EncodedGroup>,
    rules: RuleGroups,
    behind: Vec<EncodedGroup>,
}

/// A change that can be stored and published.
#[derive(Debug)]
pub struct Plan {
    /// What to store.
    pub rules: NewRules,
    /// What each node is to run then.
    pub nodes: BTreeMap<String, Arc<NodeTables>>,
}

impl Standing {
    /// Of a version whose document, in canonical order, led to these tables. `None` where whole documents are as good.
    pub fn new(
        document: &v1::Document,
        version: u64,
        content_hash: &str,
        built: BTreeMap<String, Built>,
    ) -> Option<Self> {
        if !worthwhile(document) || built.len() != document.nodes.len() {
            return None;
        }
        let (model, warnings, context) = model::validate_keeping(document).ok()?;
        // Their places in the document would change with it.
        if warnings.iter().any(|warning| warning.field.starts_with("rules[")) {
            return None;
        }
        let node = |(name, built): (String, Built)| {
            let context = compile::RuleContext::new(&model, &name)?;
            Some((name, Node::new(context, built)?))
        };
        let nodes = built.into_iter().map(node).collect::<Option<_>>()?;
        let warnings = warnings.into_iter().map(Into::into).collect();
        Some(Self { version, content_hash: content_hash.to_owned(), warnings, context, nodes })
    }

    /// The same from a stored version.
    pub fn of(stored: &Stored) -> Option<Self> {
        let checked = super::dry_run::dry_run(&stored.document).ok()?;
        Self::new(&stored.document, stored.version, &stored.content_hash, checked.built)
    }

    /// What these changes of the version's document lead to. `None`: they go the way of whole documents, and this is of no use any more.
    pub fn plan(&mut self, document: &v1::Document, changes: v1::Changes) -> Option<Plan> {
        let rules = only_rules(document, changes)?;
        let old = |name: &String| {
            let at = document.rules.binary_search_by(|rule| rule.name.cmp(name)).ok()?;
            Some(document.rules[at].clone())
        };
        let gone = rules.gone.iter().map(old).collect::<Option<Vec<_>>>()?;
        let replaced = rules.put.iter().filter_map(|rule| old(&rule.name));
        let before = self.context.rules(gone.into_iter().chain(replaced).collect())?;
        let after = self.context.rules(rules.put.clone())?;
        let mut nodes = BTreeMap::new();
        for (name, node) in &mut self.nodes {
            nodes.insert(name.clone(), Arc::new(node.change(&before, &after)?));
        }
        Some(Plan { rules, nodes })
    }
}

/// Rules of all nodes together that a [`Standing`] keeps at most: they take about half a kilobyte each.
const MOST: usize = 1 << 20;

/// Whether a document has so many rules that keeping a [`Standing`] pays, and not so many that it costs too much memory.
pub fn worthwhile(document: &v1::Document) -> bool {
    let (rules, nodes) = (document.rules.len(), document.nodes.len());
    rules >= marchproxy_engine::table::rules::LONG && rules.saturating_mul(nodes) <= MOST
}

/// The changes, if they are changes of rules and make sense.
fn only_rules(document: &v1::Document, changes: v1::Changes) -> Option<NewRules> {
    let upsert = changes.upsert.unwrap_or_default();
    let known = |field: &str, own: &str| field.is_empty() || field == own;
    let v1::Document { api_version, cluster, nodes, interfaces, routes, rules, services, policers, qos, dscp_maps } =
        upsert;
    let others =
        nodes.len() + interfaces.len() + routes.len() + services.len() + policers.len() + qos.len() + dscp_maps.len();
    if others > 0 || !known(&api_version, API_VERSION) || !known(&cluster, &document.cluster) {
        return None;
    }
    let mut names: HashSet<&str> = HashSet::new();
    let deleted = changes.delete.iter().map(|object| object.name.as_str());
    if !deleted.chain(rules.iter().map(|rule| rule.name.as_str())).all(|name| names.insert(name)) {
        return None;
    }
    if changes.delete.iter().any(|object| object.kind != Kind::Rule.as_str()) {
        return None;
    }
    Some(NewRules { put: rules, gone: changes.delete.into_iter().map(|object| object.name).collect() })
}

impl Node {
    fn new(context: compile::RuleContext, built: Built) -> Option<Self> {
        let Built { tables, snapshot, groups } = built;
        let changer = Changer::new(&tables, &snapshot, &Budget::default())?;
        let first = groups.iter().position(|group| holds_rules(&group.bytes))?;
        let (before, rest) = groups.split_at(first);
        let behind = rest.iter().skip_while(|group| holds_rules(&group.bytes)).cloned().collect();
        Some(Self {
            context,
            changer,
            before: before.to_vec(),
            rules: RuleGroups::of(rest).ok()?,
            behind,
            named: RuleTables { interfaces: tables.interfaces, policers: tables.policers, ..RuleTables::default() },
        })
    }

    fn change(&mut self, before: &[model::Rule], after: &[model::Rule]) -> Option<NodeTables> {
        let put: Vec<_> = after.iter().filter_map(|rule| self.context.rule(rule)).collect();
        let keys: BTreeSet<(u32, &str)> = put.iter().map(|rule| (rule.priority, rule.name.as_str())).collect();
        let here = before.iter().filter_map(|rule| self.context.rule(rule));
        let mut gone: Vec<_> = here.map(|rule| (rule.priority, rule.name)).collect();
        gone.retain(|(priority, name)| !keys.contains(&(*priority, name.as_str())));
        drop(keys);
        let changes = RuleChanges { gone, put };
        self.changer.change(&changes)?;
        let old: Vec<EncodedGroup> = self.rules.groups().cloned().collect();
        self.rules.change(&self.named, &changes).ok()?;
        self.arrives(&old, changes).then(|| self.tables())
    }

    /// Whether the node will find these changes in what it is sent.
    fn arrives(&self, old: &[EncodedGroup], mut sent: RuleChanges) -> bool {
        let new: Vec<EncodedGroup> = self.rules.groups().cloned().collect();
        let Some(Ok(mut found)) = changed_rules(&self.named, old, &new) else { return false };
        for changes in [&mut found, &mut sent] {
            changes.gone.sort();
            changes.put.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        }
        // What was put and is as it was does not travel.
        let mut sent_put = sent.put.iter();
        found.gone == sent.gone && found.put.iter().all(|rule| sent_put.any(|sent| sent == rule))
    }

    fn tables(&self) -> NodeTables {
        let groups: Vec<EncodedGroup> =
            self.before.iter().chain(self.rules.groups()).chain(&self.behind).cloned().collect();
        let content_hash = content_hash(groups.iter().map(|group| &group.hash)).to_vec();
        NodeTables { content_hash, groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dry_run;
    use crate::store::{Committed, NewVersion, Store};

    fn rule(name: usize, priority: u32, of: usize) -> v1::Rule {
        let text = format!(
            "{{rules: [{{name: r{name:05}, priority: {priority}, match: {{dst: 10.{}.{}.0/24, protocol: tcp, dst_ports: {}}}, action: {}}}]}}",
            of % 250,
            of / 250 % 250,
            80 + of % 7,
            if of.is_multiple_of(2) { "permit" } else { "deny" },
        );
        model::parse(&text).unwrap().rules.remove(0)
    }

    fn document() -> v1::Document {
        let head = "{api_version: marchproxy/v1, cluster: default, nodes: [{name: a, ports: [{name: p, device: 'vdev:a'}]}, \
                    {name: b, ports: [{name: p, device: 'vdev:b'}]}], interfaces: [{name: i-a, node: a, port: p, addresses: [192.0.2.1/24]}, \
                    {name: i-b, node: b, port: p, addresses: [192.0.2.2/24]}], \
                    routes: [{prefix: 0.0.0.0/0, via: [{next_hop: 192.0.2.9}]}, {prefix: 10.9.0.0/16, table: blue, reject: true}], \
                    policers: [{name: slow, kind: srtcm, cir_kbps: 1000, cbs_bytes: 3000}]}";
        let mut document = model::parse(head).unwrap();
        document.rules = (0..2100).map(|name| rule(name, name as u32 % 900, name)).collect();
        model::sort(&mut document);
        document
    }

    fn version<'a>(document: &'a v1::Document, request_id: &'a str) -> NewVersion<'a> {
        NewVersion { author: "t", request_id, ..NewVersion::new("default", document, 1) }
    }

    fn changes(put: Vec<v1::Rule>, gone: &[&str]) -> v1::Changes {
        let object = |name: &&str| v1::ObjectRef { kind: "rule".into(), name: (*name).into() };
        v1::Changes {
            upsert: Some(v1::Document { rules: put, ..v1::Document::default() }),
            delete: gone.iter().map(object).collect(),
        }
    }

    /// Whichever way a state was reached: the document read back, its hash, the rows, and every node's tables are the same.
    #[tokio::test]
    async fn a_change_leads_where_a_whole_document_leads() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("control.db").display());
        let store = Store::open(&url).await.unwrap();
        store.commit(version(&document(), "")).await.unwrap();
        let stored = store.current("default").await.unwrap().unwrap();
        let mut standing = Standing::of(&stored).unwrap();
        let mut limited = rule(7, 7, 2);
        limited.policer = "slow".into();
        let mut local = rule(8, 8, 4);
        local.r#match.as_mut().unwrap().r#in = "i-b".into();
        let steps = [
            changes(vec![rule(5, 5, 900)], &[]),
            changes(vec![rule(9000, 450, 41), rule(5, 77, 12), limited], &["r00011", "r02099"]),
            changes(vec![local], &[]),
            changes(vec![rule(8, 8, 5), rule(11, 3, 3)], &["r09000"]),
        ];
        for (number, step) in steps.into_iter().enumerate() {
            let base = (standing.version, standing.content_hash.clone());
            let before = store.newest("default", base.0, &base.1).unwrap();
            let merged = model::merge(&before, &step).unwrap();
            let plan = standing.plan(&before, step).unwrap();
            drop(before);
            let checked = dry_run(&merged).unwrap();
            assert_eq!(plan.nodes, checked.nodes, "step {number}");
            let request = format!("step {number}");
            let nothing = v1::Document::default();
            let committed =
                store.commit_rules(version(&nothing, &request), (base.0, &base.1), plan.rules.clone()).await.unwrap();
            let Some(Committed::New(row)) = committed else { panic!("step {number}: {committed:?}") };
            assert_eq!((row.version, &row.content_hash), (base.0 + 1, &checked.content_hash));
            assert_eq!(row.objects as usize, model::objects(&merged).len());
            let again = store.commit_rules(version(&nothing, &request), (base.0, &base.1), plan.rules).await.unwrap();
            assert_eq!(again, Some(Committed::Repeated { row: row.clone(), unchanged: false }));
            // From memory, and from the file by another who opens it.
            let mut expected = merged;
            model::sort(&mut expected);
            let other = Store::open(&url).await.unwrap();
            for store in [&store, &other] {
                let found = store.current("default").await.unwrap().unwrap();
                assert_eq!(
                    (found.version, found.document, found.content_hash),
                    (row.version, expected.clone(), row.content_hash.clone())
                );
            }
            (standing.version, standing.content_hash) = (row.version, row.content_hash);
        }
    }

    #[tokio::test]
    async fn what_is_no_plain_change_of_rules_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite://{}", directory.path().join("control.db").display())).await.unwrap();
        store.commit(version(&document(), "")).await.unwrap();
        let stored = store.current("default").await.unwrap().unwrap();
        let mut standing = Standing::of(&stored).unwrap();
        let mut wrong = rule(5, 5, 5);
        wrong.policer = "nobody".into();
        let mut remarkable = rule(5, 5, 4);
        (remarkable.action, remarkable.mark) = ("deny".into(), "EF".into());
        let other = v1::Changes { upsert: Some(model::parse("{policers: [{name: p}]}").unwrap()), delete: Vec::new() };
        let refused = [
            changes(vec![wrong], &[]),
            changes(vec![remarkable], &[]),
            changes(vec![rule(5, 5, 5)], &["r00005"]),
            changes(vec![], &["r09999"]),
            other,
        ];
        for changes in refused {
            assert!(standing.plan(&stored.document, changes.clone()).is_none(), "{changes:?}");
        }
        let mut few = document();
        few.rules.truncate(5);
        let checked = dry_run(&few).unwrap();
        assert!(Standing::new(&few, 1, "", checked.built).is_none());
        // Somebody else stored a version in between: nothing is written.
        let base = (standing.version + 1, standing.content_hash.as_str());
        let nothing = v1::Document::default();
        let committed = store.commit_rules(version(&nothing, ""), base, NewRules::default()).await.unwrap();
        assert_eq!((committed, store.history("default", 9).await.unwrap().len()), (None, 1));
    }
}
