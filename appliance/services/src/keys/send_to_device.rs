//! `PUT /sendToDevice/{eventType}/{txnId}` ([spec]): one device sends messages to others.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::{
    DEVICES, INBOUND_TXN_TIMES, INBOUND_TXNS, SENT_TO_DEVICE, TO_DEVICE,
};
use appliance_ledger::rows::InboundTxnRow;
use appliance_ledger::rows::keys::ToDeviceRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::api::client::to_device::send_event_to_device::v3::Request;
use appliance_model::ruma::events::AnyToDeviceEventContent;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::to_device::DeviceIdOrAllDevices;
use appliance_model::ruma::{OwnedUserId, ServerName, UserId};
use appliance_model::{Caller, DeviceNid, EVENT_BYTES_MAX, Error, UserNid};
use appliance_rules::keys::{may_send_to_devices, server_may_send_to_devices};
use serde::Deserialize;
use serde_json::json;

use super::Keys;
use super::part::is_key_share;
use super::signed::push_text;

/// "`type` … MUST NOT exceed 255 bytes" (size limits).
const TYPE_BYTES_MAX: usize = 255;
/// Requests remembered per device: clients repeat one before they send the next few. 2 KB.
const TXNS_KEPT_MAX: usize = 128;
/// Devices one request may reach: every device of a large house.
const RECIPIENTS_MAX: usize = 20_000;
/// What one request may write, `*` counted for each device: bounds the commit and the memory.
const WRITTEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Devices of one user that `*` reaches.
const DEVICES_REACHED_MAX: usize = 1_000;

/// 178 bits: two messages never have the same.
const MESSAGE_ID_LETTERS: usize = 30;

/// Users, devices, contents.
type ByUser = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>>;

/// The content of `m.direct_to_device` ([spec]).
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging
#[derive(Debug, Deserialize)]
pub struct FromAfar {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    messages: ByUser,
}

type Messages<'a> = BTreeMap<(UserNid, DeviceNid), &'a str>;

impl Keys {
    /// Puts messages into the queues of devices; returns when they would survive a power cut. All
    /// recipients get theirs in one commit, or are owed it if they are another server's. Repeating
    /// `txn_id` from the same device and for the same type sends nothing. Devices that do not exist
    /// are passed over: the sender cannot know who is signed in. So are, for what brings keys, those that the house
    /// keeps out of encryption: a refusal would keep the keys from all others whom the same request names.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: keys from a device that the house keeps out of encryption.
    /// * [`appliance_model::Kind::BadJson`]: a message is no JSON object.
    /// * [`appliance_model::Kind::TooLarge`]: a message is larger than an event may be, or all of
    ///   them together are larger than 32 MiB or go to more than 20,000 devices.
    pub async fn send_to_device(&self, caller: &Caller, request: &Request) -> Result<(), Error> {
        let kind = request.event_type.to_string();
        if kind.len() > TYPE_BYTES_MAX {
            return Err(Error::too_large("The event type is longer than 255 bytes."));
        }
        check_messages(&request.messages)?;
        if is_key_share(&kind) {
            self.check_takes_part(caller)?;
        }
        let ledger = &self.house.ledger;
        // One at a time per sender: so a repeated request finds the first, and what one device sends
        // arrives in the order it was sent.
        let staying = self.stay().await;
        let door = self.doors.enter(caller.device.0).await;
        let parts = [b"sendToDevice", kind.as_bytes(), request.txn_id.as_bytes()];
        let txn = ledger.digest(&parts);
        let mut sent = ledger.get(&SENT_TO_DEVICE, &caller.device).await?.unwrap_or_default();
        if sent.digests.chunks_exact(txn.len()).any(|known| known == txn) {
            return Ok(());
        }
        let beyond = (sent.digests.len() / txn.len() + 1).saturating_sub(TXNS_KEPT_MAX);
        sent.digests.drain(..beyond * txn.len());
        sent.digests.extend(txn);
        let messages = self.addressed(&kind, &request.messages).await?;
        let mut commit = ledger.begin(may_send_to_devices(caller));
        commit.hold((door, staying));
        let at_ms = self.house.clock.now_ms();
        commit.put(&SENT_TO_DEVICE, &caller.device, &sent);
        deliver(&mut commit, (&caller.user_id, &kind), messages, at_ms)?;
        self.owe_others((&caller.user_id, &kind), &request.messages, &mut commit)?;
        ledger.commit(commit).await?;
        Ok(())
    }

