//! `GET /events` ([spec]): the event stream of before `/sync`, of all one's rooms or of one room that
//! the world may read.
//!
//! Events come in the order in which this server took them in, oldest first. An answer that would be
//! too long ends earlier and its `end` says where, so that nothing is left out.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Direction, Event, membership};
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::ruma::{OwnedRoomId, RoomId};
use appliance_model::{Caller, Error, EventNid, Position, RoomNid};

use super::look::{Look, place};
use super::wait::{Memberships, News, RoomNews};
use super::write::{List, Object};
use super::{Sync, Token};
use crate::rooms::membership_set_by;

/// Events of rooms in one answer. Old clients draw each as it comes.
const EVENTS_MAX: usize = 100;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct EventsRequest {
    /// Where the client stands; none is now.
    pub from: Option<Token>,
    /// How long to wait for news, at most a minute.
    pub timeout: Duration,
    /// Only this room, whether the user is in it or the world may read it.
    pub room_id: Option<OwnedRoomId>,
}

/// An event of a room, and when it came.
struct Found {
    at: u64,
    room: RoomNid,
    event: Arc<Event>,
    /// What the reader was at the event.
    reader: Option<MembershipState>,
}

/// What one look found.
struct Page {
    chunk: List,
    end: Token,
    /// There is more, which the next request gets.
    cut: bool,
}

impl Sync {
    /// What is new since `request.from`, as JSON; waits up to `request.timeout` if nothing is.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`] if the one room is not for the caller to read.
    /// * If the session ended, or the store fails.
    pub async fn events(
        &self,
        caller: &Caller,
        access_token: &str,
        request: &EventsRequest,
    ) -> Result<String, Error> {
        let mut from = request.from;
        let mut poll = self.poll(caller, access_token, (request.timeout, PresenceState::Online));
        let _peek = match &request.room_id {
            Some(room_id) => {
                Some(poll.subscription.peek(self.rooms.readable(caller, room_id).await?))
            }
            None => None,
        };
        loop {
            let upto = poll.next_look().await?;
            let now = Token { position: upto, typing: self.reading.serial(), to_device: upto };
            let from = *from.get_or_insert(now);
            let memberships = self.memberships(caller, &poll.subscription).await?;
            let since = Some(from.position);
            let stream = Stream { look: Look { sync: self, caller, since, upto }, from, now };
            let page = stream.page(&memberships, request.room_id.as_deref()).await?;
            if page.cut || !page.chunk.is_empty() || !poll.wait().await? {
                return Ok(page.to_json(from));
            }
        }
    }
}

impl Page {
    fn to_json(&self, from: Token) -> String {
        let mut out = String::with_capacity(256);
        let mut object = Object::begin(&mut out);
        object.field("chunk", |out| self.chunk.write(out));
        object.text("end", &self.end.text());
        object.text("start", &from.text());
        object.end();
        out
    }
}

/// One look at what came after a token.
struct Stream<'a> {
    look: Look<'a>,
    from: Token,
    /// Where the client stands after it has been told everything.
    now: Token,
}

