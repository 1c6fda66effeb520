//! Versions of documents. Contents are stored once, by hash; a version writes rows for the objects it changes.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use marchproxy_proto::v1::Document;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::confirmations::{self, confirmation_columns};
use super::database::Database;
use super::error::StoreError;
use super::types::{Committed, NewVersion, Stored, VersionRow};
use crate::model::{self, Index, Kind, Object};

/// Rows of one statement: far below SQLite's and PostgreSQL's limits on parameters, and large enough to make their cost disappear.
const ROWS: usize = 500;

/// A version and what it waits for, in the order of [`Row`].
macro_rules! select_versions {
    ($where:literal) => {
        concat!(
            "SELECT v.version, v.content_hash, v.author, v.at, v.message, v.rollback_of, v.objects, ",
            confirmation_columns!(),
            " FROM versions v LEFT JOIN confirmations c ON c.cluster = v.cluster AND c.version = v.version WHERE v.cluster = $1 ",
            $where
        )
    };
}

type Row = (i64, String, String, i64, String, i64, i64, Option<String>, Option<i64>, Option<i64>, Option<i64>);

fn version_row(row: Row) -> VersionRow {
    let (version, content_hash, author, at, message, rollback_of, objects, state, deadline, within, returns_to) = row;
    VersionRow {
        version: version as u64,
        content_hash,
        author,
        at,
        message,
        rollback_of: rollback_of as u64,
        objects: objects as u64,
        confirmation: confirmations::confirmation((state, deadline, within, returns_to)),
    }
}

/// Each cluster's newest version as this process stored it, so that neither a commit nor a change to the document must read it again.
/// It counts only if the database's newest version has the same number and content hash.
#[derive(Debug, Default)]
pub struct Newest(Mutex<HashMap<String, Seen>>);

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub version: u64,
    pub content_hash: String,
    pub index: Arc<Index>,
    /// As [`load`] would read it.
    pub document: Arc<Document>,
}

impl Newest {
    fn get(&self, cluster: &str, version: u64, content_hash: &str) -> Option<Seen> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = newest.get(cluster)?;
        (seen.version == version && seen.content_hash == content_hash).then(|| seen.clone())
    }

    /// The version, and it is nobody else's any more: what changes it puts the next one in its place.
    pub(super) fn take(&self, cluster: &str, version: u64, content_hash: &str) -> Option<Seen> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = newest.get(cluster)?;
        (seen.version == version && seen.content_hash == content_hash).then(|| newest.remove(cluster))?
    }

    /// Puts a version into its place.
    pub(super) fn give(&self, cluster: &str, seen: Seen) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(cluster.to_owned(), seen);
    }

    /// The newest version's document, if it is this one.
    pub fn document(&self, cluster: &str, version: u64, content_hash: &str) -> Option<Arc<Document>> {
        self.get(cluster, version, content_hash).map(|seen| seen.document)
    }

    fn put(&self, new: &NewVersion<'_>, row: &VersionRow, index: Index) {
        let mut document = new.document.clone();
        new.cluster.clone_into(&mut document.cluster);
        model::sort(&mut document);
        let (version, content_hash) = (row.version, row.content_hash.clone());
        self.give(new.cluster, Seen { version, content_hash, index: Arc::new(index), document: Arc::new(document) });
    }
}

