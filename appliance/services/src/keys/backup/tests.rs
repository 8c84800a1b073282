//! Backups, played through.

#![cfg(test)]

use appliance_engine::{KeyRange, Read};
use appliance_ledger::Direction;
use appliance_ledger::keyspaces::BACKED_UP_KEYS;
use appliance_model::ruma::{RoomId, room_id};
use appliance_model::{Caller, Error, Kind};
use serde_json::{Value, json};

use super::{BackupState, NewBackup, RoomKeys};
use crate::keys::scene::{raw_json, value};
use crate::scenario::Ward;

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn new_backup(auth_data: Value) -> NewBackup {
    let auth_data = raw_json(&auth_data);
    NewBackup { algorithm: ALGORITHM.to_owned(), auth_data, version: None }
}

fn key(is_verified: bool, first_message_index: u64, forwarded_count: u64) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "is_verified": is_verified,
        "session_data": { "ciphertext": "abc", "mac": "def", "ephemeral": "ghi" },
    })
}

fn room() -> &'static RoomId {
    room_id!("!ward:hospital.example")
}

fn one(session_id: &str, key: &Value) -> RoomKeys {
    [(room().to_owned(), [(session_id.to_owned(), raw_json(key))].into())].into()
}

async fn store(
    ward: &Ward,
    caller: &Caller,
    version: &str,
    keys: RoomKeys,
) -> Result<BackupState, Error> {
    ward.services.keys.store_room_keys(caller, version, keys).await
}

async fn create(ward: &Ward, caller: &Caller) -> String {
    let new = new_backup(json!({ "public_key": "abc" }));
    ward.services.keys.create_backup(caller, new).await.unwrap()
}

async fn all_keys(
    ward: &Ward,
    caller: &Caller,
    version: &str,
    room: Option<&RoomId>,
) -> Vec<String> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = ward.services.keys.room_keys(caller, version, room, from).await.unwrap();
        found.extend(page.0.into_iter().map(|key| format!("{} {}", key.room_id, key.session_id)));
        match page.1 {
            Some(next) => from = Some(next),
            None => return found,
        }
    }
}

#[tokio::test]
async fn versions_are_made_changed_in_place_and_deleted_for_good() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let keys = &ward.services.keys;
    assert_eq!(keys.backup_info(&nurse, None).await.unwrap_err().kind, Kind::NotFound);
    let first = create(&ward, &nurse).await;
    let second = create(&ward, &nurse).await;
    assert_eq!(keys.backup_info(&nurse, None).await.unwrap().version, second);
    assert_eq!(keys.backup_info(&nurse, Some(&first)).await.unwrap().version, first);
    for nobodys in ["0", "3", "01", "-1", "x", "", "99999999999999999999999"] {
        let missing = keys.backup_info(&nurse, Some(nobodys)).await.unwrap_err();
        assert_eq!(missing.kind, Kind::NotFound, "{nobodys}");
    }
    assert_eq!(keys.backup_info(&doctor, Some(&first)).await.unwrap_err().kind, Kind::NotFound);

    let mut change = new_backup(json!({ "public_key": "abc", "signatures": {} }));
    keys.update_backup(&nurse, &second, change.clone()).await.unwrap();
    let info = keys.backup_info(&nurse, None).await.unwrap();
    assert_eq!((info.version.as_str(), info.etag.as_str(), info.count), (&*second, "0", 0));
    assert_eq!(value(&info.auth_data)["signatures"], json!({}));
    change.version = Some(first.clone());
    let refused = keys.update_backup(&nurse, &second, change.clone()).await.unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidParam, "the body names another version");
    change.version = Some(second.clone());
    keys.update_backup(&nurse, &second, change.clone()).await.unwrap();
    change.algorithm = "other".to_owned();
    let refused = keys.update_backup(&nurse, &second, change.clone()).await.unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidParam, "another algorithm");
    let missing = keys.update_backup(&nurse, "7", change).await.unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound);
    for bad in [json!([]), json!("x"), json!(null)] {
        let refused = keys.create_backup(&nurse, new_backup(bad)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::BadJson);
    }
    let large = new_backup(json!({ "x": "x".repeat(70_000) }));
    assert_eq!(keys.create_backup(&nurse, large).await.unwrap_err().kind, Kind::TooLarge);

    keys.delete_backup(&nurse, &second).await.unwrap();
    keys.delete_backup(&nurse, &second).await.unwrap();
    assert_eq!(keys.delete_backup(&nurse, "7").await.unwrap_err().kind, Kind::NotFound);
    let ward = ward.power_cut_and_restart().await;
    let keys = &ward.services.keys;
    assert_eq!(keys.backup_info(&nurse, None).await.unwrap().version, first);
    let missing = keys.backup_info(&nurse, Some(&second)).await.unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound);
    assert_eq!(create(&ward, &nurse).await, "3", "a version is not used again");
}

