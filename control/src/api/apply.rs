//! The one way a document changes: check, store, publish, wait.

use std::sync::Arc;
use std::time::Instant;

use marchproxy_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status, Streaming};
use v1::apply_chunk::Content;

use super::auth::Caller;
use super::dry_run::Checked;
use super::meters::{ApplyResult, Meters};
use super::state::{Control, base, check, now, timestamp};
use super::{change_rules, confirm, errors, together};
use crate::model::{self, PortChange, PortRestart, Violation};
use crate::store::{Committed, Ending, NewVersion, VersionRow};

/// All chunks of one call together, encoded. A million rules take about 100 MB.
const CALL_OCTETS_MAX: usize = 256 << 20;

/// What is to become the document.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// This.
    Document(v1::Document),
    /// The stored one with these changes.
    Changes(v1::Changes),
    /// The content of an older version.
    Version(u64),
}

/// One change of a cluster's document.
#[derive(Clone, Debug)]
pub struct Change {
    /// The cluster.
    pub cluster: String,
    /// Who wants it.
    pub caller: Caller,
    /// What is wanted.
    pub wish: Wish,
    /// Refuse unless this is the stored version.
    pub expected_version: Option<u64>,
    /// A repeated id answers with the first call's version.
    pub request_id: String,
    /// For the history.
    pub message: String,
    /// Stop before storing.
    pub validate_only: bool,
    /// Ports may stop for a moment.
    pub allow_port_restart: bool,
    /// Reverted unless confirmed within so many seconds; 0 = needs no confirmation.
    pub confirm_within_s: u32,
    /// All of a group of nodes or none.
    pub together: Option<v1::Together>,
    /// When the call came.
    pub received: Instant,
}

/// Puts the chunks of one Apply together.
pub async fn collect(mut chunks: Streaming<v1::ApplyChunk>) -> Result<(v1::ApplyHeader, Option<Wish>), Status> {
    let mut header = None;
    let mut wish = None;
    let mut octets = 0;
    while let Some(chunk) = chunks.message().await? {
        octets += chunk.encoded_len();
        if octets > CALL_OCTETS_MAX {
            return Err(Status::resource_exhausted(format!(
                "one Apply may bring {CALL_OCTETS_MAX} octets; send the rest as changes"
            )));
        }
        match (header.is_some(), chunk.header) {
            (false, Some(first)) => header = Some(first),
            (true, None) => {}
            (false, None) => return Err(errors::bad_field("header", "none", "a header in the first chunk")),
            (true, Some(_)) => return Err(errors::bad_field("header", "a second one", "one, in the first chunk")),
        }
        if let Some(content) = chunk.content {
            append(&mut wish, content)?;
        }
    }
    let header = header.ok_or_else(|| errors::bad_field("header", "no chunk at all", "at least one chunk"))?;
    Ok((header, wish))
}

fn append(wish: &mut Option<Wish>, content: Content) -> Result<(), Status> {
    match (wish, content) {
        (empty @ None, Content::Document(document)) => *empty = Some(Wish::Document(document)),
        (empty @ None, Content::Changes(changes)) => *empty = Some(Wish::Changes(changes)),
        (Some(Wish::Document(whole)), Content::Document(more)) => extend(whole, more)?,
        (Some(Wish::Changes(whole)), Content::Changes(more)) => {
            whole.delete.extend(more.delete);
            match (&mut whole.upsert, more.upsert) {
                (Some(whole), Some(more)) => extend(whole, more)?,
                (empty @ None, more) => *empty = more,
                (Some(_), None) => {}
            }
        }
        _ => return Err(errors::bad_field("content", "document and changes", "chunks of one kind")),
    }
    Ok(())
}

fn extend(whole: &mut v1::Document, more: v1::Document) -> Result<(), Status> {
    for (field, whole, more) in
        [("api_version", &mut whole.api_version, more.api_version), ("cluster", &mut whole.cluster, more.cluster)]
    {
        if whole.is_empty() {
            *whole = more;
        } else if !more.is_empty() && *whole != more {
            return Err(errors::bad_field(field, format!("{more:?} after {whole:?}"), "the same in every chunk"));
        }
    }
    whole.nodes.extend(more.nodes);
    whole.interfaces.extend(more.interfaces);
    whole.routes.extend(more.routes);
    whole.rules.extend(more.rules);
    whole.services.extend(more.services);
    whole.policers.extend(more.policers);
    whole.qos.extend(more.qos);
    whole.dscp_maps.extend(more.dscp_maps);
    Ok(())
}

/// The cluster that header and document name together.
pub fn named_cluster<'a>(header: &'a str, document: Option<&'a v1::Document>) -> Result<&'a str, Status> {
    let inside = document.map_or("", |document| document.cluster.as_str());
    match (header, inside) {
        ("", inside) => Ok(inside),
        (header, "") => Ok(header),
        (header, inside) if header == inside => Ok(header),
        (header, inside) => {
            Err(errors::bad_field("cluster", format!("{inside:?}"), &format!("{header:?}, as the call says")))
        }
    }
}

