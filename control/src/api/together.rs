//! Two phases for a group of nodes: all get ready, then the version is stored and all run it, or nothing is stored.
//!
//! The second phase is an ordinary offer: a node that is ready for its content runs it at once. So a node that misses the moment needs nothing of
//! its own: it keeps what it runs, and is offered the newest stored version as always.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marchproxy_proto::v1;
use tonic::{Code, Status};

use super::dry_run::NodeTables;
use super::errors;
use super::state::Control;

const WITHIN: u32 = 10;
const WITHIN_MAX: u32 = 300;

/// Makes the group ready and names it; an empty group where all need not change together.
pub async fn stage(
    control: &Control,
    cluster: &str,
    together: Option<&v1::Together>,
    tables: &BTreeMap<String, Arc<NodeTables>>,
) -> Result<Vec<String>, Status> {
    let Some(together) = together else { return Ok(Vec::new()) };
    let within = match together.stage_within_s {
        0 => WITHIN,
        within if within <= WITHIN_MAX => within,
        within => return Err(errors::bad_field("together.stage_within_s", within, "1 to 300, or 0 for 10")),
    };
    if let Some((at, name)) = together.nodes.iter().enumerate().find(|(_, name)| !tables.contains_key(*name)) {
        let known: Vec<&String> = tables.keys().collect();
        let allowed = format!("a node of the document: {known:?}");
        return Err(errors::bad_field(&format!("together.nodes[{at}]"), format!("{name:?}"), &allowed));
    }
    let all = together.nodes.is_empty();
    let group: BTreeMap<String, Arc<NodeTables>> = tables
        .iter()
        .filter(|(name, _)| all || together.nodes.contains(name))
        .map(|(name, tables)| (name.clone(), Arc::clone(tables)))
        .collect();
    let names: Vec<String> = group.keys().cloned().collect();
    let staged = control.hub.stage(cluster, group, Duration::from_secs(u64::from(within))).await;
    staged.map(|()| names).map_err(|missing| refused(&missing))
}

fn refused(missing: &BTreeMap<String, String>) -> Status {
    let each: Vec<String> = missing.iter().map(|(node, why)| format!("node {node}: {why}")).collect();
    let facts: Vec<(&str, String)> = missing.iter().map(|(node, why)| (node.as_str(), why.clone())).collect();
    let message = format!(
        "nothing was stored, every node runs what it ran: not all could get ready; {}. `marchctl node list` shows their state; without \
         --together the others get the version all the same",
        each.join("; ")
    );
    errors::status(Code::FailedPrecondition, "NOT_READY", message, &facts)
}