#[tokio::test]
async fn a_worse_key_replaces_nothing_and_the_etag_moves_only_with_a_key() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let version = create(&ward, &nurse).await;
    let cases = [
        (key(false, 5, 5), true, "the first"),
        (key(false, 5, 5), false, "the same"),
        (key(false, 5, 6), false, "forwarded more often"),
        (key(false, 6, 0), false, "begins later"),
        (key(false, 5, 4), true, "forwarded less often"),
        (key(false, 4, 9), true, "begins earlier"),
        (key(true, 9, 9), true, "verified"),
        (key(false, 0, 0), false, "not verified"),
        (key(true, 8, 20), true, "verified, begins earlier"),
    ];
    let (mut etag, mut kept) = ("0".to_owned(), Value::Null);
    for (key, is_better, why) in cases {
        let state = store(&ward, &nurse, &version, one("session", &key)).await.unwrap();
        assert_eq!((state.etag != etag, state.count), (is_better, 1), "{why}");
        etag = state.etag;
        kept = if is_better { key } else { kept };
        let keys = &ward.services.keys;
        let stored = keys.room_key(&nurse, &version, room(), "session").await.unwrap();
        assert_eq!(value(&stored), kept, "{why}");
    }
    let ward = ward.power_cut_and_restart().await;
    let info = ward.services.keys.backup_info(&nurse, None).await.unwrap();
    assert_eq!((info.etag, info.count), (etag, 1));
}

#[tokio::test]
async fn only_the_current_backup_takes_keys_and_only_keys() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let good = key(true, 0, 0);
    let missing = store(&ward, &nurse, "1", one("s", &good)).await.unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound, "there is none");
    let old = create(&ward, &nurse).await;
    let current = create(&ward, &nurse).await;
    let wrong = store(&ward, &nurse, &old, one("s", &good)).await.unwrap_err();
    assert_eq!(wrong.kind, Kind::WrongRoomKeysVersion { current_version: current.clone() });
    let missing = store(&ward, &nurse, "9", one("s", &good)).await.unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound);
    let missing = store(&ward, &doctor, &current, one("s", &good)).await.unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound, "backups are one's own");

    let with = |change: fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        one("s", &bad)
    };
    let cases = [
        (with(|key| *key = json!([])), Kind::BadJson),
        (with(|key| key["is_verified"] = json!(1)), Kind::BadJson),
        (with(|key| key["first_message_index"] = json!(-1)), Kind::BadJson),
        (with(|key| key["first_message_index"] = json!(1.5)), Kind::BadJson),
        (with(|key| key["forwarded_count"] = json!(u64::MAX)), Kind::BadJson),
        (with(|key| key["session_data"] = json!("x")), Kind::BadJson),
        (with(|key| key["session_data"] = json!({ "x": "x".repeat(20_000) })), Kind::TooLarge),
        (one("", &good), Kind::InvalidParam),
        (one(&"x".repeat(256), &good), Kind::InvalidParam),
    ];
    for (mut keys, kind) in cases {
        keys.get_mut(room()).unwrap().insert("good".to_owned(), raw_json(&good));
        let refused = store(&ward, &nurse, &current, keys).await.unwrap_err();
        assert_eq!(refused.kind, kind);
    }
    assert!(all_keys(&ward, &nurse, &current, None).await.is_empty(), "nothing was stored");
}

