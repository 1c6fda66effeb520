//! Tokens and certificates.

use super::database::Database;
use super::error::StoreError;
use super::types::{CertificateRow, NewToken, Revoke, TokenRow};
use crate::model;

/// See [`Store::create_token`](super::Store::create_token).
pub async fn create_token(db: &Database, token: NewToken<'_>, now: i64) -> Result<(), StoreError> {
    const DOING: &str = "store a token";
    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    super::cluster(&mut tx, token.cluster, now).await.map_err(failed)?;
    sqlx::query(
        "INSERT INTO tokens (secret_hash, cluster, role, name, author, created_at, expires) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(model::hex(token.secret_hash))
    .bind(token.cluster)
    .bind(token.role)
    .bind(token.name)
    .bind(token.author)
    .bind(now)
    .bind(token.expires)
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// See [`Store::redeem_token`](super::Store::redeem_token).
pub async fn redeem_token(db: &Database, secret_hash: &[u8], now: i64) -> Result<Option<TokenRow>, StoreError> {
    const DOING: &str = "redeem a token";
    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    let row: Option<(String, String, String)> = sqlx::query_as(
        "UPDATE tokens SET used_at = $2 WHERE secret_hash = $1 AND used_at IS NULL AND expires > $2 \
         RETURNING cluster, role, name",
    )
    .bind(model::hex(secret_hash))
    .bind(now)
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(row.map(|(cluster, role, name)| TokenRow { cluster, role, name }))
}

/// See [`Store::add_certificate`](super::Store::add_certificate).
pub async fn add_certificate(db: &Database, cert: CertificateRow, now: i64) -> Result<(), StoreError> {
    const DOING: &str = "record a certificate";
    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    super::cluster(&mut tx, &cert.cluster, now).await.map_err(failed)?;
    if cert.role == "node" {
        sqlx::query("INSERT INTO nodes (cluster, name, enrolled_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(&cert.cluster)
            .bind(&cert.name)
            .bind(now)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    sqlx::query(
        "INSERT INTO certificates (serial, cluster, role, name, not_after, revoked_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(cert.serial)
    .bind(cert.cluster)
    .bind(cert.role)
    .bind(cert.name)
    .bind(cert.not_after)
    .bind(cert.revoked_at)
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// See [`Store::certificates`](super::Store::certificates).
pub async fn certificates(db: &Database, cluster: &str) -> Result<Vec<CertificateRow>, StoreError> {
    const DOING: &str = "list certificates";
    let mut connection = db.read(DOING).await?;
    let rows: Vec<(String, String, String, String, i64, Option<i64>)> = sqlx::query_as(
        "SELECT serial, cluster, role, name, not_after, revoked_at FROM certificates WHERE cluster = $1 \
         ORDER BY role, name, not_after, serial",
    )
    .bind(cluster)
    .fetch_all(&mut *connection)
    .await
    .map_err(|error| db.failed(DOING, error))?;
    let row = |(serial, cluster, role, name, not_after, revoked_at)| CertificateRow {
        serial,
        cluster,
        role,
        name,
        not_after,
        revoked_at,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// See [`Store::revoke`](super::Store::revoke).
pub async fn revoke(db: &Database, cluster: &str, what: Revoke<'_>, now: i64) -> Result<u32, StoreError> {
    const DOING: &str = "revoke certificates";
    let query = match what {
        Revoke::Serial(serial) => sqlx::query(
            "UPDATE certificates SET revoked_at = $1 WHERE cluster = $2 AND revoked_at IS NULL AND serial = $3",
        )
        .bind(now)
        .bind(cluster)
        .bind(serial),
        Revoke::Name { role, name } => sqlx::query(
            "UPDATE certificates SET revoked_at = $1 WHERE cluster = $2 AND revoked_at IS NULL AND role = $3 AND name = $4",
        )
        .bind(now)
        .bind(cluster)
        .bind(role)
        .bind(name),
    };
    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    let done = query.execute(&mut *tx).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(done.rows_affected() as u32)
}

/// See [`Store::is_revoked`](super::Store::is_revoked).
pub async fn is_revoked(db: &Database, serial: &str) -> Result<bool, StoreError> {
    const DOING: &str = "look up a certificate";
    let mut connection = db.read(DOING).await?;
    let revoked: Option<i64> =
        sqlx::query_scalar("SELECT revoked_at FROM certificates WHERE serial = $1 AND revoked_at IS NOT NULL")
            .bind(serial)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| db.failed(DOING, error))?;
    Ok(revoked.is_some())
}
