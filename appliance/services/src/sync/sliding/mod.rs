//! Sliding sync ([MSC4186]): what is new in the rooms that a client shows, and nothing else.
//!
//! One core, two spellings: the one of before its acceptance, which released clients speak, and the
//! merged one. A client names lists (filters, and a range of the user's rooms by activity) and
//! single rooms; each connection remembers what it was shown ([`connection`]), so the cost of a
//! request is that of what is new to it.
//!
//! [MSC4186]: https://github.com/matrix-org/matrix-spec-proposals/pull/4186

mod answer;
mod connection;
mod extensions;
mod facts;
pub mod request;
mod room;
mod room_list;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use appliance_ledger::rows::MembershipRow;
use appliance_model::ruma::RoomId;
use appliance_model::{Caller, Error, Position, RoomNid};

pub(crate) use self::connection::Connections;
pub(crate) use self::facts::KnownFacts;
pub use self::request::SlidingRequest;
pub(crate) use self::room_list::ListMemory;
pub(crate) use self::state::PlainStates;

use self::answer::Answer;
use self::connection::{Face, Known, Sent, Turn, Upto, Wishes};
use self::extensions::Relevant;
use self::request::{RoomScope, StateWish};
use self::room::{Subject, Told};
use self::room_list::{Interest, Selection, face_of};
use super::Sync;
use super::look::Look;
use super::wait::{Memberships, RoomNews, Subscription, joined_rooms};

/// One look for a request.
struct Round<'a> {
    look: Look<'a>,
    request: &'a SlidingRequest,
    known: &'a Known,
    connection: u64,
}

/// A room of the request, and how it was told.
struct Shown<'a> {
    room: RoomNid,
    interest: &'a Interest,
    told: Told,
    sent: Option<&'a Sent>,
    now: Sent,
}

/// The rooms that an extension is about.
struct Scope {
    /// Which lists and subscriptions, by their place in the request.
    sources: Vec<bool>,
    /// Rooms named one by one.
    rooms: HashSet<RoomNid>,
}

impl Sync {
    /// What is new since `request.pos`, as JSON; waits up to `request.timeout` if nothing is.
    ///
    /// The answer to a request that was given up for a later one of the same connection says
    /// nothing, and comes only when its time is over: two processes that take each other for lost
    /// do not keep each other awake.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::UnknownPos`]: the connection is not known, or not at that place.
    /// * If the session ended or the store fails.
    pub async fn sliding(
        &self,
        caller: &Caller,
        access_token: &str,
        request: &SlidingRequest,
    ) -> Result<String, Error> {
        let (pos, fresh_name) = (request.pos.as_deref(), self.house.dice.number());
        let turn = self.connections.enter(caller.device, &request.conn_id, pos, fresh_name)?;
        let mut poll = self.poll(caller, access_token, (request.timeout, request.presence.clone()));
        loop {
            let upto = poll.next_look().await?;
            if !self.connections.is_last(&turn) {
                poll.wait_out().await?;
                return Ok(write::nothing_new(pos));
            }
            let Turn { known, connection, .. } = &turn;
            let look = Look { sync: self, caller, since: known.upto, upto };
            let round = Round { look, request, known, connection: *connection };
            let (answer, next) = round.answer(&poll.subscription).await?;
            if pos.is_none() || !answer.is_empty() || !poll.wait().await? {
                match self.connections.answer(&turn, next) {
                    Some(pos) => return Ok(answer.to_json(&pos, request.form)),
                    None => continue,
                }
            }
        }
    }
}

