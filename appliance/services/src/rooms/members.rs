//! `GET /rooms/{roomId}/members` and `/joined_members` ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers

use std::sync::Arc;

use appliance_ledger::keyspaces::{MEMBERS, TIMELINE};
use appliance_ledger::{Direction, Event, Root, membership};
use appliance_model::ruma::RoomId;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Caller, Error, EventNid, RoomNid};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Rooms;
use super::visible::membership_set_by;

/// The largest rooms known have fewer; an answer is then 50 MB.
const MEMBERS_MAX: usize = 100_000;

/// The room, and the one who made it.
const FIRST_EVENTS: usize = 2;

/// Which members.
#[derive(Clone, Debug, Default)]
pub struct MembersQuery {
    /// As of this place in the timeline; now if none is given.
    pub at: Option<i64>,
    /// Only these, or those below.
    pub membership: Option<MembershipState>,
    /// All but these, or those above.
    pub not_membership: Option<MembershipState>,
}

impl MembersQuery {
    /// "the two parameters create an 'or' condition: either the membership *is* the same as
    /// `membership` **or** *is not* the same as `not_membership`".
    fn wants(&self, membership: &MembershipState) -> bool {
        match (&self.membership, &self.not_membership) {
            (None, None) => true,
            (Some(wanted), None) => membership == wanted,
            (None, Some(unwanted)) => membership != unwanted,
            (Some(wanted), Some(unwanted)) => membership == wanted || membership != unwanted,
        }
    }
}

impl Rooms {
    /// The member events of a room, as a JSON array in client form: now for those in the room, as
    /// of their leaving for those who left.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for those who never were in the room.
    pub async fn members(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        query: &MembersQuery,
    ) -> Result<String, Error> {
        let at = self.standpoint(caller, room_id).await?;
        let ledger = &self.house.ledger;
        if at.until.is_none() && query.at.is_none() {
            // What they are now is in an index: nothing needs to be parsed.
            let events = self.members_who(at.room, |membership| query.wants(membership)).await?;
            return Ok(self.plain_list(events.iter().map(|event| &**event), room_id));
        }
        let place = query.at.unwrap_or(i64::MAX).min(at.until.unwrap_or(i64::MAX));
        let mut root = self.root_before(at.room, place).await?;
        if root == Root::default() {
            root = self.first_company(at.room).await?;
        }
        let entries = ledger.states(at.room).all(root).await?;
        let members = entries.into_iter().filter(|(key, _)| key.is_member());
        let numbers: Vec<_> = members.map(|(_, number)| number).collect();
        let events = ledger.events(&numbers).await?;
        let wanted = events.iter().map(|event| &**event);
        let wanted = wanted.filter(|event| query.wants(&membership_set_by(event)));
        Ok(self.plain_list(wanted, room_id))
    }

    /// The state with which a room began here: a room was never without the one who made it, so that
    /// a place before all events has a first member, too.
    async fn first_company(&self, room: RoomNid) -> Result<Root, Error> {
        let ledger = self.house.ledger.newest();
        let (rows, _) = ledger.scan(&TIMELINE, &room, Direction::Forward, FIRST_EVENTS).await?;
        Ok(rows.last().map(|(_, row)| Root(row.state_after)).unwrap_or_default())
    }

