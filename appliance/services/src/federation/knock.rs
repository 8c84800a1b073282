//! Knocking at a room that other servers hold ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#knocking-rooms

use std::sync::Arc;

use appliance_ledger::keyspaces::CALLS;
use appliance_ledger::membership;
use appliance_ledger::rows::CallRow;
use appliance_model::ruma::events::room::member::RoomMemberEventContent;
use appliance_model::ruma::{OwnedServerName, RoomId, ServerName};
use appliance_model::{Caller, Error};
use appliance_rules::Permit;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::invited::stripped_of;
use super::join::Refusals;
use super::line::Ask;
use super::resident::arrival_of;
use crate::rooms::Rooms;

impl Rooms {
    /// Knocks through other servers, one after the other until one takes it.
    pub(crate) async fn knock_elsewhere(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        content: RoomMemberEventContent,
    ) -> Result<(), Error> {
        let ways = self.ways_in(caller, room_id, via).await?;
        let _turn = self.receiving.enter(arrival_of(self, room_id)).await;
        let mut refusals = Refusals::default();
        for server in ways {
            match self.knock_through(&server, caller, room_id, content.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => refusals.add(error),
            }
        }
        Err(refusals.said())
    }

    async fn knock_through(
        &self,
        server: &ServerName,
        caller: &Caller,
        room_id: &RoomId,
        content: RoomMemberEventContent,
    ) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Taken {
            #[serde(default)]
            knock_room_state: Vec<Box<RawValue>>,
        }
        let made = self.made_by(server, (&caller.user_id, room_id), content, 0).await?;
        let event = String::from_utf8_lossy(&made.pdu.json).into_owned();
        let (asked, event_id) = (room_id.to_owned(), made.pdu.event_id.clone());
        let taken: Taken =
            self.ask(server, Ask::SendKnock { room_id: asked, event_id, event }).await?;
        self.check_shared_elsewhere(server, taken.knock_room_state.iter().map(|raw| &**raw))?;
        let mut open = self.enter_new(room_id, &made.version).await?;
        let room = open.room;
        let mut commit = open.begin(Permit::own("event.sent", &caller.user_id, &made.pdu.event_id));
        let event = open.add_outlier(&Arc::new(made.pdu), &mut commit).await?;
        let call =
            CallRow { stripped: stripped_of(&taken.knock_room_state), via: server.to_string() };
        commit.put(&CALLS, &(room, caller.user), &call);
        self.stand_outside((caller.user, room), membership::KNOCK, event, &mut commit).await?;
        open.resume(commit);
        open.leave().await?;
        Ok(())
    }
}