/// Carries a change through. A caller that goes away in the middle changes nothing about it.
pub async fn apply(control: &Control, change: Change) -> Result<v1::ApplyResponse, Status> {
    let control = control.clone();
    let (cluster, validate_only) = (change.cluster.clone(), change.validate_only);
    let carried = async move {
        let done = carry_through(&control, change).await;
        count(&control.meters, &cluster, validate_only, &done);
        done
    };
    tokio::spawn(carried)
        .await
        .map_err(|_| Status::internal("applying ended unexpectedly; `marchctl history` shows whether it was stored"))?
}

fn count(meters: &Meters, cluster: &str, validate_only: bool, done: &Result<v1::ApplyResponse, Status>) {
    let result = match done {
        Err(_) => ApplyResult::Refused,
        Ok(_) if validate_only => ApplyResult::Validated,
        Ok(answer) if answer.unchanged => ApplyResult::Unchanged,
        Ok(_) => ApplyResult::Stored,
    };
    meters.applied(cluster, result);
    // A repeated call stores nothing, and says so.
    if let Ok(answer) = done
        && answer.store_us > 0
    {
        meters.store.observe(answer.store_us as f64 / 1e6);
        meters.settle.observe(answer.settle_us as f64 / 1e6);
    }
}

async fn carry_through(control: &Control, change: Change) -> Result<v1::ApplyResponse, Status> {
    let cluster = change.cluster.as_str();
    confirm::check_within(change.confirm_within_s)?;
    let fingerprint = fingerprint(&change);
    // So that a repeated or unchanged version finds its target. A stored document that can't be loaded must not keep its
    // successor out; `Control::poll` says why it can't.
    if let Err(why) = control.sync(cluster).await {
        tracing::debug!(cluster, why = why.message(), "applying without the stored version loaded");
    }
    let changing = control.changing(cluster);
    let held = changing.lock().await;
    if let Some((row, unchanged)) = repeated(control, &change, &fingerprint).await? {
        let attempt = control.hub.attempt(cluster);
        drop(held);
        let warnings = check(Arc::new(control.stored(cluster, row.version).await?.document)).await?.warnings;
        let answer = answer(control, cluster, row, attempt, change.received).await;
        return Ok(v1::ApplyResponse { unchanged, warnings, ..answer });
    }
    if let Some(change_rules::Published { row, warnings, attempt, at }) =
        change_rules::publish(control, &change, &fingerprint).await?
    {
        drop(held);
        tracing::info!(cluster, version = row.version, author = change.caller.author(), "stored");
        let answer = answer(control, cluster, row, attempt, at).await;
        return Ok(v1::ApplyResponse { warnings, store_us: micros(at - change.received), ..answer });
    }
    let ending = if matches!(change.wish, Wish::Version(_)) { Ending::Any } else { Ending::Nothing };
    let (document, rollback_of) = wished(control, cluster, change.wish).await?;
    let document = Arc::new(document);
    let checked = check(Arc::clone(&document)).await?;
    if !change.allow_port_restart {
        refuse_restarts(&base(control, cluster).await?, &document)?;
    }
    if change.validate_only {
        return validated(control, cluster, change.expected_version, checked).await;
    }
    let group = together::stage(control, cluster, change.together.as_ref(), &checked.nodes).await?;
    let committed = control
        .store
        .commit(NewVersion {
            cluster,
            expected_version: change.expected_version,
            document: &document,
            author: change.caller.author(),
            message: &change.message,
            rollback_of,
            request_id: &change.request_id,
            fingerprint: &fingerprint,
            confirm_within_s: change.confirm_within_s,
            ending,
            now: now(),
        })
        .await;
    // That it is stored is the decision: from here on every node is brought to it, whenever it is heard of. Else the group is told.
    if !matches!(committed, Ok(Committed::New(_))) {
        control.hub.unstage(cluster, group.iter());
    }
    let committed = committed.map_err(|e| errors::store(&e))?;
    let committed_at = Instant::now();
    let (row, unchanged, attempt) = match committed {
        Committed::New(row) => (row, false, None),
        Committed::Unchanged(row) => (row, true, None),
        Committed::Repeated { row, unchanged } => (row, unchanged, Some(control.hub.attempt(cluster))),
    };
    let until = row.confirmation.as_ref().filter(|_| row.waits()).map(confirm::until);
    // Unchanged: nodes that refused this version, or never settled, are offered it again.
    let repeated = attempt.is_some();
    let attempt = attempt.unwrap_or_else(|| control.hub.publish(cluster, row.version, checked.nodes, until));
    // What a repeated call led to need not be what was checked now.
    if !repeated {
        control.keep(cluster, (row.version, &row.content_hash), checked.built);
    }
    if let Some(until) = until.filter(|_| !unchanged) {
        confirm::arm(control, cluster, row.version, until);
    }
    drop(held);
    tracing::info!(cluster, version = row.version, author = change.caller.author(), unchanged, "stored");
    let store_us = micros(committed_at - change.received);
    let answer = answer(control, cluster, row, attempt, committed_at).await;
    Ok(v1::ApplyResponse { unchanged, warnings: checked.warnings, store_us, ..answer })
}

