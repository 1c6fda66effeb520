//! Versions that somebody has to confirm: at most one of a cluster waits, and it is the newest.

use sqlx::SqliteConnection;

use super::database::Database;
use super::error::StoreError;
use super::types::{ConfirmState, Confirmation, Confirmed, Ending, NewVersion, VersionRow};
use super::versions;

/// Columns of [`Columns`], of a table `c` that may have no row.
macro_rules! confirmation_columns {
    () => {
        "c.state, c.deadline, c.within, c.returns_to"
    };
}
pub(super) use confirmation_columns;

/// As read beside a version.
pub type Columns = (Option<String>, Option<i64>, Option<i64>, Option<i64>);

/// What the columns say; nothing for versions that need no confirmation.
pub fn confirmation((state, deadline, within, returns_to): Columns) -> Option<Confirmation> {
    let state = match state?.as_str() {
        "pending" => ConfirmState::Pending,
        "confirmed" => ConfirmState::Confirmed,
        _ => ConfirmState::Reverted,
    };
    Some(Confirmation {
        state,
        deadline: deadline?,
        within_s: u32::try_from(within?).ok()?,
        returns_to: returns_to? as u64,
    })
}

/// Ends the wait of the newest version where the new one may, and says what the new one waits for.
pub async fn begin(
    db: &Database,
    doing: &'static str,
    tx: &mut SqliteConnection,
    new: &NewVersion<'_>,
    newest: Option<&VersionRow>,
) -> Result<Option<Confirmation>, StoreError> {
    let waiting = newest.filter(|row| row.waits());
    match (waiting, new.ending) {
        (Some(row), Ending::Nothing) => return Err(StoreError::Waiting { version: row.version }),
        (Some(row), Ending::Version(version)) if version != row.version => {
            return Err(StoreError::NotWaiting { version, state: None });
        }
        (None, Ending::Version(version)) => return Err(StoreError::NotWaiting { version, state: None }),
        (Some(row), _) => set_state(tx, new.cluster, row.version, ConfirmState::Reverted)
            .await
            .map_err(|error| db.failed(doing, error))?,
        (None, _) => {}
    }
    match (new.confirm_within_s, newest) {
        (0, _) => Ok(None),
        (_, Some(row)) if row.waits() => Err(StoreError::Waiting { version: row.version }),
        (_, None) => Err(StoreError::NothingToReturnTo),
        (within_s, Some(row)) => Ok(Some(Confirmation {
            state: ConfirmState::Pending,
            deadline: new.now.saturating_add(i64::from(within_s) * 1_000_000),
            within_s,
            returns_to: row.version,
        })),
    }
}

/// Notes that a stored version waits.
pub async fn insert(
    tx: &mut SqliteConnection,
    cluster: &str,
    version: u64,
    confirmation: &Confirmation,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO confirmations (cluster, version, returns_to, within, deadline, state) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(cluster)
    .bind(version as i64)
    .bind(confirmation.returns_to as i64)
    .bind(i64::from(confirmation.within_s))
    .bind(confirmation.deadline)
    .bind(confirmation.state.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

async fn set_state(
    tx: &mut SqliteConnection,
    cluster: &str,
    version: u64,
    state: ConfirmState,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE confirmations SET state = $3 WHERE cluster = $1 AND version = $2")
        .bind(cluster)
        .bind(version as i64)
        .bind(state.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// See [`Store::confirm`](super::Store::confirm).
pub async fn confirm(
    db: &Database,
    cluster: &str,
    version: u64,
    author: &str,
    now: i64,
) -> Result<Confirmed, StoreError> {
    const DOING: &str = "confirm a version";
    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    let found = match version {
        0 => versions::newest_row(&mut tx, cluster).await.map_err(failed)?.filter(VersionRow::waits),
        version => versions::row(&mut tx, cluster, version).await.map_err(failed)?,
    };
    let state = found.as_ref().and_then(|row| row.confirmation.as_ref()).map(|confirmation| confirmation.state);
    match (found, state) {
        (Some(row), Some(ConfirmState::Confirmed)) => Ok(Confirmed { row, unchanged: true }),
        (Some(mut row), Some(ConfirmState::Pending)) => {
            set_state(&mut tx, cluster, row.version, ConfirmState::Confirmed).await.map_err(failed)?;
            let what = format!("confirm version {}", row.version);
            super::audit_row(&mut tx, cluster, now, author, &what, "done").await.map_err(failed)?;
            tx.commit().await.map_err(failed)?;
            if let Some(confirmation) = &mut row.confirmation {
                confirmation.state = ConfirmState::Confirmed;
            }
            Ok(Confirmed { row, unchanged: false })
        }
        (_, state) => Err(StoreError::NotWaiting { version, state }),
    }
}

/// See [`Store::waiting`](super::Store::waiting).
pub async fn waiting(db: &Database) -> Result<Vec<String>, StoreError> {
    const DOING: &str = "look for versions that wait for confirmation";
    let mut connection = db.read(DOING).await?;
    sqlx::query_scalar("SELECT cluster FROM confirmations WHERE state = 'pending'")
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| db.failed(DOING, error))
}
