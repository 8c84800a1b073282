//! `POST /keys/device_signing/upload` ([spec]): a person publishes the keys that sign their devices
//! and those whom they trust.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload

use appliance_ledger::Commit;
use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{CROSS_SIGNING, DEVICE_KEYS, DEVICES, TRUST, TRUST_CHANGES};
use appliance_ledger::rows::keys::CrossSigningRow;
use appliance_model::ruma::encryption::{CrossSigningKey, KeyUsage};
use appliance_model::{Caller, Error, Kind, Position, UserNid};
use appliance_rules::Permit;

use super::query::{DEVICES_SHOWN_MAX, MASTER, SELF_SIGNING, USER_SIGNING};
use super::signed::{Signed, canonical, is_public_key, is_signed, merge_signatures, not_signed};
use super::{KeyNews, Keys, RawJson};

/// A cross-signing key is about 400 bytes, with the signatures of many devices some thousand.
const SIGNING_KEY_BYTES_MAX: usize = 16 * 1024;
/// Rows of trust per page while they are withdrawn.
const PAGE: usize = 1_000;

/// What somebody wants to publish; any of the three may be missing.
#[derive(Clone, Debug, Default)]
pub struct NewSigningKeys {
    /// Signs the other two.
    pub master: Option<RawJson>,
    /// Signs one's own devices.
    pub self_signing: Option<RawJson>,
    /// Signs others' master keys.
    pub user_signing: Option<RawJson>,
}

/// A key that was checked: what it is for, itself, its signatures.
struct Checked {
    code: u8,
    public_key: String,
    signed: Signed,
}

impl Keys {
    /// Whether the caller has to prove who they are before these keys may be published.
    ///
    /// "User-Interactive Authentication MUST be performed …, except: there is no existing master
    /// signing key …, or the request contains no new keys."
    ///
    /// # Errors
    ///
    /// As [`Keys::publish_signing_keys`] for keys that do not have the form they need, or a device that takes
    /// no part.
    pub async fn needs_proof(&self, caller: &Caller, new: &NewSigningKeys) -> Result<bool, Error> {
        self.check_takes_part(caller)?;
        let checked = check_all(caller, new)?;
        let known = self.signing_keys(caller.user).await?;
        Ok(replaces_any(&known, &checked))
    }

    /// Publishes cross-signing keys. A new master key ends what the old one vouched for; what was
    /// signed by a key that is replaced is withdrawn with it.
    ///
    /// # Errors
    ///
    /// * [`Kind::BadJson`], [`Kind::InvalidParam`], [`Kind::TooLarge`]: a key does not have the form
    ///   it needs.
    /// * [`Kind::InvalidSignature`]: a key is not signed by the master key.
    /// * [`Kind::MissingParam`]: there is no master key.
    /// * [`Kind::Forbidden`]: the house keeps the device out of encryption: an identity whose secret keys lie
    ///   there would be lost to its owner's other devices; a key has the name of a device; or it needs a proof that was not given
    ///   ([`Keys::needs_proof`]), because another key was published in between.
    pub async fn publish_signing_keys(
        &self,
        caller: &Caller,
        new: &NewSigningKeys,
        is_proven: bool,
    ) -> Result<(), Error> {
        self.check_takes_part(caller)?;
        let checked = check_all(caller, new)?;
        let staying = self.stay().await;
        self.check_still_signed_in(caller).await?;
        let door = self.doors.enter(caller.user.0).await;
        let known = self.signing_keys(caller.user).await?;
        if !is_proven && replaces_any(&known, &checked) {
            return Err(Error::forbidden(
                "Another of your devices has published keys meanwhile. Ask for them first.",
            ));
        }
        self.check_names(caller.user, &checked).await?;
        check_signed_by_master(caller, &known, &checked)?;

        let permit = Permit::own("signing_keys.published", &caller.user_id, &caller.device_id);
        let mut commit = self.house.ledger.begin(permit);
        commit.hold((door, staying));
        if self.put_signing_keys(caller, &known, checked, &mut commit).await? {
            let news = KeyNews::signing_keys();
            self.device_list_changed(caller.user, news, &mut commit).await?;
            self.house.ledger.commit(commit).await?;
        }
        Ok(())
    }

