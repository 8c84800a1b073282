//! What a room shows to people outside: name, topic, picture, how to get in ([summary]), and who may
//! look at that.
//!
//! [summary]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias

use appliance_ledger::keyspaces::{HEADS, ROOMS, USER_ROOMS};
use appliance_ledger::{Root, membership};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::history_visibility::HistoryVisibility;
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomVersionId};
use appliance_model::{Caller, Error, RoomNid};
use appliance_rules::restricted::rooms_that_open_by;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::visible::visibility_set_by;
use super::{Rooms, rules_of};

/// A room as people outside see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Face {
    /// Its ID.
    pub room_id: String,
    /// Its main alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic, as plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// How many are joined.
    pub num_joined_members: u64,
    /// Whether all may read it.
    pub world_readable: bool,
    /// Whether guests (of other servers: this one has none) may join.
    pub guest_can_join: bool,
    /// How to get in.
    pub join_rule: String,
    /// `m.space`, or what else it is made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// The rooms whose members may join.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// The algorithm, if it is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The room's version.
    pub room_version: String,
}

/// A room's face, and what the caller is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// What it shows.
    #[serde(flatten)]
    pub face: Face,
    /// What the caller is in it; none for strangers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
}

impl Face {
    /// Whether it is a room of rooms.
    pub fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some("m.space")
    }
}

impl Rooms {
    /// The summary of a room that the caller may look at; `via` are servers to ask about a room that
    /// this one is not in.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none: "servers … may wish to hide".
    pub async fn face_for(
        &self,
        caller: Option<&Caller>,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Summary, Error> {
        let unknown = || Error::not_found("There is no such room, or it is not for you to see.");
        let room = self.house.ledger.room(room_id).await?;
        let mut face = match room {
            Some(room) => self.face(room).await?,
            None => None,
        };
        if let Some(known) = &face
            && !self.may_look(caller, room, known).await?
        {
            face = None;
        }
        if let (None, Some(caller)) = (&face, caller) {
            face = self.face_elsewhere(caller, room_id, via).await?;
        }
        let face = face.ok_or_else(unknown)?;
        let membership = match caller {
            None => None,
            Some(caller) => {
                let row = match room {
                    Some(room) => self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?,
                    None => None,
                };
                let code = row.map_or(membership::LEAVE, |row| row.membership);
                Some(membership::state(code).to_string())
            }
        };
        Ok(Summary { face, membership })
    }

    /// What a room shows; none for a room without a beginning.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn face(&self, room: RoomNid) -> Result<Option<Face>, Error> {
        let ledger = &self.house.ledger;
        let Some(row) = ledger.get(&ROOMS, &room).await? else { return Ok(None) };
        let head = ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let root = Root(head.state_root);
        let Some(create) = self.content_at(room, root, StateEventType::RoomCreate).await? else {
            return Ok(None);
        };
        let rules = RoomVersionId::try_from(row.version.as_str()).map_err(Error::internal)?;
        let rules = rules_of(&rules)?.authorization;
        let join_rules = self.content_at(room, root, StateEventType::RoomJoinRules).await?;
        let join_rules = join_rules.unwrap_or_default();
        let visibility =
            self.state_at(room, root, &StateEventType::RoomHistoryVisibility, "").await?;
        let guests = self.text_of(room, root, StateEventType::RoomGuestAccess, "guest_access");
        Ok(Some(Face {
            room_id: row.room_id,
            canonical_alias: self
                .text_of(room, root, StateEventType::RoomCanonicalAlias, "alias")
                .await?,
            name: self.text_of(room, root, StateEventType::RoomName, "name").await?,
            topic: self.text_of(room, root, StateEventType::RoomTopic, "topic").await?,
            avatar_url: self.text_of(room, root, StateEventType::RoomAvatar, "url").await?,
            num_joined_members: head.joined,
            world_readable: visibility.map(|event| visibility_set_by(&event))
                == Some(HistoryVisibility::WorldReadable),
            guest_can_join: guests.await?.as_deref() == Some("can_join"),
            // "If the room has no m.room.join_rules event, … invite".
            join_rule: text(&join_rules, "join_rule").unwrap_or_else(|| "invite".to_owned()),
            room_type: text(&create, "type"),
            allowed_room_ids: rooms_that_open_by(&join_rules.to_string(), &rules)
                .unwrap_or_default(),
            encryption: self
                .text_of(room, root, StateEventType::RoomEncryption, "algorithm")
                .await?,
            room_version: row.version,
        }))
    }

