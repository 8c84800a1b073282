//! Who takes part in end-to-end encryption.
//!
//! Where the house says `device.unmanaged_encryption = "none"`, sessions on devices that it does not look after do
//! not: nobody is shown their keys, so nobody encrypts for them; they publish none and share none, and have no
//! key backup. What they published before stays in the store, unseen, for the day on which they are enrolled or the
//! house changes its mind. The identities of people (cross-signing keys) are as they were.
//!
//! A device without a session is not meant: a frozen one is its owner's wherever they sign in next, and
//! one that an application service made is a program's.

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::{DEVICE_KEYS, SESSIONS};
use appliance_ledger::rows::keys::DeviceKeysRow;
use appliance_ledger::rows::policy::SessionRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::{Caller, DeviceNid, Error, Role, SessionClass, UserNid};
use appliance_rules::policy::{Effective, HousePolicy, may_encrypt};

use super::{KeyNews, Keys};
use crate::house::House;

/// Devices looked at in one trip when the policy changes.
const PAGE: usize = 500;

/// What brings keys, or anything else that is encrypted for one device.
const KEY_SHARES: [&str; 3] = ["m.room_key", "m.forwarded_room_key", "m.room.encrypted"];

/// Whether messages of this type bring keys to a device.
pub(super) fn is_key_share(kind: &str) -> bool {
    KEY_SHARES.contains(&kind)
}

impl House {
    /// Which of these devices take no part in encryption, in their order.
    pub(super) async fn kept_out(&self, devices: &[DeviceNid]) -> Result<Vec<bool>, Error> {
        // It is said for the whole house: roles make no difference.
        let policy = self.policy_for(Role::User);
        if !keeps_some_out(&policy) {
            return Ok(vec![false; devices.len()]);
        }
        let sessions = self.ledger.newest().get_many(&SESSIONS, devices).await?;
        Ok(sessions.iter().map(|row| self.is_kept_out(&policy, row.as_ref())).collect())
    }

    fn is_kept_out(&self, policy: &Effective, session: Option<&SessionRow>) -> bool {
        session.is_some() && may_encrypt(policy, self.class_in(session)).is_err()
    }
}

fn keeps_some_out(policy: &Effective) -> bool {
    SessionClass::ALL.into_iter().any(|class| may_encrypt(policy, class).is_err())
}

impl Keys {
    /// Whether the caller's session takes part. It is not put on record: apps that are refused their keys ask
    /// again with every sync, and the trail would hold little else.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if not.
    pub(crate) fn check_takes_part(&self, caller: &Caller) -> Result<(), Error> {
        may_encrypt(&self.house.policy_for(caller.role), caller.class).map_err(Error::forbidden)
    }

    /// Notes in `commit` that a session gets another class: if that lets its device in or keeps it out, others
    /// must hear of it.
    pub(crate) async fn class_changes(
        &self,
        (user, device_id): &(UserNid, String),
        device: DeviceNid,
        (from, to): (SessionClass, SessionClass),
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let policy = self.house.policy_for(Role::User);
        let is_same = may_encrypt(&policy, from).is_ok() == may_encrypt(&policy, to).is_ok();
        if is_same || self.house.ledger.get(&DEVICE_KEYS, &(*user, device)).await?.is_none() {
            return Ok(());
        }
        self.device_list_changed(*user, KeyNews::device(device_id), commit).await
    }

