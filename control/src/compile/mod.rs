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

use marchproxy_engine::tables::RuleTables;

use crate::model::{MAIN_TABLE, Model};

/// The tables of the node with this name. A node that the document does not know gets empty ones: it drops everything.
pub fn compile(model: &Model, node_name: &str) -> RuleTables {
    match model.nodes.iter().position(|node| node.name == node_name) {
        Some(node) => tables::compile(model, node, &table_ids(model)),
        None => RuleTables::default(),
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
