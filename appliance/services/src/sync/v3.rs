//! `GET /sync` ([spec]): what is new for one device, or a wait until something is.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::api::client::filter::FilterDefinition;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::{Caller, Error, Position, RoomNid};

use super::look::{Look, Span};
use super::wait::{Memberships, News, RoomNews, Subscription, joined_rooms};
use super::write::{Answer, List, RoomPart, StateForm, Unread};
use super::{Sync, Token};
use crate::event_filter::wants_type;

/// A user's rooms, left ones included. Beyond it the oldest are not shown.
const ROOMS_MAX: usize = 20_000;

/// Messages to a device in one answer; the token remembers where the next begins.
const TO_DEVICE_MAX: usize = 100;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Where the client stands; none means at the beginning.
    pub since: Option<Token>,
    /// What it wants.
    pub filter: Arc<FilterDefinition>,
    /// All state of all rooms, changed or not.
    pub full_state: bool,
    /// How long to wait for news.
    pub timeout: Duration,
    /// Which form of state.
    pub state_form: StateForm,
    /// What the sync says of its user.
    pub presence: PresenceState,
}

/// One look at what is new.
pub(super) struct Round<'a> {
    pub sync: &'a Sync,
    pub caller: &'a Caller,
    pub request: &'a SyncRequest,
    /// The answer covers everything up to here.
    pub upto: Position,
}

impl Sync {
    /// What is new since `request.since`, as JSON; waits up to `request.timeout` if nothing is.
    ///
    /// `access_token` is looked at again after each wake-up: a session that ends while its request
    /// waits gets an error, not an answer.
    ///
    /// # Errors
    ///
    /// If the session ended or the store fails.
    pub async fn sync(
        &self,
        caller: &Caller,
        access_token: &str,
        request: &SyncRequest,
    ) -> Result<String, Error> {
        if let Some(since) = request.since {
            // Who shows a token has what came before it.
            self.accounts.note_synced(caller, since.position.0);
        }
        let mut poll = self.poll(caller, access_token, (request.timeout, request.presence.clone()));
        loop {
            let upto = poll.next_look().await?;
            let round = Round { sync: self, caller, request, upto };
            let answer = round.answer(&poll.subscription).await?;
            let complete = request.since.is_none() || request.full_state;
            if complete || !answer.is_empty() || !poll.wait().await? {
                return Ok(answer.to_json());
            }
        }
    }

    /// The user's rooms, from memory while they are unchanged.
    pub(super) async fn memberships(
        &self,
        caller: &Caller,
        subscription: &Subscription,
    ) -> Result<Memberships, Error> {
        loop {
            let (known, generation) = subscription.memberships();
            if let Some(known) = known {
                return Ok(known);
            }
            let ledger = &self.house.ledger;
            let (rows, _) = ledger
                .newest()
                .scan(&USER_ROOMS, &caller.user, Direction::Forward, ROOMS_MAX)
                .await?;
            let rows = rows.into_iter().map(|((_, room), row)| (room, row)).collect();
            let rows: Memberships = Arc::new(rows);
            if subscription.keep_memberships(&rows, generation) {
                return Ok(rows);
            }
        }
    }
}

/// What a round knows before it looks into rooms.
struct Gathered {
    news: Option<HashMap<RoomNid, RoomNews>>,
    typing: HashSet<RoomNid>,
    account_data: HashMap<RoomNid, List>,
}