    /// Puts messages of another server's user into the queues of devices here. A message that came
    /// before is passed over.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: the sender is not the server's.
    /// * [`appliance_model::Kind::BadJson`], [`appliance_model::Kind::TooLarge`]: as in
    ///   [`Keys::send_to_device`].
    pub async fn receive_to_device(
        &self,
        origin: &ServerName,
        message: FromAfar,
    ) -> Result<(), Error> {
        let permit = server_may_send_to_devices(origin, &message.sender)
            .ok_or_else(|| Error::forbidden("A server sends in the name of its own users."))?;
        if message.kind.len() > TYPE_BYTES_MAX || message.message_id.len() > TYPE_BYTES_MAX {
            return Err(Error::too_large("The type or the ID is longer than 255 bytes."));
        }
        check_messages(&message.messages)?;
        let parts = [b"message", origin.as_bytes(), message.message_id.as_bytes()];
        let digest = self.house.ledger.digest(&parts);
        let staying = self.stay().await;
        // The same transaction twice at once, or again after a restart: the second finds the first.
        let number = digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        let door = self.doors.enter(number).await;
        if self.house.ledger.get(&INBOUND_TXNS, &digest).await?.is_some() {
            return Ok(());
        }
        let messages = self.addressed(&message.kind, &message.messages).await?;
        if !messages.is_empty() {
            let mut commit = self.house.ledger.begin(permit);
            commit.hold((door, staying));
            let at_ms = self.house.clock.now_ms();
            deliver(&mut commit, (&message.sender, &message.kind), messages, at_ms)?;
            // Remembered as long as transactions are, and forgotten with them.
            commit.put(&INBOUND_TXNS, &digest, &InboundTxnRow { answer: String::new(), at_ms });
            commit.put(&INBOUND_TXN_TIMES, &(at_ms, digest), &());
            self.house.ledger.commit(commit).await?;
        }
        Ok(())
    }

    /// Owes other servers what is for their users: one message for each user, so that none is large.
    fn owe_others(
        &self,
        (sender, kind): (&UserId, &str),
        messages: &ByUser,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        for (user_id, by_device) in messages {
            if self.house.is_ours(user_id) {
                continue;
            }
            let content = json!({
                "sender": sender,
                "type": kind,
                "message_id": self.house.dice.letters(MESSAGE_ID_LETTERS),
                "messages": { user_id.as_str(): by_device },
            });
            let servers = vec![user_id.server_name().to_owned()];
            self.house.owe_edu(servers, "m.direct_to_device", &content, commit);
        }
        Ok(())
    }