    /// Notes in `commit` that the house gets another policy: everybody must hear of the devices that it lets in or
    /// keeps out.
    pub(crate) async fn policy_changes(
        &self,
        (from, to): (&HousePolicy, &HousePolicy),
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let settings = self.house.settings_scope();
        let [from, to] = [from, to].map(|policy| policy.for_role(&settings, Role::User));
        if keeps_some_out(&from) == keeps_some_out(&to) {
            return Ok(());
        }
        let mut changed: BTreeMap<UserNid, KeyNews> = BTreeMap::new();
        let mut first = (UserNid(0), DeviceNid(0));
        loop {
            type Published = ((UserNid, DeviceNid), DeviceKeysRow);
            let view = self.house.ledger.newest();
            let range = (&first, &(UserNid(u64::MAX), DeviceNid(0)));
            let (rows, more): (Vec<Published>, _) =
                view.scan_between(&DEVICE_KEYS, range, Direction::Forward, PAGE).await?;
            let numbers: Vec<_> = rows.iter().map(|((_, device), _)| *device).collect();
            let sessions = view.get_many(&SESSIONS, &numbers).await?;
            for (((user, device), row), session) in rows.into_iter().zip(sessions) {
                first = (user, DeviceNid(device.0 + 1));
                let is_out = |policy| self.house.is_kept_out(policy, session.as_ref());
                if is_out(&from) != is_out(&to) {
                    changed.entry(user).or_default().devices.insert(row.device_id);
                }
            }
            if !more {
                break;
            }
        }
        for (user, news) in changed {
            self.device_list_changed(user, news, commit).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use appliance_ledger::keyspaces::DEVICE_KEYS;
    use appliance_ledger::rows::peers::{DeviceNews, EduRow};
    use appliance_model::{Kind, Position};
    use serde_json::{Value, json};

    use super::*;
    use crate::accounts::NewDehydrated;
    use crate::keys::backup::NewBackup;
    use crate::keys::scene::{
        Identity, all_of, another_device, device_keys, one_time_key, one_time_keys, raw_json,
        to_device, upload, value,
    };
    use crate::keys::{Claims, write_out};
    use crate::scenario::Ward;

    const DAY_MS: u64 = 86_400_000;

    async fn house_says(ward: &Ward, word: &str) {
        let pack = json!({ "server": { "device": { "unmanaged_encryption": word } } });
        ward.services.policy.set(&pack, "root").await.unwrap();
    }

    /// Shows the administrator's code on this device.
    async fn enrolled(ward: &Ward, caller: &Caller) -> Caller {
        let accounts = &ward.services.accounts;
        let made = accounts.make_enrolment_code(SessionClass::Managed, None, DAY_MS, "root").await;
        let class = accounts.enrol(caller, &caller.device_id, &made.unwrap()).await.unwrap();
        Caller { class, ..caller.clone() }
    }

    async fn publish(ward: &Ward, device: &Caller) {
        let body = json!({
            "device_keys": device_keys(device, "1"), "one_time_keys": one_time_keys(&["a", "b"]),
            "fallback_keys": { "signed_curve25519:f": one_time_key("f") },
        });
        ward.services.keys.upload(device, &upload(body)).await.unwrap();
    }

    /// The devices that a colleague, another server, and a claim of keys see.
    async fn seen(ward: &Ward, by: &Caller, owner: &Caller, all: &[&Caller]) -> [Vec<String>; 4] {
        let keys = &ward.services.keys;
        let user_id = &owner.user_id;
        let near =
            keys.query(by, all_of(owner)).await.unwrap().device_keys.remove(user_id).unwrap();
        let far = keys
            .query_for_server(all_of(owner))
            .await
            .unwrap()
            .device_keys
            .remove(user_id)
            .unwrap();
        let listed = keys.devices_for_server(user_id).await.unwrap();
        let listed = listed["devices"].as_array().unwrap().iter();
        let wanted =
            all.iter().map(|one| (one.device_id.to_string(), "signed_curve25519".to_owned()));
        let claims: Claims = [(user_id.clone(), wanted.collect())].into();
        let claimed =
            keys.claim(by, claims).await.unwrap().one_time_keys.remove(user_id).unwrap_or_default();
        [
            near.into_keys().collect(),
            far.into_keys().collect(),
            listed.map(|one| one["device_id"].as_str().unwrap().to_owned()).collect(),
            claimed.into_keys().collect(),
        ]
    }

    async fn waits(ward: &Ward, device: &Caller) -> Vec<String> {
        let keys = &ward.services.keys;
        let upto = ward.services.house.ledger.position();
        // One at a time, so that pages end between what is for the device and what is not.
        let (mut after, mut kinds) = (Position(0), Vec::new());
        loop {
            let (messages, more) = keys.to_device(device.device, after, upto, 1).await.unwrap();
            for (position, json) in &messages {
                after = *position;
                kinds.push(value(json)["type"].as_str().unwrap().to_owned());
            }
            if !more {
                return kinds;
            }
        }
    }

    /// What another server is told about a device.
    async fn told(ward: &Ward, device: &Caller) -> Value {
        let device_id = device.device_id.to_string();
        let news = DeviceNews { user: device.user.0, device_id, previous: None };
        let row = EduRow { device: Some(news), ..EduRow::default() };
        let edu = write_out(&ward.services.house, Position(1), row).await.unwrap().unwrap();
        serde_json::from_str::<Value>(&edu).unwrap()["content"].take()
    }

    #[tokio::test]
    async fn a_device_that_is_kept_out_is_shown_to_nobody_and_the_others_are_as_before() {
        let (ward, [phone, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let doctor = enrolled(&ward, &doctor).await;
        let tablet = enrolled(&ward, &another_device(&ward, &phone, "TABLET").await).await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        for device in [&phone, &tablet, &doctor] {
            publish(&ward, device).await;
        }
        let identity = Identity::new(1);
        keys.publish_signing_keys(&phone, &identity.request(&phone.user_id), false).await.unwrap();
        let mut signed = json!({ phone.user_id.as_str(): {} });
        for device in [&phone, &tablet] {
            let mut own = device_keys(device, "1");
            identity.self_signing.sign(&mut own, &phone.user_id, &identity.self_signing.public_key);
            signed[phone.user_id.as_str()][device.device_id.as_str()] = own;
        }
        let signed = serde_json::from_value(signed).unwrap();
        assert!(keys.add_signatures(&tablet, signed).await.unwrap().is_empty());
        let all = [&phone, &tablet];
        let both = |mut ids: Vec<String>| {
            ids.sort_unstable();
            ids
        };
        let ids = both(vec![phone.device_id.to_string(), "TABLET".to_owned()]);
        assert_eq!(
            seen(&ward, &doctor, &phone, &all).await.map(both),
            [(); 4].map(|()| ids.clone())
        );
        let before = keys.query(&doctor, all_of(&phone)).await.unwrap();

        let stand = ledger.position();
        house_says(&ward, "none").await;
        let changed = keys.device_list_changes(stand, ledger.position()).await.unwrap();
        assert_eq!(
            changed,
            [phone.user],
            "whoever has no other device than managed ones is as before"
        );
        let tablet_alone = [(); 4].map(|()| vec!["TABLET".to_owned()]);
        assert_eq!(seen(&ward, &doctor, &phone, &all).await, tablet_alone);
        assert_eq!(told(&ward, &phone).await["deleted"], true);
        assert_eq!(told(&ward, &tablet).await["keys"]["device_id"], "TABLET");
        let now = keys.query(&doctor, all_of(&phone)).await.unwrap();
        for (is, was) in [
            (&now.master_keys, &before.master_keys),
            (&now.self_signing_keys, &before.self_signing_keys),
        ] {
            assert_eq!(
                value(&is[&phone.user_id]),
                value(&was[&phone.user_id]),
                "the person is who they were"
            );
        }
        let of_tablet =
            |found: &crate::keys::QueriedKeys| value(&found.device_keys[&phone.user_id]["TABLET"]);
        assert_eq!(of_tablet(&now), of_tablet(&before), "with the owner's signature");

        // Again after a restart, and then as if nothing had been.
        let ward = ward.power_cut_and_restart().await;
        ward.services.house.policy.load(&ward.services.house.ledger).await.unwrap();
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        assert_eq!(seen(&ward, &doctor, &phone, &all).await, tablet_alone);
        let stand = ledger.position();
        house_says(&ward, "allow").await;
        assert_eq!(keys.device_list_changes(stand, ledger.position()).await.unwrap(), [phone.user]);
        let seen = seen(&ward, &doctor, &phone, &all).await.map(both);
        assert_eq!(seen, [(); 4].map(|()| ids.clone()));
        assert_eq!(told(&ward, &phone).await["keys"]["device_id"], phone.device_id.as_str());
    }

    #[tokio::test]
    async fn no_keys_reach_a_device_that_is_kept_out_and_all_else_does() {
        let (ward, [phone, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let doctor = enrolled(&ward, &doctor).await;
        let tablet = enrolled(&ward, &another_device(&ward, &phone, "TABLET").await).await;
        let keys = &ward.services.keys;
        let everywhere = json!({ phone.user_id.as_str(): { "*": {} } });
        let send = async |kind: &str, txn: &str| {
            keys.send_to_device(&doctor, &to_device(kind, txn, everywhere.clone())).await.unwrap();
        };
        for (number, kind) in
            ["m.room.encrypted", "m.room_key", "m.test", "m.room.encrypted"].iter().enumerate()
        {
            send(kind, &number.to_string()).await;
        }
        house_says(&ward, "none").await;
        assert_eq!(waits(&ward, &phone).await, ["m.test"], "nor what waited before");
        for kind in ["m.room_key", "m.forwarded_room_key", "m.room.encrypted", "m.room_key_request"]
        {
            send(kind, "later").await;
        }
        assert_eq!(waits(&ward, &phone).await, ["m.test", "m.room_key_request"]);
        assert_eq!(waits(&ward, &tablet).await.len(), 8, "the other device has all of it");
        let far = serde_json::from_value(json!({
            "sender": "@lab:elsewhere.example", "type": "m.room.encrypted", "message_id": "1",
            "messages": everywhere,
        }));
        keys.receive_to_device("elsewhere.example".try_into().unwrap(), far.unwrap())
            .await
            .unwrap();
        assert_eq!((waits(&ward, &phone).await.len(), waits(&ward, &tablet).await.len()), (2, 9));
    }

    #[tokio::test]
    async fn a_phone_that_is_kept_out_is_told_so_until_it_is_enrolled() {
        let (ward, [phone]) = Ward::with_members(["nurse"]).await;
        let (services, ledger) = (&ward.services, &ward.services.house.ledger);
        let (keys, accounts) = (&services.keys, &services.accounts);
        let tablet = enrolled(&ward, &another_device(&ward, &phone, "TABLET").await).await;
        publish(&ward, &phone).await;
        let backup = || NewBackup {
            algorithm: "m.megolm_backup.v1.curve25519-aes-sha2".to_owned(),
            auth_data: raw_json(&json!({})),
            version: None,
        };
        let version = keys.create_backup(&tablet, backup()).await.unwrap();
        let frozen = |id: &str| NewDehydrated {
            device_id: id.into(),
            display_name: None,
            data: "{}".to_owned(),
            keys: upload(json!({ "device_keys": device_keys(
                &Caller { device_id: id.into(), ..phone.clone() }, "1",
            ) })),
        };
        accounts.dehydrate(&tablet, frozen("FROZEN")).await.unwrap();

        house_says(&ward, "none").await;
        let request = upload(json!({ "one_time_keys": one_time_keys(&["c"]) }));
        let share =
            to_device("m.room.encrypted", "1", json!({ phone.user_id.as_str(): { "TABLET": {} } }));
        let identity = Identity::new(1).request(&phone.user_id);
        let room = appliance_model::ruma::room_id!("!r:hospital.example");
        let refusals = [
            keys.upload(&phone, &request).await.map(drop),
            keys.claim(&phone, Claims::new()).await.map(drop),
            keys.send_to_device(&phone, &share).await,
            keys.needs_proof(&phone, &identity).await.map(drop),
            keys.publish_signing_keys(&phone, &identity, true).await,
            keys.create_backup(&phone, backup()).await.map(drop),
            keys.backup_info(&phone, None).await.map(drop),
            keys.update_backup(&phone, &version, backup()).await,
            keys.store_room_keys(&phone, &version, [].into()).await.map(drop),
            keys.room_keys(&phone, &version, None, None).await.map(drop),
            keys.room_key(&phone, &version, room, "s").await.map(drop),
            keys.delete_room_keys(&phone, &version, None).await.map(drop),
            keys.delete_backup(&phone, &version).await,
            accounts.dehydrate(&phone, frozen("OTHER")).await,
            accounts.dehydrated(&phone).await.map(drop),
            accounts.dehydrated_events(&phone, "FROZEN", Position(0)).await.map(drop),
            accounts.discard_dehydrated(&phone).await.map(drop),
        ];
        for (number, refusal) in refusals.into_iter().enumerate() {
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.kind, Kind::Forbidden, "{number}");
            assert!(
                refusal.message.contains("devices that it looks after"),
                "{number}: {}",
                refusal.message
            );
        }
        keys.send_to_device(&tablet, &share).await.unwrap();
        assert_eq!(
            keys.backup_info(&tablet, None).await.unwrap().version,
            version,
            "it is all there"
        );
        let found = keys.query(&tablet, all_of(&tablet)).await.unwrap();
        let ids: Vec<_> = found.device_keys[&tablet.user_id].keys().collect();
        assert_eq!(ids, ["FROZEN"], "a frozen device is its owner's");

        let stand = ledger.position();
        let phone = enrolled(&ward, &phone).await;
        assert_eq!(keys.device_list_changes(stand, ledger.position()).await.unwrap(), [phone.user]);
        keys.upload(&phone, &request).await.unwrap();
        let found = keys.query(&tablet, all_of(&tablet)).await.unwrap();
        assert_eq!(found.device_keys[&tablet.user_id].len(), 2, "others see it at once");
        assert!(ledger.get(&DEVICE_KEYS, &(phone.user, phone.device)).await.unwrap().is_some());
    }
}
