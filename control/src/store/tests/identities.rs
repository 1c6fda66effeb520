use super::*;

fn token<'a>(secret_hash: &'a [u8], name: &'a str) -> NewToken<'a> {
    NewToken { cluster: "default", role: "node", name, secret_hash, expires: 100, author: "ada" }
}

fn certificate(serial: &str, role: &str, name: &str) -> CertificateRow {
    CertificateRow {
        serial: serial.to_owned(),
        cluster: "default".to_owned(),
        role: role.to_owned(),
        name: name.to_owned(),
        not_after: 500,
        revoked_at: None,
    }
}

#[tokio::test]
async fn a_token_is_redeemed_once_and_in_time() {
    let place = Place::new().await;
    place.store.create_token(token(b"one", "edge-1")).await.unwrap();
    place.store.create_token(token(b"two", "edge-2")).await.unwrap();
    assert!(place.store.create_token(token(b"one", "edge-3")).await.is_err(), "a secret stands for one name");
    assert_eq!(place.store.redeem_token(b"three", 50).await.unwrap(), None);
    let edge1 = TokenRow { cluster: "default".to_owned(), role: "node".to_owned(), name: "edge-1".to_owned() };
    assert_eq!(place.store.redeem_token(b"one", 50).await.unwrap(), Some(edge1));
    assert_eq!(place.store.redeem_token(b"one", 51).await.unwrap(), None, "used");
    assert_eq!(place.store.redeem_token(b"two", 100).await.unwrap(), None, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_redeem_a_token_one_gets_in() {
    let place = Place::new().await;
    place.store.create_token(token(b"one", "edge-1")).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = place.store.clone();
            tokio::spawn(async move { store.redeem_token(b"one", 50).await.unwrap().is_some() })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += u32::from(task.await.unwrap());
    }
    assert_eq!(admitted, 1);
}

#[tokio::test]
async fn certificates_are_revoked_by_serial_and_by_name() {
    let place = Place::new().await;
    let store = &place.store;
    for (serial, role, name) in
        [("01", "node", "edge-1"), ("02", "node", "edge-1"), ("03", "node", "edge-2"), ("04", "operator", "edge-1")]
    {
        store.add_certificate(certificate(serial, role, name)).await.unwrap();
    }
    assert!(store.add_certificate(certificate("01", "node", "edge-9")).await.is_err(), "serials are unique");
    assert_eq!(place.count("nodes").await, 2);

    assert_eq!(store.revoke("other", Revoke::Serial("01"), 9).await.unwrap(), 0, "clusters do not cross");
    assert_eq!(store.revoke("default", Revoke::Serial("01"), 9).await.unwrap(), 1);
    assert_eq!(store.revoke("default", Revoke::Serial("01"), 10).await.unwrap(), 0, "only once");
    let edge1 = Revoke::Name { role: "node", name: "edge-1" };
    assert_eq!(store.revoke("default", edge1, 11).await.unwrap(), 1);
    let revoked: Vec<_> =
        store.certificates("default").await.unwrap().into_iter().map(|row| (row.serial, row.revoked_at)).collect();
    let expected = [("01", Some(9)), ("02", Some(11)), ("03", None), ("04", None)];
    assert_eq!(revoked, expected.map(|(serial, at)| (serial.to_owned(), at)));
    assert!(store.is_revoked("01").await.unwrap());
    assert!(!store.is_revoked("03").await.unwrap());
    assert!(!store.is_revoked("99").await.unwrap());
    assert_eq!(store.certificates("other").await.unwrap(), []);
}