impl Round<'_> {
    async fn answer(&self, subscription: &Subscription) -> Result<Answer, Error> {
        let memberships = self.sync.memberships(self.caller, subscription).await?;
        let mut answer = Answer::default();
        // Before typing is read: what comes in between is told again, not lost.
        let typing = self.sync.reading.serial();
        let gathered = self.gather(&memberships, &mut answer).await?;
        for (room, row) in memberships.iter() {
            // Beyond the position of this answer: the next one tells it.
            if row.since <= self.upto.0 {
                self.add_room(*room, row, &gathered, &mut answer).await?;
            }
        }
        self.add_presence(&memberships, &mut answer).await?;
        let company = std::mem::take(&mut answer.company);
        answer.device_lists = self.look().device_lists(&memberships, company).await?;
        let to_device = self.add_to_device(&mut answer).await?;
        let token = Token { position: self.upto, typing, to_device };
        answer.next_batch = token.text();
        Ok(answer)
    }

    pub(super) fn since(&self) -> Option<Position> {
        self.request.since.map(|token| token.position)
    }

    pub(super) fn look(&self) -> Look<'_> {
        Look { sync: self.sync, caller: self.caller, since: self.since(), upto: self.upto }
    }

    /// Adds messages and counts; returns up to where messages were delivered.
    async fn add_to_device(&self, answer: &mut Answer) -> Result<Position, Error> {
        let look = self.look();
        answer.key_counts = look.key_counts().await?;
        answer.counts_changed = look.device_news();
        let acknowledged = self.request.since.map(|token| token.to_device);
        let (messages, delivered) = look.to_device(acknowledged, TO_DEVICE_MAX).await?;
        answer.to_device = messages;
        Ok(delivered)
    }

    async fn gather(
        &self,
        memberships: &Memberships,
        answer: &mut Answer,
    ) -> Result<Gathered, Error> {
        let rooms = joined_rooms(memberships).into_iter();
        let news = self
            .since()
            .map(|since| self.sync.waiters.rooms_with_news(self.caller.user, rooms, since));
        let typing_known = self.request.since.map_or(0, |token| token.typing);
        let typing = self.sync.reading.rooms_with_typing(typing_known).into_iter().collect();
        let account_data = self.gather_account_data(answer).await?;
        Ok(Gathered { news, typing, account_data })
    }

    /// Global account data goes into the answer, the rooms' is returned.
    async fn gather_account_data(
        &self,
        answer: &mut Answer,
    ) -> Result<HashMap<RoomNid, List>, Error> {
        let mut of_rooms: HashMap<RoomNid, List> = HashMap::new();
        let filter = &self.request.filter;
        let (global, room_filter) = (&filter.account_data, &filter.room.account_data);
        let news = self.look().account_data_news().await?;
        for datum in news.data.into_iter().chain(news.push_rules) {
            let (types, not_types) = match datum.room {
                Some(_) => (room_filter.types.as_deref(), &room_filter.not_types),
                None => (global.types.as_deref(), &global.not_types),
            };
            if !wants_type(types, not_types, &datum.kind) {
                continue;
            }
            match datum.room {
                Some(room) => of_rooms.entry(room).or_default().push_json(&datum.event()),
                None => answer.account_data.push_json(&datum.event()),
            }
        }
        Ok(of_rooms)
    }

    async fn add_room(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        gathered: &Gathered,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        match row.membership {
            membership::JOIN => {
                let news = match &gathered.news {
                    None => Some(RoomNews::ALL),
                    Some(news) => news.get(&room).copied(),
                };
                let newly_joined = self.since().is_none_or(|since| row.since > since.0);
                let news = if newly_joined || self.request.full_state {
                    Some(RoomNews::ALL)
                } else {
                    news
                };
                let other =
                    gathered.typing.contains(&room) || gathered.account_data.contains_key(&room);
                if news.is_some() || other {
                    self.add_joined((room, row), news, gathered, answer).await?;
                }
            }
            membership::INVITE | membership::KNOCK => {
                if self.since().is_none_or(|since| row.position > since.0)
                    && !self.sync.rooms.hides_invite(self.caller.user, row).await?
                {
                    self.add_invited(room, row, answer).await?;
                }
            }
            _ => self.add_left(room, row, answer).await?,
        }
        Ok(())
    }

    async fn add_joined(
        &self,
        (room, row): (RoomNid, &MembershipRow),
        news: Option<RoomNews>,
        gathered: &Gathered,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let Some(room_id) = self.wanted(room).await? else { return Ok(()) };
        let newly_joined = self.since().is_none_or(|since| row.since > since.0);
        let span = Span { since: self.since().filter(|_| !newly_joined), upto: self.upto };
        let has =
            |pick: fn(&RoomNews) -> News| news.as_ref().is_some_and(|n| pick(n) != News::None);
        if newly_joined && self.since().is_some() {
            answer.company.met.extend(self.sync.rooms.members_now(room).await?);
        }
        let mut part = if has(|news| news.timeline) {
            self.room_part(room, row, &span, &mut answer.company).await?
        } else {
            self.quiet_part()
        };
        part.must_show = newly_joined || self.request.full_state;
        if has(|news| news.receipts) || has(|news| news.own_receipts) {
            self.add_receipts(room, span.since, &mut part).await?;
        }
        if gathered.typing.contains(&room) && self.wants_ephemeral("m.typing") {
            let known = self.request.since.map_or(0, |token| token.typing);
            let typing = self.sync.reading.typing_event(room, known).await?;
            typing.iter().for_each(|event| part.ephemeral.push_json(event));
        }
        if let Some(events) = gathered.account_data.get(&room) {
            part.account_data = events.clone();
        }
        if !part.is_empty() {
            self.add_unread(room, &mut part).await?;
            answer.join.push((room_id, part));
        }
        Ok(())
    }

    async fn add_presence(
        &self,
        memberships: &Memberships,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let known = self.request.since.map_or(0, |token| token.typing);
        for event in self.look().presence_news(memberships, (known, &answer.company.met)).await? {
            answer.presence.push_json(&event);
        }
        Ok(())
    }

    async fn add_receipts(
        &self,
        room: RoomNid,
        since: Option<Position>,
        part: &mut RoomPart,
    ) -> Result<(), Error> {
        let reading = &self.sync.reading;
        let moved = reading.receipt_changes(room, since, self.upto).await?;
        // The reader's own receipt, from another device, changes the counts.
        part.must_show |= moved.iter().any(|receipt| receipt.user == self.caller.user);
        if self.wants_ephemeral("m.receipt") {
            let events = reading.receipt_events(self.caller.user, &moved).await?;
            events.iter().for_each(|event| part.ephemeral.push_json(event));
        }
        Ok(())
    }

    async fn add_unread(&self, room: RoomNid, part: &mut RoomPart) -> Result<(), Error> {
        let unread = self.sync.reading.unread(self.caller, room, self.upto).await?;
        if self.request.filter.room.timeline.unread_thread_notifications {
            part.unread = Some(unread.main);
            part.unread_threads = Some(unread.threads.into_iter().collect());
        } else {
            let all = unread.threads.values().fold(unread.main, |sum, thread| Unread {
                notifications: sum.notifications + thread.notifications,
                highlights: sum.highlights + thread.highlights,
            });
            part.unread = Some(all);
        }
        Ok(())
    }

    fn wants_ephemeral(&self, kind: &str) -> bool {
        let filter = &self.request.filter.room.ephemeral;
        wants_type(filter.types.as_deref(), &filter.not_types, kind)
    }

    async fn add_invited(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let Some(room_id) = self.wanted(room).await? else { return Ok(()) };
        let mut state = List::default();
        for event in self.sync.rooms.stripped_state(room, row, self.caller).await? {
            state.push_json(&event);
        }
        let list = match row.membership {
            membership::INVITE => &mut answer.invite,
            _ => &mut answer.knock,
        };
        list.push((room_id, state));
        Ok(())
    }

    /// "The rooms that the user has left or been banned from": those of this span, and on a first
    /// sync only if asked for.
    async fn add_left(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let shown = match self.since() {
            Some(since) => row.since > since.0,
            None => self.request.filter.room.include_leave,
        };
        if row.forgotten || !shown {
            return Ok(());
        }
        let Some(room_id) = self.wanted(room).await? else { return Ok(()) };
        let upto = Position(row.position.min(self.upto.0));
        let span = Span { since: self.since(), upto };
        if self.look().was_in(row) {
            answer.company.parted.extend(self.sync.rooms.members_now(room).await?);
        }
        let mut part = self.room_part(room, row, &span, &mut answer.company).await?;
        part.must_show = true;
        answer.leave.push((room_id, part));
        Ok(())
    }

    /// The room's ID, if the filter wants the room.
    async fn wanted(&self, room: RoomNid) -> Result<Option<String>, Error> {
        let room_id = self.sync.house.ledger.room_id(room).await?;
        let filter = &self.request.filter.room;
        let wanted = filter.rooms.as_ref().is_none_or(|rooms| rooms.contains(&room_id))
            && !filter.not_rooms.contains(&room_id);
        Ok(wanted.then(|| room_id.to_string()))
    }
}
