//! Which events the users of another server may see: [history visibility], for a whole server.
//!
//! [history visibility]: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events

use std::collections::HashMap;

use appliance_ledger::keyspaces::MEMBERS;
use appliance_ledger::{Direction, Event, Root};
use appliance_model::ruma::ServerName;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::history_visibility::HistoryVisibility as V;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::{Error, RoomNid, StateKeyNid};

use crate::rooms::retention::Horizon;
use crate::rooms::{Rooms, membership_set_by, visibility_set_by};

/// Users of one server in one room that are looked at.
const USERS_MAX: usize = 20_000;

/// One server's look at one room.
pub(super) struct Window<'a> {
    rooms: &'a Rooms,
    room: RoomNid,
    server: &'a ServerName,
    /// The member state keys of the server's users, once needed.
    users: Option<Vec<StateKeyNid>>,
    judged: HashMap<Root, bool>,
    /// What was said before is over for everybody.
    horizon: Horizon,
}

impl<'a> Window<'a> {
    pub async fn of(
        rooms: &'a Rooms,
        room: RoomNid,
        server: &'a ServerName,
    ) -> Result<Self, Error> {
        let horizon = rooms.horizon(room).await?;
        Ok(Self { rooms, room, server, users: None, judged: HashMap::new(), horizon })
    }

    /// Whether one of the server's users may see the event. The state before and with it count both, as
    /// they do for people.
    pub async fn shows(&mut self, event: &Event) -> Result<bool, Error> {
        if self.horizon.hides(event) {
            return Ok(false);
        }
        let own = event.part(event.spans.sender).trim_matches('"');
        if own.split_once(':').is_some_and(|(_, server)| server == self.server.as_str()) {
            return Ok(true);
        }
        Ok(self.shows_at(event.state_before).await? || self.shows_at(event.state_after).await?)
    }

    async fn shows_at(&mut self, root: Root) -> Result<bool, Error> {
        if let Some(judged) = self.judged.get(&root) {
            return Ok(*judged);
        }
        let kind = StateEventType::RoomHistoryVisibility;
        let visibility = self.rooms.state_at(self.room, root, &kind, "").await?;
        let visibility = visibility.map_or(V::Shared, |event| visibility_set_by(&event));
        let judged = match visibility {
            V::Joined => self.had(root, &[M::Join]).await?,
            V::Invited => self.had(root, &[M::Join, M::Invite]).await?,
            // The server is in the room now: "shared" and everything not understood is for it.
            _ => true,
        };
        self.judged.insert(root, judged);
        Ok(judged)
    }

    async fn had(&mut self, root: Root, memberships: &[M]) -> Result<bool, Error> {
        if self.users.is_none() {
            self.users = Some(self.find_users().await?);
        }
        let ledger = &self.rooms.house.ledger;
        let states = ledger.states(self.room);
        for key in self.users.iter().flatten() {
            let Some(number) = states.get(root, *key).await? else { continue };
            if memberships.contains(&membership_set_by(&*ledger.event(number).await?)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn find_users(&self) -> Result<Vec<StateKeyNid>, Error> {
        let ledger = &self.rooms.house.ledger;
        let (rows, _) =
            ledger.newest().scan(&MEMBERS, &self.room, Direction::Forward, USERS_MAX).await?;
        let mut users = Vec::new();
        for ((_, _, user), _) in rows {
            let user_id = ledger.user_id(user).await?;
            if user_id.server_name() == self.server {
                let kind = StateEventType::RoomMember;
                users.extend(ledger.state_key(&kind, user_id.as_str()).await?);
            }
        }
        Ok(users)
    }
}