    /// What goes to which device.
    async fn addressed<'a>(&self, kind: &str, by_user: &'a ByUser) -> Result<Messages<'a>, Error> {
        let mut messages = Messages::new();
        let (mut recipients, mut bytes) = (0, 0);
        for (user_id, by_device) in by_user {
            if !self.house.is_ours(user_id) {
                continue;
            }
            let Some(user) = self.house.ledger.user(user_id).await? else { continue };
            let mut of_user = Messages::new();
            // "The device ID may also be `*`, meaning all known devices for the user"; sorted last,
            // so a message for one device goes before that for all.
            for (device, content) in by_device {
                for device in self.devices_meant(user, device).await? {
                    of_user.entry((user, device)).or_insert(content.json().get());
                }
            }
            if is_key_share(kind) {
                let numbers: Vec<_> = of_user.keys().map(|(_, device)| *device).collect();
                let mut kept_out = self.house.kept_out(&numbers).await?.into_iter();
                of_user.retain(|_, _| kept_out.next() == Some(false));
            }
            recipients += of_user.len();
            bytes += of_user.values().map(|content| content.len()).sum::<usize>();
            if recipients > RECIPIENTS_MAX || bytes > WRITTEN_BYTES_MAX {
                return Err(Error::too_large(
                    "This is too much for one request. Send it in parts.",
                ));
            }
            messages.append(&mut of_user);
        }
        Ok(messages)
    }

    async fn devices_meant(
        &self,
        user: UserNid,
        device: &DeviceIdOrAllDevices,
    ) -> Result<Vec<DeviceNid>, Error> {
        let ledger = &self.house.ledger;
        Ok(match device {
            DeviceIdOrAllDevices::DeviceId(device_id) => {
                let row = ledger.get(&DEVICES, &(user, device_id.to_string())).await?;
                row.into_iter().map(|row| DeviceNid(row.device)).collect()
            }
            DeviceIdOrAllDevices::AllDevices => {
                let view = ledger.newest();
                let (rows, _) =
                    view.scan(&DEVICES, &user, Direction::Forward, DEVICES_REACHED_MAX).await?;
                rows.into_iter().map(|(_, row)| DeviceNid(row.device)).collect()
            }
        })
    }
}

fn check_messages(messages: &ByUser) -> Result<(), Error> {
    for content in messages.values().flat_map(BTreeMap::values) {
        let json = content.json().get();
        if !json.starts_with('{') {
            return Err(Error::bad_json("A message to a device must be a JSON object."));
        }
        if json.len() > EVENT_BYTES_MAX {
            return Err(Error::too_large("A message to a device is larger than 65,536 bytes."));
        }
    }
    Ok(())
}