impl Round<'_> {
    /// The answer, and what the client knows once it has it.
    async fn answer(&self, subscription: &Subscription) -> Result<(Answer, Known), Error> {
        let sync = self.look.sync;
        // Before typing is read: what comes in between is told again, not lost.
        let typing = sync.reading.serial();
        let memberships = sync.memberships(self.look.caller, subscription).await?;
        if let Some(position) = self.read_up_to(&memberships) {
            sync.accounts.note_synced(self.look.caller, position.0);
        }
        let selected = (&memberships, self.known);
        let upto = self.look.upto;
        let selection = sync.select(self.look.caller, self.request, selected, upto).await?;
        let news = self.news(&memberships);
        let mut next = self.known.clone();
        (next.upto, next.typing) = (Some(upto), typing);
        let mut wishes = HashMap::new();
        let mut shown = Vec::with_capacity(selection.rooms.len());
        for (room, (row, interest)) in &selection.rooms {
            let wished = match wishes.get(&interest.sources) {
                Some(wished) => Wishes::clone(wished),
                None => next.intern(self.wishes_of(&interest.sources)),
            };
            wishes.insert(&interest.sources, wished.clone());
            let is_dm = selection.direct.contains(room);
            let news = news.get(room).copied();
            shown.push(self.show((*room, row), interest, (wished, is_dm), news).await?);
        }
        let mut answer = Answer { txn_id: self.request.txn_id.clone(), ..Answer::default() };
        self.add_extensions(&mut answer, &mut shown, &memberships, &news).await?;
        next.receipts_on = self.request.extensions.receipts.is_some();
        next.account_data_on = self.request.extensions.account_data.is_some();
        next.thread_subscriptions_on = self.request.extensions.thread_subscriptions.is_some();
        self.remember(&shown, &selection, &news, &mut next);
        for one in shown {
            if let Some(mut room) = one.told.answer {
                room.lists = self.lists_of(one.interest);
                answer.rooms.push((self.look.name_of(one.room).await?, room));
            }
        }
        answer.counts_changed = *self.known.counts != selection.counts;
        if answer.counts_changed {
            next.counts = Arc::new(selection.counts.clone());
        }
        answer.counts = selection.counts;
        Ok((answer, next))
    }

    /// Up to where the client has read every one of its rooms; none while there are some that it was
    /// not shown: a window, or the connection that carries nothing but keys, says nothing about what
    /// was redacted elsewhere.
    fn read_up_to(&self, memberships: &Memberships) -> Option<Position> {
        let mut position = self.known.upto?;
        for room in joined_rooms(memberships) {
            let events = self.known.rooms.get(&room)?.events;
            position = position.min(events.position(self.known.upto)?);
        }
        Some(position)
    }

    /// What may have changed in the user's rooms since the last answer.
    fn news(&self, memberships: &Memberships) -> HashMap<RoomNid, RoomNews> {
        let Some(since) = self.known.upto else { return HashMap::new() };
        let rooms = joined_rooms(memberships).into_iter();
        self.look.sync.waiters.rooms_with_news(self.look.caller.user, rooms, since)
    }

    /// What is wished of rooms with these sources: each wish once.
    fn wishes_of(&self, sources: &[usize]) -> Vec<StateWish> {
        let mut wishes: Vec<StateWish> = Vec::new();
        for config in sources.iter().filter_map(|source| self.request.config(*source)) {
            if !wishes.contains(&config.state) {
                wishes.push(config.state.clone());
            }
        }
        wishes
    }

    fn lists_of(&self, interest: &Interest) -> Vec<String> {
        let names: Vec<_> = self.request.lists.keys().collect();
        let name = |source: &usize| names.get(*source).map(|name| (*name).clone());
        interest.sources.iter().filter_map(name).collect()
    }

    async fn show<'s>(
        &'s self,
        (room, row): (RoomNid, &MembershipRow),
        interest: &'s Interest,
        (wishes, is_dm): (Wishes, bool),
        news: Option<RoomNews>,
    ) -> Result<Shown<'s>, Error> {
        let sent = self.known.rooms.get(&room);
        let (limit, connection) = (interest.limit, self.connection);
        let subject = Subject { room, row, wishes: &wishes, limit, is_dm, sent, news, connection };
        let told = self.look.tell(&subject).await?;
        // A room that is new, or new again, begins anew in every respect.
        let before = sent.filter(|_| told.start.is_none());
        let now = Sent {
            face: face_of(row),
            events: Upto::Live,
            receipts: before.map_or(Upto::Never, |sent| sent.receipts),
            account_data: before.map_or(Upto::Never, |sent| sent.account_data),
            wishes,
            limit: told.limit,
            is_dm,
        };
        Ok(Shown { room, interest, told, sent, now })
    }

    async fn add_extensions(
        &self,
        answer: &mut Answer,
        shown: &mut [Shown<'_>],
        memberships: &Memberships,
        news: &HashMap<RoomNid, RoomNews>,
    ) -> Result<(), Error> {
        let (look, asked) = (&self.look, &self.request.extensions);
        let told = &mut answer.extensions;
        let since = self.known.upto;
        if let Some(scope) = &asked.account_data {
            let (scope, first) = (self.scope(scope).await?, !self.known.account_data_on);
            let of = |one: &Shown<'_>| if first { Upto::Never } else { one.now.account_data };
            let rooms = relevant(shown, &scope, of);
            told.account_data = Some(look.account_data_extension(&rooms, first).await?);
            mark(shown, &rooms, since, |now| &mut now.account_data);
        }
        if let Some(scope) = &asked.receipts {
            let (scope, first) = (self.scope(scope).await?, !self.known.receipts_on);
            let of = |one: &Shown<'_>| if first { Upto::Never } else { one.now.receipts };
            let rooms = relevant(shown, &scope, of);
            told.receipts = Some(look.receipts_extension(&rooms, news).await?);
            mark(shown, &rooms, since, |now| &mut now.receipts);
        }
        if let Some(scope) = &asked.typing {
            let scope = self.scope(scope).await?;
            let of = |one: &Shown<'_>| one.sent.map_or(Upto::Never, |sent| sent.events);
            let rooms = relevant(shown, &scope, of);
            told.typing = Some(look.typing_extension(&rooms, self.known).await?);
        }
        if asked.e2ee {
            told.e2ee = Some(look.e2ee_extension(memberships).await?);
        }
        if let Some(request) = asked.to_device {
            told.to_device = Some(look.to_device_extension(request).await?);
        }
        if let Some(request) = asked.thread_subscriptions {
            let first = !self.known.thread_subscriptions_on;
            let changes = look.thread_subscriptions_extension(request, first).await?;
            told.thread_subscriptions = Some((request.name, changes));
        }
        Ok(())
    }

    async fn scope(&self, scope: &RoomScope) -> Result<Scope, Error> {
        let lists = self.request.lists.keys().map(|list| scope.has_list(list));
        let subscriptions = self.request.subscriptions.keys();
        let subscriptions = subscriptions.map(|_| scope.has_all_subscriptions());
        let sources = lists.chain(subscriptions).collect();
        let mut rooms = HashSet::new();
        for room_id in scope.rooms.iter().flatten() {
            if let Ok(room_id) = <&RoomId>::try_from(room_id.as_str()) {
                rooms.extend(self.look.sync.house.ledger.room(room_id).await?);
            }
        }
        Ok(Scope { sources, rooms })
    }

    /// Writes down what was told, and of what was not told that there is more.
    fn remember(
        &self,
        shown: &[Shown<'_>],
        selection: &Selection,
        news: &HashMap<RoomNid, RoomNews>,
        next: &mut Known,
    ) {
        let mut changes = Vec::new();
        for one in shown.iter().filter(|one| !one.sent.is_some_and(|sent| *sent == one.now)) {
            changes.push((one.room, one.now.clone()));
        }
        let Some(since) = self.known.upto else {
            next.rooms = Arc::new(changes.into_iter().collect());
            return;
        };
        let known = &self.known.rooms;
        let missed = |room: &RoomNid| !selection.rooms.contains_key(room);
        for (room, sent) in known.iter().filter(|(room, _)| missed(room)) {
            if !news.contains_key(room) && sent.account_data != Upto::Live {
                continue;
            }
            let mut now = sent.clone();
            if news.contains_key(room) {
                now.events.stop_at(since);
                now.receipts.stop_at(since);
            }
            now.account_data.stop_at(since);
            changes.push((*room, now));
        }
        if !changes.is_empty() {
            Arc::make_mut(&mut next.rooms).extend(changes);
        }
    }
}

/// The rooms among those shown that an extension is about.
fn relevant(
    shown: &[Shown<'_>],
    scope: &Scope,
    told: impl Fn(&Shown<'_>) -> Upto,
) -> Vec<Relevant> {
    let is_meant = |one: &&Shown<'_>| {
        let has = |source: &usize| scope.sources.get(*source).copied().unwrap_or_default();
        one.now.face == Face::Joined
            && (one.interest.sources.iter().any(has) || scope.rooms.contains(&one.room))
    };
    let relevant =
        |one: &Shown<'_>| Relevant { room: one.room, told: told(one), start: one.told.start };
    shown.iter().filter(is_meant).map(relevant).collect()
}

/// Notes of which rooms an extension told.
fn mark(
    shown: &mut [Shown<'_>],
    rooms: &[Relevant],
    since: Option<Position>,
    part: impl Fn(&mut Sent) -> &mut Upto,
) {
    // Both are in the order of the rooms' numbers.
    let mut rooms = rooms.iter().map(|one| one.room).peekable();
    for one in shown {
        if rooms.next_if_eq(&one.room).is_some() {
            *part(&mut one.now) = Upto::Live;
        } else if let Some(since) = since {
            part(&mut one.now).stop_at(since);
        }
    }
}
