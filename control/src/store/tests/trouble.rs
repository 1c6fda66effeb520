//! Databases that are locked, read-only, gone, damaged.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::*;

/// Opening must fail.
async fn refused(url: &str) -> StoreError {
    match Store::open(url).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn locked() {
    let place = Place::new().await;
    let document = rules(&["a"]);
    let mut raw = place.raw().await;
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut raw).await.unwrap();
    let error = place.store.commit(version(&document)).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy(_)), "{error}");
    assert!(error.to_string().contains("another process holds it locked"), "{error}");
    // Readers go on, and so does everything once the lock is gone.
    assert_eq!(place.store.current("default").await.unwrap(), None);
    sqlx::raw_sql("ROLLBACK").execute(&mut raw).await.unwrap();
    new(place.store.commit(version(&document)).await.unwrap());
}

#[tokio::test]
async fn locked_at_start() {
    let place = Place::new().await;
    let Place { dir, store } = place;
    drop(store);
    let mut raw = SqliteConnection::connect(&url(&dir)).await.unwrap();
    sqlx::raw_sql("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t (x); COMMIT")
        .execute(&mut raw)
        .await
        .unwrap();
    let error = refused(&url(&dir)).await;
    assert!(matches!(error, StoreError::Busy(_)), "{error}");
}

#[tokio::test]
async fn opened_to_look_only() {
    let place = Place::new().await;
    let document = rules(&["a"]);
    new(place.store.commit(version(&document)).await.unwrap());
    let viewer = Store::open(&format!("{}?mode=ro", url(&place.dir))).await.unwrap();
    assert_eq!(viewer.current("default").await.unwrap().unwrap().document.rules, document.rules);
    let error = viewer.commit(version(&rules(&["b"]))).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
    assert!(error.to_string().contains("check owner and mode"), "{error}");
}

/// Modes of files do not bind root, so the test runs itself again as somebody else.
#[tokio::test]
async fn read_only_file_and_directory() {
    const AS_NOBODY: &str = "MARCHPROXY_TEST_READ_ONLY_DIR";
    if let Some(dir) = std::env::var_os(AS_NOBODY) {
        let dir = Path::new(&dir);
        for place in ["file", "directory"] {
            let error = refused(&format!("sqlite://{}/{place}/control.db", dir.display())).await;
            assert!(matches!(error, StoreError::ReadOnly(_)), "{place}: {error}");
        }
        return;
    }
    let dir = TempDir::new().unwrap();
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for place in ["file", "directory"] {
        std::fs::create_dir(dir.path().join(place)).unwrap();
    }
    drop(Store::open(&format!("sqlite://{}/file/control.db", dir.path().display())).await.unwrap());
    chmod(&dir.path().join("file/control.db"), 0o444);
    chmod(&dir.path().join("file"), 0o555);
    chmod(&dir.path().join("directory"), 0o555);
    chmod(dir.path(), 0o755);

    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "store::tests::trouble::read_only_file_and_directory", "--nocapture"]);
    again.env(AS_NOBODY, dir.path()).current_dir("/");
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if root {
        again.uid(65_534).gid(65_534);
    }
    let output = again.output().unwrap();
    chmod(&dir.path().join("file"), 0o755);
    chmod(&dir.path().join("directory"), 0o755);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn deleted_replaced_or_its_directory_gone() {
    type Harm = fn(&Path);
    let document = rules(&["a"]);
    let harms: [Harm; 3] = [
        |dir| std::fs::remove_file(dir.join("control.db")).unwrap(),
        |dir| {
            std::fs::rename(dir.join("control.db"), dir.join("moved")).unwrap();
            std::fs::copy(dir.join("moved"), dir.join("control.db")).unwrap();
        },
        |dir| std::fs::remove_dir_all(dir).unwrap(),
    ];
    for harm in harms {
        let place = Place::new().await;
        new(place.store.commit(version(&document)).await.unwrap());
        harm(place.dir.path());
        for error in [
            place.store.commit(version(&rules(&["b"]))).await.unwrap_err(),
            place.store.current("default").await.unwrap_err(),
            place.store.is_revoked("01").await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Gone(_)), "{error}");
            assert!(error.to_string().contains("put the file back from a backup"), "{error}");
        }
    }
}

#[tokio::test]
async fn no_directory_at_start() {
    let dir = TempDir::new().unwrap();
    let error = refused(&format!("sqlite://{}/not/there/control.db", dir.path().display())).await;
    assert!(matches!(error, StoreError::Gone(_)), "{error}");
    assert!(error.to_string().contains("create the directory"), "{error}");
}

#[tokio::test]
async fn not_a_database() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("control.db"), "api_version: marchproxy/v1\n".repeat(200)).unwrap();
    let error = refused(&url(&dir)).await;
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("restore a backup"), "{error}");
}

#[tokio::test]
async fn damaged_pages_are_found_at_start() {
    let Place { dir, store } = Place::new().await;
    let names: Vec<String> = (0..2000).map(|number| format!("r{number}")).collect();
    new(store.commit(version(&rules(&names.iter().map(String::as_str).collect::<Vec<_>>()))).await.unwrap());
    store.db.close().await;
    let path = dir.path().join("control.db");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 100 * 4096, "the log was written back");
    for page in 40..60 {
        bytes[page * 4096..page * 4096 + 64].fill(0xa5);
    }
    std::fs::write(&path, bytes).unwrap();
    let error = refused(&url(&dir)).await;
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

#[tokio::test]
async fn changed_content_is_found_by_its_hash() {
    let place = Place::new().await;
    new(place.store.commit(version(&rules(&["a"]))).await.unwrap());
    sqlx::raw_sql("UPDATE objects SET body = replace(body, 'permit', 'deny')")
        .execute(&mut place.raw().await)
        .await
        .unwrap();
    let error = Store::open(&url(&place.dir)).await.unwrap().current("default").await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("its content hash is"), "{error}");
}

#[tokio::test]
async fn written_by_a_newer_release() {
    let Place { dir, store } = Place::new().await;
    let row = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (9999, 'later', TRUE, x'00', 1)";
    sqlx::raw_sql(row).execute(&mut SqliteConnection::connect(&url(&dir)).await.unwrap()).await.unwrap();
    drop(store);
    let error = refused(&url(&dir)).await;
    assert!(error.to_string().contains("a newer MarchProxy wrote it (schema 9999)"), "{error}");
}

#[tokio::test]
async fn urls_that_name_no_file() {
    for url in ["postgres://localhost/db", "sqlite://", "sqlite://:memory:", "sqlite:///tmp/x?cache=shared", "/tmp/x"] {
        let error = refused(url).await;
        assert!(error.to_string().contains("allowed: sqlite://PATH"), "{error}");
    }
}
