//! A device is signed out or removed: its keys and what waited for it go with it.

use appliance_ledger::keyspaces::{
    CLAIMED_KEYS, CROSS_SIGNING, DEVICE_KEYS, Keyspace, ONE_TIME_KEY_IDS, ONE_TIME_KEYS,
    SENT_TO_DEVICE, STOCKS, TO_DEVICE,
};
use appliance_ledger::{Commit, Direction, KeyPart, Row};
use appliance_model::{DeviceNid, Error, UserNid};

use super::{KeyNews, Keys};

/// Rows per page while collecting what goes.
const PAGE: usize = 1_000;

impl Keys {
    /// Adds to `commit` that a device is no more: its identity, one-time and fallback keys and the
    /// messages waiting for it go, and its user's device list changes. Call it in the commit that
    /// removes the device, for several devices if need be: until that commit is answered, nothing
    /// new is written for any device.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn forget_device(
        &self,
        user: UserNid,
        device: DeviceNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        commit.hold(self.leave().await);
        let keys = self.house.ledger.get(&DEVICE_KEYS, &(user, device)).await?;
        let news = keys.map(|keys| KeyNews::device(keys.device_id)).unwrap_or_default();
        if !news.devices.is_empty() {
            commit.delete(&DEVICE_KEYS, &(user, device));
        }
        self.delete_all(&ONE_TIME_KEYS, device, commit).await?;
        self.delete_all(&ONE_TIME_KEY_IDS, device, commit).await?;
        self.delete_all(&CLAIMED_KEYS, device, commit).await?;
        self.delete_all(&TO_DEVICE, device, commit).await?;
        commit.delete(&STOCKS, &device);
        commit.delete(&SENT_TO_DEVICE, &device);
        self.device_list_changed(user, news, commit).await
    }

    /// Adds to `commit` that an account is closed: nobody signs or is signed in its name any more, and
    /// its key backups go; a job deletes what is in them. Its devices go by
    /// [`Keys::forget_device`].
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn forget_user(&self, user: UserNid, commit: &mut Commit) -> Result<(), Error> {
        commit.hold(self.leave().await);
        commit.hold(self.doors.enter(user.0).await);
        for (code, _) in self.signing_keys(user).await? {
            commit.delete(&CROSS_SIGNING, &(user, code));
        }
        self.withdraw_trust(user, commit).await?;
        self.give_up_backups(user, commit).await?;
        self.device_list_changed(user, KeyNews::signing_keys(), commit).await
    }

    async fn delete_all<K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        device: DeviceNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let end = DeviceNid(device.0 + 1).to_key();
        let mut from = device.to_key();
        loop {
            let range = (&Bytes(from), &Bytes(end.clone()));
            let (rows, more) = view.scan_between(keyspace, range, Direction::Forward, PAGE).await?;
            for (key, _) in &rows {
                commit.delete(keyspace, key);
            }
            match rows.last() {
                Some((key, _)) if more => {
                    from = key.to_key();
                    // The smallest key after the last one.
                    from.push(0);
                }
                _ => return Ok(()),
            }
        }
    }
}

/// The bytes of a key, whatever its type.
struct Bytes(Vec<u8>);