impl Stream<'_> {
    async fn page(&self, memberships: &Memberships, only: Option<&RoomId>) -> Result<Page, Error> {
        let rooms = self.rooms(memberships, only).await?;
        let (found, upto) = self.timelines(&rooms).await?;
        let mut chunk = self.written(found).await?;
        let joined = |row: &Option<MembershipRow>| {
            row.as_ref().is_some_and(|row| row.membership == membership::JOIN)
        };
        for (room, _) in rooms.iter().filter(|(_, row)| joined(row)) {
            self.add_ephemeral(*room, upto, &mut chunk).await?;
        }
        if only.is_none() {
            let since = (self.from.typing, &BTreeSet::new());
            for event in self.look.presence_news(memberships, since).await? {
                chunk.push_json(&event);
            }
            self.add_account_data(upto, &mut chunk).await?;
        }
        let cut = upto < self.now.position;
        Ok(Page { chunk, end: Token { position: upto, to_device: upto, ..self.now }, cut })
    }

    /// The rooms to look into, with what the caller is in each; nothing in one that is peeked at.
    async fn rooms(
        &self,
        memberships: &Memberships,
        only: Option<&RoomId>,
    ) -> Result<Vec<(RoomNid, Option<MembershipRow>)>, Error> {
        let Some(room_id) = only else {
            return Ok(memberships.iter().map(|(room, row)| (*room, Some(row.clone()))).collect());
        };
        // Asked each time: the room may have closed meanwhile.
        let room = self.look.sync.rooms.readable(self.look.caller, room_id).await?;
        let row = memberships.iter().find(|(known, _)| *known == room).map(|(_, row)| row.clone());
        // Who was in the room and looks at it again from outside sees what the world sees.
        let row = row.filter(|row| {
            row.membership == membership::JOIN || row.position > self.from.position.0
        });
        Ok(vec![(room, row)])
    }

    /// The events of all rooms, oldest first, and up to where they are complete.
    async fn timelines(
        &self,
        rooms: &[(RoomNid, Option<MembershipRow>)],
    ) -> Result<(Vec<Found>, Position), Error> {
        let news = self.look.sync.waiters.rooms_with_news(
            self.look.caller.user,
            rooms.iter().map(|(room, _)| *room),
            self.from.position,
        );
        let (mut found, mut upto) = (Vec::<Found>::new(), self.look.upto);
        for (room, row) in rooms {
            let (events, complete) = match row {
                Some(row) if row.membership != membership::JOIN => {
                    self.of_one_outside(*room, row, upto).await?
                }
                row => self.of_one_inside(*room, row.as_ref(), (&news, upto)).await?,
            };
            found.extend(events);
            upto = upto.min(complete);
            found.sort_by_key(|found| found.at);
            found.retain(|found| found.at <= upto.0);
            if found.len() > EVENTS_MAX {
                found.truncate(EVENTS_MAX);
                upto = found.last().map_or(upto, |last| Position(last.at));
            }
        }
        Ok((found, upto))
    }

    /// Who is in a room, or looks into it from outside, is told what comes there.
    async fn of_one_inside(
        &self,
        room: RoomNid,
        row: Option<&MembershipRow>,
        (news, upto): (&HashMap<RoomNid, RoomNews>, Position),
    ) -> Result<(Vec<Found>, Position), Error> {
        if news.get(&room).is_none_or(|news| news.timeline == News::None) {
            return Ok((Vec::new(), upto));
        }
        self.stretch(room, row, upto).await
    }

    /// Those who left are told what they saw until then, and of their leaving; those who are called,
    /// of the call.
    async fn of_one_outside(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        upto: Position,
    ) -> Result<(Vec<Found>, Position), Error> {
        let Look { sync, caller, .. } = self.look;
        let is_new = row.position > self.from.position.0 && row.position <= upto.0;
        if !is_new || row.forgotten || sync.rooms.hides_invite(caller.user, row).await? {
            return Ok((Vec::new(), upto));
        }
        let event = sync.house.ledger.event(EventNid(row.event)).await?;
        let reader = Some(membership_set_by(&event));
        // A call to a room that this server is not in has no place in its timeline.
        let Some(at) = event.position.map(i64::cast_unsigned) else {
            return Ok((vec![Found { at: row.position, room, event, reader }], upto));
        };
        let (mut found, complete) = self.stretch(room, Some(row), upto).await?;
        // "Shared" history does not show the call to those who are called; this does.
        let is_known = found.iter().any(|found| found.at == at);
        if !is_known && at > self.from.position.0 && at <= complete.0 {
            found.push(Found { at, room, event, reader });
        }
        Ok((found, complete))
    }

    /// What the caller is told of a room up to a position, and up to where that is all: what they may
    /// see, and, unless they look in from outside, what came while they were in it, and how they came
    /// and went.
    async fn stretch(
        &self,
        room: RoomNid,
        row: Option<&MembershipRow>,
        upto: Position,
    ) -> Result<(Vec<Found>, Position), Error> {
        let Look { sync, caller, .. } = self.look;
        if self.from.position >= upto {
            return Ok((Vec::new(), upto));
        }
        let range = (place(self.from.position) + 1, place(upto) + 1);
        let view = sync.house.ledger.view().await?;
        let stretch = view.timeline(room, range, Direction::Forward, EVENTS_MAX).await?;
        let last = stretch.events.last().and_then(|(event, _)| event.position);
        let complete = match last.filter(|_| stretch.more) {
            Some(last) => Position(last.cast_unsigned()),
            None => upto,
        };
        let readers = sync.rooms.visible(caller.user, room, &stretch.events).await?;
        let ignored = sync.rooms.ignored(caller.user).await?;
        let is_own = |event: &Event| {
            event.kind() == "m.room.member"
                && event.part(event.spans.state_key).trim_matches('"') == caller.user_id.as_str()
        };
        let seen = stretch.events.into_iter().zip(readers);
        let found = seen.filter_map(|((event, _), reader)| {
            let reader = reader.filter(|_| !ignored.hides(&event))?;
            let concerns = row.is_none() || reader == MembershipState::Join || is_own(&event);
            let at = event.position?.cast_unsigned();
            concerns.then_some(Found { at, room, event, reader: Some(reader) })
        });
        Ok((found.collect(), complete))
    }

    /// The events in client form, in their order.
    async fn written(&self, found: Vec<Found>) -> Result<List, Error> {
        let Look { sync, caller, .. } = self.look;
        let mut of_rooms: BTreeMap<RoomNid, Vec<Found>> = BTreeMap::new();
        for found in found {
            of_rooms.entry(found.room).or_default().push(found);
        }
        let mut written = BTreeMap::new();
        for (room, found) in of_rooms {
            let room_id = sync.house.ledger.room_id(room).await?;
            let places: Vec<_> = found.iter().map(|found| found.at).collect();
            let events = found.into_iter().map(|found| (found.event, found.reader)).collect();
            let page = sync.rooms.client_events(caller, room, events).await?;
            for (index, at) in places.into_iter().enumerate() {
                let mut json = String::new();
                page.write(&mut json, index, Some(room_id.as_str()));
                written.insert((at, index, room), json);
            }
        }
        let mut chunk = List::default();
        written.values().for_each(|json| chunk.push_json(json));
        Ok(chunk)
    }

    async fn add_ephemeral(
        &self,
        room: RoomNid,
        upto: Position,
        chunk: &mut List,
    ) -> Result<(), Error> {
        let Look { sync, caller, since, .. } = self.look;
        let reading = &sync.reading;
        let moved = reading.receipt_changes(room, since, upto).await?;
        let receipts = reading.receipt_events(caller.user, &moved).await?;
        let typing = reading.typing_event(room, self.from.typing).await?;
        if receipts.is_empty() && typing.is_none() {
            return Ok(());
        }
        let room_id = sync.house.ledger.room_id(room).await?;
        for event in receipts.iter().chain(&typing) {
            chunk.push_json(&in_room(event, &room_id));
        }
        Ok(())
    }

    async fn add_account_data(&self, upto: Position, chunk: &mut List) -> Result<(), Error> {
        let look = Look { upto, ..self.look };
        let news = look.account_data_news().await?;
        for datum in news.data.into_iter().chain(news.push_rules) {
            match datum.room {
                Some(room) => {
                    let room_id = look.sync.house.ledger.room_id(room).await?;
                    chunk.push_json(&in_room(&datum.event(), &room_id));
                }
                None => chunk.push_json(&datum.event()),
            }
        }
        Ok(())
    }
}

