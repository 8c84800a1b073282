//! `GET /rooms/{roomId}/hierarchy` ([spec]): the rooms of a space, the rooms of its spaces, and so on.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy

mod elsewhere;

use std::collections::HashSet;
use std::sync::Arc;

use appliance_ledger::Event;
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use appliance_model::{Caller, Error, RoomNid};
use serde::Deserialize;

use self::elsewhere::Elsewhere;
use super::{Face, Rooms};
use crate::sync::write::{List, Object};

/// Rooms in one answer, and how many without being asked for a number.
const LIMIT_MAX: usize = 50;
/// Rooms walked through for all pages of one tree.
const ROOMS_MAX: usize = 2_000;
/// Children shown to another server at once.
const CHILDREN_FOR_SERVERS_MAX: usize = 100;
/// Children of one space.
const CHILDREN_MAX: usize = 1_000;
/// Servers that are said to know a child.
const VIA_MAX: usize = 10;

/// Which part of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HierarchyQuery {
    /// Only rooms that their space suggests.
    pub suggested_only: bool,
    /// How many rooms.
    pub limit: Option<usize>,
    /// How far down; none is all the way.
    pub max_depth: Option<u64>,
    /// How many rooms earlier pages had.
    pub skip: usize,
}

/// A page of a space's tree.
pub struct Hierarchy {
    /// The rooms, as JSON.
    pub rooms: Vec<String>,
    /// How many rooms the pages up to here had, if there are more.
    pub next: Option<usize>,
}