impl KeyPart for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self(std::mem::take(bytes).to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use appliance_engine::{KeyRange, Read, Space};
    use appliance_ledger::keyspaces::DEVICES;
    use appliance_model::Kind;
    use appliance_rules::Permit;
    use serde_json::json;

    use super::*;
    use crate::keys::backup::NewBackup;
    use crate::keys::scene::{
        Identity, all_of, another_device, device_keys, one_time_key, one_time_keys, raw_json,
        sign_out, to_device, upload, value,
    };
    use crate::scenario::Ward;

    const OF_DEVICES: [Space; 7] = [
        DEVICE_KEYS.space,
        SENT_TO_DEVICE.space,
        ONE_TIME_KEYS.space,
        ONE_TIME_KEY_IDS.space,
        CLAIMED_KEYS.space,
        STOCKS.space,
        TO_DEVICE.space,
    ];

    async fn rows_of_devices(ward: &Ward) -> Vec<usize> {
        let mut counts = Vec::new();
        for space in OF_DEVICES {
            let range = KeyRange::prefix(&[]);
            let page = ward.engine.scan(space, &range, Direction::Forward, 10_000).await;
            counts.push(page.unwrap().rows.len());
        }
        counts
    }

    #[tokio::test]
    async fn nothing_of_a_device_stays_and_others_hear_of_it() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        keys.send_to_device(&doctor, &to_device("m.test", "first", json!({}))).await.unwrap();
        let before = rows_of_devices(&ward).await;
        let tablet = another_device(&ward, &nurse, "TABLET").await;
        let body = json!({
            "device_keys": device_keys(&tablet, "1"),
            "one_time_keys": one_time_keys(&["a", "b"]),
            "fallback_keys": { "signed_curve25519:f": one_time_key("f") },
        });
        keys.upload(&tablet, &upload(body)).await.unwrap();
        let claims = [("TABLET".to_owned(), "signed_curve25519".to_owned())].into();
        keys.claim(&doctor, [(tablet.user_id.clone(), claims)].into()).await.unwrap();
        let messages = json!({ tablet.user_id.as_str(): { "TABLET": {} } });
        // More than one page of what is collected.
        for txn in 0..=PAGE {
            let request = to_device("m.test", &txn.to_string(), messages.clone());
            keys.send_to_device(&doctor, &request).await.unwrap();
        }
        keys.send_to_device(&tablet, &to_device("m.test", "1", json!({}))).await.unwrap();
        assert!(rows_of_devices(&ward).await.iter().all(|count| *count > 0));

        let position = ledger.position();
        sign_out(&ward, &tablet).await;
        assert_eq!(rows_of_devices(&ward).await, before);
        let changes = keys.device_list_changes(position, ledger.position()).await.unwrap();
        assert_eq!(changes, [nurse.user]);
        let again = to_device("m.test", "after", messages);
        keys.send_to_device(&doctor, &again).await.unwrap();
        assert_eq!(rows_of_devices(&ward).await, before, "nothing is kept for who is gone");
    }

    /// Two devices go in one commit while a colleague sends to both.
    #[tokio::test]
    async fn messages_on_their_way_do_not_outlive_their_device() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        keys.send_to_device(&doctor, &to_device("m.test", "first", json!({}))).await.unwrap();
        let before = rows_of_devices(&ward).await;
        let devices = [
            another_device(&ward, &nurse, "ONE").await,
            another_device(&ward, &nurse, "TWO").await,
        ];
        let mut commit = ledger.begin(Permit::housekeeping());
        for device in &devices {
            commit.delete(&DEVICES, &(device.user, device.device_id.to_string()));
            keys.forget_device(device.user, device.device, &mut commit).await.unwrap();
        }
        let content = json!({ nurse.user_id.as_str(): { "ONE": {}, "TWO": {} } });
        let request = to_device("m.test", "1", content);
        let sending = keys.send_to_device(&doctor, &request);
        tokio::pin!(sending);
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut sending).await;
        assert!(waited.is_err(), "it waits until it is clear who is there");
        ledger.commit(commit).await.unwrap();
        sending.await.unwrap();
        assert_eq!(rows_of_devices(&ward).await, before);
    }

    #[tokio::test]
    async fn nothing_is_signed_or_restored_in_the_name_of_a_closed_account() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        let [mine, theirs] = [Identity::new(1), Identity::new(30)];
        keys.publish_signing_keys(&nurse, &mine.request(&nurse.user_id), false).await.unwrap();
        keys.publish_signing_keys(&doctor, &theirs.request(&doctor.user_id), false).await.unwrap();
        let [mut master, ..] = theirs.published(&doctor.user_id);
        mine.user_signing.sign(&mut master, &nurse.user_id, &mine.user_signing.public_key);
        let signed = [(theirs.master.public_key.clone(), raw_json(&master))].into();
        let signed = [(doctor.user_id.clone(), signed)].into();
        assert!(keys.add_signatures(&nurse, signed).await.unwrap().is_empty());
        let auth_data = raw_json(&json!({}));
        let backup = NewBackup { algorithm: "a".to_owned(), auth_data, version: None };
        keys.create_backup(&nurse, backup).await.unwrap();

        let mut commit = ledger.begin(Permit::housekeeping());
        keys.forget_user(nurse.user, &mut commit).await.unwrap();
        let before = ledger.position();
        ledger.commit(commit).await.unwrap();
        let found = keys.query(&nurse, all_of(&nurse)).await.unwrap();
        assert!(found.master_keys.is_empty() && found.user_signing_keys.is_empty());
        let found = keys.query(&nurse, all_of(&doctor)).await.unwrap();
        let master = value(&found.master_keys[&doctor.user_id]);
        assert_eq!(master["signatures"], json!({}));
        let missing = keys.backup_info(&nurse, None).await.unwrap_err();
        assert_eq!(missing.kind, Kind::NotFound);
        let changes = keys.device_list_changes(before, ledger.position()).await.unwrap();
        assert_eq!(changes, [nurse.user]);
    }
}
