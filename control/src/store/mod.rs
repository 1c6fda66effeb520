//! Versions, identities and the audit trail, in one SQL database: SQLite, a file created at first start.
//!
//! Whatever belongs together is written in one transaction: a version is there with its objects, its audit row and its request id, or
//! not at all. Contents are addressed by hash and stored once; a version costs rows for what it changes. Reading a version proves
//! its content hash. Nothing crosses clusters.

mod changes;
mod confirmations;
mod database;
mod error;
mod identities;
mod types;
mod versions;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::SqliteConnection;

use database::Database;
pub use error::{Cause, StoreError};
pub use types::{
    CertificateRow, Committed, ConfirmState, Confirmation, Confirmed, Ending, NewRules, NewToken, NewVersion, Revoke,
    Stored, TokenRow, VersionRow,
};
use versions::Newest;

/// The store; clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Store {
    db: Database,
    newest: Arc<Newest>,
}

impl Store {
    /// Opens `sqlite://PATH`, creating the file (mode 600) and its schema where there is none. `?mode=ro` opens it to look only.
    pub async fn open(url: &str) -> Result<Store, StoreError> {
        Ok(Store { db: Database::open(url).await?, newest: Arc::default() })
    }

    /// The newest version, if any.
    pub async fn current(&self, cluster: &str) -> Result<Option<Stored>, StoreError> {
        versions::load(&self.db, &self.newest, cluster, None).await
    }

    /// One version, if it exists.
    pub async fn version(&self, cluster: &str, version: u64) -> Result<Option<Stored>, StoreError> {
        versions::load(&self.db, &self.newest, cluster, Some(version)).await
    }

    /// Stores a version: objects, version, audit and request id in one transaction. The document must have passed validation.
    pub async fn commit(&self, commit: NewVersion<'_>) -> Result<Committed, StoreError> {
        versions::commit(&self.db, &self.newest, commit).await
    }

    /// Stores a version that differs from `base` in these rules alone, at the price of the change. `None`: the newest version is another
    /// one, or not in memory, or already says all this; then [`commit`](Self::commit) has to do it.
    pub async fn commit_rules(
        &self,
        commit: NewVersion<'_>,
        base: (u64, &str),
        rules: NewRules,
    ) -> Result<Option<Committed>, StoreError> {
        changes::commit(&self.db, &self.newest, commit, base, rules).await
    }

    /// The document of a version in canonical order, if it is the newest that this process stored.
    pub fn newest(
        &self,
        cluster: &str,
        version: u64,
        content_hash: &str,
    ) -> Option<Arc<marchproxy_proto::v1::Document>> {
        self.newest.document(cluster, version, content_hash)
    }

    /// What a request id led to, if it was seen before.
    pub async fn repeated(&self, new: &NewVersion<'_>) -> Result<Option<Committed>, StoreError> {
        versions::look_repeated(&self.db, new).await
    }

    /// Confirms a version, or for 0 the one that waits. Whether its time is over is the caller's to know.
    pub async fn confirm(&self, cluster: &str, version: u64, author: &str, now: i64) -> Result<Confirmed, StoreError> {
        confirmations::confirm(&self.db, cluster, version, author, now).await
    }

    /// Clusters in which a version waits for confirmation.
    pub async fn waiting(&self) -> Result<Vec<String>, StoreError> {
        confirmations::waiting(&self.db).await
    }

    /// A version without its content.
    pub async fn row(&self, cluster: &str, version: u64) -> Result<Option<VersionRow>, StoreError> {
        versions::read_row(&self.db, cluster, version).await
    }

    /// Versions, newest first.
    pub async fn history(&self, cluster: &str, limit: u32) -> Result<Vec<VersionRow>, StoreError> {
        versions::history(&self.db, cluster, limit).await
    }

    /// Writes a row into the audit trail.
    pub async fn audit(&self, cluster: &str, author: &str, what: &str, result: &str) -> Result<(), StoreError> {
        const DOING: &str = "write the audit trail";
        let now = now();
        let mut tx = self.db.write(DOING).await?;
        let failed = |error| self.db.failed(DOING, error);
        self::cluster(&mut tx, cluster, now).await.map_err(failed)?;
        audit_row(&mut tx, cluster, now, author, what, result).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Stores a one-time token.
    pub async fn create_token(&self, token: NewToken<'_>) -> Result<(), StoreError> {
        identities::create_token(&self.db, token, now()).await
    }

    /// Marks the token used and says what it admits to; `None` when unknown, expired or used before.
    pub async fn redeem_token(&self, secret_hash: &[u8], now: i64) -> Result<Option<TokenRow>, StoreError> {
        identities::redeem_token(&self.db, secret_hash, now).await
    }

    /// Records an issued certificate; a node's first one records the node.
    pub async fn add_certificate(&self, cert: CertificateRow) -> Result<(), StoreError> {
        identities::add_certificate(&self.db, cert, now()).await
    }

    /// All certificates of a cluster.
    pub async fn certificates(&self, cluster: &str) -> Result<Vec<CertificateRow>, StoreError> {
        identities::certificates(&self.db, cluster).await
    }

    /// Revokes certificates that were not yet revoked and says how many.
    pub async fn revoke(&self, cluster: &str, what: Revoke<'_>, now: i64) -> Result<u32, StoreError> {
        identities::revoke(&self.db, cluster, what, now).await
    }

    /// Whether the certificate with this serial number was revoked.
    pub async fn is_revoked(&self, serial: &str) -> Result<bool, StoreError> {
        identities::is_revoked(&self.db, serial).await
    }
}

/// Microseconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Makes the cluster's row where there is none.
async fn cluster(tx: &mut SqliteConnection, cluster: &str, now: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO clusters (cluster, created_at) VALUES ($1, $2) ON CONFLICT (cluster) DO NOTHING")
        .bind(cluster)
        .bind(now)
        .execute(tx)
        .await?;
    Ok(())
}

async fn audit_row(
    tx: &mut SqliteConnection,
    cluster: &str,
    at: i64,
    author: &str,
    what: &str,
    result: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO audit (cluster, id, at, author, what, result) \
         SELECT $1, COALESCE(MAX(id), 0) + 1, $2, $3, $4, $5 FROM audit WHERE cluster = $1",
    )
    .bind(cluster)
    .bind(at)
    .bind(author)
    .bind(what)
    .bind(result)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