/// Adds messages to `commit`, all at one position, and wakes their devices.
fn deliver(
    commit: &mut Commit,
    (sender, kind): (&UserId, &str),
    messages: Messages<'_>,
    at_ms: u64,
) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut tail = ",\"sender\":".to_owned();
    push_text(&mut tail, sender.as_str())?;
    tail.push_str(",\"type\":");
    push_text(&mut tail, kind)?;
    tail.push('}');
    // Nearly every message is encrypted for one device alone, so each queue holds its own copy.
    let rows: Vec<_> = messages
        .into_iter()
        .map(|(device, content)| {
            (device, ToDeviceRow { json: format!("{{\"content\":{content}{tail}"), at_ms })
        })
        .collect();
    commit.touched().devices.extend(rows.iter().map(|(device, _)| *device));
    commit.stamp(move |position, out| {
        for ((_, device), row) in rows {
            out.put(&TO_DEVICE, &(device, position), &row);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use appliance_model::{Kind, Position};
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::scene::{another_device, to_device, value};
    use crate::scenario::Ward;

    /// Everything that waits for a device.
    async fn inbox(ward: &Ward, device: &Caller) -> Vec<Value> {
        let all = (Position(0), Position(u64::MAX - 1));
        let keys = &ward.services.keys;
        let (messages, more) = keys.to_device(device.device, all.0, all.1, 1_000).await.unwrap();
        assert!(!more);
        messages.iter().map(|(_, json)| value(json)).collect()
    }

    #[tokio::test]
    async fn one_device_or_all_of_a_user_get_it_once_whatever_is_repeated() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let tablet = another_device(&ward, &doctor, "TABLET").await;
        let messages =
            json!({ doctor.user_id.as_str(): { "*": { "n": 1 }, "TABLET": { "n": 2 } } });
        let request = to_device("m.test", "txn-1", messages.clone());
        ward.services.keys.send_to_device(&nurse, &request).await.unwrap();

        let ward = ward.power_cut_and_restart().await;
        ward.services.keys.send_to_device(&nurse, &request).await.unwrap();
        let event = |n| {
            let sender = &nurse.user_id;
            json!({ "content": { "n": n }, "sender": sender, "type": "m.test" })
        };
        assert_eq!(inbox(&ward, &doctor).await, [event(1)]);
        assert_eq!(inbox(&ward, &tablet).await, [event(2)], "its own goes before that for all");

        let other_kind = to_device("m.other", "txn-1", messages.clone());
        ward.services.keys.send_to_device(&nurse, &other_kind).await.unwrap();
        let other_device = to_device("m.test", "txn-1", messages);
        ward.services.keys.send_to_device(&tablet, &other_device).await.unwrap();
        assert_eq!(inbox(&ward, &doctor).await.len(), 3, "IDs belong to device and path");
    }

    #[tokio::test]
    async fn the_same_request_twice_at_once_is_sent_once_and_order_is_kept() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        let send = |txn: usize| {
            let messages = json!({ doctor.user_id.as_str(): { "*": { "n": txn } } });
            let request = to_device("m.test", &txn.to_string(), messages);
            let nurse = &nurse;
            async move { keys.send_to_device(nurse, &request).await.unwrap() }
        };
        tokio::join!(send(0), send(0));
        send(0).await;
        for txn in 1..20 {
            send(txn).await;
        }
        let order: Vec<_> =
            inbox(&ward, &doctor).await.iter().map(|m| m["content"].clone()).collect();
        let expected: Vec<_> = (0..20).map(|n| json!({ "n": n })).collect();
        assert_eq!(order, expected);
    }

    #[tokio::test]
    async fn what_is_remembered_of_a_sender_stays_small() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let keys = &ward.services.keys;
        for txn in 0..TXNS_KEPT_MAX + 10 {
            let request = to_device("m.test", &txn.to_string(), json!({}));
            keys.send_to_device(&nurse, &request).await.unwrap();
        }
        let sent = keys.house.ledger.get(&SENT_TO_DEVICE, &nurse.device).await.unwrap().unwrap();
        assert_eq!(sent.digests.len(), TXNS_KEPT_MAX * 16);
        let position = keys.house.ledger.position();
        let newest = (TXNS_KEPT_MAX + 9).to_string();
        keys.send_to_device(&nurse, &to_device("m.test", &newest, json!({}))).await.unwrap();
        assert_eq!(keys.house.ledger.position(), position, "the newest is known");
    }

    #[tokio::test]
    async fn strangers_and_other_servers_are_passed_over() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let messages = json!({
            "@nobody:hospital.example": { "*": {} },
            "@lab:elsewhere.example": { "DEVICE": {} },
            nurse.user_id.as_str(): { "GONE": {} },
        });
        let request = to_device("m.test", "1", messages);
        ward.services.keys.send_to_device(&nurse, &request).await.unwrap();
        assert!(inbox(&ward, &nurse).await.is_empty());
    }

    #[tokio::test]
    async fn what_is_no_object_or_too_large_is_refused_whole() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        for (bad, kind) in [
            (json!(7), Kind::BadJson),
            (json!([]), Kind::BadJson),
            (json!({ "x": "x".repeat(70_000) }), Kind::TooLarge),
        ] {
            let messages = json!({
                doctor.user_id.as_str(): { "*": {} },
                nurse.user_id.as_str(): { "*": bad },
            });
            let request = to_device("m.test", "1", messages);
            let refused = ward.services.keys.send_to_device(&nurse, &request).await;
            assert_eq!(refused.unwrap_err().kind, kind);
        }
        let long = to_device(&"x".repeat(256), "1", json!({}));
        let refused = ward.services.keys.send_to_device(&nurse, &long).await;
        assert_eq!(refused.unwrap_err().kind, Kind::TooLarge);
        assert!(inbox(&ward, &doctor).await.is_empty());
    }
}
