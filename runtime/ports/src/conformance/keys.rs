//! Clauses of [`ApiKeyStore`].

use troupe_core::Timestamp;

use super::Fixture;
use crate::keys::{ApiKey, ApiKeyStore, KeyError, KeyId, Role};

type KeyFixture<'a> = &'a dyn Fixture<dyn ApiKeyStore>;

/// Keys that want one name at once.
const RIVALS: u8 = 8;

fn key(number: u8, name: &str) -> ApiKey {
    ApiKey {
        id: KeyId([number; 8]),
        name: name.to_owned(),
        role: Role::ALL[usize::from(number) % Role::ALL.len()],
        secret: [number; 32],
        created_at: Timestamp(i64::from(number) * 10),
        created_by: Some("ada".to_owned()),
        expires_at: Some(Timestamp(1_000)),
        revoked_at: None,
        used_at: None,
    }
}

async fn create(keys: &dyn ApiKeyStore, key: ApiKey) {
    keys.create(key).await.expect("a key can be kept");
}

async fn get(keys: &dyn ApiKeyStore, number: u8) -> Option<ApiKey> {
    keys.get(KeyId([number; 8])).await.expect("a key can be read")
}

async fn revoke(keys: &dyn ApiKeyStore, number: u8, at: i64) -> Option<ApiKey> {
    let revoked = keys.revoke(KeyId([number; 8]), Timestamp(at)).await;
    revoked.expect("a key can be revoked")
}

async fn used(keys: &dyn ApiKeyStore, uses: &[(u8, i64)]) {
    let uses = uses.iter().map(|(number, at)| (KeyId([*number; 8]), Timestamp(*at)));
    keys.used(uses.collect()).await.expect("uses can be noted");
}

/// Every part of a key comes back, those that are absent too, also after reopening.
pub async fn keys_come_back_as_they_were_kept(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    let all: Vec<ApiKey> = (0..10)
        .map(|number| key(number, &format!("key {number} \u{1F511}")))
        .collect();
    for key in &all {
        create(&*keys, key.clone()).await;
    }
    let sparse = ApiKey {
        created_by: None,
        expires_at: None,
        id: KeyId([0xff; 8]),
        ..key(10, "sparse")
    };
    create(&*keys, sparse.clone()).await;
    drop(keys);
    let keys = fixture.open().await;
    for (number, key) in (0..10).zip(&all) {
        assert_eq!(get(&*keys, number).await.as_ref(), Some(key));
    }
    assert_eq!(get(&*keys, 0xff).await, Some(sparse));
    assert_eq!(get(&*keys, 77).await, None);
}

/// A caller that does not know whether a key was kept asks again; the key stays what it was.
pub async fn a_key_is_kept_once_and_does_not_change(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    create(&*keys, key(1, "ci")).await;
    create(&*keys, key(1, "ci")).await;
    let other = ApiKey {
        role: Role::Admin,
        secret: [9; 32],
        ..key(1, "other")
    };
    create(&*keys, other).await;
    assert_eq!(get(&*keys, 1).await, Some(key(1, "ci")));
}

/// A name tells who did something: no two keys in use have the same. A revoked key leaves its name, an expired one does not.
pub async fn a_name_belongs_to_one_key_that_is_not_revoked(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    create(&*keys, key(1, "ci")).await;
    let taken = keys.create(key(2, "ci")).await;
    assert!(
        matches!(taken, Err(KeyError::NameTaken { holder }) if holder == KeyId([1; 8])),
        "got {taken:?}"
    );
    assert_eq!(get(&*keys, 2).await, None);
    create(&*keys, key(3, "CI")).await;
    revoke(&*keys, 1, 50).await;
    create(&*keys, key(2, "ci")).await;
    let taken = keys.create(key(4, "ci")).await;
    assert!(
        matches!(taken, Err(KeyError::NameTaken { holder }) if holder == KeyId([2; 8])),
        "got {taken:?}"
    );
}

/// Of several keys that want a name at once one gets it.
pub async fn only_one_of_many_racing_keys_gets_a_name(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    for round in 0..5_u8 {
        let name = format!("name {round}");
        let rivals = (0..RIVALS).map(|rival| keys.create(key(round * RIVALS + rival + 1, &name)));
        let answers = futures::future::join_all(rivals).await;
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(won, 1, "{answers:?}");
        for answer in answers {
            assert!(
                matches!(answer, Ok(()) | Err(KeyError::NameTaken { .. })),
                "got {answer:?}"
            );
        }
    }
    let found = keys.list(None, 100).await.expect("keys can be listed");
    assert_eq!(found.len(), 5);
}

/// Pages of any size together give every key once, in order of id, revoked ones too.
pub async fn keys_are_paged_in_order_of_id(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    // From both sides of the sign bit.
    let numbers = [0x80, 0x01, 0xff, 0x7f, 0x42, 0xc0, 0x00];
    for number in numbers {
        create(&*keys, key(number, &format!("key {number}"))).await;
    }
    revoke(&*keys, 0x42, 7).await;
    let mut expected = numbers;
    expected.sort_unstable();
    for limit in [1, 3, 7, 50] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = keys.list(after, limit).await.expect("keys can be listed");
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page.into_iter().map(|key| key.id.0[0]));
        }
        assert_eq!(found, expected, "limit {limit}");
    }
}

/// A revocation lasts, and the first one stays.
pub async fn a_revocation_is_for_good(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    create(&*keys, key(1, "ci")).await;
    let expected = ApiKey {
        revoked_at: Some(Timestamp(50)),
        ..key(1, "ci")
    };
    assert_eq!(revoke(&*keys, 1, 50).await, Some(expected.clone()));
    assert_eq!(revoke(&*keys, 1, 20).await, Some(expected.clone()));
    assert_eq!(revoke(&*keys, 2, 50).await, None);
    // Keeping it again brings nothing back.
    create(&*keys, key(1, "ci")).await;
    drop(keys);
    let keys = fixture.open().await;
    assert_eq!(get(&*keys, 1).await, Some(expected));
}

/// Several members note uses of a key, each late and in any order: the latest one stays.
pub async fn a_use_never_goes_back(fixture: KeyFixture<'_>) {
    let keys = fixture.open().await;
    create(&*keys, key(1, "ci")).await;
    create(&*keys, key(2, "cd")).await;
    used(&*keys, &[]).await;
    used(&*keys, &[(1, 70), (9, 70)]).await;
    used(&*keys, &[(1, 60), (2, 65)]).await;
    let at = |key: Option<ApiKey>| key.and_then(|key| key.used_at).map(|at| at.0);
    assert_eq!(at(get(&*keys, 1).await), Some(70));
    assert_eq!(at(get(&*keys, 2).await), Some(65));
    assert_eq!(get(&*keys, 9).await, None);
}
