//! The seam to the SQL driver: opening, connections, and what its errors mean. Everything that is SQLite's own is here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};

use super::error::{Cause, StoreError};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a statement waits for a lock of another process. A commit takes milliseconds; who holds longer hangs.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a writer of this process waits for the others.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads in parallel; more would wait for the disk, not for us.
const READERS: u32 = 4;

/// An open database.
#[derive(Clone, Debug)]
pub struct Database {
    url: String,
    path: PathBuf,
    file: FileId,
    reads: SqlitePool,
    /// One connection: SQLite has one writer, and waiting here is fairer than polling for its lock.
    writes: SqlitePool,
}

/// What tells one file from another under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl Database {
    /// Opens the file, or creates it with mode 600, and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Database, StoreError> {
        const DOING: &str = "open it";
        let fail = |why: String| Cause { database: url.to_owned(), doing: DOING, why };
        let (path, read_only) = parse_url(url).map_err(|why| StoreError::Other(fail(why)))?;
        if !read_only {
            create(&path).map_err(|error| io_error(fail, &error))?;
        }
        let file = identify(&path).map_err(|error| io_error(fail, &error))?;

        let mut options = SqliteConnectOptions::new()
            .filename(&path)
            .read_only(read_only)
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        if !read_only {
            // FULL: a version that was answered for survives a power cut.
            options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        }
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(QUEUE_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
                // The connection is a file, it cannot go stale; and each check is a trip to another thread.
                .test_before_acquire(false)
        };
        let database = Database {
            url: url.to_owned(),
            file,
            reads: pool(READERS).connect_lazy_with(options.clone()),
            writes: pool(1).connect_lazy_with(options),
            path,
        };
        database.check(DOING).await?;
        MIGRATIONS.run(&database.writes).await.map_err(|error| database.migration_failed(error))?;
        Ok(database)
    }

    /// A connection to read with.
    pub async fn read(&self, doing: &'static str) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.still_there(doing)?;
        self.reads.acquire().await.map_err(|error| self.failed(doing, error))
    }

    /// A transaction that holds the write lock from its beginning, so that what it reads stays true until it commits.
    pub async fn write(&self, doing: &'static str) -> Result<Transaction<'static, Sqlite>, StoreError> {
        const BEGIN: &str = "BEGIN IMMEDIATE";
        self.still_there(doing)?;
        let begun = match self.writes.begin_with(BEGIN).await {
            // SQLite ends a transaction by itself when the disk is full, but the driver goes on believing in it: another connection then.
            Err(sqlx::Error::InvalidSavePointStatement | sqlx::Error::BeginFailed) => {
                let stale = self.writes.acquire().await.map_err(|error| self.failed(doing, error))?;
                // What it says about its end changes nothing.
                let _ = stale.close().await;
                self.writes.begin_with(BEGIN).await
            }
            begun => begun,
        };
        begun.map_err(|error| self.failed(doing, error))
    }

    /// Closes all connections; the write-ahead log goes into the file.
    #[cfg(test)]
    pub async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }

    /// What the driver's error means to an operator.
    #[allow(clippy::needless_pass_by_value)] // made for `map_err`
    pub fn failed(&self, doing: &'static str, error: sqlx::Error) -> StoreError {
        if let Err(gone) = self.still_there(doing) {
            return gone;
        }
        let code: Option<i32> =
            error.as_database_error().and_then(|error| error.code().and_then(|code| code.parse().ok()));
        let why = match &error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            other => other.to_string(),
        };
        let cause = self.cause(doing, why);
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return StoreError::Busy(cause);
        }
        match code.map(|code| code & 0xff) {
            Some(SQLITE_BUSY | SQLITE_LOCKED) => StoreError::Busy(cause),
            Some(SQLITE_PERM | SQLITE_READONLY | SQLITE_FULL | SQLITE_CANTOPEN) => StoreError::ReadOnly(cause),
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Corrupt(cause),
            _ => StoreError::Other(cause),
        }
    }

    /// Contents that contradict themselves.
    pub fn corrupt(&self, doing: &'static str, why: String) -> StoreError {
        StoreError::Corrupt(self.cause(doing, why))
    }

    fn cause(&self, doing: &'static str, why: String) -> Cause {
        Cause { database: self.url.clone(), doing, why }
    }

    /// SQLite goes on writing to a file that was deleted or replaced; what it writes there is lost. So look before each use.
    fn still_there(&self, doing: &'static str) -> Result<(), StoreError> {
        let why = match identify(&self.path) {
            Ok(file) if file == self.file => return Ok(()),
            Ok(_) => format!("{} was replaced by another file while it was open", self.path.display()),
            Err(error) => format!("{}: {error}", self.path.display()),
        };
        Err(StoreError::Gone(self.cause(doing, why)))
    }

    /// Finds a foreign or damaged file before anything relies on it.
    async fn check(&self, doing: &'static str) -> Result<(), StoreError> {
        let mut connection = self.writes.acquire().await.map_err(|error| self.failed(doing, error))?;
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| self.failed(doing, error))?;
        if verdict == "ok" { Ok(()) } else { Err(self.corrupt(doing, verdict)) }
    }

    fn migration_failed(&self, error: MigrateError) -> StoreError {
        const DOING: &str = "bring the schema up to date";
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => self.failed(DOING, error),
            MigrateError::VersionMissing(version) => StoreError::Other(self.cause(
                DOING,
                format!("a newer MarchProxy wrote it (schema {version}): install that release or a newer one"),
            )),
            other => StoreError::Other(self.cause(DOING, other.to_string())),
        }
    }
}

// Result codes of SQLite (sqlite.org/rescode.html), their low byte.
const SQLITE_PERM: i32 = 3;
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_NOTADB: i32 = 26;

/// `sqlite://PATH[?mode=ro|rw|rwc]`.
fn parse_url(url: &str) -> Result<(PathBuf, bool), String> {
    const ALLOWED: &str = "allowed: sqlite://PATH, or sqlite://PATH?mode=ro to look only";
    let rest = url.strip_prefix("sqlite://").ok_or_else(|| format!("no database of this release; {ALLOWED}"))?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() || path == ":memory:" {
        return Err(format!("no path of a file; {ALLOWED}"));
    }
    match query {
        "" | "mode=rw" | "mode=rwc" => Ok((path.into(), false)),
        "mode=ro" => Ok((path.into(), true)),
        other => Err(format!("unknown option \"{other}\"; {ALLOWED}")),
    }
}

/// Makes an empty file for SQLite to fill, readable by its owner only: hashes of tokens are in it. SQLite's own files beside it inherit
/// the mode.
fn create(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(|_| ()),
    }
}

fn identify(path: &Path) -> io::Result<FileId> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
}

fn io_error(cause: impl FnOnce(String) -> Cause, error: &io::Error) -> StoreError {
    let cause = cause(error.to_string());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StoreError::Gone(cause),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => {
            StoreError::ReadOnly(cause)
        }
        _ => StoreError::Other(cause),
    }
}
