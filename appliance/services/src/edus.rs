//! Messages between servers that are no events ([spec]): who is typing, who has read how far, who is
//! there, messages between devices, news of device lists.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#edus

use std::collections::BTreeMap;

use appliance_model::Error;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Services;
use crate::keys::FromAfar;
use crate::reading::{NewReceipt, PUBLIC};

/// Receipts and people in one message. Servers send about as many as there are in one transaction.
const ITEMS_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Edu<'a> {
    edu_type: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct Typing {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

/// Rooms, kinds of receipts, users.
type Receipts = BTreeMap<OwnedRoomId, BTreeMap<String, BTreeMap<OwnedUserId, Receipt>>>;

#[derive(Deserialize)]
struct Receipt {
    event_ids: Vec<OwnedEventId>,
    data: ReceiptData,
}

#[derive(Deserialize)]
struct ReceiptData {
    ts: Option<u64>,
    thread_id: Option<String>,
}

#[derive(Deserialize)]
struct Presence {
    push: Vec<PresenceOf>,
}

#[derive(Deserialize)]
struct PresenceOf {
    user_id: OwnedUserId,
    presence: PresenceState,
    status_msg: Option<String>,
}

#[derive(Deserialize)]
struct KeysChanged {
    user_id: OwnedUserId,
}

impl Services {
    /// Takes a message of another server's: `edu_type` and `content`. Whatever is in it that the server
    /// may not say is passed over; types that nobody knows are too.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::BadJson`] and others, for the journal: the sender is not told, because
    /// "EDUs … no acknowledgement". A transaction is not refused for it.
    pub async fn receive_edu(&self, origin: &ServerName, edu: &RawValue) -> Result<(), Error> {
        let Edu { edu_type, content } = read(edu)?;
        match edu_type.as_str() {
            "m.typing" => {
                let Typing { room_id, user_id, typing } = read(content)?;
                self.rooms.check_admitted(origin, &room_id).await?;
                self.reading.heard_typing(origin, (&room_id, &user_id), typing).await
            }
            "m.receipt" => self.receive_receipts(origin, read(content)?).await,
            "m.presence" => {
                let Presence { push } = read(content)?;
                for PresenceOf { user_id, presence, status_msg } in push.into_iter().take(ITEMS_MAX)
                {
                    self.reading.heard_presence(origin, &user_id, (presence, status_msg)).await?;
                }
                Ok(())
            }
            "m.direct_to_device" => {
                self.keys.receive_to_device(origin, read::<FromAfar>(content)?).await
            }
            "m.device_list_update" | "m.signing_key_update" | "org.matrix.signing_key_update" => {
                let KeysChanged { user_id } = read(content)?;
                if user_id.server_name() != origin {
                    return Err(Error::forbidden("A server speaks for its own users."));
                }
                self.keys.keys_changed_there(&user_id).await
            }
            _ => Ok(()),
        }
    }

    async fn receive_receipts(&self, origin: &ServerName, rooms: Receipts) -> Result<(), Error> {
        let mut last = Ok(());
        let mut left = ITEMS_MAX;
        for (room_id, mut kinds) in rooms {
            if let Err(error) = self.rooms.check_admitted(origin, &room_id).await {
                last = Err(error);
                continue;
            }
            for (user_id, receipt) in kinds.remove("m.read").unwrap_or_default() {
                // "The latest event ID that the user has read": old servers send several.
                let Some(event_id) = receipt.event_ids.last() else { continue };
                left = match left.checked_sub(1) {
                    Some(left) => left,
                    None => return last,
                };
                let thread = receipt.data.thread_id.as_deref().unwrap_or_default();
                let new = NewReceipt { kind: PUBLIC, event_id, thread };
                let at_ms = receipt.data.ts.unwrap_or(u64::MAX);
                // One that is wrong does not spoil the others.
                let heard = (room_id.as_ref(), user_id.as_ref());
                last = self.reading.heard_receipt(origin, heard, new, at_ms).await.and(last);
            }
        }
        last
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Result<T, Error> {
    serde_json::from_str(json.get()).map_err(|error| {
        Error::bad_json(format!("A message between servers is malformed: {error}"))
    })
}