    /// Who is joined, as a JSON object from user ID to name and picture.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for those not in the room: "You aren't a member".
    pub async fn joined_members(&self, caller: &Caller, room_id: &RoomId) -> Result<String, Error> {
        #[derive(Default, Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            displayname: Option<&'a RawValue>,
            #[serde(borrow)]
            avatar_url: Option<&'a RawValue>,
        }
        let not_in = || Error::forbidden("You are not in this room.");
        let room = self.house.ledger.room(room_id).await?.ok_or_else(not_in)?;
        if !self.is_joined(caller, room).await? {
            return Err(not_in());
        }
        let events = self.members_who(room, |one| *one == MembershipState::Join).await?;
        let mut out = String::from("{");
        for event in &events {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(event.part(event.spans.state_key));
            let content: Content<'_> = serde_json::from_str(event.content()).unwrap_or_default();
            // Nothing is told as `null`: many clients and suites look for both names.
            let told = |value: Option<&RawValue>| {
                let text = value.filter(|value| value.get().starts_with('"'));
                text.map_or_else(|| "null".to_owned(), |text| text.get().to_owned())
            };
            out.push_str(":{\"avatar_url\":");
            out.push_str(&told(content.avatar_url));
            out.push_str(",\"display_name\":");
            out.push_str(&told(content.displayname));
            out.push('}');
        }
        out.push('}');
        Ok(out)
    }

    async fn members_who(
        &self,
        room: RoomNid,
        wanted: impl Fn(&MembershipState) -> bool,
    ) -> Result<Vec<Arc<Event>>, Error> {
        let ledger = &self.house.ledger;
        let (rows, _) =
            ledger.newest().scan(&MEMBERS, &room, Direction::Forward, MEMBERS_MAX).await?;
        let numbers: Vec<_> = rows
            .into_iter()
            .filter(|((_, code, _), _)| wanted(&membership::state(*code)))
            .map(|(_, number)| EventNid(number))
            .collect();
        ledger.events(&numbers).await
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::Ward;

    use MembershipState as M;

    /// Who is what, in the answer.
    fn listed(json: &str) -> Vec<(String, String)> {
        let events: Value = serde_json::from_str(json).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |e: &Value| (text(&e["state_key"]), text(&e["content"]["membership"]));
        let mut listed: Vec<_> = events.as_array().unwrap().iter().map(one).collect();
        listed.sort();
        let short = |id: String| id.trim_start_matches('@').split(':').next().unwrap().to_owned();
        listed.into_iter().map(|(id, membership)| (short(id), membership)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(id, m)| ((*id).to_owned(), (*m).to_owned())).collect()
    }

    #[tokio::test]
    async fn members_now_as_of_a_place_and_as_of_a_leave() {
        let (ward, [nurse, doctor, aide, visitor]) =
            Ward::with_members(["nurse", "doctor", "aide", "visitor"]).await;
        let rooms = &ward.services.rooms;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let place = ward.timeline(&room).await.1.last().unwrap().0.position.unwrap() + 1;
        ward.set(&nurse, &room, &aide.user_id, M::Invite).await;
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        ward.set(&aide, &room, &aide.user_id, M::Join).await;
        ward.set(&nurse, &room, &visitor.user_id, M::Ban).await;

        let ask = async |who: &Caller, query: MembersQuery| {
            rooms.members(who, &room, &query).await.map(|json| listed(&json))
        };
        let all = MembersQuery::default();
        let now =
            pairs(&[("aide", "join"), ("doctor", "leave"), ("nurse", "join"), ("visitor", "ban")]);
        assert_eq!(ask(&nurse, all.clone()).await.unwrap(), now);
        let then = MembersQuery { at: Some(place), ..all.clone() };
        let both = pairs(&[("doctor", "join"), ("nurse", "join")]);
        assert_eq!(ask(&nurse, then).await.unwrap(), both);
        let only = MembersQuery { membership: Some(M::Join), ..all.clone() };
        assert_eq!(ask(&nurse, only).await.unwrap(), pairs(&[("aide", "join"), ("nurse", "join")]));
        let but = MembersQuery { not_membership: Some(M::Leave), ..all.clone() };
        assert_eq!(ask(&nurse, but).await.unwrap().len(), 3);
        let or =
            MembersQuery { membership: Some(M::Ban), not_membership: Some(M::Join), ..all.clone() };
        let expected = pairs(&[("doctor", "leave"), ("visitor", "ban")]);
        assert_eq!(ask(&nurse, or).await.unwrap(), expected);

        // Who left sees those of their time, whatever place they ask for.
        let old = pairs(&[("aide", "invite"), ("doctor", "leave"), ("nurse", "join")]);
        assert_eq!(ask(&doctor, all.clone()).await.unwrap(), old);
        let later = MembersQuery { at: Some(i64::MAX), ..all.clone() };
        assert_eq!(ask(&doctor, later).await.unwrap(), old);
        assert_eq!(ask(&visitor, all).await.unwrap_err().kind, Kind::Forbidden);
    }

    #[tokio::test]
    async fn joined_members_have_names_and_pictures() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let rooms = &ward.services.rooms;
        let room = ward.room(&nurse).await;
        let key = ("m.room.member", nurse.user_id.as_str());
        let content = json!({
            "membership": "join", "displayname": "Nu\"rse", "avatar_url": "mxc://h.example/1",
        });
        ward.state(&nurse, &room, key, content).await;
        let refused = rooms.joined_members(&doctor, &room).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden);
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        let key = ("m.room.member", doctor.user_id.as_str());
        ward.state(&doctor, &room, key, json!({ "membership": "join", "displayname": 7 })).await;
        let joined = rooms.joined_members(&doctor, &room).await.unwrap();
        let joined: Value = serde_json::from_str(&joined).unwrap();
        let expected = json!({
            "@doctor:hospital.example": { "avatar_url": null, "display_name": null },
            "@nurse:hospital.example":
                { "display_name": "Nu\"rse", "avatar_url": "mxc://h.example/1" },
        });
        assert_eq!(joined, expected);
    }
}