/// See [`Store::version`](super::Store::version); `None` means the newest.
pub async fn load(
    db: &Database,
    newest: &Newest,
    cluster: &str,
    version: Option<u64>,
) -> Result<Option<Stored>, StoreError> {
    const DOING: &str = "read a version";
    let mut connection = db.read(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    let found: Option<(i64, String, String, String, i64, String, i64)> = sqlx::query_as(
        "SELECT version, api_version, content_hash, author, at, message, rollback_of FROM versions \
         WHERE cluster = $1 AND version = COALESCE($2, (SELECT MAX(version) FROM versions WHERE cluster = $1))",
    )
    .bind(cluster)
    .bind(version.map(|version| version as i64))
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some((version, api_version, content_hash, author, at, message, rollback_of)) = found else {
        return Ok(None);
    };
    if let Some(seen) = newest.get(cluster, version as u64, &content_hash) {
        let (version, rollback_of, document) = (version as u64, rollback_of as u64, (*seen.document).clone());
        return Ok(Some(Stored { version, content_hash, document, author, at, message, rollback_of }));
    }
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT o.kind, o.name, o.body FROM version_objects v \
         JOIN objects o ON o.cluster = v.cluster AND o.hash = v.hash \
         WHERE v.cluster = $1 AND v.since <= $2 AND (v.until IS NULL OR v.until >= $2)",
    )
    .bind(cluster)
    .bind(version)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    drop(connection);

    let document = assemble(cluster, api_version, &content_hash, rows)
        .map_err(|why| db.corrupt(DOING, format!("version {version} of cluster {cluster}: {why}")))?;
    let (version, rollback_of) = (version as u64, rollback_of as u64);
    Ok(Some(Stored { version, content_hash, document, author, at, message, rollback_of }))
}

/// Puts a document together and proves that it is what was stored.
fn assemble(
    cluster: &str,
    api_version: String,
    content_hash: &str,
    rows: Vec<(String, String, String)>,
) -> Result<Document, String> {
    let mut objects = Vec::with_capacity(rows.len());
    for (kind, name, body) in rows {
        let kind = kind.parse().map_err(|_| format!("object of unknown kind {kind}"))?;
        objects.push(Object { kind, name, body });
    }
    objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let found = model::hash_of_hashes(objects.iter().map(Object::hash));
    if found != content_hash {
        return Err(format!("its content hash is {found}, recorded as {content_hash}"));
    }
    let mut document = Document { api_version, cluster: cluster.to_owned(), ..Document::default() };
    for object in &objects {
        model::insert(&mut document, object.kind, &object.body)
            .map_err(|error| format!("{} {}: {error}", object.kind, object.name))?;
    }
    Ok(document)
}

/// See [`Store::history`](super::Store::history).
pub async fn history(db: &Database, cluster: &str, limit: u32) -> Result<Vec<VersionRow>, StoreError> {
    const DOING: &str = "read the history";
    let mut connection = db.read(DOING).await?;
    let rows: Vec<Row> = sqlx::query_as(select_versions!("ORDER BY v.version DESC LIMIT $2"))
        .bind(cluster)
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| db.failed(DOING, error))?;
    Ok(rows.into_iter().map(version_row).collect())
}

/// See [`Store::commit`](super::Store::commit).
pub async fn commit(db: &Database, newest: &Newest, new: NewVersion<'_>) -> Result<Committed, StoreError> {
    const DOING: &str = "store a version";
    // What needs no lock first.
    let objects = model::objects(new.document);
    let hashes: Vec<[u8; 32]> = objects.iter().map(Object::hash).collect();
    let content_hash = model::hash_of_hashes(hashes.iter().copied());

    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    if let Some(before) = repeated(&mut tx, &new).await.map_err(failed)? {
        return before;
    }
    let current = newest_row(&mut tx, new.cluster).await.map_err(failed)?;
    let found = current.as_ref().map_or(0, |row| row.version);
    if let Some(expected) = new.expected_version.filter(|expected| *expected != found) {
        return Err(StoreError::VersionConflict { expected, found });
    }
    super::cluster(&mut tx, new.cluster, new.now).await.map_err(failed)?;

    let (committed, index) = match current {
        Some(row) if row.content_hash == content_hash => (Committed::Unchanged(row), None),
        current => {
            let before = match &current {
                None => Arc::default(),
                Some(row) => match newest.get(new.cluster, row.version, &row.content_hash) {
                    Some(seen) => seen.index,
                    None => Arc::new(current_index(db, DOING, &mut tx, new.cluster).await?),
                },
            };
            let confirmation = confirmations::begin(db, DOING, &mut tx, &new, current.as_ref()).await?;
            let row = VersionRow {
                version: found + 1,
                content_hash,
                author: new.author.to_owned(),
                at: new.now,
                message: new.message.to_owned(),
                rollback_of: new.rollback_of,
                objects: objects.len() as u64,
                confirmation,
            };
            let after = Index::new(
                std::iter::zip(&objects, &hashes).map(|(object, hash)| ((object.kind, object.name.clone()), *hash)),
            );
            insert_version(&mut tx, new.cluster, &new.document.api_version, &row).await.map_err(failed)?;
            let (ended, begun) = changes(&before, &after);
            let begun: Vec<_> = begun.into_iter().map(|at| (&objects[at], hashes[at])).collect();
            write_changes(&mut tx, new.cluster, row.version, &ended, &begun).await.map_err(failed)?;
            (Committed::New(row), Some(after))
        }
    };
    record(&mut tx, &new, &committed).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    if let Some(index) = index {
        newest.put(&new, committed.row(), index);
    }
    Ok(committed)
}