    /// The cross-signing keys of a user, with their codes.
    pub(super) async fn signing_keys(
        &self,
        user: UserNid,
    ) -> Result<Vec<(u8, CrossSigningRow)>, Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&CROSS_SIGNING, &user, Direction::Forward, 3).await?;
        Ok(rows.into_iter().map(|((_, code), row)| (code, row)).collect())
    }

    /// "403: The public key of one of the keys is the same as one of the user's device IDs": the two
    /// share one space of names in signatures.
    async fn check_names(&self, user: UserNid, checked: &[Checked]) -> Result<(), Error> {
        for key in checked {
            let as_device = (user, key.public_key.clone());
            if self.house.ledger.get(&DEVICES, &as_device).await?.is_some() {
                return Err(Error::forbidden("A device of yours has the name of this key."));
            }
        }
        Ok(())
    }

    async fn put_signing_keys(
        &self,
        caller: &Caller,
        known: &[(u8, CrossSigningRow)],
        checked: Vec<Checked>,
        commit: &mut Commit,
    ) -> Result<bool, Error> {
        let is_new =
            |key: &Checked| find(known, key.code).is_none_or(|old| old.json != key.signed.json);
        let mut is_changed = false;
        if checked.iter().any(|key| key.code == MASTER && is_new(key)) {
            for (code, row) in known.iter().filter(|(code, _)| *code != MASTER) {
                commit.delete(&CROSS_SIGNING, &(caller.user, *code));
                self.withdraw(caller, *code, row, commit).await?;
            }
        }
        for key in checked {
            let old = find(known, key.code);
            let mut signatures = key.signed.signatures;
            // "Signatures that the requesting user is allowed to see": others' come by another way.
            signatures.retain(|row| row.signer == caller.user_id.as_str());
            if let Some(old) = old {
                if old.json == key.signed.json {
                    let mut merged = old.signatures.clone();
                    if !merge_signatures(&mut merged, &signatures) {
                        continue;
                    }
                    signatures = merged;
                } else {
                    self.withdraw(caller, key.code, old, commit).await?;
                }
            }
            let Checked { code, public_key, signed: Signed { json, .. } } = key;
            let row = CrossSigningRow { public_key, json, signatures };
            commit.put(&CROSS_SIGNING, &(caller.user, code), &row);
            is_changed = true;
        }
        Ok(is_changed)
    }

    /// Takes back what a key has signed.
    async fn withdraw(
        &self,
        caller: &Caller,
        code: u8,
        key: &CrossSigningRow,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        if code == SELF_SIGNING {
            let key_id = format!("ed25519:{}", key.public_key);
            let (devices, _) = view
                .scan(&DEVICE_KEYS, &caller.user, Direction::Forward, DEVICES_SHOWN_MAX)
                .await?;
            for (place, mut row) in devices {
                let before = row.signatures.len();
                row.signatures.retain(|signature| {
                    signature.signer != caller.user_id.as_str() || signature.key_id != key_id
                });
                if row.signatures.len() != before {
                    commit.put(&DEVICE_KEYS, &place, &row);
                }
            }
        }
        if code == USER_SIGNING {
            self.withdraw_trust(caller.user, commit).await?;
        }
        Ok(())
    }

    /// Takes back all signatures of others' keys.
    pub(super) async fn withdraw_trust(
        &self,
        signer: UserNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let end = (UserNid(signer.0 + 1), UserNid(0));
        let mut from = (signer, UserNid(0));
        loop {
            let range = (&from, &end);
            let (rows, more) = view.scan_between(&TRUST, range, Direction::Forward, PAGE).await?;
            for (place, row) in &rows {
                commit.delete(&TRUST, place);
                commit.delete(&TRUST_CHANGES, &(signer, Position(row.position)));
            }
            match rows.last() {
                Some(((_, signed), _)) if more => from.1 = UserNid(signed.0 + 1),
                _ => return Ok(()),
            }
        }
    }
}

pub(super) fn find(known: &[(u8, CrossSigningRow)], code: u8) -> Option<&CrossSigningRow> {
    known.iter().find(|(of, _)| *of == code).map(|(_, row)| row)
}

/// Whether there is a master key already and something else than what is there is to be published.
fn replaces_any(known: &[(u8, CrossSigningRow)], checked: &[Checked]) -> bool {
    let is_other =
        |key: &Checked| find(known, key.code).is_none_or(|row| row.json != key.signed.json);
    find(known, MASTER).is_some() && checked.iter().any(is_other)
}

