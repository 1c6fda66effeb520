//! What must succeed before a document is stored: validation, and for each node the whole way to its tables and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use marchproxy_engine::Budget;
use marchproxy_engine::tables::RuleTables;
use marchproxy_proto::{tables, v1};
use tonic::Status;

use super::errors;
use super::standing::{Built, worthwhile};
use crate::{compile, model};

/// One node's tables as they travel.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTables {
    /// SHA-256 over the groups' hashes in order.
    pub content_hash: Vec<u8>,
    /// Canonical groups.
    pub groups: Vec<tables::EncodedGroup>,
}

impl NodeTables {
    /// The groups by hash, as an offer names them.
    pub fn references(&self) -> Vec<v1::GroupRef> {
        self.groups.iter().map(|group| v1::GroupRef { hash: group.hash.to_vec(), objects: group.objects }).collect()
    }

    /// Octets of all groups.
    pub fn octets(&self) -> usize {
        self.groups.iter().map(|group| group.bytes.len()).sum()
    }
}

/// A document that passed.
#[derive(Debug)]
pub struct Checked {
    /// What is accepted but not enforced.
    pub warnings: Vec<v1::Warning>,
    /// The document's content hash, hexadecimal.
    pub content_hash: String,
    /// What each node of the document would run.
    pub nodes: BTreeMap<String, Arc<NodeTables>>,
    /// The same as built, where rules are many.
    pub built: BTreeMap<String, Built>,
}

/// Checks a document as storing it would need; takes time in proportion to its size, so call it off the async threads.
pub fn dry_run(document: &v1::Document) -> Result<Checked, Status> {
    let (model, warnings) = model::validate(document).map_err(|found| errors::violations(&found))?;
    let (mut nodes, mut built) = (BTreeMap::new(), BTreeMap::new());
    for node in &document.nodes {
        let compiled = compile::compile(&model, &node.name);
        let of_node = build(compiled).map_err(|why| errors::build_refused(&node.name, &why))?;
        let content_hash = tables::content_hash(of_node.groups.iter().map(|group| &group.hash)).to_vec();
        nodes.insert(node.name.clone(), Arc::new(NodeTables { content_hash, groups: of_node.groups.clone() }));
        if worthwhile(document) {
            built.insert(node.name.clone(), of_node);
        }
    }
    let warnings = warnings.into_iter().map(Into::into).collect();
    Ok(Checked { warnings, content_hash: model::content_hash(document), nodes, built })
}

/// What happens on the way to the node and there: encode, decode, find the tables that were compiled, and build them. (A node with its
/// own budget, or more than one worker, may still refuse them, and says so in its answer.)
fn build(compiled: RuleTables) -> Result<Built, String> {
    let groups = tables::encode(&compiled).map_err(|why| why.to_string())?;
    let arrived = groups
        .iter()
        .map(|group| tables::EncodedGroup::decode(&group.hash, &group.bytes))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|groups| tables::from_groups(&groups))
        .map_err(|why| why.to_string())?;
    if arrived != compiled {
        return Err("the tables do not survive their own encoding; please report this document".to_owned());
    }
    let snapshot = marchproxy_engine::build(&compiled, None, &Budget::default()).map_err(|why| why.to_string())?;
    Ok(Built { tables: compiled, snapshot, groups })
}
