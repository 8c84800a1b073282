//! What tests of keys need: uploads, a second device, real signatures.

#![cfg(test)]

use appliance_ledger::keyspaces::{DEVICES, SESSIONS};
use appliance_ledger::rows::policy::SessionRow;
use appliance_model::ruma::UserId;
use appliance_model::ruma::api::client::keys::upload_keys;
use appliance_model::ruma::api::client::to_device::send_event_to_device;
use appliance_model::ruma::api::{IncomingRequest, IncomingRequestExt};
use appliance_model::{Caller, Clock as _, DeviceNid};
use appliance_rules::Permit;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::signed::Signed;
use super::{NewSigningKeys, Queries, RawJson};
use crate::scenario::Ward;

/// Signs the caller's user in on another device.
pub async fn another_device(ward: &Ward, caller: &Caller, device_id: &str) -> Caller {
    let ledger = &ward.services.house.ledger;
    let known = (caller.user, caller.device_id.to_string());
    let mut row = ledger.get(&DEVICES, &known).await.unwrap().unwrap();
    row.device = ledger.next_number();
    row.display_name = Some(format!("{device_id}'s phone"));
    let device = DeviceNid(row.device);
    let mut commit = ledger.begin(Permit::housekeeping());
    commit.put(&DEVICES, &(caller.user, device_id.to_owned()), &row);
    let session = SessionRow {
        user: caller.user.0,
        device_id: device_id.to_owned(),
        class: caller.class.as_str().to_owned(),
        opened_ms: ward.clock.now_ms(),
    };
    commit.put(&SESSIONS, &device, &session);
    ledger.commit(commit).await.unwrap();
    Caller { device_id: device_id.into(), device, ..caller.clone() }
}

/// Removes a device, as signing out does.
pub async fn sign_out(ward: &Ward, caller: &Caller) {
    let ledger = &ward.services.house.ledger;
    let mut commit = ledger.begin(Permit::housekeeping());
    commit.delete(&DEVICES, &(caller.user, caller.device_id.to_string()));
    ward.services.keys.forget_device(caller.user, caller.device, &mut commit).await.unwrap();
    ledger.commit(commit).await.unwrap();
}

/// Identity keys of the caller's device; `salt` makes others.
pub fn device_keys(caller: &Caller, salt: &str) -> Value {
    let (user, device) = (&caller.user_id, &caller.device_id);
    json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): format!("curve{salt}"),
            format!("ed25519:{device}"): format!("ed{salt}"),
        },
        "signatures": { user.as_str(): { format!("ed25519:{device}"): "c2lnbmF0dXJl" } },
    })
}

/// A signed one-time key.
pub fn one_time_key(key: &str) -> Value {
    json!({ "key": key, "signatures": { "@x:y": { "ed25519:Z": "c2ln" } } })
}

/// One-time keys of these IDs.
pub fn one_time_keys(ids: &[&str]) -> Value {
    let keys = ids.iter().map(|id| (format!("signed_curve25519:{id}"), one_time_key(id)));
    Value::Object(keys.collect())
}

/// `POST /keys/upload` with this body.
pub fn upload(body: Value) -> upload_keys::v3::Request {
    request(body, &[])
}

/// `PUT /sendToDevice/{kind}/{txn}` with these messages.
pub fn to_device(kind: &str, txn: &str, messages: Value) -> send_event_to_device::v3::Request {
    request(json!({ "messages": messages }), &[kind, txn])
}

/// A query for all devices of one user.
pub fn all_of(caller: &Caller) -> Queries {
    [(caller.user_id.clone(), Vec::new())].into()
}

/// A request as it comes in.
pub fn request<R: IncomingRequest>(body: Value, path: &[&str]) -> R {
    let body = body.to_string();
    let request = http::Request::builder().method(R::METHOD).uri("/");
    let request = request.body(body.as_bytes()).unwrap();
    R::try_from_http_request(request, path).unwrap()
}

/// JSON that came out.
pub fn value(raw: &super::RawJson) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

/// A key that signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    /// Its public half.
    pub public_key: String,
}

impl Signer {
    /// The key of a seed.
    pub fn new(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public_key = STANDARD_NO_PAD.encode(pair.public_key().as_ref());
        Self { pair, public_key }
    }

    /// Adds this key's signature, as `user`'s key `id`.
    pub fn sign(&self, object: &mut Value, user: &UserId, id: &str) {
        let json = Signed::parse(&object.to_string(), 100_000).unwrap().json;
        let signature = STANDARD_NO_PAD.encode(self.pair.sign(json.as_bytes()).as_ref());
        object["signatures"][user.as_str()][format!("ed25519:{id}")] = signature.into();
    }

    /// This key as a cross-signing key.
    pub fn key(&self, user: &UserId, usage: &str) -> Value {
        let id = format!("ed25519:{}", self.public_key);
        json!({ "user_id": user, "usage": [usage], "keys": { id: self.public_key } })
    }
}

/// A person's three cross-signing keys.
pub struct Identity {
    /// Signs the other two.
    pub master: Signer,
    /// Signs devices.
    pub self_signing: Signer,
    /// Signs others.
    pub user_signing: Signer,
}

impl Identity {
    /// Three keys from a seed.
    pub fn new(seed: u8) -> Self {
        let [master, self_signing, user_signing] = [0, 1, 2].map(|n| Signer::new(seed + n));
        Self { master, self_signing, user_signing }
    }

    /// What a client publishes.
    pub fn published(&self, user: &UserId) -> [Value; 3] {
        let master = self.master.key(user, "master");
        let mut self_signing = self.self_signing.key(user, "self_signing");
        self.master.sign(&mut self_signing, user, &self.master.public_key);
        let mut user_signing = self.user_signing.key(user, "user_signing");
        self.master.sign(&mut user_signing, user, &self.master.public_key);
        [master, self_signing, user_signing]
    }

    /// The same as a request.
    pub fn request(&self, user: &UserId) -> NewSigningKeys {
        signing_keys(self.published(user).map(Some))
    }
}

/// A request to publish these keys.
pub fn signing_keys(keys: [Option<Value>; 3]) -> NewSigningKeys {
    let [master, self_signing, user_signing] = keys.map(|key| key.map(|key| raw_json(&key)));
    NewSigningKeys { master, self_signing, user_signing }
}

/// JSON as it comes in.
pub fn raw_json(value: &Value) -> RawJson {
    RawValue::from_string(value.to_string()).unwrap()
}
