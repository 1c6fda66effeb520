use super::*;

#[tokio::test]
async fn first_start_makes_the_file_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new().await;
    for name in ["control.db", "control.db-wal"] {
        let mode = std::fs::metadata(place.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(place.store.current("default").await.unwrap(), None);
    assert_eq!(place.store.history("default", 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_stored_comes_back_after_a_restart() {
    let place = Place::new().await;
    let document = model::parse(include_str!("../../../../deploy/examples/reference.yaml")).unwrap();
    let row = new(place.store.commit(version(&document)).await.unwrap());
    assert_eq!((row.version, row.objects), (1, model::objects(&document).len() as u64));
    assert_eq!(row.content_hash, model::content_hash(&document));

    let again = Store::open(&url(&place.dir)).await.unwrap();
    let stored = again.current("default").await.unwrap().unwrap();
    assert_eq!(model::objects(&stored.document), model::objects(&document));
    assert_eq!(stored.document.api_version, "marchproxy/v1");
    assert_eq!(stored.document.cluster, "default");
    assert_eq!((stored.version, stored.author.as_str(), stored.message.as_str()), (1, "ada", "because"));
    assert_eq!((stored.at, stored.rollback_of), (1_000, 0));
    assert_eq!(stored.content_hash, row.content_hash);
    assert_eq!(place.store.current("default").await.unwrap(), Some(stored.clone()), "remembered as it would be read");
    assert_eq!(again.version("default", 1).await.unwrap(), Some(stored));
    assert_eq!(again.version("default", 2).await.unwrap(), None);
}

#[tokio::test]
async fn versions_share_what_did_not_change_and_a_rollback_restores_the_hash() {
    let place = Place::new().await;
    let names: Vec<String> = (0..1200).map(|number| format!("r{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = rules(&names);
    let mut second = first.clone();
    second.rules[7].priority = 9;
    second.rules.remove(3);

    let one = new(place.store.commit(version(&first)).await.unwrap());
    let two = new(place.store.commit(version(&second)).await.unwrap());
    assert_eq!(place.count("objects").await, 1201);
    assert_eq!(place.count("version_objects").await, 1201);
    // A process that did not see version 2 being made rolls back.
    let other = Store::open(&url(&place.dir)).await.unwrap();
    let three = new(other.commit(NewVersion { rollback_of: 1, ..version(&first) }).await.unwrap());
    assert_ne!(one.content_hash, two.content_hash);
    assert_eq!(one.content_hash, three.content_hash);
    assert_eq!(place.count("objects").await, 1201, "a rollback stores no content");
    // The first store notices that its cache is old.
    let four = new(place.store.commit(version(&second)).await.unwrap());
    assert_eq!(four.content_hash, two.content_hash);

    for (number, document) in [(1, &first), (2, &second), (3, &first), (4, &second)] {
        let stored = place.store.version("default", number).await.unwrap().unwrap();
        assert_eq!(&stored.document.rules, &document.rules, "version {number}");
    }
    let history = place.store.history("default", 10).await.unwrap();
    let short: Vec<_> = history.iter().map(|row| (row.version, row.rollback_of, row.objects)).collect();
    assert_eq!(short, [(4, 0, 1199), (3, 1, 1200), (2, 0, 1199), (1, 0, 1200)]);
    assert_eq!(place.store.history("default", 2).await.unwrap(), history[..2]);
}

#[tokio::test]
async fn an_unchanged_document_makes_no_version() {
    let place = Place::new().await;
    let row = new(place.store.commit(version(&rules(&["a", "b"]))).await.unwrap());
    let committed = place.store.commit(version(&rules(&["b", "a"]))).await.unwrap();
    assert_eq!(committed, Committed::Unchanged(row));
    assert_eq!((place.count("versions").await, place.count("audit").await), (1, 2));
}

#[tokio::test]
async fn the_expected_version_is_kept() {
    let place = Place::new().await;
    let document = rules(&["a"]);
    let expecting = |expected| NewVersion { expected_version: Some(expected), ..version(&document) };
    let refused = place.store.commit(expecting(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::VersionConflict { expected: 1, found: 0 }), "{refused}");
    assert_eq!(new(place.store.commit(expecting(0)).await.unwrap()).version, 1);
    let refused = place.store.commit(expecting(0)).await.unwrap_err();
    assert!(matches!(refused, StoreError::VersionConflict { expected: 0, found: 1 }), "{refused}");
    assert_eq!(place.count("audit").await, 1);
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let place = Place::new().await;
    let (a, b) = (rules(&["a"]), rules(&["b"]));
    let request = |document, id| NewVersion { request_id: id, ..version(document) };
    let first = new(place.store.commit(request(&a, "r1")).await.unwrap());
    new(place.store.commit(request(&b, "r2")).await.unwrap());
    // Also when it would conflict by now, or carries something else.
    let again = NewVersion { expected_version: Some(0), ..request(&b, "r1") };
    assert_eq!(place.store.commit(again).await.unwrap(), Committed::Repeated { row: first, unchanged: false });
    // An id belongs to its cluster.
    new(place.store.commit(NewVersion { cluster: "other", ..request(&a, "r1") }).await.unwrap());
    assert_eq!(place.count("versions").await, 3);
}

#[tokio::test]
async fn clusters_do_not_cross() {
    let place = Place::new().await;
    let (a, b) = (rules(&["a"]), rules(&["b"]));
    new(place.store.commit(NewVersion { cluster: "one", ..version(&a) }).await.unwrap());
    let row = new(place.store.commit(NewVersion { cluster: "two", ..version(&b) }).await.unwrap());
    assert_eq!(row.version, 1);
    assert_eq!(place.store.current("one").await.unwrap().unwrap().document.rules, a.rules);
    assert_eq!(place.store.current("two").await.unwrap().unwrap().document.rules, b.rules);
    assert_eq!(place.store.current("default").await.unwrap(), None);
    assert_eq!(place.store.history("one", 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_commits_that_expect_the_same_version_one_wins() {
    let place = Place::new().await;
    // Two processes, as far as the database can tell.
    let stores = [place.store.clone(), Store::open(&url(&place.dir)).await.unwrap()];
    for round in 0..20_u64 {
        let tasks = [0, 1].map(|process: usize| {
            let (store, name) = (stores[process].clone(), format!("r{round}-{process}"));
            tokio::spawn(async move {
                let document = rules(&[&name]);
                store.commit(NewVersion { expected_version: Some(round), ..version(&document) }).await
            })
        });
        let mut won = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(Committed::New(row)) => {
                    assert_eq!(row.version, round + 1);
                    won += 1;
                }
                Err(StoreError::VersionConflict { expected, found }) => {
                    assert_eq!((expected, found), (round, round + 1));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(won, 1);
    }
    for number in 1..=20 {
        assert_eq!(stores[1].version("default", number).await.unwrap().unwrap().document.rules.len(), 1);
    }
}

#[tokio::test]
async fn a_failure_in_the_middle_leaves_nothing() {
    let place = Place::new().await;
    let first = new(place.store.commit(version(&rules(&["a"]))).await.unwrap());
    let mut raw = place.raw().await;
    // The audit row is the last one written.
    sqlx::raw_sql("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'forced'); END")
        .execute(&mut raw)
        .await
        .unwrap();
    let document = rules(&["b", "c"]);
    let error = place.store.commit(NewVersion { request_id: "r", ..version(&document) }).await.unwrap_err();
    assert!(error.to_string().contains("cannot store a version") && error.to_string().contains("forced"), "{error}");
    let counts = ["versions", "objects", "version_objects", "requests", "audit"].map(|table| place.count(table));
    let mut found = Vec::new();
    for count in counts {
        found.push(count.await);
    }
    assert_eq!(found, [1, 1, 1, 0, 1]);
    assert_eq!(place.store.current("default").await.unwrap().unwrap().document.rules[0].name, "a");

    sqlx::raw_sql("DROP TRIGGER no").execute(&mut raw).await.unwrap();
    let second = new(place.store.commit(version(&document)).await.unwrap());
    assert_eq!((first.version, second.version), (1, 2));
}
