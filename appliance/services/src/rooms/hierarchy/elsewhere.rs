//! Rooms that this server is not in: the servers that know them are asked ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid

use std::collections::HashMap;

use appliance_model::ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId};
use appliance_model::{Caller, Error};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CHILDREN_MAX, Child};
use crate::federation::{Ask, only_this_one};
use crate::rooms::{Face, Rooms};

/// Questions to other servers for one answer of ours. Each may take as long as a request may.
const ASKED_MAX: usize = 20;
/// Servers asked about one room.
const SERVERS_ASKED_MAX: usize = 2;
/// Names and topics of strangers' rooms are cut off nowhere, but longer ones are not passed on.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What other servers have said while one answer was made.
#[derive(Default)]
pub(super) struct Elsewhere {
    asked: usize,
    /// Children come with their space, and need not be asked for again unless they are spaces.
    faces: HashMap<OwnedRoomId, Face>,
}

#[derive(Deserialize)]
struct Answer {
    room: Told,
    #[serde(default)]
    children: Vec<Face>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(flatten)]
    face: Face,
    #[serde(default)]
    children_state: Vec<ToldChild>,
}

/// "Stripped `m.space.child` events of the space-room."
#[derive(Deserialize)]
struct ToldChild {
    sender: OwnedUserId,
    state_key: OwnedRoomId,
    content: Value,
    #[serde(default)]
    origin_server_ts: u64,
}

impl Rooms {
    /// A room that this server is not in, as another server shows it, if the caller may look at it.
    pub(super) async fn looked_at_elsewhere(
        &self,
        caller: &Caller,
        (room_id, via): (&RoomId, &[OwnedServerName]),
        elsewhere: &mut Elsewhere,
    ) -> Result<Option<(Face, Vec<Child>)>, Error> {
        let number = self.house.ledger.room(room_id).await?;
        if let Some(room) = number
            && self.is_resident(room).await?
        {
            return Ok(None);
        }
        let remembered = elsewhere.faces.get(room_id).filter(|face| !face.is_space()).cloned();
        let found = match remembered {
            Some(face) => Some((face, Vec::new())),
            None => self.told_of(room_id, via, elsewhere).await?,
        };
        let Some((face, children)) = found else { return Ok(None) };
        // "the server … must still check that the user may see the room": theirs knows only servers.
        let may_look = self.may_look(Some(caller), number, &face).await?;
        Ok(may_look.then_some((face, children)))
    }

    /// The face of a room that this server is not in.
    pub(in crate::rooms) async fn face_elsewhere(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Option<Face>, Error> {
        let ways = self.ways_in(caller, room_id, via).await.unwrap_or_default();
        let at = (room_id, &*ways);
        let found = self.looked_at_elsewhere(caller, at, &mut Elsewhere::default()).await?;
        Ok(found.map(|(face, _)| face))
    }

    async fn told_of(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        elsewhere: &mut Elsewhere,
    ) -> Result<Option<(Face, Vec<Child>)>, Error> {
        let own = &self.house.server_name;
        let servers = via.iter().filter(|server| *server != own && self.line.allows(server));
        for server in servers.take(SERVERS_ASKED_MAX) {
            if elsewhere.asked >= ASKED_MAX {
                break;
            }
            elsewhere.asked += 1;
            let ask = Ask::Hierarchy { room_id: room_id.to_owned() };
            let Answer { room, children } = match self.ask(server, ask).await {
                Ok(answer) => answer,
                Err(error) => {
                    only_this_one(error)?;
                    continue;
                }
            };
            if room.face.room_id != *room_id || !is_bearable(&room.face) {
                continue;
            }
            for face in children.into_iter().filter(is_bearable).take(CHILDREN_MAX) {
                if let Ok(room_id) = RoomId::parse(&*face.room_id) {
                    elsewhere.faces.insert(room_id, face);
                }
            }
            let told = room.children_state.into_iter().filter_map(Child::told);
            let mut children: Vec<_> = told.take(CHILDREN_MAX).collect();
            children.sort_by_cached_key(Child::rank);
            return Ok(Some((room.face, children)));
        }
        Ok(None)
    }
}

fn is_bearable(face: &Face) -> bool {
    let texts = [&face.name, &face.topic, &face.avatar_url, &face.canonical_alias];
    texts.into_iter().flatten().all(|text| text.len() <= TEXT_BYTES_MAX)
}

impl Child {
    fn told(told: ToldChild) -> Option<Self> {
        let ToldChild { sender, state_key, content, origin_server_ts } = told;
        let json = json!({
            "content": content, "origin_server_ts": origin_server_ts, "sender": sender,
            "state_key": state_key, "type": "m.space.child",
        });
        Self::read(state_key, &content.to_string(), origin_server_ts, json.to_string())
    }
}
