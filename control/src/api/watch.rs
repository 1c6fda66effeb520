//! Watch: versions as they are stored. The database is the log, so a watcher that comes back misses none.

use std::pin::Pin;

use marchproxy_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::errors;
use super::state::{Control, version_info};
use crate::store::VersionRow;

/// Events that may wait for a slow watcher; the rest wait in the database.
const WAITING: usize = 16;

/// What a watcher reads.
pub type Events = Pin<Box<ReceiverStream<Result<v1::WatchEvent, Status>>>>;

/// Starts after the token's version; without a token, after the newest.
pub async fn start(control: &Control, cluster: String, token: &str) -> Result<Events, Status> {
    control.hub.touch(&cluster);
    let newest = control.store.history(&cluster, 1).await.map_err(|e| errors::store(&e))?;
    let newest = newest.first().map_or(0, |row| row.version);
    let seen = match parse(token, &cluster)? {
        None => newest,
        Some(version) if version <= newest => version,
        Some(version) => {
            let allowed = format!("a token of this control's history, whose newest version is {newest}");
            return Err(errors::bad_field("resume_token", format!("version {version}"), &allowed));
        }
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    let control = control.clone();
    tokio::spawn(async move {
        if let Err(status) = follow(&control, &cluster, seen, &sender).await {
            // The watcher may be gone, which is fine.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn follow(
    control: &Control,
    cluster: &str,
    mut seen: u64,
    sender: &mpsc::Sender<Result<v1::WatchEvent, Status>>,
) -> Result<(), Status> {
    let mut target = control.hub.follow(cluster);
    let mut closing = control.hub.closing();
    loop {
        for row in since(control, cluster, seen).await? {
            seen = row.version;
            let event = v1::WatchEvent { resume_token: format!("{cluster}/{seen}"), version: Some(version_info(row)) };
            if sender.send(Ok(event)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            changed = target.changed() => if changed.is_err() { return Ok(()) },
            () = sender.closed() => return Ok(()),
            _ = closing.wait_for(|closing| *closing) => {
                return Err(Status::unavailable("control is shutting down; watch again with the last resume token"));
            }
        }
    }
}

/// Versions after `seen`, oldest first.
async fn since(control: &Control, cluster: &str, seen: u64) -> Result<Vec<VersionRow>, Status> {
    let newest = control.store.history(cluster, 1).await.map_err(|e| errors::store(&e))?;
    let missing = newest.first().map_or(0, |row| row.version.saturating_sub(seen));
    let missing = u32::try_from(missing).unwrap_or(u32::MAX);
    let mut rows = match missing {
        0 => Vec::new(),
        1 => newest,
        missing => control.store.history(cluster, missing).await.map_err(|e| errors::store(&e))?,
    };
    rows.retain(|row| row.version > seen);
    rows.reverse();
    Ok(rows)
}

fn parse(token: &str, cluster: &str) -> Result<Option<u64>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let version = token.rsplit_once('/').filter(|(of, _)| *of == cluster).and_then(|(_, version)| version.parse().ok());
    version.map(Some).ok_or_else(|| {
        errors::bad_field("resume_token", format!("{token:?}"), "the token of an event of this cluster, or nothing")
    })
}
