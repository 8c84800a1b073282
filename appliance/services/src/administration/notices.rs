//! Server notices ([spec]): what the house tells somebody, in a room of their own that clients mark.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-notices

use appliance_ledger::keyspaces::{NOTICE_ROOMS, USER_ROOMS};
use appliance_ledger::membership;
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::room::create_room;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use appliance_model::{Caller, Error, Kind, RoomNid};
use appliance_rules::Permit;
use serde_json::{Value, json};

use super::{AccountView, Administration};
use crate::accounts::NewAccount;

const NAME: &str = "Server notices";
const TXN_ID_LENGTH: usize = 16;

/// What is said.
pub struct Notice {
    /// The event type.
    pub kind: String,
    /// The content, as JSON.
    pub content: String,
    /// So that a retry says it once.
    pub txn_id: Option<String>,
}

impl Administration {
    /// Says something to somebody in the name of the house; returns the event.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such account.
    pub async fn notify(
        &self,
        by: &str,
        user_id: &UserId,
        notice: Notice,
    ) -> Result<OwnedEventId, Error> {
        let reader = self.account(user_id).await?;
        if reader.row.deactivated {
            return Err(Error::not_found("This account is closed."));
        }
        let house = self.speaker(by).await?;
        let room_id = self.notice_room(&house, &reader).await?;
        let body = Raw::from_json_string(notice.content)
            .map_err(|_| Error::bad_json("`content` is an object."))?;
        let txn_id = notice.txn_id.unwrap_or_else(|| self.house.dice.letters(TXN_ID_LENGTH));
        let request = send_message_event::v3::Request::new_raw(
            room_id,
            txn_id.into(),
            notice.kind.into(),
            body,
        );
        self.rooms.send_event(&house, &request).await
    }

    /// The account that speaks for the house; made when it is needed first. No password opens it.
    async fn speaker(&self, by: &str) -> Result<Caller, Error> {
        let localpart = &self.house.options.notices_localpart;
        let user_id: OwnedUserId =
            UserId::parse_with_server_name(localpart.as_str(), &self.house.server_name)
                .map_err(Error::internal)?;
        match self.stand_in(&user_id).await {
            Err(Error { kind: Kind::NotFound, .. }) => {}
            found => return found,
        }
        let new = NewAccount {
            localpart: Some(localpart.clone()),
            displayname: Some(NAME.to_owned()),
            ..NewAccount::default()
        };
        self.accounts.open_account(new, by).await?;
        self.stand_in(&user_id).await
    }

    async fn notice_room(
        &self,
        house: &Caller,
        reader: &AccountView,
    ) -> Result<OwnedRoomId, Error> {
        let ledger = &self.house.ledger;
        if let Some(number) = ledger.get(&NOTICE_ROOMS, &reader.user).await? {
            let room = RoomNid(number);
            let room_id = ledger.room_id(room).await?;
            let row = ledger.get(&USER_ROOMS, &(reader.user, room)).await?;
            let is_in = row
                .is_some_and(|row| matches!(row.membership, membership::JOIN | membership::INVITE));
            if !is_in {
                self.rooms.invite(house, &room_id, &reader.user_id, None).await?;
            }
            return Ok(room_id);
        }
        let room_id = self.new_notice_room(house, &reader.user_id).await?;
        let missing = || Error::internal("a new room has no number");
        let room = ledger.room(&room_id).await?.ok_or_else(missing)?;
        let permit = Permit::administration("notices.opened", &house.user_id, &reader.user_id);
        let mut commit = ledger.begin(permit);
        commit.put(&NOTICE_ROOMS, &reader.user, &room.0);
        ledger.commit(commit).await?;
        // "m.server_notice: … clients may present it differently".
        let tag = json!({ "tags": { "m.server_notice": {} } }).to_string();
        let owner = (reader.user, reader.user_id.as_str());
        self.personal.set_account_data(owner, Some(room), "m.tag", &tag).await?;
        Ok(room_id)
    }

    async fn new_notice_room(&self, house: &Caller, reader: &UserId) -> Result<OwnedRoomId, Error> {
        let levels = json!({ "users_default": -10 });
        let mut request = create_room::v3::Request::new();
        request.name = Some(NAME.to_owned());
        request.invite = vec![reader.to_owned()];
        request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
        // What the house says to its people is nobody else's.
        let inside = json!({ "m.federate": false });
        request.creation_content =
            Some(Raw::from_json_string(inside.to_string()).map_err(Error::internal)?);
        request.power_level_content_override =
            Some(Raw::from_json_string(levels.to_string()).map_err(Error::internal)?);
        self.rooms.create_room(house, &request).await
    }

    /// Whether somebody is called to the room in which the house speaks to them, and has not come yet.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn calls_to_notices(&self, reader: &Caller, room_id: &RoomId) -> Result<bool, Error> {
        let ledger = &self.house.ledger;
        let kept = ledger.get(&NOTICE_ROOMS, &reader.user).await?.map(RoomNid);
        let room = ledger.room(room_id).await?;
        let Some(room) = room.filter(|room| kept == Some(*room)) else { return Ok(false) };
        let row = ledger.get(&USER_ROOMS, &(reader.user, room)).await?;
        Ok(row.is_some_and(|row| row.membership == membership::INVITE))
    }
}

/// A notice in plain words.
impl Notice {
    /// One from the parts that tools send.
    pub fn new(kind: Option<String>, content: &Value, txn_id: Option<String>) -> Self {
        let kind = kind.unwrap_or_else(|| "m.room.message".to_owned());
        Self { kind, content: content.to_string(), txn_id }
    }
}
