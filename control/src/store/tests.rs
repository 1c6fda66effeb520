mod confirmations;
mod identities;
mod trouble;
mod versions;

use marchproxy_proto::v1::Document;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tempfile::TempDir;

use super::*;
use crate::model;

/// A store in a directory of its own.
struct Place {
    dir: TempDir,
    store: Store,
}

impl Place {
    async fn new() -> Place {
        let dir = TempDir::new().unwrap();
        let store = Store::open(&url(&dir)).await.unwrap();
        Place { dir, store }
    }

    /// A connection past the store.
    async fn raw(&self) -> SqliteConnection {
        SqliteConnection::connect(&url(&self.dir)).await.unwrap()
    }

    async fn count(&self, table: &'static str) -> i64 {
        let query = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        sqlx::query_scalar(query).fetch_one(&mut self.raw().await).await.unwrap()
    }
}

fn url(dir: &TempDir) -> String {
    format!("sqlite://{}/control.db", dir.path().display())
}

/// A document with these rules.
fn rules(names: &[&str]) -> Document {
    let rules: Vec<String> =
        names.iter().map(|name| format!("{{name: {name}, priority: 1, action: permit}}")).collect();
    model::parse(&format!("{{api_version: marchproxy/v1, rules: [{}]}}", rules.join(", "))).unwrap()
}

fn version(document: &Document) -> NewVersion<'_> {
    NewVersion { author: "ada", message: "because", ..NewVersion::new("default", document, 1_000) }
}

fn new(committed: Committed) -> VersionRow {
    match committed {
        Committed::New(row) => row,
        other => panic!("not a new version: {other:?}"),
    }
}