/// See [`Store::repeated`](super::Store::repeated).
pub async fn look_repeated(db: &Database, new: &NewVersion<'_>) -> Result<Option<Committed>, StoreError> {
    const DOING: &str = "look a request up";
    let mut connection = db.read(DOING).await?;
    let found = repeated(&mut connection, new).await.map_err(|error| db.failed(DOING, error))?;
    found.transpose()
}

/// What the request led to before, or that it was another request.
pub(super) async fn repeated(
    tx: &mut SqliteConnection,
    new: &NewVersion<'_>,
) -> Result<Option<Result<Committed, StoreError>>, sqlx::Error> {
    if new.request_id.is_empty() {
        return Ok(None);
    }
    let found: Option<(i64, String, i64)> =
        sqlx::query_as("SELECT version, fingerprint, unchanged FROM requests WHERE cluster = $1 AND request_id = $2")
            .bind(new.cluster)
            .bind(new.request_id)
            .fetch_optional(&mut *tx)
            .await?;
    let Some((version, fingerprint, unchanged)) = found else { return Ok(None) };
    // Rows of releases that kept none have an empty one.
    if !fingerprint.is_empty() && !new.fingerprint.is_empty() && fingerprint != new.fingerprint {
        let request_id = new.request_id.to_owned();
        return Ok(Some(Err(StoreError::RequestReused { request_id, version: version as u64 })));
    }
    let found = row(tx, new.cluster, version as u64).await?;
    Ok(found.map(|row| Ok(Committed::Repeated { row, unchanged: unchanged != 0 })))
}

/// See [`Store::row`](super::Store::row).
pub async fn read_row(db: &Database, cluster: &str, version: u64) -> Result<Option<VersionRow>, StoreError> {
    const DOING: &str = "read a version";
    let mut connection = db.read(DOING).await?;
    row(&mut connection, cluster, version).await.map_err(|error| db.failed(DOING, error))
}

pub async fn row(tx: &mut SqliteConnection, cluster: &str, version: u64) -> Result<Option<VersionRow>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(select_versions!("AND v.version = $2"))
        .bind(cluster)
        .bind(version as i64)
        .fetch_optional(tx)
        .await?;
    Ok(row.map(version_row))
}

pub async fn newest_row(tx: &mut SqliteConnection, cluster: &str) -> Result<Option<VersionRow>, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as(select_versions!("ORDER BY v.version DESC LIMIT 1")).bind(cluster).fetch_optional(tx).await?;
    Ok(row.map(version_row))
}

async fn current_index(
    db: &Database,
    doing: &'static str,
    tx: &mut SqliteConnection,
    cluster: &str,
) -> Result<Index, StoreError> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT kind, name, hash FROM version_objects WHERE cluster = $1 AND until IS NULL")
            .bind(cluster)
            .fetch_all(tx)
            .await
            .map_err(|error| db.failed(doing, error))?;
    let mut entries = Vec::with_capacity(rows.len());
    for (kind, name, hash) in rows {
        let kind = kind.parse().map_err(|_| db.corrupt(doing, format!("object of unknown kind {kind}")))?;
        let hash = model::unhex(&hash).ok_or_else(|| db.corrupt(doing, format!("{kind} {name} has hash {hash}")))?;
        entries.push(((kind, name), hash));
    }
    entries.sort();
    Ok(Index::new(entries.into_iter()))
}

