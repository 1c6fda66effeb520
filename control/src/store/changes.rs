//! A version that differs from the newest one in some rules: everything that [`commit`](super::versions::commit) does, for the price of the
//! difference.

use std::sync::Arc;

use super::confirmations;
use super::database::Database;
use super::error::StoreError;
use super::types::{Committed, NewRules, NewVersion, VersionRow};
use super::versions::{self, Newest, Seen};
use crate::model::{Kind, Object};

const DOING: &str = "store a version";

/// See [`Store::commit_rules`](super::Store::commit_rules). `new.document` is not looked at.
pub async fn commit(
    db: &Database,
    newest: &Newest,
    new: NewVersion<'_>,
    (version, content_hash): (u64, &str),
    rules: NewRules,
) -> Result<Option<Committed>, StoreError> {
    let objects: Vec<Object> = rules.put.iter().map(Object::rule).collect();
    let hashes: Vec<[u8; 32]> = objects.iter().map(Object::hash).collect();
    let mut tx = db.write(DOING).await?;
    let failed = |error| db.failed(DOING, error);
    if let Some(before) = versions::repeated(&mut tx, &new).await.map_err(failed)? {
        return before.map(Some);
    }
    let current = versions::newest_row(&mut tx, new.cluster).await.map_err(failed)?;
    let found = current.as_ref().map_or(0, |row| row.version);
    if let Some(expected) = new.expected_version.filter(|expected| *expected != found) {
        return Err(StoreError::VersionConflict { expected, found });
    }
    // Whether anything may follow a version that waits for confirmation is a question for the whole way.
    let Some(base) = current.filter(|row| row.version == version && row.content_hash == content_hash && !row.waits())
    else {
        return Ok(None);
    };
    let Some(mut seen) = newest.take(new.cluster, version, content_hash) else { return Ok(None) };
    // From here on the version in memory is nobody's: whatever fails, the next commit reads the database.
    let index = Arc::make_mut(&mut seen.index);
    let (mut ended, mut begun) = (Vec::new(), Vec::new());
    for name in rules.gone.iter().map(|name| (Kind::Rule, name.clone())) {
        if !index.remove(&name) {
            return Ok(None);
        }
        ended.push(name);
    }
    for (object, hash) in std::iter::zip(&objects, &hashes) {
        let name = (Kind::Rule, object.name.clone());
        let before = index.get(&name).copied();
        if before == Some(*hash) {
            continue;
        }
        index.put(name.clone(), *hash);
        ended.extend(before.map(|_| name));
        begun.push((object, *hash));
    }
    if ended.is_empty() && begun.is_empty() {
        newest.give(new.cluster, seen);
        return Ok(None);
    }
    let confirmation = confirmations::begin(db, DOING, &mut tx, &new, Some(&base)).await?;
    let row = VersionRow {
        version: version + 1,
        content_hash: index.content_hash(),
        author: new.author.to_owned(),
        at: new.now,
        message: new.message.to_owned(),
        rollback_of: new.rollback_of,
        objects: index.len() as u64,
        confirmation,
    };
    versions::insert_version(&mut tx, new.cluster, &seen.document.api_version, &row).await.map_err(failed)?;
    versions::write_changes(&mut tx, new.cluster, row.version, &ended, &begun).await.map_err(failed)?;
    let committed = Committed::New(row.clone());
    versions::record(&mut tx, &new, &committed).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    newest.give(new.cluster, changed(seen, row, rules));
    Ok(Some(committed))
}

/// The next version as it would be read.
fn changed(mut seen: Seen, row: VersionRow, rules: NewRules) -> Seen {
    let list = &mut Arc::make_mut(&mut seen.document).rules;
    // Few are moved one by one, many at once.
    let mut come = Vec::new();
    for rule in rules.put {
        match list.binary_search_by(|old| old.name.cmp(&rule.name)) {
            Ok(at) => list[at] = rule,
            Err(_) => come.push(rule),
        }
    }
    if !rules.gone.is_empty() {
        let gone: std::collections::HashSet<String> = rules.gone.into_iter().collect();
        list.retain(|rule| !gone.contains(&rule.name));
    }
    if !come.is_empty() {
        list.extend(come);
        // Sorted but for its end, which takes this sort one pass.
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Seen { version: row.version, content_hash: row.content_hash, ..seen }
}
