//! What tests of keys need: uploads, a second device, real signatures.

#![cfg(test)]

use appliance_ledger::keyspaces::DEVICES;
use appliance_model::ruma::api::client::keys::upload_keys;
use appliance_model::ruma::api::client::to_device::send_event_to_device;
use appliance_model::ruma::api::{IncomingRequest, IncomingRequestExt};
use appliance_model::{Caller, DeviceNid};
use appliance_rules::Permit;
use serde_json::{Value, json};

use super::Queries;
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