/// An event that does not say its room, saying it.
pub(super) fn in_room(event: &str, room_id: &RoomId) -> String {
    let rest = event.strip_prefix('{').unwrap_or_default();
    format!(r#"{{"room_id":{},{rest}"#, serde_json::Value::from(room_id.as_str()))
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use serde_json::Value;

    use super::super::InitialRequest;
    use super::*;
    use crate::scenario::{Ward, visibility};

    async fn ask(ward: &Ward, who: &(Caller, String), from: &str, room: Option<&RoomId>) -> Value {
        let request = EventsRequest {
            from: Some(Token::parse(from).unwrap()),
            timeout: Duration::from_secs(30),
            room_id: room.map(ToOwned::to_owned),
        };
        let json = ward.services.sync.events(&who.0, &who.1, &request).await.unwrap();
        serde_json::from_str(&json).unwrap()
    }

    async fn initial(ward: &Ward, who: &Caller, archived: bool) -> Value {
        let request = InitialRequest { limit: Some(3), archived };
        serde_json::from_str(&ward.services.sync.initial(who, request).await.unwrap()).unwrap()
    }

    fn bodies(chunk: &Value) -> Vec<String> {
        let chunk = chunk.as_array().unwrap().iter();
        chunk.filter_map(|event| event["content"]["body"].as_str()).map(ToOwned::to_owned).collect()
    }

    #[tokio::test]
    async fn a_long_absence_is_told_in_pieces_without_a_hole() {
        let ward = Ward::new().await;
        let nurse = ward.signed_in("nurse").await;
        let doctor = ward.member("doctor").await;
        let rooms =
            [ward.room_of(&[&nurse.0, &doctor]).await, ward.room_of(&[&nurse.0, &doctor]).await];
        let glance = initial(&ward, &nurse.0, false).await;
        assert_eq!(glance["rooms"].as_array().unwrap().len(), 2);
        let mut said = Vec::new();
        for number in 0..250 {
            let room = &rooms[usize::from(number % 7 < 5)];
            ward.say(&doctor, room, &number.to_string()).await;
            said.push(number.to_string());
        }
        let (mut from, mut heard) = (glance["end"].as_str().unwrap().to_owned(), Vec::new());
        while heard.len() < said.len() {
            let answer = ask(&ward, &nurse, &from, None).await;
            assert_eq!(answer["start"], from);
            let events = answer["chunk"].as_array().unwrap().iter();
            assert!(events.filter(|event| event["event_id"].is_string()).count() <= EVENTS_MAX);
            heard.extend(bodies(&answer["chunk"]));
            from = answer["end"].as_str().unwrap().to_owned();
        }
        assert_eq!(heard, said);
    }

    /// The room's talk wakes who looks into it from outside, until its door closes.
    #[tokio::test]
    async fn who_peeks_is_woken_and_sees_no_more_than_the_world() {
        let ward = Ward::new().await;
        let nurse = ward.member("nurse").await;
        let visitor = ward.signed_in("visitor").await;
        let room = ward.room(&nurse).await;
        ward.say(&nurse, &room, "in private").await;
        let request =
            EventsRequest { from: None, timeout: Duration::ZERO, room_id: Some(room.clone()) };
        let sync = &ward.services.sync;
        let refused = sync.events(&visitor.0, &visitor.1, &request).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden);
        visibility(&ward, &nurse, &room, "world_readable").await;
        let from = format!("s{}", ward.services.house.ledger.position().0);
        let begin = "s0";
        let seen = ask(&ward, &visitor, begin, Some(&room)).await;
        assert_eq!(bodies(&seen["chunk"]), Vec::<String>::new(), "what was private stays so");
        let (heard, _) = tokio::join!(ask(&ward, &visitor, &from, Some(&room)), async {
            tokio::task::yield_now().await;
            ward.say(&nurse, &room, "to the world").await
        });
        assert_eq!(bodies(&heard["chunk"]), ["to the world"]);
        assert!(ward.services.sync.waiters.rooms_peeked_at() == 0, "nobody peeks any more");
        let from = heard["end"].as_str().unwrap();
        let request = EventsRequest {
            from: Some(Token::parse(from).unwrap()),
            timeout: Duration::from_secs(30),
            room_id: Some(room.clone()),
        };
        let (closed, ()) = tokio::join!(sync.events(&visitor.0, &visitor.1, &request), async {
            tokio::task::yield_now().await;
            visibility(&ward, &nurse, &room, "joined").await;
        });
        assert_eq!(closed.unwrap_err().kind, Kind::Forbidden);
    }

    #[tokio::test]
    async fn who_comes_and_goes_hears_just_that() {
        let ward = Ward::new().await;
        let nurse = ward.member("nurse").await;
        let doctor = ward.signed_in("doctor").await;
        let room = ward.room(&nurse).await;
        let from = format!("s{}", ward.services.house.ledger.position().0);
        ward.set(&nurse, &room, &doctor.0.user_id, M::Invite).await;
        let call = ask(&ward, &doctor, &from, None).await;
        let kinds = |answer: &Value| -> Vec<String> {
            let events = answer["chunk"].as_array().unwrap().iter();
            let rooms = events.filter(|event| event["event_id"].is_string());
            rooms.map(|event| event["content"]["membership"].to_string()).collect()
        };
        assert_eq!(kinds(&call), ["\"invite\""]);
        assert_eq!(initial(&ward, &doctor.0, false).await["rooms"][0]["membership"], "invite");
        ward.set(&doctor.0, &room, &doctor.0.user_id, M::Join).await;
        let joined = ask(&ward, &doctor, call["end"].as_str().unwrap(), None).await;
        assert_eq!(kinds(&joined), ["\"join\""]);
        ward.say(&nurse, &room, "before").await;
        ward.set(&nurse, &room, &doctor.0.user_id, M::Leave).await;
        ward.say(&nurse, &room, "after").await;
        let left = ask(&ward, &doctor, joined["end"].as_str().unwrap(), None).await;
        assert_eq!(bodies(&left["chunk"]), ["before"]);
        assert_eq!(kinds(&left).last().unwrap(), "\"leave\"");
        assert_eq!(initial(&ward, &doctor.0, false).await["rooms"], serde_json::json!([]));
        let archived = initial(&ward, &doctor.0, true).await;
        assert_eq!(archived["rooms"][0]["membership"], "leave");
        assert_eq!(bodies(&archived["rooms"][0]["messages"]["chunk"]), ["before"]);
    }
}