#[tokio::test]
async fn keys_come_back_by_room_in_pages_and_go_the_same_way() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let keys = &ward.services.keys;
    let version = create(&ward, &nurse).await;
    let other_room = room_id!("!other:elsewhere.example");
    let sessions =
        |count: usize| (0..count).map(|n| (format!("{n:04}"), raw_json(&key(true, 0, 0))));
    let all: RoomKeys = [
        (room().to_owned(), sessions(700).collect()),
        (other_room.to_owned(), sessions(3).collect()),
    ]
    .into();
    let state = store(&ward, &nurse, &version, all).await.unwrap();
    assert_eq!(state.count, 703);

    let found = all_keys(&ward, &nurse, &version, None).await;
    assert_eq!(found.len(), 703);
    let mut rooms: Vec<_> = found.iter().map(|key| key.split(' ').next().unwrap()).collect();
    rooms.dedup();
    assert_eq!(rooms.len(), 2, "those of one room are together");
    let of_other = all_keys(&ward, &nurse, &version, Some(other_room)).await;
    assert_eq!(of_other.len(), 3);
    let nowhere = all_keys(&ward, &nurse, &version, Some(room_id!("!no:h.example"))).await;
    assert!(nowhere.is_empty());
    let stranger = keys.room_keys(&doctor, &version, None, None).await.unwrap_err();
    assert_eq!(stranger.kind, Kind::NotFound);

    let one_less = keys.delete_room_key(&nurse, &version, other_room, "0001").await.unwrap();
    assert_eq!(one_less.count, 702);
    assert_ne!(one_less.etag, state.etag);
    let again = keys.delete_room_key(&nurse, &version, other_room, "0001").await.unwrap();
    assert_eq!(again, one_less, "it was gone already");
    let gone = keys.room_key(&nurse, &version, other_room, "0001").await.unwrap_err();
    assert_eq!(gone.kind, Kind::NotFound);
    let few = keys.delete_room_keys(&nurse, &version, Some(room())).await.unwrap();
    assert_eq!(few.count, 2);
    assert_eq!(all_keys(&ward, &nurse, &version, None).await.len(), 2);
    let none = keys.delete_room_keys(&nurse, &version, None).await.unwrap();
    assert_eq!(none.count, 0);
    assert_eq!(keys.delete_room_keys(&nurse, &version, None).await.unwrap(), none);
    let missing = keys.delete_room_keys(&nurse, "9", None).await.unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound);
}

/// The power goes between the deletion of a backup and that of its keys.
#[tokio::test]
async fn keys_of_a_deleted_backup_are_deleted_even_if_it_takes_two_attempts() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let version = create(&ward, &nurse).await;
    let sessions = (0..1_200).map(|n| (format!("{n}"), raw_json(&key(true, 0, 0))));
    let all = [(room().to_owned(), sessions.collect())].into();
    store(&ward, &nurse, &version, all).await.unwrap();
    let left = async |ward: &Ward| {
        let range = KeyRange::prefix(&[]);
        let page = ward.engine.scan(BACKED_UP_KEYS.space, &range, Direction::Forward, 9_999).await;
        page.unwrap().rows.len()
    };
    let commits = ward.engine.commits();
    let keys = ward.services.keys.clone();
    tokio::select! {
        biased;
        deleted = keys.delete_backup(&nurse, &version) => panic!("all at once: {deleted:?}"),
        () = async {
            while ward.engine.commits() < commits + 2 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let ward = ward.power_cut_and_restart().await;
    let keys = &ward.services.keys;
    assert_eq!(keys.backup_info(&nurse, None).await.unwrap_err().kind, Kind::NotFound);
    assert!((1..1_200).contains(&left(&ward).await), "some are left");
    assert_eq!(keys.tidy_backups().await.unwrap(), 1);
    assert_eq!(left(&ward).await, 0);
    assert_eq!(keys.tidy_backups().await.unwrap(), 0);
}

#[tokio::test]
async fn many_devices_filling_one_backup_at_once_are_all_counted() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let version = create(&ward, &nurse).await;
    ward.engine.delay_commits(std::time::Duration::from_millis(1));
    let stores = (0..20).map(|n| {
        let keys = one(&n.to_string(), &key(true, 0, 0));
        store(&ward, &nurse, &version, keys)
    });
    let states = futures_util::future::join_all(stores).await;
    let counts: std::collections::BTreeSet<_> =
        states.into_iter().map(|state| state.unwrap().count).collect();
    assert_eq!(counts, (1..=20).collect());
}