/// A change that stops a running port is a class of its own: it wants to be asked for.
fn refuse_restarts(before: &v1::Document, after: &v1::Document) -> Result<(), Status> {
    let found: Vec<Violation> = model::port_restarts(before, after).iter().filter_map(|r| restart(after, r)).collect();
    if found.is_empty() { Ok(()) } else { Err(errors::violations(&found)) }
}

fn restart(after: &v1::Document, restart: &PortRestart) -> Option<Violation> {
    let (field, found, running) = match &restart.change {
        PortChange::Added | PortChange::Removed => return None,
        PortChange::Device { before, after } => ("device", format!("{after:?}"), format!("{before:?}")),
        PortChange::Mtu { before, after } => ("mtu", after.to_string(), before.to_string()),
    };
    let node = after.nodes.iter().position(|node| node.name == restart.node)?;
    let port = after.nodes[node].ports.iter().position(|port| port.name == restart.port)?;
    Some(Violation {
        object: format!("node {}, port {}", restart.node, restart.port),
        field: format!("nodes[{node}].ports[{port}].{field}"),
        found,
        allowed: format!("{running}, which runs; the change stops the port and needs --allow-port-restart"),
    })
}

/// Waits for the nodes and says what became of the version.
async fn answer(control: &Control, cluster: &str, row: VersionRow, attempt: u64, since: Instant) -> v1::ApplyResponse {
    let nodes = control.hub.settled(cluster, attempt).await;
    let confirm_by = row.confirmation.as_ref().filter(|_| row.waits()).map(|waits| timestamp(waits.deadline));
    v1::ApplyResponse {
        confirm_by,
        version: row.version,
        content_hash: row.content_hash,
        nodes,
        settle_us: micros(since.elapsed()),
        ..v1::ApplyResponse::default()
    }
}

/// What the request id led to before, if it did, and whether that changed nothing. Looked at first, because the repeated change need not make
/// sense any more: what it deleted is gone.
async fn repeated(control: &Control, change: &Change, fingerprint: &str) -> Result<Option<(VersionRow, bool)>, Status> {
    if change.request_id.is_empty() || change.validate_only {
        return Ok(None);
    }
    let nothing = v1::Document::default();
    let asked =
        NewVersion { request_id: &change.request_id, fingerprint, ..NewVersion::new(&change.cluster, &nothing, now()) };
    match control.store.repeated(&asked).await {
        Ok(Some(Committed::Repeated { row, unchanged })) => Ok(Some((row, unchanged))),
        Ok(_) => Ok(None),
        Err(why) => Err(errors::store(&why)),
    }
}

/// What a request asks for, so that its id stands for nothing else. Documents by their content, not by the order of their objects.
fn fingerprint(change: &Change) -> String {
    if change.request_id.is_empty() {
        return String::new();
    }
    match &change.wish {
        Wish::Document(document) => format!("document {}", model::content_hash(document)),
        Wish::Changes(changes) => format!("changes {}", model::hex(&Sha256::digest(changes.encode_to_vec()))),
        Wish::Version(version) => format!("version {version}"),
    }
}

async fn wished(control: &Control, cluster: &str, wish: Wish) -> Result<(v1::Document, u64), Status> {
    match wish {
        Wish::Document(mut document) => {
            cluster.clone_into(&mut document.cluster);
            Ok((document, 0))
        }
        Wish::Changes(changes) => {
            let current = base(control, cluster).await?;
            let merged = model::merge(&current, &changes).map_err(|found| errors::violations(&found))?;
            Ok((merged, 0))
        }
        Wish::Version(version) => Ok((control.stored(cluster, version).await?.document, version)),
    }
}

async fn validated(
    control: &Control,
    cluster: &str,
    expected: Option<u64>,
    checked: Checked,
) -> Result<v1::ApplyResponse, Status> {
    let newest = control.store.history(cluster, 1).await.map_err(|e| errors::store(&e))?;
    let (version, hash) = newest.first().map_or((0, ""), |row| (row.version, row.content_hash.as_str()));
    if let Some(expected) = expected.filter(|expected| *expected != version) {
        return Err(errors::status(
            Code::Aborted,
            "VERSION_CONFLICT",
            format!("expected version {expected}, found version {version}; look at `marchctl diff` and apply again"),
            &[("expected", expected.to_string()), ("found", version.to_string())],
        ));
    }
    let unchanged = hash == checked.content_hash;
    Ok(v1::ApplyResponse {
        version,
        unchanged,
        content_hash: checked.content_hash,
        warnings: checked.warnings,
        ..v1::ApplyResponse::default()
    })
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
