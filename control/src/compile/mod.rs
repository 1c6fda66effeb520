//! A validated document becomes one node's tables: names become indices, defaults values, lists canonical.
//!
//! What a node gets:
//! - its own ports and interfaces;
//! - the routes for it: those that name it, and those that name no node and are either `blackhole`, `reject`, or have a next hop in one
//!   of its connected prefixes (of the next hops, the ones it is connected to);
//! - all rules but those for packets received on another node's interface, or sent to a next hop that it is not connected to;
//! - all services, without backends that are `down`; a service without any keeps its addresses, and its packets are counted as
//!   `no_backend`;
//! - all policers.
//!
//! Tables have numbers: main is 0, the others count from 1 in order of their names, over the whole document, so a table has the
//! same number on every node.

mod tables;

use std::collections::{BTreeSet, HashMap};

use marchproxy_engine::tables::{RuleSpec, RuleTables};

use crate::model::{MAIN_TABLE, Model, Rule};

/// The tables of the node with this name. A node that the document does not know gets empty ones: it drops everything.
pub fn compile(model: &Model, node_name: &str) -> RuleTables {
    match model.nodes.iter().position(|node| node.name == node_name) {
        Some(node) => tables::compile(model, node, &table_ids(model)),
        None => RuleTables::default(),
    }
}

/// What decides about a rule's form on a node, kept to compile others by.
#[derive(Debug)]
pub struct RuleContext {
    here: tables::Here,
    table_ids: HashMap<String, u32>,
}

impl RuleContext {
    /// Of this node, one of the model's.
    pub fn new(model: &Model, node_name: &str) -> Option<Self> {
        let node = model.nodes.iter().position(|node| node.name == node_name)?;
        let table_ids: HashMap<String, u32> =
            table_ids(model).into_iter().map(|(name, number)| (name.to_owned(), number)).collect();
        let here = tables::Here::new(model, node, |name| table_ids.get(name).copied().unwrap_or_default());
        Some(Self { here, table_ids })
    }

    /// The rule as the node has it, if it has it.
    pub(crate) fn rule(&self, rule: &Rule) -> Option<RuleSpec> {
        self.here.rule(rule, |name| self.table_ids.get(name).copied().unwrap_or_default())
    }
}

/// Numbers of the routing tables.
fn table_ids(model: &Model) -> HashMap<&str, u32> {
    let interfaces = model.interfaces.iter().map(|interface| interface.table.as_str());
    let routes = model.routes.iter().map(|route| route.table.as_str());
    let others: BTreeSet<&str> = interfaces.chain(routes).filter(|table| *table != MAIN_TABLE).collect();
    std::iter::once(MAIN_TABLE).chain(others).zip(0..).collect()
}

#[cfg(test)]
mod tests;
