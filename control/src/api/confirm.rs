//! Versions that revert by themselves unless somebody confirms them in time.
//!
//! Control decides, under the lock under which documents change: a confirmation before the time is over, or a new version with the content of the one
//! before. Nodes need no decision to be safe: each returns to its former tables by its own clock (`TablesOffer.confirm_within_ms`), and what it
//! runs afterwards is settled as always, by the newest stored version.

use std::sync::Arc;
use std::time::{Duration, Instant};

use marchproxy_proto::v1;
use tonic::{Code, Status};

use super::auth::Caller;
use super::errors;
use super::state::{Control, check, now};
use crate::store::{Committed, Confirmation, Ending, NewVersion, StoreError, VersionRow};

/// Longest time to confirm, in seconds: a day.
const WITHIN_MAX: u32 = 86_400;
/// The author of versions that nobody asked for.
const SYSTEM: &str = "system";
/// Between two attempts to store the revert.
const AGAIN: Duration = Duration::from_secs(1);

/// Refuses times that make no sense; 0 asks for no confirmation.
pub fn check_within(seconds: u32) -> Result<(), Status> {
    if seconds > WITHIN_MAX {
        return Err(errors::bad_field(
            "confirm_within_s",
            seconds,
            "1 to 86400, or 0 for a version that needs no confirmation",
        ));
    }
    Ok(())
}

/// When the time of a stored version that waits is over. After a restart only the wall clock knows; a clock that was set back gives it no
/// more than its whole time again, one that was set forward ends it at once.
pub fn until(waits: &Confirmation) -> Instant {
    let whole = Duration::from_secs(u64::from(waits.within_s));
    let left = u64::try_from(waits.deadline.saturating_sub(now())).map_or(Duration::ZERO, Duration::from_micros);
    Instant::now() + left.min(whole)
}

/// Confirms a version, or for 0 the one that waits.
pub async fn confirm(
    control: &Control,
    cluster: &str,
    version: u64,
    caller: &Caller,
) -> Result<v1::ConfirmResponse, Status> {
    control.sync(cluster).await?;
    let changing = control.changing(cluster);
    let _held = changing.lock().await;
    if let Some((waiting, until)) = control.hub.waiting(cluster)
        && (version == 0 || version == waiting)
        && until <= Instant::now()
    {
        return Err(errors::store(&StoreError::NotWaiting {
            version: waiting,
            state: Some(crate::store::ConfirmState::Reverted),
        }));
    }
    let confirmed =
        control.store.confirm(cluster, version, caller.author(), now()).await.map_err(|e| errors::store(&e))?;
    let row = confirmed.row;
    control.hub.confirm(cluster, row.version);
    tracing::info!(cluster, version = row.version, author = caller.author(), "confirmed");
    Ok(v1::ConfirmResponse { version: row.version, content_hash: row.content_hash, unchanged: confirmed.unchanged })
}

/// Reverts the version when its time is over or a node gave it up, unless it is decided before.
pub fn arm(control: &Control, cluster: &str, version: u64, until: Instant) {
    let (control, cluster) = (control.clone(), cluster.to_owned());
    tokio::spawn(async move {
        let mut closing = control.hub.closing();
        let why = tokio::select! {
            () = tokio::time::sleep_until(until.into()) => "was not confirmed in time".to_owned(),
            node = control.hub.given_up(&cluster, version) => format!("was not confirmed in time, said node {node}"),
            () = control.hub.decided(&cluster, version) => return,
            // The next start goes on from the database.
            _ = closing.wait_for(|closing| *closing) => return,
        };
        let mut said = String::new();
        loop {
            match revert(&control, &cluster, version, &why).await {
                Ok(()) => return,
                Err(trouble) if trouble.message() == said => {}
                Err(trouble) => {
                    trouble.message().clone_into(&mut said);
                    tracing::error!(cluster, version, why = said, "cannot store the revert; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = control.hub.decided(&cluster, version) => return,
                _ = closing.wait_for(|closing| *closing) => return,
            }
        }
    });
}

/// Stores the content of the version before as a new one and pushes it.
async fn revert(control: &Control, cluster: &str, version: u64, why: &str) -> Result<(), Status> {
    let changing = control.changing(cluster);
    let _held = changing.lock().await;
    let row = control.store.row(cluster, version).await.map_err(|e| errors::store(&e))?;
    let Some(waits) = row.filter(VersionRow::waits).and_then(|row| row.confirmation) else { return Ok(()) };
    let document = control.stored(cluster, waits.returns_to).await?.document;
    let document = Arc::new(document);
    let checked = check(Arc::clone(&document)).await?;
    let message = format!("version {version} {why} ({} s): content of version {}", waits.within_s, waits.returns_to);
    let committed = control
        .store
        .commit(NewVersion {
            author: SYSTEM,
            message: &message,
            rollback_of: waits.returns_to,
            ending: Ending::Version(version),
            ..NewVersion::new(cluster, &document, now())
        })
        .await;
    match committed {
        Ok(Committed::New(row)) => {
            control.hub.publish(cluster, row.version, checked.nodes, None);
            control.keep(cluster, (row.version, &row.content_hash), checked.built);
            tracing::warn!(cluster, version = row.version, message, "reverted");
            Ok(())
        }
        // Confirmed over another control just now.
        Err(StoreError::NotWaiting { .. }) => Ok(()),
        Ok(_) => Err(errors::status(
            Code::Internal,
            "NOT_REVERTED",
            "the version has the content of the one before; please report this",
            &[],
        )),
        Err(why) => Err(errors::store(&why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ConfirmState;

    #[test]
    fn a_clock_that_jumps_gives_the_whole_time_at_most_and_nothing_at_least() {
        let waits = |deadline| Confirmation { state: ConfirmState::Pending, deadline, within_s: 300, returns_to: 1 };
        let left = |deadline| until(&waits(deadline)).saturating_duration_since(Instant::now());
        let whole = Duration::from_mins(5);
        let year = 365 * 86_400 * 1_000_000;
        assert!(left(now() + year) <= whole && left(now() + year) > whole / 2, "set back a year");
        assert_eq!(left(now() - year), Duration::ZERO, "set forward a year");
        assert!(left(now() + 100_000_000) <= Duration::from_secs(100));
        assert_eq!((left(i64::MIN), left(i64::MAX) <= whole), (Duration::ZERO, true));
    }
}