/// The version's row, and what it waits for.
pub(super) async fn insert_version(
    tx: &mut SqliteConnection,
    cluster: &str,
    api_version: &str,
    row: &VersionRow,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO versions (cluster, version, api_version, content_hash, author, message, at, rollback_of, objects) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(cluster)
    .bind(row.version as i64)
    .bind(api_version)
    .bind(&row.content_hash)
    .bind(&row.author)
    .bind(&row.message)
    .bind(row.at)
    .bind(row.rollback_of as i64)
    .bind(row.objects as i64)
    .execute(&mut *tx)
    .await?;
    match &row.confirmation {
        Some(confirmation) => confirmations::insert(tx, cluster, row.version, confirmation).await,
        None => Ok(()),
    }
}

/// Ends the rows of objects that went or changed, begins rows for those that came or changed.
pub(super) async fn write_changes(
    tx: &mut SqliteConnection,
    cluster: &str,
    version: u64,
    ended: &[(Kind, String)],
    begun: &[(&Object, [u8; 32])],
) -> Result<(), sqlx::Error> {
    for ended in ended.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new("UPDATE version_objects SET until = ");
        query.push_bind(version as i64 - 1).push(" WHERE cluster = ").push_bind(cluster);
        query.push(" AND until IS NULL AND (kind, name) IN (");
        query.push_values(ended, |mut row, (kind, name)| {
            row.push_bind(kind.as_str()).push_bind(name);
        });
        query.push(")").build().execute(&mut *tx).await?;
    }
    for begun in begun.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO objects (cluster, hash, kind, name, body) ");
        query.push_values(begun, |mut row, (object, hash)| {
            row.push_bind(cluster).push_bind(model::hex(hash));
            row.push_bind(object.kind.as_str()).push_bind(&object.name).push_bind(&object.body);
        });
        query.push(" ON CONFLICT (cluster, hash) DO NOTHING").build().execute(&mut *tx).await?;

        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO version_objects (cluster, kind, name, since, hash) ");
        query.push_values(begun, |mut row, (object, hash)| {
            row.push_bind(cluster).push_bind(object.kind.as_str()).push_bind(&object.name);
            row.push_bind(version as i64).push_bind(model::hex(hash));
        });
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// The objects that end in `before`, and the numbers of those that begin in `after`.
fn changes(before: &Index, after: &Index) -> (Vec<(Kind, String)>, Vec<usize>) {
    let (mut ended, mut begun) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before.iter().peekable(), after.iter().enumerate().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some((_, new))) => old.0.cmp(new.0),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return (ended, begun),
        };
        let gone = if order == Ordering::Greater { None } else { old.next() };
        let come = if order == Ordering::Less { None } else { new.next() };
        if let (Some((_, before)), Some((_, (_, after)))) = (gone, come)
            && before == after
        {
            continue;
        }
        ended.extend(gone.map(|(object, _)| object.clone()));
        begun.extend(come.map(|(number, _)| number));
    }
}

/// The request's answer and the audit row.
pub(super) async fn record(
    tx: &mut SqliteConnection,
    new: &NewVersion<'_>,
    committed: &Committed,
) -> Result<(), sqlx::Error> {
    let unchanged = matches!(committed, Committed::Unchanged(_));
    if !new.request_id.is_empty() {
        sqlx::query(
            "INSERT INTO requests (cluster, request_id, version, at, fingerprint, unchanged) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(new.cluster)
        .bind(new.request_id)
        .bind(committed.row().version as i64)
        .bind(new.now)
        .bind(new.fingerprint)
        .bind(i64::from(unchanged))
        .execute(&mut *tx)
        .await?;
    }
    let what = match new.rollback_of {
        0 => "apply".to_owned(),
        version => format!("rollback to version {version}"),
    };
    let result = match committed {
        Committed::New(row) => format!("version {}", row.version),
        other => format!("unchanged, version {}", other.row().version),
    };
    super::audit_row(tx, new.cluster, new.now, new.author, &what, &result).await
}