fn check_all(caller: &Caller, new: &NewSigningKeys) -> Result<Vec<Checked>, Error> {
    let all = [
        (MASTER, KeyUsage::Master, &new.master),
        (SELF_SIGNING, KeyUsage::SelfSigning, &new.self_signing),
        (USER_SIGNING, KeyUsage::UserSigning, &new.user_signing),
    ];
    let given = all.into_iter().filter_map(|(code, usage, key)| Some((code, usage, key.as_ref()?)));
    given.map(|(code, usage, key)| check(caller, code, &usage, key)).collect()
}

fn check(caller: &Caller, code: u8, usage: &KeyUsage, raw: &RawJson) -> Result<Checked, Error> {
    let signed = Signed::parse(raw.get(), SIGNING_KEY_BYTES_MAX)?;
    let key: CrossSigningKey = canonical(raw.get())?;
    if key.user_id != caller.user_id {
        return Err(Error::invalid_param("A cross-signing key must name the user it belongs to."));
    }
    if !key.usage.contains(usage) {
        return Err(Error::invalid_param("A cross-signing key has the usage of another."));
    }
    // "keys: … should have exactly one property. The property's name should be in the form
    // `<algorithm>:<unpadded_base64_public_key>`."
    let mut keys = key.keys.into_iter();
    let (Some((key_id, public_key)), None) = (keys.next(), keys.next()) else {
        return Err(Error::invalid_param("A cross-signing key has exactly one public key."));
    };
    if key_id.as_str() != format!("ed25519:{public_key}") || !is_public_key(&public_key) {
        return Err(Error::invalid_param("A cross-signing key is an Ed25519 key named by itself."));
    }
    Ok(Checked { code, public_key, signed })
}