impl Rooms {
    /// A page of a space's tree, depth first. Rooms that the caller may not look at are left out.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`]: the caller may not look at the space, or there is none.
    pub async fn hierarchy(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        query: HierarchyQuery,
    ) -> Result<Hierarchy, Error> {
        let closed = || Error::forbidden("There is no such space, or it is not for you to see.");
        let limit = query.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX);
        let (mut rooms, mut passed) = (Vec::new(), 0_usize);
        let mut elsewhere = Elsewhere::default();
        let mut known = HashSet::new();
        let mut open = vec![(room_id.to_owned(), 0_u64, Vec::new())];
        while let Some((room_id, depth, via)) = open.pop() {
            if !known.insert(room_id.clone()) || known.len() > ROOMS_MAX {
                continue;
            }
            let found = match self.looked_at(caller, &room_id).await? {
                Some(found) => Some(found),
                None => {
                    let via = match depth {
                        0 => self.ways_in(caller, &room_id, &[]).await.unwrap_or_default(),
                        _ => via,
                    };
                    self.looked_at_elsewhere(caller, (&room_id, &via), &mut elsewhere).await?
                }
            };
            let Some((face, children)) = found else {
                if depth == 0 {
                    return Err(closed());
                }
                continue;
            };
            let children: Vec<_> =
                children.into_iter().filter(|one| one.suggested || !query.suggested_only).collect();
            if rooms.len() == limit {
                return Ok(Hierarchy { rooms, next: Some(passed) });
            }
            if passed >= query.skip {
                rooms.push(entry(&face, &children)?);
            }
            passed += 1;
            if query.max_depth.is_none_or(|max| depth < max) {
                // The first child is to be next.
                let below = children.into_iter().rev();
                open.extend(below.map(|child| (child.room_id, depth + 1, child.via)));
            }
        }
        Ok(Hierarchy { rooms, next: None })
    }

    /// A space and its children, for another server, as far as its users may look at them ([spec]). As
    /// JSON.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`]: there is no such room, or it is not for them.
    pub async fn hierarchy_for_server(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<String, Error> {
        let closed = || Error::not_found("There is no such space, or it is not for you to see.");
        let (face, children) = self.shown_to(origin, room_id).await?.ok_or_else(closed)?;
        let wanted = |child: &Child| child.suggested || !suggested_only;
        let children: Vec<_> =
            children.into_iter().filter(wanted).take(CHILDREN_FOR_SERVERS_MAX).collect();
        let (mut shown, mut hidden) = (Vec::new(), Vec::new());
        for child in &children {
            match self.shown_to(origin, &child.room_id).await? {
                Some((face, _)) => {
                    shown.push(serde_json::to_string(&face).map_err(Error::internal)?);
                }
                // "inaccessible_children … room IDs … which … the requesting server … cannot access":
                // only of rooms that this server knows.
                None if self.house.ledger.room(&child.room_id).await?.is_some() => {
                    hidden.push(&child.room_id);
                }
                None => {}
            }
        }
        let hidden = serde_json::to_string(&hidden).map_err(Error::internal)?;
        let room = entry(&face, &children)?;
        let shown = shown.join(",");
        Ok(format!(r#"{{"room":{room},"children":[{shown}],"inaccessible_children":{hidden}}}"#))
    }

    /// What a server may be shown: rooms that are open, rooms that it is in, rooms that its users may
    /// join because they are in another one.
    async fn shown_to(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Option<(Face, Vec<Child>)>, Error> {
        let Some(room) = self.house.ledger.room(room_id).await? else { return Ok(None) };
        let Some(face) = self.face(room).await? else { return Ok(None) };
        let mut rooms = vec![room];
        for allowed in &face.allowed_room_ids {
            rooms.extend(self.house.ledger.room(allowed).await?);
        }
        let mut may_look = self.may_look(None, Some(room), &face).await?;
        for room in rooms {
            may_look = may_look
                || self.house.servers_in(room).await?.iter().any(|server| server == origin);
        }
        if !may_look {
            return Ok(None);
        }
        let children = if face.is_space() { self.children(room).await? } else { Vec::new() };
        Ok(Some((face, children)))
    }

    async fn looked_at(
        &self,
        caller: &Caller,
        room_id: &RoomId,
    ) -> Result<Option<(Face, Vec<Child>)>, Error> {
        let Some(room) = self.house.ledger.room(room_id).await? else { return Ok(None) };
        let Some(face) = self.face(room).await? else { return Ok(None) };
        if !self.may_look(Some(caller), Some(room), &face).await? {
            return Ok(None);
        }
        let children = if face.is_space() { self.children(room).await? } else { Vec::new() };
        Ok(Some((face, children)))
    }

    /// The children of a space, in the order in which they are shown.
    async fn children(&self, room: RoomNid) -> Result<Vec<Child>, Error> {
        let ledger = &self.house.ledger;
        let all = ledger.states(room).all(self.current_root(room).await?).await?;
        let others = all.into_iter().filter(|(key, _)| !key.is_member());
        let numbers: Vec<_> = others.map(|(_, number)| number).collect();
        let events = ledger.events(&numbers).await?;
        let mut children: Vec<_> = events.into_iter().filter_map(Child::of).collect();
        children.sort_by_cached_key(Child::rank);
        children.truncate(CHILDREN_MAX);
        Ok(children)
    }
}

/// A room of a space.
struct Child {
    room_id: OwnedRoomId,
    suggested: bool,
    order: Option<String>,
    via: Vec<OwnedServerName>,
    sent_ms: u64,
    /// The event that says so, stripped, as JSON.
    json: String,
}

impl Child {
    fn of(event: Arc<Event>) -> Option<Self> {
        if event.kind() != "m.space.child" {
            return None;
        }
        let room_id: OwnedRoomId = serde_json::from_str(event.part(event.spans.state_key)).ok()?;
        let sent_ms = event.part(event.spans.origin_server_ts).parse().unwrap_or_default();
        let mut json = String::new();
        let mut object = Object::begin(&mut json);
        object.field("content", |out| out.push_str(event.content()));
        for (name, span) in [
            ("origin_server_ts", event.spans.origin_server_ts),
            ("sender", event.spans.sender),
            ("state_key", event.spans.state_key),
            ("type", event.spans.kind),
        ] {
            object.field(name, |out| out.push_str(event.part(span)));
        }
        object.end();
        Self::read(room_id, event.content(), sent_ms, json)
    }

    /// "via … If not present or not an array, the child is not part of the space".
    fn read(room_id: OwnedRoomId, content: &str, sent_ms: u64, json: String) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: Vec<serde_json::Value>,
            #[serde(default)]
            suggested: serde_json::Value,
            #[serde(default)]
            order: serde_json::Value,
        }
        let content: Content = serde_json::from_str(content).ok()?;
        // "order … ASCII between \x20 and \x7E inclusive, and must not exceed 50 characters".
        let valid = |order: &&str| {
            order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        };
        let order = content.order.as_str().filter(valid).map(ToOwned::to_owned);
        let suggested = content.suggested.as_bool().unwrap_or_default();
        if content.via.is_empty() {
            return None;
        }
        let names = content.via.iter().filter_map(|name| name.as_str()?.try_into().ok());
        Some(Self { room_id, suggested, order, via: names.take(VIA_MAX).collect(), sent_ms, json })
    }

    /// "Rooms are sorted based on a lexicographic ordering of the Unicode codepoints of the
    /// characters in order values. Rooms with no order come last, … ascending numeric order of the
    /// origin_server_ts …, or ascending lexicographic order of their room_ids".
    fn rank(&self) -> (bool, Option<String>, u64, OwnedRoomId) {
        (self.order.is_none(), self.order.clone(), self.sent_ms, self.room_id.clone())
    }
}

/// A room of the tree with its own children, as JSON.
fn entry(face: &Face, children: &[Child]) -> Result<String, Error> {
    let mut json = serde_json::to_string(face).map_err(Error::internal)?;
    // The face is an object that is not empty: it goes on here.
    json.pop();
    json.push_str(",\"children_state\":");
    let mut list = List::default();
    for Child { json, .. } in children {
        list.push_json(json);
    }
    list.write(&mut json);
    json.push('}');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::Ward;

    async fn space(ward: &Ward, who: &Caller, name: &str, public: bool) -> OwnedRoomId {
        let preset = if public { "public_chat" } else { "private_chat" };
        let content = json!({ "type": "m.space" });
        let body = json!({ "name": name, "preset": preset, "creation_content": content });
        ward.room_as(who, body).await
    }

    async fn put_into(ward: &Ward, who: &Caller, space: &RoomId, room: &RoomId, more: Value) {
        let mut content = json!({ "via": ["hospital.example"] });
        content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ward.state(who, space, ("m.space.child", room.as_str()), content).await;
        ward.clock.pass_ms(1);
    }

    async fn names(
        ward: &Ward,
        who: &Caller,
        space: &RoomId,
        query: HierarchyQuery,
    ) -> Vec<String> {
        let (mut names, mut skip) = (Vec::new(), 0);
        loop {
            let query = HierarchyQuery { skip, ..query };
            let page = ward.services.rooms.hierarchy(who, space, query).await.unwrap();
            names.extend(page.rooms.iter().map(|room| {
                let room: Value = serde_json::from_str(room).unwrap();
                format!(
                    "{} {}",
                    room["name"].as_str().unwrap(),
                    room["children_state"].as_array().unwrap().len()
                )
            }));
            match page.next {
                Some(next) => skip = next,
                None => return names,
            }
        }
    }

    #[tokio::test]
    async fn a_tree_is_walked_depth_first_and_closed_rooms_are_left_out() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let house = space(&ward, &nurse, "house", true).await;
        let ward_4 = space(&ward, &nurse, "ward", true).await;
        let closed = space(&ward, &nurse, "closed", false).await;
        let named = async |name: &str, public| {
            let preset = if public { "public_chat" } else { "private_chat" };
            ward.room_as(&nurse, json!({ "name": name, "preset": preset })).await
        };
        let (beds, hidden, lobby) =
            (named("beds", true).await, named("hidden", true).await, named("lobby", true).await);
        put_into(&ward, &nurse, &house, &closed, json!({})).await;
        put_into(&ward, &nurse, &house, &ward_4, json!({ "suggested": true })).await;
        put_into(&ward, &nurse, &house, &lobby, json!({ "order": "a", "suggested": true })).await;
        put_into(&ward, &nurse, &ward_4, &beds, json!({})).await;
        put_into(&ward, &nurse, &closed, &hidden, json!({})).await;
        // A loop, a child that was taken out, and one that nobody knows.
        put_into(&ward, &nurse, &ward_4, &house, json!({})).await;
        ward.state(&nurse, &ward_4, ("m.space.child", hidden.as_str()), json!({})).await;
        let nowhere = RoomId::parse("!nowhere:hospital.example").unwrap();
        put_into(&ward, &nurse, &ward_4, &nowhere, json!({})).await;

        let all = HierarchyQuery::default();
        let to_nurse = ["house 3", "lobby 0", "closed 1", "hidden 0", "ward 3", "beds 0"];
        assert_eq!(names(&ward, &nurse, &house, all).await, to_nurse);
        let to_doctor = ["house 3", "lobby 0", "ward 3", "beds 0"];
        assert_eq!(names(&ward, &doctor, &house, all).await, to_doctor);
        for limit in 1..5 {
            let paged = HierarchyQuery { limit: Some(limit), ..all };
            assert_eq!(names(&ward, &doctor, &house, paged).await, to_doctor, "{limit}");
        }
        let shallow = HierarchyQuery { max_depth: Some(1), ..all };
        assert_eq!(names(&ward, &doctor, &house, shallow).await, ["house 3", "lobby 0", "ward 3"]);
        let root = HierarchyQuery { max_depth: Some(0), ..all };
        assert_eq!(names(&ward, &doctor, &house, root).await, ["house 3"]);
        let suggested = HierarchyQuery { suggested_only: true, ..all };
        assert_eq!(
            names(&ward, &doctor, &house, suggested).await,
            ["house 2", "lobby 0", "ward 0"]
        );
        for room in [&closed, &nowhere] {
            let refused = ward.services.rooms.hierarchy(&doctor, room, all).await.err().unwrap();
            assert_eq!(refused.kind, Kind::Forbidden);
        }
    }
}
