//! `GET /initialSync` ([spec]): all of a user's rooms at a glance, as clients of before `/sync` asked
//! for it.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync

use std::collections::{BTreeSet, HashMap};

use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Root, membership};
use appliance_model::ruma::RoomId;
use appliance_model::{Caller, Error, EventNid, RoomNid};

use super::events::in_room;
use super::look::{Look, Shown, Span, Wish};
use super::token::timeline_token;
use super::write::{List, Object};
use super::{Sync, Token};

/// Messages of each room if the client names no limit, and at the most.
const MESSAGES_DEFAULT: usize = 10;
const MESSAGES_MAX: usize = 100;

/// What a client asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct InitialRequest {
    /// The newest messages of each room, at most 100; ten if none is named.
    pub limit: Option<usize>,
    /// Also rooms that the user has left.
    pub archived: bool,
}

impl Sync {
    /// The user's rooms with their state and newest messages, as JSON.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn initial(&self, caller: &Caller, request: InitialRequest) -> Result<String, Error> {
        let subscription = self.waiters.subscribe(caller.user);
        let memberships = self.memberships(caller, &subscription).await?;
        let (upto, typing) = (self.house.ledger.position(), self.reading.serial());
        let end = Token { position: upto, typing, to_device: upto };
        let look = Look { sync: self, caller, since: None, upto };
        let (account_data, of_rooms) = account_data(&look).await?;
        let glance = Glance { look: &look, request, end, of_rooms };
        let (mut rooms, mut receipts) = (List::default(), List::default());
        for (room, row) in memberships.iter().filter(|(_, row)| row.since <= upto.0) {
            glance.add_room(*room, row, &mut rooms).await?;
            glance.add_receipts(*room, row, &mut receipts).await?;
        }
        let mut presence = List::default();
        for event in look.presence_news(&memberships, (0, &BTreeSet::new())).await? {
            presence.push_json(&event);
        }
        let mut out = String::with_capacity(1_024);
        let mut object = Object::begin(&mut out);
        object.field("account_data", |out| account_data.write(out));
        object.text("end", &end.text());
        object.field("presence", |out| presence.write(out));
        object.field("receipts", |out| receipts.write(out));
        object.field("rooms", |out| rooms.write(out));
        object.end();
        Ok(out)
    }
}

/// What the user keeps for all rooms, and for each.
async fn account_data(look: &Look<'_>) -> Result<(List, HashMap<RoomNid, List>), Error> {
    let (mut global, mut of_rooms) = (List::default(), HashMap::<_, List>::new());
    let news = look.account_data_news().await?;
    for datum in news.data.into_iter().chain(news.push_rules) {
        match datum.room {
            Some(room) => of_rooms.entry(room).or_default().push_json(&datum.event()),
            None => global.push_json(&datum.event()),
        }
    }
    Ok((global, of_rooms))
}

/// One look at all rooms.
struct Glance<'a> {
    look: &'a Look<'a>,
    request: InitialRequest,
    end: Token,
    of_rooms: HashMap<RoomNid, List>,
}

impl Glance<'_> {
    async fn add_room(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        rooms: &mut List,
    ) -> Result<(), Error> {
        let Look { sync, caller, .. } = *self.look;
        let room_id = sync.house.ledger.room_id(room).await?;
        let mut json = String::new();
        let mut object = Object::begin(&mut json);
        object.text("room_id", room_id.as_str());
        match row.membership {
            membership::JOIN => {
                object.text("membership", "join");
                self.write_inside((room, &room_id), row, &mut object).await?;
            }
            membership::INVITE if !sync.rooms.hides_invite(caller.user, row).await? => {
                object.text("membership", "invite");
                let own = sync.house.ledger.event(EventNid(row.event)).await?;
                let own = sync.rooms.client_events(caller, room, vec![(own, None)]).await?;
                object.field("invite", |out| own.write(out, 0, Some(room_id.as_str())));
            }
            membership::LEAVE | membership::BAN if self.request.archived && !row.forgotten => {
                let banned = row.membership == membership::BAN;
                object.text("membership", if banned { "ban" } else { "leave" });
                self.write_inside((room, &room_id), row, &mut object).await?;
            }
            _ => return Ok(()),
        }
        object.end();
        rooms.push_json(&json);
        Ok(())
    }

    /// Messages and state: of now for those who are in the room, else of when they left it.
    async fn write_inside(
        &self,
        (room, room_id): (RoomNid, &RoomId),
        row: &MembershipRow,
        object: &mut Object<'_>,
    ) -> Result<(), Error> {
        let (look, id) = (self.look, Some(room_id.as_str()));
        let limit = self.request.limit.unwrap_or(MESSAGES_DEFAULT).min(MESSAGES_MAX);
        let wish = Wish { limit, filter: None };
        let is_in = row.membership == membership::JOIN;
        let shown = if is_in {
            look.shown(room, &Span { since: None, upto: look.upto }, &wish).await?
        } else {
            look.shown_to_leaver(room, row, None, &wish).await?
        };
        let timeline = look.timeline_list(room, &shown, id).await?;
        let state = self.state(room, shown.state_after, id).await?;
        let published = look.sync.rooms.is_published(room_id).await?;
        object.field("messages", |out| self.write_messages(out, &shown, &timeline, is_in));
        object.field("state", |out| state.write(out));
        object.text("visibility", if published { "public" } else { "private" });
        let nothing = List::default();
        let account_data = self.of_rooms.get(&room).unwrap_or(&nothing);
        object.field("account_data", |out| account_data.write(out));
        Ok(())
    }

    fn write_messages(&self, out: &mut String, shown: &Shown, timeline: &List, is_in: bool) {
        let last = shown.events.last().and_then(|(event, _)| event.position);
        let end = match last.filter(|_| !is_in) {
            Some(last) => timeline_token(last + 1),
            None => self.end.text(),
        };
        let mut object = Object::begin(out);
        object.field("chunk", |out| timeline.write(out));
        object.text("end", &end);
        object.text("start", &timeline_token(shown.start));
        object.end();
    }

    async fn state(&self, room: RoomNid, root: Root, id: Option<&str>) -> Result<List, Error> {
        let ledger = &self.look.sync.house.ledger;
        let entries = ledger.states(room).all(root).await?;
        let numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        Ok(self.look.state_list(&ledger.events(&numbers).await?, id))
    }

    async fn add_receipts(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        receipts: &mut List,
    ) -> Result<(), Error> {
        let Look { sync, caller, upto, .. } = *self.look;
        if row.membership != membership::JOIN {
            return Ok(());
        }
        let moved = sync.reading.receipt_changes(room, None, upto).await?;
        let room_id = sync.house.ledger.room_id(room).await?;
        for event in sync.reading.receipt_events(caller.user, &moved).await? {
            receipts.push_json(&in_room(&event, &room_id));
        }
        Ok(())
    }
}
