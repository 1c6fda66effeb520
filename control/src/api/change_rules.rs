//! Changes of rules of a long list, stored and published for the price of the change. Whatever a [`Standing`](super::Standing) leaves alone goes the
//! way of whole documents, and so does what transactions have a say about before anything is made: while a version waits for confirmation, or where
//! another version was expected.

use std::time::Instant;

use marchproxy_proto::v1;
use tonic::Status;

use super::apply::{Change, Wish};
use super::state::{Control, now};
use super::{confirm, errors, together};
use crate::store::{Committed, NewVersion, VersionRow};

/// A change that was stored and is on its way to the nodes.
#[derive(Debug)]
pub struct Published {
    /// The version.
    pub row: VersionRow,
    /// What was said about its document.
    pub warnings: Vec<v1::Warning>,
    /// By which its nodes are waited for.
    pub attempt: u64,
    /// When it was stored.
    pub at: Instant,
}

/// Called under the lock under which the cluster's document changes. `None`: nothing was done.
pub async fn publish(control: &Control, change: &Change, fingerprint: &str) -> Result<Option<Published>, Status> {
    let Wish::Changes(changes) = &change.wish else { return Ok(None) };
    if change.validate_only {
        return Ok(None);
    }
    let cluster = change.cluster.as_str();
    let mut kept = control.standing(cluster).await;
    let Some(standing) = kept.as_ref() else { return Ok(None) };
    // Looked at before anything is planned, so that the standing outlives what is refused; the store looks again.
    let expected = change.expected_version.is_none_or(|expected| expected == standing.version);
    if !expected || control.hub.waiting(cluster).is_some() {
        return Ok(None);
    }
    let Some(mut standing) = kept.take() else { return Ok(None) };
    let Some(document) = control.store.newest(cluster, standing.version, &standing.content_hash) else {
        return Ok(None);
    };
    let changes = changes.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let plan = standing.plan(&document, changes)?;
        // Nobody else may hold it when it is changed.
        drop(document);
        Some((standing, plan))
    });
    let planned = planned.await.map_err(|_| Status::internal("the change ended unexpectedly; please report it"))?;
    let Some((mut standing, plan)) = planned else { return Ok(None) };
    let group = together::stage(control, cluster, change.together.as_ref(), &plan.nodes).await?;
    let nothing = v1::Document::default();
    let version = NewVersion {
        expected_version: change.expected_version,
        author: change.caller.author(),
        message: &change.message,
        request_id: &change.request_id,
        fingerprint,
        confirm_within_s: change.confirm_within_s,
        ..NewVersion::new(cluster, &nothing, now())
    };
    let base = (standing.version, standing.content_hash.as_str());
    let committed = control.store.commit_rules(version, base, plan.rules).await;
    // As for whole documents: stored is decided, else the group is told.
    if !matches!(committed, Ok(Some(Committed::New(_)))) {
        control.hub.unstage(cluster, group.iter());
    }
    let Some(Committed::New(row)) = committed.map_err(|e| errors::store(&e))? else { return Ok(None) };
    let at = Instant::now();
    let until = row.confirmation.as_ref().map(confirm::until);
    let attempt = control.hub.publish(cluster, row.version, plan.nodes, until);
    if let Some(until) = until {
        confirm::arm(control, cluster, row.version, until);
    }
    (standing.version, standing.content_hash) = (row.version, row.content_hash.clone());
    let warnings = standing.warnings.clone();
    *kept = Some(standing);
    Ok(Some(Published { row, warnings, attempt, at }))
}