    /// Whether somebody may see a room's face ([hierarchy]): those inside or invited, those who could
    /// join or knock, and all if all may read the room.
    ///
    /// [hierarchy]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn may_look(
        &self,
        caller: Option<&Caller>,
        room: Option<RoomNid>,
        face: &Face,
    ) -> Result<bool, Error> {
        let row = match (caller, room) {
            (Some(caller), Some(room)) => {
                self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?
            }
            _ => None,
        };
        match row.map(|row| row.membership) {
            Some(membership::JOIN | membership::INVITE) => return Ok(true),
            Some(membership::BAN) => return Ok(false),
            _ => {}
        }
        let rules = RoomVersionId::try_from(face.room_version.as_str()).ok();
        let rules = rules.and_then(|version| version.rules()).map(|rules| rules.authorization);
        let knocking = rules.as_ref().is_some_and(|rules| rules.knocking);
        let knock_restricted = rules.as_ref().is_some_and(|rules| rules.knock_restricted_join_rule);
        let open = face.world_readable
            || match face.join_rule.as_str() {
                "public" => true,
                "knock" => knocking,
                "knock_restricted" => knock_restricted,
                _ => false,
            };
        match caller {
            _ if open => Ok(true),
            Some(caller) => self.is_in_any(caller, &face.allowed_room_ids).await,
            None => Ok(false),
        }
    }

    async fn content_at(
        &self,
        room: RoomNid,
        root: Root,
        kind: StateEventType,
    ) -> Result<Option<Value>, Error> {
        let event = self.state_at(room, root, &kind, "").await?;
        Ok(event.and_then(|event| serde_json::from_str(event.content()).ok()))
    }

    async fn text_of(
        &self,
        room: RoomNid,
        root: Root,
        kind: StateEventType,
        field: &str,
    ) -> Result<Option<String>, Error> {
        let content = self.content_at(room, root, kind).await?;
        Ok(content.and_then(|content| text(&content, field)))
    }
}

fn text(content: &Value, field: &str) -> Option<String> {
    content.get(field)?.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use serde_json::json;

    use crate::scenario::{Ward, visibility};

    #[tokio::test]
    async fn a_room_shows_its_face_to_those_who_could_come_in() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let hall = ward.room_of(&[&nurse, &doctor]).await;
        let rooms = &ward.services.rooms;
        let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
        for (join_rule, to_doctor, to_stranger) in [
            (json!({ "join_rule": "public" }), true, true),
            (json!({ "join_rule": "knock" }), true, true),
            (json!({ "join_rule": "invite" }), false, false),
            (json!({ "join_rule": "restricted", "allow": allow }), true, false),
        ] {
            let body = json!({
                "name": "Ward 4", "topic": "Beds", "creation_content": { "type": "m.space" },
                "initial_state": [{ "type": "m.room.join_rules", "content": join_rule }],
            });
            let room = ward.room_as(&nurse, body).await;
            let own = rooms.face_for(Some(&nurse), &room, &[]).await.unwrap();
            assert_eq!(own.membership.as_deref(), Some("join"));
            assert_eq!(own.face.name.as_deref(), Some("Ward 4"));
            assert_eq!(own.face.topic.as_deref(), Some("Beds"));
            assert_eq!(own.face.room_type.as_deref(), Some("m.space"));
            assert_eq!(own.face.join_rule, join_rule["join_rule"]);
            assert_eq!((own.face.num_joined_members, own.face.world_readable), (1, false));
            let seen = async |caller| match rooms.face_for(caller, &room, &[]).await {
                Ok(summary) => Some(summary.membership),
                Err(error) => {
                    assert_eq!(error.kind, Kind::NotFound);
                    None
                }
            };
            let leave = Some("leave".to_owned());
            assert_eq!(seen(Some(&doctor)).await, to_doctor.then_some(leave), "{join_rule}");
            assert_eq!(seen(None).await, to_stranger.then_some(None), "{join_rule}");
            visibility(&ward, &nurse, &room, "world_readable").await;
            assert_eq!(seen(None).await, Some(None));
            ward.set(&nurse, &room, &doctor.user_id, M::Ban).await;
            assert_eq!(seen(Some(&doctor)).await, None, "banned");
        }
    }
}
