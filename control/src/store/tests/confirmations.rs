use super::*;

fn waiting<'a>(document: &'a Document, message: &'a str) -> NewVersion<'a> {
    NewVersion { confirm_within_s: 300, message, ..version(document) }
}

fn states(rows: &[VersionRow]) -> Vec<(u64, Option<ConfirmState>)> {
    rows.iter().map(|row| (row.version, row.confirmation.as_ref().map(|found| found.state))).collect()
}

#[tokio::test]
async fn one_version_waits_and_ends_confirmed_or_reverted_also_after_a_restart() {
    use ConfirmState::{Confirmed as Kept, Pending, Reverted};
    let place = Place::new().await;
    let (a, b) = (rules(&["a"]), rules(&["a", "b"]));
    let first = place.store.commit(waiting(&a, "")).await.unwrap_err();
    assert!(matches!(first, StoreError::NothingToReturnTo), "{first}");
    new(place.store.commit(version(&a)).await.unwrap());
    assert!(matches!(
        place.store.confirm("default", 0, "ada", 5).await,
        Err(StoreError::NotWaiting { version: 0, state: None })
    ));

    let row = new(place.store.commit(waiting(&b, "try")).await.unwrap());
    let waits = Confirmation { state: Pending, deadline: 1_000 + 300_000_000, within_s: 300, returns_to: 1 };
    assert_eq!(row.confirmation, Some(waits));
    // Nothing else is stored meanwhile, by whatever store; the content that waits is no other content.
    let other = Store::open(&url(&place.dir)).await.unwrap();
    assert_eq!(other.waiting().await.unwrap(), ["default"]);
    assert!(matches!(other.commit(version(&a)).await, Err(StoreError::Waiting { version: 2 })));
    assert!(matches!(other.commit(version(&b)).await, Ok(Committed::Unchanged(_))));
    let again = NewVersion { ending: Ending::Any, ..waiting(&a, "") };
    assert!(matches!(other.commit(again).await, Err(StoreError::Waiting { version: 2 })), "nothing to return to");
    let wrong = NewVersion { ending: Ending::Version(1), ..version(&a) };
    assert!(matches!(other.commit(wrong).await, Err(StoreError::NotWaiting { version: 1, .. })));

    // Reverted by name, as control does it: the old hash under a new number.
    let revert = NewVersion { ending: Ending::Version(2), rollback_of: 1, author: "system", ..version(&a) };
    let back = new(other.commit(revert).await.unwrap());
    let history = place.store.history("default", 9).await.unwrap();
    assert_eq!(back.content_hash, history[2].content_hash);
    assert_eq!(states(&history), [(3, None), (2, Some(Reverted)), (1, None)]);
    assert_eq!(place.store.waiting().await.unwrap(), [""; 0]);
    assert!(matches!(
        place.store.confirm("default", 2, "ada", 5).await,
        Err(StoreError::NotWaiting { version: 2, state: Some(Reverted) })
    ));

    // Confirmed, and once more; then it can't be reverted any more.
    new(place.store.commit(waiting(&b, "again")).await.unwrap());
    let confirmed = other.confirm("default", 0, "ada", 7).await.unwrap();
    assert_eq!((confirmed.row.version, confirmed.unchanged), (4, false));
    assert!(place.store.confirm("default", 4, "eve", 8).await.unwrap().unchanged);
    let late = NewVersion { ending: Ending::Version(4), ..version(&a) };
    assert!(matches!(place.store.commit(late).await, Err(StoreError::NotWaiting { version: 4, .. })));
    // A rollback ends the wait of whatever waits.
    new(place.store.commit(waiting(&a, "")).await.unwrap());
    new(place.store.commit(NewVersion { ending: Ending::Any, ..version(&b) }).await.unwrap());
    let history = place.store.history("default", 3).await.unwrap();
    assert_eq!(states(&history), [(6, None), (5, Some(Reverted)), (4, Some(Kept))]);
}

#[tokio::test]
async fn a_request_id_stands_for_one_change() {
    let place = Place::new().await;
    let (a, b) = (rules(&["a"]), rules(&["a", "b"]));
    let request = |document, fingerprint| NewVersion { request_id: "r", fingerprint, ..version(document) };
    let row = new(place.store.commit(request(&a, "one")).await.unwrap());
    let again = Committed::Repeated { row, unchanged: false };
    assert_eq!(place.store.commit(request(&a, "one")).await.unwrap(), again);
    assert_eq!(place.store.repeated(&request(&b, "")).await.unwrap(), Some(again));
    for refused in [
        place.store.commit(request(&b, "two")).await,
        place.store.repeated(&request(&b, "two")).await.map(Option::unwrap),
    ] {
        assert!(matches!(refused, Err(StoreError::RequestReused { version: 1, .. })), "{refused:?}");
    }
    // What changed nothing is repeated as that.
    let same = NewVersion { request_id: "s", ..version(&a) };
    assert!(matches!(place.store.commit(same).await.unwrap(), Committed::Unchanged(_)));
    assert!(matches!(place.store.commit(same).await.unwrap(), Committed::Repeated { unchanged: true, .. }));
}
