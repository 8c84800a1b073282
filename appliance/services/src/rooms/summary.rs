//! Who is in a room, in short ([room summary]), and what a room shows to those not in it yet
//! ([stripped state]).
//!
//! [room summary]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync_response-200_roomsummary
//! [stripped state]: https://spec.matrix.org/v1.19/client-server-api/#stripped-state

use appliance_ledger::keyspaces::{HEADS, MEMBERS};
use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Direction, Event, Root, membership};
use appliance_model::ruma::OwnedUserId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Caller, Error, EventNid, RoomNid, UserNid};

use super::Rooms;

/// "m.heroes … the first 5 members".
const HEROES_MAX: usize = 5;

/// What a room shows of itself to those not in it ([stripped state]).
///
/// [stripped state]: https://spec.matrix.org/v1.19/client-server-api/#stripped-state
pub const FACE: [StateEventType; 7] = [
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomAvatar,
    StateEventType::RoomName,
    StateEventType::RoomTopic,
    StateEventType::RoomEncryption,
];

/// Counts, and the members after whom a nameless room is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomSummary {
    /// None if the room has a name or an alias.
    pub heroes: Option<Vec<OwnedUserId>>,
    /// How many are joined.
    pub joined: u64,
    /// How many are invited.
    pub invited: u64,
}

impl Rooms {
    /// The summary of a room as `reader` sees it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn summary(&self, room: RoomNid, reader: UserNid) -> Result<RoomSummary, Error> {
        let (joined, invited) = self.counts(room).await?;
        let root = self.current_root(room).await?;
        let name = self.state_text(room, root, StateEventType::RoomName, "name").await?;
        let alias = self.state_text(room, root, StateEventType::RoomCanonicalAlias, "alias");
        let heroes = match name.or(alias.await?) {
            Some(_) => None,
            None => Some(self.heroes(room, reader).await?),
        };
        Ok(RoomSummary { heroes, joined, invited })
    }

    /// How many are joined, and how many invited.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn counts(&self, room: RoomNid) -> Result<(u64, u64), Error> {
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        Ok((head.joined, head.invited))
    }

    /// A text field of a state event's content, if it is there and not empty.
    pub(crate) async fn state_text(
        &self,
        room: RoomNid,
        root: Root,
        kind: StateEventType,
        field: &str,
    ) -> Result<Option<String>, Error> {
        let event = self.state_at(room, root, &kind, "").await?;
        let text = event.and_then(|event| {
            let content: serde_json::Value = serde_json::from_str(event.content()).ok()?;
            Some(content.get(field)?.as_str()?.to_owned())
        });
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// "The members … excluding the requesting user, joined or invited; if there are none, those
    /// who left or were banned".
    pub(crate) async fn heroes(
        &self,
        room: RoomNid,
        reader: UserNid,
    ) -> Result<Vec<OwnedUserId>, Error> {
        let ledger = &self.house.ledger;
        let mut members: Vec<(EventNid, UserNid)> = Vec::new();
        for codes in [[membership::JOIN, membership::INVITE], [membership::LEAVE, membership::BAN]]
        {
            for code in codes {
                // One more than needed, because the reader may be among them.
                let (rows, _) = ledger
                    .newest()
                    .scan(&MEMBERS, &(room, code), Direction::Forward, HEROES_MAX + 1)
                    .await?;
                let others = rows.into_iter().filter(|((_, _, user), _)| *user != reader);
                members.extend(others.map(|((_, _, user), event)| (EventNid(event), user)));
            }
            if !members.is_empty() {
                break;
            }
        }
        members.sort_unstable();
        let mut heroes = Vec::new();
        for (_, user) in members.into_iter().take(HEROES_MAX) {
            heroes.push(ledger.user_id(user).await?);
        }
        Ok(heroes)
    }

    /// What an invited or knocking user is shown: the room's face, their own membership, and who
    /// invited them. Each event as JSON.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn stripped_state(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        caller: &Caller,
    ) -> Result<Vec<String>, Error> {
        let ledger = &self.house.ledger;
        let own = ledger.event(EventNid(row.event)).await?;
        // A room that this server is not in: its face came with the invite.
        if own.outlier {
            let mut events = self.call_face(room, caller.user).await?;
            events.push(stripped(&own));
            return Ok(events);
        }
        let root = own.state_before;
        let inviter = own.part(own.spans.sender).trim_matches('"').to_owned();
        let mut events = Vec::new();
        let inviter = (StateEventType::RoomMember, inviter.as_str());
        for (kind, key) in FACE.map(|kind| (kind, "")).into_iter().chain([inviter]) {
            let event = self.state_at(room, root, &kind, key).await?;
            events.extend(event.as_deref().map(stripped));
        }
        debug_assert_eq!(own.part(own.spans.state_key).trim_matches('"'), caller.user_id.as_str());
        events.push(stripped(&own));
        Ok(events)
    }
}

/// "Only the sender, type, state_key and content properties".
fn stripped(event: &Event) -> String {
    format!(
        r#"{{"content":{},"sender":{},"state_key":{},"type":{}}}"#,
        event.content(),
        event.part(event.spans.sender),
        event.part(event.spans.state_key),
        event.part(event.spans.kind),
    )
}