/// "Must be signed by the accompanying master signing key, or by the user's most recently uploaded
/// master signing key".
fn check_signed_by_master(
    caller: &Caller,
    known: &[(u8, CrossSigningRow)],
    checked: &[Checked],
) -> Result<(), Error> {
    let new_master = checked.iter().find(|key| key.code == MASTER).map(|key| &key.public_key);
    let master = new_master.or(find(known, MASTER).map(|row| &row.public_key));
    let Some(master) = master else {
        return Err(Error::new(Kind::MissingParam, "There is no master key to begin with."));
    };
    for key in checked.iter().filter(|key| key.code != MASTER) {
        let by = format!("ed25519:{master}");
        let signature = key.signed.signature(caller.user_id.as_str(), &by);
        let holds = |row: &appliance_ledger::rows::keys::SignatureRow| {
            is_signed(&key.signed.json, master, &row.signature)
        };
        if !signature.is_some_and(holds) {
            return Err(not_signed("A key is not signed by the master key."));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::scene::{
        Identity, all_of, another_device, device_keys, raw_json, signing_keys, upload, value,
    };
    use crate::scenario::Ward;

    #[tokio::test]
    async fn the_first_keys_need_no_proof_the_same_neither_and_others_do() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        let first = Identity::new(1).request(&nurse.user_id);
        assert!(!keys.needs_proof(&nurse, &first).await.unwrap());
        keys.publish_signing_keys(&nurse, &first, false).await.unwrap();

        let ward = ward.power_cut_and_restart().await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        let position = ledger.position();
        assert!(!keys.needs_proof(&nurse, &first).await.unwrap());
        keys.publish_signing_keys(&nurse, &first, false).await.unwrap();
        assert_eq!(ledger.position(), position, "nothing was written");

        let other = Identity::new(9).request(&nurse.user_id);
        assert!(keys.needs_proof(&nurse, &other).await.unwrap());
        let refused = keys.publish_signing_keys(&nurse, &other, false).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden, "even if it slipped through");
        let [_, self_signing, _] = Identity::new(1).published(&nurse.user_id);
        let mut changed = self_signing;
        changed["extra"] = json!("new");
        Identity::new(1).master.sign(
            &mut changed,
            &nurse.user_id,
            &Identity::new(1).master.public_key,
        );
        let partly = signing_keys([None, Some(changed), None]);
        assert!(keys.needs_proof(&nurse, &partly).await.unwrap());

        keys.publish_signing_keys(&nurse, &other, true).await.unwrap();
        let found = keys.query(&doctor, all_of(&nurse)).await.unwrap();
        let [mut master, self_signing, _] = Identity::new(9).published(&nurse.user_id);
        master["signatures"] = json!({});
        assert_eq!(value(&found.master_keys[&nurse.user_id]), master);
        assert_eq!(value(&found.self_signing_keys[&nurse.user_id]), self_signing);
        assert!(found.user_signing_keys.is_empty(), "whom the nurse trusts is the nurse's own");
        let own = keys.query(&nurse, all_of(&nurse)).await.unwrap();
        assert_eq!(own.user_signing_keys.len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_signed_or_not_formed_is_refused() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let device = another_device(&ward, &nurse, &Identity::new(5).master.public_key).await;
        let good = Identity::new(1).published(&nurse.user_id);
        let of_doctor = Identity::new(1).published(&doctor.user_id);
        let of_other = Identity::new(20).published(&nurse.user_id);
        let with = |at: usize, change: &dyn Fn(&mut Value)| {
            let mut keys = good.clone().map(Some);
            change(keys[at].as_mut().unwrap());
            signing_keys(keys)
        };
        let [_, self_signing, user_signing] = good.clone();
        let cases = [
            (signing_keys([None, Some(self_signing), None]), Kind::MissingParam),
            (signing_keys([None, None, Some(user_signing)]), Kind::MissingParam),
            (signing_keys(of_doctor.map(Some)), Kind::InvalidParam),
            (with(1, &|key| *key = of_other[1].clone()), Kind::InvalidSignature),
            (with(2, &|key| key["signatures"] = json!({})), Kind::InvalidSignature),
            (with(1, &|key| key["usage"] = json!(["master"])), Kind::InvalidParam),
            (with(0, &|key| key["keys"] = json!({})), Kind::InvalidParam),
            (with(0, &|key| key["keys"] = json!({ "ed25519:a": "b" })), Kind::InvalidParam),
            (with(0, &|key| key["keys"] = json!({ "ed25519:b": "b" })), Kind::InvalidParam),
            (with(0, &|key| key["keys"] = json!(7)), Kind::BadJson),
            (with(0, &|key| key["more"] = "x".repeat(20_000).into()), Kind::TooLarge),
            (Identity::new(5).request(&nurse.user_id), Kind::Forbidden),
        ];
        for (request, kind) in cases {
            let refused = ward.services.keys.publish_signing_keys(&device, &request, true).await;
            assert_eq!(refused.unwrap_err().kind, kind, "{request:?}");
        }
        assert!(ward.services.keys.signing_keys(nurse.user).await.unwrap().is_empty());
    }

    /// Whoever resets their identity vouches for nobody and nothing until they do so again.
    #[tokio::test]
    async fn what_a_replaced_key_has_signed_is_withdrawn() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        let body = json!({ "device_keys": device_keys(&nurse, "1") });
        keys.upload(&nurse, &upload(body)).await.unwrap();
        let old = Identity::new(1);
        keys.publish_signing_keys(&nurse, &old.request(&nurse.user_id), false).await.unwrap();
        let theirs = Identity::new(30);
        keys.publish_signing_keys(&doctor, &theirs.request(&doctor.user_id), false).await.unwrap();
        let mut device = device_keys(&nurse, "1");
        old.self_signing.sign(&mut device, &nurse.user_id, &old.self_signing.public_key);
        let [mut master, ..] = theirs.published(&doctor.user_id);
        old.user_signing.sign(&mut master, &nurse.user_id, &old.user_signing.public_key);
        let signed = [
            (nurse.user_id.clone(), (nurse.device_id.to_string(), raw_json(&device))),
            (doctor.user_id.clone(), (theirs.master.public_key.clone(), raw_json(&master))),
        ];
        let signed = signed.map(|(user, key)| (user, [key].into())).into();
        assert!(keys.add_signatures(&nurse, signed).await.unwrap().is_empty());

        let count = async || {
            let own = keys.query(&nurse, all_of(&nurse)).await.unwrap();
            let device = value(&own.device_keys[&nurse.user_id][nurse.device_id.as_str()]);
            let of_device = device["signatures"][nurse.user_id.as_str()].as_object().unwrap().len();
            let theirs = keys.query(&nurse, all_of(&doctor)).await.unwrap();
            let master = value(&theirs.master_keys[&doctor.user_id]);
            (of_device, master["signatures"].as_object().unwrap().len())
        };
        assert_eq!(count().await, (2, 1));
        let new = Identity::new(60).published(&nurse.user_id);
        let new = signing_keys(new.map(Some));
        keys.publish_signing_keys(&nurse, &new, true).await.unwrap();
        assert_eq!(count().await, (1, 0));
        let all = (Position(0), ward.services.house.ledger.position());
        assert!(keys.signed_since(nurse.user, all.0, all.1).await.unwrap().is_empty());
    }
}
